"""Switches off what is random in a model, so that every pass sees one network."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from .compatibility import checkpoints_activations

logger = logging.get_logger(__name__)

DRAWN = (
    "freeze_randomness is False: forget and retain gradients are of networks in which dropout and "
    "the like are drawn anew "
    "for each batch. `residual` is about the network that was drawn for the retain batch alone, "
    "and in the model as it is "
    "evaluated retained losses do move; a layer that was skipped there (LayerDrop) is not "
    "protected at all."
)
MASKS = (
    "some per-sample gradients must be computed one sample at a time, and a sample alone cannot "
    "draw the random numbers that "
    "it draws within a batch"
)


class Stilled:
    """A model in evaluation mode, which has no randomness, as far as that allows backward passes.
    It is left by `end`.

    Evaluation mode is the one switch that all kinds of randomness obey: dropout modules and
    functions, LayerDrop, stochastic depth, SpecAugment, noise on inputs. In training mode stay,
    each without its own randomness: layers of transformers that are checkpointed, which they are in
    training mode only; recurrent layers, whose kernels on GPUs have no backward pass in evaluation
    mode; and `TRAINED_ONLY`.

    Args:
        batch_norm: whether layers of the BatchNorm family work as in training.
    """

    def __init__(self, model: nn.Module, batch_norm: bool = False):
        self.model, self.batch_norm = model, batch_norm
        self._before: list[tuple[nn.Module, str, object]] = []

    def begin(self) -> None:
        """May be called again: models keep what they compute from parameters (LeViT's attention
        biases) until they are trained, though no second backward pass goes through it."""
        self.end()
        self.model.train()
        self.model.eval()
        checkpoints = checkpoints_activations(self.model)
        if getattr(getattr(self.model, "config", None), "model_type", "") in TRAINED_ONLY:
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
        """Gives the model its own values back; the mode of its modules is left to the caller."""
        for module, name, value in reversed(self._before):
            setattr(module, name, value)
        self._before.clear()

    def _set(self, module: nn.Module, name: str, value) -> None:
        self._before.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def _keep_checkpoints(self, module: nn.Module) -> None:
        # wav2vec2's convolutions give their input a gradient
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
                f"{type(module).__name__} cannot save memory by checkpoints here: it does so in "
                "training mode only, where "
                "its dropout would be on."
            )

    def _train_without_dropout(self) -> None:
        for module in self.model.modules():
            module.training = not isinstance(module, nn.modules.dropout._DropoutNd)
            for name, value in list(vars(module).items()):
                if "dropout" in name and isinstance(value, float):
                    self._set(module, name, 0.0)


# Reformer's reversible layers have no backward pass in evaluation mode; RWKV divides weights in
# place there.
TRAINED_ONLY = ("reformer", "rwkv")


def _evaluated_inside(layer: nn.Module, checkpoint):
    """A checkpoint function under which the layer itself is in evaluation mode, in the backward
    pass, too."""

    def checkpoint_evaluated(function, *inputs):
        def evaluated(*inputs):
            before, layer.training = layer.training, False
            try:
                return function(*inputs)
            finally:
                layer.training = before

        return checkpoint(evaluated, *inputs)

    return checkpoint_evaluated
