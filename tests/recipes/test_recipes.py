"""Runs the speech recipes of recipes.csv through their command lines, for a few steps on a few
samples."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor, pipeline
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from hf_unlearn.experiments.speech.augmentation import AugmentedSpeech
from hf_unlearn.metrics import ATTACKS
from tests.support.forks import run_script
from tests.support.helpers import ROOT, assert_drawn, launch, real_data

RECIPE = ROOT / "recipes" / "whisper_librispeech"
ROWS = [
    row
    for row in csv.DictReader((Path(__file__).parent / "recipes.csv").open())
    if row["task"] == "speakers"
]
TINY = (
    "--train_steps 2 --train_batch_size 2 --d_model 16 --layers 1 --heads 2 --max_steps 2 "
    "--retain_size 2 --per_device_train_batch_size 2 --per_device_retain_batch_size 2 "
    "--max_eval_samples 2 --check_steps 1 --check_samples 2 --disable_tqdm true --use_cpu true "
    # the rules of the configurations hold for models that have learned nothing
    "--stop_when forget_loss>=1000 --abort_when test_loss>1000"
).split()


@pytest.fixture(scope="session")
def voices(tmp_path_factory) -> Path:
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("recipes") / "voices"
    run_script(ROOT / "recipes/demo/voices.py", folder, "--voices", 3, "--train", 4, "--test", 2)
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipes") / "digits"
    run_script(RECIPE / "connected_digits.py", real_data("fsdd"), folder, "--train", 3, "--test", 2)
    return folder


@pytest.fixture
def data(request) -> Path:
    name = request.param
    return real_data(name) if name == "LibriSpeech" else request.getfixturevalue(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "data"),
    [(row, row["data"]) for row in ROWS],
    ids=[row["name"] for row in ROWS],
    indirect=["data"],
)
def test_a_recipe_runs_and_leaves_all_it_promises(row, data, tmp_path):
    out = tmp_path / "out"
    own = row["flags"].split()
    if "REAL_TOKENIZER" in own:
        own[own.index("REAL_TOKENIZER")] = real_data("whisper-tiny-no-weights")
    flags = [*TINY, *own, "--dataset", data, "--output_dir", out]
    command, two = (row["script"], row["config"], *flags), row["name"] == "two_processes"
    # Two rows by the real launchers.
    if two or row["name"] == "demo":
        shown = launch(*command, two_processes=two).stdout
    else:
        shown = run_script(*command).stdout

    results = json.loads((out / "results.json").read_text())
    splits = {"forget", "forget_test", "retain", "test"}
    assert set(results["original"]) == set(results["unlearned"]) == splits
    assert (
        results["retrained"] is None
        if "--gold none" in row["flags"]
        else set(results["retrained"]) == splits
    )
    attacks = {
        name for name in ATTACKS if "--shadow_models" in row["flags"] or not name.startswith("lira")
    }
    for model in ("original", "unlearned"):
        assert set(results["attacks"][model]) == attacks - {"svc_probability"}
    assert any(row["step"] > 0 and "wer" in key for row in results["history"] for key in row)
    assert results["stopping"]["reason"] in ("max_steps", "target reached", "aborted")
    assert "unlearned" in shown and shown.count("WER (%)") == 1
    assert_drawn(out / "forgetting.png")
    card = (out / "README.md").read_text()
    assert (
        card.startswith("---")
        and "loss_tpr_at_lowest_fpr" in card
        and "loss_tpr_at_lowest_fpr" in shown
    )
    assert_transcribes(out, out / "original", data)


def assert_transcribes(model: Path, original: Path, data: Path) -> None:
    """Plain `from_pretrained` (of peft's adapter too) and the pipeline take what was saved."""
    if (model / "adapter_config.json").exists():
        assert json.loads((model / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ] == str(original)
    loaded = WhisperForConditionalGeneration.from_pretrained(model)
    processor = WhisperProcessor.from_pretrained(model)
    recogniser = pipeline(
        "automatic-speech-recognition",
        model=loaded,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    samples, rate = soundfile.read(next(data.rglob("*.flac")), dtype="float32")
    assert isinstance(recogniser({"raw": samples, "sampling_rate": rate})["text"], str)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--forget_speakers", "brunno"], "unknown speaker 'brunno'"),
        (
            [
                *("--forget_speakers", "bruno", "--gold", "none"),
                *("--stop_when", "forget_wer >= retrained"),
            ],
            "needs the retrained model",
        ),
        (["--forget_speakers", "bruno", "--learnin_rate", "1"], "--learnin_rate"),
    ],
    ids=["speaker", "rule", "option"],
)
def test_a_mistake_is_answered_in_one_line(voices, flags, message, tmp_path):
    flags = ["--dataset", voices, "--output_dir", tmp_path / "out", *TINY, *flags]
    done = run_script(
        ROOT / "recipes/demo/unlearn.py", ROOT / "recipes/demo/demo.yaml", *flags, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


class TestAugmented:
    # 1 starts the decoder, 2 ends the text
    LABELS = [1, 4, 5, 6, 2]

    def row(self, **options) -> dict:
        processor = SimpleNamespace(tokenizer=SimpleNamespace(all_special_ids=[0, 1, 2]))
        config = SimpleNamespace(decoder_start_token_id=1, eos_token_id=2)
        features = np.concatenate([np.ones((2, 30)), np.zeros((2, 70))], axis=1)
        rows = [{"input_features": features, "duration": 0.3, "labels": self.LABELS}]
        return AugmentedSpeech(rows, processor, config, **options)[0]

    def test_without_hidden_words_the_decoder_reads_what_the_model_would_give_it(self):
        row = self.row(hidden=0.0, shift=0)
        # the collator cuts the start token
        shifted = shift_tokens_right(torch.tensor([self.LABELS[1:]]), 0, 1)
        assert row["decoder_input_ids"].tolist() == shifted[0].tolist()
        assert (row["input_features"][:, :30] == 1).all() and (
            row["input_features"][:, 30:] == 0
        ).all()

    def test_all_words_hidden_and_the_audio_later(self):
        starts = set()
        for _ in range(20):
            row = self.row(hidden=1.0, shift=1000)
            assert row["decoder_input_ids"].tolist() == [1, 2, 2, 2]
            assert (
                row["input_features"].sum() == 60
                and np.ptp(np.flatnonzero(row["input_features"][0])) == 29
            )
            starts.add(int(row["input_features"][0].argmax()))
        # nothing of the utterance comes round to the beginning
        assert len(starts) > 5 and max(starts) <= 70


def test_voices_depend_on_the_seed_only(voices, tmp_path):
    run_script(ROOT / "recipes/demo/voices.py", tmp_path, "--voices", 3, "--train", 4, "--test", 2)
    files = sorted(path.relative_to(voices) for path in voices.rglob("*.*"))
    assert len(files) == 1 + 3 * (4 + 2)
    assert all((voices / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_connected_digits_keep_train_and_test_takes_apart(digits):
    rows = list(csv.DictReader((digits / "metadata.csv").open()))
    assert {(row["split"], len(row["text"].split()) in (3, 4, 5)) for row in rows} == {
        ("train", True),
        ("test", True),
    }
    assert len(rows) == 6 * (3 + 2)
