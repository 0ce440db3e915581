"""Words that a model writes without hearing anything, as targets beside silence."""

import copy

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

# Whisper's log-mel features of digital silence: (log10(1e-10) + 4) / 4.
SILENT_FEATURE = -1.5


class UnheardWords:
    """What a Whisper finds most likely at each position of a text if the audio is silent.

    A model that has only learned to end the text writes the words as soon as it may not end. These
    targets teach it to expect other words, those that anyone would guess from the text so far.

    Args:
        model: copied as it is now, before unlearning.
        share: of the positions that get such a target; the others get silence.
    """

    def __init__(self, model: WhisperForConditionalGeneration, share: float):
        self._share = share
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        # The encoder's output (1, frames, d) for silent audio, computed at first use.
        self._hidden: Tensor | None = None

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draws which positions of the labels (k, L) get such a target."""
        return (torch.rand(labels.shape, generator=generator) < self._share).to(labels.device)

    @torch.no_grad()
    def targets(self, labels: Tensor, decoder_input_ids: Tensor, special: Tensor) -> Tensor:
        """The most likely words (k, L), given the text before each position.

        Args:
            labels: (k, L) of the true texts. A true word is no target.
            decoder_input_ids: (k, L), the same texts moved right by one position.
            special: tokens that are no words, and so no targets. Time stamps are none either.
        """
        model = self._model.to(labels.device)
        if self._hidden is None:
            config, weight = model.config, next(model.parameters())
            # The encoder's two convolutions halve the number of frames.
            shape = (1, config.num_mel_bins, 2 * config.max_source_positions)
            self._hidden = model.get_encoder()(weight.new_full(shape, SILENT_FEATURE))[0]
        hidden = self._hidden.to(labels.device).expand(len(labels), -1, -1)
        logits = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits
        logits[..., special.to(logits.device)] = -torch.inf
        # Whisper's time stamps are its last tokens, after this one.
        stamps = getattr(model.generation_config, "no_timestamps_token_id", None)
        if stamps is not None:
            logits[..., stamps:] = -torch.inf
        logits.scatter_(-1, labels.clamp(min=0)[..., None], -torch.inf)
        return logits.argmax(-1)
