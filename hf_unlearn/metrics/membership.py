"""Membership attacks: how well an attacker can tell that forgotten samples were trained on. Pure
functions on arrays. `attack_table` says what their numbers mean."""

import numpy as np
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.svm import SVC

from .sample_features import EPSILON, SVC_FEATURES, features

# False positive rates (%) at which attacks are reported (Carlini et al., S&P 2022).
LOW_FALSE_POSITIVE_RATES = (1, 0.1)


def attack_rates(name: str, forgotten: np.ndarray, unseen: np.ndarray) -> dict[str, float | None]:
    """How well a score separates forgotten from unseen samples. A higher score means member.

    Args:
        name: name of the attack, the first part of every key.
        forgotten: scores (n,) of the forgotten samples.
        unseen: scores (m,) of samples that were never trained on.

    Returns:
        NAME_auc: area under the ROC curve. 0.5 means that the two groups look alike. Below 0.5 the
            forgotten samples stand out in the other direction, which reveals them just as well.
        NAME_tpr_at_1_fpr, NAME_tpr_at_0.1_fpr: forgotten samples (%) that are found while at most
            1 % (0.1 %) of the unseen samples are taken for members. None if m is below 100 (1000),
            because such a rate cannot be told from 0 then.
        NAME_tpr_at_lowest_fpr: the same while at most one unseen sample is taken for a member.

    Raises:
        ValueError: a group has no samples, or scores are not finite.
    """
    scores = np.concatenate([_checked(forgotten, "forgotten"), _checked(unseen, "unseen")])
    members = np.repeat([1, 0], [len(forgotten), len(unseen)])
    fpr, tpr, _ = roc_curve(members, scores, drop_intermediate=False)
    lowest = lowest_fpr(len(unseen))

    def tpr_at(percent: float) -> float:
        # The factor tolerates rounding: 7 of 700 samples are 1 %.
        return 100 * float(tpr[100 * fpr <= percent * (1 + 1e-9)].max())

    rates = {
        f"{percent:g}_fpr": tpr_at(percent) if percent >= lowest else None
        for percent in LOW_FALSE_POSITIVE_RATES
    }
    rates["lowest_fpr"] = tpr_at(lowest)
    return {
        f"{name}_auc": float(roc_auc_score(members, scores)),
        **{f"{name}_tpr_at_{rate}": value for rate, value in rates.items()},
    }


def lowest_fpr(unseen: int) -> float:
    """The lowest false positive rate above 0 (%) that a number of unseen samples can show."""
    return 100 / unseen


def loss_attack(forgotten: np.ndarray, unseen: np.ndarray) -> dict[str, float | None]:
    """Loss threshold attack: a sample with a loss below the threshold counts as a member (Yeom et
    al., CSF 2018).

    Args:
        forgotten: losses (n,) of the forgotten samples.
        unseen: losses (m,) of similar samples that were never trained on.

    Returns:
        loss_auc, loss_tpr_at_1_fpr, loss_tpr_at_0.1_fpr, loss_tpr_at_lowest_fpr: see
            `attack_rates`.

    Raises:
        ValueError: a group has no samples, or losses are not finite.
    """
    return attack_rates("loss", -np.asarray(forgotten, np.float64), -np.asarray(unseen, np.float64))


def svc_attacks(
    members: tuple[np.ndarray, np.ndarray],
    unseen: tuple[np.ndarray, np.ndarray],
    forgotten: tuple[np.ndarray, np.ndarray],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """The five attacks of Unlearn-Sparse (Jia et al., NeurIPS 2023, arXiv 2304.04934) on the
    features of Song & Mittal (USENIX Security 2021).

    An SVC (RBF kernel, C = 3, gamma = 1 / number of features) learns to tell members from as many
    unseen samples. Then it classifies the forgotten samples.

    Args:
        members: logits (n, classes) and labels (n,) of retained training samples.
        unseen: logits and labels of test samples, by the same model.
        forgotten: logits and labels of the forgotten samples, by the same model.
        seed: for drawing from the larger group as many samples as the smaller one has.

    Returns:
        Forgotten samples (%) that are taken for unseen, by attack ("MIA efficacy"). The target is
        the value of the retrained model. If none is known, higher is better.

    Raises:
        ValueError: a group has no samples, or logits are not finite.
    """
    for name, (logits, _) in {"members": members, "unseen": unseen, "forgotten": forgotten}.items():
        _checked(logits, name)
    return svc_attacks_on(*(features(*group) for group in (members, unseen, forgotten)), seed=seed)


def svc_attacks_on(
    members: dict[str, np.ndarray],
    unseen: dict[str, np.ndarray],
    forgotten: dict[str, np.ndarray],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """`svc_attacks` on the `features` of the three groups, for the SVC_FEATURES that they have."""
    predictions = svc_taken_for_members(members, unseen, forgotten, seed=seed)
    return {f"svc_{name}": 100 * float(np.mean(~member)) for name, member in predictions.items()}


def svc_taken_for_members(
    members: dict[str, np.ndarray],
    unseen: dict[str, np.ndarray],
    forgotten: dict[str, np.ndarray],
    *,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Which forgotten samples (n,) each SVC of `svc_attacks` takes for members, by feature."""
    count = min(len(members["loss"]), len(unseen["loss"]))
    rng = np.random.default_rng(seed)
    drawn = [(group, rng.permutation(len(group["loss"]))[:count]) for group in (members, unseen)]
    is_member = np.repeat([1, 0], count)
    predictions = {}
    for name in SVC_FEATURES:
        if name in forgotten:
            examples = np.concatenate([_as_columns(group[name][rows]) for group, rows in drawn])
            attack = SVC(C=3, gamma="auto", kernel="rbf").fit(examples, is_member)
            predictions[name] = attack.predict(_as_columns(forgotten[name])) == 1
    return predictions


def _as_columns(values: np.ndarray) -> np.ndarray:
    """(n,) or (n, columns) as (n, columns)."""
    return values.reshape(len(values), -1)


def scaled_confidence(losses: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) with p = exp(-loss), (n,). Over models it is close to normally distributed
    (Carlini et al., S&P 2022, equation 4).

    For a class, p is the probability of the true class. For a text, whose loss is the mean over its
    tokens, p is the geometric mean of its true tokens' probabilities. The probability of the whole
    text is not used because it falls with the length, and so would separate long from short texts
    instead of members from others.
    """
    losses = np.maximum(np.asarray(losses, np.float64), EPSILON)
    return -losses - np.log(-np.expm1(-losses))


def lira_scores(
    confidences: np.ndarray, shadows: np.ndarray, trained: np.ndarray, *, online: bool
) -> np.ndarray:
    """Likelihood ratio attack, LiRA (Carlini et al., S&P 2022): a score (n,) for each sample. A
    higher score means member.

    Normal distributions are fitted to the scaled confidences of the shadow models that were
    trained on a sample (in) and that were not (out). All samples share one variance, which the
    paper advises for few shadow models.

    Args:
        confidences: scaled confidences (n,) by the attacked model.
        shadows: scaled confidences (m, n) by m shadow models.
        trained: booleans (m, n), whether shadow model i was trained on sample j.
        online: use the log-likelihood ratio of in and out. Otherwise (offline) use the log of the
            one-sided probability under out.

    Raises:
        ValueError: all shadow models were trained on a sample; or, online, none was.
    """
    shadows, trained = np.asarray(shadows, np.float64), np.asarray(trained, bool)
    for name, mask in (("was trained on", trained), ("left out", ~trained)):
        missing = np.flatnonzero(~mask.any(0))
        if len(missing) and (online or name == "left out"):
            raise ValueError(
                f"no shadow model {name} sample {missing[0]} ({len(missing)} such samples): "
                "train more shadow models"
            )
    out_mean, out_deviation = _fit_normal(shadows, ~trained)
    if not online:
        return norm.logcdf(confidences, out_mean, out_deviation)
    in_mean, in_deviation = _fit_normal(shadows, trained)
    log_in = norm.logpdf(confidences, in_mean, in_deviation)
    return log_in - norm.logpdf(confidences, out_mean, out_deviation)


def _fit_normal(shadows: np.ndarray, selected: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean (n,) over the selected models, and one standard deviation for all samples."""
    mean = np.where(selected, shadows, 0).sum(0) / np.maximum(selected.sum(0), 1)
    deviation = np.sqrt(((shadows - mean) ** 2)[selected].mean())
    return mean, max(float(deviation), 1e-6)


def _checked(values: np.ndarray, group: str) -> np.ndarray:
    """Values in float64; raises ValueError if there are none or they are not all finite."""
    values = np.asarray(values, np.float64)
    if not len(values):
        raise ValueError(
            f"there are no {group} samples, but a membership attack compares them with others: "
            "give at least one"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"the values of {group} samples are not all finite: leave these samples out, or use an "
            "earlier checkpoint if the model has diverged"
        )
    return values
