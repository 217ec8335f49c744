"""The readers of nano's packages, on small texts of their formats."""

import bz2
import gzip
import json
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "nano"))

import manuals
from corpus_readers import READERS, wiki_text
from translations import clean_pair, documents, gettext_messages

from openglm.data.sources import read_recipe

SOURCES = Path(__file__).parents[2] / "recipes" / "nano" / "sources.toml"


def read(reader, tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(READERS[reader](path))


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
    assert next(READERS["definitions"](tmp_path / "z")) == "动机：推动人的念头动机好"
    assert list(READERS["riddles"](tmp_path / "z"))[1] == "一打醋，二买盐——两不耽误"


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


def test_wiki_text():
    wiki = "'''Ada''' is a [[Programming language|language]]<ref>x</ref>.{{Info|{{a}}}}\n== History ==\n* [[1980]]\n[[File:a.png|thumb|see [[b]]]]\n== References ==\nno"
    assert wiki_text(wiki).split("\n") == ["Ada is a language.", "History", "1980", "", ""]


def test_a_lexicon_without_its_links(tmp_path):
    text = "Contents\n\n   gobble\n\n   :gobble: vt.\n\n   1. To {consume},\n   with up.\n\n   :ham:\n\n   A fan.\n"
    want = ["gobble: vt.\n1. To consume, with up.", "ham\nA fan."]
    assert read("jargon", tmp_path, "j", text) == want


def r_database(*novels):
    """Each: its length, and a zlib stream of R's serialized character vector: a header, then flags, length and bytes of every line."""
    out = b""
    for lines in novels:
        raw = b"X\n" + struct.pack(">5i", 3, 0x40201, 0x30500, 16, len(lines))
        for line in lines:
            raw += struct.pack(">2i", 0x40009, len(line)) + line
        out += struct.pack(">i", len(raw)) + zlib.compress(raw)
    return out


def test_novels_are_cut_into_chapters(tmp_path):
    first = [b"EMMA", b"", b"CHAPTER I", b"", b"It was", b"_a_ day.", b"", b"CHAPTER II", b"", b"Two."]
    second = [b"Other", b"Chapter 1", b"", b"Well."]
    found = [chapter.strip() for chapter in read("novels", tmp_path, "n.rdb", r_database(first, second))]
    assert found == ["CHAPTER I\n\nIt was a day.", "CHAPTER II\n\nTwo.", "Chapter 1\n\nWell."]


def test_a_task_is_a_comment_and_a_program(tmp_path):
    task = {"task_description": "Add\ntwo.", "code_sample": "# import necessary packages\nimport re\n# add\n(\n)\n"}
    found = read("code_problems", tmp_path, "c.jsonl.gz", gzip.compress(json.dumps([task]).encode()))
    assert found == ["# Add two.\nimport re\n# add\n(\n)\n"]


def test_a_passage_is_the_order_it_was_written_in(tmp_path):
    assert read("passages", tmp_path, "p", '{"0": "a. b.", "1": "b. a."}\n{"0": "c"}\n') == ["a. b.", "c"]


# Two languages.


def catalogue(pairs, order="<", charset="UTF-8"):
    """A .mo file as the format is described in gettext's manual: magic, version, counts and places, two tables, the strings."""
    rows = [("", f"Content-Type: text/plain; charset={charset}\n"), *pairs]
    strings = [text.encode() for row in zip(*rows, strict=True) for text in row]
    at, table = 28 + 16 * len(rows), b""
    for text in strings:
        table += struct.pack(f"{order}2I", len(text), at)
        at += len(text) + 1
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(rows), 28, 28 + 8 * len(rows), 0, at)
    return head + table + b"".join(text + b"\0" for text in strings)


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.lists(st.tuples(texts, texts), max_size=5), st.sampled_from("<>"))
def test_a_catalogue_gives_back_its_messages(pairs, order):
    assert list(gettext_messages(catalogue(pairs, order), "x"))[1:] == pairs


def test_pythons_own_gettext_reads_the_same(tmp_path):
    import gettext
    import io

    raw = catalogue([("Open the file", "打开文件")])
    assert gettext.GNUTranslations(io.BytesIO(raw)).gettext("Open the file") == "打开文件"


GOOD = catalogue([("Open the file", "打开文件")])


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, len(GOOD)))
def test_a_damaged_catalogue_is_refused_or_read_within_itself(offset, value, length):
    raw = bytearray(GOOD)
    raw[offset] = value
    for broken in (bytes(raw), GOOD[:length]):
        try:
            rows = list(gettext_messages(broken, "x.mo"))
        except ValueError as error:
            assert "x.mo" in str(error) and "\n" not in str(error)
        else:
            assert all(len(text.encode()) <= len(broken) for row in rows for text in row)


@pytest.mark.parametrize(
    ("english", "chinese", "pair"),
    [
        ("menu\x04_Open the file", "打开文件(_O)", ("Open the file", "打开文件")),
        ("Open the fi_le\nnow", "打开\n文件 (&L)", ("Open the file now", "打开文件")),
        ("Don't open it.", "不要打开。", ("Don't open it.", "不要打开。")),
        ("Open the file %s", "打开文件 %s", None),
        ("Open the {0} file", "打开 {0} 文件", None),
        ("Open the <b>file</b>", "打开<b>文件</b>", None),
        ("Back &larr; to users", "回到 &larr; 用户页面", None),
        ("One more file\0More files", "文件", None),
        ("Two words", "两个字", None),
        ("Open the file", "", None),
        ("Open the file", "Open the file", None),
        ("Open the file named so", "开", None),
        ("call the open_file and read_file", "打开文件再读文件", None),
        ("See example.com for more", "更多内容请看网页", None),
    ],
)
def test_only_sentences_for_people_are_kept(english, chinese, pair):
    assert clean_pair(english, chinese) == pair


def test_every_pair_is_kept_once_and_both_directions_are_there(tmp_path):
    pairs = [(f"Open the file {'x' * i}", f"打开文件{chr(0x5000 + i)}") for i in range(1, 90)]
    found = read("gettext_pairs", tmp_path, "a.mo", catalogue([*pairs, ("Cancel", "取消")]))
    blocks = [block.split("\n") for document in found for block in document.split("\n\n")]
    assert sorted((a, b) if a.isascii() else (b, a) for a, b in blocks) == sorted(pairs)
    first = [all(block.split("\n")[0].isascii() for block in document.split("\n\n")) for document in found]
    assert abs(first.count(True) - first.count(False)) <= 1
    assert {document.count("\n\n") + 1 for document in found} == {1, 2, 3, 4}
    assert list(documents(pairs)) == list(documents(pairs[::-1])) == found


def test_a_dictionary_of_two_languages(tmp_path):
    rows = [
        ["蘋果", "苹果", "ping2 guo3", ["apple", "fruit"], [], []],
        ["北京", "北京", "Bei3 jing1", "Beijing", [], []],
        ["台", "台", "tai2", "platform", [], []],
        ["老師", "老师", "lao3 shi1", "teacher/CL:個|个[ge4]", [], []],
        ["空", "空空", "kong1 kong1", [], [], []],
    ]
    found = read("cedict", tmp_path, "all.js", "export default " + json.dumps({"all": rows}) + ";\n")
    assert sorted(found[0].split("\n")) == ["老师：teacher", "苹果：apple"]


def test_the_sources_file_names_readers_that_exist_and_keeps_programs_whole():
    recipe = read_recipe(SOURCES, READERS)
    parts = {source.name: source.parts for source in recipe.sources}
    assert {source.language for source in recipe.sources} == {"zh", "en", "zh-en", "code"}
    assert all(part.code for part in parts["programs"])
    assert not any(part.code for name, own in parts.items() if name != "programs" for part in own)
    held_back = ("digikam", "gnucash", "hsk-sentences")
    assert not any(word in part.package for own in parts.values() for part in own for word in held_back)
    with pytest.raises(ValueError, match=r"poems.*readers of its own"):
        read_recipe(SOURCES)


def test_roff():
    source = '.TH LS 1\n.\\" comment\n.SH 名称\nls \\- 列出\n.SH "SEE ALSO"\n.PP\n\\fBls\\fP of\nwrapped\n.TP\n.B -a\nall\n.TS\ntable\n.TE\n.BR stat (2)'
    assert manuals.roff_text(source) == "名称\n\nls - 列出\n\nSEE ALSO\n\nls of wrapped\n\n-a all stat(2)"


def test_pod():
    pod = "=head1 NAME\n\nB<perl> is C<< fast >>, see L<perlfunc|x>\nreally\n\n    $code = 1;\n\n=cut"
    assert manuals.pod_text(pod) == "NAME\n\nperl is fast, see perlfunc really\n\n    $code = 1;"


@given(st.lists(st.text("ab好 ", max_size=6), max_size=8))
def test_unwrapping_loses_only_blanks(lines):
    text = "\n".join(lines)
    assert "".join(manuals.unwrap(text).split()) == "".join(text.split())


def test_unwrapping_joins_chinese_without_a_blank():
    assert manuals.unwrap("很难避免\n遇到 and\nmore\n\n  in\n  dent") == "很难避免遇到 and more\n\nin dent"
    assert manuals.unwrap("a\nb\n  code\n  code", indented=False) == "a b\n  code\n  code"
