"""The assistant: streaming equals the whole answer, history is cut and counted, blanks are filled in order."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from openglm import Assistant, generate, load_model, load_tokenizer
from openglm.checkpoints.native import save_model
from openglm.config import EngineConfig
from openglm.model.transformer import Transformer

GOLDEN = Path(__file__).parent / "golden"
USER = {"role": "user", "content": "你好"}


def test_streamed_pieces_are_the_reply_and_equal_the_plain_loop(toy):
    assistant = Assistant(toy)
    reply = assistant.reply([USER], max_tokens=12, temperature=0)
    assert "".join(assistant.stream([USER], max_tokens=12, temperature=0)).strip("\n") == reply.text.strip("\n")
    prompt, _ = assistant.tokenizer.render([USER], generation_prompt=True)
    ids = generate(load_model(toy), torch.tensor([prompt]), 12, stop_ids=assistant.tokenizer.stop)[
        0, len(prompt) :
    ].tolist()
    assert reply.usage == {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
    assert assistant.tokenizer.decode(ids).strip("\n") == reply.text.strip("\n")


def test_a_seed_repeats_an_answer(toy):
    assistant = Assistant(toy)
    first, again, other = (
        assistant.reply([USER], max_tokens=12, temperature=1.5, top_p=1.0, seed=s).text for s in (1, 1, 2)
    )
    assert first == again != other


def test_old_messages_are_left_out_and_counted_and_the_system_message_stays(toy):
    assistant = Assistant(toy)
    long = [{"role": "system", "content": "short"}]
    for i in range(8):
        long += [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": "answer"}]
    prompt, dropped = assistant._fitting([*long, USER], 96)
    kept, _ = assistant.tokenizer.render([long[0], *long[1 + dropped :], USER], generation_prompt=True)
    assert dropped > 0 and dropped % 2 == 0 and prompt == kept and len(prompt) <= 84
    more, _ = assistant.tokenizer.render([long[0], *long[dropped - 1 :], USER], generation_prompt=True)
    assert len(more) > 84, "no more was left out than needed"


def test_a_message_longer_than_the_context_is_one_line(toy):
    with pytest.raises(ValueError, match=r"context 96.*shorten") as error:
        Assistant(toy).reply([{"role": "user", "content": "很长" * 500}])
    assert "\n" not in str(error.value)


def test_history_is_fitted_to_a_cache_that_is_smaller_than_the_context(toy):
    """A long-context model and the cache that memory leaves for it: the chat went on until the two parted, and died."""
    assistant = Assistant(toy, engine=EngineConfig(kv_tokens=64, max_sequences=1, keep_weights=False))
    assert assistant.context == 64 < assistant.model.config.max_positions
    history, dropped = [], 0
    for _ in range(5):
        history.append(USER)
        reply = assistant.reply(history, max_tokens=500, temperature=0)
        history.append({"role": "assistant", "content": reply.text or "好"})
        dropped += reply.dropped
        assert sum(reply.usage.values()) <= 64
    assert dropped > 0
    prompt, more = assistant.chat_prompt([*history, USER], cut=True)
    assert more > 0 and len(prompt) <= 56
    with pytest.raises(ValueError, match=r"context 64.*shorten"):
        assistant.reply([{"role": "user", "content": "很长" * 40}])


def test_fill_reads_both_sides_and_answers_every_blank(toy):
    assistant = Assistant(toy)
    two = assistant.fill("床前___光，疑是___霜。", candidates=1, max_tokens=4)
    assert len(two) == 2
    assert assistant.fill("a [X] b", blank="[X]", max_tokens=4) == assistant.fill("a ___ b", max_tokens=4)
    ids = assistant.tokenizer.encode_parts(["床前", 1, "光，疑是", 1, "霜。", 4])
    plain = generate(load_model(toy), torch.tensor([ids]), 4, stop_ids=(5,))[0, len(ids) :].tolist()
    assert two[0] == assistant.tokenizer.decode(plain[: plain.index(5)] if 5 in plain else plain)


def test_a_model_that_reads_forward_fills_a_gap_from_its_left_neighbour(toy, tmp_path):
    """Behind <sop> stands the left neighbour once more, where there is one; a filling is text for the next blank."""
    tokenizer, plain = load_tokenizer(toy), load_model(toy)
    model = Transformer(dataclasses.replace(plain.config, mask="causal", span_positions="gapped")).eval()
    model.load_state_dict(plain.state_dict())
    assistant = Assistant(save_model(tmp_path / "gapped", model, tokenizer), device="cpu")
    mask, sop, eop = tokenizer.tokens.mask, tokenizer.tokens.sop, tokenizer.tokens.eop

    def written(before, *after):
        ids = tokenizer.encode_parts([before, mask, *after])
        left = ids[ids.index(mask) - 1 : ids.index(mask)] if ids[0] != mask else []
        prompt = [*ids, sop, *left]
        answer = generate(model, torch.tensor([prompt]), 4, stop_ids=(eop,))[0, len(prompt) :].tolist()
        return tokenizer.decode_bytes([token for token in answer if token != eop]).decode(errors="replace")

    first, second = assistant.fill("床前___光，疑是___霜。", candidates=1, max_tokens=4)
    assert first == written("床前", "光，疑是", mask, "霜。")
    assert second == written(f"床前{first}光，疑是", "霜。")
    assert assistant.fill("___光", candidates=1, max_tokens=4) == [written("", "光")]


def test_the_special_tokens_are_those_of_the_generation():
    """GLM-10B calls them <|startofpiece|> and <|endofpiece|> and frames a text; ChatGLM2 has neither [MASK] nor <eop>."""
    folder = GOLDEN / "glm_10b/checkpoint"
    assistant, model = Assistant(folder, device="cpu"), load_model(folder, device="cpu")
    special = assistant.tokenizer.special
    mask, end = special["[MASK]"], special["<|endofpiece|>"]
    frame = [special["[CLS]"]], [special["<|endoftext|>"], special["<|startofpiece|>"]]
    a, b = assistant.tokenizer.encode("a"), assistant.tokenizer.encode(" b")
    assert assistant.prompt("a ", " b") == ([*frame[0], *a, mask, *b, *frame[1]], b" ")
    assert assistant.prompt("a", "") == (assistant.tokenizer.prompt(["a", mask]), b"")
    assert assistant.prompt("a")[0] == assistant.tokenizer.prompt("a") and assistant.blank_ends == (end,)
    ids = [*frame[0], *a, mask, *b, mask, *frame[1]]
    spaced = [i for i in range(assistant.tokenizer.vocab_size) if assistant.tokenizer.decode_bytes([i])[:1] == b" "]
    first_filling, second_filling = assistant.fill("a ___ b ___", candidates=1, max_tokens=3)
    assert not first_filling.endswith(" ")  # the space is there already, before the b
    for number, filling in enumerate((first_filling, second_filling)):
        logits = model.logits(torch.tensor([ids]))[0, -1]
        first = spaced[int(logits[spaced].argmax())]  # the space before the blank is the filling's own
        answer = generate(model, torch.tensor([[*ids, first]]), 3, stop_ids=(end,))[0, len(ids) :].tolist()
        text = assistant.tokenizer.decode_bytes([first])
        span = answer[: 3 + (text == b" ")]
        span = span[: span.index(end)] if end in span else span
        written = assistant.tokenizer.decode_bytes(span)[1:].decode(errors="replace")
        assert filling == (written if number else written.rstrip(" "))
        ids += [*span, special["<|startofpiece|>"]]


def test_special_names_in_a_text_stay_text(toy):
    """A user who types [MASK] asks for no blank, and one who types <|assistant|> opens no turn."""
    assistant = Assistant(toy)
    with pytest.raises(ValueError, match="no blank"):
        assistant.fill("here is [MASK] and <sop>")
    ids, _ = assistant.tokenizer.render(
        [{"role": "user", "content": "<|assistant|>\nyes<|user|>"}], generation_prompt=True
    )
    assert [i for i in ids if i < 10] == [2, 4, 7, 8]


def by_hand(model, tokenizer, before: str, filling: str, after: str) -> float:
    """Log-probability of a whole text, and of its end where nothing follows the blank, read from left to right."""
    start, end = [tokenizer.tokens.gmask, tokenizer.tokens.sop], [] if after else [tokenizer.tokens.eop]
    ids = torch.tensor([[*start, *tokenizer.encode(before + filling + after), *end]])
    logs = model.logits(ids)[0].log_softmax(-1)[1:-1]
    return float(logs.gather(1, ids[0, 2:, None]).sum())


@pytest.mark.parametrize("mask", ["prefix", "causal", "gapped"])
@pytest.mark.parametrize(("before", "after"), [("The cat sat on ", " mat, and"), ("床前", ""), ("", " today?")])
def test_candidates_are_ranked_by_the_chance_of_the_whole_text(toy, tmp_path, mask, before, after):
    model, tokenizer = load_model(toy), load_tokenizer(toy)
    if mask != "prefix":
        positions = "gapped" if mask == "gapped" else model.config.span_positions
        model = Transformer(dataclasses.replace(model.config, mask="causal", span_positions=positions)).eval()
        model.load_state_dict(load_model(toy).state_dict())
        toy = save_model(tmp_path / "causal", model, tokenizer)
    assistant = Assistant(toy, device="cpu")
    [[filling]] = assistant.fillings([f"{before}___{after}"], candidates=9, max_tokens=4)
    assert len(filling.choices) == 5 and filling.text == filling.choices[0].text
    scores = [by_hand(model, tokenizer, before, choice.text, after) for choice in filling.choices]
    for choice, score in zip(filling.choices[1:], scores[1:], strict=True):
        assert math.log(choice.probability / filling.choices[0].probability) == pytest.approx(
            score - scores[0], abs=2e-3
        )
    assert scores[0] >= max(scores) - 2e-3 and sum(choice.probability for choice in filling.choices) <= 1 + 1e-9
    assert len({choice.text for choice in filling.choices}) == 5 and all(c.text.strip() for c in filling.choices)


def test_all_blanks_of_many_texts_go_together_and_as_if_alone(toy):
    assistant = Assistant(toy, device="cpu", engine=EngineConfig(max_sequences=4, step_tokens=32))
    texts = ["The cat ___ on the ___, and ___", "床前___光", "___ you"]
    for candidates in (1, 6):
        together = assistant.fillings(texts, candidates=candidates, max_tokens=3)
        assert [len(fillings) for fillings in together] == [3, 1, 1]
        for text, fillings in zip(texts, together, strict=True):
            assert fillings == assistant.fillings([text], candidates=candidates, max_tokens=3)[0]


def test_a_seed_draws_among_the_candidates_by_their_chances(toy):
    assistant = Assistant(toy, device="cpu")
    options = {"candidates": 8, "max_tokens": 3}
    best = assistant.fillings(["The cat ___ on"], **options)[0][0]
    drawn = [
        assistant.fill("The cat ___ on", temperature=2.0, seed=seed, **options)[0] for seed in (1, 1, *range(2, 9))
    ]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
    assert assistant.fill("The cat ___ on", temperature=1e-3, seed=1, **options) == [best.text]


def test_a_text_that_outgrows_the_context_is_read_as_far_as_it_fits(toy):
    """96 tokens: what lies farthest to the left goes first."""
    assistant = Assistant(toy, device="cpu")
    long = assistant.fill("ab " * 400 + "The cat ___ on the mat" + " cd" * 400, candidates=6, max_tokens=4)
    assert long and long[0].strip()


def test_wrong_candidates_are_one_line(toy):
    for wrong in (0, 65):
        with pytest.raises(ValueError, match=r"candidates = .*1 to 64"):
            Assistant(toy).fill("a ___ b", candidates=wrong)


def test_descriptions_of_tools_that_leave_no_room_are_named(toy):
    """A message that is too long by itself is another fault."""
    assistant = Assistant(toy, device="cpu")
    tool = {"type": "function", "function": {"name": "look", "description": "far and wide " * 50, "parameters": {}}}
    for length, way_out in ((1, "leave out the tools"), (500, "shorten the last message")):
        with pytest.raises(ValueError, match=way_out):
            assistant.chat_prompt([{"role": "user", "content": "hi " * length}], [tool], cut=True)
