"""A CTC recogniser is trained by a script in the manner of transformers' example
(run_speech_recognition_ctc.py) with the class name changed."""

from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCTC,
    AutoProcessor,
    HfArgumentParser,
    ProcessorMixin,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from hf_unlearn import UnlearnConfig, UnlearnTrainer
from tests.support.tiny_speech import letter_tokenizer, waveform_sizes

TEXTS = ["hello", "see", "book hello"]
FLAGS = (
    "--do_train --do_eval --max_steps 3 --per_device_train_batch_size 3 "
    "--per_device_retain_batch_size 3 --per_device_eval_batch_size 1 --learning_rate 0.05 "
    "--optim sgd --alpha 0 --lr_scheduler_type constant --eval_strategy steps --eval_steps 2 "
    "--save_steps 2 --save_total_limit 1 --train_sampling_strategy group_by_length "
    "--length_column_name input_length --gradient_checkpointing --use_cpu --report_to none "
    "--disable_tqdm True"
)


@dataclass
class DataCollatorCTCWithPadding:
    """As in the script."""

    processor: ProcessorMixin
    padding: str = "longest"
    feature_extractor_input_name: str = "input_values"

    def __call__(self, features: list[dict]) -> dict[str, torch.Tensor]:
        name = self.feature_extractor_input_name
        inputs = [{name: feature[name]} for feature in features]
        labels = [{"input_ids": feature["labels"]} for feature in features]
        batch = self.processor.pad(inputs, padding=self.padding, return_tensors="pt")
        labels = self.processor.pad(labels=labels, padding=self.padding, return_tensors="pt")
        batch["labels"] = labels["input_ids"].masked_fill(labels.attention_mask.ne(1), -100)
        batch["attention_mask"] = batch["attention_mask"].to(torch.long)
        return batch


@pytest.fixture
def processor(tmp_path) -> Wav2Vec2Processor:
    tokenizer = letter_tokenizer(tmp_path, "<pad>", "<s>", "</s>", "<unk>", "|", *"ehlosbk")
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer)


def vectorized(processor: ProcessorMixin, seed: int, count: int) -> Dataset:
    """Rows as the script's prepare_dataset makes them, of noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        audio = rng.normal(size=int(rng.integers(2400, 4000))).astype(np.float32)
        values = processor.feature_extractor(audio, sampling_rate=16_000).input_values[0]
        labels = processor.tokenizer(TEXTS[number % 3]).input_ids
        rows.append({"input_values": values, "input_length": len(values), "labels": labels})
    return Dataset.from_list(rows)


def train_as_the_stock_script(processor: ProcessorMixin, out: Path) -> tuple[dict, dict]:
    """Trains, saves and evaluates. Returns the metrics of the forget samples before and of the
    evaluation after, with the forget samples' new loss."""
    tokenizer = processor.tokenizer
    (args,) = HfArgumentParser(UnlearnConfig).parse_args_into_dataclasses(
        ["--output_dir", str(out), *FLAGS.split()]
    )
    sizes = waveform_sizes(feat_extract_norm="layer", do_stable_layer_norm=True)
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(**sizes | {"vocab_size": len(tokenizer), "ctc_loss_reduction": "mean"})
    )
    model.freeze_feature_encoder()

    def compute_metrics(predicted) -> dict[str, float]:
        predicted.label_ids[predicted.label_ids == -100] = tokenizer.pad_token_id
        heard = tokenizer.batch_decode(predicted.predictions[0])
        said = tokenizer.batch_decode(predicted.label_ids, group_tokens=False)
        return {"wer": jiwer.wer(said, heard)}

    forget = vectorized(processor, 0, 3)
    processor.save_pretrained(out)
    trainer = UnlearnTrainer(
        model=model,
        data_collator=DataCollatorCTCWithPadding(processor),
        args=args,
        compute_metrics=compute_metrics,
        train_dataset=forget,
        retain_dataset=vectorized(processor, 1, 6),
        eval_dataset=vectorized(processor, 2, 4),
        processing_class=processor,
        preprocess_logits_for_metrics=lambda logits, labels: (logits.argmax(-1), labels),
    )
    before = trainer.evaluate(forget)
    result = trainer.train()
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    after = trainer.evaluate()
    trainer.save_metrics("eval", after)
    trainer.create_model_card(
        finetuned_from="facebook/wav2vec2-base", tasks="automatic-speech-recognition"
    )
    return before, after | {"forget_loss": trainer.evaluate(forget)["eval_loss"]}


def test_a_recogniser_is_trained_by_the_stock_script(processor, tmp_path):
    before, after = train_as_the_stock_script(processor, tmp_path / "out")
    assert after["forget_loss"] > before["eval_loss"] + 0.01
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "all_results.json", "trainer_state.json", "checkpoint-3"} <= files
    model = AutoModelForCTC.from_pretrained(tmp_path / "out").eval()
    loaded = AutoProcessor.from_pretrained(tmp_path / "out")
    rows = vectorized(loaded, 2, 4)
    with torch.no_grad():
        frames = [model(torch.tensor([row["input_values"]])).logits.argmax(-1) for row in rows]
    heard = [loaded.decode(each[0]) for each in frames]
    assert after["eval_wer"] == jiwer.wer([TEXTS[number % 3] for number in range(4)], heard)
