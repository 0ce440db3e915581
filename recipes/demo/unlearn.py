"""The demo: synthesises voices, trains a small Whisper on them, and makes it forget one voice.
Offline, in minutes on a CPU.

    make demo
    hf-unlearn run recipes/demo/demo.yaml --forget_speakers clara --retain_size 400

Everything but the voices is the recipe whisper_librispeech, with all its options.
"""

from pathlib import Path

from voices import write_voices

from hf_unlearn import UnlearnConfig
from hf_unlearn.data.speech import SpeechArguments
from hf_unlearn.experiments import parse, run_script
from hf_unlearn.experiments.speech.options import WhisperArguments
from hf_unlearn.experiments.speech.whisper import main as unlearn
from hf_unlearn.experiments.waiting import main_process_first


def main(argv: list[str]) -> None:
    _, data, args = parse((WhisperArguments, SpeechArguments, UnlearnConfig), argv)
    with main_process_first(args):
        # The voices are always the same, so those of an earlier run are used.
        if not Path(data.dataset).exists():
            write_voices(data.dataset)
    unlearn(argv)


if __name__ == "__main__":
    run_script(main, __file__)
