"""Which parameters hold what fine-tuning has learned of a speaker's utterances.

    python tests/benchmarks/bench_memorised.py ORIGINAL RETRAINED SPEAKER [BASE]

ORIGINAL and RETRAINED are the folders of the two models of a run of `tiny_en_deletion.yaml`, and
BASE is the model that was fine-tuned. The weights go along the straight line from ORIGINAL to
RETRAINED. The change of a loss along it is the integral of its gradient, to which each group of
parameters contributes its own part. Prints these parts for the speaker's training utterances and
unseen ones, by the midpoint rule.
"""

import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from hf_unlearn import UnlearnConfig
from hf_unlearn.data.speech.speech_arguments import SpeechArguments
from hf_unlearn.experiments.command_line import parse
from hf_unlearn.experiments.speech.options import WhisperArguments
from hf_unlearn.experiments.speech.whisper import WhisperRecipe

RECIPE = Path(__file__).parents[2] / "recipes/whisper_librispeech/tiny_en_deletion.yaml"
POINTS = 4


def group_of(name: str) -> str:
    """The group of a parameter: embeddings, the encoder's convolutions, or one layer."""
    parts = name.removeprefix("model.").split(".")
    return ".".join(parts[:3] if parts[1] == "layers" else parts[:2])


def contributions(
    model: nn.Module, end: nn.Module, loss_of: dict[str, Callable[[], Tensor]]
) -> dict[str, dict[str, float]]:
    """{group: {split: change of the loss}} along the line from `model` to `end`."""
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    change = {name: p.detach() - start[name] for name, p in end.named_parameters()}
    parts = defaultdict(lambda: defaultdict(float))
    for point in range(POINTS):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(start[name] + change[name] * (point + 0.5) / POINTS)
        for split, loss in loss_of.items():
            model.zero_grad()
            loss().backward()
            for name, p in model.named_parameters():
                if p.grad is not None:
                    part = float((p.grad * change[name]).sum()) / POINTS
                    parts[group_of(name)][split] += part
    return parts


def main(original: str, retrained: str, speaker: str, base: str = "openai/whisper-tiny.en") -> None:
    settings = {"model": original, "gold": retrained, "forget_speakers": speaker}
    settings |= {"output_dir": "out/memorised", "labels_from": base}
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    arguments = parse((WhisperArguments, SpeechArguments, UnlearnConfig), [str(RECIPE), *options])
    recipe = WhisperRecipe.load(*arguments, training=False)
    model, end = recipe.load_model(original).eval(), recipe.load_model(retrained)
    trainer = recipe.evaluation_trainer(model)
    collate = recipe.collator(model)

    def loss(rows: list[dict]) -> Tensor:
        return trainer.mean_loss(model, trainer._prepare_inputs(collate(rows)))

    splits = recipe.splits.evaluation()
    rows = {
        name: list(recipe.tuning_data(model, splits[name])) for name in ("forget", "forget_test")
    }
    loss_of = {name: lambda some=some: loss(some) for name, some in rows.items()}
    groups = contributions(model, end, loss_of)
    for group, parts in sorted(groups.items(), key=lambda item: -item[1]["forget"]):
        print(f"{group:24}", *(f"{name} {value:+.4f}" for name, value in parts.items()))
    for name in rows:
        print(f"{name}: {sum(parts[name] for parts in groups.values()):+.4f} together")


if __name__ == "__main__":
    main(*sys.argv[1:])
