"""Methods for classification, compared with plain implementations of their formulas."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import default_collate
from transformers import WhisperConfig, WhisperForAudioClassification

from hf_unlearn.methods import METHODS
from hf_unlearn.methods.classification import find_head, inputs_of
from tests.support.tiny import collate_images, images, make_trainer, tiny_vit


def test_duck_moves_to_the_nearest_centroid_of_another_class(tmp_path):
    model, forget, retain = tiny_vit(), images(3), images(9, seed=2)
    trainer = make_trainer(
        model, tmp_path, forget=forget, retain=retain, collator=collate_images, method="duck"
    )
    original = copy.deepcopy(model).eval()

    def embed(data: list[dict]) -> torch.Tensor:
        """(k, d)"""
        return original.vit(collate_images(data)["pixel_values"]).last_hidden_state[:, 0]

    def distance(sample: dict) -> torch.Tensor:
        """Cosine distance to the nearest centroid of another class."""
        others = [means[c] for c in range(3) if c != sample["labels"]]
        return min(1 - F.cosine_similarity(embed([sample])[0], mean, 0) for mean in others)

    with torch.no_grad():
        means = [embed([x for x in retain if x["labels"] == c]).mean(0) for c in range(3)]
        losses = [distance(sample) for sample in forget]
        expected = F.cross_entropy(
            original(**collate_images(retain)).logits / 2, collate_images(retain)["labels"]
        )
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["forget_loss"] == pytest.approx(float(sum(losses) / 3), rel=1e-4, abs=1e-6)
    assert row["retain_loss"] == pytest.approx(float(expected), rel=1e-4)


def test_duck_refuses_a_single_class(tmp_path):
    retain = images(4, classes=1)
    trainer = make_trainer(
        tiny_vit(),
        tmp_path,
        forget=images(2),
        retain=retain,
        collator=collate_images,
        method="duck",
    )
    with pytest.raises(ValueError, match="at least two classes"):
        trainer.train()


@pytest.mark.parametrize("name", ["duck", "boundary_shrink"])
def test_a_classifier_with_whispers_encoder(name, tmp_path):
    """Its configuration says that it has a decoder, but it predicts one class per sample."""
    config = WhisperConfig(
        num_mel_bins=8,
        max_source_positions=10,
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        classifier_proj_size=8,
        num_labels=3,
    )
    torch.manual_seed(0)
    rows = [{"input_features": torch.randn(8, 20), "labels": number % 3} for number in range(9)]
    forget, retain = rows[:3], rows[3:]
    model, method = WhisperForAudioClassification(config), METHODS[name]()
    original = copy.deepcopy(model).eval()
    trainer = make_trainer(
        model, tmp_path, forget=forget, retain=retain, collator=default_collate, method=method
    )
    trainer.train()
    row = trainer.state.log_history[0]
    if name == "duck":
        batch, loss, temperature = default_collate(retain), row["retain_loss"], method.temperature
        classes = batch["labels"]
    else:
        batch, loss, temperature = default_collate(forget), row["forget_loss"], 1
        classes = method.neighbour_classes(batch)
    with torch.no_grad():
        logits = original(input_features=batch["input_features"]).logits
    assert logits.shape == (len(classes), 3)
    expected = F.cross_entropy(logits / temperature, classes)
    assert loss == pytest.approx(float(expected), rel=1e-4)


def test_the_head_is_found_by_its_output():
    # As wide as the hidden layers, so that the width does not tell.
    model, batch = tiny_vit(classes=16).eval(), collate_images(images(2))
    head = find_head(model, lambda: model(**batch).logits)
    assert head is model.classifier
    with inputs_of(head) as inputs:
        logits = model(**batch).logits
    torch.testing.assert_close(head(inputs[0]), logits)


def test_boundary_shrink_takes_the_class_of_the_neighbour(tmp_path):
    """On a linear classifier, whose gradient with respect to x is known."""

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
    method = METHODS["boundary_shrink"](bound=0.3)
    forget = [{"x": row, "labels": label} for row, label in zip(x, labels)]
    make_trainer(
        model, tmp_path, forget=forget, retain=None, collator=default_collate, method=method
    ).train()
    teacher = method.teacher.layer
    got = method.neighbour_classes({"x": x, "labels": labels})
    error = torch.softmax(teacher(x), 1) - F.one_hot(labels, 3)
    step = 0.3 * float(x.max() - x.min()) * (error @ teacher.weight).sign()
    expected = teacher((x + step).clamp(x.min(), x.max())).argmax(1)
    assert torch.equal(got, expected) and (got != labels).float().mean() > 0.2
