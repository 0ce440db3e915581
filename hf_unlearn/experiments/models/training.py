"""Trains a recipe's models with the plain Seq2SeqTrainer: the original, the retrained and the
shadow models."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from datasets import Dataset, concatenate_datasets
from filelock import FileLock
from transformers import PreTrainedModel, Seq2SeqTrainer, Seq2SeqTrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from ...data.media import as_stored
from ...data.sampling import sorted_by_id
from ...files import json_digest, write_json
from ...report.weights import model_digest
from ...trainer import all_processes, load_merged, time_masks_that_fit
from ..loading import loading
from ..progress import announce, label_bars
from ..recipe import Recipe
from ..threads import threads_for
from ..waiting import first_process_first

MADE_OF = "made_of.json"
# The digests of data in use. They do not keep the data in memory.
_digests: WeakKeyDictionary[Dataset, str] = WeakKeyDictionary()


def get_model(recipe: Recipe, role: str, name: str) -> tuple[str, PreTrainedModel]:
    """Loads the original or the retrained model, after training it where `name` is "train".

    Args:
        role: "original" or "retrained".
        name: folder, Hub id or "train".

    Returns:
        The folder or Hub id that it was loaded from, and the model.
    """
    if name == "train":
        announce(recipe, f"training the {role} model")
        # Loaded from its folder, so that an adapter names the folder as its base model.
        name = train(recipe, role)
    with loading(name):
        return name, load_merged(recipe.load_model, name)


def train(recipe: Recipe, role: str) -> str:
    """Trains the original or the retrained model.

    Args:
        role: "original" or "retrained".

    Returns:
        Its folder: output_dir/<role>, or one in models_dir.
    """
    splits, store, seed = recipe.splits, recipe.options.models_dir, recipe.training_seed
    parts = [splits.forget, splits.retain_pool] if role == "original" else [splits.retain_pool]
    rows = concatenate_datasets(parts)
    if store:
        # Runs that forget different speakers then share the original.
        rows = sorted_by_id(rows)
        return str(train_or_reuse(recipe, rows, [rows_digest(rows)], seed, Path(store)))
    folder = Path(recipe.args.output_dir) / role
    fit(recipe, new_model(recipe, seed), rows, seed, folder)
    return str(folder)


def train_or_reuse(recipe: Recipe, rows: Dataset, data: list, seed: int, store: Path) -> Path:
    """The folder in `store` of the model trained on `rows`. It is trained first if it does not
    exist, by one run at a time.

    The folder's name is a hash of all that the trained weights depend on except the code: the data,
    the untrained weights, the processor, the options and the seed. Interrupted training leaves no
    such folder.

    Args:
        data: identifies the rows, as JSON: their `rows_digest`.
    """
    model = new_model(recipe, seed)
    made_of = {
        "data": data,
        "untrained": model_digest(model),
        "processor": recipe.processor.to_dict(),
        "recipe": recipe.options.of_training(),
        "trainer": training_options(recipe, seed),
        "processes": recipe.args.world_size,
    }
    name = json_digest(made_of)[:20]
    folder, partial = store / name, store / f".{name}.partial"
    with one_run_at_a_time(folder, main=recipe.args.process_index == 0) as missing:
        if missing:
            fit(recipe, model, rows, seed, partial)
            if recipe.args.process_index == 0:
                write_json(partial / MADE_OF, made_of)
                partial.rename(folder)
    return folder


@contextmanager
def one_run_at_a_time(folder: Path, *, main: bool) -> Iterator[bool]:
    """Holds a folder's lock for all processes of a run; yields whether the folder is missing.

    Args:
        main: whether this is the run's main process.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    # Another run may hold the lock for longer than the timeout of collectives.
    with first_process_first(main, everywhere=True):
        if main:
            lock.acquire()
    try:
        yield all_processes(not folder.is_dir())[0]
        # The main process keeps the lock until all processes are done here.
        all_processes(None)
    finally:
        lock.release()


def new_model(recipe: Recipe, seed: int) -> PreTrainedModel:
    """The model that training starts from."""
    # Seeds the weights that are initialised: all of them, or those of a new head.
    set_seed(seed)
    return recipe.load_model(recipe.options.base_model)


def fit(recipe: Recipe, model: PreTrainedModel, rows: Dataset, seed: int, folder: Path) -> None:
    """Trains the model on the rows, and saves it to `folder`."""
    args = Seq2SeqTrainingArguments(
        output_dir=str(folder),
        save_strategy="no",
        disable_tqdm=recipe.args.disable_tqdm,
        **training_options(recipe, seed),
    )
    trainer = Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=recipe.training_data(model, rows),
        data_collator=recipe.collator(model),
        processing_class=recipe.processor,
    )
    label_bars(trainer, "training")
    # The last batch of an epoch may have one short sample alone.
    with threads_for(recipe, model, recipe.options.train_batch_size), time_masks_that_fit(model):
        trainer.train()
    trainer.save_model()
    # trainer_state.json, with the time that the training took
    trainer.save_state()
    # One process writes the files that all processes may read next.
    trainer.accelerator.wait_for_everyone()


def training_seconds(name: str) -> float | None:
    """The seconds that training a model took, if it was trained by `fit`.

    Args:
        name: its folder; the id of a model on the Hub is not known here.
    """
    path = Path(name) / TRAINER_STATE_NAME
    if not path.is_file():
        return None
    history = json.loads(path.read_text(encoding="utf-8"))["log_history"]
    return next((row["train_runtime"] for row in history if "train_runtime" in row), None)


def training_options(recipe: Recipe, seed: int) -> dict:
    """The arguments of Seq2SeqTrainingArguments that the trained weights depend on."""
    options, args = recipe.options, recipe.args
    return {
        "max_steps": options.train_steps,
        "per_device_train_batch_size": options.train_batch_size,
        "learning_rate": options.train_learning_rate,
        "warmup_steps": round(options.train_warmup * options.train_steps),
        "weight_decay": 0.05,
        "adam_beta2": 0.98,
        "logging_steps": max(1, options.train_steps // 10),
        "seed": seed,
        "bf16": args.bf16,
        "fp16": args.fp16,
        "use_cpu": args.use_cpu,
        "dataloader_num_workers": args.dataloader_num_workers,
    }


def rows_digest(rows: Dataset) -> str:
    """A hash of the rows' contents, including the files that they name.

    It is computed once for each object `rows`.
    """
    if rows not in _digests:
        _digests[rows] = _compute_rows_digest(rows)
    return _digests[rows]


def _compute_rows_digest(rows: Dataset) -> str:
    digest = hashlib.sha256()
    # Features that are computed on demand are a function of the audio.
    for row in as_stored(rows):
        for name in sorted(row):
            content = _content(row[name])
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _content(value: object) -> bytes:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    # An image or a recording that has not been decoded.
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return Path(value["path"]).read_bytes() if value["bytes"] is None else value["bytes"]
    return repr(value).encode()
