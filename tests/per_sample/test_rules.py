"""The rules on small uses of parameters, against one backward pass per sample in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.per_sample.harness import (
    K,
    Use,
    assert_same_rows,
    differences,
    layer,
    numbers,
    randomised,
)


def token_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 7, (K, *shape))


def w(*shape):
    return torch.randn(*shape)


USES = {
    "x @ W": (lambda x, w: x @ w, (w(5, 3),), (6, 5)),
    "x @ W.T": (lambda x, w: x @ w.T, (w(3, 5),), (6, 5)),
    "cast": (lambda x, w: F.linear(x, w.to(x.dtype)), (w(3, 5),), (6, 5)),
    "W of a convolution, as a matrix": (
        lambda x, w: F.linear(x, w.squeeze(-1)),
        (w(3, 5, 1),),
        (6, 5),
    ),
    "addmm": (lambda x, b, w: torch.addmm(b, x, w, beta=0.5, alpha=2), (w(3), w(5, 3)), (5,)),
    "einsum": (lambda x, w: torch.einsum("bth,hnd->btnd", x, w), (w(5, 2, 3),), (6, 5)),
    "einsum, weight first": (
        lambda x, w: torch.einsum("nhd,bth->bntd", w, x),
        (w(2, 5, 3),),
        (6, 5),
    ),
    "einsum with an ellipsis": (
        lambda x, w: torch.einsum("...h,ho->...o", x, w),
        (w(5, 3),),
        (6, 5),
    ),
    "einsum for each head": (
        lambda x, w: torch.einsum("bhti,hio->bhto", x, w),
        (w(2, 5, 3),),
        (2, 6, 5),
    ),
    "einsum with a summed letter": (
        lambda x, w: torch.einsum("bt,hj->bth", x, w),
        (w(2, 3),),
        (6,),
    ),
    "one matrix for each head": (lambda x, w: torch.matmul(x, w), (w(2, 5, 3),), (2, 6, 5)),
    "one matrix for each expert": (
        lambda x, w: torch.bmm(x.flatten(0, 1).repeat(2, 1).view(2, -1, 5), w).transpose(0, 1),
        (w(2, 5, 3),),
        (6, 5),
    ),
    "baddbmm": (
        lambda x, b, w: torch.baddbmm(b, x, w.expand(len(x), 5, 3)),
        (w(3), w(5, 3)),
        (6, 5),
    ),
    "bilinear": (lambda x, w: F.bilinear(x, x.flip(-1), w), (w(3, 5, 5),), (5,)),
    "scale and shift": (lambda x, a, b, c: x * a + b - c / 3, (w(5), w(6, 1), w(())), (6, 5)),
    "alpha": (
        lambda x, a, b: torch.sub(torch.add(x, a, alpha=2), b, alpha=3),
        (w(5), w(5)),
        (6, 5),
    ),
    "reversed": (lambda x, a: torch.rsub(x, a) + (a - x) * (1 + a), (w(5),), (6, 5)),
    "division": (lambda x, a, b: x / (a + 3) + b / (x**2 + 1), (w(5), w(6, 1)), (6, 5)),
    "in place": (
        lambda x, a, b: (x * 1).add_(a).mul_(b).sub_(a).div_(b + 9),
        (w(5), w(6, 1)),
        (6, 5),
    ),
    "in place after a call without a rule": (
        lambda x, a: torch.lerp(x, x * 2, a).add_(a).relu_(),
        (w(5),),
        (6, 5),
    ),
    "in place in a part": (lambda x, a: _part(x, a), (w(5),), (6, 5)),
    "written into": (lambda x, a, b: _written(x, a, b), (w(5), w(5)), (6, 5)),
    "written over": (lambda x, a: (a.expand(len(x), 6, 5) * 1).mul_(x).add_(x), (w(5),), (6, 5)),
    "masked": (
        lambda x, a, b: torch.where(x > 0, a, x).masked_fill(x < -1, b),
        (w(5), w(())),
        (6, 5),
    ),
    "mask token at positions": (lambda x, a: _masked(x, a), (w(5),), (6, 5)),
    "class token": (
        lambda x, a: torch.cat([a.expand(len(x), -1, -1), x], 1),
        (w(1, 1, 5),),
        (6, 5),
    ),
    "class token like the samples": (
        lambda x, a: torch.cat([a.expand_as(x[:, :1]), x], 1),
        (w(1, 1, 5),),
        (6, 5),
    ),
    "class token repeated": (
        lambda x, a: torch.cat([a.repeat(len(x), 1, 1), x], 1),
        (w(1, 1, 5),),
        (6, 5),
    ),
    "class token expanded out of sight": (
        lambda x, a: torch.cat([a.unsqueeze(0).tile(len(x), 2, 1), x], 1),
        (w(1, 5),),
        (6, 5),
    ),
    "class tokens of the first frames": (lambda x, a: _first_frames(x, a), (w(3, 5),), (6, 5)),
    "stacked": (lambda x, a: torch.stack([x, a.expand(len(x), 6, 5)], 2), (w(5),), (6, 5)),
    "part of a position table": (lambda x, a: x + a[:6] + a[torch.arange(6)], (w(9, 5),), (6, 5)),
    "positions of a batch of one": (
        lambda x, a: x + F.embedding(torch.arange(6)[None], a),
        (w(9, 5),),
        (6, 5),
    ),
    "relative positions": (
        lambda x, a: (
            x @ x.mT
            + a[(torch.arange(6)[:, None] - torch.arange(6)).abs().flatten()].view(6, 6, 2).sum(-1)
        ),
        (w(9, 2),),
        (6, 5),
    ),
    "time first": (
        lambda x, v, a, b: F.linear(
            F.layer_norm(x.transpose(0, 1) * v + a, (5,), b), b.repeat(3, 1)
        ).transpose(0, 1),
        (w(5), w(6, 1, 1), w(5)),
        (6, 5),
    ),
    "time first einsum": (
        lambda x, w: torch.einsum("ibh,hnd->ibnd", x.transpose(0, 1), w).transpose(0, 1),
        (w(5, 2, 3),),
        (6, 5),
    ),
    "samples folded into the batch": (
        lambda x, a: F.linear(x.reshape(-1, 2, 5), a),
        (w(3, 5),),
        (6, 5),
    ),
    "sorted by a router": (lambda x, a: _routed(x, a), (w(3, 5, 4),), (6, 5)),
    "shared experts, as many positions as channels": (
        lambda x, a, b: _shared(x, a, b),
        (w(2, 24, 5), w(3, 24)),
        (6, 5),
    ),
    "as many heads of samples as positions": (
        lambda x, a, b: _heads(x, a, b),
        (w(12, 5), w(8, 2)),
        (8, 5),
    ),
    "one of three, as many heads of samples as positions": (
        lambda x, a, b: _heads(x, a, b, lambda qkv: (qkv.select(0, n) for n in range(3))),
        (w(12, 5), w(8, 2)),
        (8, 5),
    ),
    "as many layers stacked as samples": (
        lambda x, a, b: F.linear(torch.stack([F.linear(x, a) * n for n in range(K)])[-1], b),
        (w(5, 5), w(3, 5)),
        (6, 5),
    ),
    "each sample by itself": (
        lambda x, a: torch.stack([F.linear(one, a) for one in x]),
        (w(3, 5),),
        (6, 5),
    ),
    "each sample by itself, joined": (
        lambda x, a: torch.cat([F.embedding(one[:, 0].long().abs(), a) * one for one in x]).view(
            -1, 6, 5
        ),
        (w(9, 5),),
        (6, 5),
    ),
    "images one after the other, with ends of lines": (
        lambda x, a, b: _images(x, a, b),
        (w(5, 5), w(5)),
        (6, 5),
    ),
    "lines picked by number behind a new axis": (lambda x, a: _picked(x, a), (w(3, 5),), (6, 5)),
    "one line of some": (lambda x, a: x * a + 0 * _first_line(x), (w(5),), (6, 5)),
    "some positions by a mask": (
        lambda x, a: torch.zeros(len(x), 6, 3, dtype=x.dtype).masked_scatter(
            x[..., :3] > 0, (x[..., :3] * a)[x[..., :3] > 0]
        ),
        (w(3),),
        (6, 5),
    ),
    "positions gathered by a mask": (lambda x, a: _gathered(x, a), (w(3, 5),), (6, 5)),
    "type and shape only": (lambda x, a: x.type_as(a).view_as(x) + a.type_as(x), (w(5),), (6, 5)),
    "attention over learned keys": (
        lambda x, q: F.scaled_dot_product_attention(x, q.expand(len(x), 6, 5), x),
        (w(6, 5),),
        (6, 5),
    ),
    "relative positions in fused attention": (
        lambda x, a: F.scaled_dot_product_attention(*[x[:, None].expand(-1, 2, 6, 5)] * 3, a),
        (w(1, 2, 6, 6),),
        (6, 5),
    ),
    "masked relative positions in fused attention of groups": (
        lambda x, a: F.scaled_dot_product_attention(
            x[:, None].expand(-1, 4, 6, 5),
            *[x[:, None] * torch.ones(2, 1, 1)] * 2,
            a + torch.eye(6).expand(len(x), 1, 6, 6),
            scale=0.3,
            enable_gqa=True,
        ),
        (w(4, 1, 6),),
        (6, 5),
    ),
    "several outputs": (lambda x, a: torch.aminmax(x * a, dim=1)[0] * a, (w(5),), (6, 5)),
}


def _first_frames(x, a):
    """Both frames of each sample get a class token, but only the first k tokens are used.

    As in TimeSformer.
    """
    frames = torch.cat([x.new_ones(2 * len(x), 1, 5), x.reshape(-1, 3, 5)], 1)
    tokens = frames[: len(x), 0].unsqueeze(1)
    return F.linear(torch.cat([tokens, x], 1), a)


def _part(x, a):
    x = x * 1
    x[:, 0] += a
    x[:, 1:3].add_(a)
    return x


def _written(x, a, b):
    x = x * 1
    x[:, 0] = a
    x[:, 2:4] = b
    x[:, 5].copy_(a)
    return x


def _masked(x, a):
    x = x * 1
    x[(x[..., 0] > 0)] = a
    return x


def _routed(x, a):
    """A mixture of experts: lines are sorted by expert, multiplied group by group, and put back."""
    lines = x.reshape(-1, 5)
    expert = (lines[:, 0] * 10).long().abs() % 3
    order = expert.argsort()
    sizes = torch.bincount(expert, minlength=3).tolist()
    parts = [part @ a[e] for e, part in enumerate(lines[order].split(sizes))]
    return torch.cat(parts)[order.argsort()].view(-1, 6, 4)


def _shared(x, a, b):
    """Experts that all see all lines and are summed; there are 24 lines of 24 channels."""
    lines = x.reshape(1, -1, 5).expand(2, -1, -1)
    return F.linear(torch.bmm(lines, a.mT).sum(0).view(-1, 6, 24), b)


def _heads(x, a, b, parted=torch.unbind):
    """Attention with the heads folded into the samples: 4 x 2 of them, at 8 positions."""
    qkv = F.linear(x, a).reshape(-1, 8, 3, 2, 2).permute(2, 0, 3, 1, 4).reshape(3, -1, 8, 2)
    q, k, v = parted(qkv)
    return ((q * b) @ k.mT @ v).view(-1, 2, 8, 2)


def _images(x, a, b):
    """The patches of all images in one line, then lines for each image (Mistral 3, LLaVA-NeXT)."""
    images = [
        image.view(2, 3, 5).permute(2, 0, 1)
        for image in F.linear(x.reshape(1, -1, 5), a)[0].split(6)
    ]
    lines = [
        torch.cat([image, b[:, None, None].expand(5, 2, 1)], -1).flatten(1).T for image in images
    ]
    return F.linear(torch.cat(lines), a).view(-1, 8, 5)


def _first_line(x):
    lines = x.reshape(-1, 5)
    return lines[lines[:, 0] > 0][0][torch.arange(4, -1, -1)]


def _picked(x, a):
    """As in the experts of Switch Transformers."""
    lines = x.reshape(-1, 5)
    (indices,) = torch.where(lines[:, 0] > 0)
    output = lines.new_zeros(len(lines), 3)
    output.index_add_(0, indices, F.linear(lines[None, indices].reshape(-1, 5), a))
    return output.view(-1, 6, 3)


def _gathered(x, a):
    mask = x[..., 0] > 0
    output = x.new_zeros(len(x), 6, 3)
    output[mask] = F.linear(x[mask], a)
    return output


@pytest.mark.parametrize("name", USES)
def test_rows_of_a_use_equal_brute_force(name):
    function, parameters, shape = USES[name]
    assert_same_rows(Use(function, *parameters), numbers(*shape))


@pytest.mark.parametrize("look_up", [lambda i, a: a[i], F.embedding])
def test_as_many_relative_positions_as_samples(look_up):
    def biased(x, a):
        distances = torch.arange(K)[:, None] - torch.arange(K) + K
        return x @ x.mT + look_up(distances, a).permute(2, 0, 1)[0]

    assert_same_rows(Use(biased, w(2 * K, 2)), numbers(K, 5))


def test_positions_that_were_computed_in_an_earlier_pass():
    """As in BEiT, which caches them."""
    # 35 positions do not divide over the samples.
    numbers_of = (torch.arange(6)[:, None] - torch.arange(6)).flatten()[:35]
    assert_same_rows(Use(lambda x, a: x * a[numbers_of].sum(0), w(6, 5)), numbers(6, 5))


@pytest.mark.parametrize("padding_idx", [None, 0, -1])
def test_rows_of_an_embedding_equal_brute_force(padding_idx):
    assert_same_rows(layer(nn.Embedding(7, 5, padding_idx)), token_ids(6))


@pytest.mark.parametrize(
    "module", [nn.EmbeddingBag(7, 5), nn.Embedding(7, 5, scale_grad_by_freq=True)], ids=repr
)
def test_look_ups_without_a_rule(module):
    assert_same_rows(layer(module), token_ids(6))


@pytest.mark.parametrize("mask", [False, True])
def test_rows_of_grouped_products_equal_brute_force(mask):
    """The fused product of a mixture of experts.

    One expert has no lines, and some samples have no line for an expert.
    """
    from transformers.integrations.moe import _grouped_linear

    def experts(x, a, bias):
        lines = x.reshape(-1, 4)
        expert = (lines[:, 0] * 10).long().abs() % 2 + mask
        expert, order = expert.sort()
        offsets = torch.bincount(expert, minlength=3).cumsum(0).to(torch.int32)
        output = _grouped_linear(lines[order], a, offsets, bias[expert])
        return torch.empty_like(output).index_copy(0, order, output).view(-1, 6, 8)

    use, batch = randomised(Use(experts, w(3, 8, 4), w(3, 8))), {"x": numbers(6, 4)}
    assert not differences(use, batch, tolerance=1e-5)
