"""Models that a recipe trains with the plain Seq2SeqTrainer: the original, the retrained and the
shadow models."""

import functools
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from filelock import FileLock
from torch import nn
from transformers import PreTrainedModel, Seq2SeqTrainer, Seq2SeqTrainingArguments, set_seed

from ..files import write_json
from ..trainer.adapters import load_merged
from ..trainer.exchange import all_processes
from .checks import loading
from .recipe import Recipe
from .waiting import first_process_first

MADE_OF = "made_of.json"


def get_model(recipe: Recipe, role: str, choice: str) -> PreTrainedModel:
    """The original or the retrained model (role): loaded, or trained first."""
    if choice == "train":
        choice = train(recipe, role)
    with loading(choice):
        return load_merged(recipe.load_model, choice)  # from its folder, which an adapter refers to


def train(recipe: Recipe, role: str) -> str:
    """Trains the original or the retrained model (role); returns its folder: output_dir/<role>, or
    one in models_dir."""
    splits, store = recipe.splits, recipe.options.models_dir
    parts = {"original": [splits.forget, splits.retain_pool], "retrained": [splits.retain_pool]}[
        role
    ]
    rows = concatenate_datasets(parts)
    if store:
        return str(
            kept_model(
                recipe, rows, [digest(part) for part in parts], recipe.training_seed, Path(store)
            )
        )
    folder = Path(recipe.args.output_dir) / role
    fit(recipe, new_model(recipe, recipe.training_seed), rows, recipe.training_seed, folder)
    return str(folder)


def kept_model(recipe: Recipe, rows: Dataset, data: list, seed: int, store: Path) -> Path:
    """The folder in `store` of the model trained on `rows`; trained where it is not there yet, by
    one run at a time.

    Its name is a hash of all that the trained weights depend on but the code: the data, the
    untrained weights, the processor, the options, the seed. Interrupted training leaves nothing
    there.

    Args:
        data: what says which rows these are, as JSON; their `digest`.
    """
    model = new_model(recipe, seed)
    made_of = {
        "data": data,
        "untrained": weights_digest(model),
        "processor": recipe.processor.to_dict(),
        "recipe": recipe.options.of_training(),
        "trainer": training_options(recipe, seed),
        "processes": recipe.args.world_size,
    }
    name = hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()[
        :20
    ]
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
    """Holds the lock of a folder, for all processes of a run; yields whether the folder is
    missing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    # another run may train for longer than collectives wait
    with first_process_first(main, everywhere=True):
        if main:
            lock.acquire()
    try:
        yield all_processes(not folder.is_dir())[0]
        all_processes(None)  # the main process waits for the others before the next run may come
    finally:
        lock.release()


def new_model(recipe: Recipe, seed: int) -> PreTrainedModel:
    set_seed(seed)  # of new weights: all, or those of a head
    return recipe.load_model(recipe.options.base_model)


def fit(recipe: Recipe, model: PreTrainedModel, rows: Dataset, seed: int, folder: Path) -> None:
    """Trains the model on the rows, and saves it."""
    given = recipe.trainer_arguments(model)
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(folder), save_strategy="no", disable_tqdm=recipe.args.disable_tqdm,
            **training_options(recipe, seed),
        ),
        train_dataset=recipe.training_data(model, rows),
        data_collator=given["data_collator"],
        processing_class=given["processing_class"],
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()  # one process writes, all may read


def training_options(recipe: Recipe, seed: int) -> dict:
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


# ---- what a model is made of ----------------------------------------------------------------------------------------


@functools.cache
def digest(rows: Dataset) -> str:
    """Hash of the rows' contents, files that they name included."""
    found = hashlib.sha256()
    for row in rows:
        for name in sorted(row):
            content = _content(row[name])
            found.update(f"{name} {len(content)} ".encode() + content)
    return found.hexdigest()


def _content(value) -> bytes:
    if isinstance(value, np.ndarray):
        return value.tobytes()
    # an image or a sound, not decoded
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return Path(value["path"]).read_bytes() if value["bytes"] is None else value["bytes"]
    return repr(value).encode()


def weights_digest(model: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(
            name.encode()
            + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return found.hexdigest()
