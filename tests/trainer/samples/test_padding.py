"""A model whose loss depends on padding takes the step of samples without padding; one with an
attention mask is not slowed down."""

import copy

import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.per_sample.reference import (
    UNPADDED,
    orthograd_gradient,
    sample_gradient,
    select_sample,
)
from hf_unlearn.trainer.samples.padding import UnpaddedRangesCollator
from hf_unlearn.trainer.steps.training_run import TrainingRun


def tiny_wav2vec2(norm: str) -> Wav2Vec2ForCTC:
    config = Wav2Vec2Config(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_kernel=(4, 4),
        conv_stride=(4, 2),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
        num_feat_extract_layers=2,
        mask_time_prob=0.0,
        layerdrop=0.0,
        pad_token_id=0,
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        ctc_loss_reduction="mean",
    )
    return Wav2Vec2ForCTC(config)


def voices(*lengths: int) -> list[dict]:
    return [
        {"input_values": torch.randn(n), "labels": torch.randint(1, 8, (2 + i % 2,))}
        for i, n in enumerate(lengths)
    ]


def padded(rows: list[dict]) -> dict:
    return {
        name: torch.nn.utils.rnn.pad_sequence(
            [row[name] for row in rows], batch_first=True, padding_value=value
        )
        for name, value in (("input_values", 0.0), ("labels", -100))
    }


def masked(rows: list[dict]) -> dict:
    lengths = torch.tensor([len(row["input_values"]) for row in rows])
    return {
        **padded(rows),
        "attention_mask": (torch.arange(max(lengths)) < lengths[:, None]).long(),
    }


def padded_before(rows: list[dict]) -> dict:
    batch = padded([{**row, "input_values": row["input_values"].flip(0)} for row in rows])
    return {**batch, "input_values": batch["input_values"].flip(1)}


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def trained(tmp_path, model, forget, retain, collator, eval_dataset=None, **options):
    trainer = make_trainer(tmp_path, model, forget, retain, collator, eval_dataset, **options)
    trainer.train()
    return trainer


def make_trainer(tmp_path, model, forget, retain, collator, eval_dataset=None, **options):
    args = UnlearnConfig(
        str(tmp_path),
        alpha=0.3,
        max_steps=1,
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        per_device_retain_batch_size=len(retain),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    return UnlearnTrainer(
        model=model,
        args=args,
        forget_dataset=forget,
        retain_dataset=retain,
        eval_dataset=eval_dataset,
        data_collator=collator,
        optimizers=(torch.optim.SGD(model.parameters(), lr=1.0), None),
    )


def alone(model, rows, collator):
    parameters = [p for p in model.parameters() if p.requires_grad]
    batches = [
        {name: x.double() if x.is_floating_point() else x for name, x in collator([row]).items()}
        for row in rows
    ]
    return [sample_gradient(model, model(**batch).loss, parameters) for batch in batches]


def check_step(start, model, forget, retain, collator) -> None:
    """The step from `start` to `model` is that of the samples alone."""
    exact = copy.deepcopy(start).double().eval()
    u = [torch.stack(rows).mean(0).flatten() for rows in zip(*alone(exact, forget, collator))]
    rows = [torch.stack(rows).flatten(1) for rows in zip(*alone(exact, retain, collator))]
    expected = torch.cat([orthograd_gradient(*pair, 0.3) for pair in zip(u, rows)])
    pairs = [(a, b) for a, b in zip(start.parameters(), model.parameters()) if a.requires_grad]
    step = torch.cat([(a - b).flatten() for a, b in pairs]).double()
    assert (step - expected).norm() <= 1e-3 * expected.norm() > 0


@pytest.mark.parametrize(
    "norm, collator", [("group", padded), ("group", padded_before), ("layer", masked)]
)
def test_the_step_equals_brute_force_without_padding(tmp_path, caplog, norm, collator):
    model, forget, retain = tiny_wav2vec2(norm), voices(300, 120, 90, 200), voices(150, 400, 260)
    start = copy.deepcopy(model)
    trainer = trained(tmp_path, model, forget, retain, collator)
    check_step(start, model, forget, retain, collator)
    samples = trainer.training_run.samples
    assert samples.one_by_one == samples.padding.matters == (norm == "group")
    assert ("padding changes the loss of a sample in Wav2Vec2ForCTC" in caplog.text) == (
        norm == "group"
    )
    assert ("feat_extract_norm='layer'" in caplog.text) == (norm == "group")


@pytest.mark.parametrize("way", ["stream", "later"])
def test_the_first_batch_shows_what_could_not_be_checked_before(tmp_path, monkeypatch, way):
    """A stream, whose first rows are only known then, and a model that accelerate has to move or
    shard first, as with FSDP."""
    model, forget, retain = tiny_wav2vec2("group"), voices(300, 120, 90, 200), voices(260, 260)
    start = copy.deepcopy(model)
    if way == "later":
        monkeypatch.setattr(TrainingRun, "check_padding", lambda self: None)
    given = Stream(forget) if way == "stream" else forget
    trainer = trained(tmp_path, model, given, retain, padded)
    check_step(start, model, forget, retain, padded)
    assert trainer.training_run.samples.padding.matters


def test_a_stream_with_a_mask_is_not_slowed_down(tmp_path):
    forget, retain = Stream(voices(300, 120, 90, 200)), voices(260, 150)
    trainer = trained(tmp_path, tiny_wav2vec2("layer"), forget, retain, masked)
    samples = trainer.training_run.samples
    assert samples.padding.matters is False and not samples.one_by_one
    assert UNPADDED not in trainer.data_collator(retain)
    assert UNPADDED not in trainer.get_train_dataloader().collate_fn(retain)


def test_the_evaluation_is_without_padding_too(tmp_path):
    """Before and after the training."""
    model, rows = tiny_wav2vec2("group"), voices(300, 120, 90)
    trainer = make_trainer(
        tmp_path, model, rows, voices(150, 400), padded, rows, per_device_eval_batch_size=3
    )
    for _ in range(2):
        model.eval()
        expected = torch.stack([model(**padded([row])).loss for row in rows]).mean()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(float(expected), rel=1e-5)
        trainer.train()


def noisy(rows: list[dict]) -> dict:
    return padded(
        [
            {**row, "input_values": row["input_values"] + torch.randn(len(row["input_values"]))}
            for row in rows
        ]
    )


def noisy_as_a_whole(rows: list[dict]) -> dict:
    """No row of a batch draws the numbers that it draws alone."""
    batch = padded(rows)
    noise = torch.randn(400, len(rows)).T[:, : batch["input_values"].shape[1]]
    return {**batch, "input_values": batch["input_values"] + noise}


@pytest.mark.parametrize("collator, known", [(noisy, True), (noisy_as_a_whole, False)])
def test_a_collator_that_draws_random_numbers(tmp_path, caplog, collator, known):
    """If each row in turn draws its own, the check sees the first row of a batch as it is alone."""
    forget, retain = voices(300, 120, 90, 200), voices(150, 400, 260)
    trainer = trained(tmp_path, tiny_wav2vec2("group"), forget, retain, collator)
    assert trainer.training_run.samples.padding.matters == known
    assert caplog.text.count("It was not checked for all samples whether padding") == (not known)
    assert caplog.text.count("padding could not be located, because") == known


@pytest.mark.parametrize("side", ["left", "right"])
def test_masking_tokens_at_random_does_not_hide_the_padding(side):
    """As DataCollatorForLanguageModeling does; most labels are -100 like their padding."""

    def collate(rows: list) -> dict:
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side)
        masked = (torch.rand(ids.shape) < 0.2) & (ids != 0)
        return {
            "input_ids": ids.masked_fill(masked, 4),
            "labels": ids.masked_fill(~masked, -100),
        }

    rows = [torch.randint(5, 100, (n,)) for n in (20, 34, 50)]
    torch.manual_seed(0)
    plain = collate(rows)
    torch.manual_seed(0)
    batch = UnpaddedRangesCollator(collate)(rows)
    for n, row in enumerate(rows):
        assert all(torch.equal(batch[name], plain[name]) for name in plain)
        sample, size = select_sample(batch, n, 3), len(row)
        for name in plain:
            own = plain[name][n, -size:] if side == "left" else plain[name][n, :size]
            assert torch.equal(sample[name], own[None])


def test_samples_of_one_length_have_no_padding(tmp_path):
    trainer = trained(
        tmp_path, tiny_wav2vec2("group"), voices(200, 200, 200, 200), voices(300, 300), padded
    )
    samples = trainer.training_run.samples
    assert samples.padding.matters is False and not samples.one_by_one


def test_silence_of_a_ctc_model_whose_padding_matters(tmp_path):
    torch.manual_seed(0)
    start, forget, retain = tiny_wav2vec2("group"), voices(300, 120, 90, 200), voices(260, 200)
    model = copy.deepcopy(start)
    trained(tmp_path, model, forget, retain, padded, forget_objective="silence")

    def silent(rows: list[dict]) -> dict:
        batch = padded(rows)
        return {**batch, "labels": torch.full_like(batch["labels"], -100)}

    exact = copy.deepcopy(start).double().eval()
    u = [-torch.stack(rows).mean(0).flatten() for rows in zip(*alone(exact, forget, silent))]
    labels, silence = (
        [torch.stack(rows).flatten(1) for rows in zip(*alone(exact, retain, collator))]
        for collator in (padded, silent)
    )
    # alpha r_perp - (1 - alpha) u_perp, where r_perp is orthogonal to the silence alone
    expected = torch.cat(
        [
            0.7 * orthograd_gradient(direction, torch.cat([own, of_silence]), 0.0)
            - 0.3 * orthograd_gradient(own.mean(0), of_silence, 0.0)
            for direction, own, of_silence in zip(u, labels, silence)
        ]
    )
    pairs = [(a, b) for a, b in zip(start.parameters(), model.parameters()) if a.requires_grad]
    step = torch.cat([(a - b).flatten() for a, b in pairs]).double()
    assert float((step - expected).norm() / expected.norm()) < 1e-3
