"""What is pushed in the tests: models that forgot SPEAKER."""

from pathlib import Path

from tests.support.tiny import make_trainer, tiny_whisper

SPEAKER = "anna-karenina"


def trained(tmp_path, **options):
    arguments = {
        name: options.pop(name) for name in ("peft_config", "eval_dataset") if name in options
    }
    trainer = make_trainer(
        tiny_whisper(),
        tmp_path / "model",
        optimizer=False,
        learning_rate=1e-3,
        arguments=arguments,
        **options,
    )
    trainer.train()
    return trainer


def downloaded(hub, tmp_path, repo="tester/model") -> Path:
    for path, content in hub.files[repo].items():
        target = tmp_path / "downloaded" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return tmp_path / "downloaded"


def files_of(hub, repo="tester/model"):
    return hub.files[repo]
