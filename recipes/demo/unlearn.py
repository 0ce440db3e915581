"""The demo: synthesises voices and makes a small Whisper forget one of them, offline, in minutes on
a CPU.

    make demo
    accelerate launch recipes/demo/unlearn.py recipes/demo/demo.yaml --forget_speakers clara --retain_size 400

Everything but the voices is the recipe `whisper_librispeech`, with all its options.
"""

import sys
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(RECIPES / "whisper_librispeech"))

from unlearn import main as unlearn  # noqa: E402
from voices import write_voices  # noqa: E402

from hf_unlearn import UnlearnConfig  # noqa: E402
from hf_unlearn.data.speech.samples import SpeechArguments  # noqa: E402
from hf_unlearn.experiments import parse, run  # noqa: E402
from hf_unlearn.experiments.speech import WhisperArguments  # noqa: E402
from hf_unlearn.experiments.waiting import main_process_first  # noqa: E402


def main(argv: list[str]) -> None:
    _, data, args = parse((WhisperArguments, SpeechArguments, UnlearnConfig), argv)
    with main_process_first(args):
        # the same seed gives the same voices: those of an earlier run will do
        if not Path(data.dataset).exists():
            write_voices(data.dataset)
    unlearn(argv)


if __name__ == "__main__":
    run(main, __file__)
