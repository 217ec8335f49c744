"""Cleaning, contamination and the readers of foreign formats, on small texts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.data import clean, markup, readers

any_text = st.text(st.characters(codec=None), max_size=80)


@given(any_text)
def test_normal_form_is_stable_and_is_utf8(text):
    once = clean.normalize(text)
    once.encode()
    assert clean.normalize(once) == once
    assert not any(c in once for c in "\r\t\x00\x1b\ufeff\u3000\u200b") and "\n\n\n" not in once


def test_normal_form_keeps_indentation_and_paragraphs():
    assert clean.normalize("\ufeffif a:\r\n\treturn  b \r\n\r\n\r\n\r\nend\u3000x") == "if a:\n    return b\n\nend x"


def test_junk_lines_go_and_text_stays():
    code = 'if (x) {\n  y();\n}\n});\n/* ... */\n……\n```\n...\n"""'
    assert clean.drop_junk_lines(code) == code
    assert clean.drop_junk_lines("a\n* * *\n+----+\n| -- |---|\n───\n***\nb") == "a\n* * *\nb"
    assert clean.drop_junk_lines("Title\n=====\n|---|\nlost \ufffd byte\n好\n\n1") == "Title\n好\n\n1"


@given(any_text)
def test_the_form_of_programs_is_stable_and_is_visible(text):
    once = clean.normalize_code(text)
    once.encode()
    assert clean.normalize_code(once) == once
    assert not any(c in once for c in "\r\t\x00\x1b\ufeff\u3000\u200b")


def test_code_is_not_prose():
    code = "def f():\r\n\treturn {  # two\n        1:  2,\n    }\n\n\n\n)\n"
    assert clean.normalize_code(code) == "def f():\n    return {  # two\n        1:  2,\n    }\n\n\n\n)"


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("short", False),
        ("a sentence of words", True),
        ("。，！？" * 9 + "好好", False),
        ("same line\n" * 20, False),
        ("床前明月光，疑是地上霜。", True),
    ],
)
def test_readable(text, readable):
    assert clean.is_readable(text) == readable


numbered = [f"w{i}" for i in range(40)]


@settings(max_examples=50)
@given(start=st.integers(0, 27), length=st.integers(1, 40), breaks=st.sets(st.integers(1, 39)))
def test_thirteen_shared_words_are_found_wherever_lines_break(start, length, breaks):
    """The item is a stretch of the text; exactly the lines that hold a word of it go, if it has 13 words or more."""
    item = numbered[start : start + length]
    lines, at = [], 0
    for end in [*sorted(breaks), len(numbered)]:
        lines.append(" ".join(numbered[at:end]))
        at = end
    text, dropped = clean.drop_contaminated_lines(
        "\n".join(lines), clean.contamination_index([" ".join(item).upper() + "!"])
    )
    want = [line for line in lines if len(item) < 13 or not set(line.split()) & set(item)]
    assert text.split("\n") == (want or [""]) and dropped == len(lines) - len(want)


def test_han_characters_count_one_by_one():
    item = "春眠不觉晓，处处闻啼鸟。夜来风雨声"
    index = clean.contamination_index([item])
    assert clean.drop_contaminated_lines("题\n春眠不觉晓处处闻啼鸟夜来风\n完", index) == ("题\n完", 1)
    assert clean.drop_contaminated_lines("春眠不觉晓处处闻啼鸟夜来", index)[1] == 0  # twelve


def test_short_items_and_no_items_drop_nothing():
    for items in ([], ["a b c"]):
        assert clean.drop_contaminated_lines("a b c " * 9, clean.contamination_index(items)) == ("a b c " * 9, 0)


def test_the_held_out_share_is_kept():
    share = np.mean([clean.is_held_out(f"document {i}", 0.1) for i in range(4000)])
    assert abs(share - 0.1) < 0.02  # four standard deviations


def test_html():
    wanted = "<div id='main'><h1>Title</h1><p>One <b>two</b>\nthree<br>four</p><p class='bug'>no</p><script>x()</script></div>"
    page = f"<html><head><title>x</title></head><body><nav>menu</nav>{wanted}<p>after</p>"
    assert markup.html_text(page, inside="main", without=frozenset({"bug"})) == "Title\nOne two three\nfour"
    assert markup.html_text(page).endswith("no\nafter") and "menu" not in markup.html_text(page)


def test_items_give_every_text_of_every_record(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_text('{"q": {"a": "one"}, "o": ["two", 3]}\n\n{"q": "three"}')
    assert list(readers.READERS["items"](path)) == ["one", "two", "three"]
