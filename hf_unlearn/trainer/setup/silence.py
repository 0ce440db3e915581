"""The forget objective "silence": the model should write nothing for the forget samples."""

import torch
from torch import Tensor, nn

from ...per_sample.adapted_models import base_model
from ...per_sample.inputs import IGNORE_INDEX
from ...per_sample.reference import UNPADDED, count_samples, select_samples


class Silence:
    """Gives batches the labels of silence.

    For a model with a decoder, the target at every position is the end of the text, given the true
    text up to there. Special tokens, which open and close the labels, stay as they are. For a CTC
    model it is the blank in every frame, that is, an empty transcript.

    Args:
        model: the model that is trained.
        processor: its processor or tokenizer, which knows the special tokens; None: only those that
            the model's configuration names.
    """

    def __init__(self, model: nn.Module, processor: object | None):
        self._model = base_model(model)
        self._is_ctc = is_ctc(self._model)
        self._special = torch.tensor(sorted(_special_tokens(self._model, processor)))

    def silent(self, batch: dict) -> dict:
        """The same samples with the labels of silence."""
        labels = batch["labels"]
        if self._is_ctc:
            return {**batch, "labels": torch.full_like(labels, IGNORE_INDEX)}
        stays = torch.isin(labels, self._special.to(labels.device)) | (labels == IGNORE_INDEX)
        silent = torch.where(stays, labels, end_token(self._model))
        return {**self.with_decoder_inputs(batch), "labels": silent}

    def with_decoder_inputs(self, batch: dict) -> dict:
        """The batch with the decoder's inputs, which the model would make of the labels itself."""
        if self._is_ctc or "decoder_input_ids" in batch:
            return batch
        make = getattr(self._model, "prepare_decoder_input_ids_from_labels", self._shift_right)
        return {**batch, "decoder_input_ids": make(batch["labels"])}

    def constrained(self, batch: dict, retained: int) -> dict:
        """The retain samples, then the silence of the others, then their own silence. A step that
        is orthogonal to their silence makes none of them more silent, to first order.

        Args:
            batch: `retained` retain samples, then samples of earlier requests.
        """
        k = count_samples(batch)
        retain_part = select_samples(self.with_decoder_inputs(batch), slice(0, retained), k)
        silent = self.silent(batch)
        others = select_samples(silent, slice(retained, k), k)
        parts = [retain_part, others, select_samples(silent, slice(0, retained), k)]
        return _concatenate(parts if k > retained else [retain_part, parts[2]])

    def _shift_right(self, labels: Tensor) -> Tensor:
        """Labels (k, L) moved right by one position, after the token that starts decoding."""
        config = self._model.config
        start = labels.new_full((len(labels), 1), config.decoder_start_token_id)
        shifted = torch.cat([start, labels[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == IGNORE_INDEX, config.pad_token_id)


def forget_objective(silence: Silence | None, batch: dict) -> tuple[dict, float]:
    """What a step raises on forget samples: the batch whose loss stands for it, and its sign.

    Args:
        silence: None for the objective "loss".
    """
    if silence is None:
        return batch, 1.0
    # Silence becomes more likely where the loss of its labels falls.
    return silence.silent(batch), -1.0


def end_token(model: nn.Module) -> int | None:
    """The token that ends a text; None if the model names none."""
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        token = getattr(config, "eos_token_id", None)
        if token is not None:
            return token[0] if isinstance(token, list) else token
    return None


def is_ctc(model: nn.Module) -> bool:
    """Whether a model is a CTC recogniser."""
    return type(model).__name__.endswith("ForCTC")


def _special_tokens(model: nn.Module, processor: object | None) -> set[int]:
    tokenizer = getattr(processor, "tokenizer", processor)
    tokens = set(getattr(tokenizer, "all_special_ids", ()))
    names = ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id")
    config = getattr(model, "config", None)
    named = [getattr(config, name, None) for name in names]
    return tokens | {token for token in named if isinstance(token, int)}


def _concatenate(batches: list[dict]) -> dict:
    """One batch of the samples of several, whose tensors differ in their first axis alone."""
    counts = [count_samples(batch) for batch in batches]
    joined = dict(batches[0])
    for name, value in batches[0].items():
        values = [batch[name] for batch in batches]
        if name == UNPADDED:
            joined[name] = {key: torch.cat([v[key] for v in values]) for key in value}
        elif isinstance(value, Tensor) and [len(v) for v in values if v.ndim] == counts:
            joined[name] = torch.cat(values)
    return joined
