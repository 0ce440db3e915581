"""Trains the original and the retrained model at the same time, if they are small and the machine
has a core for each."""

import contextlib
import copy
import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess, parent_process

import torch

from ..progress import stages
from ..recipe import Recipe
from ..threads import cores, is_small, number_of_threads
from .training import new_model, train

# Starting a process takes longer than a few steps.
FEWEST_STEPS = 100


def model_names(recipe: Recipe) -> dict[str, str]:
    """The names of the original and the retrained model, by role: "train" if yet to be trained.

    Where both have to be trained and it is faster, both are trained here, and the names are their
    folders. Each model gets the same weights as if it was trained alone with one thread.
    """
    options = recipe.options
    if not can_train_side_by_side(recipe):
        return {"original": options.model, "retrained": options.gold}
    print(
        f"1-2/{len(stages(recipe))} training the original and the retrained model side by side "
        f"({options.train_steps} steps, one thread each)",
        flush=True,
    )
    fork = multiprocessing.get_context("fork")
    receiving, sending = fork.Pipe(duplex=False)
    process = fork.Process(target=_train_original, args=(recipe, sending))
    process.start()
    sending.close()
    try:
        # This process trains the retrained model, so that its random state ends as it does when
        # the models are trained in turn.
        retrained = train(recipe, "retrained")
        return {"original": _received(receiving, process), "retrained": retrained}
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()


def can_train_side_by_side(recipe: Recipe) -> bool:
    """Whether the run trains two small models on the CPU of a Linux machine with at least two
    cores. A forked process cannot use the GPU or the threads of its parent."""
    options, args = recipe.options, recipe.args
    if (options.model, options.gold, options.base_model) != ("train", "train", None):
        return False
    if sys.platform != "linux" or args.device.type != "cpu" or args.world_size > 1:
        return False
    # Autograd starts threads for each GPU, used or not, which a copy of the process lacks.
    if torch.cuda.is_available():
        return False
    if cores() < 2 or options.train_steps < FEWEST_STEPS:
        return False
    model, samples = new_model(recipe, recipe.training_seed), options.train_batch_size
    # Two large models may not fit into memory.
    return is_small(model, samples) and number_of_threads(recipe, model, samples) == 1


def _train_original(recipe: Recipe, sending: Connection) -> None:
    """What the second process does: it sends the model's folder, or the error."""
    # A forked process would wait forever for the threads that its parent had.
    torch.set_num_threads(1)
    # Ends with the first process, even if that is killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Two progress bars would overwrite each other.
    args = copy.copy(recipe.args)
    args.disable_tqdm = True
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            sending.send(train(recipe.with_args(args), "original"))
    except Exception as error:
        sending.send(error)


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _received(receiving: Connection, process: BaseProcess) -> str:
    try:
        answer = receiving.recv()
    except EOFError:
        process.join()
        raise RuntimeError(
            f"the process that trained the original model ended with code {process.exitcode}. If "
            "its output names no reason, the memory may have run out: set threads to 2, so "
            "that one model is trained after the other"
        ) from None
    if isinstance(answer, Exception):
        raise answer
    return answer
