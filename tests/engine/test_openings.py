"""Answers that must begin in a certain way, pass over the likeliest tokens, or are given: the same alone, in a crowd, drafted ahead, on both runners."""

import pytest
import torch

from openglm import Engine, SamplingParams, load_model, load_tokenizer
from openglm.config import EngineConfig


@pytest.fixture(scope="module")
def parts(toy):
    return load_model(toy), load_tokenizer(toy)


def requests(tokenizer) -> list[tuple[list[int], SamplingParams]]:
    ids = [2, 4, *tokenizer.encode("The cat sat on the mat, and")]
    more = {"max_tokens": 6, "ignore_eos": True}
    return [
        (ids, SamplingParams(continues=b" the", **more)),
        (ids, SamplingParams(continues=b"    x", temperature=1.0, seed=3, **more)),
        (ids, SamplingParams(continues=b"", branch=2, logprobs=0, **more)),
        (ids, SamplingParams(continues="前明".encode(), branch=1, temperature=0.7, seed=4, top_k=5, **more)),
        (ids, SamplingParams(forced=tuple(tokenizer.encode(" the dog lay by the door. 床前明月光")), logprobs=0)),
        (ids[:4], SamplingParams(continues=b" ", repetition_penalty=1.5, **more)),
    ]


@pytest.mark.parametrize("runner", ["torch", "auto"])
def test_company_preemption_drafts_and_runner_change_nothing(parts, runner):
    model, tokenizer = parts
    asked = requests(tokenizer)

    def run(requests, **options):
        config = EngineConfig(**{"block_size": 4, "max_sequences": 8, "step_tokens": 64, "runner": runner, **options})
        prompts, params = [ids for ids, _ in requests], [one for _, one in requests]
        return [(r.ids, r.text, r.error) for r in Engine(model, config, tokenizer=tokenizer).generate(prompts, params)]

    alone = [run([request])[0] for request in asked]
    assert all(not error for *_, error in alone)
    for options in ({}, {"draft_tokens": 4}, {"kv_tokens": 80}, {"draft_tokens": 4, "kv_tokens": 80, "step_tokens": 9}):
        assert run(asked, **options) == alone
    for (_, params), (ids, text, _) in zip(asked, alone, strict=True):
        if params.continues:
            written = tokenizer.decode_bytes(ids)
            assert written.startswith(params.continues) and text == written[len(params.continues) :].decode(
                errors="replace"
            )


def test_given_tokens_are_the_answer_with_the_models_own_chances(parts):
    model, tokenizer = parts
    prompt, given = (
        [2, 4, *tokenizer.encode("The cat")],
        tokenizer.encode(" sat on the mat, and the dog lay by the door.") * 2,
    )
    engine = Engine(model, EngineConfig(), tokenizer=tokenizer)
    [result] = engine.generate([prompt], SamplingParams(forced=tuple(given), logprobs=0))
    logs = model.logits(torch.tensor([[*prompt, *given]]))[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert result.ids == given and result.finish_reason == "length"
    found = torch.tensor([one.logprob for one in result.logprobs])
    torch.testing.assert_close(found, logs[torch.arange(len(given)), given], rtol=0, atol=1e-3)


def test_a_branch_opens_with_the_next_likeliest_token_that_has_text(parts):
    model, tokenizer = parts
    prompt = [2, 4, *tokenizer.encode("The cat")]
    ranks = model.logits(torch.tensor([prompt]))[0, -1].argsort(descending=True).tolist()
    for demanded in (b"", b" "):
        able = [token for token in ranks if token >= 10 and tokenizer.decode_bytes([token]).startswith(demanded)]
        asked = [
            SamplingParams(max_tokens=2, continues=demanded, branch=number, ignore_eos=True) for number in range(6)
        ]
        results = Engine(model, EngineConfig(), tokenizer=tokenizer).generate([prompt] * 6, asked)
        assert [result.ids[0] for result in results] == able[:6]


def test_what_only_repeats_the_prompt_is_not_counted(parts):
    model, tokenizer = parts
    last = tokenizer.encode("The cat")[-1]
    prompt, taken = [2, 4, *tokenizer.encode("The cat")[:-1]], tokenizer.decode_bytes([last])
    bias = {last: 100.0}
    engine = Engine(model, EngineConfig(), tokenizer=tokenizer)
    [result] = engine.generate(
        [prompt], SamplingParams(max_tokens=3, continues=taken, logit_bias=bias, ignore_eos=True)
    )
    assert result.ids[0] == last and result.repeated == 1 and len(result.ids) == 4


def test_wrong_requests_are_one_line(parts):
    model, tokenizer = parts
    engine = Engine(model, EngineConfig(), tokenizer=tokenizer)
    [result] = engine.generate([[2, 4]], SamplingParams(forced=(400,)))
    assert "forced = 400" in result.error
    [result] = Engine(model, EngineConfig()).generate([[2, 4]], SamplingParams(continues=b" "))
    assert "tokenizer" in result.error
    with pytest.raises(ValueError, match=r"continues.*choose one"):
        SamplingParams(continues=b" ", regex="a")
