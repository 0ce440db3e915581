"""Finds the frozen first part of a trainer's model, checks that it can be left out, and keeps what
it computes."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers.utils import logging

from ...models import base_model
from ...per_sample.comparison import TOLERANCE
from ...per_sample.losses import NotBySample
from ...per_sample.reference import (
    count_samples,
    sample_gradient,
    select_sample,
    select_samples,
    without_ranges,
)
from ...per_sample.shards import sharded_modules
from ..batches.forget_data import changes_each_time
from ..batches.seeded import random_state, random_state_kept
from ..protocol import LossView
from ..randomness import FrozenRandomness
from ..setup.model_setup import put_in_training_mode
from .finding import FrozenPart, frozen_parts
from .replay import Replay
from .store import TensorStore

logger = logging.get_logger(__name__)

GIGABYTE = 10**9
# Samples of the first batch that are looked at.
LOOKED_AT = 2
OFF = "The frozen first part of {model} is computed again in every pass: {why}."
MIXES = "its output for a sample depends on the other samples of the batch"
NEVER_TWICE = (
    "no input came twice among the first {count} samples, which fill frozen_cache_gb={limit:g} (is "
    "the data augmented at random?)"
)
RANDOM = (
    "The frozen first part of {model} is random in training mode (dropout, LayerDrop, "
    "SpecAugment), so it is computed again in every training step. Only checks and evaluation use "
    "what is kept."
)


class FrozenParts:
    """Lets a trainer's model compute its frozen first part once for each sample.

    What is found holds for one model. Before it is used, the pass over some samples of the first
    batch is compared with a pass that leaves the part out: outputs, loss and all gradients must be
    the same.
    """

    def __init__(self, trainer: LossView):
        self._trainer = trainer
        self._searched = self._warned = self._is_off = False
        self.replay: Replay | None = None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The context in which the model computes with what is kept."""
        if self.replay is None or self._is_off:
            yield
            return
        with self.replay.active():
            yield
        self._warn_if_unused()

    @contextlib.contextmanager
    def off_for(self, dataset: Any) -> Iterator[None]:
        """The context of passes over samples of a dataset. If the dataset says that its inputs
        never come again (`changes_each_time = True`), the model computes them as usual, and nothing
        of them is kept."""
        self._is_off = changes_each_time(dataset)
        try:
            yield
        finally:
            self._is_off = False

    def find(self, batch: dict) -> None:
        """Finds the frozen part from the first batch that has two samples."""
        k = count_samples(batch)
        if self._searched or k < LOOKED_AT:
            return
        self._searched = True
        if not self._is_possible():
            return
        whole = without_ranges(batch)
        batch = select_samples(whole, slice(LOOKED_AT), k)
        model, device = self._trainer.model, self._trainer.args.device
        modes = [(module, module.training) for module in model.modules()]
        try:
            with random_state_kept(device), torch.enable_grad():
                replay = self._found(batch)
                if replay is not None and self._is_independent_of_batch(replay, batch, whole):
                    self._note_randomness(replay, batch)
                    replay.store = TensorStore(self._trainer.args.frozen_cache_gb * GIGABYTE)
                    self.replay = replay
        except NotBySample:
            # Such a model is rare, and is computed one sample at a time.
            pass
        finally:
            for module, training in modes:
                module.training = training

    def _is_possible(self) -> bool:
        trainer, args = self._trainer, self._trainer.args
        sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
        sharded = sharded or bool(sharded_modules(trainer.model))
        devices = set((getattr(trainer.model, "hf_device_map", None) or {}).values())
        if not args.frozen_cache_gb or sharded or args.torch_compile:
            return False
        if args.n_gpu > 1 or len(devices) > 1:
            return False
        return len({p.requires_grad for p in trainer.model.parameters()}) == 2

    # ---- finding ---------------------------------------------------------------------------------

    def _found(self, batch: dict) -> Replay | None:
        """The largest part that can be left out, with the rows of this batch."""
        frozen = FrozenRandomness(self._trainer.model)
        frozen.begin()
        try:
            plain = None
            for part in frozen_parts(self._trainer.model, lambda: self._loss(batch), LOOKED_AT):
                plain = plain or self._pass(batch)
                replay = Replay(part, TensorStore(float("inf")))
                with replay.active():
                    other = self._pass(batch)
                if len(replay.store) and _same(plain, other):
                    return replay
            return None
        finally:
            frozen.end()

    def _loss(self, batch: dict) -> Tensor:
        with self._trainer.compute_loss_context_manager():
            return self._trainer.mean_loss(self._trainer.model, batch)

    def _pass(self, batch: dict) -> list[Tensor]:
        """The loss, the outputs of the model, and the gradients of the parameters."""
        model, outputs = self._trainer.model, []
        handle = model.register_forward_hook(lambda _, inputs, output: outputs.append(output))
        try:
            loss = self._loss(batch)
        finally:
            handle.remove()
        parameters = [p for p in model.parameters() if p.requires_grad]
        # The first step raises an error if the loss depends on no parameter.
        gradients = sample_gradient(model, loss, parameters) if loss.requires_grad else []
        return [x.detach() for x in (loss, *_tensors(outputs), *gradients)]

    def _is_independent_of_batch(self, replay: Replay, batch: dict, whole: dict) -> bool:
        """Whether the part's output for a sample is the same alone, in a small batch and in the
        whole batch. Records whether it is the same bit for bit."""
        frozen = FrozenRandomness(self._trainer.model)
        frozen.begin()
        try:
            together = self._rows_of(replay.part, whole)
            alone = [
                self._rows_of(replay.part, select_sample(batch, n, LOOKED_AT))
                for n in range(LOOKED_AT)
            ]
        finally:
            frozen.end()
        pairs = [
            (row, other.get(key, ()))
            for one in alone
            for key, row in one.items()
            for other in (together, dict(_rows(replay.store)))
        ]
        if not pairs or not all(len(a) == len(b) and all(map(_close, a, b)) for a, b in pairs):
            self._turn_off(MIXES)
            return False
        # A GPU's products round differently for almost every number.
        on_cpu = self._trainer.args.device.type == "cpu"
        replay.by_count = on_cpu and not all(all(map(torch.equal, a, b)) for a, b in pairs)
        return True

    def _rows_of(self, part: FrozenPart, batch: dict) -> dict[bytes, tuple[Tensor, ...]]:
        """What the part gives the samples of a batch, by their keys."""
        replay = Replay(part, TensorStore(float("inf")))
        with replay.active(), torch.no_grad():
            self._loss(batch)
        return dict(_rows(replay.store))

    def _note_randomness(self, replay: Replay, batch: dict) -> None:
        """Finds out whether the part draws random numbers, or gives other values, in training
        mode."""
        model, part, device = self._trainer.model, replay.part, self._trainer.args.device
        put_in_training_mode(model, self._trainer.args.freeze_batch_norm)
        before, after = [], []
        handles = [
            part.entry.register_forward_pre_hook(lambda *_: before.append(random_state(device))),
            part.last.register_forward_hook(lambda *_: after.append(random_state(device))),
        ]
        try:
            with torch.no_grad():
                self._loss(batch)
        finally:
            for handle in handles:
                handle.remove()
        replay.random = len(after) != 1 or before[-1] != after[0]
        if replay.random:
            return
        trained = self._rows_of(part, batch)
        replay.random = not all(
            key in trained and all(map(_close, trained[key], row))
            for key, row in _rows(replay.store)
        )

    # ---- afterwards ------------------------------------------------------------------------------

    def _warn_if_unused(self) -> None:
        """Warns once if the store is full of samples that never came again, or the part is
        random."""
        replay, store = self.replay, self.replay.store
        if replay.passed_random and not self._warned:
            logger.warning(RANDOM.format(model=self._name()))
            self._warned = True
        if store.is_full and not replay.used:
            limit = self._trainer.args.frozen_cache_gb
            self._turn_off(NEVER_TWICE.format(count=len(store), limit=limit))
            self.replay = None

    def _turn_off(self, why: str) -> None:
        logger.warning(OFF.format(model=self._name(), why=why))

    def _name(self) -> str:
        return type(base_model(self._trainer.model)).__name__


def _rows(store: TensorStore) -> Iterator[tuple[bytes, tuple[Tensor, ...]]]:
    for key in store:
        if (row := store.get(key)) is not None:
            yield key, row[1]


def _tensors(value: object) -> list[Tensor]:
    return [x for x in tree_leaves(value) if isinstance(x, Tensor)]


def _same(plain: list[Tensor], other: list[Tensor]) -> bool:
    """Whether two passes give the same values. On a GPU, sums may differ by rounding."""
    if [x.shape for x in plain] != [x.shape for x in other]:
        return False
    if all(x.device.type == "cpu" for x in plain):
        return all(torch.equal(a, b) for a, b in zip(plain, other))
    return all(map(_close, plain, other))


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    relative = TOLERANCE.get(a.dtype, TOLERANCE[torch.float16])[2]
    return bool((a - b).double().norm() <= relative * b.double().norm())
