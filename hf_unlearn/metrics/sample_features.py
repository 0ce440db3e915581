"""Features of single samples that membership attacks use, from logits and labels; losses of CTC."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import logsumexp

# Added to probabilities before taking the logarithm, as Song & Mittal do.
EPSILON = 1e-30
# The label of padding.
PADDING = -100
# The features that SVC attacks use.
SVC_FEATURES = ("correctness", "confidence", "entropy", "modified_entropy", "probability")


def features(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The features of each sample that attacks use.

    Args:
        logits: (n, classes), or (n, T, vocabulary) for texts.
        labels: (n,), or (n, T) for texts, -100 where padded.

    Returns:
        loss, correctness, confidence, entropy, modified_entropy: (n,). For texts these are means
            over the text's own tokens.
        probability: (n, classes). Texts have none.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim == 2:
        return _class_features(logits, labels)
    texts = [
        _class_features(text[targets != PADDING], targets[targets != PADDING])
        for text, targets in zip(logits, labels)
    ]
    return {
        name: np.array([text[name].mean() for text in texts])
        for name in ("loss", *SVC_FEATURES)
        if name != "probability"
    }


def _class_features(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """`features` of logits (n, classes)."""
    probabilities, rows = _softmax(np.asarray(logits, np.float64)), np.arange(len(labels))
    true = probabilities[rows, labels]
    log, log_not = np.log(probabilities + EPSILON), np.log(1 - probabilities + EPSILON)
    # Song & Mittal, equation 2: -(1 - p_y) log p_y - sum over y' != y of p_y' log(1 - p_y')
    terms = probabilities * log_not
    modified = -(1 - true) * np.log(true + EPSILON) - (terms.sum(1) - terms[rows, labels])
    return {
        "loss": cross_entropy(logits, labels),
        "correctness": (predicted_classes(probabilities) == labels).astype(float),
        "confidence": true,
        "entropy": -(probabilities * log).sum(1),
        "modified_entropy": modified,
        "probability": probabilities,
    }


def predicted_classes(logits: np.ndarray) -> np.ndarray:
    """The class (n,) with the highest logit. A sample with a logit that is NaN gets -1, which
    matches no class; argmax would take the NaN for the highest logit.

    Args:
        logits: (n, classes).
    """
    logits = np.asarray(logits)
    return np.where(np.isnan(logits).any(-1), -1, logits.argmax(-1))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The loss (n,) of each sample, precise also where it is close to 0.

    Args:
        logits: (n, classes).
        labels: (n,).
    """
    logits, rows = np.asarray(logits, np.float64), np.arange(len(labels))
    # log(1 + sum over y' != y of exp(z_y' - z_y))
    margins = logits - logits[rows, labels][:, None]
    margins[rows, labels] = -np.inf
    return np.logaddexp(0, logsumexp(margins, axis=1))


def ctc_losses(logits: torch.Tensor, labels: torch.Tensor, blank: int) -> torch.Tensor:
    """The CTC losses (n,) of utterances, each divided by its number of labels.

    Args:
        logits: (n, frames, vocabulary), none of them padding.
        labels: (n, T), -100 where padded.
        blank: the blank's token.
    """
    n, frames, _ = logits.shape
    lengths = (labels >= 0).sum(1)
    log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)
    input_lengths = torch.full((n,), frames, device=logits.device)
    losses = F.ctc_loss(
        log_probabilities,
        labels[labels >= 0],
        input_lengths,
        lengths,
        blank=blank,
        reduction="none",
    )
    return losses / lengths


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
