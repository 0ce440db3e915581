"""Doors: membership attacks, which infer from a model's outputs for single samples whether it was
trained on them."""

import zlib
from functools import partial

import numpy as np
from datasets import Dataset

from ...metrics import earth_movers_distance, informed_scores, matched_pairs
from ...metrics.attack_table import SVC_FEATURE_MEANINGS
from ...metrics.informed_attack import INFORMED_FEATURES
from ...metrics.membership import SVC_FEATURES, svc_taken_for_members
from .door import OF_SPEECH, Door, DoorUnavailable, Subject
from .gaps import Finding, auc_finding, rate

# Utterances count as equally long up to this difference, in seconds.
MAX_DURATION_DIFFERENCE = 0.25
# The least number of pairs and samples from which something can be learned.
MIN_SAMPLES = 8
# Groups of single samples, for the informed attack.
FOLDS = 5


def unseen_split(subject: Subject) -> str:
    """The split of unseen samples like the forgotten ones.

    Raises:
        DoorUnavailable: there is none.
    """
    split = subject.recipe.unseen_split
    if split not in subject.examiner.splits:
        raise DoorUnavailable("there are no unseen samples like the forgotten ones (see held_out)")
    return split


def require_finite(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise DoorUnavailable("some losses are not finite: the model has diverged")
    return values


def losses(subject: Subject, split: str) -> np.ndarray:
    return require_finite(subject.features(split)["loss"])


def rank_losses(subject: Subject) -> Finding:
    split = unseen_split(subject)
    return auc_finding(-losses(subject, "forget"), -losses(subject, split), **{"from": split})


def rank_losses_of_equally_long(subject: Subject) -> Finding:
    """As `rank_losses`, on pairs of equally long utterances, because the loss depends on the
    length."""
    split = unseen_split(subject)
    ours, theirs = pair_equally_long(subject, split)
    if len(ours) < MIN_SAMPLES:
        raise DoorUnavailable(
            f"there are {len(ours)} pairs of equally long utterances; {MIN_SAMPLES} are needed"
        )
    members, others = losses(subject, "forget")[ours], losses(subject, split)[theirs]
    return auc_finding(-members, -others, pairs=len(ours), **{"from": split})


def pair_equally_long(subject: Subject, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The indices (p,) of forgotten utterances and of as many equally long ones of a split."""
    durations = (subject.examiner.splits[name]["duration"][:] for name in ("forget", split))
    return matched_pairs(*durations, tolerance=MAX_DURATION_DIFFERENCE)


def rank_gradient_norms(subject: Subject) -> Finding:
    """A model's gradient is small for samples that it was trained on."""
    splits, model, split = subject.examiner.splits, subject.copy(), unseen_split(subject)
    norms = (
        require_finite(subject.examiner.gradient_norms(model, splits[name]))
        for name in ("forget", split)
    )
    forget, others = norms
    return auc_finding(-forget, -others, **{"from": split})


def classify_by_svc(feature: str, subject: Subject) -> Finding:
    """Trains an SVC to tell retained training samples from unseen samples of the same speakers or
    classes."""
    if "test" not in subject.examiner.splits:
        raise DoorUnavailable(
            "there are no unseen samples of what is retained (see test_split and held_out)"
        )
    losses(subject, "forget")
    taken_for_members = svc_taken_for_members(
        *(subject.features(split) for split in ("retain", "test", "forget"))
    )
    if feature not in taken_for_members:
        what = feature.replace("_", " ")
        if len(subject.features("forget")) == 1:
            raise DoorUnavailable(f"CTC models give only a loss per utterance, so no {what}")
        raise DoorUnavailable(f"a transcript has no class, so there is no {what} of classes")
    predicted_members = taken_for_members[feature].astype(float)
    everyone = np.ones(len(predicted_members))
    return rate(predicted_members, everyone, "classified as training samples (%)", "high")


def rank_by_forest(subject: Subject) -> Finding:
    """Trains a random forest on the other speakers or classes."""
    splits, split = subject.examiner.splits, unseen_split(subject)
    strangers = [name for name in ("test", "other") if name in splits]
    if not strangers:
        raise DoorUnavailable("there are no unseen samples to learn from (test_split, other_split)")
    parts = [attack_features(subject, name) for name in ("retain", *strangers)]
    sizes = [len(part) for part in parts]
    if min(sizes[0], sum(sizes[1:])) < MIN_SAMPLES:
        raise DoorUnavailable(f"there are fewer than {MIN_SAMPLES} samples of a kind to learn from")
    judged = [attack_features(subject, name) for name in ("forget", split)]
    scores = informed_scores(
        np.concatenate(parts),
        np.repeat([1, 0], [sizes[0], sum(sizes[1:])]),
        np.concatenate([owners(subject, splits[name]) for name in ("retain", *strangers)]),
        np.concatenate(judged),
        np.concatenate([owners(subject, splits[name]) for name in ("forget", split)]),
        seed=subject.recipe.args.seed,
    )
    forgotten = len(judged[0])
    return auc_finding(scores[:forgotten], scores[forgotten:], **{"from": split})


def attack_features(subject: Subject, split: str) -> np.ndarray:
    """What the informed attack sees of a split: (n, features); of a CTC model only the loss."""
    features = subject.features(split)
    columns = [features[name] for name in INFORMED_FEATURES if name in features]
    return require_finite(np.stack(columns, axis=1))


def owners(subject: Subject, rows: Dataset) -> np.ndarray:
    """Who each row belongs to (n,). Single samples have no owner, so they are split into `FOLDS`
    groups by their ids."""
    if subject.recipe.task in ("samples", "utterance_samples"):
        return np.array([zlib.crc32(name.encode()) % FOLDS for name in rows["id"][:]])
    return np.array(rows[subject.examiner.group][:])


def measure_distance(split: str, subject: Subject) -> Finding:
    """How far the losses of the forgotten samples are from others. Utterances are compared with
    equally long ones, if there are enough of them."""
    forget, more = losses(subject, "forget"), {"from": split}
    if split == "retrained":
        if subject.retrained is None:
            raise DoorUnavailable("there is no retrained model")
        others = losses(subject.retrained, "forget")
    else:
        split = split if split in subject.examiner.splits else unseen_split(subject)
        others, more = losses(subject, split), {"from": split}
        if subject.recipe.task in OF_SPEECH:
            ours, theirs = pair_equally_long(subject, split)
            if len(ours) >= MIN_SAMPLES:
                forget, others, more = forget[ours], others[theirs], {**more, "pairs": len(ours)}
    return Finding(earth_movers_distance(forget, others), "nats", direction="", more=more)


ATTACKS = (
    Door(
        "loss",
        "attack",
        "how often a forgotten sample has a lower loss than an unseen one (both losses may be "
        "high); 50 is a coin toss",
        rank_losses,
        settings=(),
    ),
    Door(
        "loss_of_equally_long",
        "attack",
        "how often a forgotten utterance has a lower loss than an unseen one that is equally long; "
        "50 is a coin toss",
        rank_losses_of_equally_long,
        tasks=OF_SPEECH,
        unavailable_reason="images have no length",
        settings=(),
    ),
    Door(
        "gradient_norm",
        "attack",
        "how often a forgotten sample has a shorter gradient than an unseen one; 50 is a coin toss",
        rank_gradient_norms,
        settings=(),
    ),
    *(
        Door(
            f"svc_{feature}_members",
            "attack",
            "share of forgotten samples that a classifier (trained on retained and unseen samples) "
            f"classifies as training samples, by {SVC_FEATURE_MEANINGS[feature]}",
            partial(classify_by_svc, feature),
            settings=(),
        )
        for feature in SVC_FEATURES
    ),
    Door(
        "informed",
        "attack",
        "how often a random forest, trained on other speakers or classes, takes a forgotten sample "
        "rather than an unseen one for training data; 50 is a coin toss",
        rank_by_forest,
        settings=(),
    ),
    Door(
        "distance_to_retrained",
        "attack",
        "distance (earth mover's) from the forgotten samples' losses to the retrained model's",
        partial(measure_distance, "retrained"),
        settings=(),
    ),
    Door(
        "distance_to_unseen",
        "attack",
        "distance (earth mover's) from the forgotten samples' losses to those of speakers never "
        "trained on (or of unseen samples)",
        partial(measure_distance, "other"),
        settings=(),
    ),
    Door(
        "distance_to_retain",
        "attack",
        "distance (earth mover's) from the forgotten samples' losses to those of the retain set",
        partial(measure_distance, "retain"),
        settings=(),
    ),
)
