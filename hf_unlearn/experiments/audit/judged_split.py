"""Chooses the split by which an audit judges forgetting: one of which the original knows more than
the retrained model does."""

from .door import Subject
from .gaps import gap_to_retrained
from .settings import JUDGED


def choose_judged_split(subjects: dict[str, Subject]) -> dict[str, str | int]:
    """By which split an audit judges, by the values of the original and the retrained model alone.

    It is `forget_test`, if the original clearly knows more of it than the retrained model: the
    lower end of the interval is above 0. Otherwise there is little in it to forget:
    fine-tuning may have learned the recordings and not the voice. Then it is the split on which the
    two models differ more.

    Returns:
        split; samples: how many it has; why it is not `forget_test`, for readers; and `asked`, the
        split that the settings name, if they do.

    Raises:
        ValueError: the split that the settings name does not exist.
    """
    examiner = subjects["unlearned"].examiner
    asked = subjects["unlearned"].settings.judged_split
    present = [name for name in JUDGED if name in examiner.splits]
    if asked and asked not in present:
        raise ValueError(f"judged_split is {asked!r}, but must be one of {', '.join(present)}")
    why = ""
    if asked or len(present) == 1 or "retrained" not in subjects:
        chosen = asked or present[0]
    else:
        chosen, why = _more_learned(subjects)
    return {
        "split": chosen,
        "samples": len(examiner.splits[chosen]),
        **({"why": why} if why else {}),
        **({"asked": asked} if asked else {}),
    }


def _more_learned(subjects: dict[str, Subject]) -> tuple[str, str]:
    """(split, why it is not `forget_test`)"""
    unseen = _learned(subjects, "forget_test")
    if unseen["low"] > 0:
        return "forget_test", ""
    trained = _learned(subjects, "forget")
    if trained["gap"] <= unseen["gap"]:
        return "forget_test", ""
    # Adding 0 turns -0.0 into 0.0.
    of_forget, of_unseen = (round(split["gap"], 1) + 0 for split in (trained, unseen))
    why = (
        f"the original knows {of_forget:.1f} points more of forget than the retrained model, but "
        f"only {of_unseen:.1f} points more of forget_test"
    )
    return "forget", why


def _learned(subjects: dict[str, Subject], split: str) -> dict[str, float]:
    """How much more the original knows of a split than the retrained model: `gap`, `low`,
    `high`."""
    examiner = subjects["original"].examiner
    rows = examiner.splits[split]
    models = (subjects[name].model for name in ("original", "retrained"))
    return gap_to_retrained(*(examiner.recognition(model, rows) for model in models))
