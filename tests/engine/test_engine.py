"""The engine gives every request the tokens of the plain loop, whoever else is served and however often it is interrupted."""

import pytest
import torch
from helpers.families import KINDS, TOKENS, model_of, network, plain_answer, prompt, small
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm import Engine, SamplingParams, generate
from openglm.config import EngineConfig
from openglm.engine.engine import room
from openglm.engine.native import unsupported_reason
from openglm.model.adapters import Prefix


def greedy(count: int, **options) -> SamplingParams:
    return SamplingParams(**{"max_tokens": count, "ignore_eos": True, "logprobs": 0, **options})


def prompts_of(kind: str, lengths: list[int]) -> list[list[int]]:
    return [prompt(small(kind), n, seed) for seed, n in enumerate(lengths)]


def engine_of(models, kind: str, **options) -> Engine:
    return Engine(models(kind), EngineConfig(**{"block_size": 4, "max_sequences": 8, "step_tokens": 64, **options}))


def assert_all_free(engine: Engine) -> None:
    """No block is lost and none is counted for anybody."""
    assert not any(engine.pool.counts) and engine.pool.available == engine.pool.blocks and not engine.busy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="batched"),
        pytest.param({"step_tokens": 8}, id="chunked"),
        pytest.param({"kv_tokens": 40, "block_size": 2, "share_prefixes": False}, id="preempted"),
        pytest.param({"draft_tokens": 4}, id="speculating"),
        pytest.param({"step_tokens": 8, "kv_tokens": 40, "draft_tokens": 3, "block_size": 1}, id="all of it"),
    ],
)
def test_tokens_are_those_of_the_plain_loop(models, plain, hold, kind, options):
    prompts = prompts_of(kind, [5, 21, 9, 3, 30])
    engine, preempted = engine_of(models, kind, **options), []
    preempt = engine.scheduler._preempt
    engine.scheduler._preempt = lambda request: preempted.append(request.id) or preempt(request)
    results = engine.generate(prompts, greedy(9))
    for ids, result in zip(prompts, results, strict=True):
        hold(models(kind), ids, result, plain(kind, ids, 9))
    assert {r.finish_reason for r in results} == {"length"} and bool(preempted) == ("kv_tokens" in options)
    assert_all_free(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_serve_alike(hold, kind):
    """The same scheduler over the other runner: batched, chunked, preempted, shared and guessed ahead at once."""
    model = network(small(kind, layers=2, head_dim=16))
    config = EngineConfig(
        runner="native", max_sequences=4, step_tokens=24, kv_tokens=80, draft_tokens=3, kv_dtype="float32"
    )
    if unsupported_reason(model, config):
        pytest.skip(unsupported_reason(model, config))
    engine = Engine(model, config)
    prompts = prompts_of(kind, [5, 40, 17, 3, 33])
    expected = [generate(model, torch.tensor([ids]), 9)[0, len(ids) :].tolist() for ids in prompts]
    for ids, answer, result in zip(prompts, expected, engine.generate(prompts, greedy(9)), strict=True):
        hold(model, ids, result, answer)
    for _ in range(2):
        again = engine.generate([prompts[4]], greedy(9))[0]
        hold(model, prompts[4], again, expected[4])
    assert again.cached_tokens == 32
    assert_all_free(engine)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [3, 4, 5, 8, 9])
def test_a_full_prefix_hit_changes_nothing(models, plain, hold, kind, length):
    """Lengths of exactly one block or two, one more and one less; the second time all full blocks but the last token's are shared."""
    engine, (text,) = engine_of(models, kind), prompts_of(kind, [length])
    first, second = (engine.generate([text], greedy(6))[0] for _ in range(2))
    for result in (first, second):
        hold(models(kind), text, result, plain(kind, text, 6))
    assert (first.cached_tokens, second.cached_tokens) == (0, (length - 1) // 4 * 4)
    assert_all_free(engine)


@pytest.mark.parametrize("kind", ["glm-4-9b-chat", "chatglm-6b", "nano"])
def test_a_beginning_is_shared_only_where_its_keys_are_the_same(models, plain, hold, kind):
    """Two prompts that begin alike share blocks in a causal model; where part A is read both ways, they must be alike to its end."""
    engine, (text,) = engine_of(models, kind), prompts_of(kind, [18])
    other = [*text[:12], 60, *text[13:]]
    longer = [*text, *plain(kind, text, 8)]
    found = {}
    for name, ids in (("text", text), ("other", other), ("longer", longer)):
        result = engine.generate([ids], greedy(6))[0]
        hold(models(kind), ids, result, plain(kind, ids, 6))
        found[name] = result.cached_tokens
    causal = models(kind).config.mask == "causal"
    assert found == {
        "text": 0,
        "other": 12 if causal else 0,
        "longer": 20,
    }  # 18 of the prompt and 5 of the answer were kept


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step_tokens", [8, 64])
def test_a_group_that_comes_together_reads_its_question_once(models, plain, hold, kind, step_tokens):
    """Several answers to each of two questions, asked in one call: of each question the first answer alone computes the
    full blocks, though none was known when all of them came."""
    questions, group = prompts_of(kind, [18, 13]), 3
    prompts = [ids for ids in questions for _ in range(group)]
    engine = engine_of(models, kind, step_tokens=step_tokens)
    results = engine.generate(prompts, greedy(6))
    for ids, result in zip(prompts, results, strict=True):
        hold(models(kind), ids, result, plain(kind, ids, 6))
    assert [result.cached_tokens for result in results] == [0, 16, 16, 0, 12, 12]
    assert_all_free(engine)


def test_adapters_do_not_share_beginnings():
    from openglm.engine.request import Request

    config = small("glm-4-9b-chat")
    one, two = (Request(0, [8, 9, 10, 11], greedy(1), config, adapter) for adapter in (0, 1))
    assert one.root != two.root


@pytest.mark.parametrize("kind", ["glm-10b", "glm-130b", "chatglm-6b", "chatglm-6b-first", "nano", "nano, gapped"])
@pytest.mark.parametrize("context", [
    [10, TOKENS["mask"], 12, 13, 14, 15, TOKENS["smask"], 17], [TOKENS["gmask"]], [10, TOKENS["mask"], TOKENS["gmask"]], [TOKENS["mask"], *range(10, 20)]])  # fmt: skip
def test_blanks_in_the_middle_and_several_spans(models, plain, hold, kind, context):
    """A prompt that already holds spans, and an answer that opens new ones: positions are those of the whole text."""
    spans = [*context, TOKENS["sop"], 20, 21, 22, TOKENS["sop"], 23]
    prompts = [[*context, TOKENS["sop"]], spans]
    opens = greedy(7, logit_bias={TOKENS["sop"]: 1e4})  # every new token opens a span
    engine = engine_of(models, kind, draft_tokens=2, step_tokens=8)
    for ids in prompts:
        hold(models(kind), ids, engine.generate([ids], greedy(10))[0], plain(kind, ids, 10))
        forced = [*ids, *engine.generate([ids], opens)[0].ids]
        assert forced[len(ids) :] == [TOKENS["sop"]] * 7
        hold(models(kind), forced, engine.generate([forced], greedy(5))[0], plain(kind, forced, 5))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_tracked_positions_are_those_of_describe(kind, data):
    """Token by token, whatever the tokens: the positions equal the ones that the rule gives for the whole text."""
    from openglm.engine.request import PositionTracker
    from openglm.model.positions import describe

    config = small(kind)
    token = st.sampled_from([*TOKENS.values(), 20, 21])
    head = data.draw(st.lists(token.filter(lambda t: t != TOKENS["sop"]), max_size=6)) + [
        data.draw(st.sampled_from([TOKENS["gmask"], TOKENS["mask"]]))
    ]
    ids = [*head, TOKENS["sop"]]
    tracker = PositionTracker(ids, config)
    for new in data.draw(st.lists(token, max_size=12)):
        ids.append(new)
        tracker.extend_to(len(ids) + data.draw(st.integers(0, 2)))  # as drafts do
        if new == TOKENS["sop"] and config.fills_blanks:
            tracker.restart(ids)
    tracker.extend_to(len(ids))
    expected, mask = describe(torch.tensor([ids]), None, config)
    assert [tracker.text[: len(ids)], tracker.block[: len(ids)]] == expected[0].tolist()
    visible = len(head) if config.mask == "prefix" else 0
    index = torch.arange(len(ids))
    assert torch.equal(mask[0, 0], index[None] < torch.maximum(torch.tensor(visible), index[:, None] + 1))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_schedule_gives_the_same_tokens_and_loses_no_block(models_cached, data):
    """Requests arrive, are cancelled, preempted, chunked, shared and guessed ahead in any order, in a cache that holds two of them."""
    models, plain = models_cached
    kind = data.draw(st.sampled_from(["chatglm-6b", "glm-4-9b-chat", "nano"]))
    engine = engine_of(
        models, kind, kv_tokens=data.draw(st.integers(36, 60)), step_tokens=data.draw(st.sampled_from([4, 7, 64])), max_sequences=4,
        block_size=data.draw(st.sampled_from([1, 3, 4])), draft_tokens=data.draw(st.sampled_from([0, 3])))  # fmt: skip
    pool = prompts_of(kind, [3, 8, 9, 17, 24])
    pool.append([*pool[3], *pool[1]])
    asked: dict[int, list[int]] = {}
    ended, events = {}, 0
    for action in (
        data.draw(st.lists(st.sampled_from(["add", "add", "step", "step", "step", "cancel"]), max_size=30))
        + ["step"] * 2000
    ):
        if action == "add":
            ids = data.draw(st.sampled_from(pool))
            asked[engine.add_request(ids, greedy(10))] = ids
        elif action == "cancel" and engine.busy:
            number = data.draw(st.sampled_from(sorted(set(asked) - set(ended))))
            before = engine.pool.available
            ended[number] = engine.cancel(number)
            assert engine.pool.available >= before
        elif action == "step":
            for event in engine.step():
                events += event.token is not None
                if event.result:
                    ended[event.id] = event.result
            if not engine.busy and len(ended) == len(asked):
                break
        running, waiting = ([s.id for s in line] for line in (engine.scheduler.running, engine.scheduler.waiting))
        assert running + waiting == sorted(running + waiting), "the older ones are served first"
        held = {b for s in engine.scheduler.running for b in s.blocks}
        assert min(engine.pool.counts) >= 0 and engine.pool.available == engine.pool.blocks - len(held)
    for number, ids in asked.items():
        answer = plain(kind, ids, 10)
        assert ended[number].ids == (
            answer if ended[number].finish_reason == "length" else answer[: len(ended[number].ids)]
        )
    assert events == sum(len(r.ids) for r in ended.values())
    assert_all_free(engine)


@pytest.fixture(scope="module")
def models_cached():
    return model_of, lambda kind, ids, count: plain_answer(kind, tuple(ids), count)


def test_first_come_first_served(models):
    """With room for two at once, requests start in the order in which they came, whatever their length, and none waits for ever."""
    kind = "glm-4-9b-chat"
    engine = engine_of(models, kind, max_sequences=2, kv_tokens=40)
    numbers = [engine.add_request(ids, greedy(6)) for ids in prompts_of(kind, [30, 4, 24, 4, 4])]
    first_tokens = []
    while engine.busy:
        for event in engine.step():
            if event.id not in first_tokens:
                first_tokens.append(event.id)
    assert first_tokens == numbers


def test_answers_go_on_while_a_long_prompt_is_read(models):
    """Chunked prefill: with a budget of 8 tokens a step, a growing answer gets a token in every step."""
    engine = engine_of(models, "glm-4-9b-chat", step_tokens=8)
    short = engine.add_request([8, 9, 2, 4], greedy(20))
    engine.step()
    engine.add_request(prompts_of("glm-4-9b-chat", [40])[0], greedy(2))
    for _ in range(5):
        assert [e.id for e in engine.step()] == [short]


def test_cancelling_frees_the_blocks_at_once_and_keeps_the_answer_so_far(models, plain):
    engine, (text,) = engine_of(models, "nano"), prompts_of("nano", [10])
    number, waiting = engine.add_request(text, greedy(20)), engine.add_request(text[:5] + [2, 4], greedy(20))
    for _ in range(4):
        engine.step()
    assert engine.cancel(number).ids == plain("nano", text, 4)
    assert engine.cancel(number) is None
    assert engine.cancel(waiting).finish_reason == "cancelled"
    assert_all_free(engine)


def test_a_stream_is_the_answer_and_a_reader_who_leaves_frees_it(models, plain):
    engine, (a, b) = engine_of(models, "chatglm-6b"), prompts_of("chatglm-6b", [10, 14])
    one, two = engine.stream(a, greedy(8)), engine.stream(b, greedy(8))
    mixed = [(next(one), next(two)) for _ in range(8)]
    assert [x.token for x, _ in mixed] == plain("chatglm-6b", a, 8) and [y.token for _, y in mixed] == plain(
        "chatglm-6b", b, 8
    )
    assert mixed[-1][0].result.ids == plain("chatglm-6b", a, 8)
    three = engine.stream(a, greedy(8))
    next(three)
    three.close()
    assert_all_free(engine)


def test_a_request_that_is_not_a_number_fails_alone(models, plain):
    """NaN in the embedding of one token spoils the request that holds it, not its neighbours, nor who gets its blocks later."""
    import copy

    for kind in ("glm-4-9b-chat", "chatglm-6b"):
        model = copy.deepcopy(models(kind))
        assert not model.config.tied  # a NaN in a tied table would be in everybody's logits
        model.requires_grad_(False).embedding.weight[63] = float("nan")
        good = [[t if t != 63 else 62 for t in ids] for ids in prompts_of(kind, [5, 9, 14])]
        bad = [8, 63, 9, 10, 2, 4]
        engine = Engine(model, EngineConfig(block_size=4, kv_tokens=40, max_sequences=3, step_tokens=64))
        for _ in range(2):
            results = engine.generate([good[0], bad, good[1], good[2]], greedy(6, logit_bias={63: -1e4}))
            assert (
                results[1].finish_reason == "error"
                and "not a number" in results[1].error
                and "\n" not in results[1].error
            )
            assert [r.ids for r in (results[0], results[2], results[3])] == [plain(kind, p, 6) for p in good]
        assert_all_free(engine)


@pytest.mark.parametrize(
    "ids,params,options,word",
    [
        ([], {}, {}, "at least one"), ([64], {}, {}, "vocabulary of 64"), ([-1], {}, {}, "vocabulary"), (["a"], {}, {}, "token ids"), ([1.5], {}, {}, "token ids"),
        ([8] * 60, {"max_tokens": 5}, {}, "context of 64"), ([8] * 30, {"max_tokens": 11}, {"kv_tokens": 40}, "cache of 40"),
        ([8], {"stop_ids": (64,)}, {}, "stop_ids"), ([8], {"logit_bias": {99: 1.0}}, {}, "logit_bias"), ([8], {"stop": "x"}, {}, "tokenizer"),
        ([8], {"regex": "a"}, {}, "tokenizer"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_an_error_of_its_own(models, plain, ids, params, options, word):
    kind = "glm-4-9b-chat"
    engine, (good,) = engine_of(models, kind, **options), prompts_of(kind, [6])
    results = engine.generate(
        [good, ids, good],
        [
            greedy(4),
            greedy(**{"count": 4, **params} if "max_tokens" not in params else {"count": params["max_tokens"]}),
            greedy(4),
        ],
    )
    assert [r.ids for r in results] == [plain(kind, good, 4), [], plain(kind, good, 4)]
    assert results[1].finish_reason == "error" and word in results[1].error and "\n" not in results[1].error
    with pytest.raises(ValueError, match=word):
        engine.add_request(ids, SamplingParams(**{"max_tokens": 4, **params}))
    assert_all_free(engine)


def test_unknown_adapters_and_prompts_without_a_start_are_refused(models):
    engine = engine_of(models, "nano")
    with pytest.raises(ValueError, match=r"adapter = 'poet'.*unknown"):
        engine.add_request([8, 2, 4], greedy(1), adapter="poet")
    with pytest.raises(ValueError, match="no <sop>"):
        engine.add_request([8, 9], greedy(1))
    with pytest.raises(ValueError, match=r"without a \[MASK\]"):
        engine.add_request([8, 4], greedy(1))


@pytest.mark.parametrize(
    "options,word",
    [
        ({"block_size": 0}, "positive"),
        ({"step_tokens": 4}, "max_sequences"),
        ({"kv_tokens": -1}, "negative"),
        ({"kv_dtype": "int3"}, "int8"),
    ],
)
def test_wrong_engine_options_name_themselves(options, word):
    with pytest.raises(ValueError, match=word):
        EngineConfig(**options)


@pytest.mark.parametrize("dtype,most", [("int8", 0.5), ("float16", 0.02)])
def test_rounded_keys_and_values_stay_close(models, dtype, most):
    """Rounding moves the logits, but by little against their spread of about 20."""
    kind = "glm-4-9b-chat"
    params, ids = greedy(1, logprobs=64), prompts_of(kind, [20, 30])
    exact, rounded = (engine_of(models, kind, kv_dtype=dtype).generate(ids, params) for dtype in ("auto", dtype))
    for one, two in zip(exact, rounded, strict=True):
        moved = [abs(value - two.logprobs[0].top[token]) for token, value in one.logprobs[0].top.items()]
        assert 0 < max(moved) < most, max(moved)


def test_shapes_hold_on_a_device_without_memory():
    """A whole step on the meta device: every tensor is where the weights are."""
    import numpy as np

    from openglm.engine.runner import TorchRunner
    from openglm.engine.step import Step
    from openglm.model.transformer import Transformer

    for kind in KINDS:
        with torch.device("meta"):
            model = Transformer(small(kind))
        runner = TorchRunner(model, EngineConfig(block_size=4, kv_dtype="int8" if kind == "nano" else "auto"), 8)
        i32 = lambda *values: np.array(values, np.int32)  # noqa: E731
        step = Step(
            i32(8, 9, 2, 4, 7),
            np.zeros((2, 5), np.int32),
            i32(4, 1),
            i32(0, 6),
            i32(3, 3),
            i32([0, 1], [2, 3]),
            i32(3, 4),
            i32(0, 0),
        )
        logits = runner.run(step)
        assert logits.shape == (2, 64) and logits.device.type == "meta" and logits.dtype == torch.float32


def test_one_whole_context_fits_the_cache_where_memory_allows(monkeypatch):
    """A long context's cache is larger than the 1 GiB that several short ones share."""
    model = network(small("glm-4-9b-chat", layers=1, max_positions=1 << 20, kv_heads=4, head_dim=64))
    token_bytes = 2 * 4 * 64 * 4
    assert token_bytes << 20 > 1 << 30
    for free, wanted in (
        (8 << 30, 1 << 20),
        (3 << 30, (3 << 29) // token_bytes),
        (1 << 20, (1 << 30) // token_bytes),
        (0, (1 << 30) // token_bytes),
    ):
        monkeypatch.setattr("openglm.engine.engine.free_memory", lambda _, free=free: free)
        assert room(model, EngineConfig(max_sequences=1)) == wanted


def test_the_context_of_an_engine_leaves_room_for_a_prefix():
    """An answer of exactly that length is served; of one token more, refused at once."""
    model = network(small("chatglm2-6b", layers=2))
    model.prefix = Prefix(torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8))
    engine = Engine(model, EngineConfig(kv_tokens=48, max_sequences=1))
    assert engine.context == 43
    prompt = list(range(8, 28))
    assert len(engine.generate([prompt], greedy(23))[0].ids) == 23
    with pytest.raises(ValueError, match="cache of 43 tokens"):
        engine.add_request(prompt, SamplingParams(max_tokens=24))
