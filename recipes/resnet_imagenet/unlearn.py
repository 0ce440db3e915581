"""Makes a ResNet, or any other image classifier on the Hub (timm's too), forget classes or single
images.

    hf-unlearn run recipes/resnet_imagenet/resnet18.yaml
    hf-unlearn run recipes/resnet_imagenet/resnet18.yaml \
        --model timm/resnet18.a1_in1k --forget_classes "goldfish, Carassius auratus"

Options and output are those of the recipe vit_cifar10.
"""

from hf_unlearn.experiments import run_script
from hf_unlearn.experiments.images.recipe import main

if __name__ == "__main__":
    run_script(main, __file__)
