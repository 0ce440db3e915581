"""What `UnlearnTrainer` publishes of its run, and when: cards, reports, pushes while it trains and
at its end."""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from peft import LoraConfig, PeftModel
from transformers import Seq2SeqTrainer, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from ..files import write_json
from ..hub.metadata import listed, local_among
from ..hub.model_card import write_card
from ..hub.name_checks import (
    ARGUMENTS,
    CARD,
    REDACTED,
    check_base,
    check_name,
    check_texts,
    check_told,
)
from ..hub.staging import link, stage
from ..hub.upload import HubError, hub_failures, push_folder
from ..hub.usage import processor_parts
from ..metrics.scales import scale_of
from ..privacy.redaction import salt_of
from ..report.best_effort import warn_if_not_written
from ..report.environment import emissions, environment
from ..report.html_page import Report
from ..report.results import RESULTS, Results
from .ending import RunRecord
from .leftovers import EarlierRun

logger = logging.get_logger(__name__)

# Fields of the training arguments that speak of this machine or this user; tokens are masked by
# `to_dict` besides.
PRIVATE = (
    "output_dir",
    "resume_from_checkpoint",
    "run_name",
    "logging_dir",
    "hub_token",
    "push_to_hub_token",
)

NO_STEP = "no step of unlearning was taken, so that nothing is forgotten: call train() first"


# What a run resumes from, beside the model's files.
RESUMED = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth", *REDACTED)


class EvaluatedBefore(TrainerCallback):
    """Trainer starts each training with an empty history: this keeps what was evaluated before the
    first step in it.

    It is the card's original model, also of a resumed run and after a second training.
    """

    def __init__(self, trainer: "PublishingTrainer"):
        self.trainer, self.rows = trainer, []

    def remember(self) -> None:
        """Before a training."""
        history = self.trainer.state.log_history
        # the second time: this history has the rows already
        started = any(row["step"] for row in history)
        self.rows = (
            self.rows if started else [row for row in history if any(map(_is_evaluation, row))]
        )

    def on_train_begin(self, args, state, control, **kwargs):
        if not any(any(map(_is_evaluation, row)) for row in state.log_history if row["step"] == 0):
            state.log_history[:0] = self.rows


def _is_evaluation(name: str) -> bool:
    return name.startswith("eval_")


class _NotPickled:
    """Training arguments while Trainer saves: it pickles them, into a file that is removed at once.
    A method, or a class of arguments from within a function, could not be pickled, and would cost
    the finished run."""

    def __init__(self, args):
        self._args = args

    def __getattr__(self, name: str):
        return getattr(self._args, name)

    def __reduce__(self):
        return dict, ()


class PublishingTrainer(Seq2SeqTrainer):
    """The part of `UnlearnTrainer` that publishes: its pushes are complete, and name nobody who is
    to be forgotten.

    Attributes:
        results: what results.json holds, where a recipe has written it; else the card says what the
            trainer knows.
        method_settings: the values that the method works with, by its keywords.
        record: what is known of the run: how many steps it took (see `RunRecord`).
    """

    results: Results | None = None
    method_settings: dict
    record: RunRecord
    _earlier: EarlierRun | None = None
    _constructed = False

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in Trainer, but only once all is checked that can be: what is refused leaves no empty
        repository.

        Raises:
            ValueError: a name that names somebody; an adapter that nobody could load; see
                `_check_push`.
            HubError: the Hub refused, or could not be reached.
        """
        self.push_in_progress = None
        # Trainer asks for it before our own checks
        if not self._constructed or not self.is_world_process_zero():
            return
        token = token or self.args.hub_token
        private = self.args.hub_private_repo if private is None else private
        repo_id = self._repo_id()
        self._check_push(repo_id, token)
        with hub_failures(repo_id, self.args.output_dir):
            self.hub_model_id = (
                HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id
            )

    def _repo_id(self) -> str:
        return (
            self.hub_model_id
            or self.args.hub_model_id
            or Path(self.args.output_dir).absolute().name
        )

    def _check_push(self, repo_id: str, token: str | None) -> None:
        """Refuses what every push of this run would refuse, before it is trained."""
        names = [] if self.args.name_forgotten else self.args.hide_names
        check_name(repo_id, names)
        check_told({"hub_revision": self.args.hub_revision}, names)
        if isinstance(self.model, PeftModel):
            check_base(self.model.active_peft_config.base_model_name_or_path)
        with tempfile.TemporaryDirectory() as folder:
            for part in (getattr(self.model, "config", None), self.processing_class):
                if names and hasattr(part, "save_pretrained"):
                    part.save_pretrained(folder)
            check_texts(Path(folder), names, token)

    def remember_hidden(self, checkpoint: str | None) -> None:
        """A run that goes on hides whom it has hidden before, whether its arguments say so again or
        not."""
        path = Path(checkpoint or "") / ARGUMENTS
        if checkpoint and path.is_file() and not self.args.name_forgotten:
            before = json.loads(path.read_text(encoding="utf-8")).get("hide_names") or []
            self.args.hide_names = list(dict.fromkeys([*self.args.hide_names, *map(str, before)]))

    def create_model_card(
        self, language=None, license=None, tags=None, model_name=None, finetuned_from=None, tasks=None,
        dataset_tags=None, dataset=None, dataset_args=None,
    ) -> None:  # fmt: skip
        """Writes results.json and the card (README.md) into output_dir; the main process does.
        Before any training, as in a script that only evaluates, it writes nothing and warns.

        As in Trainer; paths of this machine are left out.

        Args:
            language: one or several: "en", or "English"; default: those of the base model's card.
            license: as the Hub writes it, "apache-2.0"; default: that of the base model's card.
            tags: one or several, beside the card's own.
            model_name: default: the folder's name.
            finetuned_from: id of the base model; default: what the model was loaded from.
            tasks: what the model does, where its class does not tell.
            dataset_tags: one or several ids of data sets on the Hub.
            dataset, dataset_args: the data sets' names for readers, and their configurations.

        Raises:
            ValueError: the training took no step.
        """
        if self.results is None and not self.record.steps:
            if self.record.begun:
                raise ValueError(f"no card is written: {NO_STEP}")
            logger.warning(f"No card is written: {NO_STEP}.")
            return
        if not self.is_world_process_zero():
            return
        self._remove_earlier()
        results = replace(self.results or self._own_results())
        given = {"language": language, "license": license, "model_name": model_name, "base_model": finetuned_from,
                 "tags": tags, "tasks": tasks, "datasets": dataset_tags, "dataset_names": dataset,
                 "dataset_args": dataset_args}  # fmt: skip
        lists = {"tags", "tasks", "datasets", "dataset_names", "dataset_args"}
        given = {
            name: listed(value) if name in lists else value
            for name, value in given.items()
            if value
        }
        card = {**results.card, **given}
        names = [finetuned_from, *listed(dataset_tags), *listed(dataset), *listed(tags)]
        card["local"] = [*card.get("local", ()), *local_among(*names)]
        results.card = card
        folder = Path(self.args.output_dir)
        results.write(folder)
        with warn_if_not_written("the model card", folder):
            write_card(folder, results, salt_of(folder), name_forgotten=self.args.name_forgotten)

    def _remove_earlier(self) -> None:
        if self._earlier is not None:
            self._earlier.remove()

    def report(self) -> Report:
        """The run as a table (`print`), as HTML (a notebook's output), or as a page
        (`.save("report.html")`)."""
        salt = None if self.args.name_forgotten else salt_of(Path(self.args.output_dir))
        return Report(self.results or self._own_results(), salt)

    def _own_results(self) -> Results:
        """What the trainer knows of its run, as a recipe's results.json would say it."""
        model = self.accelerator.unwrap_model(self.model)
        adapter = isinstance(model, PeftModel)
        # none has a user's own module
        config = getattr(model.get_base_model() if adapter else model, "config", None)
        name = getattr(config, "_name_or_path", None)
        measured = _evaluations(self.state.log_history, self.eval_dataset)
        sizes = {"forget": self.train_dataset, "retain": self.retain_dataset}
        stopping = self.stopping
        weights = stopping.get("restored_step", self.state.global_step)
        return Results(
            task="data",
            scale=scale_of(self.compute_metrics),
            architecture=type(model.get_base_model() if adapter else model).__name__,
            processor=processor_parts(self.processing_class),
            pipeline=pipeline_of(model.get_base_model() if adapter else model),
            config={
                **self._public_arguments(),
                "processes": self.args.world_size,
                **(adapter_settings(model) if adapter else {}),
            },
            method_settings=self.method_settings,
            data={
                "samples": {
                    split: len(data) for split, data in sizes.items() if hasattr(data, "__len__")
                }
            },
            seed=self.args.seed,
            environment=environment(),
            original=measured.get(0),
            unlearned=measured.get(weights) if self.state.global_step else None,
            retrained=None,
            stopping=stopping,
            scoring=getattr(self.compute_metrics, "scoring", None),
            emissions_g=emissions(self.args),
            card={"base_model": name or None, "local": local_among(name)},
        )

    def _public_arguments(self) -> dict:
        given = {
            name: _plain(value)
            for name, value in self.args.to_dict().items()
            if name not in PRIVATE
        }
        # which stay here: `stage` has to know them
        return {**given, "hide_names": self.args.hide_names}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As in Trainer, but the training arguments as JSON, without tokens and paths: no
        pickle."""
        args, self.args = self.args, _NotPickled(self.args)
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args = args
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            write_json(folder / ARGUMENTS, self._public_arguments())

    def push_to_hub(
        self, commit_message: str | None = "End of training", blocking: bool = True, token: str | None = None,
        revision: str | None = None, private: bool | None = None, *, merge: bool = False, **card,
    ):  # fmt: skip
        """Saves and uploads model, processor, arguments, results and card (see `push_folder`); all
        processes call it.

        Args:
            merge: upload an adapter merged into its base model.
            card: arguments of `create_model_card`.

        Returns:
            the commit, or a Future of it where not `blocking`; None on all processes but the first.

        Raises:
            ValueError, HubError: as `push_folder`; ValueError also where no step of unlearning was
                taken.
        """
        if self.results is None and not self.record.steps:
            raise ValueError(
                f"nothing is pushed: {NO_STEP}; `hf-unlearn push` takes the folder of "
                "a finished run"
            )
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token or self.args.hub_token
        private = self.args.hub_private_repo if private is None else private
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**card)
        self._finish_current_push()
        options = {"token": token, "private": private, "revision": revision or self.args.hub_revision, "merge": merge,
                   "message": commit_message, "name_forgotten": self.args.name_forgotten}  # fmt: skip
        if blocking:
            return push_folder(self.args.output_dir, self._repo_id(), **options)
        return HfApi().run_as_future(push_folder, self.args.output_dir, self._repo_id(), **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As in Trainer, by `hub_strategy`: in the background, and passed over while the last push
        is under way."""
        strategy = self.args.hub_strategy
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        waits = (
            strategy == HubStrategy.END
            or busy
            and not self.args.hub_always_push
            or not self.record.steps
        )
        if not self.is_world_process_zero() or waits:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        staged = Path(tempfile.mkdtemp())
        self._stage_checkpoint(Path(checkpoint_folder), staged, strategy)
        job = HfApi().run_as_future(
            self._upload, staged, f"Training in progress, step {self.state.global_step}"
        )
        jobs = self.push_in_progress.jobs if busy else []
        self.push_in_progress = PushInProgress([*jobs, job])

    def _stage_checkpoint(self, checkpoint: Path, staged: Path, strategy: HubStrategy) -> None:
        """The checkpoint's model as the repository's, and the whole checkpoint beside it where the
        strategy says so."""
        with tempfile.TemporaryDirectory() as folder:
            complete = Path(folder)
            for path in checkpoint.iterdir():
                if path.is_file():
                    link(path, complete / path.name)
            (self.results or self._own_results()).write(complete)
            (complete / CARD).unlink(missing_ok=True)
            salt, named = salt_of(self.args.output_dir), self.args.name_forgotten
            names = stage(
                complete,
                staged,
                self.hub_model_id,
                salt,
                token=self.args.hub_token,
                name_forgotten=named,
            )
            whole = {
                HubStrategy.CHECKPOINT: "last-checkpoint",
                HubStrategy.ALL_CHECKPOINTS: checkpoint.name,
            }
            if strategy in whole:
                inside = staged / whole[strategy]
                inside.mkdir()
                for path in complete.iterdir():
                    # Not earlier weights, which still know what was to be forgotten, nor what
                    # somebody else has put there.
                    resumed = path.name != RESULTS and any(
                        path.match(pattern) for pattern in RESUMED
                    )
                    if (staged / path.name).exists() and path.name != RESULTS or resumed:
                        link(
                            staged / path.name if (staged / path.name).exists() else path,
                            inside / path.name,
                        )
                check_texts(inside, names, self.args.hub_token)

    def _upload(self, staged: Path, message: str) -> CommitInfo:
        try:
            with hub_failures(self.hub_model_id, self.args.output_dir):
                return HfApi(token=self.args.hub_token).upload_folder(
                    repo_id=self.hub_model_id, folder_path=staged, commit_message=message,
                    revision=self.args.hub_revision,
                )  # fmt: skip
        except HubError as error:  # the training goes on; the last push is the one that counts
            logger.warning(f"{message}: {error}")
            raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _plain(value):
    """A value of a user's own field of the arguments as JSON can hold it."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value


def adapter_settings(model: PeftModel) -> dict:
    """What kind of adapter a model has, under the names that recipes give to LoRA's settings."""
    config = model.active_peft_config
    settings = {"adapter": config.peft_type.value}
    if isinstance(config, LoraConfig):
        modules = config.target_modules
        settings |= {
            "lora_r": config.r,
            "lora_alpha": config.lora_alpha,
            "lora_target_modules": modules if isinstance(modules, str) else sorted(modules or ()),
        }
    return settings


TASK_OF_HEAD = {
    "ForCTC": "automatic-speech-recognition",
    "ForSpeechSeq2Seq": "automatic-speech-recognition",
    "ForImageClassification": "image-classification",
    "ForAudioClassification": "audio-classification",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
TASK_OF_INPUT = {  # for heads that all kinds of models have
    ("ForConditionalGeneration", "input_features"): "automatic-speech-recognition",
    ("ForSequenceClassification", "input_values"): "audio-classification",
    ("ForSequenceClassification", "input_features"): "audio-classification",
    ("ForSequenceClassification", "input_ids"): "text-classification",
}


def pipeline_of(model) -> str:
    """The Hub's name of what a model of transformers does; "" where its class does not tell."""
    name, given = type(model).__name__, getattr(model, "main_input_name", None)
    heads = [task for head, task in TASK_OF_HEAD.items() if name.endswith(head)]
    heads += [
        task
        for (head, main), task in TASK_OF_INPUT.items()
        if name.endswith(head) and given == main
    ]
    return heads[0] if heads else ""


def _evaluations(history: list[dict], eval_dataset) -> dict[int, dict]:
    """{step: {split: {metric: value}}} of what `evaluate` has logged, by the step whose weights it
    saw; one set that has no name is "evaluation"."""
    splits = sorted(eval_dataset, key=len, reverse=True) if isinstance(eval_dataset, dict) else []
    found: dict[int, dict] = {}
    for row in history:
        for key, value in row.items():
            if key.startswith("eval_"):
                split = next(
                    (split for split in splits if key.startswith(f"eval_{split}_")), _named(row)
                )
                metric = key.removeprefix(f"eval_{split}_" if split else "eval_")
                step = row.get("weights_step", row["step"])
                found.setdefault(step, {}).setdefault(split or "evaluation", {})[metric] = value
    return found


def _named(row: dict) -> str | None:
    """The split of a row by `evaluate(other_data, metric_key_prefix="eval_other")`, which logs
    eval_other_runtime."""
    timed = [
        key.removesuffix("_runtime")
        for key in row
        if key.startswith("eval_") and key.endswith("_runtime")
    ]
    return timed[0].removeprefix("eval").removeprefix("_") or None if len(timed) == 1 else None
