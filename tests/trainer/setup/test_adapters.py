"""An output folder holds the model that its results describe, whatever was in it before: whole
models, adapters, or both in turn."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import WhisperForConditionalGeneration

from hf_unlearn.experiments.recipe import adapted
from hf_unlearn.trainer.checkpoints.weight_files import remove_other_weights
from hf_unlearn.trainer.setup import adapters
from hf_unlearn.trainer.setup.adapters import base_of, keep_merged, load_merged, whole_base_of
from tests.support.tiny import RETAIN, collate, make_trainer, tiny_whisper

BATCH = collate(RETAIN)
load = WhisperForConditionalGeneration.from_pretrained


def lora(**options) -> dict:
    return {"peft_config": LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **options)}


def logits(model) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(**BATCH).logits


@pytest.fixture
def start(tmp_path) -> Path:
    tiny_whisper(encoder_layers=1, decoder_layers=1).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def request(name: Path, folder: Path, kind: str):
    """A run as recipes make it: an adapter is merged first, and the result is kept if a new adapter
    refers to it.

    Returns:
        the trainer, and the logits of the model that it started from.
    """
    model = load_merged(load, str(name))
    before = logits(model)
    if kind == "lora" and base_of(str(name)):
        keep_merged(model, str(folder), main=True)
    arguments = lora() if kind == "lora" else {}
    trainer = make_trainer(
        model, folder, optimizer=False, learning_rate=0.05, max_steps=2, arguments=arguments
    )
    trainer.train()
    trainer.save_model()
    # otherwise it would not matter which model the folder holds
    assert not torch.allclose(logits(trainer.model), before, atol=0.05)
    return trainer, before


@pytest.mark.parametrize("same", [True, False], ids=["same folder", "other folder"])
@pytest.mark.parametrize(
    "kinds",
    [
        ("full", "lora"),
        ("lora", "full"),
        ("lora", "lora", "lora"),
        ("full", "lora", "lora"),
        ("full", "full"),
    ],
    ids="-".join,
)
def test_a_request_after_another_leaves_the_model_that_was_measured(start, tmp_path, kinds, same):
    name, earlier = start, logits(load(start))
    for number, kind in enumerate(kinds):
        folder = tmp_path / ("out" if same else f"out{number}")
        trainer, before = request(name, folder, kind)
        # it started from the previous model
        torch.testing.assert_close(before, earlier, atol=1e-4, rtol=1e-4)
        saved = load(folder)
        torch.testing.assert_close(logits(saved), logits(trainer.model), atol=1e-4, rtol=1e-4)
        assert (folder / "adapter_config.json").exists() == (kind == "lora")
        assert (folder / "model.safetensors").exists() == (kind == "full")
        # as peft itself loads adapters
        if kind == "lora":
            adapter_config = json.loads((folder / "adapter_config.json").read_text())
            base = load(adapter_config["base_model_name_or_path"])
            by_peft = PeftModel.from_pretrained(base, folder)
            torch.testing.assert_close(logits(by_peft), logits(trainer.model), atol=1e-4, rtol=1e-4)
        name, earlier = folder, logits(saved)


@pytest.mark.parametrize("kinds", [("lora", "full"), ("full", "lora")], ids="-".join)
def test_a_folder_used_again_for_the_same_start(start, tmp_path, kinds):
    """Another attempt from the same model leaves only its own files."""
    for kind in kinds:
        trainer, _ = request(start, tmp_path / "out", kind)
    torch.testing.assert_close(
        logits(load(tmp_path / "out")), logits(trainer.model), atol=1e-4, rtol=1e-4
    )
    assert not (tmp_path / "out" / "base").exists()


def test_a_merged_model_can_be_trained_as_its_base_could(start, tmp_path):
    request(start, tmp_path / "out", "lora")
    model, base = load_merged(load, str(tmp_path / "out")), load(start)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, p in base.named_parameters() if p.requires_grad
    }
    assert whole_base_of(str(tmp_path / "out")) == str(start) and base_of(str(start)) is None


def test_a_second_adapter_is_refused_and_another_base_is_warned_of(start, tmp_path, monkeypatch):
    request(start, tmp_path / "first", "lora")
    with pytest.raises(ValueError, match="the model has an adapter already"):
        make_trainer(load(tmp_path / "first"), tmp_path / "out", optimizer=False, arguments=lora())
    warned = []
    monkeypatch.setattr(adapters.logger, "warning", warned.append)
    request(start, tmp_path / "right", "lora")
    assert not warned
    merged = PeftModel.from_pretrained(load(start), tmp_path / "first").merge_and_unload()
    make_trainer(merged, tmp_path / "out", optimizer=False, arguments=lora()).train()
    assert (
        len(warned) == 1 and "holds weights that differ from the model being trained" in warned[0]
    )


def test_shards_of_an_earlier_save_are_removed(start, tmp_path):
    model = load(start)
    model.save_pretrained(tmp_path / "out", max_shard_size="10KB")
    assert len(list((tmp_path / "out").glob("model-*"))) > 1
    (tmp_path / "out" / "pytorch_model.bin").write_bytes(b"old")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    trainer = make_trainer(model, tmp_path / "out", optimizer=False, learning_rate=0.05)
    trainer.train()
    trainer.save_model()
    assert [path.name for path in (tmp_path / "out").glob("*model*")] == ["model.safetensors"]
    assert (tmp_path / "out" / "notes.txt").exists()
    torch.testing.assert_close(logits(load(tmp_path / "out")), logits(trainer.model))


def test_without_new_weights_nothing_is_removed(start):
    before = sorted(path.name for path in start.iterdir())
    remove_other_weights(start, {"training_args.json"})
    assert sorted(path.name for path in start.iterdir()) == before


def test_files_of_an_earlier_run_do_not_stay_beside_a_new_model(start, tmp_path):
    out = tmp_path / "out"
    first, _ = request(start, out, "full")
    first.create_model_card()
    for name in ("evaluation.json", "report.html", "forgetting.png", "best_checked.safetensors"):
        (out / name).write_text("of the first run")
    (out / "log.txt").write_text("mine")
    card = (out / "README.md").read_text()
    second = make_trainer(
        load(start), out, optimizer=False, learning_rate=0.05, method="gradient_ascent"
    )
    second.train()
    # the model that it describes is still there
    assert (out / "results.json").exists()
    (out / "report.html").write_text("of this run")
    second.save_model()
    left = {path.name for path in out.iterdir()}
    assert not left & {
        "results.json",
        "evaluation.json",
        "forgetting.png",
        "best_checked.safetensors",
        "README.md",
    }
    assert (out / "README.earlier.md").read_text() == card and (
        out / "report.html"
    ).read_text() == "of this run"
    second.create_model_card()
    second.save_model()
    assert "method `gradient_ascent`" in (out / "README.md").read_text()
    assert json.loads((out / "results.json").read_text())["method_settings"] == {}


def test_trainable_says_which_layers_get_an_adapter(start):
    model, targets = load(start), ["q_proj", "v_proj"]
    assert adapted(model, targets, "") == targets
    # a regular expression
    assert any(".encoder_attn." in name for name in adapted(model, targets, "encoder"))
    layers = adapted(model, targets, r"model\.encoder\.")
    assert layers and all(
        ".encoder." in name and name.endswith(("q_proj", "v_proj")) for name in layers
    )
    wrapped = make_trainer(
        model, "unused", arguments={"peft_config": LoraConfig(r=2, target_modules=layers)}
    ).model
    trained = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert trained and not [name for name in trained if "decoder" in name]
    with pytest.raises(
        ValueError, match="trainable is 'proj_out', which matches no layer of lora_target_modules"
    ):
        adapted(model, targets, "proj_out")
