"""Publishing: what of a run is uploaded to the Hub, whom it names, and what is said when that fails."""

import contextlib
import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import transformers
from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from peft import LoraConfig, PeftConfig, PeftModel
from transformers import Seq2SeqTrainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress, logging

from .html_report import Report
from .model_card import local_among, on_hub, write_card
from .redaction import hidden_names, hide_tokens, hides, names_somebody, redact, salt_of, texts_of, without_paths
from .report import emissions, environment, read_results, write_results
from .tasks import task_of

logger = logging.get_logger(__name__)

RESULTS, ARGUMENTS, CARD = "results.json", "training_args.json", "README.md"
WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")
# Configurations, tokenizers and processors go as they are; pickles, audio, reports and logs stay here.
MODEL_FILES = (*WEIGHTS, "*.json", "vocab.txt", "merges.txt", "*.model", "*.spm", "*.jinja", "*.png")
REDACTED = (RESULTS, ARGUMENTS, "trainer_state.json", "unlearn_state.json")
LARGE = (".safetensors", ".pt", ".pth", ".bin")
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "*.index.json")
# Fields of the training arguments that speak of this machine or this user; tokens are masked by `to_dict` besides.
PRIVATE = ("output_dir", "resume_from_checkpoint", "run_name", "logging_dir", "hub_token", "push_to_hub_token")
ADVICE = {
    401: "The token is missing or not valid: log in with `hf auth login`, or set HF_TOKEN.",
    403: "The token may not write there: take one with write access, or another name.",
    404: "There is no such repository, or the token may not see it.",
    413: "A file is too large for the Hub: save the model in smaller shards.",
    429: "Too many requests: wait some minutes, then push again.",
}


class HubError(OSError):
    """A push that did not end in a commit."""


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload unlearned model",
    name_forgotten: bool = False,
    merge: bool = False,
) -> CommitInfo:
    """Uploads a run's output folder: weights, processor, configurations, training arguments, results, plots and card.

    Nothing is uploaded that names a forgotten person (see `stage`).

    Args:
        folder: output_dir of a run, with its results.json.
        repo_id: user/name on the Hub; made if it is not there.
        message: of the commit.
        name_forgotten: publish who was forgotten.
        token, private, revision: as in `HfApi.create_repo` and `upload_folder`, which retry as they always do.
        merge: an adapter is merged into its base model first.

    Returns:
        the commit.

    Raises:
        ValueError: the folder cannot be published as it is; nothing was sent.
        HubError: the Hub refused, or could not be reached.
    """
    with tempfile.TemporaryDirectory() as staged:
        stage(folder, staged, repo_id, salt_of(folder), token=token, name_forgotten=name_forgotten, merge=merge)
        with hub_failures(repo_id, folder):
            api = HfApi(token=token)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            return api.upload_folder(repo_id=repo_id, folder_path=staged, commit_message=message, revision=revision)


@contextlib.contextmanager
def hub_failures(repo_id: str, folder: str | Path) -> Iterator[None]:
    """Makes one clear message of the many ways in which talking to the Hub fails. Raises HubError."""
    try:
        yield
    except Exception as error:  # of huggingface_hub, of its HTTP library (which changes), of the threads that upload
        advice = ADVICE.get(
            _status(error), "The Hub did not answer as it should, several times over: push again later."
        )
        if isinstance(error, OfflineModeIsEnabled):
            advice = "Unset HF_HUB_OFFLINE."
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise HubError(
            f"could not push to {repo_id}: {hide_tokens(reason)}. {advice} There is no new commit; the model is in "
            f"{folder} as before."
        ) from error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error, or the one that it comes from, was raised for."""
    while error is not None:
        if (response := getattr(error, "response", None)) is not None:
            return response.status_code
        error = error.__cause__ or error.__context__
    return None


# ---- what is uploaded ---------------------------------------------------------------------------------------------------


def stage(
    folder: str | Path,
    target: str | Path,
    repo_id: str,
    salt: str,
    *,
    token: str | None = None,
    name_forgotten: bool = False,
    merge: bool = False,
) -> None:
    """Puts what is to be uploaded of `folder` into `target`, redacted.

    The card is the one of `folder` where somebody has edited it, and else written from results.json.

    Raises:
        ValueError: no results.json; an adapter of a model that is not on the Hub; a name of a forgotten person where it
            cannot be replaced: in the repository's name, a configuration or an edited card; an access token in a file.
    """
    folder, target = Path(folder), Path(target)
    results = read_results(folder)  # they say what was forgotten
    if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        raise ValueError(f"{folder} holds no weights in safetensors: give the output_dir of a finished run")
    texts = {name: json.loads((folder / name).read_text()) for name in REDACTED if (folder / name).is_file()}
    texts[RESULTS] = results
    hide = hides(texts, task_of(results).personal) and not name_forgotten
    if hide:
        results.pop("transcripts", None)  # what the forgotten said, word for word
    names = hidden_names(texts) if hide else []
    check_name(repo_id, names)
    for path in sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern)):
        if path.name not in (*REDACTED, "evaluation.json"):
            _link(path, target / path.name)
    if merge and (folder / "adapter_config.json").is_file():
        results["merged"] = True
        merge_adapter(folder, target)
    _check_adapter(target, results.get("card", {}).get("local", ()))
    _put_card(folder, target, results, salt, names, name_forgotten)
    for name, content in without_paths(redact(texts, salt) if hide else texts).items():
        write_results(target / name, content)
    _check_texts(target, names, token)


def check_name(repo_id: str, names: list[str]) -> None:
    """Raises ValueError for what can be no repository's name, or names somebody."""
    validate_repo_id(repo_id)
    if names_somebody(repo_id, names):
        raise ValueError(
            f"the repository's name, {repo_id}, names who is forgotten: give another hub_model_id or --repo_id (or publish the name "
            "knowingly with name_forgotten)"
        )


def _link(source: Path, target: Path) -> None:
    """Puts a file's content at `target`: weights are linked, and never written to; the rest is copied."""
    if source.suffix in LARGE:
        with contextlib.suppress(OSError):  # another file system
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def merge_adapter(folder: Path, target: Path) -> None:
    """Replaces the adapter in `target` by the whole model with the adapter of `folder` merged into it."""
    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    architecture = transformers.AutoConfig.from_pretrained(base).architectures[0]
    model = PeftModel.from_pretrained(getattr(transformers, architecture).from_pretrained(base), folder)
    for path in target.glob("adapter_*"):
        path.unlink()
    model.merge_and_unload().save_pretrained(target)


def _check_adapter(target: Path, local) -> None:
    config = target / "adapter_config.json"
    base = json.loads(config.read_text())["base_model_name_or_path"] if config.is_file() else None
    if config.is_file() and not on_hub(base, local):
        raise ValueError(
            f"the adapter's base model, {base}, is not on the Hub, so that nobody could load it: push it merged (--merge, or "
            "push_to_hub(merge=True))"
        )


def _put_card(folder: Path, target: Path, results: dict, salt: str, names: list[str], name_forgotten: bool) -> None:
    results["card"] = {"model_name": folder.absolute().name, **results.get("card", {})}
    fresh = write_card(target, results, salt, name_forgotten=name_forgotten)
    own = folder / CARD
    text = own.read_text(encoding="utf-8") if own.is_file() else str(fresh)
    if text == str(fresh) or results.get("merged"):
        return
    if names_somebody(text, names):
        raise ValueError(
            f"{own} seems to name who is forgotten: write it anew with `hf-unlearn card`, or publish the name "
            "knowingly with name_forgotten"
        )
    shutil.copyfile(own, target / CARD)


def _check_texts(target: Path, names: list[str], token: str | None) -> None:
    """The last look at what is about to be uploaded; short numbers are no names here, since configurations hold many."""
    names = [name for name in names if not name.isdigit() or len(name) > 2]
    token = token or get_token()
    files = [path for path in target.rglob("*") if path.is_file()]
    if named := [path.name for path in files if names_somebody(path.name, names)]:
        raise ValueError(f"the file {named[0]!r} names who is forgotten: rename it, or take it out of the folder")
    for path in (path for path in files if path.suffix not in (*LARGE, ".png")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if token and token in text:
            raise ValueError(f"{path.name} holds the access token: nothing was uploaded; remove it from the file")
        generated = path.name in (*REDACTED, CARD) or path.suffix == ".yaml"
        if generated or any(path.match(pattern) for pattern in VOCABULARIES) or path.suffix != ".json":
            continue
        if named := next((said for said in texts_of(json.loads(text)) if names_somebody(said, names)), None):
            raise ValueError(
                f"{path.name} says {named!r}, which names who is forgotten: change it, or publish the name knowingly "
                "with name_forgotten"
            )


# ---- the trainer's part -------------------------------------------------------------------------------------------------


class PublishingTrainer(Seq2SeqTrainer):
    """The part of `UnlearnTrainer` that publishes: its pushes are complete, and name nobody who is to be forgotten.

    Attributes:
        results: what results.json holds, where a recipe has written it; else the card says what the trainer knows.
        method_settings: the values that the method works with, by its keywords.
    """

    results: dict | None = None
    method_settings: dict

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in Trainer. Raises ValueError for a name that names somebody, and HubError."""
        if not self.is_world_process_zero():
            return
        token = token or self.args.hub_token
        private = self.args.hub_private_repo if private is None else private
        repo_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        if not self.args.name_forgotten:
            check_name(repo_id, self.args.hide_names)
        with hub_failures(repo_id, self.args.output_dir):
            self.hub_model_id = HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id
        self.push_in_progress = None

    def create_model_card(
        self, language=None, license=None, tags=(), model_name=None, finetuned_from=None, tasks=None,
        dataset_tags=None, dataset=(), dataset_args=None,
    ) -> None:  # fmt: skip
        """Writes results.json and the card (README.md) into output_dir; the main process does.

        Args:
            language, license: as the Hub writes them: "en", "apache-2.0"; else those of the base model's card.
            tags: one or several, beside the card's own.
            model_name: default: the folder's name.
            finetuned_from: id of the base model; default: what the model was loaded from.
            dataset: one or several ids of data sets.
            tasks, dataset_tags, dataset_args: Trainer's, not used.
        """
        if not self.is_world_process_zero():
            return
        results = dict(self.results or self._own_results())
        given = {"language": language, "license": license, "model_name": model_name, "base_model": finetuned_from,
                 "tags": [tags] if isinstance(tags, str) else list(tags or ()),
                 "datasets": [dataset] if isinstance(dataset, str) else list(dataset or ())}  # fmt: skip
        results["card"] = {**results.get("card", {}), **{name: value for name, value in given.items() if value}}
        folder = Path(self.args.output_dir)
        write_results(folder / RESULTS, results)
        write_card(folder, results, salt_of(folder), name_forgotten=self.args.name_forgotten)

    def report(self) -> Report:
        """The run as a table (`print`), as HTML (a notebook's output), or as a page (`.save("report.html")`)."""
        salt = None if self.args.name_forgotten else salt_of(Path(self.args.output_dir))
        return Report(self.results or self._own_results(), salt)

    def _own_results(self) -> dict:
        """What the trainer knows of its run, as a recipe's results.json would say it."""
        model = self.accelerator.unwrap_model(self.model)
        adapter = isinstance(model, PeftModel)
        name = getattr(model.get_base_model().config if adapter else model.config, "_name_or_path", None)
        measured = _evaluations(self.state.log_history, self.eval_dataset)
        sizes = {"forget": self.train_dataset, "retain": self.retain_dataset}
        return {
            "task": "data",
            "pipeline": pipeline_of(model.get_base_model() if adapter else model),
            "config": {
                **self._public_arguments(),
                "processes": self.args.world_size,
                **(adapter_settings(model) if adapter else {}),
            },
            "method_settings": self.method_settings,
            "data": {"samples": {split: len(data) for split, data in sizes.items() if data is not None}},
            "seed": self.args.seed,
            "environment": environment(),
            "original": measured.get(0),
            "unlearned": measured.get(self.state.global_step) if self.state.global_step else None,
            "retrained": None,
            "stopping": self.stopping,
            "emissions_g": emissions(self.args),
            "card": {"base_model": name or None, "local": local_among(name)},
        }

    def _public_arguments(self) -> dict:
        given = {name: value for name, value in self.args.to_dict().items() if name not in PRIVATE}
        return {**given, "hide_names": self.args.hide_names}  # which stay here: `stage` has to know them

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As in Trainer, but the training arguments as JSON, without tokens and paths: no pickle."""
        args, self.args = self.args, copy.copy(self.args)
        self.args.method = str(args.method)  # Trainer pickles what is removed below, and a method may not be picklable
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args = args
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            write_results(folder / ARGUMENTS, self._public_arguments())

    def push_to_hub(
        self, commit_message: str | None = "End of training", blocking: bool = True, token: str | None = None,
        revision: str | None = None, private: bool | None = None, *, merge: bool = False, **card,
    ):  # fmt: skip
        """Saves and uploads model, processor, arguments, results and card (see `push_folder`); all processes call it.

        Args:
            merge: upload an adapter merged into its base model.
            card: arguments of `create_model_card`.

        Returns:
            the commit, or a Future of it where not `blocking`; None on all processes but the first.

        Raises:
            ValueError, HubError: as `push_folder`.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**card)
        self._finish_current_push()
        options = {"token": token, "private": private, "revision": revision or self.args.hub_revision, "merge": merge,
                   "message": commit_message, "name_forgotten": self.args.name_forgotten}  # fmt: skip
        if blocking:
            return push_folder(self.args.output_dir, self.hub_model_id, **options)
        return HfApi().run_as_future(push_folder, self.args.output_dir, self.hub_model_id, **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As in Trainer, by `hub_strategy`: in the background, and passed over while the last push is under way."""
        strategy = self.args.hub_strategy
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if not self.is_world_process_zero() or strategy == HubStrategy.END or busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        staged = Path(tempfile.mkdtemp())
        self._stage_checkpoint(Path(checkpoint_folder), staged, strategy)
        job = HfApi().run_as_future(self._upload, staged, f"Training in progress, step {self.state.global_step}")
        jobs = self.push_in_progress.jobs if busy else []
        self.push_in_progress = PushInProgress([*jobs, job])

    def _stage_checkpoint(self, checkpoint: Path, staged: Path, strategy: HubStrategy) -> None:
        """The checkpoint's model as the repository's, and the whole checkpoint beside it where the strategy says so."""
        with tempfile.TemporaryDirectory() as folder:
            complete = Path(folder)
            for path in checkpoint.iterdir():
                if path.is_file():
                    _link(path, complete / path.name)
            write_results(complete / RESULTS, self.results or self._own_results())
            (complete / CARD).unlink(missing_ok=True)
            salt, named = salt_of(self.args.output_dir), self.args.name_forgotten
            stage(complete, staged, self.hub_model_id, salt, token=self.args.hub_token, name_forgotten=named)
            whole = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
            if strategy in whole:
                inside = staged / whole[strategy]
                inside.mkdir()
                for path in complete.iterdir():
                    # Earlier weights, which a run resumes from or goes back to, still know what was to be forgotten.
                    earlier = path.suffix == ".safetensors" and not (staged / path.name).exists()
                    if path.name != RESULTS and not earlier:
                        _link(staged / path.name if (staged / path.name).exists() else path, inside / path.name)

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
    heads += [task for (head, main), task in TASK_OF_INPUT.items() if name.endswith(head) and given == main]
    return heads[0] if heads else ""


def _evaluations(history: list[dict], eval_dataset) -> dict[int, dict]:
    """{step: {split: {metric: value}}} of what `evaluate` has logged."""
    splits = sorted(eval_dataset, key=len, reverse=True) if isinstance(eval_dataset, dict) else []
    found: dict[int, dict] = {}
    for row in history:
        for key, value in row.items():
            if key.startswith("eval_"):
                split = next((split for split in splits if key.startswith(f"eval_{split}_")), None)
                metric = key.removeprefix(f"eval_{split}_" if split else "eval_")
                found.setdefault(row["step"], {}).setdefault(split or "test", {})[metric] = value
    return found
