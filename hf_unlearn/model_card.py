"""The model card of an unlearned model, and what keeps a forgotten speaker's name out of it."""

import hashlib
import re
import secrets
from importlib import resources
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .report import results_table
from .tasks import Task, task_of

TAGS = ("unlearning", "machine-unlearning", "arxiv:2503.02312")
IDENTIFYING = ("forget_speakers", "forget_ids", "retain_speakers", "retain_ids", "speakers")  # keys of lists of ids


def build_card(
    results: dict,
    *,
    model_name: str = "unlearned-model",
    base_model: str | None = None,
    datasets=(),
    language: str | None = None,
    license: str | None = None,
    plot: str | None = None,
    salt: str | None = None,
    name_forgotten: bool = False,
) -> ModelCard:
    """Card from `results` (what results.json holds) and the template.

    It names no speaker unless `name_forgotten`; classes of images are named (`Task.personal` makes the difference).

    Args:
        base_model, datasets: Hub ids; local folders are left out of the metadata, where the Hub refuses them.
        language, license: as the Hub writes them: "en", "apache-2.0".
        plot: the PNG's path relative to the card.
        salt: of the pseudonyms (see `redact`); a fresh one where there is none, so that they cannot be guessed.

    Raises:
        ValueError: it is not known whom to hide, or no model was evaluated.
    """
    task = task_of(results)
    name_forgotten = name_forgotten or not task.personal
    about = {"model_name": model_name, "base_model": base_model, "datasets": list(datasets), "plot": plot}
    if not name_forgotten:
        redacted = redact({**results, "about": about}, salt or secrets.token_hex(16))
        results, about = redacted, redacted["about"]
    config = results["config"]
    hub_datasets = [name for name in about["datasets"] if _on_hub(name)]
    data = ModelCardData(
        model_name=about["model_name"],
        library_name="transformers",
        pipeline_tag=task.pipeline,
        base_model=about["base_model"] if _on_hub(about["base_model"]) else None,
        base_model_relation="finetune" if _on_hub(about["base_model"]) else None,
        tags=[*TAGS, task.pipeline, *filter(None, [_setting(config, "method")])],
        datasets=hub_datasets or None,
        language=language,
        license=license,
        metrics=_rates(task),
        eval_results=_eval_results(results["unlearned"] or {}, task, hub_datasets) or None,
    )
    template = resources.files("hf_unlearn.model_cards").joinpath("template.md").read_text(encoding="utf-8")
    return ModelCard.from_template(data, template_str=template, **_text(results, about, name_forgotten))


def _text(results, about, name_forgotten):
    """What the template says beside the metadata."""
    settings = (
        "method",
        "alpha",
        "granularity",
        "per_device_retain_batch_size",
        "learning_rate",
        "optim",
        "max_steps",
    )
    task = task_of(results)
    return {
        "about": about,
        "task": task,
        "whole_groups": task.forgotten == task.group,
        "units": results["data"][task.units],
        "groups": results["data"][task.groups],
        "settings": {name: _setting(results["config"], name) for name in settings},
        "forgotten": _setting(results["config"], f"forget_{task.groups}") or results["data"][task.groups]["forget"],
        "named": name_forgotten,
        "splits": {
            split: meaning for split, (meaning, _) in task.splits.items() if split in (results["unlearned"] or {})
        },
        "tables": results_table(results, markdown=True),
        **{key: results.get(key) for key in ("seed", "stopping", "environment", "command", "retrained")},
    }


def _rates(task: Task) -> list[str]:
    return [name for name in task.metrics if name != "loss"]


def _eval_results(splits, task: Task, hub_datasets):
    """The unlearned model's rates for the model-index."""
    name = hub_datasets[0] if hub_datasets else f"local {task.units}"
    folder = "imagefolder" if task.units == "images" else "audiofolder"
    return [
        EvalResult(
            task_type=task.pipeline,
            dataset_type=hub_datasets[0] if hub_datasets else folder,
            dataset_name=f"{name}: {task.splits[split][0] if split in task.splits else split}",
            dataset_split=split,
            metric_type=metric,
            metric_name=task.metrics[metric],
            metric_value=round(values[metric], 2),
        )
        for split, values in splits.items()
        for metric in _rates(task)
        if values.get(metric) is not None
    ]


def _on_hub(name):
    """Whether `name` can be an id on the Hub and is no local folder."""
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return False
    return not Path(name).exists()


def _setting(config, name):
    """A setting of `config`, which may hold its settings in groups."""
    groups = [config, *(group for group in config.values() if isinstance(group, dict))]
    return next((group[name] for group in groups if name in group), None)


def redact(results: dict, salt: str) -> dict:
    """A copy of `results` without the forgotten speakers' ids; for everything that is published.

    - Every id under a key of IDENTIFYING becomes its pseudonym: the retained speakers' too, since whoever has the
      data set would find the missing one.
    - In every other text (command, paths, keys) a forgotten speaker's or utterance's id becomes its pseudonym, with
      the rest of its path or utterance id, in any case and with any separators. A very short id can so take an
      innocent number with it: what is published errs on the side of silence.
    - `environment` is kept: it holds no text of the user's.

    The same salt gives the same pseudonyms. Keep it to yourself: with it anyone can try all ids.

    Raises:
        ValueError: no forgotten speaker is named, so that it is not known what to hide.
    """
    ids = {key: set() for key in IDENTIFYING}
    _collect(results, ids)
    if not ids["forget_speakers"]:
        raise ValueError(
            "results names no forget_speakers in its config or data, so it is not known whom to hide: "
            "put them there, or publish the names knowingly with name_forgotten=True."
        )
    numbered = {name for name in ids["forget_ids"] if name.isdigit()}  # row numbers: they name nobody
    mentions = _mentions(ids["forget_speakers"] | ids["forget_ids"] - numbered | ids["retain_speakers"], salt)
    everyone = set().union(*ids.values())

    def clean(value, identifies=False):
        if isinstance(value, dict):
            return {clean(key, key in everyone): clean(value[key], key in IDENTIFYING or identifies) for key in value}
        if isinstance(value, list | tuple | set):
            return [clean(item, identifies) for item in value]
        if identifies and isinstance(value, str | int):
            return pseudonym(value, salt)
        return mentions(value) if isinstance(value, str | Path) else value

    return {key: results[key] if key == "environment" else clean(results[key]) for key in results}


def pseudonym(identifier, salt: str) -> str:
    """First 8 hex digits of sha256(salt + id)."""
    return hashlib.sha256(f"{salt}{identifier}".encode()).hexdigest()[:8]


def _collect(value, ids, key=None):
    """Adds to ids[key] what `value` holds under each identifying key."""
    if isinstance(value, dict):
        for name, item in value.items():
            _collect(item, ids, name if name in ids else key)
        if key == "speakers":  # {split: speakers}, as the splits describe themselves
            _collect(value.get("forget", []), ids, "forget_speakers")
    elif isinstance(value, list | tuple | set):
        for item in value:
            _collect(item, ids, key)
    elif key is not None and value not in (None, ""):
        ids[key].add(str(value))


def _mentions(names, salt):
    """A function that replaces every mention of `names` in a text by the pseudonym."""
    known = {_letters(name): name for name in names}
    longest_first = sorted(names, key=len, reverse=True)
    rest = r"(?:[-_./\\]+\w+)*"  # of the path or utterance id: a LibriSpeech chapter has one speaker
    pattern = re.compile(f"({'|'.join(map(_mention, longest_first))}){rest}", re.IGNORECASE)
    return lambda text: pattern.sub(lambda match: pseudonym(known[_letters(match[1])], salt), str(text))


def _letters(name):
    return re.sub(r"[\W_]+", "", name).lower()


def _mention(name):
    """Pattern of one id: "Jane Doe" also as jane_doe; 1089 also in spk1089, but not in 21089."""
    body = r"[\W_]+".join(map(re.escape, re.findall(r"[^\W_]+", name)))
    before, after = (r"\d" if end.isdigit() else r"[^\W\d_]" for end in (body[0], body[-1]))
    decimal = r"(?<!\d\.)(?<!\de-)" if name.isdigit() and len(name) <= 2 else ""  # 0.5 and 1e-5 are not speaker 5
    return f"(?<!{before}){decimal}{body}(?!{after})"
