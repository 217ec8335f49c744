"""Tokens that users add to a published tokenizer keep the ids they were declared with, in text and in conversations."""

import json
import re
import shutil

import pytest
import sentencepiece
from helpers.text_samples import fragments
from helpers.tokenizer_files import GOLDEN, huggingface_file, ranks_of, tiktoken_file
from hypothesis import given
from hypothesis import strategies as st

from openglm.text import load_tokenizer

transformers = pytest.importorskip("transformers")

WORDS = ["<color>", "新词元", "naïve word"]
TOOL = "<|tool|>"
texts = st.lists(fragments | st.sampled_from([*WORDS, "<colo", " ", "新词", "</s>x"]), max_size=8).map("".join)


@pytest.fixture(scope="module")
def glm4(tokenizer, tmp_path_factory):
    """A GLM-4 folder that `transformers` saved after tokens were added, and `transformers`' own tokenizer."""
    folder = tmp_path_factory.mktemp("added")
    (folder / "tokenizer.json").write_bytes(huggingface_file(ranks_of(tokenizer)))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    theirs.add_tokens(WORDS)
    theirs.add_tokens([TOOL], special_tokens=True)
    theirs.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "glm4", "vocab_size": 2000}))
    return folder, theirs


@pytest.fixture(scope="module", params=["tokenizer.json", "added_tokens_decoder", "added_tokens.json", "saved"])
def opened(request, glm4, tokenizer, tmp_path_factory):
    """The same tokens declared in every way that is in use."""
    folder, theirs = glm4
    if request.param == "tokenizer.json":
        return load_tokenizer(folder)
    if request.param == "saved":
        copy = tmp_path_factory.mktemp("copy")
        load_tokenizer(folder).save(copy)
        return load_tokenizer(copy)
    beside = tmp_path_factory.mktemp(request.param)
    (beside / "tokenizer.model").write_bytes(tiktoken_file(ranks_of(tokenizer)))
    added = theirs.get_added_vocab()
    decoder = {number: {"content": name, "special": name not in WORDS} for name, number in added.items()}
    if request.param == "added_tokens.json":
        (beside / "added_tokens.json").write_text(json.dumps(added))
        (beside / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": [TOOL]}))
    else:
        (beside / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    return load_tokenizer(beside)


def test_every_declared_id_is_kept(glm4, opened):
    added = glm4[1].get_added_vocab()
    assert opened.special | opened.added == added and set(opened.added) == set(WORDS)
    assert [opened.encode(word) for word in WORDS] == [[added[word]] for word in WORDS]
    assert [opened.decode([number], skip_special=False) for number in added.values()] == list(added)


@given(text=texts)
def test_texts_have_the_ids_of_transformers(glm4, opened, text):
    """Special tokens apart, which `transformers` finds in what a user types and we do not."""
    ids = glm4[1](text, add_special_tokens=False)["input_ids"]
    pieces = re.split(f"({'|'.join(map(re.escape, opened.special))})", text)
    assert opened.encode_parts(opened.special.get(piece, piece) for piece in pieces) == ids
    assert opened.decode(ids, skip_special=False) == text


@pytest.fixture(scope="module")
def chatglm3(folders, tmp_path_factory):
    folder = shutil.copytree(folders["chatglm3-6b"], tmp_path_factory.mktemp("chatglm3") / "m")
    size = load_tokenizer(folder).vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({word: size + i for i, word in enumerate(WORDS)}))
    return folder, size


@given(text=texts)
def test_texts_between_added_tokens_go_through_sentencepiece(chatglm3, text):
    """As the published code does: it cuts a text at the added tokens, and what lies between is a text of its own."""
    folder, size = chatglm3
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(GOLDEN / "sp_tokenizers" / "tokenizer.model"))
    expected = []
    for piece in re.split(f"({'|'.join(WORDS)})", text):
        expected += [size + WORDS.index(piece)] if piece in WORDS else oracle.encode(piece)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode(text) == expected and tokenizer.decode(expected) == text.replace("▁", " ")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"added_tokens.json": {"<color>": 7}}, r"added token '<color>' = 7: is '.*' in the vocabulary"),
        ({"added_tokens.json": {"<color>": 1000, "<b>": 1000}}, r"added token '<b>' = 1000: .*'<color>': 1000"),
        (
            {
                "added_tokens.json": {"<color>": 1000},
                "tokenizer_config.json": {"added_tokens_decoder": {"1001": {"content": "<color>"}}},
            },
            "added token '<color>' = 1001: .*1000",
        ),
        ({"added_tokens.json": {"<color>": 10**9}}, "do not fit"),
        ({"added_tokens.json": {"<color>": "x"}}, "added tokens are not readable"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"1": 2}}}, "added tokens are not readable"),
    ],
)
@pytest.mark.parametrize("kind", ["chatglm3-6b", "glm-4"])
def test_declarations_that_contradict_are_refused_in_one_line(folders, tmp_path, kind, files, message):
    folder = shutil.copytree(folders[kind], tmp_path / "m")
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as error:
        load_tokenizer(folder)
    assert "\n" not in str(error.value)


def test_padding_rows_are_no_tokens(glm4):
    """The model's table has 2000 rows: ids behind the tokens decode to nothing, those behind the table are wrong."""
    tokenizer = load_tokenizer(glm4[0])
    ids = tokenizer.encode("你好")
    assert tokenizer.decode([*ids, tokenizer.vocab_size, 1999]) == "你好"
    with pytest.raises(ValueError, match="token id = 2000"):
        tokenizer.decode([2000])
