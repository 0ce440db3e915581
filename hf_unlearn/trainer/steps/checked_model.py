"""The model that a trainer trains, with what checks have found out about it."""

import contextlib
from collections.abc import Iterator

from torch import nn

from ...per_sample.shards import sharded_modules
from ..frozen.encoder import encoder_once
from ..frozen.parts import FrozenParts
from ..losses.silence import Silence
from ..protocol import RunView
from ..samples.padding_check import PaddingCheck
from ..samples.sample_access import RetainContext, SampleAccess


class CheckedModel:
    """What is known about the trainer's current model, and how the losses of its samples are
    therefore computed. Each model needs its own object.

    Attributes:
        padding: whether padding changes the losses.
        frozen: keeps the outputs of the model's frozen first part.
        silence: gives batches the labels of silence; None with another `forget_objective`.
        samples: how the samples of a batch are computed.
    """

    def __init__(self, trainer: RunView):
        self._trainer, self._model = trainer, trainer.model
        self.padding = PaddingCheck(trainer)
        self.frozen = FrozenParts(trainer)
        self.silence = None
        if trainer.args.forget_objective == "silence":
            # Without retain samples there are no other texts.
            mixed = trainer.args.silence_texts == "mixed" and trainer.method.uses_retain
            self.silence = Silence(
                trainer.model, trainer.processing_class, mixed, trainer.args.unheard_words
            )
        self.samples = SampleAccess(trainer, self.padding, self.frozen)

    def is_for(self, model: nn.Module) -> bool:
        """Whether this is about `model`, and not about one that `model_init` made before."""
        return self._model is model

    def discard_checks(self) -> None:
        """Discards what the checks of batches have found. What is known about padding and the
        frozen part stays, because it depends only on the model."""
        self.samples = SampleAccess(self._trainer, self.padding, self.frozen)

    def check_padding(self, at_retain: RetainContext) -> None:
        """Finds out whether padding changes losses, before data is evaluated or trained on.

        Args:
            at_retain: the context for computing retain samples.
        """
        trainer = self._trainer
        # With FSDP and DeepSpeed, accelerate has not moved the model yet, so the first step makes
        # this check.
        waits = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        if trainer.train_dataset is not None and not waits:
            self.samples.check_padding(at_retain)

    @contextlib.contextmanager
    def evaluating_batch(self, batch: dict) -> Iterator[None]:
        """The context in which the model evaluates a batch, without computing again what is
        known."""
        trainer = self._trainer
        has_labels = all(batch.get(name) is not None for name in trainer.label_names or [""])
        if trainer.train_dataset is not None and has_labels:
            self.frozen.find(batch)
        # All processes of a sharded model must take part in every pass.
        texts = trainer.args.predict_with_generate and not sharded_modules(trainer.model)
        encoder = encoder_once(trainer.model) if texts else contextlib.nullcontext()
        with self.frozen.active(), encoder:
            yield
