"""The local index: what is found, what an update changes, and what a stranger's folder or a killed update leaves."""

import sqlite3

import numpy as np
import pytest

from openglm.cli.main import main
from openglm.web.building import build
from openglm.web.config import WebConfig
from openglm.web.documents import Document, decode, read
from openglm.web.index import Index
from openglm.web.ranking import Embedder
from openglm.web.words import words

ALONE = WebConfig(embedder="")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "moss.md").write_text("# Moss\nMoss grows on damp ground.", encoding="utf-8")
    (folder / "li.txt").write_text("李白是唐代著名的诗人。他写了《静夜思》。", encoding="gb18030")
    (folder / "ferns.html").write_text(
        "<html><head><title>Ferns &amp; co</title></head><body><p>Ferns reproduce by spores and have no flowers.</p>"
        "<script>steal()</script></body></html>"
    )
    return folder


@pytest.fixture
def index(tmp_path):
    return Index(tmp_path / "index", create=True)


def urls(index, question):
    return [source.url.rpartition("/")[2] for source in index.search(question, 5)[0]]


def counts(update):
    return update.new, update.changed, update.unchanged, update.removed, len(update.problems)


def test_questions_in_both_languages_find_their_documents(index, folder):
    build(index, [str(folder)], ALONE)
    assert urls(index, "How do ferns reproduce?") == ["ferns.html"]
    assert urls(index, "《静夜思》是谁写的？")[0] == "li.txt"
    assert urls(index, "quantum chromodynamics") == []
    (ferns,) = index.search("ferns", 5)[0]
    assert ferns.title == "Ferns & co" and "steal" not in ferns.text


def test_other_forms_of_a_word_are_found_and_words_that_only_ask_are_not(index, folder):
    (folder / "questions.txt").write_text("What, where, how? Who does, who did. 这是谁的？什么？")
    build(index, [str(folder)], ALONE)
    assert urls(index, "Where does growing moss reproduce?") == ["moss.md", "ferns.html"]
    assert urls(index, "蕨类是什么？") == [] and urls(index, "李白是谁？") == ["li.txt"]
    assert urls(index, "Who?") == ["questions.txt"] and urls(index, "?!") == []


def test_a_question_is_words_and_no_query_language(index, folder):
    build(index, [str(folder)], ALONE)
    unknown = " ".join(f"w{number}" for number in range(5000))
    assert urls(index, f'NEAR("moss" * NOT words: ^ {unknown}') == ["moss.md"]


def test_chinese_is_found_where_jieba_cuts_it_otherwise(index):
    assert not {"市长", "江大", "京市"} & set(words("南京市长江大桥建成。")), "else this tests nothing"
    index.update(iter([(Document("bridge", "", "南京市长江大桥建成。"), "")]), list)
    for question in ("市长", "江大", "京市"):
        assert urls(index, question) == ["bridge"]


def test_common_words_are_left_out_before_rare_ones(index, monkeypatch):
    monkeypatch.setattr("openglm.web.index._SCORED", 3)
    texts = ["the moss", "the fern", "the moss and the fern", "the lichen", "the moss"]
    index.update(iter([(Document(str(place), "", text), "") for place, text in enumerate(texts)]), list)
    first, *others = urls(index, "the lichen or the fern")
    assert first == "3" and sorted(others) == ["1", "2"]
    assert len(urls(index, "the")) == 5, "the only word is searched, however common"


def test_an_update_reads_what_changed_and_removes_what_is_gone(index, folder, tmp_path):
    assert counts(build(index, [str(folder)], ALONE)) == (3, 0, 0, 0, 0)
    assert counts(build(index, [str(folder)], ALONE)) == (0, 0, 3, 0, 0)
    (folder / "moss.md").write_text("# Moss\nLiverworts are relatives of it.")
    (folder / "li.txt").unlink()
    assert counts(build(index, [str(folder)], ALONE)) == (0, 1, 1, 1, 0)
    assert urls(index, "damp") == [] and urls(index, "liverworts") == ["moss.md"] and urls(index, "李白") == []
    other = tmp_path / "other.txt"
    other.write_text("Lichens are no plants.")
    assert counts(build(index, [str(other)], ALONE)) == (1, 0, 0, 0, 0), "another place takes nothing away"
    assert urls(index, "liverworts") == ["moss.md"] and urls(index, "lichens") == ["other.txt"]
    assert urls(Index(index.folder), "lichens") == ["other.txt"], "it is all on the disk"
    with sqlite3.connect(index.folder / "index.sqlite") as database:
        found = database.execute("SELECT rowid FROM found").fetchall()
        assert found == database.execute("SELECT id FROM passages").fetchall(), "what is gone is not searched"


def test_an_updated_index_is_the_one_that_is_built_at_once(index, folder, tmp_path):
    build(index, [str(folder / "moss.md")], ALONE)
    build(index, [str(folder)], ALONE)
    at_once = Index(tmp_path / "at once", create=True)
    build(at_once, [str(folder)], ALONE)
    for question in ("moss", "ferns and moss on the ground", "李白"):
        assert sorted(urls(index, question)) == sorted(urls(at_once, question))


def test_a_killed_update_leaves_what_was_there(index, folder):
    build(index, [str(folder)], ALONE)

    def dies():
        yield Document("x", "", "Lichens are no plants."), ""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.update(dies(), lambda: ["never asked"])
    assert urls(index, "moss") == ["moss.md"] and urls(index, "lichens") == []


def test_everything_may_go(index, folder):
    build(index, [str(folder)], ALONE)
    for path in folder.iterdir():
        path.unlink()
    assert counts(build(index, [str(folder)], ALONE))[3] == 3
    assert urls(index, "moss") == [] and len(index) == 0


def letters(texts, questions):
    """A toy embedder: how often each letter stands in a text."""
    rows = np.array([[text.lower().count(chr(97 + place)) + 1e-3 for place in range(26)] for text in texts], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_vectors_that_are_missing_are_made_for_the_question_and_change_nothing(folder, tmp_path):
    (folder / "more.txt").write_text("Ground ground ground moss.")
    index = Index(tmp_path / "index", Embedder("letters", letters), create=True)
    build(index, [str(folder)], ALONE)
    assert index.missing() == 4
    question = "Does moss grow on the ground?"
    before, vectors = index.search(question, 5)
    index.embed(lambda count: None)
    assert index.missing() == 0
    after, stored = index.search(question, 5)
    assert before == after and np.allclose(vectors, stored, atol=1e-3)
    build(index, [str(folder)], ALONE)
    assert index.missing() == 0, "what is unchanged is not embedded again"
    with pytest.raises(ValueError, match="has vectors of letters"):
        Index(index.folder, Embedder("another", letters))


def test_a_strange_folder_is_named_in_one_line(index, tmp_path):
    with pytest.raises(ValueError, match="is no index; make one"):
        Index(tmp_path / "nothing")
    with sqlite3.connect(index.folder / "index.sqlite") as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(ValueError, match="of version 7, this program reads 2"):
        Index(index.folder)
    (tmp_path / "index.sqlite").write_text("no database at all " * 99)
    with pytest.raises(ValueError, match="not a database"):
        Index(tmp_path)


def test_what_cannot_be_read_is_said_and_costs_no_other(folder, tmp_path, capfd):
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 nothing more")
    (folder / "empty.txt").write_text("  \n")
    (folder / "photo.png").write_bytes(b"x")
    assert main(["index", str(folder), "--out", str(tmp_path / "out"), "--web.embedder", ""]) == 0
    shown = capfd.readouterr()
    assert "3 new documents" in shown.out and "2 not readable" in shown.out
    assert "not a PDF that can be read" in shown.err and "has no text" in shown.err and "1 .png" in shown.err
    assert main(["index", str(folder / "nowhere"), "--out", str(tmp_path / "out"), "--web.embedder", ""]) == 1
    assert "is no folder, file or URL" in capfd.readouterr().err


TEXT = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"


@pytest.mark.parametrize(
    ("raw", "declared"),
    [
        (TEXT.encode(), "latin-1"),  # what is UTF-8 is, whatever the server says
        (TEXT.encode("gb18030"), "gb2312"),
        (b"<meta charset='gbk'>" + TEXT.encode("gbk"), "no-such-charset"),
        (b"<meta charset='gbk'>" + TEXT.encode("gbk"), "utf-8"),
        (TEXT.encode("big5", "replace") * 4, "big5"),
        (TEXT.encode("utf-16"), ""),
        (TEXT.encode("utf-8-sig"), ""),
        (TEXT.encode("gb18030") * 8, ""),
    ],
)
def test_charsets_are_found_whatever_is_declared(raw, declared):
    assert "明月光" in decode(raw, declared)


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 50_000 + "deep",
        "<title>" * 50_000,
        "<p>" + "<b><i>" * 20_000 + "words",
        "<html><body><p>half a page about moss <a href='",
        "&#x110000;&bogus;<p>moss</p>" * 1000,
        "<meta " * 20_000,
    ],
)
def test_broken_html_is_text_or_an_error_and_not_a_crash(page):
    try:
        assert isinstance(read(page.encode(), "html", "https://a.test/").text, str)
    except ValueError as error:
        assert "has no text" in str(error)
