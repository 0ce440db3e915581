"""What `UnlearnTrainer` saves and loads: checkpoints that are complete or absent.
`checkpoint_files` finds and checks checkpoints on disk; `sharded_checkpoints` knows sharded models.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ...config import UnlearnConfig
from ...config.public_arguments import public_arguments
from ...files import write_json
from ...models import replaced
from ...report.file_names import ARGUMENTS
from ..protocol import CheckpointView
from .checkpoint_files import explaining_failures, folder_written_whole, is_complete
from .deployment_files import write_deployment_files
from .sharded_checkpoints import ShardedCheckpoints
from .state_dicts import load_renamed, without_repeats
from .weight_files import remove_other_weights, weights_in

logger = logging.get_logger(__name__)


class LoadResult(NamedTuple):
    """What `load_state_dict` returns: the names of weights that only one of both sides has."""

    missing_keys: list[str]
    unexpected_keys: list[str]


# Trainer's own methods, bound to the trainer.
# _save_checkpoint
WriteCheckpoint = Callable[[nn.Module, Any], None]
# save_model
WriteModel = Callable[[str | None, bool], None]
# _save
WriteFiles = Callable[[str | None, dict | None], None]
# _save_rng_state, _save_optimizer_and_scheduler
WriteFolder = Callable[[str], None]
# _load_optimizer_and_scheduler
LoadOptimizer = Callable[[str | None], None]
# _load_from_checkpoint
LoadWeights = Callable[[str, nn.Module | None], None]
# _issue_warnings_after_load
WarnAfterLoad = Callable[[LoadResult], None]
# _load_best_model
LoadBest = Callable[[], None]


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

    def __reduce__(self) -> tuple[type, tuple]:
        return dict, ()


class CheckpointSaver:
    """Saves and loads a trainer's complete checkpoints. Methods take Trainer's own version of
    themselves, with its arguments, as `write` or `load`.

    Args:
        on_save: writes into a checkpoint what else resuming needs.
        on_saved: is told the folder that a model was saved into.
        on_best_loaded: is told the best checkpoint, whose weights were loaded at the end of the
            training. The first two are called on the process that saves, this one on all.
    """

    def __init__(
        self,
        trainer: CheckpointView,
        on_save: Callable[[Path], None],
        on_saved: Callable[[Path], None],
        on_best_loaded: Callable[[Path], None],
    ):
        self._trainer, self._sharded = trainer, ShardedCheckpoints(trainer)
        self._on_save, self._on_saved, self._on_best_loaded = on_save, on_saved, on_best_loaded

    # ---- saving ----------------------------------------------------------------------------------

    def save_checkpoint(self, write: WriteCheckpoint, model: nn.Module, trial: Any) -> None:
        """As in Trainer, which writes its state, `trainer_state.json`, last: a checkpoint that has
        it is complete. So an older one is removed first, and it is written only when all processes
        have written their files.

        Raises:
            SavingError: something could not be written; the incomplete checkpoint is removed.
        """
        trainer, saves = self._trainer, self._trainer.args.should_save
        output_dir = Path(trainer._get_output_dir(trial))
        folder = output_dir / f"{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}"
        with explaining_failures(folder, output_dir):
            try:
                if saves:
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
                    self._on_save(folder)
                write(model, trial)
            except Exception:
                if saves and not is_complete(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                raise

    def save_random_state(self, write: WriteFolder, output_dir: str) -> None:
        write(output_dir)
        # Trainer's state comes next, and must not be written before all processes' files.
        self._trainer.accelerator.wait_for_everyone()

    def save_model(self, write: WriteModel, output_dir: str | None, is_internal: bool) -> None:
        """As in Trainer.

        Args:
            is_internal: whether this save is a part of something else, so that it is not pushed.
        """
        trainer, args = self._trainer, self._trainer.args
        if not self._sharded.needed:
            return write(output_dir, is_internal)
        # All processes gather the weights together; Trainer of transformers 5.17 calls `_save` on
        # the main process only.
        state_dict = self._sharded.state_dict()
        if args.should_save:
            trainer._save(output_dir, state_dict)
        if args.push_to_hub and not is_internal:
            trainer.push_to_hub(commit_message="Model save", revision=args.hub_revision)

    def save_files(
        self, write: WriteFiles, output_dir: str | None, state_dict: dict | None
    ) -> None:
        """Writes a model and its processor into a folder, completely or not at all."""
        trainer, args = self._trainer, self._trainer.args
        folder = Path(output_dir or args.output_dir)
        if not args.should_save:
            return write(output_dir, state_dict)
        with (
            explaining_failures(folder, Path(args.output_dir)),
            folder_written_whole(folder) as partial,
        ):
            model = trainer.accelerator.unwrap_model(trainer.model)
            if not isinstance(model, PreTrainedModel | PeftModel):
                state_dict = trainer.model.state_dict() if state_dict is None else state_dict
                state_dict = without_repeats(state_dict)
            self._write_without_pickle(write, partial, state_dict)
            write_deployment_files(trainer.processing_class, partial)
            saved = {path.name for path in partial.iterdir()}
        remove_other_weights(folder, saved)
        self._on_saved(folder)

    def _write_without_pickle(
        self, write: WriteFiles, folder: Path, state_dict: dict | None
    ) -> None:
        """As `Trainer._save`, but the training arguments are saved as JSON without tokens and
        paths, instead of as a pickle."""
        args = self._trainer.args
        with replaced(self._trainer, args=_NotPickled(args)):
            write(str(folder), state_dict)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        write_json(folder / ARGUMENTS, public_arguments(args))

    def save_optimizer(self, write: WriteFolder, output_dir: str) -> None:
        if self._sharded.needed:
            self._sharded.save_optimizer(Path(output_dir))
        else:
            write(output_dir)

    # ---- loading ---------------------------------------------------------------------------------

    def load_optimizer(self, load: LoadOptimizer, checkpoint: str | None) -> None:
        if checkpoint is not None and self._sharded.needed:
            self._sharded.load_optimizer(Path(checkpoint))
        else:
            load(checkpoint)

    def load_checkpoint(self, load: LoadWeights, checkpoint: str, model: nn.Module | None) -> None:
        if self._sharded.needed:
            self._sharded.load_weights(Path(checkpoint))
            return
        load(checkpoint, model)
        load_renamed(self._trainer.model if model is None else model, Path(checkpoint))

    def warn_after_load(self, warn: WarnAfterLoad, load_result: LoadResult) -> None:
        """As in Trainer, which would fail for a module of the user's own with tied weights, because
        only the first of them is saved."""
        model = self._trainer.model
        if isinstance(model, PreTrainedModel | PeftModel):
            return warn(load_result)
        missing = set(load_result.missing_keys) & set(without_repeats(model.state_dict()))
        if missing or load_result.unexpected_keys:
            logger.warning(
                f"The checkpoint lacks the model's weights {sorted(missing)}, and the model lacks "
                f"the checkpoint's weights {sorted(load_result.unexpected_keys)}."
            )

    def load_best_model(self, load: LoadBest) -> None:
        best = Path(self._trainer.state.best_model_checkpoint)
        if self._sharded.needed:
            self._sharded.load_weights(best)
        else:
            load()
            load_renamed(self._trainer.model, best)
        # If there are no weights, Trainer has warned and loaded nothing.
        if weights_in(best):
            self._on_best_loaded(best)
