"""Membership attacks: can it be told that forgotten samples were trained on? Pure functions on arrays, exactly named."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.svm import SVC

SMALLEST = 1e-30  # added to probabilities before their logarithm is taken, as Song & Mittal do


@dataclass(frozen=True)
class Attack:
    """What a number says, which way is better, and its target where no model was retrained (None: there is none)."""

    meaning: str
    wanted: str
    target: float | None


ATTACKS = {
    "loss_auc": Attack("AUC of telling forgotten from unseen samples by their lower loss", "0.5", 0.5),
    "loss_tpr_at_1_fpr": Attack(
        "share (%) of forgotten samples that the loss gives away at 1 % false positives", "1", 1.0
    ),
    "loss_tpr_at_0.1_fpr": Attack("the same at 0.1 % false positives", "0.1", 0.1),
    "svc_correctness": Attack(
        "share (%) of forgotten samples that an SVC on whether the prediction is right takes for unseen", "up", None
    ),
    "svc_confidence": Attack("the same, SVC on the probability of the true class", "up", None),
    "svc_entropy": Attack("the same, SVC on the entropy of the prediction", "up", None),
    "svc_modified_entropy": Attack("the same, SVC on the modified entropy", "up", None),
    "svc_probability": Attack("the same, SVC on all probabilities", "up", None),
}


def loss_attack(forgotten: np.ndarray, unseen: np.ndarray) -> dict[str, float]:
    """Threshold on the loss: below it a sample counts as a member (Yeom et al., CSF 2018).

    Args:
        forgotten, unseen: losses (n,), (m,) of the forgotten samples and of samples like them never trained on.

    Returns:
        loss_auc: 0.5 where the two look alike; above, forgotten samples have lower losses; below, they stand out by
            higher ones, which gives them away as well.
        loss_tpr_at_1_fpr, loss_tpr_at_0.1_fpr: percent of the forgotten that are found while at most 1 % (0.1 %) of
            the unseen are taken for members. Fewer than 1000 unseen samples cannot resolve 0.1 %.

    Raises:
        ValueError: no samples on one side, or losses that are not finite.
    """
    scores = -np.concatenate([_finite(forgotten, "forgotten"), _finite(unseen, "unseen")])
    members = np.repeat([1, 0], [len(forgotten), len(unseen)])
    false, true, _ = roc_curve(members, scores, drop_intermediate=False)
    rates = {f"loss_tpr_at_{percent:g}_fpr": 100 * float(true[false <= percent / 100].max()) for percent in (1, 0.1)}
    return {"loss_auc": float(roc_auc_score(members, scores)), **rates}


def svc_attacks(
    members: tuple[np.ndarray, np.ndarray],
    unseen: tuple[np.ndarray, np.ndarray],
    forgotten: tuple[np.ndarray, np.ndarray],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """The five attacks of Unlearn-Sparse (Jia et al., NeurIPS 2023; features of Song & Mittal, USENIX Security 2021).

    An SVC (RBF kernel, C = 3, gamma = 1 / features) learns to tell members from unseen samples, as many of each.

    Args:
        members, unseen, forgotten: (logits (n, classes), labels (n,)) of retained training samples, test samples and
            forgotten samples, all by the same model.
        seed: of the choice of the larger group's samples.

    Returns:
        percent of the forgotten samples that are taken for unseen, by attack ("MIA efficacy"): the retrained model's
        value is the target, and where there is none higher is better.

    Raises:
        ValueError: a group without samples, or logits that are not finite.
    """
    for name, (logits, _) in {"members": members, "unseen": unseen, "forgotten": forgotten}.items():
        _finite(logits, name)
    count = min(len(members[1]), len(unseen[1]))
    rng, known = np.random.default_rng(seed), np.repeat([1, 0], count)
    chosen = []
    for logits, labels in (members, unseen):
        rows = rng.permutation(len(labels))[:count]
        chosen.append(features(np.asarray(logits)[rows], np.asarray(labels)[rows]))
    asked, rates = features(*forgotten), {}
    for name in asked:
        attack = SVC(C=3, gamma="auto", kernel="rbf").fit(np.concatenate([part[name] for part in chosen]), known)
        rates[f"svc_{name}"] = 100 * float(np.mean(attack.predict(asked[name]) == 0))
    return rates


def features(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """What the attacks see of each sample, (n, 1) but for the last, (n, classes)."""
    probabilities = _softmax(np.asarray(logits, np.float64))
    own = probabilities[np.arange(len(labels)), labels]
    log, log_not = np.log(probabilities + SMALLEST), np.log(1 - probabilities + SMALLEST)
    others = probabilities * log_not  # sum over y' != y of p_y' log(1 - p_y'), once the own term is taken out
    modified = -(1 - own) * np.log(own + SMALLEST) - (others.sum(1) - others[np.arange(len(labels)), labels])
    return {
        "correctness": (probabilities.argmax(1) == labels).astype(float)[:, None],
        "confidence": own[:, None],
        "entropy": -(probabilities * log).sum(1, keepdims=True),
        "modified_entropy": modified[:, None],
        "probability": probabilities,
    }


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Loss (n,) of each sample, from logits (n, classes)."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    return np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]


def scaled_confidence(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of the true class's probability p, (n,): nearly normal over models (Carlini et al., eq. 4)."""
    logits = np.asarray(logits, np.float64)
    rows = np.arange(len(labels))
    own, others = logits[rows, labels], logits.copy()
    others[rows, labels] = -np.inf
    top = others.max(1)
    return own - top - np.log(np.exp(others - top[:, None]).sum(1))


def lira_scores(confidences: np.ndarray, shadows: np.ndarray, trained: np.ndarray, *, online: bool) -> np.ndarray:
    """LiRA (Carlini et al., S&P 2022): how much likelier each sample was trained on than not, (n,); higher: a member.

    Args:
        confidences: scaled confidence (n,) by the model under attack.
        shadows: the same (m, n) by m shadow models.
        trained: (m, n) bools, whether shadow model i was trained on sample j.
        online: the log-likelihood ratio of the shadow models with and without the sample; else the one-sided test
            against those without (offline). The variance is that of all samples together, as few models need.

    Raises:
        ValueError: a sample that no shadow model left out (or, online, that none was trained on).
    """
    shadows, trained = np.asarray(shadows, np.float64), np.asarray(trained, bool)
    for name, mask in (("was trained on", trained), ("left out", ~trained)):
        missing = np.flatnonzero(~mask.any(0))
        if len(missing) and (online or name == "left out"):
            raise ValueError(f"no shadow model {name} sample {missing[0]} ({len(missing)} in all): train more of them")
    out_mean, out_deviation = _normal(shadows, ~trained)
    if not online:
        return norm.logcdf(confidences, out_mean, out_deviation)
    in_mean, in_deviation = _normal(shadows, trained)
    return norm.logpdf(confidences, in_mean, in_deviation) - norm.logpdf(confidences, out_mean, out_deviation)


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
        raise ValueError(f"there are no {name} samples: a membership attack compares them with others")
    if not np.isfinite(values).all():
        raise ValueError(f"the values of {name} samples are not all finite: the model may have diverged")
    return values
