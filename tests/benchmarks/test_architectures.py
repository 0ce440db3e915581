"""Steps against brute force, for some of the architectures in docs/architectures.md: those for
which the engine has special code."""

import pytest

from tests.benchmarks.architectures import NOISE, row_of


@pytest.mark.parametrize(
    "task, kind, name, options",
    [
        (
            "causal language model",
            "mixtral",
            "MixtralForCausalLM",
            {"experts_implementation": "grouped_mm"},
        ),
        (
            "causal language model",
            "inkling_text",
            "InklingForCausalLM",
            {"experts_implementation": "eager"},
        ),
        ("causal language model", "reformer", "ReformerModelWithLMHead", {}),
        ("image and text", "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", {}),
        ("image and text", "mistral3", "Mistral3ForConditionalGeneration", {}),
        ("image and text", "llava_next", "LlavaNextForConditionalGeneration", {}),
        ("image classification", "levit", "LevitForImageClassification", {}),
    ],
)
def test_a_step_equals_brute_force(task, kind, name, options):
    row = row_of(task, kind, name, options)
    assert row["how"] == "exact", row
    assert float(row["error_parameter"]) < NOISE and float(row["error_model"]) < NOISE
