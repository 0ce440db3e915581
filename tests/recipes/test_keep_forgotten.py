"""`keep_forgotten`: a later request of a recipe keeps what the earlier ones forgot forgotten."""

from pathlib import Path

import pytest

from hf_unlearn.experiments.images import recipe as images
from hf_unlearn.experiments.speech import whisper
from hf_unlearn.privacy.carried_salt import LONG, carry_salt, salt_name
from hf_unlearn.privacy.redaction import pseudonym
from hf_unlearn.report.file_names import UPDATES
from hf_unlearn.report.ledger import write_ledger
from hf_unlearn.trainer.update_sketch import EarlierUpdates
from tests.recipes import recognisers
from tests.recipes.noise import write_noise
from tests.support.tiny_speech import write_noise as write_speech

pytestmark = pytest.mark.slow

OPTIONS = """
train_split: train
test_split: test
retain_size: 2
architecture: vit
image_size: 8
channels: 1
d_model: 8
layers: 1
heads: 2
train_steps: 2
train_batch_size: 8
attacks: false
max_steps: 2
learning_rate: 0.05
max_grad_norm: 0
save_strategy: "no"
report_to: none
disable_tqdm: true
use_cpu: true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("requests")
    write_noise(folder / "pictures", 3, ("ant", "bee", "cat", "dog"))
    (folder / "options.yaml").write_text(OPTIONS)
    return folder


def request(folder: Path, name: str, model: str, output: str, keep: str, **more: str) -> None:
    """One request, by the recipe's command line."""
    options = {"dataset": folder / "pictures", "forget_classes": name, "model": model, **more}
    options |= {"output_dir": folder / output, "keep_forgotten": keep}
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    images.main([str(folder / "options.yaml"), *words])


def logged(capsys) -> str:
    return capsys.readouterr().out


def test_three_requests_in_a_row(folder, capsys):
    request(folder, "ant", "train", "updates-1", "updates")
    assert "previous_loss" not in logged(capsys)
    first = str(folder / "updates-1")
    request(folder, "bee", first, "updates-2", "updates")
    request(folder, "cat", str(folder / "updates-2"), "updates-3", "updates")
    assert [len(EarlierUpdates([folder / f"updates-{n}"])) for n in (1, 2, 3)] == [1, 2, 3]
    capsys.readouterr()
    request(folder, "bee", first, "samples-2", "samples")
    assert "previous_loss" in logged(capsys)
    assert not (folder / "samples-2" / UPDATES).exists()
    with pytest.raises(ValueError, match="there is no .*samples-2.*save_update_sketch"):
        request(folder, "cat", str(folder / "samples-2"), "updates-3", "updates")
    with pytest.raises(ValueError, match="does not work with method='scrub'"):
        request(folder, "cat", first, "scrub", "samples", method="scrub")


def test_samples_that_are_gone_are_not_passed_over(folder):
    if not (folder / "updates-1").exists():
        request(folder, "ant", "train", "updates-1", "updates")
    (folder / "fewer").mkdir()
    write_noise(folder / "fewer" / "pictures", 3, ("bee", "cat", "dog"))
    with pytest.raises(ValueError, match="has no sample of request 1"):
        request(
            folder,
            "bee",
            str(folder / "updates-1"),
            "out",
            "samples",
            dataset=str(folder / "fewer" / "pictures"),
        )


def test_earlier_samples_have_the_form_of_retained_ones(tmp_path, capsys):
    """One batch has both. Augmented speech brings its own inputs of the decoder."""
    data = write_speech(
        tmp_path / "data",
        (
            (f"{speaker}{take}.wav", speaker, "One two.", "test" if take == 2 else "train")
            for speaker in ("abe", "bert", "carl")
            for take in range(3)
        ),
    )
    model = recognisers.saved(recognisers.distil, tmp_path / "model")
    carry_salt("salt", model)
    known = {"request": 1, "column": "speaker", "ids": [pseudonym("abe", "salt", LONG)]}
    write_ledger(model, [{**known, "salt": salt_name("salt"), "weights_after": None}])
    options = {"model": model, "forget_speakers": "bert", "keep_forgotten": "samples"}
    options |= {"augment": 2, "train_hidden_words": 0.3, "attacks": "false"}
    whisper.main(recognisers.flags(data, tmp_path / "out", **options))
    assert "previous_loss" in logged(capsys)


def test_an_unknown_value_of_keep_forgotten_is_refused(folder, capsys):
    with pytest.raises(SystemExit):
        request(folder, "ant", "train", "out", "sample")
    assert "invalid choice: 'sample'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="keep_forgotten is 'sample', but must be samples"):
        images.ImageRecipeArguments(keep_forgotten="sample")
