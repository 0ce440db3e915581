"""Makes a CTC speech recogniser (wav2vec 2.0, HuBERT, WavLM, Parakeet) forget speakers, and
measures what is forgotten and what is kept.

    hf-unlearn run recipes/ctc_librispeech/fsdd_digits.yaml
    hf-unlearn run recipes/ctc_librispeech/fsdd_digits.yaml --forget_speakers lucas
    hf-unlearn run recipes/ctc_librispeech/wav2vec2_base.yaml --forget_speakers 103

`output_dir` then holds the unlearned model with its card, `results.json`, `forgetting.png` and
`report.html`. `--help` lists all options: those of the recipe (CtcArguments), the data
(SpeechArguments) and the trainer (UnlearnConfig). Across several GPUs: `accelerate launch
recipes/ctc_librispeech/unlearn.py recipes/ctc_librispeech/wav2vec2_base.yaml`.
"""

from hf_unlearn.experiments import run_script
from hf_unlearn.experiments.speech.ctc import main

if __name__ == "__main__":
    run_script(main, __file__)
