"""Conversations: every shape is read, errors name file, line and field, loss lies on answers alone, nothing is cut inside a turn."""

import json

import numpy as np
import pytest

from openglm.config import DataConfig, InfillingConfig, SpecialTokens
from openglm.data.conversations import conversation
from openglm.data.dialogue import DialogueSource, shorten
from openglm.data.mixture import Mixture
from openglm.data.packing import fill_rows
from openglm.text.formats import FORMATS
from openglm.text.native import SPECIAL_TOKENS
from openglm.text.tokenizer import Tokenizer

OURS = SpecialTokens(pad=0, mask=1, gmask=2, smask=3, sop=4, eop=5)
USER, ASSISTANT, SYSTEM = (SPECIAL_TOKENS.index(f"<|{role}|>") for role in ("user", "assistant", "system"))
FIRST = 16  # ids from here on are bytes


class Bytes(Tokenizer):
    """A tokenizer of one id per byte."""

    def __init__(self, form="openglm"):
        names = [name.encode() for name in SPECIAL_TOKENS] + [b""] * (FIRST - len(SPECIAL_TOKENS))
        super().__init__(
            {},
            dict(enumerate([*names, *(bytes([byte]) for byte in range(256))])),
            {name: i for i, name in enumerate(SPECIAL_TOKENS)},
            FORMATS[form],
        )

    def _encode_batch(self, texts):
        return [[FIRST + byte for byte in text.encode()] for text in texts]


def text_of(ids):
    return "".join(f"<{i}>" if i < FIRST else chr(i - FIRST) for i in ids)


def write(tmp_path, *records):
    path = tmp_path / "chat.jsonl"
    path.write_text(
        "".join(
            (record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)) + "\n" for record in records
        ),
        encoding="utf-8",
    )
    return path


def source(path, seq_len=128, rule="pinned_mask", seed=1):
    return DialogueSource(path, Bytes(), OURS, seq_len, rule, seed)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def turns(number, size=5):
    return {
        "messages": [m for i in range(number) for m in (user(f"q{i}" + "." * size), assistant(f"a{i}" + "." * size))]
    }


TOOL = {"type": "function", "function": {"name": "weather", "description": "", "parameters": {}}}
CALL = {"function": {"name": "weather", "arguments": {"city": "北京"}}}


@pytest.mark.parametrize(
    "record, messages, tools",
    [
        ({"messages": [user("q"), assistant("a")]}, [user("q"), assistant("a")], None),
        (
            {"messages": [{"role": "system", "content": "", "tools": [TOOL]}, user("q"), assistant("a")]},
            [user("q"), assistant("a")],
            [TOOL],
        ),
        (
            {"messages": [{"role": "system", "content": "s"}, user("q"), assistant("a")], "tools": [TOOL]},
            [{"role": "system", "content": "s"}, user("q"), assistant("a")],
            [TOOL],
        ),
        (
            {"conversations": [user("q"), {**assistant("a"), "loss": False}, user("r"), assistant("b")]},
            [user("q"), {**assistant("a"), "loss": False}, user("r"), assistant("b")],
            None,
        ),
        (
            {
                "conversations": [
                    user("q"),
                    {"role": "tool", "name": "weather", "parameters": {"city": "北京"}, "observation": {"t": 3}},
                    assistant("a"),
                ]
            },
            [
                user("q"),
                {**assistant(""), "tool_calls": [CALL]},
                {"role": "tool", "content": '{"t": 3}'},
                assistant("a"),
            ],
            None,
        ),
        (
            {
                "conversations": [
                    user("q"),
                    assistant("let me see"),
                    {"role": "tool", "name": "weather", "parameters": {"city": "北京"}, "observation": "cold"},
                    assistant("a"),
                ]
            },
            [
                user("q"),
                {**assistant("let me see"), "tool_calls": [CALL]},
                {"role": "tool", "content": "cold"},
                assistant("a"),
            ],
            None,
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
            [{"role": "system", "content": "s"}, user("q"), assistant("a")],
            None,
        ),
        (
            {"prompt": "q", "response": "a", "history": [["o", "p"]]},
            [user("o"), assistant("p"), user("q"), assistant("a")],
            None,
        ),
        ({"prompt": "q", "response": "a", "history": []}, [user("q"), assistant("a")], None),
        ({"content": "q", "summary": "a"}, [user("q"), assistant("a")], None),
        ({"instruction": "do", "input": "this", "output": "a"}, [user("do\nthis"), assistant("a")], None),
        ({"instruction": "do", "input": "", "output": "a"}, [user("do"), assistant("a")], None),
    ],
)
def test_every_shape_becomes_openai_messages(record, messages, tools):
    assert conversation(record) == (messages, tools)
    Bytes().render(messages, tools=tools)  # and the renderer takes them


def call(name, **arguments):
    return {"function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    "record, messages",
    [
        ({"prompt": "q", "completion": "a"}, [user("q"), assistant("a")]),
        ({"prompt": [user("q")], "completion": [assistant("a")]}, [user("q"), assistant("a")]),
        ({"question": "q", "answer": "a", "system_prompt": "s"}, [system("s"), user("q"), assistant("a")]),
        (
            {"query": "q", "response": "a", "history": [["o", "p"]]},
            [user("o"), assistant("p"), user("q"), assistant("a")],
        ),
        ({"input": "q", "output": "a"}, [user("q"), assistant("a")]),
        (
            {"instruction": "do", "context": "this", "response": "a", "category": "x"},
            [user("do\nthis"), assistant("a")],
        ),
        ({"kind": "x", "input": "q", "target": "a"}, [user("q"), assistant("a")]),
        (
            {"question": "q", "answer": "a", "reasoning_content": "t"},
            [user("q"), {**assistant("a"), "reasoning_content": "t"}],
        ),
        ([user("q"), assistant("a")], [user("q"), assistant("a")]),
        (
            {"conversation": [{"system": "s", "input": "q", "output": "a"}, {"input": "r", "output": "b"}]},
            [system("s"), user("q"), assistant("a"), user("r"), assistant("b")],
        ),
        (
            {"messages": [user([{"type": "text", "text": "q"}, {"type": "text", "text": "?"}]), assistant("a")]},
            [user("q?"), assistant("a")],
        ),
        (
            {"messages": [user("q"), {**assistant(None), "function_call": {"name": "f", "arguments": "{}"}}]},
            [user("q"), {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                    {"from": "function_call", "value": '{"name": "g", "arguments": {}}'},
                    {"from": "observation", "value": "1"},
                    {"from": "observation", "value": "2"},
                    {"from": "gpt", "value": "a"},
                ],
                "tools": '[{"name": "f"}]',
            },
            [
                user("q"),
                {**assistant(""), "tool_calls": [call("f", x=1), call("g")]},
                {"role": "observation", "content": "1"},
                {"role": "observation", "content": "2"},
                assistant("a"),
            ],
        ),
        (
            {"conversations": [user("q"), {"role": "tool", "name": "f", "parameters": {"x": 1}}]},
            [user("q"), {**assistant(""), "tool_calls": [call("f", x=1)]}],
        ),
    ],
)
def test_shapes_of_other_trainers(record, messages):
    read, tools = conversation(record)
    assert read == messages
    assert tools == ([{"name": "f"}] if isinstance(record, dict) and "tools" in record else None)
    Bytes().render(read, tools=tools)


def test_fields_may_have_other_names():
    record = {"q": "one", "a": "two", "prompt": "x", "response": "y", "system": "s"}
    assert conversation(record, {"prompt": "q", "response": "a"})[0] == [system("s"), user("one"), assistant("two")]
    with pytest.raises(ValueError, match=r"data.fields prompt = 'lost': no such field"):
        conversation(record, {"prompt": "lost"})


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"loss": False}, {"loss": 0}])
def test_turns_that_are_marked_are_not_taught(tmp_path, mark):
    records = [
        {"messages": [user("q"), {**assistant("no"), **mark}, user("r"), assistant("yes")]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "no", **mark}]},
    ]
    read = source(write(tmp_path, *records))
    assert [taught(*pair) for pair in read.rendered()] == [f"yes<{USER}>"]
    assert read.counts == {"nothing": 1}


def test_answers_are_not_weighted():
    with pytest.raises(ValueError, match=r"messages\[1\].weight = 0.5: must be true or false"):
        conversation({"messages": [user("q"), {**assistant("a"), "weight": 0.5}]})


def taught(ids, mask):
    return text_of([number for number, trained in zip(ids, mask, strict=True) if trained])


def test_an_empty_answer_is_not_taught(tmp_path):
    """Its end token alone would teach a model to say nothing."""
    records = [{"prompt": "q", "response": " "}, {"messages": [user("q"), assistant(""), user("r"), assistant("yes")]}]
    read = source(write(tmp_path, *records))
    assert [taught(*pair) for pair in read.rendered()] == [f"yes<{USER}>"]
    assert read.counts == {"empty": 2, "nothing": 1} and "2 answers are empty" in read.summary
    with pytest.raises(ValueError, match=r"nothing in it to learn from .* 1 answers are empty"):
        source(write(tmp_path, records[0]))


def test_a_call_as_text_in_the_last_turn_is_a_call(tmp_path):
    text = assistant('weather\n{"city": "x"}')
    assert conversation({"messages": [user("q"), text]})[0][1] == text, "without tools it is text"
    (pair,) = source(write(tmp_path, {"messages": [user("q"), text], "tools": [TOOL]}), 512).rendered()
    observation = SPECIAL_TOKENS.index("<|observation|>")
    assert taught(*pair) == f'weather\n{{"city": "x"}}<{observation}>'


def test_what_is_not_used_is_counted_by_name(tmp_path):
    records = [{"prompt": "q", "response": "a", "id": 1}, {"messages": [{**user("q"), "image": "x"}, assistant("a")]}]
    assert "fields not used: id (1), messages[].image (1)" in source(write(tmp_path, *records)).summary


def test_all_bad_records_are_listed_at_once_and_may_be_skipped(tmp_path, capsys):
    bad = {"prompt": "q", "response": None}
    path = write(tmp_path, turns(1), bad, bad, "{", turns(1), bad)
    with pytest.raises(ValueError) as error:
        source(path)
    assert "lines 2-3, 6: response = None: must be text (3 times)" in str(error.value)
    assert "line 4: not JSON" in str(error.value) and "4 of 6 records" in str(error.value)
    assert "--data.skip-bad" in str(error.value)
    read = DialogueSource(path, Bytes(), OURS, 128, "pinned_mask", 1, skip_bad=True)
    assert len(read) == 2 and "4 of 6 records" in capsys.readouterr().err


def test_a_long_conversation_is_rendered_a_few_times(tmp_path):
    class Counted(Bytes):
        calls = 0

        def render(self, *args, **options):
            self.calls += 1
            return super().render(*args, **options)

    tokenizer = Counted()
    read = DialogueSource(write(tmp_path, turns(300)), tokenizer, OURS, 128, "pinned_mask", 1)
    assert tokenizer.calls < 14 and read.counts == {"shortened": 1}
    (pair,) = read.rendered()
    assert text_of(pair[0]).startswith(f"<2><4><{USER}>\nq295"), "as many turns as fit"


def test_each_answer_is_a_sample_where_a_format_forgets_thoughts(tmp_path):
    """GLM-Z1's prompt opens <think>, so an answer is taught with its thoughts; in what precedes others it has none."""
    tokenizer = Bytes("glm-z1")
    first = assistant("<think>\nhm</think>\none")
    second = {**assistant("two"), "reasoning_content": "so"}
    record = {"messages": [user("q"), first, user("r"), second, user("s"), assistant("three")]}
    read = DialogueSource(write(tmp_path, record), tokenizer, OURS, 512, "pinned_mask", 1)
    pairs = list(read.rendered())
    assert [taught(*pair) for pair in pairs] == [
        f"\nhm</think>\none<{USER}>",
        f"\nso\n</think>\ntwo<{USER}>",
        f"\n</think>\nthree<{USER}>",
    ]
    for number, (ids, mask) in enumerate(pairs):
        asked = tokenizer.render(record["messages"][: 2 * number + 1], generation_prompt=True)[0]
        assert ids[: mask.index(1)] == asked, "what precedes the answer is what the model will be asked with"
    assert read.counts == {"split": 2, "without": 1}


def test_each_answer_of_numbered_rounds_is_taught(tmp_path):
    """ChatGLM2 shows earlier answers without end tokens; each is taught by a sample of its own."""

    class ChatGLM2(Bytes):
        def __init__(self):
            super().__init__("chatglm2-6b")
            self.special |= {"sop": OURS.sop, "</s>": OURS.eop}

    read = DialogueSource(write(tmp_path, turns(40)), ChatGLM2(), OURS, 256, "pinned_mask", 1)
    assert [taught(*pair) for pair in read.rendered()] == [f"a{i}.....<5>" for i in range(40)]
    assert read.counts["split"] == 39 and read.counts["shortened"] > 30


def test_glm4_calls_written_as_text_are_calls():
    record = {
        "messages": [
            user("q"),
            assistant('weather\n{"city": "北京"}'),
            {"role": "observation", "content": "cold"},
            assistant("a"),
        ]
    }
    messages, _ = conversation(record)
    assert messages[1]["tool_calls"][0]["function"] == CALL["function"] and messages[1]["content"] == ""
    Bytes().render(messages)


@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested"),
        ("[]", "line = 'list': must hold one JSON object"),
        ({"text": "x"}, "fields = text: not a conversation"),
        ({"messages": "x"}, "messages = 'x': must be a list"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages[0] = 'x': must be an object"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role = 'bot'"),
        ({"messages": [user("q"), {"role": "assistant"}]}, "messages[1].content"),
        ({"messages": [user("q")]}, "messages = '1 of them': no assistant's answer to learn from"),
        ({"messages": [user("q"), assistant("a")], "tools": {"x": 1}}, "tools = {'x': 1}: must be a list"),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": None}]},
            "conversations[1].value = None: must be text",
        ),
        ({"conversations": [{"from": "who", "value": "q"}]}, "conversations[0].from = 'who'"),
        (
            {"conversations": [user("q"), {"role": "tool", "parameters": {}}]},
            "conversations[1].name = None: must be text",
        ),
        ({"prompt": 5, "response": "a"}, "prompt = 5: must be text"),
        ({"prompt": "q", "response": "a", "history": [["o"]]}, "history[0] = ['o']: must be [question, answer]"),
        ({"instruction": "q", "input": 3, "output": "a"}, "input = 3: must be text"),
        ('{"content": "\\ud800", "summary": "a"}', "messages[0].content"),
    ],
)
def test_bad_lines_name_file_line_and_field(tmp_path, line, words):
    path = write(tmp_path, turns(1), "", line)
    with pytest.raises(ValueError) as error:
        source(path)
    assert (
        str(error.value).startswith(f"{path}, line 3: ") and words in str(error.value) and "\n" not in str(error.value)
    )


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        source(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"content": "\xe9", "summary": "a"}\n')
    with pytest.raises(ValueError, match=r"line 1: not UTF-8 at byte 13"):
        source(tmp_path / "latin.jsonl")
    with pytest.raises(ValueError, match=r"nothing in it .* in rows of 10 tokens: 1 were left out"):
        source(write(tmp_path, turns(1)), seq_len=10)
    (tmp_path / "bom.jsonl").write_bytes("\ufeff".encode() + json.dumps(turns(1)).encode())
    assert len(source(tmp_path / "bom.jsonl")) == 1


def test_a_sample_is_the_rendered_conversation_shifted_by_one(tmp_path):
    record = {"messages": [{"role": "system", "content": "s"}, user("q"), assistant("yes"), user("r"), assistant("no")]}
    ids, mask = (np.array(x) for x in Bytes().render(record["messages"]))
    for rule, expected in (
        ("running", np.arange(len(ids) - 1)),
        ("pinned_mask", np.arange(len(ids) - 1)),
        ("pinned", np.zeros(len(ids) - 1)),
    ):
        (sample,) = source(write(tmp_path, record), rule=rule).samples(0, np.random.default_rng(0))
        np.testing.assert_array_equal(sample.tokens, ids[:-1])
        np.testing.assert_array_equal(sample.targets[1:], ids[2:])
        np.testing.assert_array_equal(sample.loss_mask, mask[1:])
        np.testing.assert_array_equal(sample.position, expected)
        np.testing.assert_array_equal(sample.block_position, np.arange(len(ids) - 1))
        assert sample.context_length == 1
    assert text_of(sample.targets[sample.loss_mask > 0]) == f"yes<{USER}>no<{USER}>"


def test_what_stands_before_gmask_is_part_a(tmp_path):
    """The older families' prompt is the context: text [gMASK] <sop> answer <eop>."""

    class Old:
        def render(self, messages, tools=None):
            return [20, 21, 22, OURS.gmask, OURS.sop, 30, 31, OURS.eop], [0, 0, 0, 0, 0, 1, 1, 1]

    (sample,) = DialogueSource(write(tmp_path, turns(1)), Old(), OURS, 64, "pinned", 1).samples(
        0, np.random.default_rng(0)
    )
    assert sample.tokens.tolist() == [20, 21, 22, OURS.gmask, OURS.sop, 30, 31] and sample.targets.tolist()[4:] == [
        30,
        31,
        OURS.eop,
    ]
    assert sample.position.tolist() == [0, 1, 2, 3, 3, 3, 3] and sample.block_position.tolist() == [0, 0, 0, 0, 1, 2, 3]


def test_long_conversations_lose_their_oldest_turns_and_keep_the_system(tmp_path):
    long = {"messages": [{"role": "system", "content": "sys"}, *turns(30)["messages"]]}
    huge = {"messages": [user("x" * 500), assistant("y")]}
    read = source(write(tmp_path, turns(2), long, huge))
    assert (len(read), read.counts) == (2, {"shortened": 1, "too long": 1})
    assert "1 lost their oldest turns" in read.summary and "1 were left out" in read.summary
    assert "2 of 3 conversations lost turns or were left out" in read.warning and "seq_len is 128" in read.warning
    samples = [s for k in range(2) for s in read.samples(k, np.random.default_rng(0))]
    text = next(t for t in (text_of(s.tokens) for s in samples) if "sys" in t)
    assert (
        text.startswith(f"<2><4><{SYSTEM}>\nsys<{USER}>\nq2")
        and text.endswith("a29.....")
        and all(len(s) <= 128 for s in samples)
    )
    assert len(text_of(samples[0].tokens)) > 0


def test_shorten_drops_whole_turns():
    system, call, result = (
        {"role": "system", "content": "s"},
        {**assistant(""), "tool_calls": [CALL]},
        {"role": "tool", "content": "r"},
    )
    assert shorten([system, user("1"), call, result, assistant("a"), user("2"), assistant("b")]) == [
        system,
        user("2"),
        assistant("b"),
    ]
    assert shorten([assistant("hello"), user("1"), assistant("a")]) == [user("1"), assistant("a")]
    assert shorten([system, user("1"), assistant("a")]) == []


def many(tmp_path, n=200):
    rng = np.random.default_rng(0)
    return write(
        tmp_path,
        *(
            {"prompt": f"{i:04d}" + "q" * int(rng.integers(0, 30)), "response": "a" * int(rng.integers(1, 30))}
            for i in range(n)
        ),
    )


def test_each_epoch_holds_each_conversation_once_in_full_rows(tmp_path):
    read = source(many(tmp_path))
    rows, epochs = read.rows, []
    for epoch in range(2):
        samples = [read.samples(epoch * rows + k, np.random.default_rng(k)) for k in range(rows)]
        assert all(0 < sum(map(len, row)) <= 128 for row in samples)
        numbers = [text_of(s.tokens[4:8]) for row in samples for s in row]
        assert sorted(numbers) == [f"{i:04d}" for i in range(200)]
        epochs.append(numbers)
    assert epochs[0] != epochs[1]
    assert (read.tokens - len(read)) / (rows * 128) > 0.95, "rows are not full"


@pytest.mark.parametrize("lengths", [[5], [10, 10], [3, 3, 3, 3], [6, 5, 4, 4, 1], list(range(1, 11)) * 5])
def test_fill_rows(lengths):
    rows = fill_rows(np.array(lengths), 10)
    by_size = sorted(lengths, reverse=True)
    assert sorted(np.concatenate(rows)) == list(range(len(lengths))) and all(
        sum(by_size[i] for i in row) <= 10 for row in rows
    )
    assert len(rows) <= 1 + sum(lengths) * 11 / 9 / 10


class OneText:
    """A corpus of one source: fifty equal documents."""

    fingerprint, tokens, lengths = "corpus", 5000, np.full(50, 100)

    @property
    def sources(self):
        return {"text": self}

    def document(self, i):
        return np.arange(100, 200, dtype=np.uint16)


def test_dialogues_train_alone_or_beside_text(tmp_path):
    chat = source(many(tmp_path))
    alone = Mixture(None, DataConfig(path=""), InfillingConfig(), OURS, 128, "pinned_mask", dialogues={"chat": chat})
    rows = [alone.row(i) for i in range(20)]
    assert max(row.segment.max() for row in rows) > 1
    for row in rows:
        assert (row.tokens == OURS.gmask).sum() == row.segment.max() + 1
        assert row.loss_mask.sum() > 0 and (row.loss_mask <= (row.block_position > 0)).all()
    corpus = OneText()
    both = Mixture(
        corpus,
        DataConfig(path="", weights={"text": 0.9, "chat": 0.1}),
        InfillingConfig(),
        OURS,
        128,
        "pinned_mask",
        dialogues={"chat": chat},
    )
    dialogue_rows = [i for i in range(1000) if both.source_of(i)[0] == both.names.index("chat")]
    assert len(dialogue_rows) == 100 and all((both.row(i).tokens == ASSISTANT).any() for i in dialogue_rows[:5])
    assert (
        both.fingerprint
        != Mixture(
            corpus,
            DataConfig(path="", weights={"text": 0.9, "chat": 0.1}),
            InfillingConfig(),
            OURS,
            128,
            "pinned_mask",
            dialogues={"chat": source(many(tmp_path, 199))},
        ).fingerprint
    )
    with pytest.raises(ValueError, match="a text source has this name"):
        Mixture(corpus, DataConfig(path=""), InfillingConfig(), OURS, 128, "pinned_mask", dialogues={"text": chat})
