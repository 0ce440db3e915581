"""Trains the original model of an unlearning run, or the retrained model, with the plain
Seq2SeqTrainer.

    python recipes/whisper_librispeech/train.py recipes/whisper_librispeech/fsdd_digits.yaml
    ... --without_forget true      # the retrained model, without the forgotten speakers

The models are saved to `original` and `retrained` in `output_dir`, load with plain
`from_pretrained`, and work in `pipeline("automatic-speech-recognition", ...)`. For `model: train`
and `gold: train`, `unlearn.py` trains them itself.
"""

from hf_unlearn.experiments import run_script
from hf_unlearn.experiments.speech.options import WhisperArguments
from hf_unlearn.experiments.speech.recogniser import train_alone
from hf_unlearn.experiments.speech.whisper import WhisperRecipe


def main(argv: list[str]) -> None:
    train_alone(argv, WhisperArguments, WhisperRecipe)


if __name__ == "__main__":
    run_script(main, __file__)
