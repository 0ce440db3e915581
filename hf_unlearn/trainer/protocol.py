"""The parts of `UnlearnTrainer` that the classes around it may use. Each takes the narrowest view
that has what it needs."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import datasets
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import (
    EvalPrediction,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerState,
)
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_base import ImageProcessingMixin
from transformers.trainer_utils import EvalLoopOutput

from ..config import UnlearnConfig
from ..methods import Method
from .update_sketch import EarlierUpdates

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

# Samples: with a length and indices, or a stream.
Samples: TypeAlias = torch.utils.data.Dataset | datasets.Dataset | datasets.IterableDataset
Collator: TypeAlias = Callable[[list], dict]
Processor: TypeAlias = (
    PreTrainedTokenizerBase | FeatureExtractionMixin | ImageProcessingMixin | ProcessorMixin
)


class PreparedView(Protocol):
    """The model, and what accelerate and DeepSpeed make of it and of its optimizer.

    Attributes:
        model_wrapped: the wrapper that the training calls the model by.
        optimizer: None until Trainer has created it.
        deepspeed: None without DeepSpeed and before the training.
    """

    model: nn.Module
    model_wrapped: nn.Module
    optimizer: torch.optim.Optimizer | None
    accelerator: Accelerator
    deepspeed: "DeepSpeedEngine | None"
    is_deepspeed_enabled: bool

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Makes the optimizer, if the trainer was not given one."""


class MeasuringView(PreparedView, Protocol):
    """What an evaluation uses in which every sample counts once.

    Attributes:
        gather_function: how Trainer collects values from all processes.
        is_in_train: whether the evaluation belongs to a training.
    """

    args: Seq2SeqTrainingArguments
    compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None
    gather_function: Callable[[Any], Any]
    is_in_train: bool


class ModelView(PreparedView, Protocol):
    """The model that is trained, and how its method runs on which processes."""

    args: UnlearnConfig
    method: Method
    is_fsdp_enabled: bool

    def is_world_process_zero(self) -> bool:
        """Whether this is the main process of all machines."""


class DataView(Protocol):
    """The samples that a method uses.

    Attributes:
        train_dataset: the forget set; None if the trainer only evaluates.
        retain_dataset: the samples to keep; None for methods that need none.
        previous_forget_dataset: samples of earlier requests, which stay forgotten; None without.
    """

    args: UnlearnConfig
    method: Method
    train_dataset: Samples | None
    retain_dataset: Samples | None
    previous_forget_dataset: Samples | None
    data_collator: Collator

    def collated(self, dataset: Samples, description: str) -> tuple[Samples, Collator]:
        """A dataset and its collator, without the columns that the model does not take."""


class LossView(ModelView, Protocol):
    """How the model's losses are computed.

    Attributes:
        state: its `global_step` is the optimizer step that is running.
        last_sample_losses: the losses (k,) of the batch whose `mean_loss` was computed last,
            without a gradient; None if the model combines several losses, which do not show them.
    """

    state: TrainerState
    last_sample_losses: Tensor | None

    def mean_loss(self, model: nn.Module, inputs: dict) -> Tensor:
        """The mean over the samples of a batch of the loss that `compute_loss` returns."""

    def compute_loss_context_manager(self) -> AbstractContextManager:
        """The context that Trainer computes losses in (autocast)."""

    def set_training_mode(self, model: nn.Module) -> None:
        """Puts the model into the mode that it trains in."""

    def _prepare_inputs(self, inputs: dict) -> dict:
        """Moves a batch to the model's device and casts it to the model's precision."""


class SampleView(LossView, DataView, Protocol):
    """What the losses of the method's samples depend on."""


class TrainerView(SampleView, Protocol):
    """What the optimizer steps use.

    Attributes:
        previous_updates: the stored updates of earlier requests; None without.
        lr_scheduler: None until Trainer has created it.
    """

    previous_updates: EarlierUpdates | None
    lr_scheduler: LRScheduler | None


class CheckpointView(ModelView, Protocol):
    """What is saved, and Trainer's own ways of saving it.

    Attributes:
        lr_scheduler: None until Trainer has created it.
    """

    state: TrainerState
    lr_scheduler: LRScheduler | None
    processing_class: Processor | None

    def _get_output_dir(self, trial: Any) -> str:
        """The folder of checkpoints: of the run, or of one trial of a search."""

    def _save(self, output_dir: str | None, state_dict: dict | None) -> None:
        """Saves the model and its processor."""

    def push_to_hub(self, commit_message: str, *, revision: str | None) -> Any:
        """Saves the model and uploads it."""


class EvaluationView(ModelView, Protocol):
    """What is evaluated, and by which metrics.

    Attributes:
        eval_dataset: for stopping rules, a dict of splits.
    """

    eval_dataset: Samples | dict[str, Samples] | None
    compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None
    preprocess_logits_for_metrics: Callable[..., Any] | None
    processing_class: Processor | None

    def collated(self, dataset: Samples, description: str) -> tuple[Samples, Collator]:
        """A dataset and its collator, without the columns that the model does not take."""

    def evaluation_loop(self, dataloader: DataLoader, description: str) -> EvalLoopOutput:
        """Predicts and measures one split."""


class RunView(TrainerView, EvaluationView, Protocol):
    """What a run, its record, the stopping rules and the checks of all arguments use.

    Attributes:
        model_init: makes the model of each run; None if the trainer was given a model.
        optimizer_cls_and_kwargs: the argument that Trainer makes the optimizer from; else None.
        label_names: the names of the inputs that are labels.
        method_settings: the values that the method works with, by keyword.
    """

    model_init: Callable[..., nn.Module] | None
    optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
    label_names: list[str]
    method_settings: dict[str, Any]

    def add_callback(self, callback: TrainerCallback) -> None:
        """Adds a callback to the trainer's own."""

    def evaluate(
        self, eval_dataset: Samples | dict[str, Samples], *, metric_key_prefix: str
    ) -> dict[str, float]:
        """Evaluates and logs the metrics of each split."""
