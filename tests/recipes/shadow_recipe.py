"""A recipe on images of noise, with shadow models."""

from pathlib import Path

from hf_unlearn import UnlearnConfig
from hf_unlearn.data.images import ImageArguments
from hf_unlearn.experiments.images.options import ImageRecipeArguments
from hf_unlearn.experiments.images.recipe import ImageRecipe


def shadow_recipe(
    images: Path,
    output: Path,
    method: str = "orthograd",
    seed: int = 0,
    forgotten: str = "cat",
    **options,
) -> ImageRecipe:
    """Trains for two steps unless `options` say otherwise, and unlearns in one."""
    options = {
        **{"model": "train", "gold": "train", "shadow_models": 4},
        **{"architecture": "resnet", "image_size": 8, "channels": 1, "d_model": 8, "layers": 1},
        **{"train_steps": 2, "train_batch_size": 20, "train_learning_rate": 1e-2},
        **options,
    }
    data = ImageArguments(
        str(images),
        train_split="train",
        test_split="test",
        forget_classes=[forgotten],
        retain_size=4,
    )
    args = UnlearnConfig(
        str(output),
        method=method,
        max_steps=1,
        seed=seed,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        check_steps=1,
        stop_when="forget_accuracy <= -1",
        save_strategy="no",
    )
    return ImageRecipe.load(ImageRecipeArguments(**options), data, args, training=True)
