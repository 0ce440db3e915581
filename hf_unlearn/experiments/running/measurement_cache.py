"""Caches what is measured of the original and the retrained model, for all runs that share a
`models_dir`.

The runs of a comparison evaluate the same two models on the same rows. The first run writes
what it has measured to `models_dir`, and the others read it.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path

from torch import nn
from transformers.utils import logging

from ...config import UnlearnConfig
from ...files import json_digest, one_line, read_json, written_whole
from ...report.environment import environment
from ...report.weights import model_digest
from ...trainer import UnlearnTrainer, all_processes, random_state_kept
from ..models.shadow_models import ShadowModels
from ..models.training import rows_digest, training_seconds
from ..recipe import Recipe
from .measurements import Measurement, measure

logger = logging.get_logger(__name__)

# The folder in `models_dir` that holds the measurements.
FOLDER = "measurements"
PACKAGE = Path(__file__).parents[2]

# The trainer's options that no measurement depends on: how a model is unlearned and saved. They are
# what UnlearnConfig adds, except freeze_batch_norm, and some of transformers' options. All others
# of transformers count, future ones included. (For the options of recipes, see `Affects`.)
OPTIONS_OF_UNLEARNING = frozenset(UnlearnConfig.__annotations__) - {"freeze_batch_norm"} | set(
    """
    output_dir resume_from_checkpoint run_name
    per_device_train_batch_size gradient_accumulation_steps max_grad_norm
    max_steps num_train_epochs learning_rate optim optim_args
    lr_scheduler_type lr_scheduler_kwargs warmup_steps weight_decay
    adam_beta1 adam_beta2 adam_epsilon
    save_strategy save_steps report_to disable_tqdm
    """.split()
)
# Packages (package: module) that measurements use besides those that `environment` names.
FURTHER = {"tokenizers": "tokenizers", "soundfile": "soundfile", "pillow": "PIL"}


def measured_or_cached(
    recipe: Recipe, trainer: UnlearnTrainer, role: str, shadows: ShadowModels | None
) -> Measurement:
    """Measures the original or the retrained model, or reads what another run with the same
    `models_dir` has measured. Every process has to call it.

    Only the owner can read the files, because they hold transcripts of forgotten speakers.

    Args:
        role: "original" or "retrained".
    """
    store = recipe.options.models_dir
    # The steps draw the same random numbers whether the original is measured or read.
    with random_state_kept(recipe.args.device):
        if store is None or not _is_cacheable(recipe, trainer):
            return measure(recipe, trainer, shadows)
        main = recipe.args.process_index == 0
        with recipe.clock.phase("evaluation"):
            parts = depends_on(recipe, trainer, shadows) if main else {}
            path = Path(store) / FOLDER / f"{json_digest(parts)[:20]}.json"
            cached = all_processes(_read(path) if main else None)[0]
        if cached is None:
            measured = measure(recipe, trainer, shadows)
            if main:
                _write(path, parts, measured)
            return measured
    if main:
        print(f"the {role} model is not measured again: its results are in {path}", flush=True)
    if role == "original":
        _log(trainer, cached.splits)
    return cached


def _is_cacheable(recipe: Recipe, trainer: UnlearnTrainer) -> bool:
    """Whether it is known what a measurement depends on: the code is this package's, and each
    process has the whole model."""
    is_ours = type(recipe).__module__.split(".")[0] == __name__.split(".")[0]
    return is_ours and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def depends_on(
    recipe: Recipe, trainer: UnlearnTrainer, shadows: ShadowModels | None
) -> dict[str, str]:
    """A hash of each thing that a measurement depends on, by its name."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    rows = recipe.splits.evaluation(recipe.data.max_eval_samples)
    trainer_options = recipe.args.to_dict()
    parts = {
        "weights": model_digest(model),
        "model": described(model),
        "processor": _processor_digest(recipe),
        "rows": {split: rows_digest(part) for split, part in rows.items()},
        "recipe": [type(recipe).__qualname__, recipe.task, recipe.options.of_measurement()],
        "data": vars(recipe.data),
        "trainer": {k: v for k, v in trainer_options.items() if k not in OPTIONS_OF_UNLEARNING},
        "processes": recipe.args.world_size,
        "further": recipe.measured_with(),
        "shadow models": shadows and _shadows_digest(shadows),
        "code": code_digest(),
        "environment": _environment(),
    }
    return {name: json_digest(part) for name, part in parts.items()}


def described(model: nn.Module) -> dict:
    """What defines a model besides its weights."""
    config, generation = model.config, getattr(model, "generation_config", None)
    adapters = getattr(model, "peft_config", {})
    return {
        "config": {k: v for k, v in config.to_dict().items() if k != "_name_or_path"},
        "attention": getattr(config, "_attn_implementation", None),
        "generation": generation and generation.to_dict(),
        "adapters": {name: adapter.to_dict() for name, adapter in adapters.items()},
        # Classifiers report it with their scores.
        "training_seconds": training_seconds(model.name_or_path),
    }


def _processor_digest(recipe: Recipe) -> dict[str, str]:
    """Hashes of the files that the processor is saved in, which also hold its tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        recipe.processor.save_pretrained(folder)
        return _file_hashes(Path(folder).rglob("*"), Path(folder))


def _shadows_digest(shadows: ShadowModels) -> list:
    return [shadows.columns, shadows.confidences.tolist(), shadows.trained.tolist()]


@cache
def code_digest() -> str:
    """A hash of this package's code and tables: another version may measure something else."""
    files = [path for kind in ("*.py", "*.json") for path in PACKAGE.rglob(kind)]
    return json_digest(_file_hashes(files, PACKAGE))


def _environment() -> dict:
    packages = environment()
    further = {name: version(name) for name, module in FURTHER.items() if find_spec(module)}
    return {k: v for k, v in packages.items() if k not in ("date", "commit")} | {"further": further}


def _file_hashes(paths: Iterable[Path], folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file()
    }


def _read(path: Path) -> Measurement | None:
    """What was measured; None where nothing was, or where the file cannot be read."""
    content = read_json(path) or {}
    if {"splits", "further"} <= content.keys():
        return Measurement(content["splits"], content["further"])
    return None


def _write(path: Path, parts: dict[str, str], measured: Measurement) -> None:
    content = {"depends_on": parts, "splits": measured.splits, "further": measured.further}
    try:
        with written_whole(path, private=True) as partial:
            # Python's JSON keeps all digits of a number, and NaN.
            text = json.dumps(content, default=methodcaller("tolist"))
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        logger.warning(f"Could not cache the measurements for other runs: {one_line(error)}")


def _log(trainer: UnlearnTrainer, splits: dict[str, dict[str, float]]) -> None:
    """Logs the original model's metrics for trackers, as its evaluation would have."""
    for split, metrics in splits.items():
        values = {name: value for name, value in metrics.items() if name != "samples"}
        trainer.log({f"eval_{split}_{name}": value for name, value in values.items()})
