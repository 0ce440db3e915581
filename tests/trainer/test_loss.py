"""Losses of users, by subclass or function, become means over samples: one step equals brute
force."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.loss.loss_utils import ForCausalLMLoss

from hf_unlearn import UnlearnTrainer
from tests.support.tiny import collate_images, images, make_trainer, tiny_vit
from tests.trainer.brute_force import in_float64, step_of_samples

WEIGHT = torch.tensor([1.0, 2.0, 10.0])


class WeightedLoss(UnlearnTrainer):
    """As in the documentation of transformers' Trainer."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits = outputs.get("logits")
        reduction = "sum" if num_items_in_batch is not None else "mean"
        loss_fct = nn.CrossEntropyLoss(weight=WEIGHT, reduction=reduction)
        loss = loss_fct(logits.view(-1, self.model.config.num_labels), labels.view(-1))
        if num_items_in_batch is not None:
            loss = loss / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


class LossWithoutCounts(UnlearnTrainer):
    """The same for versions without num_items_in_batch."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.CrossEntropyLoss(weight=WEIGHT)(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss


class SummedAndDivided(UnlearnTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = (
            F.cross_entropy(outputs.logits, inputs["labels"], reduction="sum") / num_items_in_batch
        )
        return (loss, outputs) if return_outputs else loss


class SummedOnly(UnlearnTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = 3 * F.cross_entropy(outputs.logits, inputs["labels"], reduction="sum")
        return (loss, outputs) if return_outputs else loss


class FocalLoss(UnlearnTrainer):
    """Not one of torch's losses, so its samples' parts are unknown."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        chosen = outputs.logits.softmax(-1).gather(1, inputs["labels"][:, None])
        loss = -((1 - chosen).square() * chosen.log()).mean()
        return (loss, outputs) if return_outputs else loss


def plain(outputs, labels, num_items_in_batch=None):
    return F.cross_entropy(outputs.logits, labels)


def several(outputs, labels, num_items_in_batch):
    """For samples with several labels."""
    loss = F.binary_cross_entropy_with_logits(
        outputs.logits, labels.float(), pos_weight=WEIGHT, reduction="sum"
    )
    return loss / num_items_in_batch


def cross_entropy(logits, labels):
    return F.cross_entropy(logits, labels)


def weighted(logits, labels):
    return WEIGHT[labels[0]].to(logits.dtype) * F.cross_entropy(logits, labels)


def focal(logits, labels):
    chosen = logits.softmax(-1)[0, labels[0]]
    return -((1 - chosen) ** 2) * chosen.log()


def of_several(logits, labels):
    options = {"pos_weight": WEIGHT.to(logits.dtype)}
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), **options)


def brute_force(model, loss_of_one, forget, retain, collator):
    """The mean of the forget samples' losses and the step, in float64."""
    model = copy.deepcopy(model).double()

    def loss_of(model, sample):
        batch = in_float64(collator([sample]))
        labels = batch.pop("labels")
        return loss_of_one(model(**batch).logits, labels)

    with torch.no_grad():
        losses = [float(loss_of(model, sample)) for sample in forget]
    return sum(losses) / len(losses), step_of_samples(model, loss_of, forget, retain, 0.3)


def check(
    tmp_path,
    model,
    loss_of_one,
    forget,
    retain,
    collator,
    trainer=UnlearnTrainer,
    slow=False,
    **arguments,
):
    """The losses of an evaluation and of the log, and the step, equal brute force."""
    start = copy.deepcopy(model)
    trainer = make_trainer(
        model,
        tmp_path,
        forget,
        retain,
        collator=collator,
        trainer=trainer,
        arguments={"eval_dataset": {"forget": forget}, **arguments},
        alpha=0.3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        per_device_eval_batch_size=3,
    )
    loss, expected = brute_force(start, loss_of_one, forget, retain, collator)
    assert trainer.evaluate()["eval_forget_loss"] == pytest.approx(loss, rel=1e-5)
    trainer.train()
    step = torch.cat(
        [(a - b).flatten() for a, b in zip(start.parameters(), model.parameters())]
    ).double()
    assert (step - expected).norm() <= 1e-4 * expected.norm() > 0
    logged = next(row for row in trainer.state.log_history if "forget_loss" in row)
    assert logged["forget_loss"] == pytest.approx(loss, rel=1e-5)
    assert trainer.training_run.checked_model.samples.engine_choice.one_by_one == slow


@pytest.mark.parametrize(
    "subclass, loss_of_one, slow",
    [
        (WeightedLoss, weighted, False),
        (LossWithoutCounts, weighted, False),
        (SummedAndDivided, cross_entropy, False),
        (SummedOnly, lambda logits, labels: 3 * F.cross_entropy(logits, labels), False),
        (FocalLoss, focal, True),
    ],
)
def test_a_subclass_overrides_compute_loss(tmp_path, subclass, loss_of_one, slow):
    forget, retain = images(4, seed=1), images(5, seed=2)
    check(tmp_path, tiny_vit(), loss_of_one, forget, retain, collate_images, subclass, slow)


def test_a_loss_function_of_classes(tmp_path):
    forget, retain = images(4, seed=1), images(5, seed=2)
    check(
        tmp_path, tiny_vit(), cross_entropy, forget, retain, collate_images, compute_loss_func=plain
    )


def test_a_loss_function_of_several_labels(tmp_path):
    forget, retain = (
        [{**s, "labels": torch.randint(2, (3,))} for s in images(n, seed=n)] for n in (4, 5)
    )
    check(
        tmp_path, tiny_vit(), of_several, forget, retain, collate_images, compute_loss_func=several
    )


VOCABULARY = 20


def text(length: int) -> dict:
    ids = torch.randint(VOCABULARY, (length,))
    return {"input_ids": ids, "labels": ids}


def padded(samples: list[dict]) -> dict:
    ids, labels = (
        nn.utils.rnn.pad_sequence(
            [s["input_ids"] for s in samples], batch_first=True, padding_value=value
        )
        for value in (0, -100)
    )
    return {"input_ids": ids, "labels": labels, "attention_mask": (labels >= 0).long()}


def test_a_loss_function_divides_by_the_number_of_tokens(tmp_path):
    """Each sample's own number of tokens, however long its neighbours are."""
    sizes = {"vocab_size": VOCABULARY, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2LMHeadModel(config)

    def tokens(outputs, labels, num_items_in_batch=None):
        return ForCausalLMLoss(
            outputs.logits, labels, VOCABULARY, num_items_in_batch=num_items_in_batch
        )

    def of_one(logits, labels):
        return F.cross_entropy(logits[0, :-1], labels[0, 1:])

    forget, retain = [text(n) for n in (3, 9, 5, 2)], [text(n) for n in (7, 2, 4)]
    check(tmp_path, model, of_one, forget, retain, padded, compute_loss_func=tokens)
