"""The engine under adapters, half precision, checkpointing and attention implementations."""

import peft
import pytest
import torch
import transformers as T
from torch.overrides import wrap_torch_function
from torch.utils.checkpoint import CheckpointError, checkpoint

from hf_unlearn.per_sample import PerSampleEngine
from hf_unlearn.per_sample.check import find_slow_parameters
from tests.per_sample.harness import (
    K,
    Use,
    assert_same_rows,
    differences,
    loss_of,
    numbers,
    randomised,
)
from tests.per_sample.texts import TEXT, tokens
from tests.support.tiny import collate, tiny_whisper, utterances


def llama(**changes):
    return T.LlamaForCausalLM(T.LlamaConfig(**{**TEXT, "num_key_value_heads": 1, **changes}))


CAUSAL = {"task_type": "CAUSAL_LM"}
TARGETS = ["q_proj", "v_proj", "down_proj"]
ADAPTERS = {
    "LoRA": peft.LoraConfig(r=2, target_modules=TARGETS),
    "rsLoRA on every layer, biases too": peft.LoraConfig(
        r=2, target_modules="all-linear", use_rslora=True, bias="lora_only"
    ),
    "LoRA of an embedding": peft.LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"]),
    "DoRA": peft.LoraConfig(r=2, target_modules=TARGETS, use_dora=True),
    "a module saved whole": peft.LoraConfig(
        r=2, target_modules=TARGETS, modules_to_save=["lm_head"]
    ),
    "IA3": peft.IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]),
    "VeRA": peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "LoKr": peft.LoKrConfig(r=2, target_modules=TARGETS),
    "OFT": peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
    "BOFT": peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj"]),
    "LayerNorm tuning": peft.LNTuningConfig(target_modules=["input_layernorm", "norm"]),
    "prompt tuning": peft.PromptTuningConfig(num_virtual_tokens=3, **CAUSAL),
    "P-tuning": peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, **CAUSAL),
    "prefix tuning": peft.PrefixTuningConfig(num_virtual_tokens=3, **CAUSAL),
}


def adapted(config):
    model = peft.get_peft_model(llama(), config)
    # Adapters start at zero.
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@pytest.mark.parametrize("name", ADAPTERS)
def test_rows_equal_brute_force_with_adapters(name):
    assert not differences(adapted(ADAPTERS[name]), tokens())


SLOW_ADAPTERS = {
    "LoHa, in an autograd function": peft.LoHaConfig(r=2, target_modules=["q_proj"]),
}


@pytest.mark.parametrize("name", SLOW_ADAPTERS)
def test_adapters_that_take_the_slow_path(name):
    model = adapted(SLOW_ADAPTERS[name])
    slow = set(find_slow_parameters(model, loss_of(model), tokens(), K))
    assert slow and not differences(model, tokens(), slow)


def test_the_extra_loss_of_adalora_is_found():
    model = adapted(peft.AdaLoraConfig(target_modules=TARGETS, total_step=10, **CAUSAL))
    slow = find_slow_parameters(model, loss_of(model), tokens(), K)
    assert all("not the mean" in reason for reason in slow.values()) and slow


def taps(loss) -> int:
    """How many recorded calls are in the graph of a loss."""
    seen, nodes = set(), [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
    return sum(node.name() == "TapBackward" for node in seen)


def test_frozen_parts_are_not_recorded():
    """Calls without trainable parameters are not recorded."""
    model = randomised(llama())
    for name, p in model.named_parameters():
        p.requires_grad_("layers.1" in name)
    engine, shown, batch = PerSampleEngine(model), [], tokens()
    with engine.record(K):
        loss = loss_of(model)(batch)
    assert taps(loss) == sum(p.requires_grad for p in model.parameters())
    engine.backward(loss.backward, lambda rows: shown.append(rows.parameter))
    assert {id(p) for p in shown} == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_rows_equal_brute_force_with_each_attention(attention):
    assert not differences(randomised(llama(attn_implementation=attention)), tokens())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("adapter", [None, "LoRA"])
def test_rows_equal_brute_force_with_checkpointing(reentrant, adapter):
    model = randomised(tiny_whisper(use_cache=False, encoder_layers=2, decoder_layers=2))
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if adapter:
        model.enable_input_require_grads()
        model = peft.get_peft_model(
            model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        )
    assert not differences(model.train(), collate(utterances(K)))


def test_a_layer_that_is_recomputed_differently_takes_the_slow_path(monkeypatch):
    def backward(*arguments, **keywords):
        raise CheckpointError("A different number of tensors was saved")

    monkeypatch.setattr(PerSampleEngine, "backward", backward)
    model = randomised(tiny_whisper())
    slow = find_slow_parameters(model, loss_of(model), collate(utterances(K)), K)
    assert set(slow) == {name for name, p in model.named_parameters() if p.requires_grad}


def test_a_parameter_that_checkpointed_layers_share_is_given_up():
    """The layer that is recomputed after that is recorded as it was in the forward pass."""

    def layers(x, bias, first, last):
        def layer(x, linear):
            return torch.tanh(without_rule(linear(x), bias))

        for linear in (first, last):
            x = checkpoint(layer, x, linear, use_reentrant=False)
        return x

    @wrap_torch_function(lambda x, bias: (x, bias))
    def without_rule(x, bias):
        """Needs a number, so that it does not vectorise."""
        return x + bias * float(x.isfinite().all())

    use = Use(layers, torch.randn(4), first=torch.nn.Linear(4, 4), last=torch.nn.Linear(4, 4))
    assert_same_rows(use, numbers(4), slow={"parts.0"})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_equal_brute_force_with_autocast(dtype):
    """Rows differ from samples alone by rounding only, and no parameter takes the slow path."""
    model, batch = randomised(tiny_whisper()), collate(utterances(K))
    assert not find_slow_parameters(model, loss_of(model, dtype), batch, K, dtype)
    assert not differences(
        model, batch, tolerance=0.1 if dtype == torch.bfloat16 else 0.02, dtype=dtype
    )


def test_no_parameter_is_slow_in_half_precision():
    model = randomised(llama()).to(torch.bfloat16)
    assert not find_slow_parameters(model, loss_of(model), tokens(), K, torch.bfloat16)
