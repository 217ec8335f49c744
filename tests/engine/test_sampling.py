"""Choices follow the distribution that was asked for, and belong to one request alone."""

import math

import numpy as np
import pytest
import torch
from helpers.families import prompt, small
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm import Engine, SamplingParams
from openglm.config import EngineConfig
from openglm.engine.sampling import Sampler, draw, logprob
from openglm.engine.speculate import PromptLookup
from openglm.kernels import library as lib

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0, 0.5, -math.inf, 1.5])


def kernels_choose(logits: np.ndarray, params: SamplingParams, uniform: float) -> int:
    """The choice of the kernels, which `draw` defines."""
    logits = np.ascontiguousarray(logits)
    return lib.load().glm_choose(logits.ctypes.data, len(logits), Sampler(params, [], 0, None).choice, uniform)


CHOOSERS = [draw, *([kernels_choose] if lib.load() else [])]


def expected(logits: torch.Tensor, p: SamplingParams) -> torch.Tensor:
    """The distribution by its definition, with whole sorts and loops."""
    values = ((logits - logits.max()) / p.temperature).double()
    order = values.argsort(descending=True).tolist()
    keep = [t for t in order if values[t] - values.max() >= (math.log(p.min_p) if p.min_p else -math.inf)]
    keep = keep[: p.top_k] if p.top_k else keep
    total, mass, nucleus = sum(math.exp(values[t]) for t in keep), 0.0, []
    for t in keep:
        if mass >= p.top_p * total:
            break
        nucleus.append(t)
        mass += math.exp(values[t])
    out = torch.zeros(len(logits), dtype=torch.float64)
    out[nucleus] = values[nucleus].exp()
    return out / out.sum()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.3},
        {"top_k": 3},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"top_k": 5, "top_p": 0.9, "min_p": 0.02},
        {"temperature": 1e-9},
        {"temperature": 1e6},
    ],
)
@pytest.mark.parametrize("choose", CHOOSERS)
def test_the_unit_interval_is_cut_into_the_right_lengths(choose, options):
    """Every token owns as much of [0, 1) as its probability: an even grid of numbers is as good as infinitely many draws."""
    p, steps = SamplingParams(**{"temperature": 1.0, **options}), 1000
    counts = torch.zeros(len(LOGITS), dtype=torch.float64)
    for i in range(steps):
        counts[choose(LOGITS.numpy(), p, (i + 0.5) / steps)] += 1
    torch.testing.assert_close(counts / steps, expected(LOGITS, p), rtol=0, atol=2 / steps)


@pytest.mark.parametrize("choose", CHOOSERS)
@given(
    st.lists(st.integers(-99, 99).map(lambda i: i / 4), min_size=2, max_size=40),
    st.sampled_from([0.0, 1.0 - 2**-53]),
    st.floats(0.01, 1.0),
)
@settings(max_examples=100, deadline=None)
def test_the_ends_of_the_interval_give_tokens_that_have_probability(choose, values, uniform, top_p):
    logits = torch.tensor([-math.inf, *values, -math.inf])
    p = SamplingParams(temperature=0.7, top_p=top_p)
    assert logits[choose(logits.numpy(), p, uniform)] >= logits[expected(logits, p) > 0].min()  # of equal ones, any


OPTIONS = [{}, {"top_k": 40}, {"top_p": 0.9}, {"top_p": 0.9999999}, {"min_p": 0.01}, {"top_k": 900, "top_p": 0.7}]


@pytest.mark.skipif(len(CHOOSERS) < 2, reason="the package was installed without its kernels")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("spread", [0.1, 1.0, 8.0])
def test_the_kernels_choose_what_the_definition_chooses(spread, options):
    """In a large vocabulary of an odd size, with forbidden tokens: the same, but where a number lies on a border."""
    rng = np.random.default_rng(0)
    logits = (spread * rng.standard_normal(5003)).astype(np.float32)
    logits[rng.integers(0, 5003, 500)] = -np.inf
    p = SamplingParams(temperature=0.8, **options)
    uniforms = rng.random(300)
    pairs = [(kernels_choose(logits, p, u), draw(logits, p, u)) for u in uniforms]
    assert sum(a != b for a, b in pairs) <= 2
    assert not np.isinf(logits[[a for a, _ in pairs]]).any()


@pytest.mark.parametrize("choose", CHOOSERS)
def test_the_largest_numbers_that_requests_may_have(choose):
    """As many as no vocabulary has; a bias that no float holds draws its token all the same."""
    logits = torch.randn(500, generator=torch.Generator().manual_seed(0))
    plain, most = SamplingParams(temperature=1.0), SamplingParams(temperature=1.0, top_k=1 << 31)
    assert [choose(logits.numpy(), most, u / 9) for u in range(9)] == [
        choose(logits.numpy(), plain, u / 9) for u in range(9)
    ]
    biased = Sampler(SamplingParams(temperature=1.0, logit_bias={7: 1e300, 8: -1e300}), [0], 500, None)
    assert biased.sample(logits, int(logits.argmax()), float(logits.max())) == 7


@pytest.mark.skipif(len(CHOOSERS) < 2, reason="the package was installed without its kernels")
@pytest.mark.parametrize("place", [0, 17, 1001])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_the_kernels_choose_nothing_where_logits_are_no_numbers(place, wrong):
    logits = np.zeros(1002, np.float32)
    logits[place] = wrong
    assert [kernels_choose(logits, SamplingParams(temperature=t), 0.5) for t in (0.0, 1.0)] == [-1, -1]
    assert kernels_choose(np.full(9, -np.inf, np.float32), SamplingParams(), 0.5) == -1


def test_penalties_and_bias_by_their_formulas():
    p = SamplingParams(repetition_penalty=2.0, frequency_penalty=0.3, presence_penalty=0.7, logit_bias={4: 5.0})
    sampler = Sampler(p, [0, 3], 8, None)
    for token in (1, 1, 5):
        sampler.accept(token)
    out = sampler._changed(LOGITS.clone())
    # The prompt counts for the repetition penalty alone; positive logits are divided, negative ones multiplied.
    torch.testing.assert_close(
        out, torch.tensor([1.0, 0.5 - 0.6 - 0.7, 0.0, -2.0, 2.0, 0.25 - 0.3 - 0.7, -math.inf, 1.5])
    )


@given(st.lists(st.integers(-3, 3), min_size=6, max_size=6), st.dictionaries(st.integers(0, 5), st.integers(-4, 4)))
def test_a_bias_moves_the_likeliest_token_where_its_sums_say_so(values, bias):
    """Also where the row is not read again, for the bias only lowers other tokens; of equals the first is taken."""
    logits = torch.tensor(values, dtype=torch.float32)
    sums = [value + bias.get(token, 0) for token, value in enumerate(values)]
    sampler = Sampler(SamplingParams(logit_bias={token: float(b) for token, b in bias.items()}), [0], 6, None)
    found = sampler.sample(logits, int(logits.argmax()), float(logits.max()))
    assert found == sums.index(max(sums))


def test_logprobs_are_of_the_models_own_distribution():
    found = logprob(LOGITS, 2, 3)
    logs = torch.log_softmax(LOGITS, -1)
    assert found.token == 2 and math.isclose(found.logprob, logs[2], abs_tol=1e-6)
    assert list(found.top) == [0, 7, 1] and all(math.isclose(v, logs[t], abs_tol=1e-6) for t, v in found.top.items())


def engine_of(models, kind: str, **options) -> Engine:
    return Engine(models(kind), EngineConfig(**{"block_size": 4, "max_sequences": 8, "step_tokens": 64, **options}))


SAMPLED = [
    {"temperature": 1.0}, {"temperature": 2.0, "top_p": 0.9}, {"temperature": 0.7, "top_k": 8, "min_p": 0.05},
    {"temperature": 1.0, "repetition_penalty": 1.3, "frequency_penalty": 0.4}, {"temperature": 0.0, "presence_penalty": 2.0},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["chatglm-6b", "glm-4-9b-chat"])
def test_a_seeded_answer_does_not_depend_on_company_preemption_or_drafts(models, kind):
    """Alone, in a crowd, preempted for want of blocks, and drafted ahead: the same tokens. Another seed: others."""
    ids = [prompt(small(kind), n, n) for n in (6, 13, 9, 20, 7)]
    params = [SamplingParams(max_tokens=14, ignore_eos=True, seed=i, **options) for i, options in enumerate(SAMPLED)]
    alone = [
        engine_of(models, kind).generate([prompt_ids], one)[0].ids for prompt_ids, one in zip(ids, params, strict=True)
    ]
    for options in ({}, {"kv_tokens": 40}, {"draft_tokens": 4}, {"kv_tokens": 40, "draft_tokens": 4, "step_tokens": 9}):
        assert [r.ids for r in engine_of(models, kind, **options).generate(ids, params)] == alone
    other = SamplingParams(max_tokens=14, ignore_eos=True, seed=99, temperature=1.0)
    assert engine_of(models, kind).generate([ids[0]], other)[0].ids != alone[0]


def test_drafts_are_accepted_where_a_text_repeats_itself(models):
    """The same tokens in fewer steps."""
    kind = "glm-4-9b-chat"
    ids = prompt(small(kind), 8, 3)
    loop = SamplingParams(max_tokens=40, ignore_eos=True, logit_bias={20: 1e4})
    steps = {}
    for draft in (0, 4):
        engine = engine_of(models, kind, draft_tokens=draft)
        engine.add_request(ids, loop)
        steps[draft], tokens = 0, []
        while engine.busy:
            steps[draft] += 1
            tokens += [e.token for e in engine.step()]
        assert tokens == [20] * 40
    assert steps[0] == 40 and steps[4] <= 14


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_a_draft_is_what_followed_the_latest_equal_run(ids, most):
    """By definition: look back for the three last tokens, and read on."""
    draft = PromptLookup(ids[:1], most).draft(ids, most, never=None)
    ends = [end for end in range(3, len(ids)) if ids[end - 3 : end] == ids[-3:]]
    whole = list(ids)
    for _ in range(most if ends else 0):
        whole.append(whole[ends[-1] + len(whole) - len(ids)])
    assert draft == whole[len(ids) :]
    assert 1 not in PromptLookup(ids, most).draft(ids, most, never=1)


def test_stop_ids_and_logprobs_of_a_whole_request(models, plain):
    kind = "glm-4-9b-chat"
    ids = prompt(small(kind), 8, 3)
    answer = plain(kind, ids, 10)
    stop = answer[4]
    result = engine_of(models, kind).generate(
        [ids], SamplingParams(max_tokens=10, ignore_eos=True, stop_ids=(stop,), logprobs=2)
    )[0]
    assert result.ids == answer[: answer.index(stop) + 1] and result.finish_reason == "stop"
    whole = torch.log_softmax(models(kind).logits(torch.tensor([ids + result.ids]))[0], -1)
    for index, one in enumerate(result.logprobs, len(ids) - 1):
        assert math.isclose(one.logprob, whole[index, one.token], abs_tol=1e-4) and next(iter(one.top)) == one.token


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
        "seed",
        "logprobs",
    ],
)
@pytest.mark.parametrize("value", [-1, 2**65, 1e308, -1e308, math.nan, math.inf, True, "1", [1]])
def test_numbers_out_of_range_name_their_option(name, value):
    if name in ("frequency_penalty", "presence_penalty") and value == -1:
        return  # a reward
    with pytest.raises(ValueError, match=name) as error:
        SamplingParams(**{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0}, {"temperature": -0.1}, {"top_p": 0}, {"stop": [""]}, {"stop": "x" * 5000}, {"stop": ["x"] * 99}, {"stop": [3]}, {"logit_bias": {1: math.nan}},
        {"schema": {}, "regex": "a"},
    ],
)  # fmt: skip
def test_wrong_params_are_one_line(options):
    with pytest.raises(ValueError, match=list(options)[-1]) as error:
        SamplingParams(**options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_k": 3}, {"min_p": 0.1}], ids=str)
def test_the_smallest_temperatures_take_the_likeliest(options):
    logits = torch.tensor([1.0, 3.0, 2.0, -torch.inf])
    for temperature in (5e-324, 2.2e-308, 1e-40, 1e-9):
        assert draw(logits.numpy(), SamplingParams(temperature=temperature, **options), 0.5) == 1
