"""Cards and reports list the settings that shaped a result."""

from hf_unlearn.report.listed_settings import settings_of
from hf_unlearn.report.results import Results


def test_settings_are_those_that_shaped_the_result():
    recipe = {
        "trainable": "",
        "keep_forgotten": "none",
        "lora_r": 0,
        "lora_alpha": 64,
        "lora_target_modules": ["q_proj"],
    }
    trainer = {
        "method": "scrub",
        "alpha": 0.5,
        "granularity": "parameter",
        "method_kwargs": {"msteps": 1},
        "learning_rate": 1e-4,
        "max_steps": 60,
        "num_train_epochs": 3.0,
        "gradient_accumulation_steps": 1,
        "weight_decay": 0.0,
        "bf16": True,
        "step_control": "none",
        "max_drift": 0.02,
    }
    results = {
        "config": {"recipe": recipe, "trainer": trainer},
        "method_settings": {"temperature": 4.0, "msteps": 1},
    }
    assert settings_of(Results.from_dict(results)) == {
        "method": "scrub",
        "temperature": "4.0",
        "msteps": "1",
        "learning_rate": "0.0001",
        "max_steps": "60",
        "bf16": "True",
    }
    recipe["lora_r"], trainer["max_steps"] = 8, -1
    more = settings_of(Results.from_dict(results))
    assert (more["lora_r"], more["lora_target_modules"], more["num_train_epochs"]) == (
        "8",
        "q_proj",
        "3.0",
    )
    assert "max_drift" not in more
    recipe["keep_forgotten"] = "samples"
    assert settings_of(Results.from_dict(results))["keep_forgotten"] == "samples"
    trainer["step_control"] = "drift"
    controlled = settings_of(Results.from_dict(results))
    assert (controlled["step_control"], controlled["max_drift"]) == ("drift", "0.02")
    # results.json of an older version
    earlier = settings_of(Results.from_dict({**results, "method_settings": None}))
    assert earlier["method_kwargs"] == "{'msteps': 1}"
    assert settings_of(Results()) == {}
