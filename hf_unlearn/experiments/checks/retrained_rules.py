"""Arguments that depend on the retrained model's values: stopping rules such as
"forget_wer >= retrained", and max_forget_loss by `limit_at_retrained`."""

import copy
from collections.abc import Mapping

from ...config import UnlearnConfig
from ...trainer import RETRAINED, Rule
from ..options import RecipeArguments


def with_retrained_values(
    args: UnlearnConfig, options: RecipeArguments, retrained: Mapping[str, dict] | None
) -> UnlearnConfig:
    """A copy of the arguments with the retrained model's values in both stopping rules and, with
    `limit_at_retrained`, in max_forget_loss.

    Args:
        retrained: the retrained model's metrics by split; None without such a model, which
            `check_limit_at_retrained` refuses where it is needed.

    Raises:
        ValueError: as `fill_in_retrained`.
    """
    args = copy.copy(args)
    args.stop_when = fill_in_retrained(args.stop_when, retrained)
    args.abort_when = fill_in_retrained(args.abort_when, retrained)
    if options.limit_at_retrained:
        args.max_forget_loss = (retrained or {})["forget"]["loss"]
    return args


def with_assumed_values(args: UnlearnConfig, options: RecipeArguments) -> UnlearnConfig:
    """As `with_retrained_values`, with numbers in place of values that are not known yet, so that
    the arguments can be checked.

    Raises:
        ValueError: as `assume_retrained_value`.
    """
    args = copy.copy(args)
    args.stop_when = assume_retrained_value(args.stop_when, options.gold)
    args.abort_when = assume_retrained_value(args.abort_when, options.gold)
    if options.limit_at_retrained:
        args.max_forget_loss = 1.0
    return args


def assume_retrained_value(rule: str | None, gold: str) -> str | None:
    """A rule with 0 in place of `retrained`, to check the rule before that model's value is known.

    Raises:
        ValueError: the rule needs the retrained model, but `gold` is "none".
    """
    if not rule or Rule.parse(rule).value != RETRAINED:
        return rule
    if gold == "none":
        raise _no_retrained_model(rule)
    return str(Rule.parse(rule).with_value(0.0))


def fill_in_retrained(rule: str | None, retrained: Mapping[str, dict] | None) -> str | None:
    """A rule with the retrained model's value: "forget_wer >= retrained" -> "forget_wer >= 61.8",
    "forget_wer >= retrained - 1" -> "forget_wer >= 60.8".

    Args:
        retrained: the retrained model's metrics by split; None without such a model.

    Raises:
        ValueError: the rule needs the retrained model, and there is none, or it has no such
            metric.
    """
    if not rule or (parsed := Rule.parse(rule)).value != RETRAINED:
        return rule
    if retrained is None:
        raise _no_retrained_model(rule)
    measured = {
        f"{split}_{name}": value
        for split, values in retrained.items()
        for name, value in values.items()
    }
    if parsed.metric not in measured:
        raise ValueError(
            f"the rule {rule!r} names no metric of the retrained model, which are "
            f"{', '.join(measured)}"
        )
    return str(parsed.with_value(measured[parsed.metric]))


def check_limit_at_retrained(options: RecipeArguments, args: UnlearnConfig) -> None:
    """Raises ValueError where `limit_at_retrained` cannot be used."""
    if not options.limit_at_retrained:
        return
    if options.gold == "none":
        raise ValueError(
            "limit_at_retrained needs the retrained model: set gold to 'train', a folder or a Hub "
            "id, or give max_forget_loss as a number"
        )
    if args.max_forget_loss is not None:
        raise ValueError(
            f"limit_at_retrained sets max_forget_loss, which is {args.max_forget_loss} already: "
            "leave one of them out"
        )
    if args.loss_temperature != 1:
        raise ValueError(
            f"limit_at_retrained is the retrained model's plain loss, but the losses of steps have "
            f"loss_temperature {args.loss_temperature}: set it to 1, or give max_forget_loss"
        )


def _no_retrained_model(rule: str) -> ValueError:
    return ValueError(
        f"the rule {rule!r} needs the retrained model: set gold to 'train', a folder or a Hub id"
    )
