"""Switches off what is random in a model, so that every pass sees the same network."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from ..methods import Method
from .protocol import LossView

logger = logging.get_logger(__name__)

RANDOMNESS_LEFT_ON = (
    "freeze_randomness is False: dropout and the like are drawn anew for each batch, so forget and "
    "retain gradients come from different networks. `residual` refers only to the network drawn "
    "for the retain batch; in the model as it is evaluated, the losses of retain samples do "
    "change. A layer that was skipped there (LayerDrop) is not protected at all."
)
DRAWS_DIFFER_ALONE = (
    "some per-sample gradients must be computed one sample at a time, and a sample alone cannot "
    "draw the random numbers that it draws within a batch"
)
ALWAYS_RANDOM = (
    "the model draws random numbers even in evaluation mode, and a sample alone gets other numbers "
    "than in a batch. The step and `residual` refer to the numbers that each step draws"
)
# Model types without a backward pass in evaluation mode: Reformer's reversible layers lack one,
# and RWKV divides its weights in place there.
TRAINING_MODE_ONLY = ("reformer", "rwkv")


def compares_gradients(method: Method) -> bool:
    """Whether a method compares gradients with each other, so that all must be of one network."""
    return method.projects or method.per_sample


def checkpoints_activations(model: nn.Module) -> bool:
    """Whether a model uses gradient checkpointing. (Only transformers' modules have the
    attribute.)"""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


class RandomnessControl:
    """Decides when the randomness of a trainer's model is off."""

    def __init__(self, trainer: LossView):
        self._trainer = trainer
        # The innermost of the contexts that are open; None outside all of them.
        self._frozen: FrozenRandomness | None = None
        self._warned = False

    @property
    def is_off(self) -> bool:
        """Whether the model computes what it computes when it is evaluated."""
        return self._frozen is not None and not self._frozen.batch_norm

    @contextlib.contextmanager
    def off(self, batch_norm: bool = False) -> Iterator[None]:
        """Within this context nothing in the model is random.

        Args:
            batch_norm: as in `FrozenRandomness`.
        """
        outer, self._frozen = self._frozen, FrozenRandomness(self._trainer.model, batch_norm)
        self._frozen.begin()
        try:
            yield
        finally:
            self._frozen.end()
            self._frozen = outer
            if outer:
                outer.begin()
            else:
                self._trainer.set_training_mode(self._trainer.model)

    def in_step(self) -> contextlib.AbstractContextManager:
        """The context of an optimizer step.

        A method that compares gradients sees the network that is evaluated, unless the user sets
        `freeze_randomness=False`. Other methods train as in Trainer.
        """
        args = self._trainer.args
        if not compares_gradients(self._trainer.method):
            return contextlib.nullcontext()
        if args.freeze_randomness:
            return self.off(batch_norm=not args.freeze_batch_norm)
        if not self._warned:
            logger.warning(RANDOMNESS_LEFT_ON)
            self._warned = True
        return contextlib.nullcontext()

    def clear_caches(self) -> None:
        """While randomness is off, makes the model recompute what it keeps of its parameters."""
        if self._frozen:
            self._frozen.begin()


class FrozenRandomness:
    """A model in evaluation mode, which has no randomness, as far as backward passes allow it.

    Evaluation mode is the one switch that all kinds of randomness obey: dropout modules and
    functions, LayerDrop, stochastic depth, SpecAugment, noise on inputs. Some modules stay in
    training mode, without their own randomness: layers of transformers that are checkpointed, which
    only happens in training mode; recurrent layers, whose GPU kernels have no backward pass in
    evaluation mode; and the models in `TRAINING_MODE_ONLY`.

    Args:
        batch_norm: whether BatchNorm layers use the statistics of the batch, as in training.
    """

    def __init__(self, model: nn.Module, batch_norm: bool = False):
        self.model, self.batch_norm = model, batch_norm
        self._before: list[tuple[nn.Module, str, Any]] = []

    def begin(self) -> None:
        """Switches the randomness off.

        May be called again: in evaluation mode some models keep what they compute from parameters
        (LeViT's attention biases) until they are put into training mode, and no second backward
        pass goes through that.
        """
        self.end()
        self.model.train()
        self.model.eval()
        checkpoints = checkpoints_activations(self.model)
        if getattr(getattr(self.model, "config", None), "model_type", "") in TRAINING_MODE_ONLY:
            self._train_without_dropout()
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.training = self.batch_norm
            elif isinstance(module, nn.RNNBase):
                self._set(module, "dropout", 0.0)
                module.training = True
            elif checkpoints:
                self._keep_checkpoints(module)

    def end(self) -> None:
        """Restores the attributes that `begin` has set; the caller sets the mode of the modules."""
        for module, name, value in reversed(self._before):
            setattr(module, name, value)
        self._before.clear()

    def _set(self, module: nn.Module, name: str, value: Any) -> None:
        self._before.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def _keep_checkpoints(self, module: nn.Module) -> None:
        # In training mode, wav2vec2's convolutions make their input require a gradient.
        if getattr(module, "_requires_grad", None) is True:
            module.training = True
        if not getattr(module, "gradient_checkpointing", False):
            return
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True
            checkpoint = module._gradient_checkpointing_func
            self._set(module, "_gradient_checkpointing_func", _evaluated_inside(module, checkpoint))
        elif not any(isinstance(child, GradientCheckpointingLayer) for child in module.modules()):
            logger.warning_once(
                f"Gradient checkpointing saves no memory in {type(module).__name__} here: it only "
                "works in training mode, where the module's dropout would be on."
            )

    def _train_without_dropout(self) -> None:
        for module in self.model.modules():
            module.training = not isinstance(module, nn.modules.dropout._DropoutNd)
            for name, value in list(vars(module).items()):
                if "dropout" in name and isinstance(value, float):
                    self._set(module, name, 0.0)


def _evaluated_inside(layer: nn.Module, checkpoint: Callable) -> Callable:
    """A checkpoint function that puts the layer itself into evaluation mode, also when the backward
    pass computes it again."""

    def checkpoint_evaluated(function: Callable, *inputs: Any) -> Any:
        def evaluated(*inputs: Any) -> Any:
            before, layer.training = layer.training, False
            try:
                return function(*inputs)
            finally:
                layer.training = before

        return checkpoint(evaluated, *inputs)

    return checkpoint_evaluated
