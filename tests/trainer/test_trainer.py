"""UnlearnTrainer's step equals brute force in float64; equal configurations take equal steps."""

import pytest
import torch

from hf_unlearn.per_sample.reference import orthograd_gradient, sample_gradient
from hf_unlearn.trainer.batches.retain_batches import RetainBatches
from tests.support.tiny import FORGET, RETAIN, checkpointing, collate, make_trainer, tiny_whisper
from tests.trainer.brute_force import brute_force, relative, step


@pytest.mark.parametrize("granularity", ["parameter", "model"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(
    "retain", [RETAIN, RETAIN + RETAIN[:2], RETAIN[:1]], ids=["plain", "duplicates", "k=1"]
)
def test_orthograd_step_is_the_brute_force_step(tmp_path, granularity, alpha, retain):
    model = tiny_whisper()
    expected = brute_force(model, alpha, granularity, retain=retain)
    assert (
        relative(
            step(model, tmp_path, alpha=alpha, granularity=granularity, retain=retain), expected
        )
        < 1e-4
    )


def test_zero_retain_gradients(tmp_path):
    """A retain sample without labels has no loss: it constrains nothing, and does not disturb the
    rest."""
    empty = {**RETAIN[0], "labels": torch.full((3,), -100)}
    got = step(tiny := tiny_whisper(), tmp_path, alpha=0.0, retain=[*RETAIN[1:], empty])
    assert relative(got, brute_force(tiny, 0.0, "parameter", retain=RETAIN[1:])) < 1e-4


class Picked(torch.nn.Module):
    """Its loss is about the positions that a mask picks, of which samples have different numbers
    (Qwen2-Audio)."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x, mask, labels):
        return {"loss": torch.nn.functional.cross_entropy(self.layer(x)[mask], labels[mask])}


class Patched(Picked):
    """The images of its samples come as one sequence of patches (as in Qwen2-VL)."""

    def forward(self, pixel_values, image_grid_thw, labels):
        images = self.layer(pixel_values).tanh().split(image_grid_thw.prod(-1).tolist())
        logits = torch.stack([image.mean(0) for image in images])
        return {"loss": torch.nn.functional.cross_entropy(logits, labels)}


def picked(length: int, n: int = 5) -> dict:
    mask = torch.arange(n) < length
    return {"x": torch.randn(n, 4), "mask": mask, "labels": torch.randint(3, (n,))}


def image_of(patches: int) -> dict:
    return {
        "pixel_values": torch.randn(patches, 4),
        "image_grid_thw": torch.tensor([1, 1, patches]),
        "labels": torch.tensor(patches % 3),
    }


def stacked(samples: list[dict]) -> dict:
    return {
        name: torch.cat([s[name] for s in samples])
        if name == "pixel_values"
        else torch.stack([s[name] for s in samples])
        for name in samples[0]
    }


@pytest.mark.parametrize("lengths", [(3, 2, 4), (4, 4, 4)], ids=["from the first", "late"])
@pytest.mark.parametrize("model, sample", [(Picked, picked), (Patched, image_of)])
def test_samples_in_unequal_shares(tmp_path, monkeypatch, model, sample, lengths):
    """Samples that a mask picks unequally are computed one by one, even if the first batches had
    equal shares. Patches are not: image_grid_thw tells whose they are."""
    model, batches = model(), [[sample(n) for n in lengths], [sample(n) for n in (2, 5, 4, 3)]]
    trainer = make_trainer(
        model,
        tmp_path,
        forget=batches[0],
        retain=[sample(n) for n in lengths],
        alpha=0.3,
        max_steps=2,
        collator=stacked,
        # as good as none
        learning_rate=1e-6,
        optimizer=False,
        optim="sgd",
    )
    monkeypatch.setattr(
        RetainBatches, "of_current_step", lambda *_: stacked(batches[trainer.state.global_step])
    )
    gradients, finish = [], trainer.method.finish

    def note(step):
        gradients.append([p.grad.clone().flatten().double() for p in model.parameters()])
        finish(step)

    trainer.method.finish = note
    trainer.train()
    access = trainer.training_run.checked_model.samples
    assert access.engine_choice.one_by_one == (type(model) is Picked)
    assert access.engine_choice.one_by_one or not access.engine_choice.engine.slow
    parameters = list(model.parameters())

    def alone(samples):
        return [
            sample_gradient(model, model(**stacked([one]))["loss"], parameters) for one in samples
        ]

    u = [torch.stack(rows).mean(0).flatten() for rows in zip(*alone(batches[0]))]
    for got, batch in zip(gradients, batches):
        for g, mine, rows in zip(got, u, zip(*alone(batch))):
            assert relative(g, orthograd_gradient(mine, torch.stack(rows).flatten(1), 0.3)) < 1e-4


@pytest.mark.parametrize(
    "method", ["orthograd", "gradient_ascent", "gradient_difference", "finetune"]
)
def test_weighted_methods_and_equal_configurations(tmp_path, method):
    """Batch size x accumulation: 8 x 1 = 2 x 4 = 3 x 3 (with a smaller last batch), with and
    without gradient checkpointing."""
    model = tiny_whisper(use_cache=False)
    options = {"method": method, "alpha": 0.3}
    expected = step(model, tmp_path, **options)
    assert expected.norm() > 0
    for changes in (
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3},
        checkpointing(False),
        checkpointing(True),
    ):
        assert relative(step(model, tmp_path, **options, **changes), expected) < 1e-5, changes


def test_weighted_methods_are_weighted_sums_of_gradients(tmp_path):
    model = tiny_whisper()
    up, down = (
        step(model, tmp_path, method="gradient_ascent"),
        step(model, tmp_path, method="finetune"),
    )
    difference = step(model, tmp_path, method="gradient_difference", alpha=0.3)
    assert relative(difference, 0.3 * down + 0.7 * up) < 1e-5


def test_a_short_step_changes_no_retain_loss_to_first_order(tmp_path):
    """The purpose of the method: with alpha = 0, a short step changes the forget loss, but not the
    loss of any retain sample."""
    model = tiny_whisper().double()
    forget, retain = (
        [{**s, "input_features": s["input_features"].double()} for s in data]
        for data in (FORGET, RETAIN)
    )
    direction = step(model, tmp_path, alpha=0.0, granularity="model", forget=forget, retain=retain)

    def losses(samples):
        return torch.stack([model(**collate([sample])).loss.detach() for sample in samples])

    before = losses(retain), losses(forget).mean()
    size = 1e-5 / direction.norm()
    with torch.no_grad():
        start = 0
        for p in (p for p in model.parameters() if p.requires_grad):
            p -= size * direction[start : start + p.numel()].view_as(p)
            start += p.numel()
    gained = losses(forget).mean() - before[1]
    assert gained > 0
    assert (losses(retain) - before[0]).abs().max() < 1e-3 * gained
