"""How fast a model learns forgotten samples again."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from ...metrics.sample_features import predicted_classes


def fine_tuning(
    model: nn.Module, backward: Callable[[], object], *, learning_rate: float, steps: int
) -> Iterator[int]:
    """Trains all parameters of a model with AdamW. There is no dropout, so that the result depends
    only on the model and the data, and BatchNorm layers keep their running statistics.

    Args:
        model: is changed: pass a copy.
        backward: computes the gradients of one step.

    Yields:
        The number of steps taken: 0, ..., `steps`.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    for step in range(steps):
        yield step
        # An evaluation between the steps may have changed the mode.
        model.eval()
        optimizer.zero_grad()
        backward()
        optimizer.step()
    yield steps


def relearning_steps(
    model: nn.Module, batch: dict, *, learning_rate: float, max_steps: int, accuracy: float = 100.0
) -> int | None:
    """Counts the steps of fine-tuning on a few forgotten samples until the model classifies them
    correctly again. A small number means that little was forgotten.

    The number to aim for is the retrained model's, which learns the samples for the first time.
    `fine_tuning` says how the model is trained.

    Args:
        model: a classifier with loss and logits. It is changed: pass a copy.
        batch: the samples, with labels (n,).
        accuracy: percent of the batch that has to be classified correctly.

    Returns:
        The number of steps, 0 if nothing has to be learned; None if `max_steps` are not enough.
    """
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items()}
    outputs, labels = {}, batch["labels"].cpu().numpy()
    model.eval()
    training = fine_tuning(
        model, lambda: outputs["loss"].backward(), learning_rate=learning_rate, steps=max_steps
    )
    for step in training:
        outputs = model(**{name: value.clone() for name, value in batch.items()})
        predicted = predicted_classes(outputs["logits"].detach().float().cpu().numpy())
        correct = int((predicted == labels).sum())
        if 100 * (correct / labels.size) >= accuracy:
            return step
    return None
