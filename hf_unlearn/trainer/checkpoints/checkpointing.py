"""What `UnlearnTrainer` saves and loads: checkpoints that are complete or absent.
`checkpoint_files` finds and checks checkpoints on disk; `sharded_checkpoints` knows sharded models.
"""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, Seq2SeqTrainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ...config import UnlearnConfig
from ...files import write_json
from ...report.run_layout import ARGUMENTS
from ..publishing.deployment_files import write_deployment_files
from ..publishing.run_results import public_arguments
from .checkpoint_files import folder_written_whole, is_complete, saving
from .earlier_run import remove_other_weights, weights_in
from .sharded_checkpoints import ShardedCheckpoints
from .state_dicts import load_renamed, without_repeats

logger = logging.get_logger(__name__)


class _NotPickled:
    """Proxy for the training arguments while Trainer pickles them; the pickle is deleted right
    after.

    Arguments whose class was defined inside a function cannot be pickled, and the error would cost
    the finished run.
    """

    def __init__(self, args: UnlearnConfig):
        self._args = args

    def __getattr__(self, name: str) -> Any:
        return getattr(self._args, name)

    def __reduce__(self):
        return dict, ()


class SavingTrainer(Seq2SeqTrainer):
    """A trainer that saves and loads complete checkpoints. Subclasses override its three hooks."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._sharded = ShardedCheckpoints(self)
        super().__init__(*args, **kwargs)

    def _save_own_state(self, checkpoint: Path) -> None:
        """Hook: writes what resuming needs into a checkpoint. Called on the process that saves."""

    def _model_saved(self, folder: Path) -> None:
        """Hook: a model was saved into a folder. Called on the process that saves."""

    def _best_model_loaded(self, checkpoint: Path) -> None:
        """Hook: the weights of the best checkpoint were loaded at the end of the training."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in Trainer, which writes its state, `trainer_state.json`, last: a checkpoint that has
        it is complete. So an older one is removed first, and it is written only when all processes
        have written their files.

        Raises:
            SavingError: something could not be written; the incomplete checkpoint is removed.
        """
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
        # Trainer's state comes next, and must not be written before all processes' files.
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if not self._sharded.needed:
            return super().save_model(output_dir, _internal_call)
        # All processes gather the weights together; Trainer of transformers 5.17 calls `_save` on
        # the main process only.
        state_dict = self._sharded.state_dict()
        if self.args.should_save:
            self._save(output_dir, state_dict)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save:
            return super()._save(output_dir, state_dict)
        with saving(folder, Path(self.args.output_dir)), folder_written_whole(folder) as partial:
            model = self.accelerator.unwrap_model(self.model)
            if not isinstance(model, PreTrainedModel | PeftModel):
                state_dict = self.model.state_dict() if state_dict is None else state_dict
                state_dict = without_repeats(state_dict)
            self._save_without_pickle(partial, state_dict)
            write_deployment_files(self.processing_class, partial)
            saved = {path.name for path in partial.iterdir()}
        remove_other_weights(folder, saved)
        self._model_saved(folder)

    def _save_without_pickle(self, folder: Path, state_dict: dict | None) -> None:
        """As `Trainer._save`, but the training arguments are saved as JSON without tokens and
        paths, instead of as a pickle."""
        args, self.args = self.args, _NotPickled(self.args)
        try:
            super()._save(str(folder), state_dict)
        finally:
            self.args = args
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        write_json(folder / ARGUMENTS, public_arguments(self.args))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._sharded.needed:
            self._sharded.save_optimizer(Path(output_dir))
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self._sharded.needed:
            self._sharded.load_optimizer(Path(checkpoint))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        if self._sharded.needed:
            self._sharded.load_weights(Path(resume_from_checkpoint))
            return
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_renamed(self.model if model is None else model, Path(resume_from_checkpoint))

    def _issue_warnings_after_load(self, load_result: NamedTuple) -> None:
        """As in Trainer, which would fail for a module of the user's own with tied weights, because
        only the first of them is saved."""
        if isinstance(self.model, PreTrainedModel | PeftModel):
            return super()._issue_warnings_after_load(load_result)
        missing = set(load_result.missing_keys) & set(without_repeats(self.model.state_dict()))
        if missing or load_result.unexpected_keys:
            logger.warning(
                f"The checkpoint lacks the model's weights {sorted(missing)}, and the model lacks "
                f"the checkpoint's weights {sorted(load_result.unexpected_keys)}."
            )

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if self._sharded.needed:
            self._sharded.load_weights(best)
        else:
            super()._load_best_model()
            load_renamed(self.model, best)
        # If there are no weights, Trainer has warned and loaded nothing.
        if weights_in(best):
            self._best_model_loaded(best)
