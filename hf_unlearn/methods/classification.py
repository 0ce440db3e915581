"""Methods for classification only: images, or recordings with one label."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import base_model
from .base import Preparation, Step
from .outputs import as_teacher, class_labels, output_logits, require_classification
from .weighted import WeightedSum


class Duck(WeightedSum):
    """DUCK (Cotogni et al., arXiv 2312.02052): descends

        l1 (cosine distance of each forget sample's embedding to the nearest centroid of another
            class)
        + l2 CE(logits / temperature) on D_r

    The embedding is the input of the linear layer that gives the logits. The centroid of a class is
    the mean embedding of its retain samples before unlearning. The paper stops training at the
    test accuracy A_0; use `stop_when` for that.

    Args:
        l1: weight of the distance.
        l2: weight of the cross entropy.
        temperature: of the cross entropy.

    Raises:
        ValueError: when the trainer is built, for models of sequences; when training begins, if
            the retain samples have fewer than two classes, or no linear layer gives the logits.
    """

    prepares = ("retain",)

    def __init__(self, l1: float = 1.0, l2: float = 1.4, temperature: float = 2.0):
        super().__init__(forget_weight=l1, retain_weight=l2)
        self.temperature = temperature
        self.head: nn.Module | None = None
        # (classes, d), zero for classes without retain samples
        self.centroids: Tensor | None = None

    def check(self, model: nn.Module) -> None:
        require_classification(model, "duck")

    def prepare(self, start: Preparation) -> None:
        sums = counts = torch.zeros(())
        with torch.no_grad():
            for batch in start.batches("retain"):
                labels = class_labels(batch, "duck")
                self.head = self.head or find_head(start.model, partial(start.logits, batch))
                with inputs_of(self.head) as embeddings:
                    classes = start.logits(batch).shape[-1]
                # (k, classes)
                one_hot = F.one_hot(labels, classes).to(embeddings[0].dtype)
                sums = sums + one_hot.T @ torch.cat(embeddings)
                counts = counts + one_hot.sum(0)
        sums, counts = start.total(sums), start.total(counts)
        if (counts > 0).sum() < 2:
            raise ValueError(
                "duck needs retain samples of at least two classes, because it moves embeddings to "
                "another class: add some of another class to retain_dataset"
            )
        self.centroids = sums / counts.clamp_min(1)[:, None]

    def forget_objective(self, step: Step) -> Tensor:
        with inputs_of(self.head) as embeddings:
            step.logits(step.forget_batch)
        embedding = F.normalize(torch.cat(embeddings).float(), dim=1)
        # (k, classes)
        similarity = embedding @ F.normalize(self.centroids.float(), dim=1).T
        own_class = F.one_hot(class_labels(step.forget_batch, "duck"), len(self.centroids)).bool()
        others = similarity.masked_fill(own_class | (self.centroids == 0).all(1), -torch.inf)
        return (1 - others.amax(1)).mean() * step.forget_weight

    def retain_objective(self, step: Step) -> Tensor:
        logits, labels = step.logits(step.retain_batch), class_labels(step.retain_batch, "duck")
        return F.cross_entropy(logits.float() / self.temperature, labels) * step.retain_weight


def find_head(model: nn.Module, compute_logits: Callable[[], Tensor]) -> nn.Module:
    """The linear layer of a model whose output is the logits.

    Args:
        compute_logits: runs the model and returns its logits (k, classes).

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
        logits = compute_logits()
    finally:
        for handle in handles:
            handle.remove()
    width = logits.shape[-1]
    for layer, output in reversed(outputs):
        if output.shape[-1] == width and torch.equal(output.reshape(-1, width)[-1:], logits[-1:]):
            return layer
    raise ValueError(
        "duck uses the input of the linear layer that gives the logits as the embedding, but this "
        "model has no such layer: use another method, such as 'gradient_difference'"
    )


@contextlib.contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the inputs (k, d) of a layer in a list within this context."""
    inputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, arguments, output: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        handle.remove()


class BoundaryShrink(WeightedSum):
    """Boundary shrink (Chen et al., CVPR 2023, arXiv 2303.11570): descends the loss of the forget
    samples with the labels

        argmax original(x + s sign(gradient of the loss with respect to x)),   s = bound (max - min)

    the class that the original model gives their neighbour across the decision boundary (FGSM). No
    retain samples are needed.

    max and min are the largest and smallest value in the forget data, and neighbours are clamped to
    that range. In the paper images are in [0, 1], where s = bound. Normalised images and sounds
    have another range.

    Args:
        bound: the step s as a fraction of the range of values in the forget data.

    Raises:
        ValueError: when the trainer is built, for models of sequences; when training begins, if
            the inputs are not floating point numbers.
    """

    prepares = ("forget",)

    def __init__(self, bound: float = 0.1):
        super().__init__(forget_weight=1.0, retain_weight=0.0)
        self.bound = bound
        self.low = self.high = 0.0

    def check(self, model: nn.Module) -> None:
        require_classification(model, "boundary_shrink")

    def prepare(self, start: Preparation) -> None:
        self.teacher = as_teacher(copy.deepcopy(start.model))
        batches = start.batches("forget", shared=False)
        inputs = [batch[self._input_name(batch)] for batch in batches]
        self.low = min(float(x.min()) for x in inputs)
        self.high = max(float(x.max()) for x in inputs)

    def forget_objective(self, step: Step) -> Tensor:
        labels = self.neighbour_classes(step.forget_batch)
        return step.forget_loss({**step.forget_batch, "labels": labels})

    def neighbour_classes(self, batch: dict) -> Tensor:
        """The classes (k,) that the original model gives the neighbours of the samples."""
        labels, name = class_labels(batch, "boundary_shrink"), self._input_name(batch)
        with torch.enable_grad():
            x = batch[name].detach().clone().requires_grad_(True)
            logits = output_logits(self.teacher(**{**batch, name: x}))
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits.float(), labels), x)
        with torch.no_grad():
            step = self.bound * (self.high - self.low)
            neighbours = (x + step * gradient.sign()).clamp(self.low, self.high)
            return output_logits(self.teacher(**{**batch, name: neighbours})).argmax(-1)

    def _input_name(self, batch: dict) -> str:
        """The name of the images or sounds in a batch."""
        name = getattr(base_model(self.teacher), "main_input_name", "")
        if name not in batch:
            # A model that is not of transformers: take the first floating point input.
            tensors = {key: x for key, x in batch.items() if isinstance(x, Tensor)}
            name = next((key for key, x in tensors.items() if x.is_floating_point()), name)
        if name not in batch or not batch[name].is_floating_point():
            raise ValueError(
                "boundary_shrink changes the inputs along their gradient, so these must be images "
                "or sounds, not tokens: use another method, such as 'gradient_difference'"
            )
        return name
