"""SpecAugment of audio that is shorter than one of its masks."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# The method of transformers' models of waveforms (wav2vec 2.0, HuBERT, WavLM, ...) that masks
# frames (k, T, features).
MASKING = "_mask_hidden_states"
# The classes of each model's modules that have this method. They do not keep the model in memory.
_masking_classes: WeakKeyDictionary[nn.Module, list[type]] = WeakKeyDictionary()


@contextlib.contextmanager
def time_masks_that_fit(model: nn.Module) -> Iterator[None]:
    """Within this context, SpecAugment masks no frames of a batch with fewer frames than one mask
    (`mask_time_length`), for which transformers raises an error.

    Such a sample gets no mask in a padded batch, either, if the batch has an attention mask.
    """
    # The classes are changed and not the model: a method bound to the model would use the model's
    # own weights in copies of it, too, such as those of DataParallel.
    if model not in _masking_classes:
        classes = {type(module) for module in model.modules()}
        _masking_classes[model] = [kind for kind in classes if hasattr(kind, MASKING)]
    before = {kind: getattr(kind, MASKING) for kind in _masking_classes[model]}
    for kind, mask in before.items():
        setattr(kind, MASKING, _where_it_fits(mask))
    try:
        yield
    finally:
        for kind, mask in before.items():
            setattr(kind, MASKING, mask)


def _where_it_fits(mask: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(mask)
    def mask_where_it_fits(
        self: nn.Module,
        hidden_states: Tensor,
        mask_time_indices: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        config, size = self.config, hidden_states.shape[:2]
        masks_frames = self.training and config.mask_time_prob > 0 and mask_time_indices is None
        if masks_frames and size[1] < config.mask_time_length:
            mask_time_indices = torch.zeros(size, dtype=torch.bool, device=hidden_states.device)
        return mask(self, hidden_states, mask_time_indices, **more)

    return mask_where_it_fits
