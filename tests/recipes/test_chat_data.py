"""nano's chat data keeps its promises: same seed, same lines; poems in their metre; blanks that restore their sentence; the probe's prompts unseen."""

import json
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "nano"))

from chat_data import SHARES, conversations, main, shorten
from chat_probe import PROMPTS, judge, looped
from chat_records import Poem, Records, clean_meaning, gaps_en, gaps_zh, is_plain_pair, parse_poem
from chat_skills import MARKS, Skills, read_lines
from chat_text import expand, fills, half_lines, is_chinese, key, metre

# Made up for this test.
POEMS = [
    Poem("春山", "张三", ("春山鸟自啼，春水入门溪。", "明月归人远，孤舟古寺西。"), 5),
    Poem("秋江", "李四", ("一夜秋风过小桥，江边明月照归桡。", "故人不见花空落，独坐寒窗听雨潮。"), 7),
    Poem(
        "雪夜",
        "王五",
        (
            "大雪满空山，寒江独钓还。",
            "故乡千里外，白发一灯间。",
            "酒尽人初静，梅开鸟未闲。",
            "谁知春又到，明月上柴关。",
        ),
        5,
    ),
    Poem(
        "咏柳",
        "赵六",
        (
            "门前杨柳绿如丝，春到人间雨未迟。",
            "白云深处听黄鸟，明月窗中读旧诗。",
            "花落江南归梦远，酒香楼上送君时。",
            "秋来莫问天涯路，一片寒山是所思。",
        ),
        7,
    ),
]
RECORDS = Records(
    poems=POEMS,
    famous=POEMS[:1],
    gaps={
        "zh": gaps_zh(["他慢慢地走进了教室。", "我们明天一起去公园。"]),
        "en": gaps_en(["The small cat sat on the warm chair."], frozenset(["small", "cat", "warm", "chair"])),
    },
    meanings={
        "idiom": [("画蛇添足", "比喻多此一举。")],
        "zh": [("动机", "做事的念头。")],
        "en": [("boat", "a small vessel for travel on water")],
    },
    sayings=[("石板上钉钉", "硬碰硬")],
    pairs=[("我喜欢读书。", "I like to read.")],
    trivia={"zh": [], "en": [("Who painted it?", "A painter")]},
    conversations=[
        [
            "Do you like to go for walks at night?",
            "Yes, it is very calm then.",
            "I think so too.",
            "The stars look great.",
        ]
    ],
)
NOTHING = np.zeros(0, np.uint64)


@pytest.fixture(scope="module")
def skills():
    return Skills(read_lines(), RECORDS)


@pytest.fixture(scope="module")
def made(skills):
    return list(conversations(skills, 1500, 3, NOTHING))


def test_same_seed_same_lines(skills, made):
    again = Skills(read_lines(), RECORDS)
    assert list(conversations(again, 1500, 3, NOTHING)) == made
    assert list(conversations(again, 50, 4, NOTHING)) != made[:50]


def test_turns_alternate_and_have_text(made):
    for item in made:
        roles = [m["role"] for m in item["messages"] if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        assert all(
            m["content"].strip() and "<" not in m["content"] and "|" not in m["content"] for m in item["messages"]
        )


def test_every_task_comes_about_as_often_as_it_should(made):
    for task, share in SHARES.items():
        assert abs(sum(item["task"] == task for item in made) / len(made) - share) < 0.05


def test_poems_keep_their_metre_and_their_text(skills):
    whole = ["".join(half_lines("".join(poem.couplets))) for poem in POEMS]
    rng = Random(5)
    for make in (skills.poem_continue, skills.poem_next, skills.poem_write):
        for lang in ("zh", "en") * 60:
            for ask, answer in make(rng, lang):
                assert metre(answer), (ask, answer)
                assert any("".join(half_lines(answer)) in text for text in whole)
                assert answer[-1] in "。？"


def test_a_continued_poem_is_whole(skills):
    rng = Random(6)
    texts = {"".join(poem.couplets) for poem in POEMS}
    for _ in range(100):
        ((ask, answer),) = skills.poem_continue(rng, "zh")
        rest = answer.replace("\n", "")
        full = next(text for text in texts if text.endswith(rest))
        assert "".join(half_lines(full[: -len(rest)])) in key(ask)


def test_a_blank_restores_its_sentence(skills):
    rng = Random(7)
    sentences = {gap.sentence for gaps in RECORDS.gaps.values() for gap in gaps} | {
        line for poem in POEMS for line in poem.couplets
    }
    for lang in ("zh", "en") * 100:
        ((ask, answer),) = skills.blank(rng, lang)
        assert answer in sentences
        mark = next(mark for mark in sorted(MARKS[lang], key=len, reverse=True) if mark in ask)
        before, after = ask.split(mark)
        assert any(answer.startswith(before[i:]) for i in range(len(before) + 1)) and after[:1] in answer


def test_hidden_words_are_where_the_gaps_say():
    assert all(gap.sentence[gap.start : gap.end].strip() for gaps in RECORDS.gaps.values() for gap in gaps)
    assert {gap.sentence[gap.start : gap.end] for gap in RECORDS.gaps["en"]} == {"small", "cat", "warm", "chair"}


def test_prompts_of_the_probe_are_not_trained(skills, made):
    asked = {key(prompt.text) for prompt in PROMPTS}
    assert not asked & {key(m["content"]) for item in made for m in item["messages"]}
    assert not asked & {key(ask) for intent in skills.lines.intents for ask in intent["asks"]}
    # ... and one that slips in is dropped:
    skills.lines.facts["zh"].append([PROMPTS[0].text, "是。"])
    try:
        assert not asked & {
            key(m["content"]) for item in conversations(skills, 800, 9, NOTHING) for m in item["messages"]
        }
    finally:
        skills.lines.facts["zh"].pop()


def test_answers_are_in_the_language_of_the_question(skills):
    for intent in skills.lines.intents:
        assert all(is_chinese(answer) == (intent["lang"] == "zh") for answer in intent["answers"]), intent["name"]


def test_identity_names_nano_and_the_project(skills):
    for intent in skills.lines.intents:
        if intent["name"] in ("who", "maker", "human"):
            want = "OpenGLM" if intent["name"] == "maker" else "nano"
            assert all(want in answer for answer in intent["answers"])


def test_conversations_fit_the_context():
    pairs = [("字" * 200, "字" * 200), ("问", "字" * 300), ("问", "答")]
    assert shorten(pairs) == pairs[:1]


def test_evaluation_items_are_left_out(skills):
    from openglm.data.clean import contamination_index

    item = "门前杨柳绿如丝，春到人间雨未迟。"
    kept = list(conversations(skills, 300, 3, contamination_index([item])))
    assert not any(item in m["content"] for c in kept for m in c["messages"])
    assert any(item in m["content"] for c in conversations(skills, 300, 3, NOTHING) for m in c["messages"])


def test_files_are_split_without_overlap(tmp_path, monkeypatch):
    monkeypatch.setattr("chat_data.read_records", lambda cache, words, sources: RECORDS)
    monkeypatch.setattr("chat_data.read_evaluation", lambda cache, sources: [])
    main(tmp_path / "out", count=400, heldout=0.2)
    train, held = (
        set((tmp_path / "out" / name).read_text(encoding="utf-8").splitlines())
        for name in ("chat.jsonl", "chat-heldout.jsonl")
    )
    assert (
        held and not train & held and all(set(json.loads(line)) == {"messages", "task", "language"} for line in train)
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["chat-heldout.jsonl", "chat.jsonl"]


@pytest.mark.parametrize(
    "text, good",
    [
        ("《春》\n张三\n春山鸟自啼，春水入门溪。\n明月归人远，孤舟古寺西。", True),
        ("《春》\n张三\n春山鸟自啼，春水入门溪。\n明月照归人远，孤舟古寺西。", False),  # six characters
        ("《春》\n张三\n春山鸟自啼，春水入门溪。", False),  # two lines are not a quatrain
        ("《春》\n张三\n春山鸟自啼，春水入门溪。\n一夜秋风过小桥，江边明月照归桡。", False),  # two metres
    ],
)
def test_only_regular_poems_are_taken(text, good):
    assert (parse_poem(text) is not None) == good


def test_definitions_come_without_notes_and_examples():
    assert clean_meaning("背道而驰", "背背向；道道路。朝相反的方向跑去。", 46) == "朝相反的方向跑去。"
    assert clean_meaning("敬献", "恭敬地献上向烈士陵墓～花圈。", 46) == ""
    assert (
        clean_meaning("大手大脚", "原指人手大，脚大◇多用来形容花钱不节省。", 46)
        == "原指人手大，脚大。后多用来形容花钱不节省。"
    )


def test_choices_nest():
    assert sorted(expand("(a|b (c|d)|)e")) == ["ae", "b ce", "b de", "e"]


# The probe's rules.


@pytest.mark.parametrize(
    "answer, good",
    [
        ("他每天早上六点起床。", True),
        ("他每天早上六点起床", True),
        ("他每天早上六点___。", False),
        ("起床", False),
        ("他每天早上六点。", False),
        ("她每天早上六点起床。", False),
    ],
)
def test_a_filled_blank_is_known(answer, good):
    assert fills("他每天早上六点___。", answer, "___") == good


def _prompt(skill, part):
    return next(p for p in PROMPTS if p.skill == skill and part in p.text)


@pytest.mark.parametrize(
    "answer, stopped, good",
    [
        ("孤灯照客心。\n故乡千里外，明月到如今。", True, True),
        ("孤灯照客心。\n故乡千里外，明月到如今。", False, False),
        ("孤灯照客心。", True, False),
        ("孤灯照客心人。\n故乡千里外，明月到如今。", True, False),
        ("", True, False),
    ],
)
def test_a_poem_is_judged_by_metre_length_and_end(answer, stopped, good):
    assert judge(_prompt("poem", "小窗听夜雨"), answer, stopped).passed == good


def test_a_quatrain_has_four_lines():
    four = "孤灯照客心，明月到如今。\n故乡千里外，春水入门深。"
    ask = _prompt("poem", "能否来首写雪的五绝")
    assert judge(ask, four, True).passed and not judge(ask, f"{four}\n{four}", True).passed


def test_language_name_and_loops_are_judged():
    who = _prompt("identity", "究竟是哪一位")
    assert judge(who, "我是 nano，一个小模型。", True).passed
    assert not judge(who, "I am nano.", True).passed and not judge(who, "我是一个小模型。", True).passed
    assert looped("好的好的好的好的好的好的好的好的好的") and not looped(
        "床前明月光，疑是地上霜。举头望明月，低头思故乡。"
    )


def test_pairs_for_translation_are_short_sentences_without_names():
    assert is_plain_pair("请重试。", "Please try again.")
    for zh, en in (
        ("请重试", "Please try again"),
        ("在 Writer 中打开。", "Open it."),
        ("打开。", "Open in the Writer."),
    ):
        assert not is_plain_pair(zh, en)
    assert not is_plain_pair("请重试。", "Please try " + "again and " * 8 + "again.")
