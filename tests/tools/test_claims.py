"""Reflection: wrong equations and numbers are found in plain claims, right ones and what is no claim are left alone, and the model answers again at most twice."""

from types import SimpleNamespace

import pytest
from helpers.scripted import scripted, with_marks
from helpers.text_samples import TEXTS, VOCAB_SIZE

from openglm import Tools
from openglm.assistant import Reply
from openglm.text import train_tokenizer
from openglm.tools import claims
from openglm.tools.claims import mistakes

WRONG = [  # question, answer, what holds instead
    ("12×34 等于多少？", "12×34＝400。", "12×34=408"),
    ("What is 12*34?", "The answer is 400.", "12*34=408"),
    ("3+6+9+12+...+333 是多少？", "答案是9348。", "18648"),
    ("What is 3+6+9+12+...+333?", "It is 9348.", "18648"),
    ("?", "1 + 2 + 3 + … + 100 = 5000", "5050"),
    ("?", "先算 1,234 + 766 = 2,100，再说。", "2000"),
    ("解方程 2x+3=7", "移项得 2x=4，所以 x=3。", "2x+3=7: x=2"),
    ("Solve x^2-5x+6=0", "The roots are x = 2 or x = 4.", "x=2; x=3"),
    ("x+y=35, 2x+4y=94，求 x 和 y", "设鸡 x 只，x=20，y=15。", "2x+4y=94"),
    ("?", "So $\\frac{1}{2} + \\frac{1}{3} = \\frac{2}{5}$.", "5/6"),
    ("?", "15% × 80 = 13 元", "12"),
    ("?", "- 3 + 5 = 8\n- 2 * 3 = 7", "6"),
    ("?", "The total is 12 × 3 = **35** apples.", "36"),
    ("?", "Speed: 60 × 2.5 = 140 km.", "150"),
    ("?", "12 + 8 = 20 = 4 × 6", "20"),
    ("?", "100/3 = 33", "33.333333"),
]
RIGHT = [
    ("24/30÷10/22等于几", "答案是44/25。"),
    ("?", "7 ÷ 2 = 3.5, 1/2 ÷ 1/4 = 2"),
    ("12×34 等于多少？", "12×34＝408。"),
    ("What is 12*34?", "The answer is 408, which is more than 400."),
    ("3+6+9+12+...+333 是多少？", "共111项，答案是18648。"),
    ("What is 1/3?", "About 0.333"),
    ("解方程 2x+3=7", "2x = 7 - 3 = 4，所以 x = 4/2 = 2。"),
    ("Solve x^2-5x+6=0", "(x-2)(x-3)=0, so x = 2 or x = 3."),
    ("1) x+1=3 2) x+2=5", "x=2; x=3"),
    ("x^2=2", "x = 1.41 or x = -1.41"),
    ("?", "1/3 = 0.33, 2/3 = 0.667, π × 2² = 12.57"),
    ("?", "y = 2x + 1. When x = 1, y = 3. When x = 2, y = 5."),
]
NO_CLAIM = [
    ("2024-03-01 - 2024-02-01 是几天？", "2024-03-01 - 2024-02-01 = 29 天。"),
    ("What happened on 9/11?", "3 things."),
    ("?", "10:30 + 20 = 10:50，比例 3:2 = 6:4"),
    ("?", "1. 苹果\n2. 梨\n3. 3+5=8\n- 3 + 5 = 8\n（1）2*2=4"),
    ("?", "10 ÷ 3 = 3 余 1"),
    ("?", "10/3 = 3 remainder 1"),
    ("?", "5 km + 3 km = 8 km, 5 kg × 2 = 10 kg, 5元+3元=8元, 2 × 30 分钟 = 1 小时"),
    ("?", "5000 + 5000 = 1万"),
    ("?", "It is wrong that 2+2=5."),
    ("?", "假如 2+2=5，那么"),
    ("?", "3 + 5 != 9"),
    ("?", "`x = x + 1`\n```\ni = 0\ni = i + 1\n3+4=9\n```"),
    ("?", "S_n = n(a_1 + a_n)/2, n = 111, S = 18648, f(x) = 2x+1, f(2) = 5"),
    ("?", "版本 1.2.3 = 4, 5; 3,5 + 2 = 5,5"),
    ("?", "12 = 34, x = = 3, (((3+ = 7, 9^9^9^9 = 1"),
]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize(("question", "answer", "true"), WRONG)
def test_a_wrong_claim_is_found(question, answer, true):
    assert true in " ".join(one.true for one in mistakes(question, answer))


@pytest.mark.parametrize(("question", "answer"), RIGHT + NO_CLAIM)
def test_what_holds_and_what_is_no_claim_is_left_alone(question, answer):
    assert mistakes(question, answer) == []


def test_a_long_answer_takes_no_longer_than_its_limit(monkeypatch):
    """By a clock on which each call takes a second and does not find a mistake: no call may last beyond five of them."""
    now, calls = [0.0], []

    def call(tool, arguments, seconds):
        if seconds <= 0:
            raise TimeoutError
        calls.append(seconds)
        now[0] += 1
        return "true"

    monkeypatch.setattr(claims, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(claims, "shared_pool", lambda: SimpleNamespace(call=call))
    assert mistakes("?", "".join(f"{n}*{n} = 0\n" for n in range(2, 3000))) == []
    assert calls == [5, 4, 3, 2, 1]


def test_a_long_number_is_read_at_once():
    """It could be cut in two in 2^59 ways, and this test would not end."""
    assert mistakes(f"{'7' * 60}-5你会吗？", "答案是3。") == []


def test_of_many_mistakes_eight_are_told():
    assert len(mistakes("?", "1+1=3, " * 5000 + "".join(f"{n}*{n} = 0\n" for n in range(2, 3000)))) <= 8
    assert mistakes("(" * 3000, "x" + "=1+1" * 20_000) is not None


def ask(assistant, question, **options):
    reply = Reply("")
    options = {"max_tokens": 300, "temperature": 0, **options}
    pieces = list(assistant.stream([{"role": "user", "content": question}], answer=reply, **options))
    return reply, "".join(pieces)


@pytest.mark.parametrize(
    ("question", "first", "second", "told"),
    [
        ("12×34=?", "12×34＝400。", "12×34＝408。", "检查：12×34=400 不对，12×34=408。请重新回答。"),
        ("What is 12*34?", "It is 400.", "It is 408.", "Check: 12*34=400 is wrong, 12*34=408. Please answer again."),
    ],
)
def test_a_wrong_answer_is_told_and_mended_and_never_shown(own, question, first, second, told):
    question = question if question[0] == "W" else "12×34 等于多少？"
    assistant = scripted(own, f"{first}<eop>{second}<eop>", reflect=True)
    reply, streamed = ask(assistant, question)
    assert not assistant.script.left and reply.text == streamed == second
    assert [(step.name, step.failed) for step in reply.steps] == [("Check", False)]
    assert reply.messages == [{"role": "assistant", "content": second}], "the next question finds the answer alone"
    read = own.decode([token for step in assistant.script.computed for token in step])
    assert told in read and first in read
    assert reply.usage["completion_tokens"] == len(with_marks(own, f"{first}<eop>{second}<eop>"))


def test_a_right_answer_costs_nothing(own):
    assistant = scripted(own, "12*34 = 408.<eop>", reflect=True)
    reply, streamed = ask(assistant, "What is 12*34?")
    assert reply.text == streamed == "12*34 = 408." and reply.steps == []


def test_the_model_answers_again_at_most_twice(own):
    """The last answer stands, with a step that says what is wrong with it."""
    assistant = scripted(own, "It is 1.<eop>It is 2.<eop>It is 3.<eop>", reflect=True)
    reply, streamed = ask(assistant, "What is 12*34?")
    assert not assistant.script.left and reply.text == streamed == "It is 3."
    assert [(step.arguments, step.failed) for step in reply.steps] == [
        ("12*34=1", False),
        ("12*34=2", False),
        ("12*34=3", True),
    ]


def test_calls_of_a_draft_do_not_stand_in_the_answer(own):
    calls = "[Begin]Calc[Param]12*34[End]"
    assistant = scripted(own, f"A {calls} gives 480.<eop>So {calls} it is 408.<eop>", Tools(), reflect=True)
    reply, _ = ask(assistant, "What is 12*34?")
    assert [step.name for step in reply.steps] == ["Calc", "Check", "Calc"]
    [message] = reply.messages
    assert message["content"] == reply.text == "So  it is 408." and len(message["steps"]) == 1
    own.render([{"role": "user", "content": "?"}, *reply.messages])


@pytest.mark.parametrize("limit", [{"max_tokens": 6}, {"context": 60}])
def test_where_there_is_no_room_to_answer_again_the_answer_stays(own, limit):
    context = limit.pop("context", 4096)
    assistant = scripted(own, "It is 1.<eop>" * 3, reflect=True, context=context)
    reply, streamed = ask(assistant, "What is 12*34?", **limit)
    assert reply.text == streamed and reply.text and reply.steps


def test_a_model_that_knows_calls_opens_none_where_it_has_no_tools(own):
    """The next likeliest token stands in its place, and no text of a call is shown."""
    assistant = scripted(own, "a[Begin]<eop>")
    reply, streamed = ask(assistant, "?")
    read = [token for step in assistant.script.computed for token in step]
    assert own.special["[Begin]"] not in read and reply.text == streamed and reply.steps == []


@pytest.mark.parametrize(
    "answer", ["It is -20/0.", "是 12/00。", "12+34=46/0", "x=3/0", "0/0 %", "12+34 is 1/0, no 46."]
)
def test_a_division_by_zero_is_read_as_any_other_answer(answer):
    """It is no value; the question's own is then missing from the answer, or it is there and nothing is wrong."""
    wrong = mistakes("12+34=?", answer)
    assert all(one.true == "12+34=46" for one in wrong)
    assert bool(wrong) == ("46" not in answer)
