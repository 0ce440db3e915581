"""Models and data of the runs that are compared between one process and two."""

import os
import types

import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.models.whisper.modeling_whisper import WhisperDecoderLayer, WhisperEncoderLayer

from tests.support.tiny import tiny_whisper


def place() -> tuple[int, int]:
    """The number of this process, and how many there are; read when it is called, because this
    module may have been imported before the processes were started."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class Later(TrainerCallback):
    """Notes whether the last process has taken its first step."""

    now = False

    def on_step_begin(self, args, state, control, **kwargs):
        process, processes = place()
        Later.now = state.global_step > 0 and process == processes - 1


def slow_later():
    return with_slow_parameter(at_once=False)


def with_slow_parameter(at_once: bool = True):
    """A bias that no rule covers, because it meets the samples in a list of tensors.

    at_once: from the first step on; else on the last process only, after its first step.
    """

    def forward(self, x):
        y = torch.nn.functional.layer_norm(x, self.normalized_shape)
        if not at_once and not Later.now:
            return y * self.weight + self.bias
        return y * self.weight + torch.stack([self.bias, (y * 0).sum((0, 1))]).sum(0)

    model = short()
    norm = model.model.encoder.layer_norm
    norm.forward = types.MethodType(forward, norm)
    return model


def short():
    """One layer of each kind is enough for most cases."""
    return tiny_whisper(**SHORT)


def random_layers():
    return tiny_whisper(
        encoder_layers=2,
        decoder_layers=2,
        dropout=0.3,
        encoder_layerdrop=0.5,
        decoder_layerdrop=0.5,
    )


def in_shards(model, **options):
    """FSDP2 set up by hand: a group for each layer, and everything else (with Whisper's tied
    weights) in the outermost one."""
    if place()[1] > 1:
        for layer in [
            m for m in model.modules() if isinstance(m, (WhisperEncoderLayer, WhisperDecoderLayer))
        ]:
            fully_shard(layer, **options)
        fully_shard(model, **options)
    return model


def sharded():
    """The lines of some parameters do not divide evenly over the processes, or there is only one,
    so that one process has none."""
    return in_shards(tiny_whisper(**SHORT, vocab_size=61, encoder_ffn_dim=33, decoder_ffn_dim=1))


def sharded_bfloat16():
    return in_shards(short(), mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))


def sharded_lora():
    return in_shards(get_peft_model(short(), LORA))


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def broken(samples):
    samples[1]["input_features"][0, 0] = torch.nan
    return samples


def streamed(samples):
    """An iterable dataset, whose labels have one length because accelerate concatenates the batches
    of all processes."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from ({**sample, "labels": sample["labels"][:2]} for sample in samples)

    return Stream()


LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


SHORT = {"encoder_layers": 1, "decoder_layers": 1}
