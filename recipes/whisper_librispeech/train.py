"""Trains the original model of an unlearning run, or its retrained reference, with the plain Seq2SeqTrainer.

    accelerate launch recipes/whisper_librispeech/train.py recipes/whisper_librispeech/fsdd_digits.yaml
    ... --without_forget true      # the reference: it never hears the forgotten speakers

They go to `original` and `retrained` in `output_dir`, load with plain `from_pretrained`, and work in
`pipeline("automatic-speech-recognition", ...)`. `unlearn.py` does the same by itself for `model: train` and
`gold: train`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from arguments import RecipeArguments, parse, run
from datasets import concatenate_datasets
from tiny_whisper import build_model, build_processor, build_word_tokenizer
from torch.utils.data import Dataset
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainingArguments,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
    set_seed,
)

from hf_unlearn import UnlearnConfig
from hf_unlearn.data.speech import SpeechArguments, SpeechCollator
from hf_unlearn.data.splits import SpeakerSplits, load_splits, prepare_splits

FRAMES_PER_SECOND = 100  # of Whisper's mel spectrogram


@dataclass
class ReferenceArguments:
    """What `train.py` takes beside the options of the recipe."""

    without_forget: bool = field(
        default=False, metadata={"help": "Train without the forgotten speakers: the retrained reference."}
    )


class Augmented(Dataset):
    """Prepared rows, made different each time so that a model that sees few sentences learns to listen.

    A few hundred sentences are soon known by heart: two words recall the rest, and the audio is not needed.
    `hidden` is the share of the decoder's input words that are hidden (the end token in their place), `shift` the
    number of frames by which the utterance starts later, at most.
    """

    def __init__(self, rows, processor: WhisperProcessor, model_config, hidden: float, shift: int):
        self.rows, self.model_config, self.hidden, self.shift = rows, model_config, hidden, shift
        self.special = torch.tensor(processor.tokenizer.all_special_ids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        return {**row, "input_features": self._shifted(row), "decoder_input_ids": self._partly_hidden(row["labels"])}

    def _shifted(self, row: dict) -> np.ndarray:
        features = np.asarray(row["input_features"])
        silent = features.shape[1] - int(np.ceil(row["duration"] * FRAMES_PER_SECOND))
        shift = int(torch.randint(min(self.shift, max(silent, 0)) + 1, ()))
        return np.roll(features, shift, axis=1)

    def _partly_hidden(self, labels: list[int]) -> torch.Tensor:
        """What the decoder reads while it is to say `labels`."""
        start = self.model_config.decoder_start_token_id
        inputs = torch.tensor([start, *(labels[1:] if labels[0] == start else labels)[:-1]])
        words = ~torch.isin(inputs, self.special)
        return inputs.masked_fill(words & (torch.rand(inputs.shape) < self.hidden), self.model_config.eos_token_id)


def augmented(rows, recipe: RecipeArguments, processor: WhisperProcessor, model_config) -> Augmented:
    return Augmented(
        rows, processor, model_config, recipe.train_hidden_words, round(recipe.train_shift * FRAMES_PER_SECOND)
    )


def load_processor(name: str | None, recipe: RecipeArguments, splits: SpeakerSplits) -> WhisperProcessor:
    """Loads the processor of model `name`, or builds the one of a new model (None) for these transcripts."""
    if name is not None:
        return WhisperProcessor.from_pretrained(name)
    if recipe.tokenizer is not None:
        return build_processor(WhisperTokenizer.from_pretrained(recipe.tokenizer), recipe.chunk_length)
    # The forgotten speakers' words are in it for the retrained reference too: both models have the same tokens.
    return build_processor(
        build_word_tokenizer([*splits.forget["text"], *splits.retain_pool["text"]]), recipe.chunk_length
    )


def load_model(
    name: str | None, recipe: RecipeArguments, data: SpeechArguments, processor: WhisperProcessor, seed: int
) -> WhisperForConditionalGeneration:
    """Loads model `name`, or builds a new one (None); `generate` then prompts with the language and task of `data`."""
    if name is None:
        set_seed(seed)
        return build_model(
            processor,
            d_model=recipe.d_model,
            layers=recipe.layers,
            heads=recipe.heads,
            init_std=recipe.init_std,
            max_target_positions=recipe.max_target_positions,
            language=data.language,
            task=data.task,
        )
    model = WhisperForConditionalGeneration.from_pretrained(name)
    if data.language is not None:
        model.generation_config.update(language=data.language, task=data.task)
    return model


def train(
    model: WhisperForConditionalGeneration,
    recipe: RecipeArguments,
    splits: SpeakerSplits,
    processor: WhisperProcessor,
    args: TrainingArguments,
    output_dir: str | Path,
    *,
    without_forget: bool,
) -> None:
    """Trains `model` on `forget` and `retain_pool` (`without_forget`: on the latter alone), and saves it.

    Args:
        splits: as `prepare_splits` makes them.
        args: of the run: its seed, precision, device and progress bars are taken, and nothing else.
    """
    parts = [splits.retain_pool] if without_forget else [splits.forget, splits.retain_pool]
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(output_dir),
            max_steps=recipe.train_steps,
            per_device_train_batch_size=recipe.train_batch_size,
            learning_rate=recipe.train_learning_rate,
            warmup_steps=round(recipe.train_warmup * recipe.train_steps),
            weight_decay=0.05,
            adam_beta2=0.98,
            logging_steps=max(1, recipe.train_steps // 10),
            save_strategy="no",
            seed=args.seed,
            bf16=args.bf16,
            fp16=args.fp16,
            use_cpu=args.use_cpu,
            disable_tqdm=args.disable_tqdm,
            dataloader_num_workers=args.dataloader_num_workers,
        ),
        train_dataset=augmented(concatenate_datasets(parts), recipe, processor, model.config),
        data_collator=SpeechCollator(processor, model.config.decoder_start_token_id),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()  # one process writes, all may read


def main(argv: list[str]) -> None:
    kinds = (RecipeArguments, SpeechArguments, UnlearnConfig, ReferenceArguments)
    recipe, data, args, reference = parse(kinds, argv)
    with args.main_process_first(desc="loading the data"):
        splits = load_splits(data, args.seed)
    processor = load_processor(recipe.base_model, recipe, splits)
    model = load_model(recipe.base_model, recipe, data, processor, args.seed)
    with args.main_process_first(desc="features"):  # the others find them in the cache
        splits = prepare_splits(splits, processor, data, max_label_length=model.config.max_target_positions)
    output_dir = Path(args.output_dir) / ("retrained" if reference.without_forget else "original")
    train(model, recipe, splits, processor, args, output_dir, without_forget=reference.without_forget)


if __name__ == "__main__":
    run(main)
