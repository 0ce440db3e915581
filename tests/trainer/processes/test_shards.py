"""Models in FSDP2 shards, in a group of one process: what is refused, and why. `test_processes.py`
has tests with two processes."""

import types

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.fsdp import fully_shard

from hf_unlearn.methods import Method
from hf_unlearn.per_sample.shards import gather_to_main, own_parameters
from tests.support.tiny import make_trainer, tiny_whisper

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def in_shards(whole: bool = True):
    """A tiny Whisper in shards, or with one layer in shards."""
    model = tiny_whisper(encoder_layers=1, decoder_layers=1)
    fully_shard(model.model.decoder.layers[0])
    return fully_shard(model) if whole else model


class NotForShards(Method):
    uses_retain = False


@pytest.mark.parametrize(
    ("whole", "options", "message"),
    [
        (
            False,
            {},
            "only a part is in shards does not work .* Call fully_shard.model. on the whole",
        ),
        (
            True,
            {"bf16": True},
            "bf16 together with fully_shard does not work .* call fully_shard.*mp_policy",
        ),
        (True, {"torch_compile": True}, "torch_compile"),
        (
            True,
            {"method": NotForShards()},
            "FSDP does not work .* not made for gradients in shards",
        ),
    ],
    ids=["part", "bf16", "compiled", "method"],
)
def test_what_cannot_work_is_refused_at_construction(tmp_path, whole, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(in_shards(whole), tmp_path, **options)


@pytest.mark.parametrize("method", ["orthograd", "gradient_difference"])
def test_fsdp1_is_refused_in_favour_of_fsdp2(tmp_path, monkeypatch, method):
    """With accelerate's state after a launch with fsdp_version 1."""
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(ValueError, match="FSDP1 does not work .* Use FSDP2 .fsdp_version: 2"):
        make_trainer(tiny_whisper(), tmp_path, method=method)


def test_parameters_that_need_one_pass_per_sample_are_refused_by_name(tmp_path):
    model = in_shards()
    norm = model.model.decoder.layer_norm

    def forward(self, x):
        y = torch.nn.functional.layer_norm(x, self.normalized_shape)
        return y * self.weight + torch.stack([self.bias, (y * 0).sum((0, 1))]).sum(0)

    norm.forward = types.MethodType(forward, norm)
    before = [gather_to_main(p).clone() for p in model.parameters()]
    with pytest.raises(
        ValueError, match=r"FSDP does not work .* model.decoder.layer_norm.bias \(.*\). Use DDP"
    ):
        make_trainer(model, tmp_path).train()
    assert all(torch.equal(gather_to_main(p), old) for p, old in zip(own_parameters(model), before))


def test_a_gradient_scaler_is_refused(tmp_path, monkeypatch):
    """With accelerate's state after a launch with fsdp_version 2 and fp16."""
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    monkeypatch.setattr(Accelerator, "is_fsdp2", True)
    monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")
    with pytest.raises(ValueError, match="fp16 with FSDP does not work .* Use bf16"):
        make_trainer(tiny_whisper(), tmp_path)
