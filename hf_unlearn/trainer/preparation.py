"""What the trainer offers to a method before the first step: the model as it was, and passes over
all data."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..files import written_whole
from ..per_sample.reference import count_samples, sample_gradient
from .nonfinite import all_finite, broken_samples, named
from .step import TrainerStep

# with a name that Trainer does not upload: nobody should get what is forgotten
START = "_start.safetensors"


class TrainerPreparation:
    """`methods.base.Preparation`, for an `UnlearnTrainer`."""

    def __init__(self, trainer):
        self.trainer, self.model, self.seed = trainer, trainer.model, trainer.args.seed
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._step = TrainerStep(trainer, self.model, {}, share=1.0, place=0)

    def size(self, split: str) -> int:
        return len(self._dataset(split))

    def batches(self, split: str, shared: bool = True) -> Iterator[dict]:
        args = self.trainer.args
        forget = split == "forget"
        yield from self._batches(
            split,
            args.per_device_train_batch_size if forget else args.per_device_retain_batch_size,
            shared,
        )

    def samples(self, split: str) -> Iterator[dict]:
        yield from self._batches(split, 1, shared=True)

    def _batches(self, split: str, size: int, shared: bool) -> Iterator[dict]:
        trainer, args = self.trainer, self.trainer.args
        dataset, collator = trainer.collated(self._dataset(split), split)
        collator = trainer._own_parts_kept(collator)
        loader = DataLoader(
            dataset,
            size,
            sampler=self._indices(split, shared),
            collate_fn=collator,
            num_workers=args.dataloader_num_workers,
            generator=torch.Generator(),
        )
        yield from map(trainer._prepare_inputs, loader)

    def _dataset(self, split: str):
        return self.trainer.train_dataset if split == "forget" else self.trainer.retain_dataset

    def _indices(self, split: str, shared: bool) -> range:
        args = self.trainer.args
        return (
            range(args.process_index, self.size(split), args.world_size)
            if shared
            else range(self.size(split))
        )

    def loss(self, batch: dict) -> Tensor:
        return self._step.loss(self.model, batch)

    def logits(self, batch: dict) -> Tensor:
        return self._step.logits(batch)

    def mean_gradient(self, split: str) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in self.parameters.values()]
        for batch, gradient in self._gradients(split, self.batches):
            torch._foreach_add_(total, gradient, alpha=count_samples(batch))
        return [self.total(t) / self.size(split) for t in total]

    def sample_gradients(self, split: str) -> Iterator[list[Tensor]]:
        for _, gradient in self._gradients(split, self.samples):
            yield gradient

    def _gradients(self, split: str, batches: Callable) -> Iterator[tuple[dict, list[Tensor]]]:
        """This process's batches and the gradients of their mean losses.

        Raises:
            ValueError: it is not finite; the samples are named.
        """
        place, indices = 0, self._indices(split, shared=True)
        for batch in batches(split):
            loss = self.loss(batch)
            gradient = sample_gradient(self.model, loss, list(self.parameters.values()))
            if not all_finite([loss, *gradient]):
                places = broken_samples(self.model, self.loss, batch)
                names = (
                    ", ".join(named(split, places, [indices[place + n] for n in places]))
                    or f"{split} samples"
                )
                raise ValueError(
                    f"the loss or gradient of {names} is not finite: remove what is "
                    "broken in the data"
                )
            yield batch, gradient
            place += count_samples(batch)

    def total(self, tensor: Tensor) -> Tensor:
        return self.trainer.accelerator.reduce(tensor, "sum")


def save_start(model: nn.Module, path: Path) -> None:
    """Writes down what training changes, before it does: whoever resumes prepares the method from
    it again."""
    with written_whole(path) as partial:
        save_file({name: t.detach().cpu().contiguous() for name, t in _changing(model)}, partial)


def load_start(model: nn.Module, path: Path) -> None:
    """Raises ValueError: there is no such file."""
    if not path.exists():
        raise ValueError(
            f"there is no {path}, but this method compares with the model as it was at the start: "
            "the checkpoint is of a run "
            "with another method, or comes from the Hub, where that model is never pushed, since "
            "it knows what is to be "
            "forgotten. Resume with the method of that run and from its own output_dir, or start "
            "anew."
        )
    saved = load_file(path)
    with torch.no_grad():
        for name, tensor in _changing(model):
            tensor.copy_(saved[name])


def _changing(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p) for name, p in model.named_parameters() if p.requires_grad)
    yield from model.named_buffers()
