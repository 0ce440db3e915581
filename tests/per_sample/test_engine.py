"""The engine's per-sample gradients against one backward pass for each sample, on many architectures."""

import pytest
import torch
import transformers as T
from torch import nn

from hf_unlearn.per_sample import PerSampleEngine, SampleMeanLoss, Unsupported
from hf_unlearn.per_sample.check import find_slow_parameters
from hf_unlearn.per_sample.reference import per_sample_gradients
from tests.tiny import collate, tiny_whisper, utterances

K = 4
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**SMALL, "vocab_size": 50, "max_position_embeddings": 32}
VISION = {**SMALL, "image_size": 32, "patch_size": 8, "num_labels": 3}
SPEECH = {**SMALL, "conv_dim": [8, 8], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_feat_extract_layers": 2,
          "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0, "layerdrop": 0.0}  # fmt: skip


def tokens(labels: torch.Tensor | None = None) -> dict:
    ids, mask = torch.randint(4, 50, (K, 9)), torch.ones(K, 9, dtype=torch.long)
    for n in range(K):
        mask[n, 5 + n :] = 0
    labels = ids.masked_fill(mask == 0, -100) if labels is None else labels
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def images() -> dict:
    return {"pixel_values": torch.randn(K, 3, 32, 32), "labels": torch.arange(K) % 3}


CLASSES = torch.arange(K) % 3
ARCHITECTURES = {
    "whisper": lambda: (tiny_whisper(), collate(utterances(K))),
    "bert": lambda: (T.BertForSequenceClassification(T.BertConfig(**TEXT, num_labels=3)), tokens(CLASSES)),
    "gpt2": lambda: (T.GPT2LMHeadModel(T.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2)), tokens()),
    "llama": lambda: (T.LlamaForCausalLM(T.LlamaConfig(**TEXT, num_key_value_heads=1)), tokens()),
    "gemma": lambda: (T.GemmaForCausalLM(T.GemmaConfig(**TEXT, num_key_value_heads=1, head_dim=8)), tokens()),
    "t5": lambda: (T.T5ForConditionalGeneration(T.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)), tokens()),
    "vit": lambda: (T.ViTForImageClassification(T.ViTConfig(**VISION)), images()),
    "swin": lambda: (T.SwinForImageClassification(T.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4, num_labels=3)), images()),
    "convnext": lambda: (T.ConvNextForImageClassification(T.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=3)), images()),
    "resnet": lambda: (T.ResNetForImageClassification(T.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)), images()),
    "wav2vec2": lambda: (T.Wav2Vec2ForCTC(T.Wav2Vec2Config(**SPEECH, vocab_size=12)), {"input_values": torch.randn(K, 1600), "labels": torch.randint(1, 10, (K, 2))}),
}  # fmt: skip


def randomised(model: nn.Module) -> nn.Module:
    """Away from zero biases and unit scales, at which wrong gradients can look right."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.05) if not p.abs().max() < 3 else p.add_(0.02 * torch.randn_like(p))
    return model.eval()


def loss_of(model):
    def loss(batch):
        with SampleMeanLoss(len(batch["labels"])):
            return model(**batch).loss

    return loss


def assert_same_rows(model, batch, slow=()):
    """Every row, Gram matrix and inner product that a visitor sees, against samples computed alone."""
    names = {p: name for name, p in model.named_parameters() if p.requires_grad and name not in slow}
    alone = [
        torch.stack(rows) / K for rows in zip(*per_sample_gradients(model, loss_of(model), batch, K, list(names)))
    ]
    alone = dict(zip(names, alone))
    floor, wrong, met = 1e-6 * max(rows.norm() for rows in alone.values()), {}, []

    def visit(rows):
        expected = alone[rows.parameter]
        met.append(rows.parameter)
        got = torch.stack([rows.weighted(one) for one in torch.eye(K)])
        flat = expected.reshape(K, -1).double()
        compared = [("rows", got, expected)]
        for exact in (False, True):
            gram, dots = rows.products(torch.ones_like(rows.parameter), exact)
            compared += [("K", gram, flat @ flat.T), ("b", dots, flat.sum(1))]
        for what, value, reference in compared:
            if not (value - reference).norm() <= 1e-3 * reference.norm() + floor:
                wrong[names[rows.parameter], what] = float((value - reference).norm() / reference.norm())

    engine = PerSampleEngine(model, [p for name, p in model.named_parameters() if name in slow])
    with engine.record(K):
        loss = loss_of(model)(batch)
    engine.backward(loss.backward, visit)
    assert not wrong
    assert len(met) == len(set(met))
    unseen = [names[p] for p in names if p not in set(met) and alone[p].norm() > floor]
    assert not unseen
    assert all(p.grad is None for p in model.parameters())  # the visitor returned nothing


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_of_every_parameter(name):
    model, batch = ARCHITECTURES[name]()
    model = randomised(model)
    slow = find_slow_parameters(model, loss_of(model), batch, K)
    assert set(slow) <= {n for n in dict(model.named_parameters()) if "relative_position_bias" in n}
    assert_same_rows(model, batch, slow)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    model = randomised(tiny_whisper(use_cache=False))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    assert_same_rows(model, collate(utterances(K)))


def test_frozen_parameters_and_adapters():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        tiny_whisper(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    assert_same_rows(model.eval(), collate(utterances(K)))


class Reused(nn.Module):
    """One weight as embedding, transposed, in two linear layers, and a part of it as a bias; and one parameter unused."""

    def __init__(self):
        super().__init__()
        self.weight, self.unused = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(3))
        self.scale = nn.Parameter(torch.randn(()))

    def forward(self, ids, labels):
        x = nn.functional.embedding(ids, self.weight) @ self.weight
        x = nn.functional.linear(torch.tanh(x), self.weight.T) * self.scale + self.weight[2]
        return T.modeling_outputs.SequenceClassifierOutput(loss=nn.functional.cross_entropy(x.mean(1), labels))


def test_reused_transposed_sliced_and_scalar_parameters():
    assert_same_rows(Reused(), {"ids": torch.randint(0, 6, (K, 5)), "labels": torch.arange(K)})


class Unruly(nn.Module):
    """Mixes the samples in one parameter's path only."""

    def __init__(self):
        super().__init__()
        self.good, self.bad = nn.Linear(4, 3), nn.Parameter(torch.randn(4))

    def forward(self, x, labels):
        stacked = torch.cat([x, self.bad.expand(1, 4)])[: len(x)]
        return T.modeling_outputs.SequenceClassifierOutput(
            loss=nn.functional.cross_entropy(self.good(stacked), labels)
        )


def test_what_has_no_rule_is_named():
    model, batch = Unruly(), {"x": torch.randn(K, 4), "labels": torch.arange(K) % 3}
    engine = PerSampleEngine(model)
    with pytest.raises(Unsupported) as problem, engine.record(K):
        loss_of(model)(batch)
    assert problem.value.parameters == (model.bad,)
    assert set(find_slow_parameters(model, loss_of(model), batch, K)) == {"bad"}


def test_the_check_finds_a_wrong_rule(monkeypatch):
    from hf_unlearn.per_sample import recorder, rules

    def wrong(k, B, input, weight, bias=None):
        return {
            "weight": lambda: rules.Product(B.roll(1, 0)[:, None], input[:, None]),
            "bias": lambda: rules.Dense(B.clone()),
        }

    monkeypatch.setitem(recorder.RULES, "linear", wrong)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x, labels):
            return T.modeling_outputs.SequenceClassifierOutput(
                loss=nn.functional.cross_entropy(self.linear(x), labels)
            )

    model = Model()
    batch = {"x": torch.randn(K, 4), "labels": torch.arange(K) % 3}
    assert set(find_slow_parameters(model, loss_of(model), batch, K)) == {"linear.weight"}
