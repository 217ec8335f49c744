"""Several LoRAs and prefixes over one base: every request gets the tokens of its own model, in one batch."""

import copy
from itertools import pairwise

import pytest
import torch
from helpers.families import network, prompt, small

from openglm import Engine, SamplingParams, generate
from openglm.config import EngineConfig
from openglm.engine.native import NativeRunner
from openglm.kernels import library as lib
from openglm.model.adapters import Lora, Prefix
from openglm.quant.layers import QuantizedWeight, quantize_model

KINDS = ["chatglm-6b", "glm-4-9b-chat", "glm-130b"]
COUNT = 10


def random_prefix(config, length: int, seed: int) -> Prefix:
    draw = torch.Generator().manual_seed(seed)
    return Prefix.of(torch.randn(length, config.layers * 2 * config.kv_heads * config.head_dim, generator=draw), config)


def random_lora(model, seed: int, leaves: tuple[str, ...] = ("q_proj", "v_proj", "down_proj")) -> Lora:
    draw, pairs = torch.Generator().manual_seed(seed), {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear | QuantizedWeight) and name.endswith(leaves):
            rows, columns = layer.weight.shape  # a quantized layer widens its codes for this
            pairs[name] = 0.5 * torch.randn(2, columns, generator=draw), 0.5 * torch.randn(rows, 2, generator=draw)
    return Lora(pairs)


def answer(model, ids: list[int]) -> list[int]:
    return generate(model, torch.tensor([ids]), COUNT)[0, len(ids) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"step_tokens": 8, "kv_tokens": 48}, {"kv_tokens": 48, "draft_tokens": 3, "block_size": 1}]
)
def test_each_request_is_answered_by_its_own_model(hold, kind, options):
    """Against plain generation with the prefix in the model, and with the LoRA's product added to the weights."""
    model = network(small(kind, layers=2)).requires_grad_(False)
    adapters = {
        "short": random_prefix(model.config, 3, 1),
        "long": random_prefix(model.config, 9, 2),
        "one": random_lora(model, 3),
        "two": random_lora(model, 4),
    }
    engine = Engine(
        model, EngineConfig(**{"block_size": 4, "max_sequences": 8, "step_tokens": 64, **options}), adapters=adapters
    )
    expected = {}
    for name in (None, *adapters):
        alone, adapter = copy.deepcopy(model), adapters.get(name)
        if isinstance(adapter, Prefix):
            alone.prefix = adapter
        elif adapter:
            for layer in adapter.names:
                down, up = adapter.pair(layer)
                alone.get_submodule(layer).weight += up @ down
        for length in (7, 16):
            ids = prompt(model.config, length, length)
            for _ in range(2):  # the second shares what the first has left
                expected[
                    engine.add_request(ids, SamplingParams(max_tokens=COUNT, ignore_eos=True, logprobs=0), name)
                ] = alone, ids
    found = {}
    while engine.busy:
        found |= {event.id: event.result for event in engine.step() if event.result}
    for number, (alone, ids) in expected.items():
        hold(alone, ids, found[number], answer(alone, ids))
    said = sorted(r.logprobs[0].logprob for r in found.values())  # each twice, to rounding
    assert sum(after - before > 1e-4 for before, after in pairwise(said)) == 9, "every adapter says something else"
    assert all(r.prompt_tokens in (7, 16) and r.cached_tokens < r.prompt_tokens for r in found.values())
    assert not any(engine.pool.counts) and engine.pool.available == engine.pool.blocks
    again = engine.generate([prompt(model.config, 16, 16)], SamplingParams(max_tokens=COUNT, ignore_eos=True))[0]
    assert again.ids == answer(model, prompt(model.config, 16, 16)), "the base is as it was"


@pytest.mark.skipif(lib.load() is None, reason="the package was installed without its kernels")
@pytest.mark.parametrize(
    ("kind", "kv_dtype"),
    [("chatglm-6b", "float32"), ("glm-4-9b-chat", "int8"), ("glm-4-0414-9b", "float32"), ("glm-130b", "float16")],
)
@pytest.mark.parametrize("bits", [0, 4])
def test_the_kernels_serve_adapters_as_torch_does(kind, kv_dtype, bits):
    """Log-probabilities of the same steps from both runners: LoRAs of different layers, one of them of gates alone, prefixes, and requests without either, in one batch."""
    model = network(small(kind, layers=2, hidden=64, ffn_hidden=96 if bits else 50, head_dim=16)).requires_grad_(False)
    model = quantize_model(model, 4, 32) if bits else model
    gate = "gate_proj" if model.config.gated else "up_proj"
    loras = {"one": random_lora(model, 3), "two": random_lora(model, 4, ("k_proj", "o_proj", gate))}
    adapters = {"long": random_prefix(model.config, 19, 2), **loras, "short": random_prefix(model.config, 3, 1)}
    answers = {}
    for runner in ("torch", "native"):
        engine = Engine(
            model,
            EngineConfig(runner=runner, kv_dtype=kv_dtype, max_sequences=8, step_tokens=16, share_prefixes=False),
            adapters=adapters,
        )
        assert isinstance(engine.runner, NativeRunner) == (runner == "native")
        for name in (None, *adapters):
            engine.add_request(
                prompt(model.config, 13, 5),
                SamplingParams(max_tokens=4, ignore_eos=True, logprobs=0, logit_bias={9: 1e4}),
                name,
            )
        results = {}
        while engine.busy:
            results |= {event.id: event.result for event in engine.step() if event.result}
        answers[runner] = torch.tensor(
            [[one.logprob for one in results[number].logprobs] for number in sorted(results)]
        )
    spread = answers["torch"].std(0).min()
    tolerance = {"float32": 2e-4, "float16": 5e-3, "int8": 5e-2}[kv_dtype] + (
        0.1 if bits else 0
    )  # the kernels round activations to 8 bits beside quantized weights
    assert spread > 2 * tolerance, "the adapters differ by more than the runners may"
    torch.testing.assert_close(answers["native"], answers["torch"], rtol=0, atol=tolerance)


def test_a_models_own_prefix_is_used_without_asking():
    model = network(small("chatglm-6b"))
    model.prefix = random_prefix(model.config, 5, 1)
    ids = prompt(model.config, 9, 1)
    assert Engine(model).generate([ids], SamplingParams(max_tokens=COUNT, ignore_eos=True))[0].ids == answer(model, ids)


@pytest.mark.parametrize("runner", ["torch", "native"])
@pytest.mark.parametrize("bits", [0, 8])
def test_a_models_own_lora_is_used_without_asking(hold, runner, bits):
    """Also where the kernels take the weights over; a LoRA that a request chooses comes on top."""
    if runner == "native" and lib.load() is None:
        pytest.skip("the package was installed without its kernels")
    shape = small("glm-4-9b-chat", layers=2, hidden=64, ffn_hidden=64, head_dim=16)
    model = network(shape).requires_grad_(False)
    model = quantize_model(model, bits, 32) if bits else model
    random_lora(model, 3).attach(model)
    plain, ids = copy.deepcopy(model), prompt(model.config, 9, 1)
    engine = Engine(model, EngineConfig(runner=runner, keep_weights=False, kv_dtype="float32"))
    assert isinstance(engine.runner, NativeRunner) == (runner == "native")
    found = engine.generate([ids], SamplingParams(max_tokens=COUNT, ignore_eos=True, logprobs=0))[0]
    if bits:  # the kernels round activations beside codes
        first = torch.log_softmax(plain.logits(torch.tensor([ids]))[0, -1], -1)
        assert abs(found.logprobs[0].logprob - float(first[found.ids[0]])) < 0.1
        return
    hold(plain, ids, found, answer(plain, ids))
    added = random_lora(plain, 4)
    both = Engine(plain, EngineConfig(kv_dtype="float32"), adapters={"more": added})
    ours = both.generate([ids], SamplingParams(max_tokens=COUNT, ignore_eos=True, logprobs=0), "more")[0]
    merged = copy.deepcopy(plain)
    for layer in added.names:
        down, up = added.pair(layer)
        merged.get_submodule(layer).weight += up @ down
    hold(merged, ids, ours, answer(merged, ids))


def test_adapters_of_another_model_are_refused_by_name():
    model, other = network(small("nano")), network(small("nano", hidden=64, head_dim=16))
    for adapter in (
        random_prefix(other.config, 3, 1),
        random_lora(other, 1),
        Lora({"blocks.9.x": (torch.ones(1, 2), torch.ones(2, 1))}),
    ):
        with pytest.raises(ValueError, match="adapter poet") as error:
            Engine(model, adapters={"poet": adapter})
        assert "\n" not in str(error.value)
    engine = Engine(
        model, EngineConfig(kv_tokens=32, block_size=4), adapters={"poet": random_prefix(model.config, 20, 1)}
    )
    with pytest.raises(ValueError, match=r"unknown; this engine has poet"):
        engine.add_request([8, 2, 4], SamplingParams(), "painter")
    assert "cache of 12" in engine.generate([[8, 2, 4]], SamplingParams(max_tokens=10), "poet")[0].error
