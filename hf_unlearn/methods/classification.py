"""Methods that only have a meaning where a sample has one class: images, or recordings with one
label."""

import contextlib
import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Preparation, Step
from .outputs import base_model, class_labels, logits_of, require_classification
from .teacher import frozen
from .weighted import WeightedSum


class Duck(WeightedSum):
    """DUCK (Cotogni et al., arXiv 2312.02052): l1 times the cosine distance of each forget sample's
    embedding to the nearest centroid of another class, + l2 CE(logits / T) on D_r.

    The embedding is what goes into the layer that gives the logits; the centroids are the means
    over the retain samples of each class, before unlearning. Stopping at the test accuracy (the
    paper's A_0) is what `stop_when` is for.

    Args:
        l1, l2: weights of the forget and of the retain part.
        temperature: of the retain part.
    """

    prepares = ("retain",)

    def __init__(self, l1: float = 1.0, l2: float = 1.4, temperature: float = 2.0):
        super().__init__(forget_weight=l1, retain_weight=l2)
        self.temperature = temperature
        self.head: nn.Module | None = None
        # (classes, d); zeros for a class without retain samples
        self.centroids: Tensor | None = None

    def check(self, model: nn.Module) -> None:
        require_classification(model, "duck")

    def prepare(self, start: Preparation) -> None:
        sums = counts = 0
        with torch.no_grad():
            for batch in start.batches("retain"):
                labels = class_labels(batch, "duck")
                self.head = self.head or find_head(start.model, partial(start.logits, batch))
                with inputs_of(self.head) as embeddings:
                    classes = start.logits(batch).shape[-1]
                chosen = F.one_hot(labels, classes).to(embeddings[0].dtype)
                sums, counts = sums + chosen.T @ torch.cat(embeddings), counts + chosen.sum(0)
        sums, counts = start.total(sums), start.total(counts)
        if (counts > 0).sum() < 2:
            raise ValueError(
                "duck needs retain samples of at least two classes: it moves "
                "embeddings to another class"
            )
        self.centroids = sums / counts.clamp_min(1)[:, None]

    def forget_objective(self, step: Step) -> Tensor:
        batch = step.forget_batch
        with inputs_of(self.head) as embeddings:
            step.logits(batch)
        similar = (
            F.normalize(torch.cat(embeddings).float(), dim=1)
            @ F.normalize(self.centroids.float(), dim=1).T
        )
        own = F.one_hot(class_labels(batch, "duck"), len(self.centroids)).bool()
        others = similar.masked_fill(own | (self.centroids == 0).all(1), -torch.inf)
        return (1 - others.amax(1)).mean() * step.forget_weight

    def retain_objective(self, step: Step) -> Tensor:
        logits, labels = step.logits(step.retain_batch), class_labels(step.retain_batch, "duck")
        return F.cross_entropy(logits.float() / self.temperature, labels) * step.retain_weight


def find_head(model: nn.Module, run) -> nn.Module:
    """The linear layer whose output is what `run()` gives as the logits.

    Raises:
        ValueError: there is none.
    """
    outputs: list[tuple[nn.Module, Tensor]] = []
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [
        layer.register_forward_hook(lambda layer, _, output: outputs.append((layer, output)))
        for layer in layers
    ]
    try:
        logits = run()
    finally:
        for handle in handles:
            handle.remove()
    width = logits.shape[-1]
    for layer, output in reversed(outputs):
        if output.shape[-1] == width and torch.equal(output.reshape(-1, width)[-1:], logits[-1:]):
            return layer
    raise ValueError(
        "duck needs a linear layer that gives the logits, and found none: its input "
        "is the embedding"
    )


@contextlib.contextmanager
def inputs_of(layer: nn.Module):
    """Within this context, the list that it gives collects the layer's inputs (k, d)."""
    collected: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, inputs, output: collected.append(inputs[0]))
    try:
        yield collected
    finally:
        handle.remove()


class BoundaryShrink(WeightedSum):
    """Boundary shrink (Chen et al., CVPR 2023, arXiv 2303.11570): the forget samples get the class
    that the original model sees in their neighbour across the boundary, x + step sign(gradient of
    the loss by x) (FGSM), and are trained on it. No retain samples are needed.

    Args:
        bound: the step as a share of the range of values in the forget data. Published for images
            in [0, 1], where this is the step itself; normalised images and sounds have another
            range, from which neighbours are not led out either.
    """

    prepares = ("forget",)

    def __init__(self, bound: float = 0.1):
        super().__init__(forget_weight=1.0, retain_weight=0.0)
        self.bound, self.teacher = bound, None
        self.low = self.high = 0.0

    def check(self, model: nn.Module) -> None:
        require_classification(model, "boundary_shrink")

    def prepare(self, start: Preparation) -> None:
        self.teacher = frozen(copy.deepcopy(start.model))
        values = [batch[self._input(batch)] for batch in start.batches("forget", shared=False)]
        self.low, self.high = (
            min(float(x.min()) for x in values),
            max(float(x.max()) for x in values),
        )

    def forget_objective(self, step: Step) -> Tensor:
        labels = self.neighbours(step.forget_batch)
        return step.forget_loss({**step.forget_batch, "labels": labels})

    def neighbours(self, batch: dict) -> Tensor:
        """The classes (k,) that the original model sees across the boundary."""
        labels, name = class_labels(batch, "boundary_shrink"), self._input(batch)
        with torch.enable_grad():
            x = batch[name].detach().clone().requires_grad_(True)
            logits = logits_of(self.teacher(**{**batch, name: x}))
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits.float(), labels), x)
        with torch.no_grad():
            moved = (x + self.bound * (self.high - self.low) * gradient.sign()).clamp(
                self.low, self.high
            )
            return logits_of(self.teacher(**{**batch, name: moved})).argmax(-1)

    def _input(self, batch: dict) -> str:
        name = getattr(base_model(self.teacher), "main_input_name", None)
        if name not in batch:
            name = next(
                (
                    key
                    for key, x in batch.items()
                    if isinstance(x, Tensor) and x.is_floating_point()
                ),
                name,
            )
        if name not in batch or not batch[name].is_floating_point():
            raise ValueError(
                "boundary_shrink moves inputs by their gradient, so these must be images or sound, "
                "not tokens"
            )
        return name
