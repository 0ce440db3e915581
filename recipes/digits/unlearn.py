"""Trains a small Vision Transformer on real handwritten digits, and makes it forget one digit.
Offline, on a CPU.

    make demo-digits
    hf-unlearn run recipes/digits/digits.yaml --forget_classes 3 --output_dir out/three

Everything but the data is the recipe vit_cifar10, with all its options.
"""

from pathlib import Path

from digits import write_digits

from hf_unlearn import UnlearnConfig
from hf_unlearn.data.images import ImageArguments
from hf_unlearn.experiments import parse, run_script
from hf_unlearn.experiments.images.options import ImageRecipeArguments
from hf_unlearn.experiments.images.recipe import main as unlearn
from hf_unlearn.experiments.waiting import main_process_first


def main(argv: list[str]) -> None:
    _, data, args = parse((ImageRecipeArguments, ImageArguments, UnlearnConfig), argv)
    with main_process_first(args):
        # The images are always the same, so those of an earlier run are used.
        if not Path(data.dataset).exists():
            write_digits(data.dataset)
    unlearn(argv)


if __name__ == "__main__":
    run_script(main, __file__)
