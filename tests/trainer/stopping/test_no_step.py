"""A run without a step is an error and reports nothing; so does resuming the checkpoint of another
run."""

from pathlib import Path

import datasets
import pytest
import torch
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from hf_unlearn.trainer.checkpoints.checkpoint_files import find_checkpoint
from hf_unlearn.trainer.checkpoints.run_identity import labels_digest
from hf_unlearn.trainer.publishing import publisher as publishing
from tests.support.tiny import FORGET, collate, tiny_whisper, utterances
from tests.trainer.stopping.ended_runs import MyOwnRule, card_of, trainer_of


class TestNoStep:
    def ordinary(self, folder) -> Path:
        """A checkpoint of ordinary training."""
        args = Seq2SeqTrainingArguments(
            output_dir=str(folder),
            max_steps=7,
            save_steps=7,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        model = tiny_whisper(encoder_layers=1, decoder_layers=1)
        Seq2SeqTrainer(model, args, train_dataset=FORGET, data_collator=collate).train()
        return folder / "checkpoint-7"

    def test_a_checkpoint_of_ordinary_training_is_refused(self, tmp_path):
        checkpoint = self.ordinary(tmp_path)
        trainer = trainer_of(tmp_path, max_steps=7)
        with pytest.raises(
            ValueError, match="checkpoint-7 comes from ordinary training, not from unlearning"
        ):
            trainer.train(resume_from_checkpoint=str(checkpoint))
        with pytest.raises(ValueError, match="no complete checkpoint"):
            trainer.train(resume_from_checkpoint=True)
        with pytest.raises(ValueError, match="no card is written: no optimizer step was taken"):
            trainer.create_model_card()
        assert not (tmp_path / "README.md").exists()
        # starts from the beginning
        trainer.train(resume_from_checkpoint="auto")
        assert trainer.record.steps == 7

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"method": "gradient_ascent"}, "method orthograd, not gradient_ascent"),
            ({"alpha": 0.25}, "alpha 0.5, not 0.25"),
            ({"learning_rate": 0.5}, "learning_rate 0.001, not 0.5"),
            ({"forget": utterances(8, seed=9)}, "other forget labels"),
            ({"forget": FORGET[:7]}, "forget samples 8, not 7"),
        ],
        ids=["method", "setting", "rate", "others", "fewer"],
    )
    def test_a_checkpoint_of_another_run_is_refused(self, tmp_path, changes, said):
        options = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-3}
        trainer_of(tmp_path, **options).train()
        other = trainer_of(tmp_path, **{**options, **changes})
        with pytest.raises(ValueError, match=f"checkpoint-1 belongs to another run: {said}"):
            other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
        assert find_checkpoint("auto", str(tmp_path), {"method": "scrub"}) is None

    def test_a_finished_run_that_is_resumed_gets_its_card(self, tmp_path):
        options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
        trainer_of(tmp_path, **options).train()
        trainer = trainer_of(tmp_path, **options)
        trainer.train(resume_from_checkpoint=True)
        trainer.create_model_card()
        assert trainer.record.steps == 2 and "at step 2: max_steps" in card_of(tmp_path)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"dataloader_drop_last": True, "per_device_train_batch_size": 9},
                "8 samples and a batch over all processes has 9",
            ),
            ({"max_steps": 0}, "max_steps is 0"),
            ({"max_steps": -1, "num_train_epochs": 0}, "num_train_epochs is 0"),
            (
                {"forget": "stream", "per_device_train_batch_size": 1},
                "the forget set gave no batch",
            ),
            ({"forget": "broken", "max_steps": 2}, "all 2 were skipped"),
            (
                {"callbacks": [MyOwnRule(1)], "max_steps": 2, "early": True},
                "MyOwnRule stopped the training before",
            ),
        ],
        ids=[
            "drop last",
            "no steps",
            "no epochs",
            "empty stream",
            "all skipped",
            "stopped",
        ],
    )
    def test_a_run_without_a_step_is_an_error(self, tmp_path, options, message, monkeypatch):
        if options.pop("early", False):

            def stop(self, args, state, control, **kwargs):
                self.action(control)

            monkeypatch.setattr(MyOwnRule, "on_train_begin", stop, raising=False)
        if options.get("forget") == "stream":
            options = {**options, "forget": EmptyStream()}
        if options.get("forget") == "broken":
            broken = [
                {**one, "input_features": one["input_features"] * torch.nan} for one in FORGET
            ]
            options = {**options, "forget": broken}
        trainer = trainer_of(tmp_path, **options)
        before = [p.detach().clone() for p in trainer.model.parameters()]
        with pytest.raises(ValueError, match=message):
            trainer.train()
        assert all(map(torch.equal, before, trainer.model.parameters()))
        with pytest.raises(ValueError, match="no card is written"):
            trainer.create_model_card()
        with pytest.raises(ValueError, match="nothing is pushed"):
            trainer.push_to_hub()
        assert not (tmp_path / "results.json").exists()

    def test_before_any_training_there_is_no_card_and_no_push(self, tmp_path, monkeypatch):
        """A script that only evaluates asks for a card at its end too."""
        warned = []
        monkeypatch.setattr(publishing.logger, "warning", warned.append)
        trainer = trainer_of(tmp_path)
        trainer.create_model_card()
        assert len(warned) == 1 and "no optimizer step was taken" in warned[0]
        assert not (tmp_path / "README.md").exists()
        with pytest.raises(ValueError, match="nothing is pushed"):
            trainer.push_to_hub()


def test_a_forget_set_is_identified_by_its_labels_alone():
    columns = {"labels": [[1, 2], [3]], "audio": ["a", "b"]}
    rows = datasets.Dataset.from_dict(columns).with_transform(lambda batch: pytest.fail("read"))
    digest = labels_digest(rows, ["labels"])
    assert digest == labels_digest(
        [{"labels": torch.tensor([1, 2])}, {"labels": torch.tensor([3])}], ["labels"]
    )
    assert digest != labels_digest(rows.select([1, 0]), ["labels"])
    assert labels_digest(rows.remove_columns("labels"), ["labels"]) is None


class EmptyStream(torch.utils.data.IterableDataset):
    # a length that the stream falsely promises
    def __len__(self):
        return 8

    def __iter__(self):
        return iter(())
