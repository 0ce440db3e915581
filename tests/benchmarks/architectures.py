"""Holds one step of UnlearnTrainer against brute force, for tiny random models of transformers'
architectures.

    .venv/bin/python tests/benchmarks/architectures.py                     # what is not in the CSV yet, then the page
    .venv/bin/python tests/benchmarks/architectures.py --task CTC --again  # a task's rows anew
    .venv/bin/python tests/benchmarks/architectures.py --only mixtral,clip --again

Two samples are forgotten and four kept, of different lengths; the step is the gradient that the
optimizer gets, for both granularities, at alpha = 0.3. Brute force is one backward pass for each
sample alone, in float64 where the model can, and the dense matrix A. Rows go to
`architectures.csv`, and `docs/architectures.md` is written from them (`architectures_page.py`).
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
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import transformers  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.modules.batchnorm import _BatchNorm  # noqa: E402

from hf_unlearn.per_sample.reference import (
    count_samples,
    orthograd_gradient,
    per_sample_gradients,
    select_sample,
)  # noqa: E402
from tests.benchmarks import architectures_page  # noqa: E402
from tests.benchmarks.architectures_page import RESULTS  # noqa: E402
from tests.benchmarks.tiny_architectures import TASKS, classes_of, tiny_model, variants  # noqa: E402
from tests.benchmarks.tiny_batches import batch_for  # noqa: E402
from tests.per_sample.harness import randomised  # noqa: E402
from tests.tiny import make_trainer  # noqa: E402

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
LIMIT = 60  # seconds for one row
NOISE = 1e-4  # relative error of a step from which on the model is computed in float64, too


# ---- one architecture -----------------------------------------------------------------------------------------------


class Observer(transformers.TrainerCallback):
    """Keeps the gradient that the optimizer is about to use."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradient = [
            None if p.grad is None else p.grad.clone()
            for p in model.parameters()
            if p.requires_grad
        ]


def collate(samples: list[dict]) -> dict:
    """Batches of one, put together."""

    def joined(values):
        return (
            torch.cat(values) if isinstance(values[0], Tensor) else sum(values, type(values[0])())
        )

    return {name: joined([sample[name] for sample in samples]) for name in samples[0]}


def stepped(model: nn.Module, batch: dict, granularity: str):
    """The gradient of one step, flat for each parameter, and the trainer that took it."""
    model, observer = copy.deepcopy(model), Observer()
    samples = [select_sample(batch, n, FORGET + RETAIN) for n in range(FORGET + RETAIN)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            model, folder, samples[:FORGET], samples[FORGET:], collator=collate, alpha=ALPHA, granularity=granularity,
            remove_unused_columns=False, logging_strategy="no", arguments={"callbacks": [observer]},
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
    pairs = zip(observer.gradient, (p for p in model.parameters() if p.requires_grad))
    return [(torch.zeros_like(p) if g is None else g).flatten().double() for g, p in pairs], trainer


def loss_alone(model: nn.Module):
    def loss(batch):
        assert count_samples(batch) == 1
        output = model(**batch)
        return output["loss"] if "loss" in output else output.loss

    return loss


def in_training(model: nn.Module) -> nn.Module:
    """In training mode, as the trainer has it."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return model


def gradients_alone(model: nn.Module, batch: dict) -> list[Tensor]:
    """The gradients (samples, d) of each parameter, by one pass for each sample."""
    model = in_training(copy.deepcopy(model))
    parameters = [p for p in model.parameters() if p.requires_grad]
    k = FORGET + RETAIN
    return [
        torch.stack(rows).reshape(len(rows), -1)
        for rows in zip(*per_sample_gradients(model, loss_alone(model), batch, k, parameters))
    ]


def in_double(model: nn.Module, batch: dict) -> tuple[nn.Module, dict] | None:
    """Model and batch in float64, where they can be computed in it."""

    def double(x):
        if isinstance(x, (list, dict)):
            return (
                [double(y) for y in x]
                if isinstance(x, list)
                else {name: double(y) for name, y in x.items()}
            )
        return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x

    model, batch = copy.deepcopy(model).double(), double(batch)
    with contextlib.suppress(RuntimeError, TypeError, ValueError):
        model.set_experts_implementation("eager")  # others have no float64
        if all(rows.isfinite().all() for rows in gradients_alone(model, batch)):
            return model, batch
    return None


def brute_force(rows: list[Tensor], granularity: str) -> list[Tensor]:
    if granularity == "model":
        sizes = [x.shape[1] for x in rows]
        rows = torch.cat(rows, 1)
        return list(orthograd_gradient(rows[:FORGET].mean(0), rows[FORGET:], ALPHA).split(sizes))
    return [orthograd_gradient(x[:FORGET].mean(0), x[FORGET:], ALPHA) for x in rows]


def errors(model: nn.Module, batch: dict, rows: list[Tensor]):
    """Relative error of the step by granularity, and the last trainer."""
    found = {}
    for granularity in GRANULARITIES:
        step, trainer = stepped(model, batch, granularity)
        found[granularity] = relative(step, brute_force(rows, granularity))
    return found, trainer


def relative(step: list[Tensor], expected: list[Tensor]) -> float:
    return float((torch.cat(step) - torch.cat(expected)).norm() / torch.cat(expected).norm())


def compared(model: nn.Module, batch: dict) -> dict:
    """The columns of a row that are measured."""
    first = [x.double() for x in gradients_alone(model, batch)]
    again = gradients_alone(model, batch)
    if not all(torch.allclose(x, y.double(), 1e-4, 1e-7) for x, y in zip(first, again)):
        raise NotBuilt("its loss is random in training")
    if not all(x.isfinite().all() for x in first):
        raise NotBuilt("the gradient of a sample is not finite")
    if not sum(x.norm() for x in first):
        stepped(model, batch, "parameter")  # which says why
        raise NotBuilt("no gradient")
    precision, double = "float32", in_double(model, batch)
    exact = first if double is None else gradients_alone(*double)
    found, trainer = errors(model, batch, exact)
    how, wrong = how_computed(trainer), max(found.values()) > NOISE
    if wrong and double:  # is it the arithmetic? Not if something else is computed in float64.
        found_double, trainer = errors(*double, exact)
        wrong = how_computed(trainer) != how or max(found_double.values()) > NOISE
        precision, found = ("float32", found) if wrong else ("float64", found_double)
    if wrong:
        how = f"wrong: {how}"
    return {
        "precision": precision,
        **{f"error_{name}": f"{error:.1e}" for name, error in found.items()},
        "how": how,
    }


def how_computed(trainer) -> str:
    if trainer.samples.one_by_one:
        return "one by one"
    slow = trainer.samples.engine.slow
    if not slow:
        return "exact"
    reasons = collections.Counter(slow.values())
    return f"{len(slow)} slow parameters ({brief('; '.join(reasons))})"


class NotBuilt(Exception):
    """No comparison can be made."""


def brief(text) -> str:
    text = " ".join(str(text).split())
    text = re.sub(r"/[^ ]*/(?=[^ /]+\.py)", "", text)
    return text[:140] + "..." * (len(text) > 140)


def _timed_out(*_):
    raise TimeoutError(f"not done after {LIMIT} s")


def row_of(task: str, kind: str, name: str, variant: dict) -> dict:
    row = {
        "task": task,
        "architecture": kind,
        "class": name,
        "transformers": transformers.__version__,
    }
    row["class"] += "".join(f", {value}" for value in variant.values())
    transformers.set_seed(0)
    signal.signal(signal.SIGALRM, _timed_out)
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


# ---- all of them ----------------------------------------------------------------------------------------------------


def rows_wanted(tasks: list[str], only: set[str]):
    """(task, model type, class, variant), each class once."""
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
    parser.add_argument("--task", choices=TASKS, help="one task only")
    parser.add_argument("--only", default="", help="model types, joined by commas")
    parser.add_argument(
        "--again", action="store_true", help="measure anew what is in the CSV already"
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
    for task, kind, name, variant in rows_wanted(
        [options.task] if options.task else list(TASKS), only
    ):
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
