"""What the models of a speech run have in common: a configuration, a processor, and the style that
labels are written in."""

from typing import Any, NamedTuple

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from ...config import UnlearnConfig
from ...data.speech.speech_arguments import SpeechArguments
from ...data.speech.splits import SpeakerSplits
from ...trainer import whole_base_of
from ..loading import loading
from .label_source import LabelSource
from .label_style import LabelStyle
from .options import RecogniserArguments


class Prepared(NamedTuple):
    """The data of a run, ready for its models.

    Attributes:
        label_source: the model whose style the labels are written in.
        style: what wrote the labels.
        splits: with inputs and labels.
    """

    label_source: LabelSource
    style: LabelStyle
    splits: SpeakerSplits


class SpeechModels:
    """Loads the models of a run, and prepares its data for them. What differs between kinds of
    recognisers is in the subclasses.

    Args:
        data: the data's options.
        config: of the model that the run starts from; None for a new model.
        processor: of all models of the run.
    """

    def __init__(
        self,
        options: RecogniserArguments,
        data: SpeechArguments,
        config: PreTrainedConfig | None,
        processor: ProcessorMixin,
    ):
        self.options, self.data, self.config, self.processor = options, data, config, processor

    @staticmethod
    def load_processor(
        options: Any, data: SpeechArguments, config: PreTrainedConfig
    ) -> ProcessorMixin | None:
        """The processor of the model that the run starts from; None if it has yet to be made.

        Args:
            options: of the subclass's own class.

        Raises:
            ValueError: it cannot be loaded, or belongs to another kind of model.
        """
        raise NotImplementedError

    @staticmethod
    def new_processor(
        options: Any,
        data: SpeechArguments,
        config: PreTrainedConfig | None,
        splits: SpeakerSplits,
    ) -> ProcessorMixin:
        """A processor for a model that has none.

        Args:
            options: as for `load_processor`.
        """
        raise NotImplementedError

    def load(self, name: str | None) -> PreTrainedModel:
        """Loads model `name` (folder or Hub id); None builds a new one."""
        raise NotImplementedError

    def prepare(self, splits: SpeakerSplits, args: UnlearnConfig, training: bool) -> Prepared:
        """Gives the splits inputs and labels.

        Args:
            training: whether the run trains a model, which needs the inputs of all training
                utterances.
        """
        raise NotImplementedError


def load_config(start: str) -> PreTrainedConfig:
    """The configuration of a model or, for an adapter, of its base model.

    Raises:
        ValueError: it cannot be loaded.
    """
    with loading(start):
        # An adapter has no configuration: from_pretrained would give that of the largest Whisper.
        return AutoConfig.from_pretrained(whole_base_of(start))
