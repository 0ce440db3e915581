"""What a recipe finds before there is data, and what before a model is trained."""

import os
from types import SimpleNamespace

import pytest
import torch

from hf_unlearn import UnlearnConfig, cli
from hf_unlearn.data.images import ImageArguments
from hf_unlearn.evaluation import classification_metrics
from hf_unlearn.experiments import Recipe, parse, unlearn
from hf_unlearn.experiments.checks.retrained_rules import assume_retrained_value, fill_in_retrained
from hf_unlearn.experiments.command_line import run_script as run
from hf_unlearn.experiments.images.recipe import ImageRecipeArguments
from hf_unlearn.experiments.loading import loading
from hf_unlearn.experiments.running import run as frame
from tests.support.helpers import ROOT
from tests.support.tiny import collate_images, images, tiny_vit

KINDS = (ImageRecipeArguments, ImageArguments, UnlearnConfig)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method orthogard", "method is 'orthogard', but must be one of orthograd"),
        (
            '--method scrub --method_kwargs {"temprature":2}',
            "method_kwargs has temprature, but method='scrub' takes",
        ),
        ("--method retrain", "trains a new one on the original training data"),
        ("--stop_when forget_accuracy=5", "cannot read the rule 'forget_accuracy=5'"),
        ("--abort_when test_accuracy", "cannot read the rule 'test_accuracy'"),
        ("--stop_when forget_accuracy<=retrained", "needs the retrained model: set gold"),
        ("--trainable (head", "trainable is '\\(head', which is not a regular expression"),
        ("--model /missing/path", "model is '/missing/path', but there is no such folder"),
        ("--gold out/of/place", "gold is 'out/of/place', but there is no such folder"),
        ("--base_model ../nowhere", "base_model is '../nowhere', but there is no such folder"),
        ("--lora_r -1", "lora_r is -1"),
        ("--output_dir out/a --model out/b --stop_when x_y<=retrained", "model is 'out/b', but"),
        (
            "--model tests/recipes",
            "'tests/recipes', which has no config.json: give a folder with a model",
        ),
        ("--retain_size 0", "retain_size is 0: give a number, a share below 1, or -1"),
        ("--dataset no/such/data --dataset_hint make_it", "no dataset no/such/data yet: make_it"),
        ("--retainsize 5", "--retainsize 5; did you mean retain_size?"),
        # no prefix stands for an option
        ("--forget_class cat", "--forget_class cat; did you mean forget_classes?"),
    ],
)
def test_mistakes_that_do_not_depend_on_the_data_are_found_without_data(
    flags, message, monkeypatch
):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=message) as raised:
        parse(KINDS, ["--output_dir", "out", "--use_cpu", "true", *flags.split(" ")])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("unset", [["--stop_when", ""], ["--stop_when="], ["--stop-when", ""]])
def test_an_empty_value_on_the_command_line_unsets_what_the_yaml_sets(tmp_path, unset):
    file = tmp_path / "own.yaml"
    file.write_text(
        "use_cpu: true\nstop_when: forget_accuracy <= 5\ntrain_seed: 3\nmax_eval_samples: 7\n"
        "forget_classes: [a, b]\nbase_model: ../nowhere\n"
    )
    flags = ["--train_seed", "", "--max_eval_samples=", "--base_model", "", "--alpha", "0.25"]
    options, data, args = parse(KINDS, [str(file), *flags, *unset, "--output_dir", "out"])
    assert (args.stop_when, options.train_seed, options.base_model) == (None, None, None)
    assert data.max_eval_samples is None and data.forget_classes == ["a", "b"]
    assert (args.alpha, args.output_dir) == (0.25, "out")


def test_an_unknown_option_is_answered_with_the_similar_ones(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("lerning_rate: 1e-3\n")
    with pytest.raises(ValueError, match="own.yaml: lerning_rate; did you mean learning_rate"):
        parse(KINDS, [str(file)])
    with pytest.raises(ValueError, match="line: --forgot-classes=a; did you mean forget_classes"):
        parse(KINDS, ["--forgot-classes=a", "--use_cpu", "true"])
    with pytest.raises(ValueError, match="on the command line: --zzz 5; --help lists"):
        parse(KINDS, ["--zzz", "5"])


def test_an_evaluation_does_not_ask_for_the_retrained_model():
    flags = [
        "--output_dir",
        "out",
        "--use_cpu",
        "true",
        "--stop_when",
        "forget_accuracy<=retrained",
    ]
    parse(KINDS, [*flags, "--evaluate", "true", "--gold", "none"])
    assert assume_retrained_value("forget_accuracy <= retrained", "train") == "forget_accuracy <= 0"


@pytest.mark.parametrize("metric", ["wer", "f1_macro", "rouge-1", "top5_accuracy", "loss"])
@pytest.mark.parametrize("split", ["forget", "forget_test", "test-clean"])
def test_the_retrained_models_value_of_any_metric_is_filled_in(split, metric):
    measured = {"forget": {metric: 1.0}, split: {metric: 0.00061812, "samples": 3}}
    rule = f"{split}_{metric} >= retrained"
    assert assume_retrained_value(rule, "train") == f"{split}_{metric} >= 0"
    assert fill_in_retrained(rule, measured) == f"{split}_{metric} >= 0.00061812"
    assert fill_in_retrained(f"{rule} + 1", measured) == f"{split}_{metric} >= 1.000618"
    for other in (None, "", f"{split}_{metric} >= 3", f"forget_loss > {split}_retrained"):
        assert fill_in_retrained(other, measured) == other
    with pytest.raises(ValueError, match="names no metric of the retrained model, which are"):
        fill_in_retrained(f"{split}_cer >= retrained", measured)
    with pytest.raises(ValueError, match="needs the retrained model"):
        fill_in_retrained(rule, None)


class TinyRecipe(Recipe):
    """A classifier of random images, which are there at once."""

    task = "classes"

    def __init__(self, tmp_path, *flags):
        words = [
            "--output_dir",
            str(tmp_path),
            "--use_cpu",
            "true",
            "--report_to",
            "none",
            "--attacks",
            "false",
            *flags,
        ]
        self.options, self.data, self.args = parse(KINDS, words)
        parts = {"forget": images(3), "test": images(3, seed=1)}
        described = {"images": {name: len(part) for name, part in parts.items()}, "classes": {}}
        self.splits = SimpleNamespace(
            describe=lambda: described, evaluation=lambda *_: parts, forget=parts["forget"]
        )
        # which the copies of the recipe share
        self.loaded = []

    def load_model(self, name):
        self.loaded.append(1)
        return tiny_vit()

    def trainer_arguments(self, model):
        return {
            "forget_dataset": images(3),
            "retain_dataset": images(4, seed=2),
            "data_collator": collate_images,
            "eval_dataset": self.splits.evaluation(),
            "compute_metrics": classification_metrics,
        }


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stop_when", "forget_acuracy <= 5"], "evaluation will give .*forget_accuracy"),
        (
            ["--abort_when", "tests_accuracy < 5"],
            "names no split of eval_dataset: those are forget, test",
        ),
        (["--stop_when", "forget_wer <= retrained", "--gold", "train"], "names 'forget_wer'"),
        (["--trainable", "vit.embedings"], "matches no parameter"),
        (["--lora_r", "2", "--lora_target_modules", "q_prj"], "names no layer .*q_proj"),
        (["--label_smoothing_factor", "0.1"], "label_smoothing_factor is not supported"),
    ],
)
def test_data_that_do_not_fit_are_found_before_a_model_is_trained(
    tmp_path, monkeypatch, flags, message, dry
):
    monkeypatch.setattr(frame, "model_names", lambda *_: pytest.fail("trained first"))
    with pytest.raises(ValueError, match=message):
        unlearn(TinyRecipe(tmp_path, "--dry_run", str(dry), *flags))


def test_looking_ahead_leaves_random_numbers_as_they_were(tmp_path, monkeypatch):
    """So that a run gives what it gave when nobody looked."""

    class Reached(Exception):
        pass

    def reached(*_):
        raise Reached

    monkeypatch.setattr(frame, "model_names", reached)
    recipe = TinyRecipe(
        tmp_path, "--gold", "train", "--lora_r", "2", "--stop_when", "forget_accuracy <= retrained"
    )
    torch.manual_seed(7)
    expected = torch.get_rng_state()
    with pytest.raises(Reached):
        unlearn(recipe)
    assert recipe.loaded == [1] and torch.equal(torch.get_rng_state(), expected)
    assert recipe.args.stop_when == "forget_accuracy <= retrained"


def test_a_model_that_cannot_be_loaded_is_named_in_one_line():
    with (
        pytest.raises(ValueError, match="could not load 'somebody/model': line one line two"),
        loading("somebody/model"),
    ):
        raise OSError("line one\nline two")


def test_a_push_or_a_file_that_fails_is_one_line_too(tmp_path, capsys):
    from hf_unlearn.trainer.checkpoints.checkpoint_files import explaining_failures

    def main(argv):
        with explaining_failures(tmp_path, tmp_path):
            raise PermissionError("no permission")

    with pytest.raises(SystemExit, match="error: could not save to .*no permission"):
        run(main, str(tmp_path / "recipes" / "own" / "unlearn.py"))


@pytest.mark.parametrize("flags", [["--model=out/x"], ["--model", "out/x"]])
def test_evaluate_takes_the_model_in_both_spellings(tmp_path, monkeypatch, flags):
    (tmp_path / "own.yaml").write_text("seed: 1\n")
    (tmp_path / "unlearn.py").write_text("")
    started = []
    monkeypatch.setattr(os, "execv", lambda program, command: started.append(command))
    assert cli.main(["evaluate", str(tmp_path / "own.yaml"), *flags]) == 0
    assert started[0][-len(flags) :] == flags


def test_a_configuration_behind_the_options_is_told_to_come_first(capsys):
    assert cli.main(["evaluate", "--model", "out/x", "demo.yaml"]) == 1
    assert "the first argument must be the configuration" in capsys.readouterr().err
    assert cli.main(["evaluate", "demo.yaml"]) == 1
    assert "--model is missing" in capsys.readouterr().err
