"""The formulas of the methods against slow and obvious ones."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import TrainerCallback

from hf_unlearn.methods import METHODS
from hf_unlearn.methods.classification import find_head, inputs_of
from hf_unlearn.methods.masks import most
from hf_unlearn.methods.metric import inverse_root_metric
from hf_unlearn.methods.nullspace import layer_inputs, main_directions
from hf_unlearn.methods.outputs import distillation, label_rows, log_likelihood
from hf_unlearn.methods.surgery import off
from hf_unlearn.per_sample.reference import sample_gradient
from tests.tiny import FORGET, RETAIN, collate, collate_images, images, make_trainer, tiny_vit, tiny_whisper

SHAPES = ((3, 4), (5,))


def double(data):
    return [{name: x.double() if x.is_floating_point() else x for name, x in sample.items()} for sample in data]


def random_gradients(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


def conflicting() -> tuple[list, list]:
    """u and r with <r, -u> < 0 in both tensors, though in different measure."""
    u, r = random_gradients(1), random_gradients(2)
    return u, [y + x * (1 + (x * y).sum().abs() / (x * x).sum()) for x, y in zip(u, r)]


def agreeing() -> tuple[list, list]:
    u, r = conflicting()
    return u, [-y for y in r]


# ---- surgery ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [conflicting, agreeing])
def test_pcgrad_and_agem_are_their_formulas(inputs):
    u, r = inputs()
    a, b = -flat(u), flat(r)
    conflict = bool(a @ b < 0)
    assert conflict == (inputs is conflicting)
    a_off = a - (a @ b) / (b @ b) * b if conflict else a
    b_off = b - (a @ b) / (a @ a) * a if conflict else b
    zero = torch.zeros(())
    torch.testing.assert_close(flat(METHODS["agem"]().combined(u, r, zero)), a_off)
    torch.testing.assert_close(flat(METHODS["pcgrad"](alpha=0.3).combined(u, r, zero)), 0.3 * b_off + 0.7 * a_off)


@pytest.mark.parametrize("inputs", [conflicting, agreeing])
def test_gdr_gma_rectifies_each_tensor_and_weighs_by_the_retain_loss(inputs):
    u, r = inputs()
    loss, gamma, eps = 0.5, 3.0, 0.2
    weight = 1 / (1 + torch.tensor(gamma * (loss - eps), dtype=torch.float64).exp())
    for got, x, y in zip(METHODS["gdr_gma"](gamma, eps).combined(u, r, torch.tensor(loss)), u, r):
        ascent, kept = -x, y
        if (ascent * y).sum() < 0:
            ascent = -x - (-x * y).sum() / (y * y).sum() * y
            kept = y - (y * -x).sum() / (x * x).sum() * -x
        torch.testing.assert_close(got, (1 - weight) * kept + weight * ascent, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("granularity", ["model", "parameter"])
def test_the_mean_ablation_is_orthogonal_to_the_mean(granularity):
    u, r = conflicting()
    got = METHODS["orthograd_mean"](0.0, granularity).combined(u, r, torch.zeros(()))
    pairs = [(flat(got), flat(r))] if granularity == "model" else list(zip(got, r))
    assert all(abs(float((x * y).sum())) < 1e-12 * float(y.norm() * x.norm()) for x, y in pairs)
    assert flat(got).norm() > 0
    torch.testing.assert_close(flat(METHODS["orthograd_mean"](0.4, granularity).combined(u, r, torch.zeros(()))),
                               0.4 * flat(r) + 0.6 * flat(got))  # fmt: skip


def test_nothing_is_divided_by_a_zero_gradient():
    u, zero = random_gradients(1), [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
    assert all(torch.equal(x, y) for x, y in zip(off(u, zero), u))
    for name in ("pcgrad", "agem", "gdr_gma", "orthograd_mean", "scissorhands"):
        for pair in ((u, zero), (zero, u), (zero, zero)):
            assert all(x.isfinite().all() for x in METHODS[name]().combined(*pair, torch.zeros(())))


def test_scissorhands_never_forgets_less(tmp_path):
    """Its quadratic programme by brute force: the least multiplier that is at least the margin."""
    u, r = conflicting()
    method = METHODS["scissorhands"](lam=0.05, margin=0.5)
    g = flat(r) - 0.05 * flat(u)
    assert g @ -flat(u) < 0
    grid = torch.linspace(0.5, 5, 100_001, dtype=torch.float64)
    enough = (g[None] - grid[:, None] * flat(u)) @ -flat(u) >= 0
    expected = g - grid[enough][0] * flat(u)
    torch.testing.assert_close(flat(method.combined(u, r, torch.zeros(()))), expected, rtol=1e-3, atol=1e-3)
    u, r = agreeing()
    torch.testing.assert_close(flat(method.combined(u, r, torch.zeros(()))), flat(r) - 0.05 * flat(u))


# ---- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
def test_masks_hold_the_largest_values(share):
    values = [torch.randn(20, 30).abs(), torch.randn(7).abs(), torch.zeros(5)]
    masks = most(values, share)
    flat_values, flat_mask = flat(values), flat(masks)
    count = min(int(share * len(flat_values)), 607)
    assert int(flat_mask.sum()) == count
    assert set(flat_values.argsort(descending=True)[:count].tolist()) == set(flat_mask.nonzero()[:, 0].tolist())


def test_salun_moves_the_salient_half_alone(tmp_path):
    model = tiny_vit()
    expected = copy.deepcopy(model).eval()
    gradients = sample_gradient(expected, expected(**collate_images(images(6))).loss, list(expected.parameters()))
    threshold = flat(gradients).abs().median()
    trainer = make_trainer(model, tmp_path, forget=images(6), retain=images(6, seed=2), collator=collate_images,
                           method="salun", per_device_train_batch_size=4)  # fmt: skip
    before = [p.detach().clone() for p in model.parameters()]
    trainer.train()
    for p, old, gradient in zip(model.parameters(), before, gradients):
        clear = (gradient.abs() - threshold).abs() > 1e-6  # rounding decides at the threshold
        assert torch.equal((p != old) & clear, (gradient.abs() > threshold) & clear & (p != old))
    moved, all_of_them = (sum(int(x.sum()) for x in xs) for xs in zip(*(((p != o), torch.ones_like(p)) for p, o in zip(model.parameters(), before))))  # fmt: skip
    assert 0.2 * all_of_them < moved <= 0.5 * all_of_them


def test_scissorhands_renews_the_top_weights(tmp_path):
    model = tiny_vit()
    before = [p.detach().clone() for p in model.parameters()]
    copied = copy.deepcopy(model).eval()
    gradients = sample_gradient(copied, copied(**collate_images(images(6))).loss, list(copied.parameters()))
    scores = [(g * p).abs() for g, p in zip(gradients, before)]
    trainer = make_trainer(model, tmp_path, forget=images(6), retain=images(6, seed=2), collator=collate_images,
                           method="scissorhands", method_kwargs={"sparsity": 0.9},
                           arguments={"callbacks": [Remember()]})  # fmt: skip
    trainer.train()
    renewed = [Remember.start[name] for name, _ in model.named_parameters()]
    changed = [p != old for p, old in zip(renewed, before)]
    ranks = flat(scores).argsort(descending=True).argsort().view(-1)
    assert flat(changed).any() and int(ranks[flat(changed)].max()) < 0.1 * len(ranks) + 3
    for (name, _), p, moved in zip(model.named_parameters(), renewed, changed):
        if "layernorm" in name:
            assert not moved.any()
        elif p.ndim > 1:
            assert (p[moved].abs() <= 1 / p[0].numel() ** 0.5 + 1e-6).all()


# ---- teachers -------------------------------------------------------------------------------------------------------


def test_distillation_is_the_divergence_of_torch_over_each_samples_labels():
    student, teacher = torch.randn(3, 5, 7, dtype=torch.float64), torch.randn(3, 5, 7, dtype=torch.float64)
    labels = torch.tensor([[1, 2, 3, 4, 5], [1, 2, -100, -100, -100], [-100] * 5])
    got = distillation(student, teacher, labels, temperature=4.0)
    for n, length in enumerate((5, 2)):
        logs = (F.log_softmax(x[n, :length] / 4, -1) for x in (student, teacher))
        expected = 16 * F.kl_div(*logs, log_target=True, reduction="batchmean")
        torch.testing.assert_close(got[n], expected)
    assert got[2] == 0  # a sample without labels has no loss
    cut = distillation(student[1:2, :2], teacher[1:2, :2], labels[1:2, :2], 4.0)
    torch.testing.assert_close(got[1:2], cut)  # padding does not count


def test_labels_find_their_logits():
    logits, labels = torch.randn(2, 4, 6), torch.randint(0, 6, (2, 4))
    assert label_rows(logits, labels, causal=False)[0] is logits
    shifted, targets = label_rows(logits, labels, causal=True)
    assert torch.equal(shifted, logits[:, :-1]) and torch.equal(targets, labels[:, 1:])
    assert label_rows(logits[:, 0], labels[:, 0], causal=False)[0].shape == (2, 1, 6)
    with pytest.raises(ValueError, match=r"logits \(2, 4, 6\) and labels \(2, 3\) do not go together"):
        label_rows(logits, labels[:, :3], causal=False)


class Constant(nn.Module):
    """Logits of its own for each of two samples, whatever their input."""

    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.randn(2, 3, dtype=torch.float64))

    def forward(self, place, labels):
        logits = self.values[place]
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_npo_is_its_loss_and_its_gradient():
    """At the reference the gradient is that of ascent; away from it, it fades."""
    torch.manual_seed(0)
    model, method = Constant(), METHODS["npo"](alpha=0.0, beta=0.2)
    batch = {"place": torch.tensor([0, 1]), "labels": torch.tensor([0, 2])}
    method.teacher = copy.deepcopy(model).requires_grad_(False)
    step = SimpleNamespace(
        forget_batch=batch, forget_weight=1.0, logits=lambda batch, other=None: (other or model)(**batch)["logits"]
    )
    for _ in range(2):
        log_p, log_ref = (
            m(**batch)["logits"].log_softmax(-1)[[0, 1], batch["labels"]] for m in (model, method.teacher)
        )
        expected = (2 / 0.2 * torch.log1p((log_p / 1).sub(log_ref).mul(0.2).exp())).mean()
        loss = method.forget_objective(step)
        torch.testing.assert_close(loss, expected)
        (gradient,) = torch.autograd.grad(loss, model.values)
        weight = 2 * torch.sigmoid(0.2 * (log_p - log_ref)).detach()
        (ascent,) = torch.autograd.grad((weight * model(**batch)["logits"].log_softmax(-1)[[0, 1], batch["labels"]]).mean(), model.values)  # fmt: skip
        torch.testing.assert_close(gradient, ascent)
        with torch.no_grad():
            model.values -= 5 * gradient
    assert weight.max() < 1  # it was 1 at the reference


def test_log_likelihood_is_that_of_the_whole_transcript():
    model = tiny_whisper().eval()
    batch = collate(FORGET[:3])
    got = log_likelihood(*label_rows(model(**batch).logits, batch["labels"], causal=False))
    for n, sample in enumerate(FORGET[:3]):
        alone = model(**collate([sample])).loss * len(sample["labels"])
        torch.testing.assert_close(got[n], -alone, rtol=1e-4, atol=1e-4)


def test_scrub_ascends_in_its_first_epochs_only(tmp_path):
    """With one step an epoch and msteps=1: step 2 (the student then differs) descends on D_r alone."""
    model = tiny_vit()
    trainer = make_trainer(model, tmp_path, forget=images(4), retain=images(4, seed=2), collator=collate_images,
                           method="scrub", max_steps=2, learning_rate=0.1,
                           method_kwargs={"msteps": 1, "ce_weight": 0.7, "kl_weight": 0.2, "temperature": 3.0},
                           optimizer=False, optim="sgd", arguments={"callbacks": [Remember()]})  # fmt: skip
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


class Remember(TrainerCallback):
    """The weights when training begins, after the method has prepared, and those after the first step."""

    start = weights = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        Remember.start = copy.deepcopy(model.state_dict())

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            Remember.weights = copy.deepcopy(model.state_dict())


# ---- labels and classes ---------------------------------------------------------------------------------------------


class Labels(TrainerCallback):
    """Sees the labels that the model is trained on."""

    def __init__(self, model):
        self.seen = []
        model.register_forward_pre_hook(
            lambda module, args, kwargs: self.seen.append(kwargs["labels"].clone()) if module.training else None,
            with_kwargs=True,
        )


def test_random_classes_are_wrong_and_all_of_the_others(tmp_path):
    model, forget = tiny_vit(classes=4), images(40, classes=1)
    labels = Labels(model)
    make_trainer(
        model, tmp_path, forget=forget, retain=images(4), collator=collate_images, method="random_label"
    ).train()
    given = labels.seen[-2]
    assert given.shape == (40,) and set(given.tolist()) == {1, 2, 3}  # all samples are of class 0


def test_random_transcripts_are_those_of_other_retain_samples(tmp_path):
    model = tiny_whisper()
    labels = Labels(model)
    retain = [*RETAIN, *FORGET[:2]]  # which have the transcript of a forget sample
    make_trainer(model, tmp_path, retain=retain, method="random_label").train()
    given = [row[row != -100].tolist() for row in labels.seen[-2]]
    pool, own = [x["labels"].tolist() for x in retain], [x["labels"].tolist() for x in FORGET]
    assert len(given) == len(FORGET) and all(words in pool for words in given)
    assert len({tuple(words) for words in given}) > 2
    order = make_trainer(tiny_whisper(), tmp_path, method="finetune").get_train_dataloader()
    (batch,) = order
    true = [row[row != -100].tolist() for row in batch["labels"]]
    assert sorted(true) == sorted(own) and all(a != b for a, b in zip(given, true))


def test_random_transcripts_need_another_one(tmp_path):
    same = [{**sample, "labels": FORGET[0]["labels"]} for sample in RETAIN]
    with pytest.raises(ValueError, match="found no other transcript"):
        make_trainer(tiny_whisper(), tmp_path, forget=FORGET[:1], retain=same, method="random_label").train()


def test_duck_moves_to_the_nearest_centroid_of_another_class(tmp_path):
    model, forget, retain = tiny_vit(), images(3), images(9, seed=2)
    trainer = make_trainer(model, tmp_path, forget=forget, retain=retain, collator=collate_images, method="duck")
    original = copy.deepcopy(model).eval()
    embed = lambda data: original.vit(collate_images(data)["pixel_values"]).last_hidden_state[:, 0]  # noqa: E731
    with torch.no_grad():
        means = [embed([x for x in retain if x["labels"] == c]).mean(0) for c in range(3)]
        losses = [min(1 - F.cosine_similarity(embed([x])[0], means[c], 0) for c in range(3) if c != x["labels"]) for x in forget]  # fmt: skip
        expected = F.cross_entropy(original(**collate_images(retain)).logits / 2, collate_images(retain)["labels"])
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["forget_loss"] == pytest.approx(float(sum(losses) / 3), rel=1e-4, abs=1e-6)
    assert row["retain_loss"] == pytest.approx(float(expected), rel=1e-4)


def test_duck_refuses_a_single_class(tmp_path):
    retain = images(4, classes=1)
    trainer = make_trainer(
        tiny_vit(), tmp_path, forget=images(2), retain=retain, collator=collate_images, method="duck"
    )
    with pytest.raises(ValueError, match="at least two classes"):
        trainer.train()


def test_the_head_is_found_by_what_it_gives():
    model, batch = tiny_vit(classes=16).eval(), collate_images(images(2))  # 16 wide, as the hidden layers are
    head = find_head(model, lambda: model(**batch).logits)
    assert head is model.classifier
    with inputs_of(head) as inputs:
        logits = model(**batch).logits
    torch.testing.assert_close(head(inputs[0]), logits)


def test_boundary_shrink_takes_the_class_of_the_neighbour(tmp_path):
    """On a linear classifier, whose gradient by x is known."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x, labels=None):
            logits = self.layer(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    model = Flat()
    with torch.no_grad():
        model.layer.weight.mul_(3)
    x = torch.rand(30, 4)
    labels = model.layer(x).argmax(1)
    method, collator = METHODS["boundary_shrink"](bound=0.3), lambda rows: {key: torch.stack([r[key] for r in rows]) for key in rows[0]}  # fmt: skip
    make_trainer(model, tmp_path, forget=[{"x": a, "labels": b} for a, b in zip(x, labels)], collator=collator,
                 method=method, retain=None).train()  # fmt: skip
    teacher = method.teacher.layer
    got = method.neighbours({"x": x, "labels": labels})
    error = torch.softmax(teacher(x), 1) - F.one_hot(labels, 3)
    step = 0.3 * float(x.max() - x.min()) * (error @ teacher.weight).sign()
    expected = teacher((x + step).clamp(x.min(), x.max())).argmax(1)
    assert torch.equal(got, expected) and (got != labels).float().mean() > 0.2


# ---- null space -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer, x",
    [
        (nn.Linear(6, 4), torch.randn(2, 5, 6)),
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), torch.randn(2, 4, 11)),
        (nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=1, groups=2), torch.randn(2, 4, 5, 6)),
    ],
    ids=["linear", "conv1d", "conv2d"],
)
def test_columns_meet_what_layer_inputs_says(layer, x):
    layer, x = layer.double(), x.double()
    rows = layer_inputs(layer, x)
    output = layer(x) - layer(torch.zeros_like(x))
    if isinstance(layer, nn.Linear):
        expected = (rows @ layer.weight.T).view(2, 5, 4)
    else:
        parts = rows.view(2, layer.groups, -1, rows.shape[1])
        weights = layer.weight.flatten(1).view(layer.groups, -1, rows.shape[1])
        expected = torch.einsum("kgti,goi->kgot", parts, weights).reshape(output.shape)
    torch.testing.assert_close(output, expected)


def test_pgu_moves_no_output_on_what_the_retain_inputs_mostly_are(tmp_path):
    """W x stays for every x in the main directions, which hold 90 % of the retain inputs of each layer."""
    model, retain = tiny_vit().double(), double(images(3, seed=2))
    trainer = make_trainer(
        model, tmp_path, forget=double(images(4)), retain=retain, collator=collate_images, method="pgu"
    )
    original = copy.deepcopy(model).eval()
    trainer.train()
    inputs = {}
    for name, layer in original.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.register_forward_hook(lambda layer, x, _, name=name: inputs.setdefault(name, []).append(layer_inputs(layer, x[0])))  # fmt: skip
    with torch.no_grad():
        original(**collate_images(retain))
    moved = 0
    for (name, p), old in zip(model.named_parameters(), original.parameters()):
        change = (p - old).detach()
        if (layer := name.removesuffix(".weight")) not in inputs or p.ndim < 2:
            assert not change.any(), name
            continue
        x = torch.cat(inputs[layer])
        M = main_directions(x.T @ x, 0.9)
        assert (x @ M).square().sum() > 0.9 * x.square().sum() >= (x @ M[:, :-1]).square().sum()
        assert (change.flatten(1) @ M).norm() <= 1e-10
        moved += float(change.norm())
    assert moved > 1e-6


# ---- the optimizer's metric ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["parameter", "model"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_step_in_the_metric_is_orthogonal_to_every_retain_gradient(tmp_path, granularity, amsgrad):
    """<g_n, D^-1 u_perp> = 0 with D as AdamW has it before the third step; the plain projection does not give that."""
    model = tiny_whisper(encoder_layers=1, decoder_layers=1).double()
    forget, retain = double(FORGET), double(RETAIN)

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, optimizer, **kwargs):
            if state.global_step < 2:
                return
            optimizer = getattr(optimizer, "optimizer", optimizer)
            gradient = [p.grad.clone() for p in parameters]
            scales = [inverse_root_metric(optimizer, p).square() for p in parameters]
            denominators = [
                (optimizer.state[p]["max_exp_avg_sq" if amsgrad else "exp_avg_sq"] / (1 - 0.999**2)).sqrt() + 1e-8
                for p in parameters
            ]
            torch.testing.assert_close(flat(scales), 1 / flat(denominators))
            copied = copy.deepcopy(model).train()
            for sample in retain:
                trained = [p for p in copied.parameters() if p.requires_grad]
                g = sample_gradient(copied, copied(**collate([sample])).loss, trained)
                triples = list(zip(g, scales, gradient))
                for group in [triples] if granularity == "model" else [[triple] for triple in triples]:
                    one, scale, u = map(flat, zip(*group))
                    size = (one * scale.sqrt()).norm() * (u * scale.sqrt()).norm()
                    self.metric.append(float((one * scale) @ u / size) if size > 0 else 0.0)
                    self.plain.append(float(one @ u / (one.norm() * u.norm())) if size > 0 else 0.0)

    look = Look()
    look.metric, look.plain = [], []
    trainer = make_trainer(model, tmp_path, forget=forget, retain=retain, method="orthograd_metric", alpha=0.0,
                           granularity=granularity, max_steps=3, learning_rate=1e-3,
                           arguments={"callbacks": [look]})  # fmt: skip
    parameters = [p for p in model.parameters() if p.requires_grad]
    trainer.optimizer = torch.optim.AdamW(parameters, lr=1e-3, amsgrad=amsgrad)
    trainer.train()
    assert len(look.metric) >= len(RETAIN)
    assert max(map(abs, look.metric)) < 1e-9 < 1e-3 < max(map(abs, look.plain))


def test_the_metric_of_plain_sgd_is_the_identity(tmp_path):
    models = [tiny_vit()]
    models.append(copy.deepcopy(models[0]))
    for model, method in zip(models, ("orthograd", "orthograd_metric")):
        make_trainer(
            model, tmp_path, forget=images(4), retain=images(4, seed=2), collator=collate_images, method=method
        ).train()
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models)))


def test_the_metric_of_other_optimizers_is_refused(tmp_path):
    trainer = make_trainer(tiny_vit(), tmp_path, forget=images(4), retain=images(4), collator=collate_images,
                           method="orthograd_metric", optimizer=False, optim="rmsprop")  # fmt: skip
    with pytest.raises(ValueError, match="not of RMSprop"):
        trainer.train()


def test_l1_sparse_adds_a_penalty_that_fades(tmp_path):
    """Two steps that differ in nothing but gamma: gamma sign(theta) in the first, half of it in the second."""
    steps = []
    for gamma in (0.0, 0.02):
        model = tiny_vit()
        model.load_state_dict(steps[0][0] if steps else model.state_dict())
        start = copy.deepcopy(model.state_dict())
        trainer = make_trainer(model, tmp_path, forget=images(4), retain=images(4), collator=collate_images, max_steps=2,
                               learning_rate=1e-3, optimizer=False, optim="sgd", method="l1_sparse",
                               method_kwargs={"gamma": gamma}, arguments={"callbacks": [Remember()]})  # fmt: skip
        trainer.train()
        steps.append((start, Remember.weights, copy.deepcopy(model.state_dict())))
    plain, sparse = steps
    for name in plain[0]:
        clear = plain[0][name].abs() > 1e-3  # the sign of others changes under way
        sign = torch.sign(plain[0][name])[clear]
        first, second = ((sparse[n][name] - plain[n][name])[clear] for n in (1, 2))
        torch.testing.assert_close(first, -1e-3 * 0.02 * sign, rtol=1e-2, atol=1e-7)
        torch.testing.assert_close(second, -1e-3 * 0.03 * sign, rtol=0.05, atol=2e-6)
