"""How `UnlearnTrainer` writes and reads checkpoints: whole or not at all, and as one model where it
is in shards."""

import json
import shutil
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from ..per_sample.shards import fill, made_whole, own_parameters, sharded_modules, split_like
from .checkpoint_files import folder_written_whole, is_complete, saving
from .leftovers import remove_other_weights, weights_in
from .publishing import PublishingTrainer

logger = logging.get_logger(__name__)


class SavingTrainer(PublishingTrainer):
    """The part of `UnlearnTrainer` that saves and loads."""

    def _save_own_state(self, checkpoint: Path) -> None:
        """Writes what a subclass has to find again on resuming; the main process does."""

    def _save_checkpoint(self, model, trial) -> None:
        """As in Trainer, whose state `trainer_state.json` comes last and thereby says that the
        checkpoint is complete: it is taken away first where there is an older one, and waits for
        all processes' files."""
        output_dir = Path(self._get_output_dir(trial))
        folder = output_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with saving(folder, output_dir):
            try:
                if self.args.should_save:
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
                    self._save_own_state(folder)
                super()._save_checkpoint(model, trial)
            except Exception:
                if self.args.should_save and not is_complete(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                raise

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not sharded_modules(self.model):
            return super().save_model(output_dir, _internal_call)
        # By all processes together, while Trainer of transformers 5.17 asks the main one only.
        state_dict = whole_state_dict(self.model)
        if self.args.should_save:
            self._save(output_dir, state_dict)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save:
            return super()._save(output_dir, state_dict)
        with saving(folder, Path(self.args.output_dir)), folder_written_whole(folder) as partial:
            if not isinstance(
                self.accelerator.unwrap_model(self.model), (PreTrainedModel, PeftModel)
            ):
                state_dict = without_repeats(
                    self.model.state_dict() if state_dict is None else state_dict
                )
            super()._save(str(partial), state_dict)
            saved = {path.name for path in partial.iterdir()}
        remove_other_weights(folder, saved)
        if folder.samefile(self.args.output_dir):
            self._remove_earlier()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not sharded_modules(self.model):
            return super()._save_optimizer_and_scheduler(output_dir)
        state = whole_optimizer_state(self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not sharded_modules(self.model):
            return super()._load_optimizer_and_scheduler(checkpoint)
        optimizer, scheduler = (
            torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
            for name in (OPTIMIZER_NAME, SCHEDULER_NAME)
        )
        load_whole_optimizer_state(self.optimizer, optimizer)
        self.lr_scheduler.load_state_dict(scheduler)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        if sharded_modules(self.model):
            load_whole_weights(self.model, Path(resume_from_checkpoint))
            return
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_renamed(self.model if model is None else model, Path(resume_from_checkpoint))

    def _issue_warnings_after_load(self, load_result) -> None:
        """As in Trainer, which fails where a module of the user's own lacks the repeats that were
        not saved."""
        if isinstance(self.model, (PreTrainedModel, PeftModel)):
            return super()._issue_warnings_after_load(load_result)
        missing = set(load_result.missing_keys) & set(without_repeats(self.model.state_dict()))
        if missing or load_result.unexpected_keys:
            logger.warning(
                f"The checkpoint lacks the weights {sorted(missing)}, and has "
                f"{sorted(load_result.unexpected_keys)} that the "
                "model has not."
            )

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if sharded_modules(self.model):
            load_whole_weights(self.model, best)
        else:
            super()._load_best_model()
            load_renamed(self.model, best)
        # Without weights there, Trainer has warned and loaded nothing.
        if weights_in(best):
            self.record.loaded(self.state.best_model_checkpoint)


def load_renamed(model: nn.Module, checkpoint: Path) -> None:
    """Loads what Trainer passes over: `save_pretrained` writes layers by the names that they had in
    earlier versions of transformers (ViT's `encoder.layer.0`), and Trainer looks for those of
    today, warns, and goes on without them."""
    index, file = checkpoint / SAFE_WEIGHTS_INDEX_NAME, checkpoint / SAFE_WEIGHTS_NAME
    if not isinstance(model, PreTrainedModel) or not (index.exists() or file.exists()):
        return
    if index.exists():
        names = set(json.loads(index.read_text())["weight_map"])
    else:
        with safe_open(file, framework="pt") as tensors:
            names = set(tensors.keys())
    if not names <= set(model.state_dict()):
        model.load_state_dict(
            type(model).from_pretrained(checkpoint, dtype=model.dtype).state_dict()
        )


def without_repeats(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with tied weights once, under their first name, since safetensors takes no
    tensor twice.

    `load_state_dict(..., strict=False)` or `safetensors.torch.load_model` fill the others with it.
    """
    seen = {}
    for name, tensor in state_dict.items():
        own = (
            name
            if tensor.numel() == 0
            else (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        )
        seen.setdefault(own, (name, tensor))
    return dict(seen.values())


def whole_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a model in shards as if it were in none (all processes have to call this
    together)."""
    own_parameters(model)
    tensors = model.state_dict(keep_vars=True)
    whole = {
        id(tensor): made_whole(tensor)
        for tensor in {id(tensor): tensor for tensor in tensors.values()}.values()
    }
    return {name: whole[id(tensor)] for name, tensor in tensors.items()}  # tied weights stay one


def load_whole_weights(model: nn.Module, checkpoint: Path) -> None:
    """Fills a model in shards with the weights, or the adapter, that a checkpoint has."""
    own_parameters(model)
    adapters = getattr(model, "peft_config", {})
    tensors = {}
    for name, tensor in model.state_dict().items():
        for adapter in adapters:  # files leave its name out
            name = name.replace(f".{adapter}.", ".")
        tensors[name] = tensor
    for file in sorted(
        checkpoint.glob("adapter_model*.safetensors" if adapters else "model*.safetensors")
    ):
        for name, whole in load_file(file).items():
            fill(tensors[name], whole)


def whole_optimizer_state(optimizer: torch.optim.Optimizer) -> dict:
    """The state dict of an optimizer of parameters in shards as if they were in none (all processes
    together)."""
    state_dict = optimizer.state_dict()
    state = {
        at: {
            key: made_whole(value) if isinstance(value, Tensor) else value
            for key, value in values.items()
        }
        for at, values in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def load_whole_optimizer_state(optimizer: torch.optim.Optimizer, state_dict: dict) -> None:
    """Splits what `whole_optimizer_state` gave over the shards that there are now."""
    optimizer.load_state_dict(state_dict)
    for p, values in optimizer.state.items():
        values.update(
            (key, split_like(p, x))
            for key, x in values.items()
            if isinstance(x, Tensor) and x.shape == p.shape
        )
