"""A model whose loss depends on padding takes the step of samples without padding; one with an
attention mask is not slowed down."""

import copy

import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from hf_unlearn.per_sample.reference import orthograd_gradient, sample_gradient


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


def trained(tmp_path, model, forget, retain, collator, **options):
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
    trainer = UnlearnTrainer(
        model=model,
        args=args,
        forget_dataset=forget,
        retain_dataset=retain,
        data_collator=collator,
        optimizers=(torch.optim.SGD(model.parameters(), lr=1.0), None),
    )
    trainer.train()
    return trainer


def alone(model, rows, collator):
    parameters = [p for p in model.parameters() if p.requires_grad]
    batches = [
        {name: x.double() if x.is_floating_point() else x for name, x in collator([row]).items()}
        for row in rows
    ]
    return [sample_gradient(model, model(**batch).loss, parameters) for batch in batches]


@pytest.mark.parametrize(
    "norm, collator", [("group", padded), ("group", padded_before), ("layer", masked)]
)
def test_the_step_equals_brute_force_without_padding(tmp_path, caplog, norm, collator):
    model, forget, retain = tiny_wav2vec2(norm), voices(300, 120, 90, 200), voices(150, 400, 260)
    start = copy.deepcopy(model)
    exact = copy.deepcopy(model).double().eval()
    trainer = trained(tmp_path, model, forget, retain, collator)
    u = [torch.stack(rows).mean(0).flatten() for rows in zip(*alone(exact, forget, collator))]
    rows = [torch.stack(rows).flatten(1) for rows in zip(*alone(exact, retain, collator))]
    expected = torch.cat([orthograd_gradient(*pair, 0.3) for pair in zip(u, rows)])
    pairs = [(a, b) for a, b in zip(start.parameters(), model.parameters()) if a.requires_grad]
    step = torch.cat([(a - b).flatten() for a, b in pairs]).double()
    assert (step - expected).norm() <= 1e-3 * expected.norm() > 0
    assert trainer.samples.one_by_one == trainer.samples.without_padding == (norm == "group")
    assert ("padding changes the loss of a sample in Wav2Vec2ForCTC" in caplog.text) == (
        norm == "group"
    )
    assert ("feat_extract_norm='layer'" in caplog.text) == (norm == "group")


def test_samples_of_one_length_have_no_padding(tmp_path):
    trainer = trained(
        tmp_path, tiny_wav2vec2("group"), voices(200, 200, 200, 200), voices(300, 300), padded
    )
    assert not trainer.samples.without_padding and not trainer.samples.one_by_one
