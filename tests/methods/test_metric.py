"""The projection in the metric of the optimizer, against the formulas written out."""

import copy

import pytest
import torch
from transformers import TrainerCallback

from hf_unlearn.methods.metric import inverse_root_metric
from hf_unlearn.per_sample.reference import sample_gradient
from tests.methods.formulas import double, flat
from tests.support.tiny import (
    FORGET,
    RETAIN,
    collate,
    collate_images,
    images,
    make_trainer,
    tiny_vit,
    tiny_whisper,
)


@pytest.mark.parametrize("granularity", ["parameter", "model"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_step_in_the_metric_is_orthogonal_to_every_retain_gradient(
    tmp_path, granularity, amsgrad
):
    """<g_n, D^-1 u_perp> = 0 with AdamW's D before the third step, unlike <g_n, u_perp>."""
    model = tiny_whisper(encoder_layers=1, decoder_layers=1).double()
    forget, retain = double(FORGET), double(RETAIN)

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, optimizer, **kwargs):
            if state.global_step < 2:
                return
            optimizer = getattr(optimizer, "optimizer", optimizer)
            gradient = [p.grad.clone() for p in parameters]
            scales = [inverse_root_metric(optimizer, p).square() for p in parameters]
            name = "max_exp_avg_sq" if amsgrad else "exp_avg_sq"
            squares = [optimizer.state[p][name] for p in parameters]
            denominators = [(square / (1 - 0.999**2)).sqrt() + 1e-8 for square in squares]
            torch.testing.assert_close(flat(scales), 1 / flat(denominators))
            copied = copy.deepcopy(model).train()
            for sample in retain:
                trained = [p for p in copied.parameters() if p.requires_grad]
                g = sample_gradient(copied, copied(**collate([sample])).loss, trained)
                triples = list(zip(g, scales, gradient))
                groups = [triples] if granularity == "model" else [[one] for one in triples]
                for group in groups:
                    one, scale, u = map(flat, zip(*group))
                    size = (one * scale.sqrt()).norm() * (u * scale.sqrt()).norm()
                    self.metric.append(float((one * scale) @ u / size) if size > 0 else 0.0)
                    self.plain.append(float(one @ u / (one.norm() * u.norm())) if size > 0 else 0.0)

    look = Look()
    look.metric, look.plain = [], []
    trainer = make_trainer(
        model,
        tmp_path,
        forget=forget,
        retain=retain,
        method="orthograd_metric",
        alpha=0.0,
        granularity=granularity,
        max_steps=3,
        learning_rate=1e-3,
        arguments={"callbacks": [look]},
    )
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
            model,
            tmp_path,
            forget=images(4),
            retain=images(4, seed=2),
            collator=collate_images,
            method=method,
        ).train()
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models)))


def test_the_metric_of_other_optimizers_is_refused(tmp_path):
    trainer = make_trainer(
        tiny_vit(),
        tmp_path,
        forget=images(4),
        retain=images(4, seed=2),
        collator=collate_images,
        method="orthograd_metric",
        optimizer=False,
        optim="rmsprop",
    )
    with pytest.raises(ValueError, match="not of RMSprop"):
        trainer.train()
