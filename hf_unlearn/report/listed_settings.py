"""The settings that shaped a run's result, which cards and reports list."""

from typing import Any

from .results import Results

# Setting -> the value at which it has no effect and is not listed.
SETTINGS = {
    "per_device_train_batch_size": None,
    "gradient_accumulation_steps": 1,
    "per_device_retain_batch_size": None,
    "per_device_previous_batch_size": None,
    "processes": 1,
    "learning_rate": None,
    "lr_scheduler_type": "constant",
    "lr_scheduler_kwargs": None,
    "warmup_steps": 0,
    "optim": None,
    "optim_args": None,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "forget_objective": "loss",
    "silence_texts": "mixed",
    "unheard_words": 0,
    "max_forget_loss": None,
    "loss_temperature": 1,
    "step_control": "none",
    "max_drift": None,
    "max_steps": -1,
    "num_train_epochs": None,
    "bf16": False,
    "fp16": False,
    "freeze_batch_norm": True,
    "freeze_randomness": True,
    "neftune_noise_alpha": None,
    "trainable": "",
    "keep_forgotten": "none",
    "adapter": None,
    "lora_r": 0,
    "lora_alpha": None,
    "lora_target_modules": None,
    "augment": 0,
    "train_hidden_words": 0,
    "train_shift": 0,
    "forget_windows": 0,
    "train_seconds": None,
    "language": None,
    "task": None,
    "transcripts": None,
}
# Setting -> the one without which it has no effect.
ONLY_WITH = {
    "per_device_previous_batch_size": "keep_forgotten",
    "lora_alpha": "lora_r",
    "lora_target_modules": "lora_r",
    "max_drift": "step_control",
    "train_hidden_words": "augment",
    "train_shift": "augment",
}
# Settings of the method in results without `method_settings`, which older versions wrote.
METHOD_FIELDS = ("alpha", "granularity", "method_kwargs")


def settings_of(results: Results) -> dict[str, str]:
    """The method and all settings that shaped the result, as text; empty if none is known."""
    config = results.config
    values = {name: setting(config, name) for name in SETTINGS}
    if (values["max_steps"] or 0) > 0:
        del values["num_train_epochs"]
    values = {name: value for name, value in values.items() if has_effect(name, value)}
    chosen = {name: value for name, value in values.items() if ONLY_WITH.get(name, name) in values}
    of_method = results.method_settings
    if of_method is None:
        of_method = {name: setting(config, name) for name in METHOD_FIELDS}
    scoring = results.scoring or {}
    listed = {
        "method": setting(config, "method"),
        **of_method,
        **chosen,
        "normalizer": scoring.get("normalizer"),
    }
    return {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in listed.items()
        if value is not None
    }


def has_effect(name: str, value: Any) -> bool:
    return value not in (None, [], {}, SETTINGS[name])


def setting(config: dict[str, Any], name: str) -> Any:
    """A setting in `config` or in one of its groups; None if it is in neither."""
    groups = [config, *(group for group in config.values() if isinstance(group, dict))]
    return next((group[name] for group in groups if name in group), None)
