"""Makes a classifier of speech (keywords, intents, speakers) forget a speaker, a class or
single recordings.

    hf-unlearn run recipes/speech_classification/fsdd_keywords.yaml
    hf-unlearn run recipes/speech_classification/fsdd_speakers.yaml --forget_speakers lucas
    hf-unlearn run recipes/speech_classification/wav2vec2_fsc.yaml

`output_dir` then holds the unlearned model with its card, `results.json`, `forgetting.png` and
`report.html`. `--help` lists all options: those of the recipe (SpeechClassRecipeArguments), the
data (SpeechClassArguments) and the trainer (UnlearnConfig). Across several GPUs: `accelerate launch
recipes/speech_classification/unlearn.py recipes/speech_classification/wav2vec2_fsc.yaml`.
"""

from hf_unlearn.experiments import run_script
from hf_unlearn.experiments.speech.classes import main

if __name__ == "__main__":
    run_script(main, __file__)
