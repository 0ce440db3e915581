"""What `UnlearnTrainer` publishes, and when: its card, its report, and its pushes to the Hub.

The results of a run come from `run_results`; `pushes` checks pushes and uploads checkpoints.
"""

import json
import tempfile
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from transformers import Seq2SeqTrainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..config import UnlearnConfig
from ..files import write_json
from ..hub.metadata import listed, local_among
from ..hub.model_card import write_card
from ..hub.name_checks import ARGUMENTS
from ..hub.upload import hub_failures, push_folder
from ..hub.usage import processor_parts
from ..metrics.scales import scale_of
from ..privacy.redaction import salt_of
from ..report.best_effort import warn_if_not_written
from ..report.environment import emissions, environment
from ..report.html_page import Report
from ..report.results import Results
from .earlier_run import EarlierRun
from .pushes import check_push, stage_checkpoint, upload
from .run_record import RunRecord
from .run_results import (
    adapter_settings,
    describe_model,
    evaluations_by_step,
    public_arguments,
    sample_counts,
)

logger = logging.get_logger(__name__)


class _NotPickled:
    """Stands in for the training arguments while Trainer saves.

    Trainer pickles them into a file that is removed at once. Arguments whose class was defined
    inside a function cannot be pickled, and the error would cost the finished run.
    """

    def __init__(self, args: UnlearnConfig):
        self._args = args

    def __getattr__(self, name: str) -> Any:
        return getattr(self._args, name)

    def __reduce__(self):
        return dict, ()


class PublishingTrainer(Seq2SeqTrainer):
    """The part of `UnlearnTrainer` that publishes. Its pushes are complete and name nobody who is
    to be forgotten.

    The subclass sets all attributes but `results`.

    Attributes:
        args: the arguments, with the fields of unlearning.
        retain_dataset: the samples to keep; None for methods that need none.
        method_settings: the values that the method works with, by keyword.
        record: the record of the run, such as how many steps it took.
        resumed_from: the checkpoint that the current training resumed from, if any.
        results: the content of results.json if a recipe has written it; else None, and the card
            says what the trainer itself knows.
    """

    args: UnlearnConfig
    retain_dataset: Any
    method_settings: dict
    record: RunRecord
    resumed_from: str | None
    results: Results | None = None
    # the files of an earlier run in output_dir, which are removed when this run saves
    _earlier_run: EarlierRun | None = None
    # whether the constructor of the whole class has come to its end
    _constructed: bool = False

    @property
    def stopping(self) -> dict:
        """What ended the training (see `UnlearnTrainer`)."""
        raise NotImplementedError

    # ---- results, card and report ----------------------------------------------------------------

    def own_results(self) -> Results:
        """What the trainer knows of its run, as a recipe's results.json would say it."""
        model = self.accelerator.unwrap_model(self.model)
        measured = evaluations_by_step(self.state.log_history, self.eval_dataset)
        stopping, last_step = self.stopping, self.state.global_step
        weights_step = stopping.get("restored_step", last_step)
        return Results(
            task="data",
            scale=scale_of(self.compute_metrics),
            processor=processor_parts(self.processing_class),
            **describe_model(model),
            config={
                **public_arguments(self.args),
                "processes": self.args.world_size,
                **adapter_settings(model),
            },
            method_settings=self.method_settings,
            data={"samples": sample_counts(self.train_dataset, self.retain_dataset)},
            seed=self.args.seed,
            environment=environment(),
            original=measured.get(0),
            unlearned=measured.get(weights_step) if last_step else None,
            retrained=None,
            stopping=stopping,
            scoring=getattr(self.compute_metrics, "scoring", None),
            emissions_g=emissions(self.args),
        )

    def create_model_card(
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Writes results.json and the card (README.md) into output_dir; only the main process
        writes. Before any training, as in a script that only evaluates, it warns and writes
        nothing.

        As in Trainer, but local paths are left out.

        Args:
            language: one or several, such as "en" or "English"; default: those of the base model's
                card.
            license: the Hub's identifier, such as "apache-2.0"; default: that of the base model's
                card.
            tags: one or several tags, added to the card's own.
            model_name: default: the folder's name.
            finetuned_from: id of the base model; default: what the model was loaded from.
            tasks: what the model does; default: derived from its class.
            dataset_tags: ids of one or several datasets on the Hub.
            dataset, dataset_args: the datasets' names for readers, and their configurations.

        Raises:
            ValueError: the training took no optimizer step, or none that changed a weight.
        """
        if self.results is None and (nothing := self.record.nothing_done):
            if self.record.begun:
                raise ValueError(f"no card is written: {nothing}")
            logger.warning(f"No card is written: {nothing}: call train() first.")
            return
        if not self.is_world_process_zero():
            return
        self._remove_earlier_run()
        results = replace(self.results or self.own_results())
        texts = {"language": language, "license": license, "model_name": model_name,
                 "base_model": finetuned_from}  # fmt: skip
        lists = {"tags": tags, "tasks": tasks, "datasets": dataset_tags, "dataset_names": dataset,
                 "dataset_args": dataset_args}  # fmt: skip
        given = {name: value for name, value in texts.items() if value}
        given |= {name: listed(value) for name, value in lists.items() if value}
        card = {**results.card, **given}
        names = [finetuned_from, *listed(dataset_tags), *listed(dataset), *listed(tags)]
        card["local"] = [*card.get("local", ()), *local_among(*names)]
        results.card = card
        folder = Path(self.args.output_dir)
        results.write(folder)
        with warn_if_not_written("the model card", folder):
            write_card(folder, results, salt_of(folder), name_forgotten=self.args.name_forgotten)

    def _remove_earlier_run(self) -> None:
        """Removes what an earlier run left in output_dir, once this run's files take its place."""
        if self._earlier_run is not None:
            self._earlier_run.remove()

    def report(self) -> Report:
        """The run as a table (`print`), as HTML (the output of a notebook cell), or as a page
        (`.save("report.html")`)."""
        salt = None if self.args.name_forgotten else salt_of(Path(self.args.output_dir))
        return Report(self.results or self.own_results(), salt)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As in Trainer, but the training arguments are saved as JSON without tokens and paths,
        instead of as a pickle."""
        args, self.args = self.args, _NotPickled(self.args)
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args = args
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            write_json(folder / ARGUMENTS, public_arguments(self.args))

    # ---- the Hub ---------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in Trainer, but the repository is created only after all possible checks, so that a
        refused push leaves no empty repository.

        Raises:
            ValueError: a name or text names a forgotten person; the adapter's base model is not on
                the Hub.
            HubError: the Hub refused, or could not be reached.
        """
        self.push_in_progress = None
        # Trainer's constructor calls this before the checks of our own constructor.
        if not self._constructed or not self.is_world_process_zero():
            return
        token = token or self.args.hub_token
        private = self.args.hub_private_repo if private is None else private
        repo_id = self._repo_id()
        check_push(repo_id, self.model, self.processing_class, self.args, token)
        with hub_failures(repo_id, self.args.output_dir):
            created = HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True)
            self.hub_model_id = created.repo_id

    def _repo_id(self) -> str:
        folder_name = Path(self.args.output_dir).absolute().name
        return self.hub_model_id or self.args.hub_model_id or folder_name

    def remember_hidden(self, checkpoint: str | None) -> None:
        """Adds the `hide_names` stored in a checkpoint to those of the arguments, so that a resumed
        run hides whom it hid before."""
        path = Path(checkpoint or "") / ARGUMENTS
        if checkpoint and path.is_file() and not self.args.name_forgotten:
            before = json.loads(path.read_text(encoding="utf-8")).get("hide_names") or []
            self.args.hide_names = list(dict.fromkeys([*self.args.hide_names, *map(str, before)]))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        *,
        merge: bool = False,
        **card: Any,
    ) -> CommitInfo | Future | None:
        """Saves and uploads model, processor, arguments, results and card (see `push_folder`). All
        processes must call it.

        Args:
            merge: upload an adapter merged into its base model.
            card: arguments of `create_model_card`.

        Returns:
            the commit, or a Future of it if not `blocking`; None on all processes but the first.

        Raises:
            ValueError, HubError: as `push_folder`; ValueError also if no optimizer step was taken.
        """
        if self.results is None and (nothing := self.record.nothing_done):
            raise ValueError(
                f"nothing is pushed: {nothing}: call train() first. (`hf-unlearn push` pushes the "
                "folder of a finished run.)"
            )
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**card)
        self._finish_current_push()
        options = {
            "token": token or self.args.hub_token,
            "private": self.args.hub_private_repo if private is None else private,
            "revision": revision or self.args.hub_revision,
            "merge": merge,
            "message": commit_message,
            "name_forgotten": self.args.name_forgotten,
        }
        if blocking:
            return push_folder(self.args.output_dir, self._repo_id(), **options)
        return HfApi().run_as_future(push_folder, self.args.output_dir, self._repo_id(), **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As in Trainer: pushes in the background, as `hub_strategy` says, and skips a push while
        the last one is under way."""
        if not self.is_world_process_zero() or self.record.nothing_done:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        skips = busy and not self.args.hub_always_push
        if self.args.hub_strategy == HubStrategy.END or skips:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        staged = Path(tempfile.mkdtemp())
        results = self.results or self.own_results()
        stage_checkpoint(Path(checkpoint_folder), staged, results, self.hub_model_id, self.args)
        message = f"Training in progress, step {self.state.global_step}"
        job = HfApi().run_as_future(upload, staged, message, self.hub_model_id, self.args)
        jobs = self.push_in_progress.jobs if busy else []
        self.push_in_progress = PushInProgress([*jobs, job])
