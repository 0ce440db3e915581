"""The part of `UnlearnTrainer` that the classes around it may use."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import EvalLoopOutput

from ..config import UnlearnConfig
from ..methods import Method
from .checkpoints.update_sketch import EarlierUpdates
from .setup.silence import Silence


class TrainerView(Protocol):
    """What the optimizer step, the preparation and the checks of the samples use of the trainer.

    Attributes:
        train_dataset: the forget set.
        previous_forget_dataset: samples of earlier requests, which stay forgotten; None without.
        previous_updates: the stored updates of earlier requests, likewise; None without.
        silence: gives batches the labels of silence; None with another `forget_objective`.
        optimizer, lr_scheduler: None until Trainer has created them.
        last_sample_losses: the losses (k,) of the batch whose `mean_loss` was computed last,
            without a gradient; None if the model combines several losses, which do not show them.
        deepspeed: DeepSpeed's engine; None without DeepSpeed and before the training.
    """

    args: UnlearnConfig
    method: Method
    model: nn.Module
    accelerator: Accelerator
    state: TrainerState
    train_dataset: Any
    retain_dataset: Any
    previous_forget_dataset: Any
    previous_updates: EarlierUpdates | None
    silence: Silence | None
    data_collator: Any
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: Any
    last_sample_losses: Tensor | None
    deepspeed: Any
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool

    def collated(self, dataset: Any, description: str) -> tuple[Any, Any]:
        """A dataset and its collator, without the columns that the model does not take."""

    def next_retain_batch(self) -> dict:
        """The retain batch of the current optimizer step."""

    def mean_loss(self, model: nn.Module, inputs: dict) -> Tensor:
        """The mean over the samples of a batch of the loss that `compute_loss` returns."""

    def compute_loss_context_manager(self) -> AbstractContextManager:
        """The context that Trainer computes losses in (autocast)."""

    def set_training_mode(self, model: nn.Module) -> None:
        """Puts the model into the mode that it trains in."""

    def _prepare_inputs(self, inputs: dict) -> dict:
        """Moves a batch to the model's device and casts it to the model's precision."""


class RunView(TrainerView, Protocol):
    """What a run, its record, the stopping rules and the checks use of the trainer besides.

    Attributes:
        model_init: makes the model of each run; None if the trainer was given a model.
        optimizer_cls_and_kwargs: what Trainer makes the optimizer of, as it was given; else None.
        eval_dataset: for stopping rules, a dict of splits.
        label_names: the names of the inputs that are labels.
        method_settings: the values that the method works with, by keyword.
    """

    eval_dataset: Any
    model_init: Callable[..., nn.Module] | None
    optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
    compute_metrics: Any
    preprocess_logits_for_metrics: Callable[..., Any] | None
    processing_class: Any
    label_names: list[str]
    method_settings: dict
    callback_handler: CallbackHandler

    def add_callback(self, callback: TrainerCallback) -> None:
        """Adds a callback to the trainer's own."""

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Makes the optimizer, if the trainer was not given one."""

    def evaluation_loop(self, dataloader: DataLoader, description: str) -> EvalLoopOutput:
        """Predicts and measures one split."""

    def evaluate(self, eval_dataset: Any, *, metric_key_prefix: str) -> dict[str, float]:
        """Evaluates and logs the metrics of each split."""

    def is_world_process_zero(self) -> bool:
        """Whether this is the main process of all machines."""
