"""Refuses, when the trainer is constructed, evaluations that could not work: metrics that do not
fit the model's predictions, or a best model chosen by a metric that is not computed."""

from transformers import PreTrainedModel
from transformers.trainer_utils import IntervalStrategy

from ...metrics.described_metrics import description_of
from ...models import base_model
from ..protocol import EvaluationView


def check_evaluation(trainer: EvaluationView) -> None:
    """Checks that evaluation can compute the metrics that the arguments ask for.

    Raises:
        ValueError: it cannot.
    """
    _check_texts(trainer)
    _check_best_metric(trainer)


def known_metrics(trainer: EvaluationView) -> set[str] | None:
    """The metrics that evaluation will give for a split; None if that is unknown beforehand."""
    own_loop = type(trainer).evaluation_loop.__module__.split(".")[0] == __package__.split(".")[0]
    if trainer.compute_metrics is None and own_loop:
        return {"loss"}
    names = description_of(trainer.compute_metrics).metric_names
    return None if names is None else {"loss", *names}


def _check_texts(trainer: EvaluationView) -> None:
    """Refuses generated texts where there are none, and logits in place of generated texts."""
    args, model = trainer.args, base_model(trainer.model)
    if not isinstance(model, PreTrainedModel):
        return
    name = type(model).__name__
    if args.predict_with_generate and not model.can_generate():
        raise ValueError(
            f"predict_with_generate is True, but {name} cannot generate: set it to False"
        )
    needs_texts = description_of(trainer.compute_metrics).needs_texts
    reduced = trainer.preprocess_logits_for_metrics is not None or args.prediction_loss_only
    if needs_texts and model.can_generate() and not args.predict_with_generate and not reduced:
        raise ValueError(
            f"compute_metrics compares texts, but {name} would give it scores of tokens: set "
            "predict_with_generate to True"
        )


def _check_best_metric(trainer: EvaluationView) -> None:
    """Trainer looks for `metric_for_best_model` only after the first evaluation."""
    args, splits = trainer.args, trainer.eval_dataset
    wanted = args.metric_for_best_model
    if wanted is None or args.eval_strategy == IntervalStrategy.NO or splits is None:
        return
    named = wanted if wanted.startswith("eval_") else f"eval_{wanted}"
    metrics = known_metrics(trainer)
    prefixes = [f"eval_{split}_" for split in splits] if isinstance(splits, dict) else ["eval_"]
    fitting = [named.removeprefix(prefix) for prefix in prefixes if named.startswith(prefix)]
    if fitting and (metrics is None or metrics & set(fitting)):
        return
    names = [f"{prefix}{name}" for prefix in prefixes for name in sorted(metrics or {"loss"})]
    more = ", ..." if metrics is None else ""
    raise ValueError(
        f"metric_for_best_model is {wanted!r}, but evaluation will give {', '.join(names)}{more}: "
        "name one of these (load_best_model_at_end takes 'loss' if none is named)"
    )
