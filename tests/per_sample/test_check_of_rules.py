"""The check finds every wrong rule, however symmetric the batch, and accepts correct ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_unlearn.per_sample import ParameterRows, rules
from hf_unlearn.per_sample.check import find_slow_parameters, samples_mix
from hf_unlearn.per_sample.reference import select_sample
from hf_unlearn.per_sample.rows import Dense, Product, written_out
from tests.per_sample.harness import K, Use, loss_of


def small() -> Use:
    return Use(
        lambda x, first, last: last(torch.tanh(first(x))),
        first=nn.Linear(4, 5),
        last=nn.Linear(5, 3, bias=False),
    )


def broken(change):
    def linear(k, B, input, weight, bias=None):
        right = Product(B[:, None], input[:, None])
        G = written_out([right], *weight.shape)
        return {"weight": lambda: change(right, G), "bias": lambda: Dense(B.clone())}

    return linear


WRONG = {
    "neighbours exchanged": lambda right, G: Dense(G.roll(1, 0)),
    "order reversed": lambda right, G: Dense(G.flip(0)),
    "the mean for everyone": lambda right, G: Dense(G.mean(0, keepdim=True).expand_as(G)),
    "zero": lambda right, G: Dense(torch.zeros_like(G)),
    "a factor": lambda right, G: Dense(1.2 * G),
    "a sign": lambda right, G: Dense(-G),
    "all for the last": lambda right, G: Dense(
        torch.cat([torch.zeros_like(G[1:]), G.sum(0, keepdim=True)])
    ),
    "parts for the neighbour": lambda right, G: Dense(
        torch.stack([G[0] + G[1] / 2, G[1] / 2, G[2] + G[3] / 2, G[3] / 2])
    ),
    "only the first is wrong": lambda right, G: Dense(torch.cat([2 * G[:1], G[1:]])),
}
BATCHES = {
    "different samples": lambda: torch.randn(K, 4),
    "identical samples": lambda: torch.randn(1, 4).expand(K, 4),
    "pairs": lambda: torch.randn(K // 2, 4).repeat_interleave(2, 0),
    "opposites": lambda: torch.randn(1, 4) * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None],
}


@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_wrong_rules_are_found_and_right_ones_are_not(monkeypatch, precision):
    """Only the affected parameters are reported, in every batch and every precision."""
    for wrong, change in {**WRONG, "right": lambda right, G: right}.items():
        for batch, x in BATCHES.items():
            model = small().to(torch.float64 if precision == torch.float64 else torch.float32)
            x = x().to(model.last.weight.dtype)
            loss = loss_of(model, precision if precision.itemsize == 2 else None)
            with monkeypatch.context() as patch:
                if wrong != "right":
                    patch.setitem(rules.RULES, "linear", broken(change))
                slow = find_slow_parameters(model, loss, {"x": x}, K, precision)
            expected = set() if wrong == "right" else {"first.weight", "last.weight"}
            assert set(slow) == expected, (wrong, batch, slow)


def test_wrong_inner_products_are_found(monkeypatch, products=ParameterRows.products):
    """Even if the weighted sum is right."""
    model = small()
    monkeypatch.setattr(
        ParameterRows, "products", lambda rows, u, exact=False: products(rows, u / 2, exact)
    )
    slow = find_slow_parameters(model, loss_of(model), {"x": torch.randn(K, 4)}, K)
    assert set(slow) == {name for name, _ in model.named_parameters()}
    assert "inner products" in slow["last.weight"]


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_right_and_wrong_rules_are_told_apart_at_any_number_of_samples(monkeypatch, k):
    model, x = small(), torch.randn(1, 4).expand(k, 4)
    assert not find_slow_parameters(model, loss_of(model), {"x": x}, k)
    if k > 1:
        for change in ("the mean for everyone", "neighbours exchanged"):
            monkeypatch.setitem(rules.RULES, "linear", broken(WRONG[change]))
            assert find_slow_parameters(model, loss_of(model), {"x": x}, k)


def test_one_sample_of_a_batch_with_inputs_of_all_kinds():
    """Boxes come in lists; class weights, 0-d tensors and flags belong to all samples."""
    batch = {
        "x": torch.randn(3, 2),
        "boxes": ["a", "b", "c"],
        "weights": torch.ones(5),
        "t": torch.ones(()),
        "flag": True,
    }
    alone = select_sample(batch, 1, 3)
    assert alone["x"].equal(batch["x"][1:2]) and alone["boxes"] == ["b"]
    assert all(alone[name] is batch[name] for name in ("weights", "t", "flag"))


class Labelled(nn.Module):
    def __init__(self, reduce):
        super().__init__()
        self.layer, self.reduce = nn.Linear(4, 3), reduce

    def forward(self, x, labels):
        return type("Output", (), {"loss": self.reduce(self.layer(x), labels)})


def labelled_batch():
    labels = torch.randint(0, 3, (K, 5))
    labels[0, 2:] = -100
    return {"x": torch.randn(K, 5, 4), "labels": labels}


def test_samples_without_a_loss_do_not_hide_a_wrong_rule(monkeypatch):
    """All but two samples have no labels, so they have no gradient. The other two are compared."""
    model = Labelled(lambda x, y: F.cross_entropy(x.flatten(0, 1), y.flatten()))
    batch = labelled_batch()
    batch = {name: torch.cat([value, value]) for name, value in batch.items()}
    batch["labels"][[0, 2, 4, 5, 6, 7]] = -100
    k = 2 * K
    assert not find_slow_parameters(model, loss_of(model), batch, k)

    def exchanged(k, B, input, weight, bias=None):
        order = torch.tensor([0, 3, 2, 1, 4, 5, 6, 7])
        return {"weight": lambda: Product(B[order], input[order]), "bias": lambda: Dense(B.sum(1))}

    monkeypatch.setitem(rules.RULES, "linear", exchanged)
    assert set(find_slow_parameters(model, loss_of(model), batch, k)) == {"layer.weight"}


def test_gradients_too_small_to_be_squared_are_accepted():
    use = Use(lambda x, a, layer: layer(x) + x * a * 1e-22, torch.randn(4), layer=nn.Linear(4, 4))
    assert not find_slow_parameters(use, loss_of(use), {"x": torch.randn(K, 5, 4)}, K)


MIXING = {
    "mean over the batch's tokens": lambda x, y: (
        F.cross_entropy(x.flatten(0, 1), y.flatten(), reduction="none").sum() / (y >= 0).sum()
    ),
    "a term about the whole batch": lambda x, y: (
        F.cross_entropy(x.flatten(0, 1), y.flatten())
        + 0.1 * x.softmax(-1).mean((0, 1)).square().sum()
    ),
    "contrast between samples": lambda x, y: F.cross_entropy(
        x.mean(1) @ x.mean(1).T, torch.arange(len(x))
    ),
    "statistics of the batch": lambda x, y: F.cross_entropy(
        F.batch_norm(x.flatten(0, 1), None, None, training=True), y.flatten()
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_losses_that_mix_samples_are_found(name):
    model, batch = Labelled(MIXING[name]), labelled_batch()
    if name == "contrast between samples":
        with pytest.raises(ValueError, match="compares samples with each other"):
            samples_mix(model, loss_of(model), batch, K, torch.float32)
    else:
        assert samples_mix(model, loss_of(model), batch, K, torch.float32)
    slow = find_slow_parameters(model, loss_of(model), batch, K)
    assert set(slow) == {"layer.weight", "layer.bias"}
    assert all("not the mean" in reason for reason in slow.values())


def test_losses_of_torch_do_not_mix():
    model = Labelled(lambda x, y: F.cross_entropy(x.flatten(0, 1), y.flatten()))
    batch = labelled_batch()
    for precision in (torch.float32, torch.bfloat16):
        assert not samples_mix(model, loss_of(model), batch, K, precision)


def test_a_mixing_loss_is_found_if_all_samples_are_identical():
    batch = {
        "x": torch.randn(1, 5, 4).expand(K, 5, 4),
        "labels": torch.ones(K, 5, dtype=torch.long),
    }
    for name in ("mean over the batch's tokens", "a term about the whole batch"):
        model = Labelled(MIXING[name])
        assert samples_mix(model, loss_of(model), batch, K, torch.float32), name


def test_a_gradient_that_is_wrong_in_batches_is_found():
    """The loss is right, the gradient is not, as in some kernels of torch for unusual layouts."""

    class Faulty(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, B):
            return B * torch.linspace(1, len(B), len(B))[:, None, None]

    use = Use(lambda x, layer: Faulty.apply(layer(x)), layer=nn.Linear(4, 3))
    assert samples_mix(use, loss_of(use), {"x": torch.randn(K, 5, 4)}, K, torch.float32)


def test_a_parameter_in_an_autograd_function_is_noticed():
    """The engine does not see the calls inside such functions."""

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, scale):
            ctx.save_for_backward(x, scale)
            return x * scale

        @staticmethod
        def backward(ctx, B):
            x, scale = ctx.saved_tensors
            return B * scale, (B * x).sum(0)

    use = Use(
        lambda x, scale, layer: layer(Scaled.apply(x, scale)), torch.randn(4), layer=nn.Linear(4, 3)
    )
    slow = find_slow_parameters(use, loss_of(use), {"x": torch.randn(K, 4)}, K)
    assert slow == {"parts.0": "its use in the model was not seen"}


def test_samples_that_mix_in_their_gradients_only_are_found():
    """A dependence on the position in the batch is no fault of the engine.

    HunYuan-VL counts images over the batch.
    """

    def placed(x, first, last):
        y = last(torch.tanh(first(x)))
        return y + 0.01 * torch.arange(len(x))[:, None] * (y - y.detach())

    model = Use(placed, first=nn.Linear(4, 5), last=nn.Linear(5, 3))
    slow = find_slow_parameters(model, loss_of(model), {"x": torch.randn(K, 4)}, K)
    assert set(slow) == {name for name, _ in model.named_parameters()}
    assert all("not the mean" in reason for reason in slow.values())
