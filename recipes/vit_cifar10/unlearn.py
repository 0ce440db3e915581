"""Makes a Vision Transformer forget classes or single images, and measures what is forgotten and
what is kept.

    hf-unlearn run recipes/vit_cifar10/class.yaml
    hf-unlearn run recipes/vit_cifar10/class.yaml \
        --dataset path/to/folder --image_column image --forget_classes cat --output_dir out/cat
    hf-unlearn run recipes/vit_cifar10/samples.yaml --forget_samples 0.1

`output_dir` then holds the unlearned model with its card, `results.json`, `report.html`,
`forgetting.png` and `misread.png`. `--help` lists all options: those of the recipe
(ImageRecipeArguments), the data (ImageArguments) and the trainer (UnlearnConfig). Across several
GPUs: `accelerate launch recipes/vit_cifar10/unlearn.py recipes/vit_cifar10/class.yaml`.
"""

from hf_unlearn.experiments import run_script
from hf_unlearn.experiments.images.recipe import main

if __name__ == "__main__":
    run_script(main, __file__)
