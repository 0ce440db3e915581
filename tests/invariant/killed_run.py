"""Kills a tiny run again and again, and compares its final weights with those of a run that was not
killed.

    python tests/invariant/killed_run.py <folder> <kills> <seed>

prints how many half-written checkpoints were found. It fails if the weights differ.

Each run is a fork of this process, which kills itself (SIGKILL) at a random call of a Python
function, every second time while it saves a checkpoint. Counting calls instead of seconds makes the
moments independent of the machine. (A step makes about 15,000 calls, saving a checkpoint about
25,000.)
"""

import contextlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch
import tqdm
from transformers import set_seed

from hf_unlearn import UnlearnTrainer
from hf_unlearn.trainer.checkpoints.checkpoint_files import is_complete
from tests.support.tiny import FORGET, RETAIN, make_trainer, tiny_whisper

Prepare = Callable[[UnlearnTrainer], None]


def run_fork(folder: Path, prepare: Prepare = lambda trainer: None) -> int:
    """Trains in a fork of this process; returns the fork's exit status."""
    if (child := os.fork()) == 0:
        status = 1
        # tqdm's own lock is shared between processes, and a killed one never gives it back.
        tqdm.tqdm.set_lock(threading.RLock())
        try:
            train(folder, prepare)
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def train(folder: Path, prepare: Prepare = lambda trainer: None) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        set_seed(0)
        model = tiny_whisper(dropout=0.1, encoder_layers=1, decoder_layers=1)
        trainer = make_trainer(
            model,
            folder,
            max_steps=36,
            save_strategy="steps",
            save_steps=2,
            save_total_limit=2,
            optimizer=False,
            learning_rate=1e-3,
            lr_scheduler_type="linear",
            per_device_train_batch_size=3,
            per_device_retain_batch_size=2,
            resume_from_checkpoint="auto",
            stop_when="forget_loss >= 1000",
            abort_when="test_loss > 1000",
            check_steps=3,
            check_samples=2,
            arguments={"eval_dataset": {"forget": FORGET, "test": RETAIN}},
        )
        prepare(trainer)
        trainer.train()
        sys.setprofile(None)
        torch.save([p.detach() for p in model.parameters()], folder / "weights.pt")


def killer(calls: int, saving: bool) -> Prepare:
    """Kills the process at call number `calls`, counted from the first step, or from the first
    saving of a checkpoint."""
    left = calls

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal left
        left -= event == "call"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def prepare(trainer: UnlearnTrainer) -> None:
        name = "_save_checkpoint" if saving else "training_step"
        whole = getattr(trainer, name)

        def watched(*arguments, **keywords):
            sys.setprofile(count)
            return whole(*arguments, **keywords)

        setattr(trainer, name, watched)

    return prepare


def main(folder: Path, kills: int, seed: int) -> None:
    train(folder / "straight")
    chance, half_written = random.Random(seed), 0
    for number in range(kills):
        saving = number % 2 == 1
        status = run_fork(
            folder / "killed", killer(chance.randrange(25_000 if saving else 120_000), saving)
        )
        assert status == signal.SIGKILL, f"run {number} ended with {status}"
        half_written += sum(
            not is_complete(path) for path in (folder / "killed").glob("checkpoint-*")
        )
    assert run_fork(folder / "killed") == 0
    straight, killed = (torch.load(folder / name / "weights.pt") for name in ("straight", "killed"))
    assert all(torch.equal(a, b) for a, b in zip(straight, killed)), "the weights differ"
    print(half_written)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
