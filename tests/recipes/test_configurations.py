"""Each recipe's YAML files hold options that the recipe has. The command line wins over them."""

import pytest

from hf_unlearn import UnlearnConfig
from hf_unlearn.data.images import ImageArguments
from hf_unlearn.data.speech import SpeechArguments
from hf_unlearn.data.speech.speech_arguments import SpeechClassArguments
from hf_unlearn.experiments import parse
from hf_unlearn.experiments.audit.audited_run import FORGOTTEN
from hf_unlearn.experiments.images.options import ImageRecipeArguments
from hf_unlearn.experiments.speech.class_options import SpeechClassRecipeArguments
from hf_unlearn.experiments.speech.options import CtcArguments, WhisperArguments
from tests.recipes.configurations import RECIPES, configurations

OF_WHISPER = (WhisperArguments, SpeechArguments)
OF_IMAGES = (ImageRecipeArguments, ImageArguments)
# The options of each recipe and of its data.
KINDS = {
    "whisper_librispeech": OF_WHISPER,
    "demo": OF_WHISPER,
    "ctc_librispeech": (CtcArguments, SpeechArguments),
    "speech_classification": (SpeechClassRecipeArguments, SpeechClassArguments),
    "vit_cifar10": OF_IMAGES,
    "resnet_imagenet": OF_IMAGES,
    "digits": OF_IMAGES,
}


def test_the_table_has_every_recipe():
    assert set(KINDS) == {script.parent.name for script in RECIPES.glob("*/unlearn.py")}


@pytest.mark.parametrize(
    "config", configurations(*KINDS), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_configuration_is_understood(config):
    flags = ["--use_cpu", "true", "--alpha", "0.25", "--dataset_hint", ""]
    _, data, args = parse((*KINDS[config.parent.name], UnlearnConfig), [str(config), *flags])
    assert any(getattr(data, name, None) for name in FORGOTTEN)
    assert args.alpha == 0.25
