"""The output folder of a finished run."""

import pytest

from hf_unlearn.report.results import Results
from tests.hub.trained_models import SPEAKER
from tests.support.tiny import tiny_whisper


@pytest.fixture
def finished(tmp_path):
    """The output folder of a recipe that forgot SPEAKER."""
    folder = tmp_path / f"without_{SPEAKER}"
    model = tiny_whisper()
    model.save_pretrained(folder)
    metrics = {"samples": 4, "loss": 1.5, "wer": 81.25, "wer_low": 70.0, "wer_high": 90.0}
    Results.from_dict(
        {
            "task": "speakers",
            "config": {
                "data": {"forget_speakers": [SPEAKER]},
                "trainer": {"method": "orthograd", "output_dir": str(folder)},
            },
            "data": {
                "utterances": {"forget": 4, "retain": 6},
                "speakers": {"forget": [SPEAKER], "retain": ["boris"]},
                "forget_ids": [f"{SPEAKER}-0001"],
                "retain_ids": ["boris-0001"],
            },
            "seed": 0,
            "environment": None,
            "original": {"forget": metrics},
            "unlearned": {"forget": metrics},
            "retrained": None,
            "stopping": None,
            "command": f"/home/somebody/unlearn.py x.yaml --forget_speakers {SPEAKER} "
            f"--output_dir {folder}",
            "card": {
                "datasets": ["openslr/librispeech_asr"],
                "language": "en",
                "model_name": "quiet",
            },
        },
    ).write(folder)
    return folder
