"""Doors: fine-tuning. Hidden knowledge returns after a few steps; a model that never had it must
learn it."""

from collections.abc import Iterator
from dataclasses import replace

from datasets import Dataset, concatenate_datasets
from torch import nn

from ..models.relearning_speed import fine_tuning
from .door import Door, DoorUnavailable, Subject
from .gaps import Finding

# Samples of one optimizer step of benign fine-tuning, and of one pass at most.
BATCH = 16


def relearn(subject: Subject) -> Finding:
    """Trains a copy of the model on forgotten samples and as many retained ones, without which a
    classifier would learn to answer everything with the forgotten class. `more` holds the findings
    on held-out forgotten samples by step; `align_steps` picks one step for all models."""
    chosen, held_out = relearning_rows(subject)
    retain = subject.examiner.splits["retain"]
    count = min(len(chosen), len(retain))
    trained = concatenate_datasets([chosen, retain.select(evenly_spaced(count, len(retain)))])
    steps = checked_steps(subject.settings.relearn_steps)
    by_step = tune_and_evaluate(subject, batches_of(trained, len(trained)), held_out, steps)
    counts = {"trained_on": len(chosen), "measured_on": len(held_out)}
    return replace(by_step[max(steps)], more={"findings": by_step, **counts})


def checked_steps(last: int) -> list[int]:
    """The steps after which held-out samples are evaluated: 0, 1, 2, 4, 8, ... and the last."""
    return sorted({0, last, *(2**power for power in range(last.bit_length()) if 2**power < last)})


def relearning_rows(subject: Subject) -> tuple[Dataset, Dataset]:
    """The forgotten samples that are trained on, evenly spread over the forget set, and the held
    out ones that are evaluated.

    Raises:
        DoorUnavailable: there are too few forgotten samples.
    """
    forget, count = subject.examiner.splits["forget"], subject.settings.relearn_samples
    count = min(count, len(forget) // 2)
    if not count:
        raise DoorUnavailable("there is only one forgotten sample")
    indices = evenly_spaced(count, len(forget))
    if subject.examiner.judged_split != "forget":
        return forget.select(indices), subject.examiner.splits[subject.examiner.judged_split]
    rest = sorted(set(range(len(forget))) - set(indices))
    return forget.select(indices), forget.select(rest)


def evenly_spaced(count: int, size: int) -> list[int]:
    """`count` indices, evenly spread over `size`."""
    return [number * size // count for number in range(count)]


def tune_on_retain_set(subject: Subject) -> Finding:
    """Fine-tuning on the retain set only, as a user would on their own data."""
    splits, last = subject.examiner.splits, subject.settings.relearn_steps
    rows = splits["retain"]
    batches = batches_of(rows, min(BATCH, len(rows)))
    by_step = tune_and_evaluate(subject, batches, splits[subject.examiner.judged_split], [0, last])
    before, after = by_step[0], by_step[last]
    losses = {"loss_before": before.more["loss"], "loss": after.more["loss"]}
    return replace(after, more={"before": before.value, "steps": last, **losses})


def tune_and_evaluate(
    subject: Subject, batches: Iterator[Dataset], held_out: Dataset, steps: list[int]
) -> dict[int, Finding]:
    """Fine-tunes a copy of the model, and evaluates it on held-out rows after each of `steps`."""
    model = subject.copy()
    training = fine_tuning(
        model,
        lambda: add_gradient_of_rows(subject, model, next(batches)),
        learning_rate=subject.settings.relearn_learning_rate,
        steps=max(steps),
    )
    return {
        step: subject.examiner.recognition_and_loss(model, held_out)
        for step in training
        if step in steps
    }


def add_gradient_of_rows(subject: Subject, model: nn.Module, rows: Dataset) -> None:
    """Adds the gradient of the rows' mean loss."""
    # In batches as the run evaluates them: one by one where padding changes what a model hears.
    size = min(BATCH, subject.examiner.batch_size)
    samples = subject.recipe.tuning_data(model, rows)
    for batch in subject.examiner.batches_of(samples, model.eval(), size=size):
        share = len(batch["labels"]) / len(rows)
        (share * subject.examiner.loss(model, batch)).backward()


def batches_of(rows: Dataset, size: int) -> Iterator[Dataset]:
    """Batches of the rows in their order, again and again."""
    start = 0
    while True:
        yield rows.select([(start + offset) % len(rows) for offset in range(size)])
        start += size


def align_steps(findings: dict[str, Finding]) -> dict[str, Finding]:
    """The findings of all models at the same step: the first at which the unlearned or the
    retrained model is back at the level that the original had before; the last one where neither
    is.

    Args:
        findings: by model, as `relearn` gives them; "original" and "unlearned" are among them.

    Returns:
        Findings by model, with `steps` in `more`: after how many steps each was back (None: it was
        not), and the values by step.
    """
    original_findings = findings["original"].more["findings"]
    level, last = original_findings[0], max(original_findings)
    steps = {}
    for name, finding in findings.items():
        by_step = finding.more["findings"].items()
        back = (step for step, at in by_step if level.sign * (at.value - level.value) >= 0)
        steps[name] = next(back, None)
    reached = [steps[name] for name in ("unlearned", "retrained") if steps.get(name) is not None]
    step = min(reached, default=last)
    return {
        name: replace(
            finding.more["findings"][step],
            more={
                "steps": steps[name],
                "at_step": step,
                "by_step": {at: later.value for at, later in finding.more["findings"].items()},
                "loss": finding.more["findings"][step].more["loss"],
                "loss_by_step": {
                    at: later.more["loss"] for at, later in finding.more["findings"].items()
                },
                **{key: count for key, count in finding.more.items() if key != "findings"},
            },
        )
        for name, finding in findings.items()
    }


# The settings that both doors depend on.
TUNING = ("judged_split", "relearn_steps", "relearn_learning_rate")
RELEARNING = (
    Door(
        "relearning",
        "relearning",
        "fine-tuning on a few forgotten samples and as many retained ones; measured on other "
        "forgotten samples, at the first step at which the unlearned or the retrained model is as "
        "good as the original was before, else at the last step",
        relearn,
        settings=("relearn_samples", *TUNING),
        combine=align_steps,
    ),
    Door(
        "benign_tuning",
        "relearning",
        "after fine-tuning on the retain set alone",
        tune_on_retain_set,
        settings=TUNING,
    ),
)
