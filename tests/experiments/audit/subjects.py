"""Tiny models, data and subjects for the audit's tests, without a run."""

from types import SimpleNamespace

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_unlearn.data.speech import SpeechCollator
from hf_unlearn.evaluation import asr_metrics
from hf_unlearn.experiments.audit import DOORS, AuditSettings, Subject
from hf_unlearn.experiments.audit.examiner import examiner_of
from hf_unlearn.experiments.audit.run_audit import measure_door
from hf_unlearn.experiments.speech import tiny_ctc, tiny_whisper
from hf_unlearn.report.audit_ranking import deciding_doors

SETTINGS = AuditSettings(relearn_samples=8, relearn_steps=8, relearn_learning_rate=1e-2)
# What each of two speakers says; the first is forgotten.
TEXTS = {"a": ["red green", "blue", "go left", "stop now"], "b": ["up", "down", "in", "out"]}
LANGUAGES = ("<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>")


def audited(models: dict[str, nn.Module], recipe: SimpleNamespace, doors: tuple[str, ...]) -> dict:
    """The entries of some doors, and the doors that decide."""
    examiner = examiner_of(recipe, models["unlearned"], 100)
    subjects = {}
    for name, model in models.items():
        subjects[name] = Subject(name, model.eval(), examiner, recipe, SETTINGS, subjects=subjects)
    entries = {name: measure_door(DOORS[name], subjects) for name in doors}
    return {"doors": entries, **deciding_doors(entries)}


def recipe_of(task: str, splits: dict[str, Dataset], **more) -> SimpleNamespace:
    return SimpleNamespace(
        task=task,
        args=SimpleNamespace(per_device_eval_batch_size=8, seed=0, learning_rate=1e-3),
        splits=SimpleNamespace(evaluation=lambda limit: splits),
        evaluation_data=lambda model, rows: rows,
        tuning_data=lambda model, rows: rows,
        unseen_split="forget_test",
        **more,
    )


# ---- images --------------------------------------------------------------------------------------


def image_recipe(splits: dict[str, tuple[torch.Tensor, list[int]]]) -> SimpleNamespace:
    """A recipe of vectors with classes; the forgotten class is 0."""

    def collate(rows: list[dict]) -> dict:
        return {
            "x": torch.tensor(np.array([row["x"] for row in rows]), dtype=torch.float32),
            "labels": torch.tensor([row["label"] for row in rows]),
        }

    rows = {
        name: Dataset.from_dict(
            {
                "id": [f"{name}-{place}" for place in range(len(labels))],
                "class": list(map(str, labels)),
                "x": x.tolist(),
                "label": labels,
            }
        )
        for name, (x, labels) in splits.items()
    }
    return recipe_of(
        "classes",
        rows,
        data=SimpleNamespace(max_eval_samples=None),
        collator=lambda model: collate,
    )


class Classifier(nn.Module):
    def __init__(self, *sizes: int):
        super().__init__()
        layers = [nn.Linear(*pair) for pair in zip(sizes, sizes[1:])]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        logits = self.layers[-1](x)
        return {"logits": logits, "loss": nn.functional.cross_entropy(logits, labels)}


def fitted(model: nn.Module, batch: dict, steps: int, rate: float = 1e-2) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
    return model


# ---- speech --------------------------------------------------------------------------------------


def speech_recipe(monkeypatch) -> SimpleNamespace:
    """Utterances of three speakers as noise, each with words of its own. The forgotten speaker's
    unseen utterances are hardly different from the trained ones."""
    special = (*tiny_whisper.SPECIAL_TOKENS[:-1], *LANGUAGES, tiny_whisper.SPECIAL_TOKENS[-1])
    monkeypatch.setattr(tiny_whisper, "SPECIAL_TOKENS", special)
    tokenizer = tiny_whisper.build_word_tokenizer(sum(TEXTS.values(), []))
    tokenizer.set_prefix_tokens(language="en", task="transcribe")
    processor = tiny_whisper.build_processor(tokenizer, chunk_length=1)
    splits = utterances(tokenizer, (80, 100))

    def collator(model: nn.Module) -> SpeechCollator:
        return SpeechCollator(processor, model.config.decoder_start_token_id)

    return recipe_of(
        "speakers",
        splits,
        generates=True,
        options=SimpleNamespace(normalize="true"),
        data=SimpleNamespace(language="en", max_eval_samples=None),
        processor=processor,
        collator=collator,
        metrics=lambda: asr_metrics(processor, language="en"),
    )


def utterances(tokenizer: PreTrainedTokenizerBase, shape: tuple[int, int]) -> dict[str, Dataset]:
    """Noise of this shape, in which each speaker says texts of their own."""
    noise = torch.Generator().manual_seed(0)
    sounds = {name: torch.randn(4, *shape, generator=noise) for name in TEXTS}

    def rows(split: str, speaker: str, difference: float = 0.0) -> Dataset:
        heard = sounds[speaker] + difference * torch.randn(4, *shape, generator=noise)
        made = Dataset.from_dict(
            {
                "id": [f"{split}-{place}" for place in range(4)],
                "speaker": [speaker] * 4,
                "text": TEXTS[speaker],
                "labels": tokenizer(TEXTS[speaker]).input_ids,
                "duration": [1.0, 1.1, 1.2, 1.3],
                "input_features": heard.tolist(),
            }
        )
        return made.with_format("numpy", columns=["input_features"], output_all_columns=True)

    return {
        "forget": rows("forget", "a"),
        "forget_test": rows("forget_test", "a", 0.1),
        "retain": rows("retain", "b"),
        "test": rows("test", "b", 0.1),
    }


def ctc_recipe() -> SimpleNamespace:
    """The same utterances for a CTC recogniser of characters, 30 frames of filterbanks each."""
    processor = tiny_ctc.build_processor(
        tiny_ctc.build_character_tokenizer(sum(TEXTS.values(), []))
    )
    splits = {
        name: rows.add_column("attention_mask", [[1] * 30] * 4)
        for name, rows in utterances(processor.tokenizer, (30, 160)).items()
    }
    return recipe_of(
        "speakers",
        splits,
        generates=False,
        options=SimpleNamespace(normalize="none"),
        data=SimpleNamespace(language=None, max_eval_samples=None, transcripts="as_written"),
        processor=processor,
        collator=lambda model: SpeechCollator(processor),
        metrics=lambda: asr_metrics(processor, normalize="none", ctc=True),
    )


def new_whisper(recipe: SimpleNamespace) -> nn.Module:
    torch.manual_seed(0)
    return tiny_whisper.build_model(
        recipe.processor,
        d_model=32,
        layers=1,
        heads=2,
        init_std=0.1,
        max_target_positions=32,
        language="en",
        task="transcribe",
    )


def batch_of(
    recipe: SimpleNamespace,
    model: nn.Module,
    *parts: tuple[str, str],
    silent: tuple[str, str] | None = None,
) -> dict:
    """A batch of (split, language of the prompt); the part `silent` has no words."""
    collate = recipe.collator(model)
    ids, rows = recipe.processor.tokenizer.convert_tokens_to_ids, []
    for part in parts:
        split, language = part
        for row in recipe.splits.evaluation(None)[split]:
            start, _, *rest = row["labels"]
            rest = [*rest[:2], rest[-1]] if part == silent else rest
            rows.append({**row, "labels": [start, ids(f"<|{language}|>"), *rest]})
    return collate(rows)
