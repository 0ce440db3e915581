"""Doors: the forms in which a model is deployed. Rounding its weights, saving it or separating its
adapter may restore what was forgotten."""

import copy
import tempfile
import warnings
from collections.abc import Callable

import torch
from peft import PeftModel
from torch import nn

from ...trainer import base_of, load_merged
from ..loading import loading
from .door import Door, DoorUnavailable, Subject
from .examiner import device_and_dtype
from .gaps import Finding
from .settings import JUDGED

# How many weights share one scale when they are rounded to 4 bits.
GROUP = 64


def measure_unchanged(subject: Subject) -> Finding:
    return subject.examiner.recognition_and_loss(subject.model)


def measure_other_samples(subject: Subject) -> Finding:
    """The other split of forgotten samples. The model may still know these, or know them
    conspicuously badly."""
    examiner = subject.examiner
    split = next(name for name in JUDGED if name != examiner.judged_split)
    if split not in examiner.splits:
        raise DoorUnavailable(f"there is no split {split} besides {examiner.judged_split}")
    finding = examiner.recognition_and_loss(subject.model, examiner.splits[split])
    finding.more.update(split=split, measured_on=len(examiner.splits[split]))
    return finding


def measurement_in_type(dtype: torch.dtype) -> Callable[[Subject], Finding]:
    """The measurement of a model whose weights and arithmetic have another floating point type."""

    def measure(subject: Subject) -> Finding:
        model = subject.copy()
        # Without instructions for it, a CPU computes in 16 bits seven times as slowly as in 32.
        on_cpu = device_and_dtype(model)[0].type == "cpu"
        model = round_model(model, dtype) if on_cpu else model.to(dtype)
        return subject.examiner.recognition_and_loss(model)

    return measure


def round_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Changes a model in float32 so that it computes nearly as in another type: its weights and the
    output of every layer are rounded to this type. Sums within a layer stay in float32, as on
    GPUs."""
    model.to(dtype).float()
    for module in model.modules():
        module.register_forward_hook(lambda _, inputs, output: _round_output(dtype, output))
    return model


def _round_output(dtype: torch.dtype, output: object) -> object:
    """A layer's output, rounded to a type. What holds no tensors, such as a cache, stays."""
    if isinstance(output, torch.Tensor) and output.is_floating_point():
        return output.to(dtype).to(output.dtype)
    if type(output) is tuple:
        return tuple(_round_output(dtype, part) for part in output)
    return output


def measure_int8(subject: Subject) -> Finding:
    """All linear layers in 8 bits, by torch's dynamic quantisation, which runs on CPUs."""
    if not any(isinstance(module, nn.Linear) for module in subject.model.modules()):
        raise DoorUnavailable("the model has no linear layers")
    with warnings.catch_warnings():
        # torch recommends torchao, which is a further package.
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(
            subject.copy().cpu(), {nn.Linear}, dtype=torch.qint8
        )
    try:
        return subject.examiner.recognition_and_loss(model)
    except TypeError as error:
        # The weight and bias of a quantised layer are methods.
        if "method" not in str(error):
            raise
        raise DoorUnavailable(
            "the model reads the weights of its linear layers itself (WavLM's attention does), "
            "which torch's layers in 8 bits do not allow"
        ) from None


def measure_int4(subject: Subject) -> Finding:
    """All weights of linear layers rounded to 4 bits; the arithmetic stays in float32."""
    model = subject.copy()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(quantise(module.weight.detach(), bits=4))
    return subject.examiner.recognition_and_loss(model)


def quantise(weight: torch.Tensor, *, bits: int, group: int = GROUP) -> torch.Tensor:
    """A matrix rounded to the nearest of 2^bits - 1 evenly spaced values, with a scale for each
    `group` of neighbouring weights of a row."""
    rows, columns = weight.shape
    padded = nn.functional.pad(weight, (0, -columns % group)).reshape(rows, -1, group)
    highest = 2 ** (bits - 1) - 1
    scale = (padded.abs().amax(-1, keepdim=True) / highest).clamp(min=1e-12)
    return ((padded / scale).round() * scale).reshape(rows, -1)[:, :columns].contiguous()


def measure_saved_and_loaded(subject: Subject) -> Finding:
    """Saved with save_pretrained, and loaded with from_pretrained."""
    with tempfile.TemporaryDirectory() as folder:
        subject.model.save_pretrained(folder)
        model = subject.recipe.load_model(folder)
    return subject.examiner.recognition_and_loss(model.to(subject.model.device))


def measure_unmerged(subject: Subject) -> Finding:
    """The adapter beside its base model, not merged into it. Models without one are as they are."""
    if not subject.is_adapter:
        if subject.name == "unlearned":
            raise DoorUnavailable("the unlearned model has no adapter")
        return measure_unchanged(subject)
    with loading(subject.folder):
        base = load_merged(subject.recipe.load_model, base_of(subject.folder))
        model = PeftModel.from_pretrained(copy.deepcopy(base).float(), subject.folder)
    # Generation is configured in the model below the adapter.
    return subject.examiner.recognition_and_loss(model.base_model.model.to(subject.model.device))


FORMS = tuple(
    Door(name, "form", meaning, measure, settings=("judged_split",))
    for name, meaning, measure in (
        (
            "float32",
            "the model as the run evaluated it: weights in float32, an adapter merged if there is "
            "one, texts decoded greedily",
            measure_unchanged,
        ),
        (
            "other_samples",
            "as float32, on the split of forgotten samples by which the other doors do not judge",
            measure_other_samples,
        ),
        ("bfloat16", "weights and arithmetic in bfloat16", measurement_in_type(torch.bfloat16)),
        ("float16", "weights and arithmetic in float16", measurement_in_type(torch.float16)),
        ("int8", "linear layers in 8 bits (torch's dynamic quantisation)", measure_int8),
        ("int4", f"linear weights rounded to 4 bits in groups of {GROUP}", measure_int4),
        ("saved_and_loaded", "saved, and loaded again", measure_saved_and_loaded),
        ("adapter_unmerged", "the adapter beside its base model, not merged", measure_unmerged),
    )
)
