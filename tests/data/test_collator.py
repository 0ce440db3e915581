"""The collator pads utterances to a batch."""

import numpy as np
import pytest
import torch
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from hf_unlearn.data import SpeechCollator, prepare

FOLDER = {"speaker_column": "speaker"}


class TestCollator:
    def test_labels_are_padded_and_lose_the_start_token(self, processor):
        features = np.arange(8, dtype="float32").reshape(2, 4)
        rows = [
            {"input_features": features, "labels": labels, "id": "a"}
            for labels in ([1, 4, 2], [1, 4, 5, 2])
        ]
        batch = SpeechCollator(processor, 1)(rows)
        assert sorted(batch) == ["input_features", "labels"]
        assert batch["input_features"].shape == (2, 2, 4)
        assert batch["input_features"].dtype == torch.float32
        assert batch["labels"].tolist() == [[4, 2, -100], [4, 5, 2]]
        assert SpeechCollator(processor, 9)(rows)["labels"].tolist() == [
            [1, 4, 2, -100],
            [1, 4, 5, 2],
        ]
        rows[0]["labels"] = [4, 2]
        assert SpeechCollator(processor, 1)(rows)["labels"].tolist() == [
            [4, 2, -100, -100],
            [1, 4, 5, 2],
        ]

    def test_takes_decoder_inputs_that_rows_bring(self, processor):
        rows = [
            {"input_features": np.zeros((2, 4)), "labels": ids, "decoder_input_ids": ids}
            for ids in ([4], [4, 5])
        ]
        pad = processor.tokenizer.pad_token_id
        assert SpeechCollator(processor, 1)(rows)["decoder_input_ids"].tolist() == [
            [4, pad],
            [4, 5],
        ]

    @pytest.mark.parametrize("remove_unused_columns", [True, False])
    def test_trainer_trains_and_evaluates_with_the_collator(
        self, make_rows, processor, tmp_path, remove_unused_columns
    ):
        sizes = dict.fromkeys(["encoder_layers", "decoder_layers", "encoder_attention_heads"], 1)
        sizes |= {"decoder_attention_heads": 1}
        sizes |= dict.fromkeys(["d_model", "encoder_ffn_dim", "decoder_ffn_dim"], 8)
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        special |= {"decoder_start_token_id": 1}
        config = WhisperConfig(
            vocab_size=8, num_mel_bins=8, max_source_positions=50, **sizes, **special
        )
        args = Seq2SeqTrainingArguments(
            str(tmp_path),
            max_steps=1,
            use_cpu=True,
            remove_unused_columns=remove_unused_columns,
            report_to="none",
        )
        rows = prepare(make_rows(), processor, max_label_length=8)
        trainer = Seq2SeqTrainer(
            WhisperForConditionalGeneration(config),
            args,
            train_dataset=rows,
            eval_dataset=rows,
            data_collator=SpeechCollator(processor, 1),
        )
        assert trainer.train().global_step == 1
        assert np.isfinite(trainer.evaluate()["eval_loss"])
