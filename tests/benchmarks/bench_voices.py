"""Which parameters and which loss of a pretrained Whisper know a voice?

    python tests/benchmarks/bench_voices.py MODEL data/LibriSpeech test-other

For each speaker in turn, the forgetting gradient (the mean over the training utterances, 70 %) is
projected orthogonally to the gradients of all training utterances of the others. Along this
direction, to first order, the losses of utterances that the direction has not seen rise, too:
"own" is the mean rise of the same speaker's, "others" that of the others' unseen utterances (mean
absolute value), both as a share of the rise of the training utterances. A voice is forgotten where
"own" is large and "others" is small. "raw" is the same without the projection.

The loss is that of the model's own transcripts, with its logits divided by a temperature: 1 is the
usual loss. Takes about four minutes for a hundred utterances on one core. Appends to voices.csv.
"""

import csv
import datetime
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from hf_unlearn.data import load_speech
from hf_unlearn.data.speech.audio import SAMPLING_RATE, decode_audio
from hf_unlearn.experiments.speech.short_audio import take_short_audio

TABLE = Path(__file__).parent / "voices.csv"
# of each utterance, in place of 30; longer utterances are left out
SECONDS = 15
TEMPERATURES = (1.0, 3.0)
# {group: pattern of parameter names}
GROUPS = {
    "encoder.conv": r"encoder\.conv",
    **{f"encoder.layers.{i}": rf"encoder\.layers\.{i}\." for i in range(4)},
    "encoder": r"encoder\.(conv|layers|layer_norm)",
    "decoder.layers": r"decoder\.(layers|layer_norm)",
}
COLUMNS = ["model", "parameters", "temperature", "own_raw", "others_raw", "own", "others", "kept"]
COLUMNS += ["utterances", "speakers", "date"]


def read(source: str, split: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The utterances of at most SECONDS - 1 seconds, and their speakers."""
    rows = load_speech(source, split=split)
    audio = [decode_audio(row["audio"]) for row in rows]
    short = [i for i, one in enumerate(audio) if len(one) <= (SECONDS - 1) * SAMPLING_RATE]
    return [audio[i] for i in short], np.array(rows["speaker"])[short]


def parameters(model: WhisperForConditionalGeneration) -> dict[str, torch.nn.Parameter]:
    """The parameters of all groups; the others are frozen."""
    chosen = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(re.search(pattern, name) for pattern in GROUPS.values()))
        if parameter.requires_grad:
            chosen[name] = parameter
    return chosen


def gradients(
    model: WhisperForConditionalGeneration, features: Tensor, names: dict
) -> Iterator[list[Tensor]]:
    """The gradients of one utterance's loss, for each temperature."""
    options = {"max_new_tokens": 100, "return_dict_in_generate": True}
    with torch.no_grad():
        written = model.generate(input_features=features, **options).sequences[0].tolist()
    end = model.generation_config.eos_token_id
    tokens = torch.tensor([*(token for token in written if token != end), end])
    logits = model(input_features=features, decoder_input_ids=tokens[None, :-1]).logits[0]
    # The special tokens of the prompt are no text.
    text = tokens[1:] <= end
    for temperature in TEMPERATURES:
        loss = torch.nn.functional.cross_entropy(logits[text] / temperature, tokens[1:][text])
        yield torch.autograd.grad(loss, list(names.values()), retain_graph=True)


def gram_matrices(model, features: Tensor) -> dict[tuple[str, float], np.ndarray]:
    """The inner products (n, n) of all utterances' gradients, by group and temperature."""
    names = parameters(model)
    # in float16, each with its norm, since they fill gigabytes
    kept: dict[tuple[str, float], list[tuple[Tensor, float]]] = {}
    for one in features:
        for temperature, values in zip(TEMPERATURES, gradients(model, one[None], names)):
            for name, value in zip(names, values):
                norm = float(value.norm()) or 1.0
                stored = (value.flatten() / norm * 100).half(), norm / 100
                kept.setdefault((name, temperature), []).append(stored)
    products = {}
    for (name, temperature), stored in kept.items():
        matrix = torch.stack([value for value, _ in stored]).float()
        norms = torch.tensor([norm for _, norm in stored], dtype=torch.float64)
        product = (matrix @ matrix.T).double() * norms[:, None] * norms
        for group, pattern in GROUPS.items():
            if re.search(pattern, name):
                key = group, temperature
                products[key] = products.get(key, 0) + product.numpy()
    return products


def train_part(speakers: np.ndarray) -> np.ndarray:
    """Whether each utterance is a training utterance: 70 % of each speaker's, drawn at random."""
    generator, train = np.random.default_rng(0), np.zeros(len(speakers), bool)
    for speaker in sorted(set(speakers)):
        utterances = generator.permutation(np.flatnonzero(speakers == speaker))
        train[utterances[: round(0.7 * len(utterances))]] = True
    return train


def rises(gram: np.ndarray, speakers: np.ndarray, train: np.ndarray) -> list[float]:
    """own_raw, others_raw, own, others and the kept share of the gradient's length: means over the
    speakers."""
    rows = []
    for speaker in sorted(set(speakers)):
        mine = speakers == speaker
        forget, retain = np.flatnonzero(mine & train), np.flatnonzero(~mine & train)
        # The direction as weights of the utterances' gradients.
        raw = np.zeros(len(gram))
        raw[forget] = 1 / len(forget)
        projected = raw.copy()
        projected[retain] = -np.linalg.lstsq(
            gram[np.ix_(retain, retain)], gram[retain] @ raw, rcond=1e-10
        )[0]
        row = []
        for direction in (raw, projected):
            rise = gram @ direction / (gram[forget] @ direction).mean()
            row += [rise[mine & ~train].mean(), np.abs(rise[~mine & ~train]).mean()]
        kept = np.sqrt((projected @ gram @ projected) / (raw @ gram @ raw))
        rows.append([*row, kept])
    return np.mean(rows, axis=0).round(3).tolist()


def main(name: str, source: str, split: str) -> None:
    """Measures, prints a table, and appends its rows."""
    processor = WhisperProcessor.from_pretrained(name)
    model = WhisperForConditionalGeneration.from_pretrained(name).eval()
    take_short_audio(model)
    audio, speakers = read(source, split)
    extract = processor.feature_extractor
    length = {"max_length": SECONDS * SAMPLING_RATE, "return_tensors": "pt"}
    features = extract(audio, sampling_rate=SAMPLING_RATE, **length).input_features
    train = train_part(speakers)
    is_new = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(COLUMNS)
        for (group, temperature), gram in gram_matrices(model, features).items():
            row = [Path(name).name, group, temperature, *rises(gram, speakers, train)]
            print(*row)
            row += [len(audio), len(set(speakers)), datetime.date.today().isoformat()]
            writer.writerow(row)


if __name__ == "__main__":
    main(*sys.argv[1:])
