"""The model card of an unlearned model."""

import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData, eval_result_entries_to_yaml

from ..privacy.paths import without_paths
from ..privacy.redaction import must_hide
from ..report.audit_tables import audit_rows, door_notes
from ..report.audit_words import headline
from ..report.file_names import CARD, EVALUATION_RESULTS, LEDGER
from ..report.ledger import Entry, broken_links, ledger_table, read_ledger
from ..report.listed_settings import setting, settings_of
from ..report.result_tables import align, further_tables, results_table
from ..report.results import Results
from ..report.tasks import Task, task_of
from ..report.verdict import overshot, with_origin
from .card_fields import CardFields, hide_names
from .evaluation_results import evaluations, model_index, reported_metrics
from .metadata import language_codes, listed
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
    `results.card` holds the `CardFields`, so that the card can be written again at any time.
    """
    folder = Path(folder)
    about = CardFields(**{"model_name": folder.absolute().name, **results.card})
    card = _card(
        results,
        about,
        salt,
        name_forgotten,
        architecture=architecture_in(folder) or results.architecture,
        parts=_processor_parts(folder, results),
        ledger=read_ledger(folder / LEDGER),
    )
    card.save(to or folder / CARD)
    if not to:
        _write_evaluations(folder, results, about, salt, name_forgotten)
    return card


def _write_evaluations(
    folder: Path, results: Results, about: CardFields, salt: str, name_forgotten: bool
) -> None:
    if not name_forgotten and must_hide(results.to_dict(), task_of(results).personal):
        results, about = hide_names(results, about, salt)
    if entries := evaluations(results, about.datasets_on_hub):
        path = folder / EVALUATION_RESULTS
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))


def _processor_parts(folder: Path, results: Results) -> set[str] | None:
    """Parts of a processor that are or will be saved beside the model; None if not known."""
    trained = results.processor
    if trained is None and not any((folder / name).is_file() for name in CONFIGURATIONS):
        return None
    return {*(trained or ()), *saved_parts(folder)}


def build_card(
    results: Results,
    *,
    salt: str | None = None,
    name_forgotten: bool = False,
    architecture: str | None = None,
    parts: set[str] | None = None,
    ledger: Sequence[Entry] = (),
    **about: Any,
) -> ModelCard:
    """Builds the card from `results` and the template.

    Forgotten persons are not named unless `name_forgotten` is set; classes of images are
    (`Task.personal` tells the two apart). License, language and datasets come from the base
    model's card if they are not given.

    Args:
        salt: of the pseudonyms (see `redact`). By default a new random one, so that nobody can
            guess them.
        architecture: class of the model.
        parts: parts of a processor that are saved beside the model (see `usage`); None if not
            known.
        ledger: the entries of the model's ledger.
        about: the fields of `CardFields`.

    Raises:
        ValueError: `results` does not say whom to hide.
    """
    salt = salt or secrets.token_hex(16)
    return _card(results, CardFields(**about), salt, name_forgotten, architecture, parts, ledger)


def _card(
    results: Results,
    about: CardFields,
    salt: str,
    name_forgotten: bool,
    architecture: str | None,
    parts: set[str] | None,
    ledger: Sequence[Entry],
) -> ModelCard:
    """See `build_card`."""
    task = task_of(results)
    if not task.pipeline and len(about.tasks) == 1:
        task = replace(task, pipeline=about.tasks[0])
    name_forgotten = name_forgotten or not must_hide(results.to_dict(), task.personal)
    about = about.with_inherited()
    if not name_forgotten:
        results, about = hide_names(results, about, salt)
    template = resources.files("hf_unlearn.model_cards").joinpath("template.md")
    return ModelCard.from_template(
        _metadata(results, about, task),
        template_str=template.read_text(encoding="utf-8"),
        **_template_values(results, about, name_forgotten, task, ledger),
        adapter=_is_adapter(results),
        usage=usage(task.pipeline, architecture, parts),
    )


def _is_adapter(results: Results) -> bool:
    trained = bool(setting(results.config, "adapter") or setting(results.config, "lora_r"))
    return trained and not results.merged


def _metadata(results: Results, about: CardFields, task: Task) -> ModelCardData:
    """The YAML header of the card."""
    inherited, base, adapter = about.inherited, about.base_on_hub, _is_adapter(results)
    about = about.for_readers()
    unlearned = results.unlearned or {}
    datasets = about.datasets_on_hub
    more_datasets = [name for name in listed(inherited.get("datasets")) if name not in datasets]
    languages = language_codes(about.language) or language_codes(inherited.get("language"))
    tags = [task.pipeline, setting(results.config, "method"), *about.tags]
    index = model_index(unlearned, task, datasets, about.dataset_names, about.dataset_args)
    grams = results.emissions_g
    carbon = {"emissions": grams, "source": "CodeCarbon"}
    return ModelCardData(
        model_name=about.model_name,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=task.pipeline or None,
        base_model=base,
        base_model_relation=("adapter" if adapter else "finetune") if base else None,
        tags=list(dict.fromkeys([*TAGS, *filter(None, tags)])),
        datasets=datasets + more_datasets or None,
        language=languages if len(languages) > 1 else next(iter(languages), None),
        license=about.license or inherited.get("license"),
        metrics=reported_metrics(unlearned, task) or None,
        eval_results=index or None,
        **({} if grams is None else {"co2_eq_emissions": carbon}),
    )


def _template_values(
    results: Results, about: CardFields, name_forgotten: bool, task: Task, ledger: Sequence[Entry]
) -> dict[str, Any]:
    """Values for the template's text."""
    groups = results.data.get(task.groups) or {}
    asked = setting(results.config, f"forget_{task.groups}")
    unlearned = results.unlearned or {}
    return {
        "about": without_paths(asdict(about.for_readers()), about.local),
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
        "command": without_paths(results.command, about.local),
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
