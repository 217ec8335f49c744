"""Citations against their sources: kept, moved, dropped, marked; and ALCE's figures as its own definitions give them."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

from openglm.web.citations import Source, check, cited, precision
from openglm.web.words import passages, sentences, words

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from alce import copied, recall_and_precision, shuffled

MOSS = Source("Moss", "https://moss.test/", "Moss grows on damp ground. It was described by Hedwig in 1801.")
FERNS = Source("Ferns", "https://ferns.test/", "Ferns reproduce by spores and have neither seeds nor flowers.")
LI = Source("李白", "https://li.test/", "李白是唐代著名的诗人，生于701年。他写了《静夜思》。")
SOURCES = [MOSS, FERNS, LI]


def test_a_right_citation_is_kept_and_quotes_its_sentence():
    checked = check("Hedwig described moss in 1801 [1].", SOURCES)
    assert checked.text == "Hedwig described moss in 1801 [1]."
    (one,) = checked.citations
    assert (one.index, one.title, one.url) == (1, MOSS.title, MOSS.url)
    assert one.quote == "It was described by Hedwig in 1801."
    assert (checked.kept, checked.dropped, checked.added) == (1, 0, 0)


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("Ferns reproduce by spores [1].", "Ferns reproduce by spores [2]."),
        ("Ferns reproduce by spores [1][2].", "Ferns reproduce by spores [2]."),
        ("Ferns reproduce by spores [9].", "Ferns reproduce by spores [2]."),
        ("Ferns reproduce by spores [0].", "Ferns reproduce by spores [2]."),
        ("Ferns reproduce by spores [1, 3].", "Ferns reproduce by spores [2]."),
        ("Ferns reproduce by spores.", "Ferns reproduce by spores [2]."),
        ("李白是唐代诗人[1]。", "李白是唐代诗人[3]。"),
        ("Cars reproduce by magnets [2].", "Cars reproduce by magnets [?]."),
        ("Moss was described by Hedwig in 1810 [1].", "Moss was described by Hedwig in 1810 [?]."),
    ],
)
def test_a_wrong_citation_is_moved_dropped_or_marked(written, right):
    assert check(written, SOURCES).text == right


def test_each_sentence_is_judged_alone_and_the_text_stays():
    text = "Moss grows on damp ground [2].\n\n- Ferns have no seeds [2]. Nobody eats bricks! 李白写了《静夜思》。"
    checked = check(text, SOURCES)
    right = (
        "Moss grows on damp ground [1].\n\n- Ferns have no seeds [2]. Nobody eats bricks [?]! 李白写了《静夜思》[3]。"
    )
    assert checked.text == right
    assert (checked.sentences, checked.unsupported) == (4, 1)
    assert check(checked.text, SOURCES).text == right, "nothing is left to correct"
    assert [mark[2].index for mark in checked.marks] == [1, 2, 3]
    for start, end, citation in checked.marks:
        assert checked.text[start:end] == f"[{citation.index}]"


def test_nothing_is_cited_where_nothing_supports():
    checked = check("Bricks are tasty [1].", SOURCES)
    assert checked.citations == [] and checked.unsupported == 1
    assert check("Bricks [1].", []).citations == []


def test_embeddings_decide_only_where_words_leave_it_open():
    """Between two fifths of the words and WebGLM's share; below that, nearness alone is not support."""

    def near(claim):
        return np.array([0.1, 0.99, 0.1])

    half = "Ferns multiply with tiny spores, lacking flowers."
    assert 0.4 <= precision(half, FERNS.text) < 0.57
    assert "[?]" in check(half, SOURCES).text and "[2]" in check(half, SOURCES, near).text
    assert "[?]" in check("Entirely other words stand here.", SOURCES, near).text


def test_words_and_sentences():
    assert words("ＧＬＭ模型, 100%") == ["glm", "模型", "100"]
    text = 'Dr. A. Smith said "hi." [1] It cost 3.14.[2] 你好。[1]再见！\nok'
    assert "".join(sentences(text)) == text
    assert len(sentences(text)) == 5
    assert cited("a [1][3] b [2, 3] c [x] [12345678]") == [1, 3, 2]


@pytest.mark.parametrize("text", ["word " * 3000, "字" * 3000, "A line. " * 500, "x" * 5000, "one\n\ntwo\n" * 400])
def test_passages_are_short_and_lose_nothing(text):
    cut = passages(text)
    assert max(map(len, cut)) <= 800
    assert "".join("".join(cut).split()) == "".join(text.split())


def entails(premise, claim):
    """A toy judge: every letter of the claim stands in the premise."""
    return set(claim.strip(" .").lower()) <= set(premise.lower())


DOCUMENTS = [Source("", "", text) for text in ("a b", "c d", "a b c", "e")]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("ab [1].", (1, 1)),
        ("ab [2].", (0, 0)),
        ("ab.", (0, 0)),
        ("ab [7].", (0, 0)),  # a number without a source: no citation to be precise about
        ("ab [0].", (0, 0)),
        ("abcd [1][2].", (1, 1)),  # neither alone, but each is needed
        ("ab [1][2].", (1, 1 / 2)),  # the second is idle
        ("ab [1][3].", (1, 1)),  # each is enough
        ("ab [1]. cd [1].", (1 / 2, 1 / 2)),
        ("e [1][2][3][4].", (0, 0)),  # the fourth does not count
    ],
)
def test_alce_by_hand(answer, expected):
    """Titles lend letters, so the toy judge sees the texts alone."""

    def judge(premise, claim):
        return entails(premise.replace("Title: ", ""), claim)

    assert recall_and_precision(answer, DOCUMENTS, judge) == pytest.approx(expected)


def test_the_controls_do_what_they_warn_of():
    """Copying a passage is a perfect citation of it; shuffled citations are none."""
    assert recall_and_precision(copied(SOURCES), SOURCES) == (1, 1)
    right = "Moss grows on damp ground [1]. Ferns have neither seeds nor flowers [2]. 李白是唐代诗人[3]。"
    assert recall_and_precision(right, SOURCES) == (1, 1)
    assert recall_and_precision(shuffled(right, 3, random.Random(0)), SOURCES) == (0, 0)
