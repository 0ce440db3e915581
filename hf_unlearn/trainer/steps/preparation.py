"""What the trainer offers to a method before the first step: the model as it was, and passes over
all data."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import set_seed

from ...per_sample.reference import count_samples, sample_gradient, without_ranges
from ...per_sample.shards import all_finite
from ..batches.seeded import random_state_kept
from ..batches.training_data import dataset_of
from ..checkpoints.start_weights import START, load_start, save_start
from ..protocol import SampleView
from ..samples.broken_samples import broken_samples, sample_names
from ..samples.sample_access import SampleAccess
from ..setup import deepspeed


class TrainerPreparation:
    """`methods.base.Preparation`, for an `UnlearnTrainer`."""

    def __init__(self, trainer: SampleView, access: SampleAccess):
        self._trainer, self._access = trainer, access
        self.model, self.seed = trainer.model, trainer.args.seed
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def size(self, split: str) -> int:
        return len(dataset_of(self._trainer, split))

    def batches(self, split: str, shared: bool = True) -> Iterator[dict]:
        args = self._trainer.args
        forget, retain = args.per_device_train_batch_size, args.per_device_retain_batch_size
        yield from self._batches(split, forget if split == "forget" else retain, shared)

    def samples(self, split: str) -> Iterator[dict]:
        yield from self._batches(split, 1, shared=True)

    def _batches(self, split: str, size: int, shared: bool) -> Iterator[dict]:
        trainer = self._trainer
        dataset, collator = trainer.collated(dataset_of(trainer, split), split)
        loader = DataLoader(
            dataset,
            size,
            sampler=self._indices(split, shared),
            collate_fn=self._access.padding.collator(collator),
            num_workers=trainer.args.dataloader_num_workers,
            generator=torch.Generator(),
        )
        for batch in map(trainer._prepare_inputs, loader):
            yield batch if self._access.padding.matters else without_ranges(batch)

    def _indices(self, split: str, shared: bool) -> range:
        args, size = self._trainer.args, self.size(split)
        return range(args.process_index, size, args.world_size) if shared else range(size)

    def loss(self, batch: dict) -> Tensor:
        return self._access.loss(self.model, batch)

    def logits(self, batch: dict) -> Tensor:
        return self._access.logits(self.model, batch)

    def mean_gradient(self, split: str) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in self.parameters.values()]
        for batch, gradient in self._gradients(split, self.batches):
            torch._foreach_add_(total, gradient, alpha=count_samples(batch))
        return [self.total(t) / self.size(split) for t in total]

    def sample_gradients(self, split: str) -> Iterator[list[Tensor]]:
        for _, gradient in self._gradients(split, self.samples):
            yield gradient

    def _gradients(
        self, split: str, batches: Callable[[str], Iterator[dict]]
    ) -> Iterator[tuple[dict, list[Tensor]]]:
        """This process's batches, each with the gradient of its mean loss.

        Raises:
            ValueError: a loss or gradient is not finite; the message names the samples.
        """
        done, indices = 0, self._indices(split, shared=True)
        for batch in batches(split):
            loss = self.loss(batch)
            gradient = sample_gradient(self.model, loss, list(self.parameters.values()))
            if not all_finite([loss, *gradient]):
                broken = broken_samples(self.model, self.loss, batch)
                names = sample_names(split, broken, [indices[done + n] for n in broken])
                raise ValueError(
                    f"the loss or gradient of {', '.join(names) or f'{split} samples'} is not "
                    "finite: remove what is broken in the data"
                )
            yield batch, gradient
            done += count_samples(batch)

    def total(self, tensor: Tensor) -> Tensor:
        return self._trainer.accelerator.reduce(tensor, "sum")


def prepare_method(trainer: SampleView, access: SampleAccess, checkpoint: str | None) -> None:
    """Lets the method look at the model as it is before unlearning, or, in a resumed run, as it was
    then.

    With DeepSpeed, the checks that need backward passes happen here, too, before its engine listens
    to them.

    Args:
        checkpoint: the folder that the run resumes from; None for a new run.
    """
    method = trainer.method
    if method.prepares is None and not trainer.is_deepspeed_enabled:
        return
    if trainer.is_deepspeed_enabled:
        deepspeed.move_to_training_precision(trainer)
    if method.prepares is not None:
        _load_and_save_start(trainer, checkpoint)
    start = TrainerPreparation(trainer, access)
    with access.randomness.off(), random_state_kept(trainer.args.device):
        # Randomly augmented samples differ at each access.
        set_seed(trainer.args.seed)
        _check_first_batch(trainer, access, start)
        method.prepare(start)


def _load_and_save_start(trainer: SampleView, checkpoint: str | None) -> None:
    """Gives the model its weights from before unlearning, and keeps a copy for resuming."""
    if checkpoint:
        load_start(trainer.model, Path(checkpoint) / START)
    if trainer.args.should_save:
        save_start(trainer.model, Path(trainer.args.output_dir) / START)


def _check_first_batch(
    trainer: SampleView, access: SampleAccess, start: TrainerPreparation
) -> None:
    """Makes the checks of padding and of the loss on the first batch that the method will see."""
    method = trainer.method
    access.check_padding()
    if method.prepares or trainer.is_deepspeed_enabled:
        other = "forget" if method.uses_forget else "retain"
        split = next(iter(method.prepares or ()), other)
        batch = next(start.batches(split, shared=False))
        access.frozen.find(batch)
        access.engine_choice.check_batch_loss(batch, access.model_loss)
