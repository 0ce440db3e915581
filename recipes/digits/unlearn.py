"""Trains a small Vision Transformer on real handwritten digits, and makes it forget one digit.
Offline, on a CPU.

    make demo-digits
    hf-unlearn run recipes/digits/digits.yaml --forget_classes 3 --output_dir out/three

Everything but the data is the recipe vit_cifar10, with all its options.
"""

from digits import write_digits

from hf_unlearn.experiments import run_script
from hf_unlearn.experiments.images.recipe import main as unlearn


def main(argv: list[str]) -> None:
    # The images are always the same, so those of an earlier run are used.
    unlearn(argv, write_digits)


if __name__ == "__main__":
    run_script(main, __file__)
