"""nano's answers from passages: whatever is learnt cites the passage that says it, in the prompt that `glm ask` gives."""

import json
import sys
from pathlib import Path
from random import Random

import pytest
from helpers.scripted import scripted
from helpers.text_samples import TEXTS, VOCAB_SIZE

from openglm.data.clean import contamination_index
from openglm.text import train_tokenizer
from openglm.web.citations import Source, check, cited, supports, without_marks
from openglm.web.config import WebConfig
from openglm.web.sources import Found, prompt
from openglm.web.words import words

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/nano"))
import passage_chinese
import passage_data
import passage_english
from passage_data import Asked, clean_test, conversations, read_pools, record
from passage_english import Lexicon
from passage_records import life_zh, word_en, word_zh

TAGS = {
    "det": "the a an",
    "be": "is was were are",
    "aux": "has had did does can",
    "to": "in of by for to at on with from",
    "and": "and",
    "past": "built opened painted sold",
    "noun": "company tower river bridge city engineer painter village market town",
    "adjective": "long old large",
}
PLACES = ["Aldmoor", "Berrin", "Castow", "Dunley", "Elmsey", "Farrow", "Gorsby", "Hexley", "Ilmere", "Jarrow"]
THINGS = ["tower", "bridge", "market"]


@pytest.fixture(scope="module")
def lexicon():
    tags = {word: tag for tag, listed in TAGS.items() for word in listed.split()}
    bases = {"built": "build", "sold": "sell"}
    return Lexicon(tags, bases, {"open", "paint", "build", "sell"}, {"engineer", "painter", "Anna"})


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return train_tokenizer(iter(TEXTS), VOCAB_SIZE, tmp_path_factory.mktemp("own"))


def texts(end: str) -> dict[str, list[str]]:
    """A few documents of each source, other ones with another end."""
    made: dict[str, list[str]] = {name: [] for name in passage_data.WEIGHTS}
    for number, place in enumerate(f"{name}{end}" for name in PLACES):
        year, thing = 1700 + 7 * number + 100 * bool(end), THINGS[number % 3]
        english = (
            f"In {year} the {place} company built the old {thing}. The {place} painter sold {number + 20} large towers in {place}."
            f" The long river of {place} was opened by Anna Dale in {year + 3}."
        )
        for name in ("wiki-news-en", "brown-en", "essays-en", "manuals-en"):
            made[name].append(english)
        made["dictionary-en"].append(f"{place.lower()} (noun): a kind of {thing} that is {number + 3} metres long")
        word, name = (
            "甲乙丙丁戊己庚辛壬癸"[number] * 2 + ("川" if end else "山"),
            f"王{'甲乙丙丁戊己庚辛壬癸'[number]}{'川' if end else '山'}",
        )
        news = f"{year}年{word}公司在北京建成了第{number + 2}座大桥。{word}公司共有{number + 30}名工人。"
        made["news-zh"].append(news)
        made["manuals-zh"].append(news)
        made["idioms-zh"].append(
            f"{word}之{word[0]}（dú yīn）：比喻{thing}修得很长的{number + 2}年。\n出处：宋·{name}《{word}集》卷一。"
        )
        made["dictionary-zh"].append(f"{word}：{number + 2}座大桥合在一起的样子。")
        made["biographies-zh"].append(
            f"{name}\n{name}，字子{word[0]}，{word}人。高宗绍兴{number + 2}年进士。有《{word}集》。"
        )
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("text")
    for end in ("", "-heldout"):
        for name, documents in texts(end).items():
            lines = (json.dumps({"text": text}, ensure_ascii=False) for text in documents)
            (root / f"{name}{end}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def pools(folder, lexicon, own):
    return read_pools(folder, lexicon, own, lambda text: True)


@pytest.fixture(scope="module")
def made(pools):
    return list(conversations(pools, 150, "1"))


def test_every_answer_cites_the_passages_that_say_it_and_stays_when_it_is_checked(made):
    """Read once more from the messages alone."""
    for one in made:
        said = one.messages()[1]["content"]
        for text, number in one.answers:
            assert supports(one.sources[number - 1].text, text), (text, number)
        assert cited(said) == list(dict.fromkeys(number for _, number in one.answers)), said
        if one.answers:
            assert check(said, one.sources).text == said
            assert "[?]" not in said and without_marks(said) != said


def test_no_other_passage_says_it(made):
    for one in made:
        for text, number in one.answers:
            others = [source.text for place, source in enumerate(one.sources, 1) if place != number]
            assert not any(supports(other, text) for other in others), (text, others)


def test_the_right_passage_stands_anywhere_and_is_seldom_alone(made):
    places = [(number, len(one.sources)) for one in made for _, number in one.answers]
    assert {number for number, _ in places} >= {1, 2, 3, 4} and max(count for _, count in places) <= 5
    assert {count for _, count in places} >= {1, 2, 3, 4}
    assert sum(count > 1 for _, count in places) > len(places) / 2
    last = sum(number == count for number, count in places if count > 1)
    assert 0 < last < sum(count > 1 for _, count in places) * 0.7


def test_what_no_passage_tells_is_refused_as_the_package_refuses(made):
    untold = [one for one in made if not one.answers]
    assert 0.04 < len(untold) / len(made) < 0.25
    for one in untold:
        said = one.messages()[1]["content"]
        assert said == Found(one.question, one.sources).check(said).text and not cited(said)
        assert one.sources, "there are passages, which do not tell it"


@pytest.mark.parametrize("wrong", [2, 1])
def test_a_citation_that_does_not_hold_stops_the_build(wrong):
    """The wrong number, or words that no passage has."""
    sources = [Source("", "1", "The tower was built in 1889."), Source("", "2", "Rivers are long and cold.")]
    said = "The tower was built in 1889." if wrong == 2 else "Painters sold their old market yesterday."
    with pytest.raises(ValueError, match="the check makes"):
        Asked("When?", sources, [(said, wrong)], "when", "en").messages()


def test_the_model_is_asked_with_the_tokens_it_has_learnt_from(made, own):
    """Through the assistant, as `glm ask` goes; no word of the prompt is the recipe's own."""

    class Web:
        config = WebConfig(embedder="")

        def find(self, question, stop):
            return Found(question, one.sources)

    for one in made[:4]:
        assistant = scripted(own, "No.<eop>", web=Web())
        assistant.reply([{"role": "user", "content": one.question}], max_tokens=8, temperature=0.0)
        read = [token for step in assistant.script.computed for token in step]
        ids, trained = own.render(one.messages())
        begin = list(trained).index(1) if 1 in list(trained) else list(trained).index(True)
        assert read[:begin] == ids[:begin] and one.messages()[0]["content"] == prompt(one.question, one.sources)


def test_what_is_held_out_is_in_no_training_passage(folder, lexicon, own, made):
    held = list(conversations(read_pools(folder, lexicon, own, lambda text: True, "-heldout"), 40, "1/heldout", False))
    learnt = {source.text for one in made for source in one.sources}
    assert held and not learnt & {source.text for one in held for source in one.sources}
    for one in held:
        written = record(one, True)
        assert written["right"] and all(0 < number <= len(written["sources"]) for number in written["right"])
        assert without_marks(written["messages"][1]["content"]) == written["answer"]


def test_the_same_seed_gives_the_same_conversations(folder, lexicon, own, made):
    again = list(conversations(read_pools(folder, lexicon, own, lambda text: True), 60, "1"))
    assert [record(one, False) for one in again] == [record(one, False) for one in made[:60]]
    assert [one.question for one in conversations(read_pools(folder, lexicon, own, lambda text: True), 60, "2")] != [
        one.question for one in again
    ]


def test_no_conversation_is_longer_than_the_rows_that_learn_it(made, own):
    longest = max(len(own.render(one.messages())[0]) for one in made)
    assert longest <= max(room for room, _ in passage_data.ROOMS) < 512


def test_passages_with_marks_special_tokens_or_evaluation_items_are_left_out(own):
    item = "the quick brown fox jumps over the lazy dog and then runs into the dark green forest"
    is_clean = clean_test(own, contamination_index([item]))
    assert is_clean("A plain passage of a few words, long enough.")
    assert (
        not is_clean(f"Once {item}.")
        and not is_clean("As others say [3], it is so.")
        and not is_clean("It ends. <eop> Go on.")
    )


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("In 1889 the company built the long bridge.", "When did the company build the long bridge?"),
        ("In 1889 the company built the long bridge.", "What did the company build?"),
        ("The old tower was opened by Anna Dale in 1903.", "Who was the old tower opened by?"),
        ("The old tower was opened by Anna Dale in 1903.", "In what year was the old tower opened by Anna Dale?"),
        ("The painter sold 20 large towers in Berrin.", "How many large towers did the painter sell in Berrin?"),
        ("The painter sold 20 large towers in Berrin.", "Who sold 20 large towers in Berrin?"),
        ("The painter sold 20 large towers in Berrin.", "Where did the painter sell 20 large towers?"),
    ],
)
def test_english_sentences_are_turned_into_questions(lexicon, sentence, question):
    found = passage_english.asks(lexicon, sentence)
    assert question in [one.question for one in found] and {one.answer for one in found} == {sentence}


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("1889年法国公司建成了高高的铁塔。", "什么时候法国公司建成了高高的铁塔？"),
        ("1889年法国公司建成了高高的铁塔。", "哪一年法国公司建成了高高的铁塔？"),
        ("这座城市的公司共有三十二名工人，都住在河边。", None),
        ("铁塔公司共有三十二名工人。", "铁塔公司共有多少名工人？"),
        ("编译器是把源程序变成机器语言的程序。", "编译器是什么？"),
    ],
)
def test_chinese_sentences_are_turned_into_questions(sentence, question):
    found = [one.question for one in passage_chinese.asks(sentence)]
    assert found == [] if question is None else question in found


def test_chinese_questions_keep_the_words_around_what_they_ask_for():
    sentence = "1997年7月1日，代表团在北京召开了第三次大会，有312名代表参加了会议。"
    for one in passage_chinese.asks(sentence):
        kept = [word for word in words(one.question) if word in words(sentence)]
        assert len(kept) >= 2 and one.answer == sentence


def test_words_alone_and_lead_ins_leave_a_question(lexicon):
    for seed in range(60):
        question = passage_english.worded(lexicon, Random(seed), "When did the company build the long bridge?")
        assert {"company", "bridge"} <= set(question.split()) and "  " not in question
        chinese = passage_chinese.worded(Random(seed), "“信”是什么意思")
        assert "“信”是什么意思" in chinese, "a record's question has no mark at its end that could be taken off"


@pytest.mark.parametrize(
    ("reader", "text", "answers"),
    [
        (word_zh, "秋意：1.秋季凄清的景观。 2.态度冷淡。", {"“秋意”的意思是秋季凄清的景观。"}),
        (word_zh, "百世之师（bǎi shì）：世世代代的老师。\n出处：宋·孟轲《孟子》圣人。", {"“百世之师”的意思是世世代代的老师。", "“百世之师”出自宋·孟轲《孟子》。"}),
        (word_en, "abacus (noun): a frame that performs sums; \"he used an abacus\"", {"abacus: a frame that performs sums."}),
        (
            life_zh,
            "吴充\n吴充（一○二一～一○八○），字冲卿，建州浦城人。有《吴集》。",
            {"吴充，字冲卿。", "吴充，建州浦城人。", "吴充，有《吴集》。", "吴充（一○二一～一○八○），字冲卿，建州浦城人。"},
        ),
    ],
)  # fmt: skip
def test_records_answer_in_their_own_words(reader, text, answers):
    shown, asks = reader(Random(0), text)
    assert {one.answer for one in asks} == answers
    assert all(supports(shown, one.answer) for one in asks)
