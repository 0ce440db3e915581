"""Stacks the adapter of a run on the adapter that it started from, as one adapter of their base."""

import shutil
import tempfile
from pathlib import Path

from peft import LoraConfig, PeftConfig, PeftModel
from transformers.utils import ADAPTER_CONFIG_NAME, logging

from ...files import one_line
from ...report.weights import OF_ADAPTER
from ...trainer import base_of, load_merged
from ..options import RecipeArguments
from ..recipe import Recipe

logger = logging.get_logger(__name__)

EARLIER, NEW, BOTH = "earlier", "new", "default"


def check_stacking(options: RecipeArguments, output_dir: str) -> None:
    """Refuses `merge_adapter: false` where nothing can be stacked.

    Raises:
        ValueError: there is no new adapter, `model` is not a LoRA adapter, or one that cannot
            be stacked exactly, or the new adapter would replace it in its folder.
    """
    setting = "merge_adapter is false, which stacks a new adapter on that of `model`"
    if not options.lora_r:
        raise ValueError(f"{setting}, but lora_r is 0: set it to the rank of the new adapter")
    if base_of(options.model) is None:
        raise ValueError(f"{setting}, but {options.model!r} has none: leave merge_adapter out")
    if Path(options.model).is_dir() and Path(output_dir).resolve() == Path(options.model).resolve():
        raise ValueError(f"{setting}, but output_dir is the same folder: give another output_dir")
    config = PeftConfig.from_pretrained(options.model)
    plain = isinstance(config, LoraConfig) and not (config.use_dora or config.modules_to_save)
    if not plain or config.bias != "none":
        raise ValueError(
            f"{setting}, but that is exact only for plain LoRA (no DoRA, no modules_to_save, no "
            f"bias), which {options.model!r} is not: leave merge_adapter out"
        )


def stack_adapters(recipe: Recipe) -> None:
    """Replaces the adapter in output_dir, which belongs to the merged model, by one that belongs to
    the base of the earlier adapter and does the work of both. It loads with plain peft.

    The merged model, which the run has kept in output_dir to train on, is removed, unless
    checkpoints refer to it.

    Raises:
        ValueError: peft cannot combine the two adapters.
    """
    earlier, folder = recipe.options.model, Path(recipe.args.output_dir)
    trained_on = Path(PeftConfig.from_pretrained(folder).base_model_name_or_path)
    name = base_of(earlier)
    model = load_merged(recipe.load_model, name)
    model = PeftModel.from_pretrained(model, earlier, adapter_name=EARLIER)
    model.load_adapter(str(folder), NEW)
    try:
        # The new adapter comes first, because the sum gets the first one's configuration.
        model.add_weighted_adapter([NEW, EARLIER], [1.0, 1.0], BOTH, combination_type="cat")
    except ValueError as error:
        raise ValueError(
            f"peft cannot stack the new adapter on {earlier}: {one_line(error)}: leave "
            "merge_adapter out"
        ) from error
    model.peft_config[BOTH].base_model_name_or_path = name
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        model.save_pretrained(partial, selected_adapters=[BOTH])
        for file in [Path(partial) / ADAPTER_CONFIG_NAME, *_weights(Path(partial))]:
            shutil.move(file, folder / file.name)
    if trained_on.parent == folder and not any(folder.glob("checkpoint-*")):
        shutil.rmtree(trained_on, ignore_errors=True)
    logger.warning(f"Stacked the new adapter on {earlier}: both are one adapter of {name}.")


def _weights(folder: Path) -> list[Path]:
    return [path for pattern in OF_ADAPTER for path in folder.glob(pattern)]
