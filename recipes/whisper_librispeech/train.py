"""Trains the original model of an unlearning run, or its retrained reference, with the plain
Seq2SeqTrainer.

    python recipes/whisper_librispeech/train.py recipes/whisper_librispeech/fsdd_digits.yaml
    ... --without_forget true      # the reference, trained without the forgotten speakers

The models are saved to `original` and `retrained` in `output_dir`, load with plain
`from_pretrained`, and work in `pipeline("automatic-speech-recognition", ...)`. For `model: train`
and `gold: train`, `unlearn.py` trains them itself.
"""

from hf_unlearn import UnlearnConfig
from hf_unlearn.data.speech import SpeechArguments
from hf_unlearn.experiments import ReferenceArguments, parse, run_script, train
from hf_unlearn.experiments.speech.options import WhisperArguments
from hf_unlearn.experiments.speech.whisper import WhisperRecipe


def main(argv: list[str]) -> None:
    kinds = (WhisperArguments, SpeechArguments, UnlearnConfig, ReferenceArguments)
    options, data, args, reference = parse(kinds, argv)
    options.model = "train"
    recipe = WhisperRecipe(options, data, args, training=True)
    train(recipe, "retrained" if reference.without_forget else "original")


if __name__ == "__main__":
    run_script(main, __file__)
