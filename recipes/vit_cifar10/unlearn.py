"""Makes a Vision Transformer forget classes or single images, and measures what is forgotten and
what is kept.

    accelerate launch recipes/vit_cifar10/unlearn.py recipes/vit_cifar10/class.yaml
    accelerate launch recipes/vit_cifar10/unlearn.py recipes/vit_cifar10/class.yaml \
        --dataset path/to/folder --image_column image --forget_classes cat --output_dir out/cat
    accelerate launch recipes/vit_cifar10/unlearn.py recipes/vit_cifar10/samples.yaml --forget_samples 0.1

`output_dir` then holds the unlearned model with its card, `results.json`, `report.html`,
`forgetting.png` and `misread.png`. `--help` lists all options: the recipe's (ImageRecipeArguments),
the data's (ImageArguments) and the trainer's (UnlearnConfig).
"""

from hf_unlearn.experiments import run_script
from hf_unlearn.experiments.images import main

if __name__ == "__main__":
    run_script(main, __file__)
