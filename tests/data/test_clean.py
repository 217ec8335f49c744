"""Cleaning, contamination and the readers of foreign formats, on small texts."""

import bz2
import gzip
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openglm.data import clean, markup, readers

any_text = st.text(st.characters(codec=None), max_size=80)


@given(any_text)
def test_normal_form_is_stable_and_is_utf8(text):
    once = clean.normalise(text)
    once.encode()
    assert clean.normalise(once) == once
    assert not any(c in once for c in "\r\t\x00\x1b\ufeff\u3000\u200b") and "\n\n\n" not in once


def test_normal_form_keeps_indentation_and_paragraphs():
    assert clean.normalise("\ufeffif a:\r\n\treturn  b \r\n\r\n\r\n\r\nend\u3000x") == "if a:\n    return b\n\nend x"


def test_junk_lines_go_and_text_stays():
    assert clean.drop_junk_lines("Title\n=====\n|---|\nlost \ufffd byte\n好\n\n1") == "Title\n好\n\n1"


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


def test_roff():
    source = '.TH LS 1\n.\\" comment\n.SH 名称\nls \\- 列出\n.SH "SEE ALSO"\n.PP\n\\fBls\\fP of\nwrapped\n.TP\n.B -a\nall\n.TS\ntable\n.TE\n.BR stat (2)'
    assert markup.roff_text(source) == "名称\n\nls - 列出\n\nSEE ALSO\n\nls of wrapped\n\n-a all stat(2)"


def test_pod_and_wiki():
    pod = "=head1 NAME\n\nB<perl> is C<< fast >>, see L<perlfunc|x>\nreally\n\n    $code = 1;\n\n=cut"
    assert markup.pod_text(pod) == "NAME\n\nperl is fast, see perlfunc really\n\n    $code = 1;"
    wiki = "'''Ada''' is a [[Programming language|language]]<ref>x</ref>.{{Info|{{a}}}}\n== History ==\n* [[1980]]\n[[File:a.png|thumb|see [[b]]]]\n== References ==\nno"
    assert markup.wiki_text(wiki).split("\n") == ["Ada is a language.", "History", "1980", "", ""]


@given(st.lists(st.text("ab好 ", max_size=6), max_size=8))
def test_unwrapping_loses_only_blanks(lines):
    text = "\n".join(lines)
    assert "".join(markup.unwrap(text).split()) == "".join(text.split())


def test_unwrapping_joins_chinese_without_a_blank():
    assert markup.unwrap("很难避免\n遇到 and\nmore\n\n  in\n  dent") == "很难避免遇到 and more\n\nin dent"
    assert markup.unwrap("a\nb\n  code\n  code", indented=False) == "a b\n  code\n  code"


def read(reader, tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(readers.READERS[reader](path))


def test_poems_in_all_their_shapes(tmp_path):
    poem = {"title": "静夜思", "author": "李白", "paragraphs": ["床前明月光。", "疑是地上霜。"]}
    want = ["《静夜思》\n李白\n床前明月光。\n疑是地上霜。"]
    assert read("poems", tmp_path, "a.json", json.dumps([poem, {**poem, "paragraphs": ["□□"]}])) == want
    nested = {
        "title": "集",
        "content": [
            {"type": "五言", "content": [{"chapter": "静夜思", "author": "李白", "paragraphs": poem["paragraphs"]}]}
        ],
    }
    assert read("poems", tmp_path, "b.json", json.dumps(nested)) == want
    assert (
        read(
            "poems",
            tmp_path,
            "c.json",
            json.dumps({"rhythmic": "静夜思", "author": "李白", "para": poem["paragraphs"]}),
        )
        == want
    )


def test_newspaper_articles(tmp_path):
    tagged = "新年/t  讲话/n\n今天/t  １２/m  日/q  ，/w  " + "好/a  " * 90 + "。/w\n第二/m  篇/q\n完/v  。/w"
    assert read("tagged_news", tmp_path, "n", tagged) == ["新年讲话\n今天12日，" + "好" * 90 + "。", "第二篇\n完。"]


def test_dictionaries(tmp_path):
    idiom = {"word": "画蛇添足", "pinyin": "huà", "explanation": "多余", "derivation": "无", "example": "何必～"}
    assert read("idioms", tmp_path, "i", json.dumps([idiom])) == ["画蛇添足（huà）：多余\n例句：何必画蛇添足"]
    sense = '00001740 03 n 02 living_thing 0 being(a) 0 001 @ 0 n 0000 | an entity; "it lives"  \n'
    assert read("wordnet", tmp_path, "w", f"  1 licence\n{sense}") == [
        'living thing, being (noun): an entity; "it lives"'
    ]
    pearl = b"about\n\n   skip\nPEARL\n\n   <language> A {language} for\n   mathematics.\n\n   (1994-11-01)\n"
    assert read("foldoc", tmp_path, "d.dz", gzip.compress(pearl)) == ["PEARL\n<language> A language for mathematics."]
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("t.txt", "动机\t推动人的念头～好\n一打醋，二买盐\t两不耽误\n")
    assert next(readers.READERS["definitions"](tmp_path / "z")) == "动机：推动人的念头动机好"
    assert list(readers.READERS["riddles"](tmp_path / "z"))[1] == "一打醋，二买盐——两不耽误"


def test_conversations_sayings_and_pages(tmp_path):
    assert read("brown", tmp_path, "b", "\n\n\t``/`` Hello/uh ,/, (/( the/at Jury/nn said/vbd ;/; ;/; ''/''\n") == [
        '"Hello, (the Jury said;"'
    ]
    assert read("fortunes", tmp_path, "f", "one\n%\n\x1b[33mtwo\x1b[m\n%\n") == ["one", "two", ""]
    turns = {
        "x": {"messages": [[{"text": "hi"}, {"text": "there "}], [{"text": "yes"}], [{"text": "a"}], [{"text": "b"}]]},
        "y": {"messages": [[{"text": "short"}]]},
    }
    assert read("chitchat", tmp_path, "c", json.dumps(turns)) == ["hi there\nyes\na\nb"]
    page = "<mediawiki xmlns='w'><page><title>Ada</title><text>'''Ada''' is</text></page><page><title>Talk:Ada</title><text>no</text></page></mediawiki>"
    assert read("wiki_dump", tmp_path, "w.bz2", bz2.compress(page.encode())) == ["Ada\n\nAda is"]
    assert read("items", tmp_path, "e.jsonl", '{"q": {"a": "one"}, "o": ["two", 3]}\n\n{"q": "three"}') == [
        "one",
        "two",
        "three",
    ]
