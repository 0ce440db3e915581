"""Compares one step of UnlearnTrainer with brute force, for tiny random models of transformers'
architectures.

    .venv/bin/python -m tests.benchmarks.architectures                     # rows that are missing
    .venv/bin/python -m tests.benchmarks.architectures --task CTC --again  # all rows of a task
    .venv/bin/python -m tests.benchmarks.architectures --only mixtral,clip --again

Two samples are forgotten and four retained. They have different lengths. The step is the gradient
that the optimizer gets, at alpha = 0.3, for both granularities. Brute force computes the gradient
of each sample alone, in float64 if the model supports it, and projects with the dense matrix A.
Rows go to `architectures.csv`. `docs/architectures.md` is written from them
(`architectures_page.py`).
"""

import argparse
import collections
import contextlib
import copy
import csv
import io
import logging
import re
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator

import torch
import transformers
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hf_unlearn import UnlearnTrainer
from hf_unlearn.per_sample.reference import (
    count_samples,
    orthograd_gradient,
    per_sample_gradients,
    select_sample,
)
from tests.benchmarks import architectures_page
from tests.benchmarks.architectures_page import RESULTS
from tests.benchmarks.tiny_architectures import TASKS, classes_of, tiny_model, variants
from tests.benchmarks.tiny_batches import batch_for
from tests.per_sample.harness import randomised
from tests.support.tiny import make_trainer

FIELDS = (
    "task",
    "architecture",
    "class",
    "transformers",
    "precision",
    "error_parameter",
    "error_model",
    "how",
)
FORGET, RETAIN, ALPHA = 2, 4, 0.3
GRANULARITIES = ("parameter", "model")
# Time limit for one row, in seconds.
LIMIT = 60
# A step with a larger relative error is computed again in float64.
NOISE = 1e-4


# ---- one architecture ----------------------------------------------------------------------------


class Observer(transformers.TrainerCallback):
    """Records the gradient that the optimizer is about to use."""

    gradient: list[Tensor | None]

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradient = [
            None if p.grad is None else p.grad.clone()
            for p in model.parameters()
            if p.requires_grad
        ]


def collate(samples: list[dict]) -> dict:
    """Joins batches of one."""

    def joined(values: list) -> Tensor | list | tuple:
        return (
            torch.cat(values) if isinstance(values[0], Tensor) else sum(values, type(values[0])())
        )

    return {name: joined([sample[name] for sample in samples]) for name in samples[0]}


def trainer_step(
    model: nn.Module, batch: dict, granularity: str
) -> tuple[list[Tensor], UnlearnTrainer]:
    """The gradient of one step, a flat tensor per parameter, and the trainer that took the step."""
    model, observer = copy.deepcopy(model), Observer()
    samples = [select_sample(batch, n, FORGET + RETAIN) for n in range(FORGET + RETAIN)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            model,
            folder,
            samples[:FORGET],
            samples[FORGET:],
            collator=collate,
            alpha=ALPHA,
            granularity=granularity,
            remove_unused_columns=False,
            logging_strategy="no",
            arguments={"callbacks": [observer]},
        )
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
    pairs = zip(observer.gradient, (p for p in model.parameters() if p.requires_grad))
    return [(torch.zeros_like(p) if g is None else g).flatten().double() for g, p in pairs], trainer


def loss_alone(model: nn.Module) -> Callable[[dict], Tensor]:
    """The loss of a model as a function of a batch of one."""

    def loss(batch: dict) -> Tensor:
        assert count_samples(batch) == 1
        output = model(**batch)
        return output["loss"] if "loss" in output else output.loss

    return loss


def in_training(model: nn.Module) -> nn.Module:
    """Puts a model in training mode as the trainer does, with batch norms in evaluation mode."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return model


def gradients_alone(model: nn.Module, batch: dict) -> list[Tensor]:
    """The gradients (samples, d) of each parameter, by one backward pass per sample."""
    model = in_training(copy.deepcopy(model))
    parameters = [p for p in model.parameters() if p.requires_grad]
    k = FORGET + RETAIN
    return [
        torch.stack(rows).reshape(len(rows), -1)
        for rows in zip(*per_sample_gradients(model, loss_alone(model), batch, k, parameters))
    ]


def in_double(model: nn.Module, batch: dict) -> tuple[nn.Module, dict] | None:
    """Model and batch in float64; None if the model does not support it."""

    def double(x: object) -> object:
        if isinstance(x, list):
            return [double(y) for y in x]
        if isinstance(x, dict):
            return {name: double(y) for name, y in x.items()}
        return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x

    model, batch = copy.deepcopy(model).double(), double(batch)
    with contextlib.suppress(RuntimeError, TypeError, ValueError):
        # Other implementations do not support float64.
        model.set_experts_implementation("eager")
        if all(rows.isfinite().all() for rows in gradients_alone(model, batch)):
            return model, batch
    return None


def brute_force(rows: list[Tensor], granularity: str) -> list[Tensor]:
    """The expected gradient of a step, a flat tensor per parameter, from `gradients_alone`, which
    both granularities share. (The trainer's tests compute their own: tests/trainer/brute_force.py.)
    """
    if granularity == "model":
        sizes = [x.shape[1] for x in rows]
        rows = torch.cat(rows, 1)
        return list(orthograd_gradient(rows[:FORGET].mean(0), rows[FORGET:], ALPHA).split(sizes))
    return [orthograd_gradient(x[:FORGET].mean(0), x[FORGET:], ALPHA) for x in rows]


def errors(
    model: nn.Module, batch: dict, rows: list[Tensor]
) -> tuple[dict[str, float], UnlearnTrainer]:
    """The relative error of the step by granularity, and the trainer of the last one."""
    error_of = {}
    for granularity in GRANULARITIES:
        step, trainer = trainer_step(model, batch, granularity)
        error_of[granularity] = relative(step, brute_force(rows, granularity))
    return error_of, trainer


def relative(step: list[Tensor], expected: list[Tensor]) -> float:
    return float((torch.cat(step) - torch.cat(expected)).norm() / torch.cat(expected).norm())


def compared(model: nn.Module, batch: dict) -> dict[str, str]:
    """The measured columns of a row.

    Raises:
        NotBuilt: the gradients of the model cannot be compared.
    """
    first = [x.double() for x in gradients_alone(model, batch)]
    again = gradients_alone(model, batch)
    if not all(torch.allclose(x, y.double(), 1e-4, 1e-7) for x, y in zip(first, again)):
        raise NotBuilt("its loss is random in training")
    if not all(x.isfinite().all() for x in first):
        raise NotBuilt("the gradient of a sample is not finite")
    if not sum(x.norm() for x in first):
        # If the trainer refuses the model, its message says why.
        trainer_step(model, batch, "parameter")
        raise NotBuilt("no gradient")
    precision, double = "float32", in_double(model, batch)
    exact = first if double is None else gradients_alone(*double)
    error_of, trainer = errors(model, batch, exact)
    how, wrong = how_computed(trainer), max(error_of.values()) > NOISE
    if wrong and double:
        # It was rounding if float64 gives the right step in the same way.
        found_double, trainer = errors(*double, exact)
        wrong = how_computed(trainer) != how or max(found_double.values()) > NOISE
        precision, error_of = ("float32", error_of) if wrong else ("float64", found_double)
    if wrong:
        how = f"wrong: {how}"
    return {
        "precision": precision,
        **{f"error_{name}": f"{error:.1e}" for name, error in error_of.items()},
        "how": how,
    }


def how_computed(trainer: UnlearnTrainer) -> str:
    """How the trainer obtained the per-sample gradients."""
    if trainer.training_run.checked_model.samples.engine_choice.one_by_one:
        return "one by one"
    slow = trainer.training_run.checked_model.samples.engine_choice.engine.slow
    if not slow:
        return "exact"
    reasons = collections.Counter(slow.values())
    return f"{len(slow)} slow parameters ({brief('; '.join(reasons))})"


class NotBuilt(Exception):
    """The model cannot be built, or gives nothing to compare."""


def brief(text: object) -> str:
    """The beginning of a message in one line, without folders."""
    text = " ".join(str(text).split())
    text = re.sub(r"/[^ ]*/(?=[^ /]+\.py)", "", text)
    return text[:140] + "..." * (len(text) > 140)


def _time_out(*_: object) -> None:
    raise TimeoutError(f"took more than {LIMIT} s")


def row_of(task: str, kind: str, name: str, variant: dict) -> dict[str, str]:
    """The row of an architecture.

    Args:
        task: one of `TASKS`.
        kind: model type, "mixtral".
        name: name of the model class.
        variant: further options of the model, one of `variants(name)`.
    """
    row = {
        "task": task,
        "architecture": kind,
        "class": name,
        "transformers": transformers.__version__,
    }
    row["class"] += "".join(f", {value}" for value in variant.values())
    transformers.set_seed(0)
    signal.signal(signal.SIGALRM, _time_out)
    signal.alarm(LIMIT)
    try:
        try:
            model = in_training(randomised(tiny_model(kind, name, **variant)))
            batch = batch_for(copy.deepcopy(model), task, FORGET + RETAIN)
            loss_alone(copy.deepcopy(model))(select_sample(batch, 0, FORGET + RETAIN)).backward()
        except Exception as problem:
            raise NotBuilt(f"{type(problem).__name__}: {problem}") from problem
        return row | compared(model, batch)
    except NotBuilt as problem:
        return row | {"how": f"not built ({brief(problem)})"}
    except ValueError as problem:
        return row | {"how": f"refused ({brief(problem)})"}
    except Exception as problem:
        if not isinstance(problem, TimeoutError):
            traceback.print_exc()
        return row | {"how": f"crash ({type(problem).__name__}: {brief(problem)})"}
    finally:
        signal.alarm(0)


# ---- all architectures ---------------------------------------------------------------------------


def all_rows(tasks: list[str], only: set[str]) -> Iterator[tuple[str, str, str, dict]]:
    """(task, model type, class, variant) of the rows to measure, each class once.

    Args:
        only: model types; all if empty.
    """
    seen = set()
    for task in TASKS:
        for kind, name in classes_of(task).items():
            if name not in seen and task in tasks and (not only or kind in only):
                yield from ((task, kind, name, variant) for variant in variants(name))
            seen.add(name)


def write(rows: list[dict]) -> None:
    order = list(TASKS)
    rows = sorted(
        rows, key=lambda row: (order.index(row["task"]), row["architecture"], row["class"])
    )
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=TASKS, help="only this task")
    parser.add_argument("--only", default="", help="only these model types, separated by commas")
    parser.add_argument(
        "--again", action="store_true", help="also measure rows that are in the CSV already"
    )
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    done = (
        {(row["task"], row["class"]): row for row in architectures_page.read()}
        if RESULTS.is_file()
        else {}
    )
    only = set(filter(None, options.only.split(",")))
    tasks = [options.task] if options.task else list(TASKS)
    for task, kind, name, variant in all_rows(tasks, only):
        key = (task, name + "".join(f", {value}" for value in variant.values()))
        if key in done and not options.again:
            continue
        row = row_of(task, kind, name, variant)
        done[key] = {**dict.fromkeys(FIELDS, ""), **row}
        print(
            *[done[key][field] for field in FIELDS if field != "transformers"],
            sep=" | ",
            flush=True,
        )
        write(list(done.values()))
    architectures_page.write()


if __name__ == "__main__":
    main()
