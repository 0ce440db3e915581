"""Doors: how the forgotten speaker or class ranks among those that the model never met. One that is
recognised better is still known; one that is recognised worse is conspicuous."""

from functools import partial

import numpy as np

from ...report.tasks import TASKS
from .attacks import require_finite
from .door import Door, DoorUnavailable, Subject
from .gaps import Finding, share_ranked_above

# The tasks whose data may have speakers that no model was trained on.
WITH_STRANGERS = ("speakers", "speaker_data")
NO_STRANGERS = "there are no speakers that the model never met"
# With fewer others, a rank among them says little.
FEWEST = 5


def rank_among_strangers(measure: str, subject: Subject) -> Finding:
    """The rank of the forgotten speakers among the speakers of the split `other`."""
    splits = subject.examiner.splits
    strangers = set(splits["other"]["speaker"][:]) if "other" in splits else set()
    if len(strangers) < FEWEST:
        raise DoorUnavailable(
            f"there are {len(strangers)} speakers that the model never met; {FEWEST} are needed "
            "(other_split)"
        )
    ours = rates_by_owner(subject, subject.examiner.judged_split, measure)
    theirs = rates_by_owner(subject, "other", measure)
    unit = "strangers known worse (%)"
    return share_ranked_above(
        list(ours.values()), list(theirs.values()), unit, strangers=len(theirs)
    )


def rank_among_classes(subject: Subject) -> Finding:
    """The rank of the forgotten classes among the others, by the mean loss of unseen samples. A
    classifier meets all of its classes, so the retrained model's rank is the one to compare."""
    others, groups = rates_by_owner(subject, "test", "loss"), TASKS[subject.recipe.task].groups
    if len(others) < FEWEST:
        raise DoorUnavailable(f"there are {len(others)} other {groups}; {FEWEST} are needed")
    ours = rates_by_owner(subject, subject.examiner.judged_split, "loss")
    unit = f"{groups} known worse (%)"
    return share_ranked_above(list(ours.values()), list(others.values()), unit, classes=len(others))


def rates_by_owner(subject: Subject, split: str, measure: str) -> dict[str, float]:
    """The error rate or the mean loss of each speaker or class of a split.

    Raises:
        DoorUnavailable: there is no such split, or a loss is not finite.
    """
    losses = require_finite(subject.features(split)["loss"])
    rows = subject.examiner.splits[split]
    owners = np.array(rows[subject.examiner.group][:])
    counts, totals = losses, np.ones(len(losses))
    if measure == "errors":
        counts, totals = subject.examiner.errors_of(subject.model, rows)
    return {
        owner: float(counts[owners == owner].sum() / max(totals[owners == owner].sum(), 1))
        for owner in np.unique(owners).tolist()
    }


STANDING_OUT = (
    Door(
        "errors_among_strangers",
        "standing out",
        "share of speakers never trained on who are recognised worse than the forgotten speaker; "
        "50 is the median",
        partial(rank_among_strangers, "errors"),
        tasks=WITH_STRANGERS,
        unavailable_reason=NO_STRANGERS,
        settings=("judged_split",),
    ),
    Door(
        "loss_among_strangers",
        "standing out",
        "share of speakers never trained on whose mean loss is higher than the forgotten "
        "speaker's; 50 is the median",
        partial(rank_among_strangers, "loss"),
        tasks=WITH_STRANGERS,
        unavailable_reason=NO_STRANGERS,
        settings=("judged_split",),
    ),
    Door(
        "loss_among_classes",
        "standing out",
        "share of retained classes whose unseen samples have a higher loss than the forgotten "
        "class's",
        rank_among_classes,
        tasks=("classes", "utterance_classes", "speaker_classes"),
        unavailable_reason="no whole class was forgotten",
        settings=("judged_split",),
    ),
)
