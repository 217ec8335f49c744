"""The bundled model: whole, small enough to ship, and able to say who it is. What it says of the world is not tested: it is small."""

import pytest

from openglm import Assistant
from openglm.checkpoints.durable import verify_folder
from openglm.checkpoints.native import ASSETS


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
    assert nano.reply([{"role": "user", "content": "你好"}], temperature=0).text.strip()
