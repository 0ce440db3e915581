"""Makes a Whisper model forget speakers, and measures what is forgotten and what is kept.

    hf-unlearn run recipes/whisper_librispeech/whisper_tiny.yaml
    hf-unlearn run recipes/whisper_librispeech/whisper_tiny.yaml \
        --forget_speakers 103 --method gradient_difference --alpha 0.8 --output_dir out/difference
    hf-unlearn run recipes/whisper_librispeech/fsdd_digits.yaml --gold none \
        --stop_when "forget_wer >= 50"

`output_dir` then holds the unlearned model with its card, `results.json`, `forgetting.png` and
`report.html`. `--help` lists all options: those of the recipe (WhisperArguments), the data
(SpeechArguments) and the trainer (UnlearnConfig). Across several GPUs: `accelerate launch
recipes/whisper_librispeech/unlearn.py recipes/whisper_librispeech/whisper_tiny.yaml`.
"""

from hf_unlearn.experiments import run_script
from hf_unlearn.experiments.speech.whisper import main

if __name__ == "__main__":
    run_script(main, __file__)
