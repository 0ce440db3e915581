"""A model's feature extractor: the inputs it produces, their types, and the longest and
shortest audio that a model accepts."""

import numpy as np
from datasets import Array2D, Features, List, Value
from transformers import (
    ASTFeatureExtractor,
    PreTrainedConfig,
    ProcessorMixin,
    SequenceFeatureExtractor,
    WhisperFeatureExtractor,
)

# of filterbanks: one frame every 10 ms
FRAMES_PER_SECOND = 100
# Kernel and stride of each convolution of Moonshine, which its configuration does not have.
MOONSHINE_LAYERS = ((127, 64), (7, 3), (3, 2))
# Waveforms of these lengths show which of an extractor's outputs grow with the audio.
PROBES = (0.5, 1.0)


def audio_extractor(
    processor: ProcessorMixin | SequenceFeatureExtractor,
) -> SequenceFeatureExtractor:
    """The feature extractor for audio of a processor, which may be one itself.

    Raises:
        ValueError: the processor has none.
    """
    extractor = processor
    if not isinstance(processor, SequenceFeatureExtractor):
        extractor = getattr(processor, "feature_extractor", None)
    if not isinstance(extractor, SequenceFeatureExtractor):
        raise ValueError(
            f"{type(processor).__name__} has no feature extractor for audio, but "
            f"{type(extractor).__name__}: give the processor or feature extractor of a speech model"
        )
    return extractor


def input_names(extractor: SequenceFeatureExtractor) -> list[str]:
    """The names of the model's inputs that an extractor makes; the first is that of the audio."""
    # Only its subclasses have them.
    return extractor.model_input_names  # type: ignore[attr-defined]


def longest_audio(
    extractor: SequenceFeatureExtractor, config: PreTrainedConfig | None = None
) -> float | None:
    """The longest audio, in seconds, that an extractor and a model take; None if there is no limit.

    Whisper's and AST's extractors silently cut longer audio. Speech2Text has as many positions
    as its configuration says.
    """
    if isinstance(extractor, WhisperFeatureExtractor):
        return extractor.chunk_length
    if isinstance(extractor, ASTFeatureExtractor):
        return extractor.max_length / FRAMES_PER_SECOND
    if config is not None and config.model_type == "speech_to_text":
        return config.max_source_positions / FRAMES_PER_SECOND
    return None


def shortest_audio(extractor: SequenceFeatureExtractor, config: PreTrainedConfig) -> float | None:
    """The shortest audio, in seconds, that gives the convolutions of a waveform model one frame;
    None for models of filterbanks."""
    if input_names(extractor)[0] != "input_values":
        return None
    encoder = getattr(config, "encoder", config)
    # SEW averages over frames.
    samples = getattr(encoder, "squeeze_factor", 1)
    layers = zip(getattr(encoder, "conv_kernel", ()), getattr(encoder, "conv_stride", ()))
    if config.model_type == "moonshine":
        layers = MOONSHINE_LAYERS
    for kernel, stride in reversed(list(layers)):
        samples = (samples - 1) * stride + kernel
    return samples / extractor.sampling_rate


def longest_label(config: PreTrainedConfig) -> int | None:
    """The most label tokens that a model's decoder takes; None if there is no limit, as for CTC."""
    if not config.is_encoder_decoder:
        return None
    names = ("max_target_positions", "max_text_positions", "max_position_embeddings")
    # The decoder may have a configuration of its own.
    limits = config.get_text_config(decoder=True).to_dict()
    return next((limits[name] for name in names if name in limits), None)


def extract(extractor: SequenceFeatureExtractor, waveform: np.ndarray) -> dict[str, np.ndarray]:
    """The model's inputs for one waveform (samples,), without an axis for the batch: input_features
    or input_values, and attention_mask if the extractor gives one.

    Raises:
        ValueError: an input is not finite, or the extractor cannot take the waveform.
    """
    try:
        outputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="np")
    except ValueError as error:
        # Filterbanks need a window of 25 ms.
        raise ValueError(
            f"{type(extractor).__name__} cannot take {len(waveform)} samples ({error})"
        ) from None
    inputs = {name: outputs[name][0] for name in input_names(extractor) if name in outputs}
    if not np.isfinite(inputs[input_names(extractor)[0]]).all():
        # Some extractors divide by the standard deviation, which is 0 for silence.
        raise ValueError(f"{type(extractor).__name__} makes NaN or infinite values of the audio")
    return inputs


def input_types(extractor: SequenceFeatureExtractor) -> Features:
    """The types of what `extract` returns, as columns.

    Raises:
        ValueError: the inputs are neither sequences (T,) nor tables (T, features) or of fixed size.
    """
    noise = np.random.default_rng(0).normal(scale=0.1, size=extractor.sampling_rate)
    short, long = (
        extract(extractor, noise[: int(seconds * extractor.sampling_rate)].astype(np.float32))
        for seconds in PROBES
    )
    return Features({name: _type(name, short[name], long[name]) for name in short})


def single_input(extractor: SequenceFeatureExtractor) -> bool:
    """Whether a batch needs only one input of each utterance. A mask over whole waveforms does not
    count, because `pad` of the extractor makes it."""
    types, name = input_types(extractor), input_names(extractor)[0]
    if len(types) == 1:
        return True
    return isinstance(types[name], List) and set(types) == {name, "attention_mask"}


def stored_types(types: Features, dtype: str) -> Features:
    """The types with floating-point numbers stored in `dtype`."""

    def stored(kind: List | Array2D) -> List | Array2D:
        is_list = isinstance(kind, List)
        if not (kind.feature.dtype if is_list else kind.dtype).startswith("float"):
            return kind
        return List(Value(dtype)) if is_list else Array2D(kind.shape, dtype)

    return Features({name: stored(kind) for name, kind in types.items()})


def as_types(inputs: dict[str, np.ndarray], types: Features) -> dict[str, np.ndarray]:
    """Inputs in the types in which they are stored."""
    kinds = {name: types[name] for name in inputs}
    return {
        name: inputs[name].astype(kind.feature.dtype if isinstance(kind, List) else kind.dtype)
        for name, kind in kinds.items()
    }


def _type(name: str, short: np.ndarray, long: np.ndarray) -> List | Array2D:
    dtype = str(short.dtype)
    if short.ndim == 1:
        return List(Value(dtype))
    if short.ndim == 2 and short.shape[1] == long.shape[1]:
        grows = len(short) != len(long)
        return Array2D((None if grows else len(short), short.shape[1]), dtype)
    raise ValueError(
        f"{name} of shape {short.shape} cannot be used: only (T,), (T, features) and inputs of a "
        "fixed size can. Give the feature extractor of another model"
    )
