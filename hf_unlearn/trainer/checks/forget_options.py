"""Refuses `forget_objective`, `unheard_words`, `max_forget_loss` and `loss_temperature` where they
do not fit the method or the model."""

from torch import nn
from transformers import PreTrainedModel, WhisperForConditionalGeneration

from ...methods import Method, names_with
from ...methods.outputs import CLASSIFIERS
from ...models import base_model
from ..losses.silence import end_token, is_ctc
from ..losses.temperature import output_layer


def check_objective(objective: str, method: Method, model: nn.Module) -> None:
    """Raises ValueError where the forget objective cannot be used."""
    if objective == "loss":
        return
    if not method.ascends_forget_loss:
        raise ValueError(
            f"forget_objective='{objective}' replaces the forget loss, but this method does not "
            f"ascend one: use {_ascending_methods()}, or forget_objective='loss'"
        )
    model = base_model(model)
    name = type(model).__name__
    decodes = isinstance(model, PreTrainedModel) and model.config.is_encoder_decoder
    writes = decodes and not name.endswith(CLASSIFIERS) and end_token(model) is not None
    if not writes and not is_ctc(model):
        raise ValueError(
            f"forget_objective='{objective}' is for models that write a text from another input "
            f"(encoder-decoder and CTC models), but the model is a {name}: leave it at 'loss'"
        )


def check_unheard_words(share: float, objective: str, step_control: str, model: nn.Module) -> None:
    """Raises ValueError where `unheard_words` cannot be used."""
    if not share:
        return
    name = type(base_model(model)).__name__
    if name != WhisperForConditionalGeneration.__name__:
        raise ValueError(
            f"unheard_words is {share}, but the model is a {name}: only for a Whisper it is known "
            "what silent audio is; leave it at 0"
        )
    if objective != "silence" or step_control == "drift":
        raise ValueError(
            f"unheard_words is {share}, with forget_objective='{objective}' and "
            f"step_control='{step_control}': it needs 'silence', and steps that are not measured "
            "by the probability of the end alone ('none')"
        )


def check_limit(limit: float | None, objective: str, method: Method) -> None:
    """Raises ValueError where `max_forget_loss` has no meaning."""
    if limit is None:
        return
    if not method.ascends_forget_loss:
        raise ValueError(
            f"max_forget_loss is {limit}, but this method does not ascend the forget loss: use "
            f"{_ascending_methods()}, or leave it out"
        )
    if objective != "loss":
        raise ValueError(
            f"max_forget_loss is {limit}, but forget_objective='{objective}' raises no loss: leave "
            "one of them out"
        )


def check_temperature(model: nn.Module, temperature: float) -> None:
    """Raises ValueError where the temperature cannot be used with this model."""
    if temperature != 1 and output_layer(model) is None:
        raise ValueError(
            f"loss_temperature is {temperature}, but {type(base_model(model)).__name__} has no "
            "output embeddings (get_output_embeddings() is None), whose logits could be divided by "
            "it: leave it at 1"
        )


def _ascending_methods() -> str:
    *others, last = names_with("ascends_forget_loss")
    return f"{', '.join(others)} or {last}"
