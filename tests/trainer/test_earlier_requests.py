"""What earlier requests forgot stays forgotten: each step is orthogonal to the gradients of their
samples, or to their updates of the weights."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from hf_unlearn.per_sample.reference import sample_gradient
from hf_unlearn.report.file_names import UPDATES
from hf_unlearn.trainer.samples import engine_choice
from hf_unlearn.trainer.samples.engine_choice import EngineChoice
from hf_unlearn.trainer.update_sketch import EarlierUpdates, stored
from tests.methods.formulas import double
from tests.support.callbacks import CallAtStep, interrupt
from tests.support.tiny import FORGET, RETAIN, collate, make_trainer, tiny_whisper, utterances
from tests.trainer.brute_force import relative, step

PREVIOUS = utterances(3, seed=7)
SMALL = {"encoder_layers": 1, "decoder_layers": 1}


def data() -> dict:
    return {"forget": double(FORGET), "retain": double(RETAIN)}


def gradients(model, samples) -> list[list[torch.Tensor]]:
    """The gradient of each sample alone, in float64, one tensor per trained parameter."""
    model = copy.deepcopy(model).double().train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for sample in samples:
        batch = collate(double([sample]))
        rows.append(sample_gradient(model, model(**batch).loss, parameters))
    return rows


def without(vector, rows):
    """A vector without its part in the span of some rows, by least squares."""
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return vector - unit.T @ torch.linalg.lstsq(unit.T, vector, driver="gelsd").solution


def expected_step(model, alpha, granularity, earlier) -> torch.Tensor:
    """alpha r_perp - (1 - alpha) u_perp from dense rows.

    Args:
        earlier: (m, ...) rows for each parameter, which the whole step is orthogonal to.
    """
    u = [torch.stack(g).mean(0).flatten() for g in zip(*gradients(model, FORGET))]
    A = [torch.stack(g).flatten(1) for g in zip(*gradients(model, RETAIN))]
    P = [rows.double().flatten(1) for rows in earlier]
    if granularity == "model":
        u, A, P = [torch.cat(u)], [torch.cat(A, 1)], [torch.cat(P, 1)]
    return torch.cat(
        [
            alpha * without(a.mean(0), p) - (1 - alpha) * without(v, torch.cat([a, p]))
            for v, a, p in zip(u, A, P)
        ]
    )


def split(model, vector) -> list[torch.Tensor]:
    sizes = [p.numel() for p in model.parameters() if p.requires_grad]
    return list(vector.split(sizes))


def largest_cosine(model, g, earlier, granularity) -> float:
    """How far g is from being orthogonal to each row."""
    parts = split(model, g)
    P = [rows.double().flatten(1) for rows in earlier]
    if granularity == "model":
        parts, P = [torch.cat(parts)], [torch.cat(P, 1)]
    products = [
        (p @ v).abs() / (p.norm(dim=1) * v.norm()).clamp_min(1e-30) for v, p in zip(parts, P)
    ]
    return float(torch.cat(products).max())


def rows_of_samples(model, samples) -> list[torch.Tensor]:
    return [torch.stack(g) for g in zip(*gradients(model, samples))]


@pytest.mark.parametrize("granularity", ["parameter", "model"])
@pytest.mark.parametrize("path", ["fast", "slow parameters", "one by one"])
def test_step_is_brute_force_and_orthogonal_to_earlier_samples(
    tmp_path, monkeypatch, granularity, path
):
    model = tiny_whisper(**SMALL).double()
    if path == "slow parameters":
        names = [n for n, p in model.named_parameters() if "fc1" in n or "embed" in n]
        slow = dict.fromkeys(names, "for this test")
        monkeypatch.setattr(engine_choice, "find_slow_parameters", lambda *_: slow)
    if path == "one by one":
        monkeypatch.setattr(EngineChoice, "check_batch_loss", lambda self, batch, loss_of: None)
        check_engine = EngineChoice.check_engine

        def check_and_give_up(self, retain_batch, loss_of):
            check_engine(self, retain_batch, loss_of)
            self.compute_one_by_one()

        monkeypatch.setattr(EngineChoice, "check_engine", check_and_give_up)
    arguments = {"previous_forget_dataset": double(PREVIOUS)}
    options = {"granularity": granularity, "alpha": 0.6, "arguments": arguments, **data()}
    g = step(model, tmp_path, **options)
    earlier = rows_of_samples(model, PREVIOUS)
    assert relative(g, expected_step(model, 0.6, granularity, earlier)) < 1e-6
    assert largest_cosine(model, g, earlier, granularity) < 1e-6


def test_retain_loss_is_of_retain_samples_alone(tmp_path):
    model = tiny_whisper(**SMALL)
    logs = {}
    for name, previous in (("with", PREVIOUS), ("without", None)):
        changed, arguments = copy.deepcopy(model), {"previous_forget_dataset": previous}
        trainer = make_trainer(changed, tmp_path / name, arguments=arguments)
        trainer.train()
        logs[name] = trainer.state.log_history[0]
    assert logs["with"]["retain_loss"] == pytest.approx(logs["without"]["retain_loss"], rel=1e-5)
    assert "previous_loss" not in logs["without"]
    assert logs["with"]["previous_loss"] == pytest.approx(losses(model, PREVIOUS), rel=1e-5)
    assert logs["with"]["residual"] < 1e-5


def losses(model, samples) -> float:
    """The mean loss of samples, each alone."""
    with torch.no_grad():
        return float(torch.stack([model.eval()(**collate([s])).loss for s in samples]).mean())


# ---- two requests in a row -----------------------------------------------------------------------

FIRST, SECOND = utterances(4, seed=11), utterances(4, seed=12)
STEPS = {"max_steps": 10, "learning_rate": 0.1, "alpha": 0.7, "optimizer": False, "optim": "sgd"}


@pytest.fixture(scope="module")
def first_request(tmp_path_factory):
    """A model that knows all samples, the same after it has forgotten the first, and the folder of
    that run."""
    torch.manual_seed(0)
    model, folder = tiny_whisper(**SMALL), tmp_path_factory.mktemp("first")
    batch = collate(FIRST + SECOND + RETAIN)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    before = copy.deepcopy(model)
    options = {**STEPS, "save_update_sketch": True}
    make_trainer(model, folder, forget=FIRST, **options).train()
    return before, model, folder


def second_request(first_request, tmp_path, **arguments):
    model = copy.deepcopy(first_request[1])
    trainer = make_trainer(model, tmp_path, forget=SECOND, arguments=arguments, **STEPS)
    trainer.train()
    return trainer


def test_without_it_the_first_request_comes_back_and_with_it_it_does_not(first_request, tmp_path):
    before, after, folder = first_request
    start = losses(after, FIRST)
    ends = {
        name: losses(second_request(first_request, tmp_path / name, **arguments).model, FIRST)
        for name, arguments in {
            "none": {},
            "samples": {"previous_forget_dataset": FIRST},
            "updates": {"previous_updates": [folder]},
        }.items()
    }
    print(losses(before, FIRST), start, ends)
    assert ends["none"] < start - 0.1
    assert ends["samples"] >= start
    assert ends["updates"] >= start


def test_the_sketch_is_the_change_of_the_weights_and_carries_the_earlier_ones(
    first_request, tmp_path
):
    before, after, folder = first_request
    (update,) = EarlierUpdates([folder]).updates
    before, after = dict(before.named_parameters()), dict(after.named_parameters())
    assert update.keys() == {name for name, p in after.items() if p.requires_grad}
    for name, (change,) in update.items():
        assert torch.equal(change, after[name] - before[name])
    second = second_request(first_request, tmp_path, previous_updates=[folder])
    second.args.save_update_sketch = True
    second.train()
    both = EarlierUpdates([tmp_path / UPDATES]).updates
    assert len(both) == 2
    assert all(torch.equal(both[0][name][0], update[name][0]) for name in update)


def test_a_resumed_run_is_as_uninterrupted(first_request, tmp_path):
    """The order of earlier samples, the updates it reads and those it writes."""

    def trainer_at(folder, **options):
        return make_trainer(
            copy.deepcopy(first_request[1]),
            folder,
            forget=SECOND,
            **{**STEPS, "max_steps": 5, "per_device_previous_batch_size": 3},
            save_strategy="steps",
            save_steps=1,
            save_update_sketch=True,
            arguments={
                "previous_forget_dataset": FIRST,
                "previous_updates": [first_request[2]],
                **options,
            },
        )

    straight, killed = (
        trainer_at(tmp_path / "a"),
        trainer_at(tmp_path / "b", callbacks=[CallAtStep(3, interrupt)]),
    )
    straight.train()
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = trainer_at(tmp_path / "b")
    resumed.train(resume_from_checkpoint=True)
    for one, other in zip(straight.model.parameters(), resumed.model.parameters()):
        assert torch.equal(one, other)
    updates = [EarlierUpdates([tmp_path / name]).updates[-1] for name in "ab"]
    assert all(torch.equal(kept[0], updates[1][name][0]) for name, kept in updates[0].items())
    other = trainer_at(tmp_path / "b", previous_updates=None)
    with pytest.raises(ValueError, match="updates of earlier requests 1, not 0"):
        other.train(resume_from_checkpoint=f"{tmp_path}/b/checkpoint-2")


# ---- updates -------------------------------------------------------------------------------------


def written(folder, *updates, rank=0):
    """The folder of a run whose file holds these updates by name."""
    tensors = {}
    for request, update in enumerate(updates):
        for name, change in update.items():
            parts = stored(change, rank)
            ends = ("",) if len(parts) == 1 else ("/left", "/right")
            kept = zip(ends, parts)
            tensors |= {f"{request}:{name}{end}": part.contiguous() for end, part in kept}
    folder.mkdir()
    save_file(tensors, folder / UPDATES)
    return folder


def random_update(model, seed=0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(p.shape, generator=generator)
        for name, p in model.named_parameters()
        if p.requires_grad
    }


@pytest.mark.parametrize("granularity", ["parameter", "model"])
@pytest.mark.parametrize("rank", [0, 2])
def test_step_is_brute_force_and_orthogonal_to_updates_and_samples(tmp_path, granularity, rank):
    """Two updates, of which one has a single weight, and earlier samples. One parameter takes part
    in no loss, but in the first update."""
    model = tiny_whisper(**SMALL).double()
    model.register_parameter("unused", torch.nn.Parameter(torch.zeros(5).double()))
    update = random_update(model)
    one = {name: random_update(model, 1)[name] for name in list(update)[:1]}
    folder = written(tmp_path / "earlier", update, one, rank=rank)
    arguments = {"previous_forget_dataset": double(PREVIOUS), "previous_updates": [folder]}
    options = {"granularity": granularity, "alpha": 0.6, "arguments": arguments, **data()}
    g = step(model, tmp_path, **options)
    updates = EarlierUpdates([folder]).updates
    earlier = []
    for (name, like), rows in zip(update.items(), rows_of_samples(model, PREVIOUS)):
        changes = [torch.zeros_like(like)[None].double()] * 2
        for n, kept in enumerate(one[name] for one in updates if name in one):
            whole = kept[0] @ kept[1] if len(kept) == 2 else kept[0]
            changes[n] = whole.reshape(1, *like.shape).double()
        earlier.append(torch.cat([rows, *changes]))
    assert relative(g, expected_step(model, 0.6, granularity, earlier)) < 1e-6
    assert largest_cosine(model, g, earlier, granularity) < 1e-6


def test_a_low_rank_is_the_best_one_and_stays_below_its_size():
    change = torch.randn(12, 5, 2)
    left, right = stored(change, 3)
    assert left.numel() + right.numel() == 3 * (12 + 10)
    values = torch.linalg.svdvals(change.flatten(1))
    assert (left @ right - change.flatten(1)).norm() == pytest.approx(float(values[3:].norm()))
    # Factors of rank 6 would be larger than the update.
    assert stored(change, 6) == (change,)
    assert stored(change[:, 0, 0], 1)[0].shape == (12,)


LORA = LoraConfig(
    r=3, lora_alpha=7, target_modules=["q_proj", "fc1"], init_lora_weights=False, lora_dropout=0
)


def test_with_an_adapter_the_adapted_weights_do_not_move_along_an_update(tmp_path):
    base = tiny_whisper(**SMALL)
    update = random_update(base)
    folder = written(tmp_path / "earlier", update)
    model = get_peft_model(copy.deepcopy(base), LORA).double()
    options = {"granularity": "model", "alpha": 0.6, "learning_rate": 1e-4, "optim": "sgd"}
    options |= data()
    moved = {}
    for name, folders in (("with", [folder]), ("without", None)):
        changed, arguments = copy.deepcopy(model), {"previous_updates": folders}
        make_trainer(
            changed, tmp_path / name, optimizer=False, arguments=arguments, **options
        ).train()
        before, after = (copy.deepcopy(m).merge_and_unload() for m in (model, changed))
        pairs = zip(before.named_parameters(), after.parameters())
        steps = {n: (b - a).detach() for (n, a), b in pairs if n in update}
        moved[name] = float(sum((steps[n] * update[n]).sum() for n in steps))
    # What is left is of second order in the learning rate.
    assert abs(moved["with"]) < 1e-2 * abs(moved["without"])


def test_the_sketch_of_an_adapter_is_the_change_of_the_weights_that_it_adapts(tmp_path):
    model = get_peft_model(tiny_whisper(**SMALL), LORA)
    before = copy.deepcopy(model).merge_and_unload()
    make_trainer(model, tmp_path, save_update_sketch=True).train()
    before, after = (
        dict(before.named_parameters()),
        dict(model.merge_and_unload().named_parameters()),
    )
    (update,) = EarlierUpdates([tmp_path]).updates
    assert update.keys() == {n for n, p in before.items() if not torch.equal(p, after[n])}
    for name, (change,) in update.items():
        assert torch.allclose(change, after[name] - before[name], rtol=1e-4, atol=1e-5)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "scrub"}, "previous_forget_dataset does not work with method='scrub'.*ortho"),
        ({"previous_forget_dataset": []}, "previous_forget_dataset is empty"),
        ({"previous_forget_dataset": "speech"}, "is 'speech', which is not a dataset"),
        ({"previous_forget_dataset": iter(PREVIOUS)}, "can be read only once"),
        ({"previous_forget_dataset": RETAIN}, "samples of retain_dataset are in previous_forget"),
        ({"previous_updates": ["nowhere"]}, "there is no nowhere"),
        ({"update_sketch_rank": -1}, "update_sketch_rank is -1"),
    ],
)
def test_what_cannot_keep_them_forgotten_is_refused(tmp_path, options, message):
    names = ("previous_forget_dataset", "previous_updates")
    arguments = {"previous_forget_dataset": PREVIOUS} if "method" in options else {}
    arguments |= {name: options[name] for name in names if name in options}
    options = {name: value for name, value in options.items() if name not in names}
    with pytest.raises(ValueError, match=message):
        make_trainer(tiny_whisper(**SMALL), tmp_path, arguments=arguments, **options)


def test_updates_of_another_model_or_of_frozen_weights_are_refused(tmp_path):
    model = tiny_whisper(**SMALL)
    other = written(tmp_path / "other", {"model.proj.weight": torch.ones(3)})
    with pytest.raises(ValueError, match="model has no such weight"):
        make_trainer(model, tmp_path, arguments={"previous_updates": [other]})
    frozen = model.model.encoder.conv1.weight.requires_grad_(False)
    update = {"model.encoder.conv1.weight": torch.ones_like(frozen)}
    with pytest.raises(ValueError, match="weights that this run does not train"):
        arguments = {"previous_updates": [written(tmp_path / "frozen", update)]}
        make_trainer(model, tmp_path, arguments=arguments)
