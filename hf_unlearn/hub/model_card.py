"""The model card of an unlearned model."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData, eval_result_entries_to_yaml

from ..privacy.paths import without_paths
from ..privacy.redaction import hidden_names, mentions_any, must_hide, redact
from ..report.audit_tables import audit_rows, door_notes, headline
from ..report.ledger import Entry, broken_links, ledger_table, read_ledger
from ..report.result_tables import align, further_tables, results_table
from ..report.results import Results
from ..report.run_layout import CARD, EVALUATION_RESULTS, LEDGER
from ..report.run_settings import setting, settings_of
from ..report.tasks import Task, task_of
from ..report.verdict import overshot, with_origin
from .evaluation_results import evaluations, model_index, reported_metrics
from .metadata import inherited_metadata, is_path, language_codes, listed, on_hub, shown
from .usage import architecture_in, saved_parts, usage

CONFIGURATIONS = ("config.json", "adapter_config.json")
TAGS = ("unlearning", "machine-unlearning", "arxiv:2503.02312")


def write_card(
    folder: Path,
    results: Results,
    salt: str,
    *,
    name_forgotten: bool = False,
    to: Path | None = None,
) -> ModelCard:
    """Writes the card as README.md into `folder`, or as the file `to`.

    Without `to` it also writes .eval_results/unlearning.yaml if the dataset is on the Hub.
    `results.card` holds further arguments of `build_card`, so that the card can be written again
    at any time.
    """
    folder = Path(folder)
    options = {"model_name": folder.absolute().name, **results.card}
    saved = {
        "architecture": architecture_in(folder) or results.architecture,
        "parts": _processor_parts(folder, results),
        "ledger": read_ledger(folder / LEDGER),
    }
    card = build_card(results, salt=salt, name_forgotten=name_forgotten, **{**saved, **options})
    card.save(to or folder / CARD)
    if not to:
        _write_evaluations(folder, results, options, salt, name_forgotten)
    return card


def _write_evaluations(
    folder: Path, results: Results, options: dict, salt: str, name_forgotten: bool
) -> None:
    local = options.get("local", ())
    hub_datasets = [name for name in listed(options.get("datasets")) if on_hub(name, local)]
    content = results.to_dict()
    if must_hide(content, task_of(results).personal) and not name_forgotten:
        hub_datasets = _naming_nobody(hub_datasets, results)
        results = Results.from_dict(redact(content, salt))
    if entries := evaluations(results, hub_datasets):
        path = folder / EVALUATION_RESULTS
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))


def _naming_nobody(datasets: Any, results: Results) -> list[str]:
    """The ids of datasets that do not name a forgotten person.

    The others are left out, because an id with a pseudonym in it would not exist.
    """
    hidden = hidden_names(results.to_dict())
    return [name for name in listed(datasets) if not mentions_any(name, hidden)]


def _processor_parts(folder: Path, results: Results) -> set[str] | None:
    """Parts of a processor that are or will be saved beside the model; None if not known."""
    trained = results.processor
    if trained is None and not any((folder / name).is_file() for name in CONFIGURATIONS):
        return None
    return {*(trained or ()), *saved_parts(folder)}


def build_card(
    results: Results,
    *,
    model_name: str = "unlearned-model",
    base_model: str | None = None,
    datasets: Any = (),
    dataset_names: Any = (),
    dataset_args: Any = None,
    local: Any = (),
    language: Any = None,
    license: str | None = None,
    tags: Any = (),
    tasks: Any = (),
    plot: str | None = None,
    salt: str | None = None,
    name_forgotten: bool = False,
    architecture: str | None = None,
    parts: set[str] | None = None,
    ledger: Sequence[Entry] = (),
) -> ModelCard:
    """Builds the card from `results` and the template.

    Forgotten persons are not named unless `name_forgotten` is set; classes of images are
    (`Task.personal` tells the two apart). License, language and datasets come from the base
    model's card if they are not given.

    Args:
        base_model, datasets: ids on the Hub. Local folders are left out of the metadata, because
            the Hub refuses them.
        dataset_names, dataset_args: names of the datasets for readers, and their configurations.
        local: those of these names that were folders where the model was made (see
            `local_among`).
        language: one or several, as codes ("en") or names ("English"). Unknown ones are left out
            with a warning.
        license: as the Hub writes it: "apache-2.0".
        tags: further tags; paths are left out.
        tasks: what the model does ("summarization"), if its class does not tell.
        plot: path of the PNG, relative to the card.
        salt: of the pseudonyms (see `redact`). By default a new random one, so that nobody can
            guess them.
        architecture: class of the model.
        parts: parts of a processor that are saved beside the model (see `usage`); None if not
            known.
        ledger: the entries of the model's ledger.

    Raises:
        ValueError: `results` does not say whom to hide.
    """
    task, local, tasks = task_of(results), listed(local), listed(tasks)
    if not task.pipeline and len(tasks) == 1:
        task = replace(task, pipeline=tasks[0])
    name_forgotten = name_forgotten or not must_hide(results.to_dict(), task.personal)
    about = {
        "model_name": model_name,
        "base_model": base_model,
        "datasets": listed(datasets),
        "dataset_names": listed(dataset_names),
        "dataset_args": listed(dataset_args),
        "tags": [tag for tag in listed(tags) if not is_path(tag, local)],
        "plot": plot,
        "local": local,
        "inherited": inherited_metadata(base_model, local),
    }
    if not name_forgotten:
        about["datasets"] = _naming_nobody(datasets, results)
        clean = redact({**results.to_dict(), "about": about}, salt or secrets.token_hex(16))
        about = clean.pop("about")
        results = Results.from_dict(clean)
    base = about["base_model"] if on_hub(about["base_model"], about["local"]) else None
    about |= {name: shown(about[name], local) for name in ("model_name", "base_model")}
    about["dataset_names"] = [shown(name, local) for name in about["dataset_names"]]
    given = {"base_model": base, "language": language, "license": license}
    data = _metadata(results, about, task, given)
    template = resources.files("hf_unlearn.model_cards").joinpath("template.md")
    return ModelCard.from_template(
        data,
        template_str=template.read_text(encoding="utf-8"),
        **_template_values(results, about, name_forgotten, task, ledger),
        adapter=_is_adapter(results),
        usage=usage(task.pipeline, architecture, parts),
    )


def _is_adapter(results: Results) -> bool:
    trained = bool(setting(results.config, "adapter") or setting(results.config, "lora_r"))
    return trained and not results.merged


def _metadata(results: Results, about: dict, task: Task, given: dict) -> ModelCardData:
    """The YAML header of the card.

    Args:
        about: the arguments of `build_card` as lists, with the metadata that is inherited.
        given: the base model's id on the Hub, and the user's language and license.
    """
    inherited, base = about["inherited"], given["base_model"]
    adapter = _is_adapter(results)
    unlearned = results.unlearned or {}
    hub_datasets = [name for name in about["datasets"] if on_hub(name, about["local"])]
    more_datasets = [name for name in listed(inherited.get("datasets")) if name not in hub_datasets]
    languages = language_codes(given["language"]) or language_codes(inherited.get("language"))
    tags = [task.pipeline, setting(results.config, "method"), *about["tags"]]
    index = model_index(
        unlearned, task, hub_datasets, about["dataset_names"], about["dataset_args"]
    )
    grams = results.emissions_g
    carbon = {"emissions": grams, "source": "CodeCarbon"}
    return ModelCardData(
        model_name=about["model_name"],
        library_name="peft" if adapter else "transformers",
        pipeline_tag=task.pipeline or None,
        base_model=base,
        base_model_relation=("adapter" if adapter else "finetune") if base else None,
        tags=list(dict.fromkeys([*TAGS, *filter(None, tags)])),
        datasets=hub_datasets + more_datasets or None,
        language=languages if len(languages) > 1 else next(iter(languages), None),
        license=given["license"] or inherited.get("license"),
        metrics=reported_metrics(unlearned, task) or None,
        eval_results=index or None,
        **({} if grams is None else {"co2_eq_emissions": carbon}),
    )


def _template_values(
    results: Results, about: dict, name_forgotten: bool, task: Task, ledger: Sequence[Entry]
) -> dict[str, Any]:
    """Values for the template's text."""
    groups = results.data.get(task.groups) or {}
    asked = setting(results.config, f"forget_{task.groups}")
    unlearned = results.unlearned or {}
    return {
        "about": without_paths(about, about["local"]),
        "task": task,
        "whole_groups": task.forgotten == task.group,
        "units": results.data[task.units],
        "groups": groups,
        "settings": settings_of(results),
        "forgotten": asked or groups.get("forget", []),
        "named": name_forgotten,
        "rule": with_origin((results.stopping or {}).get("rule"), results.retrained),
        "overshot": overshot(results.models(), task),
        "unchanged": (results.stopping or {}).get("restored_step") == 0,
        "evaluates_forgotten": any("forg" in split.lower() for split in unlearned),
        "splits": {
            name: task.about(name)[0]
            for name in task.in_order(unlearned)
            if task.about(name)[0] != name
        },
        "ledger": ledger_table(ledger, task) if ledger else None,
        "broken": broken_links(ledger),
        "tables": results_table(results, markdown=True) if results.models() else None,
        "further_tables": further_tables(results, markdown=True),
        "audit": _audit_values(results.audit),
        "percent": task.percent,
        "intervals": any(key.endswith("_low") for split in unlearned.values() for key in split),
        "command": without_paths(results.command, about["local"]),
        **{
            key: getattr(results, key)
            for key in ("seed", "stopping", "environment", "original", "retrained", "attacks")
        },
    }


def _audit_values(audit: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the template shows of an audit; None where there was none."""
    if not audit:
        return None
    table = align(audit_rows(audit), markdown=True)
    return {"headline": headline(audit), "table": table, "notes": door_notes(audit)}
