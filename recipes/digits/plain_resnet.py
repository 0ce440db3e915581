"""Makes a plain nn.Module forget a digit: UnlearnTrainer takes any module that returns loss and
logits.

    python recipes/digits/plain_resnet.py --method orthograd --classes 3 8

The script trains a small ResNet with batch normalisation on scikit-learn's handwritten digits, and
unlearns each class separately with 256 retained images. It stops at the first step after which at
most 10 % of the forgotten training images are classified correctly, and prints the accuracies on
the retain set and on unseen images of the other classes.
"""

import argparse
import copy
import functools
import tempfile
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from hf_unlearn import UnlearnConfig, UnlearnTrainer

# The wanted accuracy on the forgotten training images, in percent.
TARGET = 10.0


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and a shortcut (He et al.,
    arXiv:1512.03385)."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Takes images (n, 1, 8, 8); returns loss and logits (n, 10), as Trainer expects of a model."""

    def __init__(self, width: int = 16, classes: int = 10):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict:
        logits = self.head(self.blocks(self.stem(pixel_values)).mean((2, 3)))
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def pretrain(model: ResNet, images: torch.Tensor, labels: torch.Tensor, epochs: int = 15) -> ResNet:
    """Trains the model with SGD, momentum and a cosine schedule."""
    steps = epochs * (len(images) // 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        model(images[chosen], labels[chosen])["loss"].backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def accuracy(model: ResNet, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The accuracy in percent."""
    with torch.no_grad():
        return 100 * (model.eval()(images)["logits"].argmax(1) == labels).double().mean().item()


class AccuracyCallback(TrainerCallback):
    """Records the accuracies after each step, and stops the run at the target."""

    def __init__(self, parts: dict[str, tuple[torch.Tensor, torch.Tensor]]):
        self.parts, self.rows = parts, []

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: ResNet,
        **_: Any,
    ) -> None:
        row = {name: accuracy(model, *part) for name, part in self.parts.items()}
        self.rows.append({"step": state.global_step, **row})
        control.should_training_stop |= row["forget"] <= TARGET


def as_samples(images: torch.Tensor, labels: torch.Tensor) -> list[dict]:
    return [{"pixel_values": image, "labels": label} for image, label in zip(images, labels)]


@functools.cache
def pretrained(seed: int) -> tuple[ResNet, list[torch.Tensor]]:
    """A model that is trained on all digits, and [train, test, train_labels, test_labels]."""
    set_seed(seed)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16 - 0.3
    halves = train_test_split(
        images, torch.tensor(labels), test_size=0.3, random_state=seed, stratify=labels
    )
    return pretrain(ResNet(), halves[0], halves[2]), halves


def forget_class(number: int, seed: int, retain_size: int, **config: Any) -> list[dict]:
    """Unlearns a class; returns the accuracies before the first and after each step."""
    model, (train, test, train_labels, test_labels) = copy.deepcopy(pretrained(seed))
    forgotten, unseen = train_labels == number, test_labels == number
    kept = torch.tensor(
        np.random.default_rng(seed).permutation(torch.where(~forgotten)[0].numpy())[:retain_size]
    )
    parts = {
        "forget": (train[forgotten], train_labels[forgotten]),
        "forget_test": (test[unseen], test_labels[unseen]),
        "retain": (train[kept], train_labels[kept]),
        "test": (test[~unseen], test_labels[~unseen]),
    }
    accuracies = AccuracyCallback(parts)
    before = {"step": 0, **{name: accuracy(model, *part) for name, part in parts.items()}}
    with tempfile.TemporaryDirectory() as folder:
        args = UnlearnConfig(
            output_dir=folder,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            lr_scheduler_type="constant",
            logging_strategy="no",
            **config,
        )
        UnlearnTrainer(
            model,
            args,
            forget_dataset=as_samples(*parts["forget"]),
            retain_dataset=as_samples(*parts["retain"]),
            callbacks=[accuracies],
        ).train()
    return [before, *accuracies.rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--retain_size", type=int, default=256)
    parser.add_argument("--method", default="orthograd")
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--granularity", default="parameter")
    parser.add_argument("--optim", default="adamw_torch")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--per_device_retain_batch_size", type=int, default=64)
    parser.add_argument("--per_device_train_batch_size", type=int, default=32)
    parser.add_argument("--max_steps", type=int, default=200)
    options = vars(parser.parse_args())
    classes, seeds, reached = options.pop("classes"), options.pop("seeds"), []
    for number in classes:
        for seed in seeds:
            before, *rows = forget_class(number, seed, **options)
            print(
                number,
                seed,
                " ".join(f"{name} {before[name]:.1f} -> {rows[-1][name]:.1f}" for name in before),
            )
            reached.append([rows[-1][name] for name in ("forget", "retain", "test")])
    forget, retain, test = np.mean(reached, axis=0)
    print(
        f"mean: forget {forget:.1f}  retain {retain:.1f}  test {test:.1f} (worst "
        f"{min(r[2] for r in reached):.1f})"
    )


if __name__ == "__main__":
    main()
