"""The loss of a batch is the mean of the losses that its samples have alone."""

import pytest
import torch
import torch.nn.functional as F

from hf_unlearn.per_sample import SampleMeanLoss
from hf_unlearn.per_sample.losses import NotBySample

K, T, V = 3, 5, 7


def labels() -> torch.Tensor:
    target = torch.randint(0, V, (K, T))
    target[0, 2:], target[1, 4:] = -100, -100
    return target


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"reduction": "sum"}])
def test_cross_entropy_of_padded_labels(options):
    logits, target = torch.randn(K, T, V), labels()
    alone = [F.cross_entropy(logits[n], target[n], **options) for n in range(K)]
    with SampleMeanLoss(K):
        together = F.cross_entropy(logits.reshape(-1, V), target.reshape(-1), **options)
    assert torch.isclose(together, torch.stack(alone).mean())


@pytest.mark.parametrize("k, T", [(K, T), (K, 1)])
def test_class_weights_act_between_samples(k, T):
    """A sample's weighted losses are divided by the number of its labels, not by its weights.

    Otherwise the weight of a single label would cancel.
    """
    logits, target, weight = torch.randn(k, T, V), labels()[:, :T], torch.rand(V) + 0.5
    counted = [[t for t in range(T) if target[n, t] >= 0] for n in range(k)]
    expected = [
        sum(-weight[target[n, t]] * logits[n, t].log_softmax(0)[target[n, t]] for t in counted[n])
        / len(counted[n])
        for n in range(k)
    ]
    with SampleMeanLoss(k):
        together = F.cross_entropy(logits.reshape(-1, V), target.reshape(-1), weight)
        log_probs = logits.log_softmax(-1).reshape(-1, V)
        of_logarithms = F.nll_loss(log_probs, target.reshape(-1), weight)
    assert torch.isclose(together, torch.stack(expected).mean())
    assert torch.isclose(together, of_logarithms)


def test_sums_are_divided_by_the_number_of_labels_of_their_sample():
    logits, target = torch.randn(K, T, V), labels()
    alone = [F.cross_entropy(logits[n], target[n]) for n in range(K)]
    with SampleMeanLoss(K, labels=(target >= 0).sum(1)) as losses:
        summed = F.cross_entropy(logits.reshape(-1, V), target.reshape(-1), reduction="sum")
        assert losses.undivided
        together = summed / losses.items
    assert torch.isclose(together, torch.stack(alone).mean()) and not losses.undivided
    assert torch.allclose(losses.per_sample(together), torch.stack(alone))


def test_a_sample_without_labels_has_loss_zero():
    logits, target = torch.randn(K, T, V), labels()
    target[1] = -100
    alone = [F.cross_entropy(logits[n], target[n]) for n in (0, 2)]
    with SampleMeanLoss(K):
        together = F.cross_entropy(logits.reshape(-1, V), target.reshape(-1))
    assert torch.isclose(together, sum(alone) / K)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "loss", [F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.binary_cross_entropy_with_logits]
)
def test_an_elementwise_loss_is_the_mean_over_samples_alone(loss, reduction):
    x, y = torch.randn(K, T), torch.rand(K, T)
    alone = [loss(x[n], y[n], reduction=reduction) for n in range(K)]
    with SampleMeanLoss(K):
        together = loss(x, y, reduction=reduction)
    assert torch.isclose(together, torch.stack(alone).mean())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_ctc_loss_is_the_mean_over_samples_alone(reduction):
    log_probs, targets = torch.randn(20, K, V).log_softmax(-1), torch.randint(1, V, (K, 4))
    lengths, target_lengths = torch.tensor([20, 18, 15]), torch.tensor([4, 2, 3])
    alone = []
    for n in range(K):
        one = slice(n, n + 1)
        inputs = log_probs[:, one], targets[one], lengths[one], target_lengths[one]
        alone.append(F.ctc_loss(*inputs, reduction=reduction))
    with SampleMeanLoss(K):
        together = F.ctc_loss(log_probs, targets, lengths, target_lengths, reduction=reduction)
    assert torch.isclose(together, torch.stack(alone).mean())


def test_a_loss_that_does_not_divide_over_the_samples_is_refused():
    with SampleMeanLoss(4), pytest.raises(NotBySample, match="does not divide over the 4 samples"):
        F.mse_loss(torch.randn(7), torch.randn(7))
    x, y = torch.randn(7), torch.randn(7)
    with SampleMeanLoss(4, strict=False):
        assert F.mse_loss(x, y) == (x - y).square().mean()


def test_a_loss_of_0d_tensors():
    """`squeeze` returns these for a batch of one sample."""
    with SampleMeanLoss(1):
        assert F.mse_loss(torch.tensor(3.0), torch.tensor(1.0)) == 4
