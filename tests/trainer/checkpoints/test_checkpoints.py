"""A run may be killed at any moment: incomplete checkpoints are ignored, and resuming from a
complete one continues bit for bit."""

import copy
import os
import random
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
from transformers import set_seed

from hf_unlearn.trainer.batches.seeded import SeededDataset
from hf_unlearn.trainer.checkpoints.checkpoint_files import (
    find_checkpoint,
    folder_written_whole,
    last_complete,
)
from hf_unlearn.trainer.checkpoints.preemption import EXIT_CODE
from tests.support.callbacks import CallAtStep, interrupt
from tests.support.tiny import FORGET, RETAIN, make_trainer, tiny_whisper
from tests.trainer.checkpoints.checkpoint_runs import OPTIONS, trainer_of, weights


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
    with pytest.raises(ValueError, match="checkpoint-20 is not a complete checkpoint"):
        find_checkpoint(str(run / "checkpoint-20"), str(run))
    assert find_checkpoint("auto", str(tmp_path / "none")) is None
    with pytest.raises(ValueError, match="no complete checkpoint in .*none"):
        find_checkpoint(True, str(tmp_path / "none"))


@pytest.mark.parametrize("strategy", ["steps", "no"])
def test_sigterm_saves_and_exits(tmp_path, straight, strategy):
    terminate = CallAtStep(3, lambda control: os.kill(os.getpid(), signal.SIGTERM))
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
    fill = CallAtStep(
        3, lambda control: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    )
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
    vanish = CallAtStep(5, lambda control: setattr(forget, "gone", True))
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
        trainer_of(tmp_path / "run", [CallAtStep(5, interrupt)], **options).train()
    again = trainer_of(tmp_path / "run", **options)
    again.train(resume_from_checkpoint=True)
    assert skipped_steps(again) == skipped_steps(unbroken) >= 2
    assert torch.equal(weights(again), weights(unbroken))


def skipped_steps(trainer) -> int:
    return [row["skipped_steps"] for row in trainer.state.log_history if "loss" in row][-1]
