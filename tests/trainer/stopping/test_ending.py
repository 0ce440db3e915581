"""What a run reports about its end: why it stopped, and which weights its numbers belong to. A run
without a step reports nothing."""

import json
import os
import signal
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import (
    EarlyStoppingCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)

from hf_unlearn.trainer.checkpoints.checkpoint_files import find_checkpoint
from hf_unlearn.trainer.publishing import publisher as publishing
from hf_unlearn.trainer.publishing.run_results import EvaluationSets
from hf_unlearn.trainer.stopping.run_record import labels_digest
from tests.support.callbacks import At, interrupt
from tests.support.tiny import FORGET, RETAIN, collate, make_trainer, tiny_whisper, utterances

SPLITS = {"forget": FORGET[:3], "test": RETAIN[:3]}
# The first evaluation is the best one.
EARLY = {
    "max_steps": 9,
    "learning_rate": 0.05,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_test_loss",
    "greater_is_better": False,
    "method": "gradient_ascent",
}
# Holds after the first steps, but not before them.
TARGET = {"stop_when": "forget_loss >= 5", "learning_rate": 0.05, "method": "gradient_ascent"}


def trainer_of(folder, callbacks=(), forget=FORGET, **options):
    model = tiny_whisper(encoder_layers=1, decoder_layers=1)
    arguments = {"eval_dataset": SPLITS, "callbacks": list(callbacks)}
    return make_trainer(
        model, folder, forget=forget, optimizer=False, arguments=arguments, **options
    )


def card_of(folder) -> str:
    return ModelCard.load(Path(folder) / "README.md").text


class MyOwnRule(At):
    def __init__(self, step):
        super().__init__(step, lambda control: setattr(control, "should_training_stop", True))


class TestReason:
    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"max_steps": 2}, "max_steps"),
            ({"max_steps": -1, "num_train_epochs": 2}, "num_train_epochs"),
            ({"max_steps": 5, "callbacks": [MyOwnRule(2)]}, "MyOwnRule"),
            ({"max_steps": 2, "callbacks": [MyOwnRule(2)]}, "max_steps"),
            ({"max_steps": 2, "stop_when": "forget_loss >= 1000", "check_steps": 1}, "max_steps"),
            ({"max_steps": 9, **TARGET, "check_steps": 2}, "target reached"),
        ],
        ids=["steps", "epochs", "callback", "both", "rule not met", "rule met"],
    )
    def test_of_each_kind(self, tmp_path, options, reason):
        trainer = trainer_of(tmp_path, **options)
        assert trainer.stopping["reason"] == "not trained"
        trainer.train()
        assert trainer.stopping["reason"] == reason and trainer.stopping["step"] == 2
        assert "restored_step" not in trainer.stopping

    def test_an_error_and_a_signal(self, tmp_path):
        trainer = trainer_of(tmp_path / "a", [At(1, interrupt)], max_steps=3)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        assert trainer.stopping["reason"] == "interrupted by KeyboardInterrupt"
        trainer = trainer_of(
            tmp_path / "b",
            [At(1, lambda control: os.kill(os.getpid(), signal.SIGTERM))],
            max_steps=3,
        )
        with pytest.raises(SystemExit):
            trainer.train()
        assert trainer.stopping["reason"] == "SIGTERM"

    def test_within_the_training(self, tmp_path):
        seen = []
        trainer = trainer_of(
            tmp_path, [At(1, lambda control: seen.append(trainer.stopping["reason"]))], max_steps=2
        )
        trainer.train()
        assert seen == ["training in progress"]


class TestNumbersDescribeTheSavedWeights:
    def test_of_the_best_model_that_is_loaded_at_the_end(self, tmp_path):
        trainer = trainer_of(tmp_path, [EarlyStoppingCallback(2)], **EARLY)
        trainer.train()
        rows = {
            row["step"]: row["eval_test_loss"]
            for row in trainer.state.log_history
            if "eval_test_loss" in row
        }
        assert trainer.stopping == {
            "reason": "EarlyStoppingCallback",
            "step": 3,
            "rule": None,
            "abort_rule": None,
            "restored_step": 1,
        }
        trainer.create_model_card()
        said = json.loads((tmp_path / "results.json").read_text())["unlearned"]["test"]["loss"]
        assert said == rows[1] != rows[3]
        text = card_of(tmp_path)
        assert "at step 3: EarlyStoppingCallback. The model is that of step 1." in text
        assert f"{rows[1]:.3f}" in text and f"{rows[3]:.3f}" not in text
        # logged at step 3, with the weights of step 1
        trainer.evaluate()
        assert trainer.own_results().unlearned["test"]["loss"] == pytest.approx(said, rel=1e-6)

    def test_of_the_best_model_that_has_a_checkpoint(self, tmp_path):
        """The best evaluation may be of a step that was not saved; then an earlier one is
        loaded."""
        trainer = trainer_of(
            tmp_path, **{**EARLY, "max_steps": 3, "save_steps": 2, "eval_steps": 1}
        )
        # the third step is the best one; only the second and the last are saved
        trainer.args.greater_is_better = True
        trainer.args.save_total_limit = None
        trainer.train()
        best = int(trainer.state.best_model_checkpoint.rpartition("-")[2])
        assert trainer.stopping.get("restored_step", 3) == best
        logged = trainer.own_results().unlearned["test"]["loss"]
        assert trainer.evaluate()["eval_test_loss"] == pytest.approx(logged, rel=1e-6)

    def test_without_an_evaluation_of_these_weights_there_is_none(self, tmp_path):
        trainer = trainer_of(
            tmp_path, max_steps=3, eval_strategy="steps", eval_steps=2, eval_delay=0
        )
        trainer.train()
        trainer.state.log_history = [row for row in trainer.state.log_history if row["step"] < 3]
        assert trainer.own_results().unlearned is None

    def test_of_the_model_that_an_abort_restores(self, tmp_path):
        options = {
            "max_steps": 9,
            "learning_rate": 0.05,
            "method": "gradient_ascent",
            "abort_when": "test_loss > 4.2",
            "check_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 1,
        }
        trainer = trainer_of(tmp_path, **options)
        trainer.train()
        report = trainer.stopping
        assert report["reason"] == "aborted" and report["restored_step"] < report["step"]
        trainer.evaluate()
        results = trainer.own_results()
        said = results.unlearned if report["restored_step"] else results.original
        rows = [row for row in trainer.state.log_history if "eval_test_loss" in row]
        assert rows[-1]["weights_step"] == report["restored_step"]
        assert said["test"]["loss"] == rows[-1]["eval_test_loss"] <= 4.2

    def test_a_card_of_the_original_does_not_say_that_it_forgets(self, tmp_path):
        rules = {"stop_when": "forget_loss <= 0", "abort_when": "forget_loss > 4.2"}
        trainer = trainer_of(
            tmp_path, max_steps=9, check_steps=1, method="gradient_ascent", **rules
        )
        trainer.train()
        trainer.create_model_card()
        text = card_of(tmp_path)
        assert (
            "made to forget" not in text and "**the original, which has forgotten nothing**" in text
        )


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
        with pytest.raises(ValueError, match=f"checkpoint-1 is of another run: {said}"):
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
    known = labels_digest(rows, ["labels"])
    assert known == labels_digest(
        [{"labels": torch.tensor([1, 2])}, {"labels": torch.tensor([3])}], ["labels"]
    )
    assert known != labels_digest(rows.select([1, 0]), ["labels"])
    assert labels_digest(rows.remove_columns("labels"), ["labels"]) is None


class EmptyStream(torch.utils.data.IterableDataset):
    # a length that the stream falsely promises
    def __len__(self):
        return 8

    def __iter__(self):
        return iter(())


class TestOtherEvaluationSets:
    def test_unnamed_datasets_are_told_apart(self, tmp_path):
        """Scripts evaluate a second dataset with the keys of the first one (MNLI)."""
        trainer = trainer_of(tmp_path, max_steps=1)
        trainer.eval_dataset, other = FORGET[:3], RETAIN[:3]
        trainer._evaluation_sets = EvaluationSets(trainer.eval_dataset)
        for _ in range(2):
            losses = [trainer.evaluate()["eval_loss"], trainer.evaluate(other)["eval_loss"]]
            models = trainer.own_results().models()
            found = models["unlearned" if trainer.state.global_step else "original"]
            assert [found[name]["loss"] for name in ("evaluation", "evaluation 2")] == losses
            if not trainer.state.global_step:
                trainer.train()
        trainer.create_model_card()
        text = card_of(tmp_path)
        assert "| evaluation 2 |" in text and "No split of the forgotten samples was" in text
        assert "The original model was not evaluated" not in text

    def test_the_same_rows_are_the_same_set(self):
        rows = datasets.Dataset.from_dict({"x": [1, 2, 3]})
        sets = EvaluationSets(None)
        assert [sets.number(rows.select(range(n))) for n in (2, 2, 1, 2)] == [1, 1, 2, 1]


class TestUnchangedWeights:
    """Steps that change nothing are as good as none."""

    OPTIONS = {"max_steps": 2, "lr_scheduler_type": "constant"}

    def refused(self, trainer, reason):
        with pytest.raises(ValueError, match=f"changed the weights, so nothing .*{reason}"):
            trainer.train()
        for publish in (trainer.create_model_card, trainer.push_to_hub):
            with pytest.raises(ValueError, match="no optimizer step changed the weights"):
                publish()
        assert not (Path(trainer.args.output_dir) / "README.md").exists()

    @pytest.mark.parametrize("method", ["orthograd", "gradient_ascent"])
    def test_a_learning_rate_that_stays_0(self, tmp_path, method):
        trainer = trainer_of(tmp_path, [ZeroRate()], method=method, **self.OPTIONS)
        self.refused(trainer, "the learning rate was 0 in every step")

    def test_an_optimizer_of_another_model(self, tmp_path):
        trainer = trainer_of(tmp_path, **self.OPTIONS)
        trainer.optimizer = torch.optim.SGD(tiny_whisper().parameters(), lr=1.0)
        self.refused(trainer, "the optimizer has other parameters")

    def test_steps_below_the_weights_precision(self, tmp_path):
        options = {**self.OPTIONS, "learning_rate": 1e-30, "optim": "sgd"}
        trainer = trainer_of(tmp_path, **options)
        for p in trainer.model.parameters():
            # a bias of 0 would change
            p.data += 0.1
        self.refused(trainer, "too small")

    def test_gradients_that_are_0(self, tmp_path):
        trainer = trainer_of(tmp_path, **self.OPTIONS)
        trainer.add_callback(ZeroGradients())
        self.refused(trainer, "all gradients were 0")

    def test_one_change_in_one_tensor_is_enough(self, tmp_path):
        trainer = trainer_of(tmp_path, **self.OPTIONS)
        for p in list(trainer.model.parameters())[1:]:
            p.requires_grad_(False)
        trainer.train()
        trainer.create_model_card()

    def test_what_can_be_known_is_refused_at_construction(self, tmp_path):
        with pytest.raises(ValueError, match="learning_rate is 0"):
            trainer_of(tmp_path, learning_rate=0.0)
        with pytest.raises(ValueError, match="max_steps is 1, but with warmup_steps"):
            trainer_of(tmp_path, max_steps=1, warmup_steps=0.1, lr_scheduler_type="linear")
        trainer_of(tmp_path, learning_rate=0.0, forget=None, retain=None)


class ZeroRate(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        for group in kwargs["optimizer"].param_groups:
            group["lr"] = 0.0


class ZeroGradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        for p in kwargs["model"].parameters():
            if p.grad is not None:
                p.grad.zero_()
