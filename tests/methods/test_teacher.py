"""Methods with a teacher, compared with plain implementations of their formulas."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_unlearn.methods import METHODS
from hf_unlearn.methods.outputs import distillation, label_rows, log_likelihood
from hf_unlearn.per_sample.reference import sample_gradient
from tests.methods.formulas import Remember, flat
from tests.support.tiny import (
    FORGET,
    collate,
    collate_images,
    images,
    make_trainer,
    tiny_vit,
    tiny_whisper,
)


def test_distillation_is_the_divergence_of_torch_over_each_samples_labels():
    student, teacher = (
        torch.randn(3, 5, 7, dtype=torch.float64),
        torch.randn(3, 5, 7, dtype=torch.float64),
    )
    labels = torch.tensor([[1, 2, 3, 4, 5], [1, 2, -100, -100, -100], [-100] * 5])
    got = distillation(student, teacher, labels, temperature=4.0)
    for n, length in enumerate((5, 2)):
        logs = (F.log_softmax(x[n, :length] / 4, -1) for x in (student, teacher))
        expected = 16 * F.kl_div(*logs, log_target=True, reduction="batchmean")
        torch.testing.assert_close(got[n], expected)
    # A sample without labels has no loss.
    assert got[2] == 0
    without_padding = distillation(student[1:2, :2], teacher[1:2, :2], labels[1:2, :2], 4.0)
    torch.testing.assert_close(got[1:2], without_padding)


def test_label_rows_align_logits_with_labels():
    logits, labels = torch.randn(2, 4, 6), torch.randint(0, 6, (2, 4))
    assert label_rows(logits, labels, causal=False)[0] is logits
    shifted, targets = label_rows(logits, labels, causal=True)
    assert torch.equal(shifted, logits[:, :-1]) and torch.equal(targets, labels[:, 1:])
    assert label_rows(logits[:, 0], labels[:, 0], causal=False)[0].shape == (2, 1, 6)
    with pytest.raises(ValueError, match=r"logits \(2, 4, 6\) and labels \(2, 3\) do not match"):
        label_rows(logits, labels[:, :3], causal=False)


class Constant(nn.Module):
    """A model whose logits are a parameter for each of two samples."""

    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.randn(2, 3, dtype=torch.float64))

    def forward(self, place, labels):
        logits = self.values[place]
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_npo_is_its_loss_and_its_gradient():
    """At the reference the gradient is that of ascent; it fades away from it."""
    torch.manual_seed(0)
    model, method = Constant(), METHODS["npo"](alpha=0.0, beta=0.2)
    batch = {"place": torch.tensor([0, 1]), "labels": torch.tensor([0, 2])}
    method.teacher = copy.deepcopy(model).requires_grad_(False)
    step = SimpleNamespace(
        forget_batch=batch,
        forget_weight=1.0,
        logits=lambda batch, other=None: (other or model)(**batch)["logits"],
    )
    for _ in range(2):
        log_p, log_ref = (
            m(**batch)["logits"].log_softmax(-1)[[0, 1], batch["labels"]]
            for m in (model, method.teacher)
        )
        expected = (2 / 0.2 * torch.log1p((log_p / 1).sub(log_ref).mul(0.2).exp())).mean()
        loss = method.forget_objective(step)
        torch.testing.assert_close(loss, expected)
        (gradient,) = torch.autograd.grad(loss, model.values)
        weight = 2 * torch.sigmoid(0.2 * (log_p - log_ref)).detach()
        log_p = model(**batch)["logits"].log_softmax(-1)[[0, 1], batch["labels"]]
        (ascent,) = torch.autograd.grad((weight * log_p).mean(), model.values)
        torch.testing.assert_close(gradient, ascent)
        with torch.no_grad():
            model.values -= 5 * gradient
    # At the reference it was 1.
    assert weight.max() < 1


def test_log_likelihood_is_that_of_the_whole_transcript():
    model = tiny_whisper().eval()
    batch = collate(FORGET[:3])
    got = log_likelihood(*label_rows(model(**batch).logits, batch["labels"], causal=False))
    for n, sample in enumerate(FORGET[:3]):
        alone = model(**collate([sample])).loss * len(sample["labels"])
        torch.testing.assert_close(got[n], -alone, rtol=1e-4, atol=1e-4)


def test_scrub_ascends_in_its_first_epochs_only(tmp_path):
    """With one step per epoch and msteps=1, step 2 descends on D_r alone."""
    model = tiny_vit()
    trainer = make_trainer(
        model,
        tmp_path,
        forget=images(4),
        retain=images(4, seed=2),
        collator=collate_images,
        method="scrub",
        max_steps=2,
        learning_rate=0.1,
        method_kwargs={"msteps": 1, "ce_weight": 0.7, "kl_weight": 0.2, "temperature": 3.0},
        optimizer=False,
        optim="sgd",
        arguments={"callbacks": [Remember()]},
    )
    teacher = copy.deepcopy(model).eval()
    trainer.train()
    before, after = (copy.deepcopy(model) for _ in range(2))
    before.load_state_dict(Remember.weights)
    batch = collate_images(images(4, seed=2))
    student = before(**batch).logits
    p, q = (F.log_softmax(x / 3, -1) for x in (teacher(**batch).logits.detach(), student))
    loss = 0.7 * F.cross_entropy(student, batch["labels"]) + 0.2 * 9 * F.kl_div(
        q, p, log_target=True, reduction="batchmean"
    )
    expected = sample_gradient(before, loss, list(before.parameters()))
    moved = [(b - a).detach() / 0.1 for a, b in zip(after.parameters(), before.parameters())]
    torch.testing.assert_close(flat(moved), flat(expected), rtol=1e-3, atol=1e-5)
    assert trainer.state.log_history[1]["retain_loss"] == pytest.approx(loss.item(), rel=1e-5)
