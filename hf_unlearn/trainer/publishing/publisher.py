"""What `UnlearnTrainer` publishes, and when: its card, its report, and its pushes to the Hub.

The results of a run come from `run_results`; `pushes` checks pushes and uploads checkpoints.
"""

import json
import tempfile
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import CommitInfo, HfApi
from transformers import TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ...config.public_arguments import public_arguments
from ...hub.metadata import listed, local_among
from ...hub.model_card import write_card
from ...hub.upload import hub_failures, push_folder
from ...hub.usage import processor_parts
from ...metrics.described_metrics import description_of
from ...privacy.redaction import salt_of
from ...report.best_effort import warn_if_not_written
from ...report.environment import emissions, environment
from ...report.file_names import ARGUMENTS
from ...report.html_page import Report
from ...report.results import Results
from ..protocol import EvaluationView, Samples
from ..stopping.run_record import RunRecord
from .earlier_run import EarlierRun
from .pushes import check_push_of_trainer, stage_checkpoint, upload
from .run_results import adapter_settings, describe_model, evaluations_by_step, sample_counts

logger = logging.get_logger(__name__)


class PublishedTrainer(EvaluationView, Protocol):
    """What a `Publisher` uses of the trainer.

    Attributes:
        train_dataset: the forget set.
        retain_dataset: the samples to keep; None for methods that need none.
        method_settings: the values that the method works with, by keyword.
        stopping: what ended the training.
        results: the content of results.json if a recipe has written it; else None, and the card
            says what the trainer itself knows.
        hub_model_id: the repository; None until it is created.
        push_in_progress: the pushes under way; None before the first one.
    """

    state: TrainerState
    control: TrainerControl
    callback_handler: CallbackHandler
    train_dataset: Samples | None
    retain_dataset: Samples | None
    method_settings: dict[str, Any]
    stopping: dict
    results: Results | None
    hub_model_id: str | None
    push_in_progress: PushInProgress | None

    def own_results(self) -> Results:
        """What the trainer knows of its run."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model into output_dir. All processes call it."""

    def create_model_card(self) -> None:
        """Writes results.json and the card; takes the fields of a card as keywords."""

    def _finish_current_push(self) -> None:
        """Waits for the pushes under way."""


class Publisher:
    """Writes a trainer's card and report, and pushes its model. Its pushes are complete and never
    name a forgotten person.

    Args:
        record: the record of the run, such as how many steps it took.
    """

    def __init__(self, trainer: PublishedTrainer, record: RunRecord):
        self._trainer, self._record = trainer, record
        # The files of an earlier run in output_dir, which are removed when this run saves; None
        # before the training and on all processes but the main one.
        self._earlier_run: EarlierRun | None = None

    # ---- results, card and report ----------------------------------------------------------------

    def own_results(self) -> Results:
        """What the trainer knows of its run, as a recipe's results.json would say it."""
        trainer, args = self._trainer, self._trainer.args
        model = trainer.accelerator.unwrap_model(trainer.model)
        measured = evaluations_by_step(trainer.state.log_history, trainer.eval_dataset)
        stopping, last_step = trainer.stopping, trainer.state.global_step
        weights_step = stopping.get("restored_step", last_step)
        metrics = description_of(trainer.compute_metrics)
        return Results(
            task="data",
            scale=metrics.scale,
            processor=processor_parts(trainer.processing_class),
            **describe_model(model),
            config={
                **public_arguments(args),
                "processes": args.world_size,
                **adapter_settings(model),
            },
            method_settings=trainer.method_settings,
            data={"samples": sample_counts(trainer.train_dataset, trainer.retain_dataset)},
            seed=args.seed,
            environment=environment(),
            original=measured.get(0),
            unlearned=measured.get(weights_step) if last_step else None,
            retrained=None,
            stopping=stopping,
            scoring=metrics.scoring,
            emissions_g=emissions(args),
        )

    def results(self) -> Results:
        """The recipe's results if it has written them, else the trainer's own."""
        return self._trainer.results or self._trainer.own_results()

    @property
    def nothing_forgotten(self) -> str | None:
        """Why there is nothing to publish; None where a recipe has written results, or an optimizer
        step has changed weights."""
        return self._record.nothing_done if self._trainer.results is None else None

    def create_model_card(self, arguments: dict[str, str | list[str] | None]) -> None:
        """Writes results.json and the card, as `UnlearnTrainer.create_model_card` says.

        Args:
            arguments: the arguments of that method, by keyword.
        """
        if nothing := self.nothing_forgotten:
            if self._record.begun:
                raise ValueError(f"no card is written: {nothing}")
            logger.warning(f"No card is written: {nothing}: call train() first.")
            return
        if not self._trainer.is_world_process_zero():
            return
        self._remove_earlier_run()
        # a copy, because the recipe's results stay as they are
        results = replace(self.results())
        results.card = {**results.card, **_card_fields(results, arguments)}
        args = self._trainer.args
        folder = Path(args.output_dir)
        results.write(folder)
        with warn_if_not_written("the model card", folder):
            write_card(folder, results, salt_of(folder), name_forgotten=args.name_forgotten)

    def find_earlier_run(self, keep: tuple[str, ...]) -> None:
        """Records the files of an earlier run in output_dir.

        Args:
            keep: names of files to leave alone.
        """
        args = self._trainer.args
        self._earlier_run = EarlierRun(Path(args.output_dir), keep) if args.should_save else None

    def model_saved(self, folder: Path) -> None:
        """Removes what an earlier run left in output_dir if a model was saved there."""
        if folder.samefile(self._trainer.args.output_dir):
            self._remove_earlier_run()

    def _remove_earlier_run(self) -> None:
        if self._earlier_run is not None:
            self._earlier_run.remove()

    def report(self) -> Report:
        """See `UnlearnTrainer.report`."""
        args = self._trainer.args
        salt = None if args.name_forgotten else salt_of(Path(args.output_dir))
        return Report(self.results(), salt)

    # ---- the Hub ---------------------------------------------------------------------------------

    def create_repository(self, token: str | None, private: bool | None) -> None:
        """See `UnlearnTrainer.init_hf_repo`."""
        trainer, args = self._trainer, self._trainer.args
        if not trainer.is_world_process_zero():
            return
        token = token or args.hub_token
        private = args.hub_private_repo if private is None else private
        repo_id = self._repo_id()
        check_push_of_trainer(repo_id, trainer.model, trainer.processing_class, args, token)
        with hub_failures(repo_id, args.output_dir):
            created = HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True)
            trainer.hub_model_id = created.repo_id

    def _repo_id(self) -> str:
        args = self._trainer.args
        return (
            self._trainer.hub_model_id or args.hub_model_id or Path(args.output_dir).absolute().name
        )

    def remember_hidden(self, checkpoint: str | None) -> None:
        """Adds the `hide_names` stored in a checkpoint to those of the arguments, so that a resumed
        run hides whom it hid before."""
        args, path = self._trainer.args, Path(checkpoint or "") / ARGUMENTS
        if checkpoint and path.is_file() and not args.name_forgotten:
            before = json.loads(path.read_text(encoding="utf-8")).get("hide_names") or []
            args.hide_names = list(dict.fromkeys([*args.hide_names, *map(str, before)]))

    def push(
        self,
        message: str | None,
        blocking: bool,
        token: str | None,
        revision: str | None,
        private: bool | None,
        merge: bool,
        card: dict,
    ) -> CommitInfo | Future | None:
        """See `UnlearnTrainer.push_to_hub`."""
        trainer, args = self._trainer, self._trainer.args
        if nothing := self.nothing_forgotten:
            raise ValueError(
                f"nothing is pushed: {nothing}: call train() first. (`hf-unlearn push` pushes the "
                "folder of a finished run.)"
            )
        trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
        trainer.save_model(_internal_call=True)
        if not trainer.is_world_process_zero():
            return None
        trainer.create_model_card(**card)
        trainer._finish_current_push()
        options = {
            "token": token or args.hub_token,
            "private": args.hub_private_repo if private is None else private,
            "revision": revision or args.hub_revision,
            "merge": merge,
            "message": message,
            "name_forgotten": args.name_forgotten,
        }
        if blocking:
            return push_folder(args.output_dir, self._repo_id(), **options)
        return HfApi().run_as_future(push_folder, args.output_dir, self._repo_id(), **options)

    def push_checkpoint(self, checkpoint: Path) -> None:
        """As in Trainer: pushes in the background, as `hub_strategy` says, and skips a push while
        the last one is under way."""
        trainer, args = self._trainer, self._trainer.args
        if not trainer.is_world_process_zero() or self._record.nothing_done:
            return
        busy = trainer.push_in_progress is not None and not trainer.push_in_progress.is_done()
        skips = busy and not args.hub_always_push
        if args.hub_strategy == HubStrategy.END or skips:
            return
        trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
        staged = Path(tempfile.mkdtemp())
        stage_checkpoint(checkpoint, staged, self.results(), trainer.hub_model_id, args)
        message = f"Training in progress, step {trainer.state.global_step}"
        job = HfApi().run_as_future(upload, staged, message, trainer.hub_model_id, args)
        jobs = trainer.push_in_progress.jobs if busy else []
        # transformers takes the list of jobs for one job.
        trainer.push_in_progress = PushInProgress([*jobs, job])  # type: ignore[misc]


def _card_fields(results: Results, arguments: dict[str, str | list[str] | None]) -> dict:
    """The arguments of `create_model_card` that were given, under the names of `build_card`, and
    which of all names are of local files."""
    texts = {
        "language": arguments["language"],
        "license": arguments["license"],
        "model_name": arguments["model_name"],
        "base_model": arguments["finetuned_from"],
    }
    lists = {
        "tags": arguments["tags"],
        "tasks": arguments["tasks"],
        "datasets": arguments["dataset_tags"],
        "dataset_names": arguments["dataset"],
        "dataset_args": arguments["dataset_args"],
    }
    ids = ("dataset_tags", "dataset", "tags")
    names = [arguments["finetuned_from"], *(name for key in ids for name in listed(arguments[key]))]
    return {
        **{name: value for name, value in texts.items() if value},
        **{name: listed(value) for name, value in lists.items() if value},
        "local": [*results.card.get("local", ()), *local_among(*names)],
    }
