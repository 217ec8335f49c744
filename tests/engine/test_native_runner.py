"""The network on the kernels equals the network: every family, any cut into steps, any company; and what cannot be lowered is said."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import reference
from helpers.families import KINDS, network, prompt, small
from torch import nn

from openglm import Engine, SamplingParams, generate
from openglm.config import EngineConfig
from openglm.engine.native import NativeRunner, unsupported_reason
from openglm.engine.runner import TorchRunner
from openglm.engine.step import Step
from openglm.kernels import library as lib
from openglm.model.adapters import Prefix
from openglm.quant.layers import QuantizedEmbedding, QuantizedLinear, StoredEmbedding, quantize_model

pytestmark = pytest.mark.skipif(lib.load() is None, reason="the package was installed without its kernels")
PATHS = lib.paths(lib.load()) if lib.load() else []
CACHE = EngineConfig(kv_dtype="float32", step_tokens=64, max_sequences=8)


@pytest.fixture(params=PATHS)
def path(request):
    assert lib.start(lib.load(), request.param, 2)
    yield request.param
    lib.start(lib.load())


def wide(kind, **changes):
    """Small, with heads that the kernels take and widths that fill neither panels nor blocks."""
    return small(kind, **{"hidden": 72, "head_dim": 16, "ffn_hidden": 50, **changes})


def steps_of(config, lengths, chunks, blocks):
    """Steps that feed random sequences of these lengths in chunks; each step with the rows of the result that it brings."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(8, config.vocab_size, n).astype(np.int32) for n in lengths]
    visible = np.array([n // 2 if config.mask == "prefix" else 0 for n in lengths], np.int32)
    positions = [np.stack([np.arange(n), np.maximum(0, np.arange(n) - n // 2)]).astype(np.int32) for n in lengths]
    tables = rng.permutation(blocks).astype(np.int32).reshape(len(lengths), -1)
    cached, steps = np.zeros(len(lengths), np.int32), []
    while (cached < lengths).any():
        active = np.flatnonzero(cached < lengths)
        new = np.minimum(chunks, np.array(lengths) - cached)[active]
        new = np.maximum(new, np.minimum(visible, lengths)[active] - cached[active]).astype(
            np.int32
        )  # part A in one piece
        part = [slice(cached[i], cached[i] + n) for i, n in zip(active, new, strict=True)]
        flat = np.concatenate([ids[i][p] for i, p in zip(active, part, strict=True)])
        where = np.ascontiguousarray(np.concatenate([positions[i][:, p] for i, p in zip(active, part, strict=True)], 1))
        wanted = np.arange(len(flat), dtype=np.int32)
        steps.append(
            (
                Step(
                    flat,
                    where,
                    new,
                    cached[active],
                    visible[active],
                    np.ascontiguousarray(tables[active]),
                    wanted,
                    new * 0,
                ),
                active,
            )
        )
        cached[active] += new
    return ids, positions, visible, steps


def run_all(runner, steps, count):
    rows = [[] for _ in range(count)]
    for step, active in steps:
        for i, part in zip(active, runner.run(step).split(step.new.tolist()), strict=True):
            rows[i].append(part)
    return [torch.cat(r) for r in rows]


def plain_logits(model, ids, positions, visible):
    index = torch.arange(len(ids))
    mask = index < (index[:, None] + 1).clamp_min(int(visible))
    with torch.no_grad():
        return model.project(model(torch.from_numpy(ids)[None], torch.from_numpy(positions)[None], mask[None, None]))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_family(path, kind):
    model = network(wide(kind))
    assert unsupported_reason(model, CACHE) is None
    ids, positions, visible, steps = steps_of(model.config, [5, 16, 33, 50], 64, 16)
    ours = run_all(NativeRunner(model, CACHE, 16), steps, 4)
    for row, *about in zip(ours, ids, positions, visible, strict=True):
        expected = plain_logits(model, *about)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["chatglm-6b", "glm-4-9b-chat"])
def test_quantized_weights(path, kind, bits):
    """Against the same weights in torch with activations rounded as the kernels round them: they are the only difference."""
    model = quantize_model(network(wide(kind, hidden=64, ffn_hidden=96)), bits, 32)
    ids, positions, visible, steps = steps_of(model.config, [7, 40, 3, 11, 5], 64, 20)
    ours, errors = run_all(NativeRunner(model, CACHE, 20), steps, 5), []
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.register_forward_pre_hook(
                lambda _, x: (reference.round_activations(x[0].flatten(0, -2), 32).view_as(x[0]),)
            )
    for row, *about in zip(ours, ids, positions, visible, strict=True):
        expected = plain_logits(model, *about)
        errors.append(float((row - expected).abs().max() / expected.abs().max()))
    # Here and there a rounding falls the other way, by a step of 1 / 127; where none does, the numbers are the same.
    assert max(errors) < 0.05 and sorted(errors)[2] < 1e-5


@pytest.mark.parametrize("bits", [0, 4])
def test_neither_chunks_nor_company_change_a_bit(path, bits):
    model = network(wide("glm-4-9b-chat", hidden=64, ffn_hidden=96))
    model = quantize_model(model, bits, 32) if bits else model
    lengths = [15, 16, 17, 40]
    whole = run_all(NativeRunner(model, CACHE, 16), steps_of(model.config, lengths, 64, 16)[3], 4)
    for chunks in (1, 7, 16):
        parts = run_all(NativeRunner(model, CACHE, 16), steps_of(model.config, lengths, chunks, 16)[3], 4)
        assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_answers_as_the_plain_loop(kind):
    model = network(wide(kind))
    prompts = [prompt(model.config, n, seed) for seed, n in enumerate([5, 21, 16, 30])]
    engine = Engine(model, EngineConfig(max_sequences=3, step_tokens=16, kv_tokens=160))
    assert isinstance(engine.runner, NativeRunner)
    results = engine.generate(prompts, SamplingParams(max_tokens=20, ignore_eos=True))
    assert [r.ids for r in results] == [generate(model, torch.tensor([p]), 20)[0, len(p) :].tolist() for p in prompts]


CHOICES = [
    {}, {"temperature": 1.0}, {"temperature": 1.5, "top_p": 0.8}, {"temperature": 0.9, "top_k": 5, "min_p": 0.01},
    {"logit_bias": {7: 2.0, 9: -5.0}}, {"temperature": 2.0, "logit_bias": {4: 6.0}}, {"temperature": 1.0, "stop_ids": (8, 20, 33, 34, 50)},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_kernels_choose_by_themselves_is_what_is_chosen_step_by_step(path, kind, monkeypatch):
    """Greedy, drawn and biased, to an end or a length, also behind a new <sop>, where positions start anew; a request
    for log-probabilities has every step looked at."""
    model = network(wide(kind))
    prompts = [prompt(model.config, 5 + 2 * seed, seed) for seed in range(14)]
    params = [
        SamplingParams(max_tokens=9 + seed, seed=seed, ignore_eos=seed % 2 == 0, **CHOICES[seed % 7])
        for seed in range(14)
    ]
    config = EngineConfig(max_sequences=5, step_tokens=16, kv_tokens=256)
    looked_at = Engine(model, config).generate(prompts, [dataclasses.replace(each, logprobs=0) for each in params])
    engine, steps = Engine(model, config), []
    go_on = engine.runner.go_on
    monkeypatch.setattr(engine.runner, "go_on", lambda *about: steps.append(len(about[2])) or go_on(*about))
    found = engine.generate(prompts, params)
    assert [(r.ids, r.finish_reason) for r in found] == [(r.ids, r.finish_reason) for r in looked_at]
    assert max(steps) > 1 and {r.finish_reason for r in found} == {"stop", "length"}
    assert not any(engine.pool.counts) and not engine.busy


def test_logits_that_are_no_numbers_are_the_error_of_their_request_alone():
    model = network(wide("glm-4-9b-chat"))
    for block in model.blocks:  # nothing but a row's own token is read
        nn.init.zeros_(block.attention.o_proj.weight), nn.init.zeros_(block.ffn.down_proj.weight)
    model.embedding.weight.data[9] = torch.nan
    good, bad = [10, 11, 12], [10, 11, 9]
    params = SamplingParams(max_tokens=12, ignore_eos=True, logit_bias={9: -1e9})
    alone, *both = (Engine(model).generate(p, params) for p in ([good], [good, bad]))
    assert both[0][1].finish_reason == "error" and "not a number" in both[0][1].error
    assert both[0][0].ids == alone[0].ids


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16, 4, 8])
def test_a_table_that_is_only_looked_up_is_read_where_it_lies(path, stored):
    model = network(wide("glm-4-9b-chat", hidden=64, ffn_hidden=96))
    if isinstance(stored, int):
        model.embedding = QuantizedEmbedding.of(model.embedding, stored, 32)
    else:
        apart = torch.zeros(model.config.vocab_size, 80, dtype=stored)
        apart[:, :64] = model.embedding.weight.data
        model.embedding = StoredEmbedding(apart[:, :64], torch.float32)
    ids, positions, visible, steps = steps_of(model.config, [5, 16], 64, 8)
    for row, *about in zip(run_all(NativeRunner(model, CACHE, 8), steps, 2), ids, positions, visible, strict=True):
        torch.testing.assert_close(row, plain_logits(model, *about), rtol=1e-4, atol=1e-4)


def test_large_blocks_of_the_engine_are_several_of_the_kernels():
    model = network(wide("nano"))
    prompts = [prompt(model.config, n, n) for n in (31, 40)]
    answers = [
        Engine(model, EngineConfig(block_size=size)).generate(prompts, SamplingParams(max_tokens=20, ignore_eos=True))
        for size in (16, 48)
    ]
    assert [r.ids for r in answers[0]] == [r.ids for r in answers[1]]


def test_weights_can_be_given_up_while_they_are_repacked():
    model = quantize_model(network(wide("glm-4-9b-chat", hidden=64, ffn_hidden=96)), 4, 32)
    step = steps_of(model.config, [9], 64, 4)[3][0][0]
    kept = NativeRunner(model, CACHE, 4)
    given = NativeRunner(model, CACHE, 4, keep_weights=False)
    assert torch.equal(kept.run(step), given.run(step))
    assert all(m.codes.numel() == 0 for m in model.modules() if isinstance(m, QuantizedLinear))
    assert model.embedding.codes.numel(), "rows are looked up in it"


def test_no_rows_wanted():
    model = network(wide("nano"))
    step = dataclasses.replace(steps_of(model.config, [9], 64, 4)[3][0][0], wanted=np.zeros(0, np.int32))
    assert NativeRunner(model, CACHE, 4).run(step).shape == (0, model.config.vocab_size)


def with_adapter(model):
    class LowRank(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

    model.blocks[1].attention.q_proj = LowRank(model.blocks[1].attention.q_proj)
    return model


def with_prefix(model):
    c = model.config
    model.prefix = Prefix(*torch.randn(2, c.layers, c.kv_heads, 3, c.head_dim))
    return model


def with_mixed_formats(model):
    block = model.blocks[0].attention
    block.q_proj, block.k_proj = QuantizedLinear.of(block.q_proj, 4, 32), QuantizedLinear.of(block.k_proj, 8, 32)
    block.v_proj = QuantizedLinear.of(block.v_proj, 4, 32)
    return model


@pytest.mark.parametrize(("change", "options", "reason"), [
    (with_adapter, {}, "LowRank"), (with_mixed_formats, {}, "different ways"),
    (lambda m: quantize_model(m, 4, 16), {}, "multiples of 32"), (None, {"block_size": 8}, "block_size is 8"), (None, {"kv_dtype": "bfloat16"}, "bfloat16"),
])  # fmt: skip
def test_what_cannot_be_lowered_is_said(change, options, reason):
    model, config = network(wide("glm-4-9b-chat", hidden=64, ffn_hidden=96)), EngineConfig(**options)
    assert reason in unsupported_reason(change(model) if change else model, config)


def test_narrow_heads_run_on_torch():
    model = network(small("nano"))
    assert "8 wide" in unsupported_reason(model, CACHE)
    assert isinstance(Engine(model).runner, TorchRunner)
