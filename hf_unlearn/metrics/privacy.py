"""Membership attacks: can it be told that forgotten samples were trained on? Pure functions on
arrays, exactly named."""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.svm import SVC

SMALLEST = 1e-30  # added to probabilities before their logarithm is taken, as Song & Mittal do
IGNORED = -100  # the label of padding
# % of false positives at which attacks are reported (Carlini et al., S&P 2022)
LOW_RATES = (1, 0.1)


@dataclass(frozen=True)
class Attack:
    """What a number says, which way is better ("": it only describes), and its target where no
    model was retrained (None: there is none)."""

    meaning: str
    wanted: str
    target: float | None


def _of_scores(name: str, meaning: str, giver: str) -> dict[str, Attack]:
    """The entries for what `attack_rates` gives."""
    return {
        f"{name}_auc": Attack(meaning, "0.5", 0.5),
        f"{name}_tpr_at_1_fpr": Attack(
            f"share (%) of forgotten samples that {giver} gives away at 1 % false positives",
            "1",
            1.0,
        ),
        f"{name}_tpr_at_0.1_fpr": Attack("the same at 0.1 % false positives", "0.1", 0.1),
        f"{name}_tpr_at_lowest_fpr": Attack(
            "the same at lowest_fpr false positives", "lowest_fpr", None
        ),
    }


ATTACKS = {
    "lowest_fpr": Attack(
        "lowest rate of false positives (%) that the unseen samples can tell: one of them, 100 / "
        "their number",
        "",
        None,
    ),
    **_of_scores(
        "loss", "AUC of telling forgotten from unseen samples by their lower loss", "the loss"
    ),
    "svc_correctness": Attack(
        "share (%) of forgotten samples that an SVC on whether the prediction is right "
        "(utterances: on the share of "
        "right tokens) takes for unseen",
        "up",
        None,
    ),
    "svc_confidence": Attack(
        "the same, SVC on the probability of the true class (the mean over true tokens)", "up", None
    ),
    "svc_entropy": Attack(
        "the same, SVC on the entropy of the prediction (mean over tokens)", "up", None
    ),
    "svc_modified_entropy": Attack(
        "the same, SVC on the modified entropy (mean over tokens)", "up", None
    ),
    "svc_probability": Attack(
        "the same, SVC on all probabilities (not for utterances)", "up", None
    ),
    **_of_scores(
        "lira",
        "AUC of telling forgotten from unseen samples by LiRA (online, with the run's "
        "shadow models)",
        "LiRA",
    ),
}


def attack_rates(name: str, forgotten: np.ndarray, unseen: np.ndarray) -> dict[str, float | None]:
    """How well scores tell forgotten from unseen samples, where a higher score counts as a member.

    Args:
        name: of the attack, which the keys begin with.
        forgotten, unseen: scores (n,), (m,).

    Returns:
        <name>_auc: 0.5 where the two look alike; below, the forgotten stand out the other way,
        which tells as much. <name>_tpr_at_1_fpr, ..._0.1_fpr: percent of the forgotten that are
            found while at most 1 % (0.1 %) of the unseen are taken for members; None where m is
            below 100 (1000), which cannot tell such a rate from 0.
        <name>_tpr_at_lowest_fpr: the same while at most one unseen sample is.

    Raises:
        ValueError: no samples on one side, or scores that are not finite.
    """
    scores = np.concatenate([_finite(forgotten, "forgotten"), _finite(unseen, "unseen")])
    members = np.repeat([1, 0], [len(forgotten), len(unseen)])
    false, true, _ = roc_curve(members, scores, drop_intermediate=False)
    lowest = lowest_fpr(len(unseen))

    def found(percent):
        # 7 of 700 is 1 %, rounded or not
        return 100 * float(true[100 * false <= percent * (1 + 1e-9)].max())

    rates = {
        f"{percent:g}_fpr": found(percent) if percent >= lowest else None for percent in LOW_RATES
    }
    rates["lowest_fpr"] = found(lowest)
    return {
        f"{name}_auc": float(roc_auc_score(members, scores)),
        **{f"{name}_tpr_at_{rate}": value for rate, value in rates.items()},
    }


def lowest_fpr(unseen: int) -> float:
    """The lowest rate of false positives, in percent, that so many unseen samples can tell from
    none."""
    return 100 / unseen


def loss_attack(forgotten: np.ndarray, unseen: np.ndarray) -> dict[str, float | None]:
    """Threshold on the loss: below it a sample counts as a member (Yeom et al., CSF 2018).

    Args:
        forgotten, unseen: losses (n,), (m,) of the forgotten samples and of samples like them never
            trained on.

    Returns:
        loss_auc, loss_tpr_at_1_fpr, loss_tpr_at_0.1_fpr, loss_tpr_at_lowest_fpr: see
        `attack_rates`.

    Raises:
        ValueError: no samples on one side, or losses that are not finite.
    """
    return attack_rates("loss", -np.asarray(forgotten, np.float64), -np.asarray(unseen, np.float64))


def svc_attacks(
    members: tuple[np.ndarray, np.ndarray],
    unseen: tuple[np.ndarray, np.ndarray],
    forgotten: tuple[np.ndarray, np.ndarray],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """The five attacks of Unlearn-Sparse (Jia et al., NeurIPS 2023; features of Song & Mittal,
    USENIX Security 2021).

    An SVC (RBF kernel, C = 3, gamma = 1 / features) learns to tell members from unseen samples, as
    many of each.

    Args:
        members, unseen, forgotten: (logits (n, classes), labels (n,)) of retained training samples,
            test samples and forgotten samples, all by the same model.
        seed: of the choice of the larger group's samples.

    Returns:
        percent of the forgotten samples that are taken for unseen, by attack ("MIA efficacy"): the
        retrained model's value is the target, and where there is none higher is better.

    Raises:
        ValueError: a group without samples, or logits that are not finite.
    """
    for name, (logits, _) in {"members": members, "unseen": unseen, "forgotten": forgotten}.items():
        _finite(logits, name)
    return svc_attacks_on(*(features(*group) for group in (members, unseen, forgotten)), seed=seed)


def svc_attacks_on(
    members: dict[str, np.ndarray],
    unseen: dict[str, np.ndarray],
    forgotten: dict[str, np.ndarray],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """`svc_attacks` on the `features` of the three groups: those among SVC_FEATURES that they
    have."""
    count = min(len(members["loss"]), len(unseen["loss"]))
    rng, known, rates = np.random.default_rng(seed), np.repeat([1, 0], count), {}
    chosen = [(group, rng.permutation(len(group["loss"]))[:count]) for group in (members, unseen)]
    for name in SVC_FEATURES:
        if name in forgotten:
            seen = np.concatenate([_as_columns(group[name][rows]) for group, rows in chosen])
            attack = SVC(C=3, gamma="auto", kernel="rbf").fit(seen, known)
            rates[f"svc_{name}"] = 100 * float(
                np.mean(attack.predict(_as_columns(forgotten[name])) == 0)
            )
    return rates


SVC_FEATURES = ("correctness", "confidence", "entropy", "modified_entropy", "probability")


def _as_columns(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def features(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What the attacks see of each sample.

    Args:
        logits, labels: (n, classes) and (n,). Or, of texts, (n, T, vocabulary) and (n, T), where
            IGNORED is padding.

    Returns:
        loss, correctness, confidence, entropy, modified_entropy (n,), and probability (n, classes).
        Of texts the means over a text's own tokens, and no probability.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim == 2:
        return _features(logits, labels)
    alone = [
        _features(text[own != IGNORED], own[own != IGNORED]) for text, own in zip(logits, labels)
    ]
    return {
        name: np.array([text[name].mean() for text in alone])
        for name in ("loss", *SVC_FEATURES[:-1])
    }


def _features(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    probabilities, rows = _softmax(np.asarray(logits, np.float64)), np.arange(len(labels))
    own = probabilities[rows, labels]
    log, log_not = np.log(probabilities + SMALLEST), np.log(1 - probabilities + SMALLEST)
    # sum over y' != y of p_y' log(1 - p_y'), once the own term is taken out
    others = probabilities * log_not
    return {
        "loss": cross_entropy(logits, labels),
        "correctness": (probabilities.argmax(1) == labels).astype(float),
        "confidence": own,
        "entropy": -(probabilities * log).sum(1),
        "modified_entropy": -(1 - own) * np.log(own + SMALLEST)
        - (others.sum(1) - others[rows, labels]),
        "probability": probabilities,
    }


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Loss (n,) of each sample, from logits (n, classes); exact where it is close to 0."""
    logits, rows = np.asarray(logits, np.float64), np.arange(len(labels))
    margins = logits - logits[rows, labels][:, None]  # of the other classes over the true one
    margins[rows, labels] = -np.inf
    return np.logaddexp(0, logsumexp(margins, axis=1))


def scaled_confidence(losses: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of p = exp(-loss), (n,): nearly normal over models (Carlini et al., equation
    4).

    Of a classified sample p is the probability of its true class. Of a text, whose loss is the mean
    over its tokens, it is the geometric mean of its true tokens' probabilities: the probability of
    the whole text falls with its length, and would tell long from short ones rather than members
    from others.
    """
    losses = np.maximum(np.asarray(losses, np.float64), SMALLEST)
    return -losses - np.log(-np.expm1(-losses))


def lira_scores(
    confidences: np.ndarray, shadows: np.ndarray, trained: np.ndarray, *, online: bool
) -> np.ndarray:
    """LiRA (Carlini et al., S&P 2022): how much likelier each sample was trained on than not, (n,);
    higher: a member.

    Args:
        confidences: scaled confidence (n,) by the model under attack.
        shadows: the same (m, n) by m shadow models.
        trained: (m, n) bools, whether shadow model i was trained on sample j.
        online: the log-likelihood ratio of the shadow models with and without the sample; else the
            one-sided test against those without (offline). The variance is that of all samples
            together, as few models need.

    Raises:
        ValueError: a sample that no shadow model left out (or, online, that none was trained on).
    """
    shadows, trained = np.asarray(shadows, np.float64), np.asarray(trained, bool)
    for name, mask in (("was trained on", trained), ("left out", ~trained)):
        missing = np.flatnonzero(~mask.any(0))
        if len(missing) and (online or name == "left out"):
            raise ValueError(
                f"no shadow model {name} sample {missing[0]} ({len(missing)} in all): "
                "train more of them"
            )
    out_mean, out_deviation = _normal(shadows, ~trained)
    if not online:
        return norm.logcdf(confidences, out_mean, out_deviation)
    in_mean, in_deviation = _normal(shadows, trained)
    return norm.logpdf(confidences, in_mean, in_deviation) - norm.logpdf(
        confidences, out_mean, out_deviation
    )


def _normal(shadows: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean (n,) over the chosen models, and one standard deviation for all samples."""
    mean = np.where(chosen, shadows, 0).sum(0) / np.maximum(chosen.sum(0), 1)
    deviation = np.sqrt(((shadows - mean) ** 2)[chosen].mean())
    return mean, max(float(deviation), 1e-6)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if not len(values):
        raise ValueError(
            f"there are no {name} samples: a membership attack compares them with others"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"the values of {name} samples are not all finite: the model may have diverged"
        )
    return values
