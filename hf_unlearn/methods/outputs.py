"""What methods that use logits need to know about a model: its task, and which logits predict which
label."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import IGNORE_INDEX, base_model

# Suffixes of the class names of models that predict sequences.
SEQUENCE_MODELS = (
    "ForCTC",
    "ForCausalLM",
    "LMHeadModel",
    "ForConditionalGeneration",
    "ForMaskedLM",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
# Suffixes of classifiers' names. Some are configured as encoder-decoder models, such as
# WhisperForAudioClassification.
CLASSIFIERS = ("ForAudioClassification", "ForImageClassification", "ForSequenceClassification")
RETURN_LOGITS = "let its forward return them under the name `logits`"


def as_teacher(model: nn.Module) -> nn.Module:
    """The model itself, in evaluation mode and without gradients."""
    return model.requires_grad_(False).eval()


def is_causal(model: nn.Module) -> bool:
    """Whether the logits at a position predict the next label, as in decoder-only language
    models."""
    model = base_model(model)
    decodes = type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    return decodes and not _is_encoder_decoder(model)


def _is_encoder_decoder(model: nn.Module) -> bool:
    return getattr(getattr(model, "config", None), "is_encoder_decoder", False)


def refuse_ctc(model: nn.Module, method: str) -> None:
    """Raises ValueError for CTC models, whose logits belong to frames instead of labels."""
    name = type(base_model(model)).__name__
    if name.endswith("ForCTC"):
        raise ValueError(
            f"{method} compares the logits of each label, but {name} has logits of frames: use "
            "'orthograd', 'gradient_difference' or 'random_label'"
        )


def require_classification(model: nn.Module, method: str) -> None:
    """Raises ValueError for models that are known not to predict one class per sample."""
    model = base_model(model)
    name = type(model).__name__
    decodes = _is_encoder_decoder(model) and not name.endswith(CLASSIFIERS)
    if name.endswith(SEQUENCE_MODELS) or decodes:
        raise ValueError(
            f"{method} is for classification, with one class per sample, but {name} predicts "
            "sequences: use another method, such as 'gradient_difference'"
        )


def class_labels(batch: dict, method: str) -> Tensor:
    """The class numbers (k,) of a batch.

    Raises:
        ValueError: its labels are not one class number per sample.
    """
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        shape = tuple(labels.shape) if isinstance(labels, Tensor) else None
        raise ValueError(
            f"{method} is for classification: `labels` must be integers of shape (samples,), but "
            f"their shape is {shape}: give one class number per sample, or use another method"
        )
    return labels


def label_rows(logits: Tensor, labels: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Aligns logits with the labels that they predict.

    Args:
        logits: (k, V) for classes, or (k, L, V) for label tokens.
        labels: (k,) or (k, L), -100 where padded.
        causal: the logits at a position predict the next label.

    Returns:
        Logits (k, L, V), at least in float32, and labels (k, L). L is 1 for classes.

    Raises:
        ValueError: there is not one row of logits for each label.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if logits.ndim == 2:
        # (k, 1, V), (k, 1)
        logits, labels = logits[:, None], labels.reshape(-1, 1)
    elif causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    if labels.is_floating_point() or logits.ndim != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not match: this "
            "method needs one row of logits for each label; use another, such as "
            "'gradient_difference'"
        )
    return logits, labels


def distillation(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, averaged over the labels of each sample: (k,)
    (Hinton et al., arXiv 1503.02531).

    Args:
        student: logits (k, L, V).
        teacher: logits (k, L, V).
        labels: (k, L). Only used to leave out padding, which is -100.
        temperature: T.
    """
    log_p, log_q = (F.log_softmax(logits / temperature, dim=-1) for logits in (teacher, student))
    # (k, L)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    counted = labels != IGNORE_INDEX
    return temperature**2 * (divergence * counted).sum(1) / counted.sum(1).clamp_min(1)


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """log p(all labels of a sample | its input): (k,).

    Args:
        logits: (k, L, V).
        labels: (k, L), -100 where padded.
    """
    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return -losses.view(labels.shape).sum(1)


def output_logits(outputs: Any) -> Tensor:
    """The logits among the outputs of a model: by name, or the output after the loss in a tuple.

    Raises:
        ValueError: there are none.
    """
    if isinstance(outputs, dict) and isinstance(outputs.get("logits"), Tensor):
        return outputs["logits"]
    if isinstance(outputs, tuple) and len(outputs) > 1 and isinstance(outputs[1], Tensor):
        return outputs[1]
    if isinstance(outputs, dict):
        raise ValueError(
            f"this method needs the model's logits, but its outputs are {', '.join(outputs)}: "
            f"{RETURN_LOGITS}"
        )
    raise ValueError(
        f"this method needs the model's logits, but it returns a {type(outputs).__name__}: "
        f"{RETURN_LOGITS}"
    )
