"""Five requests one after another through a recipe's command line, the last one killed half way and
resumed; and what `hf-unlearn verify` says of it."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hf_unlearn import cli
from hf_unlearn.report.weights import weights_digest
from tests.recipes.noise import write_noise
from tests.support.forks import run_script
from tests.support.helpers import ROOT

pytestmark = pytest.mark.slow

RECIPE = ROOT / "recipes" / "vit_cifar10" / "unlearn.py"
KILLED = Path(__file__).with_name("killed_recipe.py")
FORGOTTEN = ("ant", "bee", "cow", "dog", "eel")
FLAGS = (
    "--architecture resnet --image_size 8 --channels 1 --d_model 8 --layers 1 --train_steps 2 "
    "--attacks false --test_split test --retain_size 2 --max_steps 4 --check_steps 2 "
    "--per_device_train_batch_size 2 --per_device_retain_batch_size 2 --digest_steps 2 "
    "--learning_rate 0.01 --stop_when forget_loss>=1000 --use_cpu true --report_to none "
    "--disable_tqdm true"
).split()


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """The folder of five requests, each from the output of the one before."""
    folder = tmp_path_factory.mktemp("requests")
    images = write_noise(folder / "images", 2, (*FORGOTTEN, "fox", "gnu"))
    flags = [*FLAGS, "--dataset", images]
    for number, name in enumerate(FORGOTTEN, start=1):
        model = folder / str(number - 1) if number > 1 else "train"
        options = ["--model", model, "--forget_classes", name, "--output_dir", folder / str(number)]
        if number < 5:
            run_script(RECIPE, *flags, *options, "--save_strategy", "no")
            continue
        options += ["--save_strategy", "steps", "--save_steps", "1"]
        options += ["--abort_when", "earlier_loss > 1000", "--resume_from_checkpoint", "auto"]
        killed = run_script(KILLED, 3, *flags, *options, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert not (folder / "5" / "forget_ledger.json").exists()
        run_script(RECIPE, *flags, *options)
    return folder


def entries(folder: Path) -> list[dict]:
    return json.loads((folder / "forget_ledger.json").read_text())["requests"]


def test_the_ledger_has_one_entry_for_each_request(chain):
    requests = entries(chain / "5")
    assert [entry["request"] for entry in requests] == [1, 2, 3, 4, 5]
    assert entries(chain / "4") == requests[:4]
    for early, late in zip(requests, requests[1:]):
        assert early["weights_after"] == late["weights_before"] != late["weights_after"]
    # noted before and after the kill
    assert list(requests[4]["steps"]) == ["0", "2", "4"] and requests[4]["stopped"]["step"] == 4
    assert weights_digest(chain / "5") == requests[4]["weights_after"]
    assert not set(FORGOTTEN) & set(json.dumps(requests).split('"'))
    assert len({name for entry in requests for name in entry["ids"]}) == 5


def test_all_earlier_requests_are_measured_again(chain):
    results = json.loads((chain / "5" / "results.json").read_text())
    classes = results["data"]["classes"]
    for number, name in enumerate(FORGOTTEN[:4], start=1):
        split = f"earlier_{number}"
        assert classes[split] == [name] and results["unlearned"][split]["samples"] == 2
        checked = entries(chain / "5")[4]["earlier"][str(number)]
        assert checked["after"] == results["unlearned"][split]["accuracy"]
        assert checked["found"] == checked["of"] == 1
    assert set(classes["retain_pool"]) == {"fox", "gnu"}
    # All four were checked for the rule on the worst of them.
    rows = [row for row in results["history"] if "check_earlier_4_loss" in row]
    assert len(rows) == 3 and results["stopping"]["abort_rule"] == "earlier_loss > 1000"
    card = (chain / "5" / "README.md").read_text()
    assert "`earlier_4`: forgotten by request 4" in card
    assert card.count("back to step") == 0 and "step 4: max_steps" in card
    assert "forgotten by request 4" in (chain / "5" / "report.html").read_text()


def test_the_killed_and_resumed_request_is_verified(chain, capsys):
    assert cli.main(["verify", str(chain / "5")]) == 0
    assert "VERIFIED: the weights of request 5 follow" in capsys.readouterr().out
    assert cli.main(["verify", str(chain / "5"), "--steps", "3"]) == 0
    assert "(equal at step 0, 2)" in capsys.readouterr().out
    # That run has trained the model that it started from.
    assert cli.main(["verify", str(chain / "1"), "--steps", "2"]) == 0


@pytest.fixture
def copy(chain, tmp_path) -> Path:
    return shutil.copytree(chain / "3", tmp_path / "copy")


def changed(copy: Path, **values) -> list[str]:
    requests = entries(copy)
    requests[-1].update(values)
    (copy / "forget_ledger.json").write_text(json.dumps({"requests": requests}))
    return ["verify", str(copy), "--steps", "2"]


def test_a_model_that_does_not_follow_from_its_ledger_is_found(copy, capsys):
    steps = {**entries(copy)[-1]["steps"], "2": "0" * 64}
    assert cli.main(changed(copy, steps=steps)) == 3
    assert "NOT VERIFIED: the repeated weights of request 3 first differ at step 2." in (
        capsys.readouterr().out
    )
    weights = load_file(copy / "model.safetensors")
    next(values for values in weights.values() if values.is_floating_point()).mul_(1.001)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert cli.main(changed(copy)) == 3
    assert "are not those that request 3 left" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"versions": {"torch": "1.0"}},
            "the run had other versions; install them to repeat it: torch 1.0, not",
        ),
        ({"data": {"forget": "0" * 64}}, "the data is not that of request 3 (forget)"),
        ({"weights_before": "0" * 64}, "has other weights than those that request 3 started from"),
        ({"processes": 2}, "the run had 2 processes, and this has 1"),
        (
            {"steps": {"0": "0" * 64, "4": "0" * 64}},
            "the ledger has digests only of the steps 4",
        ),
        ({"steps": {}}, "the ledger has no digests of steps"),
        ({"salt": "0" * 16}, "lacks the file .salt of the run"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_in_one_line(copy, capsys, change, message):
    assert cli.main(changed(copy, **change)) == 1
    assert message in capsys.readouterr().err
