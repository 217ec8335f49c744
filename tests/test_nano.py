"""The bundled model: whole, small enough to ship, and able to say who it is. What it says of the world is not tested: it is small."""

import re
from pathlib import Path

import pytest
import torch

from openglm import Assistant, Tools, load_model
from openglm.assistant import Reply
from openglm.checkpoints.native import ASSETS
from openglm.files import verify_folder


@pytest.fixture(scope="module")
def nano():
    return Assistant("nano", device="cpu")


def test_the_weights_are_whole_and_small():
    verify_folder(ASSETS / "nano")
    assert sum(file.stat().st_size for file in (ASSETS / "nano").iterdir()) <= 16e6


@pytest.mark.parametrize("question", ["你是谁？", "who are you?"])
def test_it_says_its_name_in_the_language_of_the_question_and_stops(nano, question):
    reply = nano.reply([{"role": "user", "content": question}], temperature=0)
    assert "nano" in reply.text.lower() and reply.usage["completion_tokens"] < 200
    assert any("\u4e00" <= c <= "\u9fff" for c in reply.text) == (question == "你是谁？")


def test_a_greeting_is_answered(nano):
    """With a greeting, in the language of the question, and then it stops."""
    for question, greetings in (("你好", ("你好", "您好", "很高兴")), ("hello", ("hello", "hi", "hey"))):
        reply = nano.reply([{"role": "user", "content": question}], temperature=0)
        assert any(greeting in reply.text.lower() for greeting in greetings), reply.text
        assert reply.usage["completion_tokens"] < 60


def test_both_sides_of_a_blank_matter(nano):
    """Other words behind a blank: other chances of the same filling. Whether they are better ones is not said: nano is too small."""
    model, fillings = load_model("nano", device="cpu", dtype="float32"), ("灯", "雨", "吃")
    behind = ("打开，房间太暗了。", "了，别忘了带伞。", "一碗面条。", "and went in.")
    for before, filling in zip(("天黑了，请把", "外面下", "我肚子饿了，想"), fillings, strict=True):
        token = nano.tokenizer.encode(filling)[0]
        chances = [
            model.logits(torch.tensor([nano.prompt(before, after)[0]]))[0, -1].log_softmax(-1)[token]
            for after in behind
        ]
        assert max(chances) - min(chances) > 0.1, filling


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_transcript_of_the_readme_is_what_it_answers(page):
    """Word for word, with the calls it makes and their results, where the likeliest token is always taken."""
    text = (Path(__file__).parents[1] / page).read_text(encoding="utf-8")
    transcript = re.search(r"\n\$ make chat\n(.*?)\n```", text, re.S)[1].splitlines()
    asked = [i for i, line in enumerate(transcript) if line.startswith("> ") and "→" not in line]
    nano, messages = Assistant("nano", device="cpu", tools=Tools()), []
    for start, end in zip(asked, [*asked[1:], len(transcript)], strict=True):
        messages.append({"role": "user", "content": transcript[start].removeprefix("> ")})
        pieces = nano.stream(messages, answer=(reply := Reply("")), quoted=True, temperature=0)
        shown = [line for line in "".join(pieces).splitlines() if line]
        assert shown == transcript[start + 1 : end]
        messages += reply.messages
