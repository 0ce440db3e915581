"""What methods that look at logits have to know of a model: its task, and which logits belong to
which label."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def base_model(model: nn.Module) -> nn.Module:
    """The model inside an adapter, or the model itself."""
    return (
        model.get_base_model()
        if hasattr(model, "peft_config") and hasattr(model, "get_base_model")
        else model
    )


def is_causal(model: nn.Module) -> bool:
    """Whether the logits at one position are those of the next label, as in decoder-only language
    models."""
    config = getattr(base_model(model), "config", None)
    return type(base_model(model)).__name__.endswith(
        ("ForCausalLM", "LMHeadModel")
    ) and not getattr(config, "is_encoder_decoder", False)


def refuse_ctc(model: nn.Module, what: str) -> None:
    """Raises ValueError for CTC models, whose logits belong to frames rather than to labels."""
    if type(base_model(model)).__name__.endswith("ForCTC"):
        raise ValueError(
            f"{what} compares logits label by label, but {type(base_model(model)).__name__} has "
            "them for frames: use "
            "'orthograd', 'gradient_difference' or 'random_label'"
        )


def require_classification(model: nn.Module, what: str) -> None:
    """Raises ValueError for models that are known to be no classifiers of whole samples."""
    name, config = type(base_model(model)).__name__, getattr(base_model(model), "config", None)
    sequences = ("ForCTC", "ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM", "ForTokenClassification",
                 "ForQuestionAnswering")  # fmt: skip
    if name.endswith(sequences) or getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{what} is for classification, where a sample has one class; {name} is for sequences"
        )


def class_labels(batch: dict, what: str) -> Tensor:
    """The classes (k,) of a batch.

    Raises:
        ValueError: its labels are something else.
    """
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        shape = tuple(labels.shape) if isinstance(labels, Tensor) else None
        raise ValueError(
            f"{what} is for classification: `labels` must be whole numbers (samples,), but have "
            f"shape {shape}"
        )
    return labels


def label_rows(logits: Tensor, labels: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Logits (k, L, V) in float32 or float64 and the labels (k, L) they are for, -100 where nothing
    counts.

    Args:
        logits: (k, V) of classes, or (k, L, V) of label tokens.
        causal: the logits at one position are for the next label.

    Raises:
        ValueError: there are no logits for each label.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if logits.ndim == 2:
        logits, labels = logits[:, None], labels.reshape(-1, 1)
    elif causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    if labels.is_floating_point() or logits.ndim != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not go together: "
            "this method needs the "
            "logits of one class for each label"
        )
    return logits, labels


def distillation(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, the mean over each sample's labels: (k,) (Hinton
    et al., arXiv 1503.02531).

    Args:
        student, teacher: logits (k, L, V).
        labels: (k, L), -100 where nothing counts. (Their values do not matter.)
    """
    log_p, log_q = (F.log_softmax(logits / temperature, dim=-1) for logits in (teacher, student))
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    counted = labels != -100
    return temperature**2 * (divergence * counted).sum(1) / counted.sum(1).clamp_min(1)


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """log p(all labels of a sample | its input): (k,), from logits (k, L, V) and labels (k, L)."""
    losses = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none"
    )
    return -losses.view(labels.shape).sum(1)


def logits_of(outputs) -> Tensor:
    """The logits among a model's outputs: by name, or the first output but the loss.

    Raises:
        ValueError: there are none.
    """
    if isinstance(outputs, dict) and isinstance(outputs.get("logits"), Tensor):
        return outputs["logits"]
    if isinstance(outputs, tuple) and len(outputs) > 1 and isinstance(outputs[1], Tensor):
        return outputs[1]
    if isinstance(outputs, dict):
        raise ValueError(
            f"this method needs the model's logits, but its outputs are {', '.join(outputs)}"
        )
    raise ValueError(
        f"this method needs the model's logits, but it returns a {type(outputs).__name__}"
    )
