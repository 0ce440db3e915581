"""The model card of an unlearned model, and its evaluation results in the form that the Hub's
leaderboards read."""

import secrets
from dataclasses import replace
from importlib import resources
from pathlib import Path

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
    hf_hub_download,
)
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import logging

from ..files import text_of
from ..privacy.redaction import hidden_names, hides, names_somebody, redact, without_paths
from ..report.settings import setting, settings_of
from ..report.tables import further_tables, results_table
from ..report.tasks import Task, finite, task_of
from ..yaml_files import header_of
from .metadata import is_path, language_codes, listed, shown
from .usage import architecture_in, saved_parts, usage

logger = logging.get_logger(__name__)

CONFIGURATIONS = ("config.json", "adapter_config.json")
TAGS = ("unlearning", "machine-unlearning", "arxiv:2503.02312")
EVALUATIONS = Path(".eval_results") / "unlearning.yaml"


def write_card(
    folder: Path, results: dict, salt: str, *, name_forgotten: bool = False, to: Path | None = None
) -> ModelCard:
    """Writes README.md and, for data sets of the Hub, .eval_results/unlearning.yaml into `folder`;
    or the card into `to`.

    `results["card"]` holds further arguments of `build_card`, so that the card can be written again
    at any time.
    """
    folder = Path(folder)
    options = {"model_name": folder.absolute().name, **results.get("card", {})}
    saved = {
        "architecture": architecture_in(folder) or results.get("architecture"),
        "parts": _parts(folder, results),
    }
    card = build_card(results, salt=salt, name_forgotten=name_forgotten, **{**saved, **options})
    card.save(to or folder / "README.md")
    if to:
        return card
    local = options.get("local", ())
    hub_datasets = [name for name in listed(options.get("datasets")) if on_hub(name, local)]
    if hides(results, task_of(results).personal) and not name_forgotten:
        hub_datasets = [
            name for name in hub_datasets if not names_somebody(name, hidden_names(results))
        ]
        results = redact(results, salt)
    entries = evaluations(results, hub_datasets)
    if entries:
        path = folder / EVALUATIONS
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))
    return card


def _parts(folder: Path, results: dict) -> set[str] | None:
    """What of a processor is saved beside the model, or will be."""
    if results.get("processor") is None and not any(
        (folder / name).is_file() for name in CONFIGURATIONS
    ):
        return None
    return {*(results.get("processor") or ()), *saved_parts(folder)}


def build_card(
    results: dict,
    *,
    model_name: str = "unlearned-model",
    base_model: str | None = None,
    datasets=(),
    dataset_names=(),
    dataset_args=None,
    local=(),
    language: str | None = None,
    license: str | None = None,
    tags=(),
    tasks=(),
    plot: str | None = None,
    salt: str | None = None,
    name_forgotten: bool = False,
    architecture: str | None = None,
    parts: set[str] | None = None,
) -> ModelCard:
    """Card from `results` (what results.json holds) and the template.

    It names no speaker unless `name_forgotten`; classes of images are named (`Task.personal` makes
    the difference). License, language and data sets are inherited from the base model's card where
    that can be read.

    Args:
        base_model, datasets: Hub ids; local folders are left out of the metadata, where the Hub
            refuses them.
        dataset_names, dataset_args: for readers: the data sets' names, and their configurations.
        local: those of these that were folders where the model was made (see `local_among`).
        language: one or several, as codes ("en") or names ("English"); an unknown one is left out
            with a warning.
        license: as the Hub writes it: "apache-2.0".
        tags: further ones; paths are left out.
        tasks: what the model does ("summarization"), where its class does not tell.
        plot: the PNG's path relative to the card.
        salt: of the pseudonyms (see `redact`); a fresh one where there is none, so that they cannot
            be guessed.
        architecture: the model's class.
        parts: what of a processor is saved beside the model (see `usage`); None: not known.

    Raises:
        ValueError: it is not known whom to hide.
    """
    task, local, tasks = task_of(results), listed(local), listed(tasks)
    if not task.pipeline and len(tasks) == 1:
        task = replace(task, pipeline=tasks[0])
    name_forgotten = name_forgotten or not hides(results, task.personal)
    inherited = _inherited(base_model, local)
    about = {
        "model_name": model_name,
        "base_model": base_model,
        "datasets": listed(datasets),
        "dataset_names": listed(dataset_names),
        "dataset_args": listed(dataset_args),
        "tags": [tag for tag in listed(tags) if not is_path(tag, local)],
        "plot": plot,
        "local": local,
        "inherited": inherited,
    }
    if not name_forgotten:
        # a pseudonym is no data set's id
        about["datasets"] = [
            name for name in listed(datasets) if not names_somebody(name, hidden_names(results))
        ]
        redacted = redact({**results, "about": about}, salt or secrets.token_hex(16))
        results, about = redacted, redacted["about"]
        inherited = about["inherited"]
    config = results["config"]
    hub_datasets = [name for name in about["datasets"] if on_hub(name, about["local"])]
    base = about["base_model"] if on_hub(about["base_model"], about["local"]) else None
    known = [name for name in listed(inherited.get("datasets")) if name not in hub_datasets]
    about = {**about, "model_name": shown(about["model_name"], local), "base_model": shown(about["base_model"], local),
             "dataset_names": [shown(name, local) for name in about["dataset_names"]]}  # fmt: skip
    languages = language_codes(language) or language_codes(inherited.get("language"))
    adapter = bool(setting(config, "adapter") or setting(config, "lora_r")) and not results.get(
        "merged"
    )
    data = ModelCardData(
        model_name=about["model_name"],
        library_name="peft" if adapter else "transformers",
        pipeline_tag=task.pipeline or None,
        base_model=base,
        base_model_relation=("adapter" if adapter else "finetune") if base else None,
        tags=list(
            dict.fromkeys(
                [*TAGS, *filter(None, [task.pipeline, setting(config, "method"), *about["tags"]])]
            )
        ),
        datasets=hub_datasets + known or None,
        language=languages if len(languages) > 1 else next(iter(languages), None),
        license=license or inherited.get("license"),
        metrics=_rates(results["unlearned"] or {}, task) or None,
        eval_results=_eval_results(results["unlearned"] or {}, task, about, hub_datasets) or None,
        **_carbon(results),
    )
    template = (
        resources.files("hf_unlearn.model_cards")
        .joinpath("template.md")
        .read_text(encoding="utf-8")
    )
    return ModelCard.from_template(
        data,
        template_str=template,
        **_text(results, about, name_forgotten, task),
        adapter=adapter,
        usage=usage(task.pipeline, architecture, parts),
    )


def _text(results, about, name_forgotten, task):
    """What the template says beside the metadata."""
    groups = results["data"].get(task.groups) or {}
    models = any(results.get(name) for name in ("original", "unlearned", "retrained"))
    return {
        "about": without_paths(about),
        "task": task,
        "whole_groups": task.forgotten == task.group,
        "units": results["data"][task.units],
        "groups": groups,
        "settings": settings_of(results),
        "forgotten": setting(results["config"], f"forget_{task.groups}")
        or groups.get("forget", []),
        "named": name_forgotten,
        "unchanged": (results.get("stopping") or {}).get("restored_step") == 0,
        "splits": {
            split: meaning
            for split, (meaning, _) in task.splits.items()
            if split in (results["unlearned"] or {})
        },
        "tables": results_table(results, markdown=True) if models else None,
        "further_tables": further_tables(results, markdown=True),
        "percent": task.percent,
        "intervals": any(
            key.endswith("_low")
            for values in (results["unlearned"] or {}).values()
            for key in values
        ),
        "command": without_paths(results.get("command")),
        **{
            key: results.get(key)
            for key in ("seed", "stopping", "environment", "retrained", "attacks")
        },
    }


def _rates(splits, task: Task) -> list[str]:
    """The measured metrics but the loss: percentages, or what a user's compute_metrics gives."""
    return [
        name
        for name in task.metrics
        if name != "loss" and any(name in values for values in splits.values())
    ]


def _eval_results(splits, task: Task, about: dict, hub_datasets: list[str]):
    """The unlearned model's metrics for the model-index."""
    name = next(iter([*about["dataset_names"], *hub_datasets]), f"local {task.units}")
    folder = {"images": "imagefolder", "utterances": "audiofolder"}.get(task.units, "local")
    return [
        EvalResult(
            task_type=task.pipeline or "other",
            dataset_type=hub_datasets[0] if hub_datasets else folder,
            dataset_name=f"{name}: {task.splits[split][0] if split in task.splits else split}",
            dataset_split=split,
            dataset_args=", ".join(map(without_paths, about["dataset_args"])) or None,
            metric_type=metric,
            metric_name=task.metrics[metric],
            metric_value=round(values[metric], _digits(task)),
        )
        for split, values in splits.items()
        for metric in _rates(splits, task)
        if finite(values.get(metric))
    ]


def _digits(task: Task) -> int:
    return 2 if task.percent else 4


def evaluations(results: dict, hub_datasets: list[str]) -> list[EvalResultEntry]:
    """The same for `.eval_results`, whose entries belong to a data set of the Hub: none without
    one.

    The splits are those of unlearning, not the data set's own; a note says so at each.
    """
    task, splits = task_of(results), results["unlearned"] or {}
    return [
        EvalResultEntry(
            dataset_id=hub_datasets[0],
            task_id=f"{split}_{metric}",
            value=round(values[metric], _digits(task)),
            date=(results.get("environment") or {}).get("date"),
            notes=f"{task.metrics[metric]} of a split made for unlearning: "
            f"{task.splits[split][0] if split in task.splits else split}"
            + (f", {values['samples']} {task.units}" if "samples" in values else ""),
        )
        for split, values in splits.items()
        for metric in _rates(splits, task)
        if hub_datasets and finite(values.get(metric))
    ]


def _inherited(base_model: str | None, known_local) -> dict:
    """Metadata of the base model's card; nothing where it has none, cannot be reached, or cannot be
    read."""
    if not base_model:
        return {}
    local = Path(base_model)
    if local.exists():
        card = local / "README.md"
        try:
            return header_of(text_of(card)) if card.exists() else {}
        except Exception as error:  # of YAML, of the file's encoding
            reason = " ".join(str(error).split())
            logger.warning(
                f"Nothing of {card} is inherited, since it cannot be read as a model card: {reason}"
            )
            return {}
    if not on_hub(base_model, known_local):
        return {}
    try:
        return header_of(text_of(hf_hub_download(base_model, "README.md")))
    except (
        Exception
    ):  # offline, private, no card: of many types, none of which should cost the user the own card
        return {}


def _carbon(results: dict) -> dict:
    grams = results.get("emissions_g")
    return (
        {} if grams is None else {"co2_eq_emissions": {"emissions": grams, "source": "CodeCarbon"}}
    )


def on_hub(name: str | None, local=()) -> bool:
    """Whether `name` can be an id on the Hub and is no local folder, here or (`local`) where the
    run was."""
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return False
    return name not in local and not Path(name).exists()


def local_among(*names: str | None) -> list[str]:
    """Those names that are folders here: `out/data` looks like an id of the Hub to whoever writes
    the card elsewhere."""
    return [name for name in names if name and Path(name).exists()]
