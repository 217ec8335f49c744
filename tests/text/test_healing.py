"""What follows a text does not depend on which side of the border a space stands, with the tokenizers of the whole family (token healing)."""

import dataclasses
import functools

import pytest
import torch
from helpers.families import small
from helpers.tokenizer_files import KINDS, THINKING
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openglm.config import EngineConfig
from openglm.engine.engine import Engine
from openglm.engine.filling import Filler
from openglm.engine.params import SamplingParams
from openglm.model.transformer import Transformer
from openglm.text.openings import Openings

PRESETS = {
    "openglm": "nano", "glm-10b-chinese": "glm-10b", "chatglm3-6b": "chatglm2-6b", "glm-4": "glm-4-9b-chat", "glm-4-0414": "glm-4-0414-9b",
    "glm-z1": "glm-4-0414-9b",
}  # fmt: skip
ALL = ("openglm", *(kind for kind in KINDS if kind not in THINKING))  # their networks are yet to come
WORDS = [
    "The",
    "weather",
    "is",
    "wi",
    "of",
    "今天",
    "天气",
    "很好",
    "，",
    "add(a",
    "12",
    "\n",
    "    ",
    "it'll",
    ".",
    "!",
]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join) | st.lists(
    st.sampled_from(WORDS), min_size=1, max_size=5
).map("".join)


@given(
    st.lists(st.binary(min_size=1, max_size=3).map(lambda b: bytes(x % 3 + 97 for x in b)), min_size=1, max_size=12),
    st.binary(min_size=1, max_size=6).map(lambda b: bytes(x % 3 + 97 for x in b)),
)
def test_a_token_can_open_an_answer_if_some_tokens_can_go_on_from_it(vocabulary, demanded):
    """Held to the definition: try all rows of tokens."""

    @functools.cache
    def spelled(rest):
        return any(
            token.startswith(rest) or (rest.startswith(token) and spelled(rest[len(token) :])) for token in vocabulary
        )

    able = {
        number
        for number, token in enumerate(vocabulary)
        if token.startswith(demanded) or (demanded.startswith(token) and spelled(demanded[len(token) :]))
    }
    assert set(Openings(vocabulary, ()).able(demanded).tolist()) == able
    assert set(Openings(vocabulary, {0}).able(b"").tolist()) == set(range(1, len(vocabulary)))


@pytest.fixture(scope="module")
def writers(family):
    """A filler and an engine for each tokenizer, over a random network that likes spaces."""

    @functools.cache
    def make(kind):
        tokenizer = family[kind]
        shape = {
            "layers": 1,
            "max_positions": 128,
            "vocab_size": tokenizer.vocab_size,
            "tokens": dataclasses.asdict(tokenizer.tokens),
        }
        model = Transformer(small(PRESETS.get(kind, kind), **shape)).eval()
        model.initialize(torch.Generator().manual_seed(5))
        spaced = tokenizer.openings.able(b" ")
        spaced = spaced[:: -(-len(spaced) // 200)].tolist()
        engine = Engine(model, EngineConfig(runner="torch", max_sequences=4), tokenizer=tokenizer)
        return Filler(tokenizer, model.config, 4000), engine, dict.fromkeys(spaced, 20.0)

    return make


def answers(writer, prompts):
    """What the network writes behind each prompt, greedily."""
    _, engine, bias = writer
    params = [SamplingParams(max_tokens=5, continues=c, logit_bias=bias, ignore_eos=True) for _, c in prompts]
    results = engine.generate([ids for ids, _ in prompts], params)
    assert all(not r.error for r in results), results
    for (_, continues), result in zip(prompts, results, strict=True):
        written = engine.tokenizer.decode_bytes(result.ids)
        if continues is not None:
            assert written.startswith(continues), (written, continues)
            assert result.text == written[len(continues) :].decode(errors="replace"), "no space is lost or doubled"
        assert len(result.ids) - result.repeated <= 5
    return results


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=8, deadline=None)
@given(text=texts, spaces=st.integers(1, 3))
def test_a_space_before_the_border_is_one_behind_it(writers, kind, text, spaces):
    """The network sees the same prompt with and without spaces at its end. Where it writes them itself, all it writes is the same."""
    assume(text.strip())
    filler = writers(kind)[0]
    text, blanks = text.rstrip(" "), " " * spaces
    asks = [filler.completion_prompt] + [lambda before: filler.infill_prompt(before, " is.")] * filler.both_sides
    for ask in asks:
        prompts = [ask(text), ask(text + blanks)]
        assert prompts[0][0] == prompts[1][0] and prompts[1][1] == prompts[0][1] + blanks.encode()
        near, far = answers(writers(kind), prompts)
        if near.text.startswith(blanks):
            # Those that only repeat the prompt do not count, so that one answer may be longer.
            assert far.ids[: len(near.ids)] == near.ids[: len(far.ids)]
            shorter, longer = sorted((near.text, blanks + far.text), key=len)
            assert longer.startswith(shorter.rstrip("\ufffd"))


@pytest.mark.parametrize("kind", ALL)
def test_the_network_does_write_spaces_here(writers, kind):
    """Else the property above says little."""
    filler = writers(kind)[0]
    written = answers(writers(kind), [filler.completion_prompt(f"The {word}") for word in WORDS])
    assert any(result.text.startswith(" ") for result in written)


@pytest.mark.parametrize("kind", ALL)
def test_the_right_side_is_cut_as_a_whole_text_is(writers, kind):
    """Behind [MASK] stand the tokens that stand in the whole text, the space joined with its word."""
    filler = writers(kind)[0]
    if not filler.both_sides:
        pytest.skip("reads only the past")
    tokenizer = filler.tokenizer
    ids, continues = filler.infill_prompt("The weather is ", " today; we walk")
    whole = tokenizer.encode("The weather is fine today; we walk")
    right = ids[ids.index(tokenizer.tokens.mask) + 1 :]
    right = right[: len(tokenizer.encode(" today; we walk"))]
    assert continues == b" " and whole[-len(right) :] == right and len(right) > 2
    left = ids[: ids.index(tokenizer.tokens.mask)]
    assert left[-2:] == tokenizer.encode("The weather is")[-2:]


@pytest.mark.parametrize("kind", ALL)
def test_half_a_word_is_gone_on_with(writers, kind):
    """The last token is given back, so that a longer one that begins with it can stand in its place."""
    filler = writers(kind)[0]
    for text in ("The weather", "今天天气", "The wea"):
        (ids, continues), last = filler.completion_prompt(text), filler.tokenizer.encode(text)[-1:]
        assert continues == filler.tokenizer.decode_bytes(last)
        assert set(last) <= set(filler.tokenizer.openings.able(continues).tolist())
        assert filler.completion_prompt(text + " ")[0] == ids
