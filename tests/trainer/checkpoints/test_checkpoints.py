"""A run may be killed at any moment: incomplete checkpoints are ignored, and resuming from a
complete one continues bit for bit."""

import copy
import os
import random
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import snapshot_download
from transformers import set_seed

from hf_unlearn.report.run_layout import BEST
from hf_unlearn.trainer.batches.seeded import SeededDataset
from hf_unlearn.trainer.checkpoints.checkpoint_files import (
    find_checkpoint,
    folder_written_whole,
    last_complete,
)
from hf_unlearn.trainer.checkpoints.preemption import EXIT_CODE
from hf_unlearn.trainer.stopping import stopping_rules as stopping
from tests.support.callbacks import At, interrupt
from tests.support.tiny import FORGET, RETAIN, make_trainer, tiny_whisper

# Three steps per epoch, dropout, an optimizer with moments, a schedule, and retain batches that
# differ between steps.
OPTIONS = {
    "max_steps": 7,
    "save_strategy": "steps",
    "save_steps": 1,
    "optimizer": False,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "per_device_train_batch_size": 3,
    "per_device_retain_batch_size": 2,
}


def trainer_of(folder, callbacks=(), **options):
    set_seed(0)
    arguments = {"callbacks": list(callbacks), "eval_dataset": {"forget": FORGET, "test": RETAIN}}
    return make_trainer(
        tiny_whisper(dropout=0.1), folder, arguments=arguments, **{**OPTIONS, **options}
    )


def weights(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run, with a checkpoint at each step."""
    trainer = trainer_of(tmp_path_factory.mktemp("straight"))
    trainer.train()
    return trainer


@pytest.mark.parametrize("step", [1, 2, 3, 6])
def test_resumed_from_any_step_is_as_uninterrupted(tmp_path, straight, step):
    """Steps 3 and 6 end an epoch."""
    trainer = trainer_of(tmp_path)
    trainer.train(resume_from_checkpoint=f"{straight.args.output_dir}/checkpoint-{step}")
    assert torch.equal(weights(trainer), weights(straight))
    assert logged(trainer) == logged(straight)


def logged(trainer) -> list[dict]:
    """The losses and statistics of the first seven log entries."""
    return [
        {key: value for key, value in row.items() if "loss" in key or key in ("kept", "rank")}
        for row in trainer.state.log_history[:7]
    ]


class Noisy(list):
    """Samples with new random numbers from torch, NumPy and Python at each access."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        noise = torch.randn(sample["input_features"].shape) * np.random.rand() * random.random()
        return {**sample, "input_features": sample["input_features"] + noise}


@pytest.mark.parametrize("workers", [0, 1])
def test_with_random_augmentation_a_resumed_run_is_as_uninterrupted(tmp_path, workers):
    """Data loaders with workers read ahead of the step at which the checkpoint is written."""

    def trainer_at(folder):
        set_seed(0)
        data = {"forget": Noisy(FORGET), "retain": Noisy(RETAIN)}
        options = {**OPTIONS, "max_steps": 4, "dataloader_num_workers": workers}
        return make_trainer(
            tiny_whisper(encoder_layers=1, decoder_layers=1), folder, **data, **options
        )

    straight, resumed = trainer_at(tmp_path / "straight"), trainer_at(tmp_path / "resumed")
    straight.train()
    resumed.train(resume_from_checkpoint=f"{tmp_path}/straight/checkpoint-2")
    assert torch.equal(weights(resumed), weights(straight))


def test_random_numbers_depend_on_seed_epoch_and_index():
    dataset = SeededDataset(Noisy(FORGET), 5)
    before = torch.get_rng_state()
    first, other = (
        dataset[0]["input_features"],
        dataset[1]["input_features"] - FORGET[1]["input_features"],
    )
    assert torch.equal(dataset[0]["input_features"], first) and torch.equal(
        torch.get_rng_state(), before
    )
    assert not torch.equal(first - FORGET[0]["input_features"], other)
    assert torch.equal(dataset[7, 0]["input_features"], dataset[7, 0]["input_features"])
    dataset.epoch.fill_(1)
    assert not torch.equal(dataset[0]["input_features"], first)


@pytest.mark.parametrize(
    "method",
    ["_save", "_save_optimizer_and_scheduler", "_save_scaler", "_save_rng_state", "store_flos"],
)
def test_a_run_killed_while_saving_resumes_from_the_previous_checkpoint(
    tmp_path, straight, method, monkeypatch
):
    trainer = trainer_of(tmp_path, save_steps=2)
    whole = getattr(trainer, method)

    def killed(*arguments, **keywords):
        if trainer.state.global_step == 4:
            # nothing is written from here on, as if the process had been killed
            raise KeyboardInterrupt
        return whole(*arguments, **keywords)

    monkeypatch.setattr(trainer, method, killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert last_complete(tmp_path) == tmp_path / "checkpoint-2"
    again = trainer_of(tmp_path, save_steps=2)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(again), weights(straight))


def test_incomplete_checkpoints_are_ignored(tmp_path, straight):
    run = shutil.copytree(straight.args.output_dir, tmp_path / "run")
    shutil.rmtree(run / "checkpoint-7")
    shutil.rmtree(run / "checkpoint-5")
    (run / "checkpoint-20").mkdir()
    whole = (run / "checkpoint-6" / "trainer_state.json").read_text()
    for cut in (0, 1, len(whole) // 2, len(whole.rstrip()) - 1):
        (run / "checkpoint-6" / "trainer_state.json").write_text(whole[:cut])
        assert last_complete(run) == run / "checkpoint-4"
    (run / "checkpoint-6" / "trainer_state.json").write_text(whole)
    assert (
        find_checkpoint("true", str(run))
        == find_checkpoint("auto", str(run))
        == str(run / "checkpoint-6")
    )
    with pytest.raises(ValueError, match="checkpoint-20 is no complete checkpoint"):
        find_checkpoint(str(run / "checkpoint-20"), str(run))
    assert find_checkpoint("auto", str(tmp_path / "none")) is None
    with pytest.raises(ValueError, match="no complete checkpoint in .*none"):
        find_checkpoint(True, str(tmp_path / "none"))


@pytest.mark.parametrize("strategy", ["steps", "no"])
def test_sigterm_saves_and_exits(tmp_path, straight, strategy):
    terminate = At(3, lambda control: os.kill(os.getpid(), signal.SIGTERM))
    trainer = trainer_of(tmp_path, [terminate], save_steps=100, save_strategy=strategy)
    with pytest.raises(SystemExit) as end:
        trainer.train()
    assert end.value.code == EXIT_CODE == 143
    assert last_complete(tmp_path).name in ("checkpoint-3", "checkpoint-4")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    # as on a command line
    again = trainer_of(tmp_path, resume_from_checkpoint="auto")
    again.train()
    assert torch.equal(weights(again), weights(straight))


def test_a_finished_run_takes_no_more_steps(tmp_path, straight):
    """Trainer would take one more, because the last checkpoint lies within an epoch."""
    trainer = trainer_of(tmp_path)
    trainer.train(resume_from_checkpoint=f"{straight.args.output_dir}/checkpoint-7")
    assert trainer.state.global_step == 7 and torch.equal(weights(trainer), weights(straight))


def test_a_full_disk_leaves_the_last_checkpoint_and_is_reported(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # no file can grow beyond 30 kB
    fill = At(3, lambda control: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1])))
    try:
        with pytest.raises(
            OSError,
            match="could not save to .*checkpoint-4: .*The last complete checkpoint is "
            ".*checkpoint-2",
        ):
            trainer_of(tmp_path, [fill], save_steps=2).train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_full_disk_leaves_the_earlier_model(tmp_path):
    trainer = make_trainer(tiny_whisper(), tmp_path)
    trainer.save_model()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        trainer.model.proj_out.weight.zero_()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(
            OSError, match="could not save to .*There is no complete checkpoint yet"
        ):
            trainer.save_model()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_existing_card_is_not_overwritten(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with folder_written_whole(tmp_path) as partial:
        (partial / "README.md").write_text("theirs")
        (partial / "adapter").mkdir()
        (partial / "adapter" / "weights").write_text("w")
    assert (tmp_path / "README.md").read_text() == "mine" and (
        tmp_path / "adapter" / "weights"
    ).read_text() == "w"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "adapter"]


def test_a_missing_data_file_is_named_and_the_last_checkpoint_stays(tmp_path):
    class Files(list):
        gone = False

        def __getitem__(self, index):
            if self.gone:
                raise FileNotFoundError(2, "No such file or directory", f"speaker/{index}.flac")
            return super().__getitem__(index)

    forget = Files(FORGET)
    vanish = At(5, lambda control: setattr(forget, "gone", True))
    with pytest.raises(FileNotFoundError, match=r"speaker/\d.flac"):
        trainer_of(tmp_path, [vanish], forget=forget).train()
    assert last_complete(tmp_path) is not None


def test_the_count_of_skipped_steps_continues(tmp_path):
    forget = copy.deepcopy(FORGET)
    forget[3]["input_features"][0, 0] = torch.nan
    options = {"forget": forget, "max_skipped_steps": 9}
    unbroken = trainer_of(tmp_path / "straight", **options)
    unbroken.train()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path / "run", [At(5, interrupt)], **options).train()
    again = trainer_of(tmp_path / "run", **options)
    again.train(resume_from_checkpoint=True)
    assert skipped_steps(again) == skipped_steps(unbroken) >= 2
    assert torch.equal(weights(again), weights(unbroken))


def skipped_steps(trainer) -> int:
    return [row["skipped_steps"] for row in trainer.state.log_history if "loss" in row][-1]


class TestFromTheHub:
    """A run that resumes on another machine from a checkpoint that `hub_strategy` has pushed."""

    def pushed(self, hub, folder, **options) -> Path:
        """The downloaded `last-checkpoint` of a run that was killed after three steps and had
        pushed the second."""
        options = {
            "push_to_hub": True,
            "hub_strategy": "checkpoint",
            "hub_always_push": True,
            **options,
        }
        trainer = trainer_of(folder / "model", [At(3, interrupt)], **options)
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        trainer._finish_current_push()
        download = snapshot_download(
            "tester/model", allow_patterns="last-checkpoint/*", local_dir=folder / "elsewhere"
        )
        return Path(download) / "last-checkpoint"

    @pytest.mark.parametrize(
        "names", [{}, {"hide_names": ["anna"], "run_name": "run of anna"}], ids=["", "hidden names"]
    )
    def test_it_is_as_uninterrupted(self, tmp_path, hub, straight, names):
        again = trainer_of(
            tmp_path / "again", resume_from_checkpoint=str(self.pushed(hub, tmp_path, **names))
        )
        again.train()
        assert torch.equal(weights(again), weights(straight))
        assert [row["step"] for row in again.state.log_history] == [
            row["step"] for row in straight.state.log_history
        ]

    def test_methods_that_need_the_original_model_say_that_it_is_missing(self, tmp_path, hub):
        checkpoint = self.pushed(hub, tmp_path, method="scrub")
        with pytest.raises(ValueError, match="from the Hub, where that model is never pushed"):
            trainer_of(tmp_path / "again", method="scrub").train(
                resume_from_checkpoint=str(checkpoint)
            )

    def test_the_best_checked_model_is_missing_with_a_warning(self, tmp_path, hub, monkeypatch):
        """The uninterrupted run goes back to a model from before the checkpoint; this one
        cannot."""
        options = {
            **TestStoppingRules.RULES,
            "stop_when": "forget_loss <= 0",
            "abort_when": "test_loss > 4.13",
        }
        unbroken = trainer_of(tmp_path / "unbroken", **options)
        unbroken.train()
        assert unbroken.stopping["reason"] == "aborted" and unbroken.stopping["restored_step"] == 0
        checkpoint, warned = self.pushed(hub, tmp_path, **options), []
        monkeypatch.setattr(stopping.logger, "warning", warned.append)
        again = trainer_of(tmp_path / "again", **options)
        again.train(resume_from_checkpoint=str(checkpoint))
        assert (
            "the best checked model, of step 0" in warned[0]
            and "goes back to the model of step 2" in warned[0]
        )
        assert (
            again.stopping["step"] == unbroken.stopping["step"]
            and again.stopping["restored_step"] > 1
        )


class TestStoppingRules:
    RULES = {
        "check_steps": 1,
        "check_samples": 4,
        "learning_rate": 5e-3,
        "method": "gradient_ascent",
        "lr_scheduler_type": "constant",
    }

    def ended(self, folder, **options) -> dict:
        """How a run ends that is interrupted after each step in turn, which must be how the
        uninterrupted run ends."""
        options = {**self.RULES, **options}
        straight = trainer_of(folder / "straight", **options)
        straight.train()
        run = folder / "run"
        for step in range(1, straight.state.global_step + 1):
            trainer = trainer_of(
                run, [At(step, interrupt)], resume_from_checkpoint="auto", **options
            )
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
        # the second attempt finds that the run is over
        for _ in range(2):
            trainer = trainer_of(run, resume_from_checkpoint="auto", **options)
            trainer.train()
            assert torch.equal(weights(trainer), weights(straight))
            assert trainer.stopping == straight.stopping
        return straight.stopping

    def test_target(self, tmp_path):
        report = self.ended(tmp_path, stop_when="forget_loss >= 4.25")
        assert report["reason"] == "target reached" and 1 < report["step"] < 7

    def test_abort(self, tmp_path):
        report = self.ended(
            tmp_path, stop_when="forget_loss >= 1000", abort_when="test_loss > 4.13"
        )
        assert report["reason"] == "aborted" and 1 < report["restored_step"] < report["step"] < 7


def test_the_best_model_of_a_later_step_is_forgotten_on_resume(tmp_path):
    """A run resumes from a checkpoint before its best model, which belongs to steps that have not
    happened yet."""
    options = {**TestStoppingRules.RULES, "abort_when": "test_loss > 1000"}
    trainer_of(tmp_path, **options).train()
    trainer = trainer_of(tmp_path, [At(3, interrupt)], **options)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-2")
    kept, saved = tmp_path / BEST, tmp_path / "checkpoint-2" / BEST
    assert kept.read_bytes() == saved.read_bytes()
