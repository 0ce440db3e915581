"""A model whose loss depends on padding takes the step of samples without padding; one with an
attention mask is not slowed down."""

import copy

import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioForCTC,
    SEWConfig,
    SEWForCTC,
)

from hf_unlearn import UnlearnTrainer
from hf_unlearn.per_sample.reference import (
    UNPADDED,
    orthograd_gradient,
    sample_gradient,
    select_sample,
)
from hf_unlearn.trainer.samples import padding_check
from hf_unlearn.trainer.samples.padding import UnpaddedRangesCollator
from hf_unlearn.trainer.steps.training_run import TrainingRun
from tests.support.tiny import make_trainer
from tests.support.tiny_speech import (
    collate_masked,
    collate_padded,
    tiny_wav2vec2,
    voices,
    waveform_sizes,
)
from tests.trainer.brute_force import in_float64, step_of_samples


def padded_before(rows: list[dict]) -> dict:
    batch = collate_padded([{**row, "input_values": row["input_values"].flip(0)} for row in rows])
    return {**batch, "input_values": batch["input_values"].flip(1)}


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def prepared(tmp_path, model, forget, retain, collator, **options) -> UnlearnTrainer:
    return make_trainer(
        model,
        tmp_path,
        forget,
        retain,
        collator=collator,
        alpha=0.3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        **options,
    )


def trained(*arguments, **options) -> UnlearnTrainer:
    trainer = prepared(*arguments, **options)
    trainer.train()
    return trainer


def alone(model, rows, collator):
    parameters = [p for p in model.parameters() if p.requires_grad]
    batches = [in_float64(collator([row])) for row in rows]
    return [sample_gradient(model, model(**batch).loss, parameters) for batch in batches]


def check_step(start, model, forget, retain, collator) -> None:
    """The step from `start` to `model` is that of the samples alone."""

    def loss_of(model, row):
        return model(**in_float64(collator([row]))).loss

    exact = copy.deepcopy(start).double().eval()
    expected = step_of_samples(exact, loss_of, forget, retain, 0.3)
    pairs = [(a, b) for a, b in zip(start.parameters(), model.parameters()) if a.requires_grad]
    step = torch.cat([(a - b).flatten() for a, b in pairs]).double()
    assert (step - expected).norm() <= 1e-3 * expected.norm() > 0


@pytest.mark.parametrize(
    "norm, collator",
    [("group", collate_padded), ("group", padded_before), ("layer", collate_masked)],
)
def test_the_step_equals_brute_force_without_padding(tmp_path, caplog, norm, collator):
    model, forget, retain = tiny_wav2vec2(norm), voices(300, 120, 90, 200), voices(150, 400, 260)
    start = copy.deepcopy(model)
    trainer = trained(tmp_path, model, forget, retain, collator)
    check_step(start, model, forget, retain, collator)
    samples = trainer.training_run.checked_model.samples
    assert samples.engine_choice.one_by_one == samples.padding.matters == (norm == "group")
    assert ("padding changes the loss of a sample in Wav2Vec2ForCTC" in caplog.text) == (
        norm == "group"
    )
    assert ("feat_extract_norm='layer'" in caplog.text) == (norm == "group")


def test_a_mask_is_not_advised_where_there_is_one(tmp_path, caplog):
    """The positions of data2vec are convolutions, whose norms reach into the padding."""
    sizes = waveform_sizes(conv_kernel=(4, 4), conv_stride=(4, 2))
    model = Data2VecAudioForCTC(Data2VecAudioConfig(**sizes, ctc_loss_reduction="mean"))
    start, forget, retain = copy.deepcopy(model), voices(300, 120, 90, 200), voices(150, 260)
    trained(tmp_path, model, forget, retain, collate_masked)
    check_step(start, model, forget, retain, collate_masked)
    assert "of its batch, although it gets an attention_mask. Each sample" in caplog.text
    assert "this slow path, put samples of the same length" in caplog.text


def test_the_gradients_show_what_the_losses_do_not(tmp_path):
    """The encoder of this model hardly matters yet, so padding changes its losses by less than
    rounding might."""
    torch.manual_seed(0)
    sizes = waveform_sizes(conv_kernel=(4, 4), conv_stride=(4, 2), squeeze_factor=2)
    model = SEWForCTC(SEWConfig(**sizes, ctc_loss_reduction="mean"))
    start, forget, retain = copy.deepcopy(model), voices(300, 120, 90, 200), voices(150, 260)
    model.eval()
    padded = {name: value[1:2] for name, value in collate_masked(forget).items()}
    both = (padded, collate_masked(forget[1:2]))
    losses = [model(**batch).loss.item() for batch in both]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    trained(tmp_path, model, forget, retain, collate_masked)
    check_step(start, model, forget, retain, collate_masked)


@pytest.mark.parametrize("way", ["stream", "later"])
def test_the_first_batch_shows_what_could_not_be_checked_before(tmp_path, monkeypatch, way):
    """A stream, whose first rows are only known then, and a model that accelerate has to move or
    shard first, as with FSDP."""
    model, forget, retain = tiny_wav2vec2("group"), voices(300, 120, 90, 200), voices(260, 260)
    start = copy.deepcopy(model)
    if way == "later":
        monkeypatch.setattr(TrainingRun, "check_padding", lambda self: None)
    dataset = Stream(forget) if way == "stream" else forget
    trainer = trained(tmp_path, model, dataset, retain, collate_padded)
    check_step(start, model, forget, retain, collate_padded)
    assert trainer.training_run.checked_model.samples.padding.matters


def test_a_stream_with_a_mask_is_not_slowed_down(tmp_path):
    forget, retain = Stream(voices(300, 120, 90, 200)), voices(260, 150)
    trainer = trained(tmp_path, tiny_wav2vec2("layer"), forget, retain, collate_masked)
    samples = trainer.training_run.checked_model.samples
    assert samples.padding.matters is False and not samples.engine_choice.one_by_one
    assert UNPADDED not in trainer.data_collator(retain)
    assert UNPADDED not in trainer.get_train_dataloader().collate_fn(retain)


def test_the_evaluation_is_without_padding_too(tmp_path):
    """Before and after the training."""
    model, rows = tiny_wav2vec2("group"), voices(300, 120, 90)
    trainer = prepared(
        tmp_path,
        model,
        rows,
        voices(150, 400),
        collate_padded,
        arguments={"eval_dataset": rows},
        per_device_eval_batch_size=3,
    )
    for _ in range(2):
        model.eval()
        expected = torch.stack([model(**collate_padded([row])).loss for row in rows]).mean()
        assert trainer.evaluate()["eval_loss"] == pytest.approx(float(expected), rel=1e-5)
        trainer.train()


def noisy(rows: list[dict]) -> dict:
    return collate_padded(
        [
            {**row, "input_values": row["input_values"] + torch.randn(len(row["input_values"]))}
            for row in rows
        ]
    )


def noisy_as_a_whole(rows: list[dict]) -> dict:
    """No row of a batch draws the numbers that it draws alone."""
    batch = collate_padded(rows)
    noise = torch.randn(400, len(rows)).T[:, : batch["input_values"].shape[1]]
    return {**batch, "input_values": batch["input_values"] + noise}


@pytest.mark.parametrize("collator, known", [(noisy, True), (noisy_as_a_whole, False)])
def test_a_collator_that_draws_random_numbers(tmp_path, caplog, collator, known):
    """If each row in turn draws its own, the check sees the first row of a batch as it is alone."""
    forget, retain = voices(300, 120, 90, 200), voices(150, 400, 260)
    trainer = trained(tmp_path, tiny_wav2vec2("group"), forget, retain, collator)
    assert trainer.training_run.checked_model.samples.padding.matters == known
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
            unpadded = plain[name][n, -size:] if side == "left" else plain[name][n, :size]
            assert torch.equal(sample[name], unpadded[None])


def test_samples_of_one_length_have_no_padding(tmp_path):
    trainer = trained(
        tmp_path,
        tiny_wav2vec2("group"),
        voices(200, 200, 200, 200),
        voices(300, 300),
        collate_padded,
    )
    samples = trainer.training_run.checked_model.samples
    assert samples.padding.matters is False and not samples.engine_choice.one_by_one


@pytest.mark.parametrize(
    "forget, expected", [((90, 200, 100, 120), 2), ((200, 200), 1), ((200,), 0)]
)
def test_each_data_set_has_its_share_of_four_compared_samples(
    tmp_path, monkeypatch, forget, expected
):
    """The check computes few samples, so that it takes less time than a step."""
    compared = []
    difference = padding_check.loss_difference
    monkeypatch.setattr(
        padding_check,
        "loss_difference",
        lambda batch, loss_of, n: (
            compared.append(len(batch["labels"])) or difference(batch, loss_of, n)
        ),
    )
    retain = voices(150, 400, 260, 300, 350)
    trainer = prepared(tmp_path, tiny_wav2vec2("group"), voices(*forget), retain, collate_padded)
    trainer.training_run.check_padding()
    assert trainer.training_run.checked_model.samples.padding.matters
    assert compared.count(len(forget)) == expected and len(compared) == 4


def test_silence_of_a_ctc_model_whose_padding_matters(tmp_path):
    torch.manual_seed(0)
    start, forget, retain = tiny_wav2vec2("group"), voices(300, 120, 90, 200), voices(260, 200)
    model = copy.deepcopy(start)
    trained(tmp_path, model, forget, retain, collate_padded, forget_objective="silence")

    def silent(rows: list[dict]) -> dict:
        batch = collate_padded(rows)
        return {**batch, "labels": torch.full_like(batch["labels"], -100)}

    exact = copy.deepcopy(start).double().eval()
    u = [-torch.stack(rows).mean(0).flatten() for rows in zip(*alone(exact, forget, silent))]
    labels, silence = (
        [torch.stack(rows).flatten(1) for rows in zip(*alone(exact, retain, collator))]
        for collator in (collate_padded, silent)
    )
    # alpha r_perp - (1 - alpha) u_perp, where r_perp is orthogonal to the silence alone
    expected = torch.cat(
        [
            0.7 * orthograd_gradient(direction, torch.cat([of_labels, of_silence]), 0.0)
            - 0.3 * orthograd_gradient(of_labels.mean(0), of_silence, 0.0)
            for direction, of_labels, of_silence in zip(u, labels, silence)
        ]
    )
    pairs = [(a, b) for a, b in zip(start.parameters(), model.parameters()) if a.requires_grad]
    step = torch.cat([(a - b).flatten() for a, b in pairs]).double()
    assert float((step - expected).norm() / expected.norm()) < 1e-3
