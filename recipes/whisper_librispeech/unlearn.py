"""Makes a Whisper model forget speakers, and measures what is forgotten and what is kept.

    accelerate launch recipes/whisper_librispeech/unlearn.py recipes/whisper_librispeech/whisper_tiny.yaml
    accelerate launch recipes/whisper_librispeech/unlearn.py recipes/whisper_librispeech/whisper_tiny.yaml \
        --forget_speakers 103 --method gradient_difference --alpha 0.8 --output_dir out/difference
    accelerate launch recipes/whisper_librispeech/unlearn.py recipes/whisper_librispeech/fsdd_digits.yaml --gold none

`output_dir` then holds the unlearned model with its card, `results.json`, `forgetting.png` and
`report.html`. `--help` lists all
options: the recipe's (WhisperArguments), the data's (SpeechArguments) and the trainer's
    (UnlearnConfig).
"""

from hf_unlearn.experiments import run_script
from hf_unlearn.experiments.speech import main

if __name__ == "__main__":
    run_script(main, __file__)
