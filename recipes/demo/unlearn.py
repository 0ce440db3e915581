"""The demo: synthesises voices, trains a small Whisper on them, and makes it forget one voice.
Offline, in minutes on a CPU.

    make demo
    hf-unlearn run recipes/demo/demo.yaml --forget_speakers clara --retain_size 400

Everything but the voices is the recipe whisper_librispeech, with all its options.
"""

from voices import write_voices

from hf_unlearn.experiments import run_script
from hf_unlearn.experiments.speech.whisper import main as unlearn


def main(argv: list[str]) -> None:
    # The voices are always the same, so those of an earlier run are used.
    unlearn(argv, write_voices)


if __name__ == "__main__":
    run_script(main, __file__)
