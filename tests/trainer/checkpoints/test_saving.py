"""Saving a module of the user's own, and the messages when saving fails."""

import copy
import errno

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_model
from transformers import default_data_collator

from hf_unlearn.hub.upload import HubError, hub_failures
from hf_unlearn.trainer.checkpoints.checkpoint_files import explaining_failures
from tests.support.tiny import make_trainer


class Tied(torch.nn.Module):
    """A module of the user's own whose last layer shares the weights of its first."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(12, 8)
        self.head = torch.nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids, labels):
        logits = self.head(self.embed(input_ids))
        return {
            "loss": torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels),
            "logits": logits,
        }


def tied_trainer(folder, **config):
    rows = [
        {"input_ids": torch.arange(4) + i, "labels": (torch.arange(4) + i) % 12} for i in range(6)
    ]
    config = {
        "per_device_train_batch_size": 2,
        "max_steps": 3,
        "save_strategy": "steps",
        "save_steps": 1,
        **config,
    }
    return make_trainer(
        Tied(), folder, forget=rows[:3], retain=rows[3:], collator=default_data_collator, **config
    )


def test_a_module_with_tied_weights_is_saved_and_resumes(tmp_path):
    """safetensors refuses to save a tensor twice; its error was once reported as a full disk."""
    straight = tied_trainer(tmp_path / "straight")
    start = copy.deepcopy(straight.model.state_dict())
    straight.train()
    straight.save_model()
    loaded = Tied()
    load_model(loaded, tmp_path / "straight" / "model.safetensors")
    assert torch.equal(loaded.head.weight, straight.model.head.weight)
    again = tied_trainer(tmp_path / "again")
    again.model.load_state_dict(start)
    again.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-2"))
    assert torch.equal(again.model.embed.weight, straight.model.embed.weight)
    assert again.model.embed.weight is again.model.head.weight


def test_other_errors_are_not_reported_as_a_full_disk(tmp_path, monkeypatch):
    """The message comes once, although saving a checkpoint includes saving a model."""

    def broken(*_, **__):
        raise RuntimeError("this layer\n cannot be written")

    trainer = tied_trainer(tmp_path)
    monkeypatch.setattr(trainer.model, "state_dict", broken)
    with pytest.raises(OSError, match="this layer cannot be written") as raised:
        trainer.train()
    assert "Make room" not in str(raised.value) and str(raised.value).count("could not save") == 1
    with (
        pytest.raises(OSError, match="Permission denied") as raised,
        explaining_failures(tmp_path, tmp_path),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert "Make room" not in str(raised.value)
    with pytest.raises(OSError, match="Make room"), explaining_failures(tmp_path, tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_unreadable_file_is_not_reported_as_an_error_of_the_hub(tmp_path):
    with (
        pytest.raises(HubError, match="Permission denied.*not the Hub's fault"),
        hub_failures("me/model", tmp_path),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "model.safetensors")
    with pytest.raises(HubError, match="push again later"), hub_failures("me/model", tmp_path):
        raise ConnectionError("reset by peer")


def test_an_error_of_ours_is_not_reported_as_an_error_of_the_hub(tmp_path):
    for error in (TypeError("an argument too many"), ValueError("a bug"), KeyError("model")):
        with pytest.raises(type(error)) as raised, hub_failures("me/model", tmp_path):
            raise error
        assert raised.value is error
    with pytest.raises(TypeError, match="folder"), hub_failures("me/model", tmp_path):
        HfApi().upload_folder(folder="out", repo_id="me/model")
