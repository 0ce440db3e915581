"""What identifies a run: a checkpoint is resumed only by the run that it belongs to."""

import hashlib
import json
from typing import Any

import datasets
import numpy as np
import torch

from ..batches.seeded import seeded
from ..batches.training_data import length_or_none, spread
from ..protocol import RunView

# How many forget samples' labels the digest of a forget set covers.
DIGEST_SAMPLES = 16


def run_identity(trainer: RunView) -> dict:
    """What a checkpoint and the run that resumes from it must have in common, in types of JSON;
    None for what is unknown."""
    args, updates = trainer.args, trainer.previous_updates
    run = {
        "method": str(args.method),
        **trainer.method_settings,
        "forget_objective": args.forget_objective,
        "silence_texts": args.silence_texts if args.forget_objective == "silence" else None,
        "unheard_words": args.unheard_words,
        "max_forget_loss": args.max_forget_loss,
        "loss_temperature": args.loss_temperature,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "forget samples": length_or_none(trainer.train_dataset),
        "forget labels": labels_digest(trainer.train_dataset, trainer.label_names),
        "samples of earlier requests": length_or_none(trainer.previous_forget_dataset) or 0,
        "updates of earlier requests": 0 if updates is None else len(updates),
    }
    return json.loads(json.dumps(run, default=str))


def labels_digest(dataset: Any, label_names: list[str]) -> int | None:
    """Hashes the labels of up to 16 samples, so that forget sets can be told apart.

    Only labels are hashed, because features are floating-point numbers that another machine may
    round differently. The digest is a number, because texts are redacted in what is pushed to the
    Hub.

    Returns:
        The digest; None if the dataset is a stream or has no such labels.
    """
    if not length_or_none(dataset):
        return None
    label_names = sorted({"label", "label_ids", *label_names})
    # Other columns may be costly to decode.
    if isinstance(dataset, datasets.Dataset):
        columns = [name for name in label_names if name in dataset.column_names]
        if not columns:
            return None
        dataset = dataset.with_format(None).select_columns(columns)
    digest = hashlib.sha256()
    for index in spread(len(dataset), DIGEST_SAMPLES):
        with seeded(0, index):
            sample = dataset[index]
        names = [name for name in label_names if isinstance(sample, dict) and name in sample]
        if not names:
            return None
        for name in names:
            value = sample[name]
            value = value.tolist() if isinstance(value, torch.Tensor | np.ndarray) else value
            digest.update(repr(value).encode())
    return int(digest.hexdigest()[:12], 16)
