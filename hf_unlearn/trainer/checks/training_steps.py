"""Checks, before a training, that it will take at least one optimizer step."""

from typing import Any

from ...config import UnlearnConfig
from ..batches.training_data import length_or_none


def check_steps(args: UnlearnConfig, forget_dataset: Any) -> None:
    """Checks before training, as far as possible, that at least one optimizer step will be taken.

    Raises:
        ValueError: the arguments allow no step with this forget set.
    """
    if args.max_steps == 0 or args.max_steps < 0 and args.num_train_epochs <= 0:
        name = "max_steps" if args.max_steps == 0 else "num_train_epochs"
        raise ValueError(
            f"{name} is {getattr(args, name)}, so no step would be taken: set it above 0"
        )
    count, batch = length_or_none(forget_dataset), args.train_batch_size * args.world_size
    if count is None:
        return
    if count == 0:
        raise ValueError(
            "the forget set has no samples, so no step would be taken: give at least one"
        )
    if args.dataloader_drop_last and count < batch:
        raise ValueError(
            f"the forget set has {count} samples and a batch over all processes has {batch}, so no "
            "step would be taken with dataloader_drop_last: lower per_device_train_batch_size, or "
            "unset dataloader_drop_last"
        )
