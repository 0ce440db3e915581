"""The forget objective "silence": the model should write nothing for the forget samples."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models import IGNORE_INDEX, base_model
from ...per_sample.reference import UNPADDED, count_samples, select_samples
from .unheard_words import UnheardWords

# Where a batch holds which positions get an unheard word as their target.
UNHEARD = "unheard_words"
# The share of samples that get another text with `silence_texts: mixed`.
EXCHANGED = 0.5


class Silence:
    """Gives batches the labels of silence.

    For a model with a decoder, the target at every position is the end of the text, given the true
    text up to there, or, at a share of the positions, a word that nothing was heard of
    (`UnheardWords`). Special tokens, which open and close the labels, stay as they are. For a CTC
    model it is the blank in every frame, that is, an empty transcript.

    Args:
        model: the model that is trained.
        processor: its processor or tokenizer, which knows the special tokens; None: only those that
            the model's configuration names.
        mixes_texts: whether `with_texts_of` exchanges texts.
        unheard_words: the share of positions whose target is what the model, as it is now, would
            write there without hearing anything.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: object | None,
        mixes_texts: bool = False,
        unheard_words: float = 0,
    ):
        self._model = base_model(model)
        self._is_ctc = is_ctc(self._model)
        # An empty transcript in every frame has no text before it.
        self.mixes_texts = mixes_texts and not self._is_ctc
        self._special = torch.tensor(sorted(_special_tokens(self._model, processor)))
        self._unheard = UnheardWords(self._model, unheard_words) if unheard_words else None

    def silent(self, batch: dict) -> dict:
        """The same samples with the labels of silence."""
        labels = batch["labels"]
        if self._is_ctc:
            return {**batch, "labels": torch.full_like(labels, IGNORE_INDEX)}
        stays = torch.isin(labels, self._special.to(labels.device)) | (labels == IGNORE_INDEX)
        batch = dict(self.with_decoder_inputs(batch))
        targets = torch.full_like(labels, end_token(self._model))
        drawn = batch.pop(UNHEARD, None)
        if self._unheard is not None and drawn is not None:
            drawn = F.pad(drawn, (0, labels.shape[1] - drawn.shape[1]))
            words = self._unheard.targets(labels, batch["decoder_input_ids"], self._special)
            targets = torch.where(drawn, words, targets)
        return {**batch, "labels": torch.where(stays, labels, targets)}

    def with_targets_drawn(self, batch: dict, generator: torch.Generator) -> dict:
        """The batch with a draw of the positions at which `silent` gives it unheard words; the
        batch itself if there are none."""
        if self._unheard is None:
            return batch
        return {**batch, UNHEARD: self._unheard.draw(batch["labels"], generator)}

    def with_texts_of(self, batch: dict, other: dict, generator: torch.Generator) -> dict:
        """The batch in which about half of the samples have the text of a sample of `other`, drawn
        at random, in place of their own; the batch itself if texts are not mixed.

        Forget samples get texts of retain samples, and the other way round. Otherwise the model
        could tell from the text up to a position, and not from the voice, when to be silent.

        Raises:
            ValueError: the batch holds decoder inputs, which belong to its own texts.
        """
        if not self.mixes_texts:
            return batch
        if made := {"decoder_input_ids", "decoder_attention_mask"} & set(batch):
            raise ValueError(
                "silence_texts='mixed' exchanges labels, but the collator also gives "
                f"{' and '.join(sorted(made))}, which belong to the old ones: leave them to the "
                "model, or set silence_texts to 'own'"
            )
        labels, others = batch["labels"], other["labels"]
        length = max(labels.shape[1], others.shape[1])
        labels, others = (_lengthened(each, length) for each in (labels, others))
        drawn = torch.randint(len(others), (len(labels),), generator=generator).to(labels.device)
        exchanged = torch.rand(len(labels), generator=generator).to(labels.device) < EXCHANGED
        return {**batch, "labels": torch.where(exchanged[:, None], others[drawn], labels)}

    def with_decoder_inputs(self, batch: dict) -> dict:
        """The batch with the decoder's inputs, which the model would make of the labels itself."""
        if self._is_ctc or "decoder_input_ids" in batch:
            return batch
        make = getattr(self._model, "prepare_decoder_input_ids_from_labels", self._shift_right)
        return {**batch, "decoder_input_ids": make(batch["labels"])}

    def constrained(self, batch: dict, silenced: dict, retained: int) -> dict:
        """The retain samples, then the silence of the others, then their own silence. A step that
        is orthogonal to their silence makes none of them more silent, to first order.

        Args:
            batch: `retained` retain samples, then samples of earlier requests.
            silenced: the same samples with the texts that their silence is of.
        """
        k = count_samples(batch)
        length = max(each["labels"].shape[-1] for each in (batch, silenced))
        batch, silenced = (
            {**each, "labels": _lengthened(each["labels"], length)} for each in (batch, silenced)
        )
        retain_part = select_samples(self.with_decoder_inputs(batch), slice(0, retained), k)
        silent = self.silent(silenced)
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


def _lengthened(labels: Tensor, length: int) -> Tensor:
    """Labels (k, L) with padding up to `length`."""
    return F.pad(labels, (0, length - labels.shape[1]), value=IGNORE_INDEX)


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
