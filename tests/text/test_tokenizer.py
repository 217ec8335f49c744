import json
import pickle
import subprocess
import sys
import threading
import time
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from helpers.text_samples import TEXTS, VOCAB_SIZE, any_text, fragments
from hypothesis import given
from hypothesis import strategies as st

from openglm.text import SPECIAL_TOKENS, load_tokenizer, train_tokenizer
from openglm.text.native import FILE_NAME
from openglm.text.tokenizer import Tokenizer


@given(any_text | fragments)
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text), skip_special=False) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\x00\x01\x1b[0m\x7f\x85\ufeff\u2028",
        "e\u0301 \u0301\u0301 क्षि",
        "👨‍👩‍👧‍👦 ❤️ 🇨🇳",
        "\r\n\r\n \t\n",
        "　　段首。",
        "\U0010ffff\uffff\ufffd",
        "３½Ⅷ 〇一二",
    ],
)
def test_odd_texts_come_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_character_comes_back(tokenizer):
    every = "".join(chr(c) for c in range(0x11000) if not 0xD800 <= c < 0xE000)
    assert tokenizer.decode(tokenizer.encode(every)) == every


@given(fragments | any_text)
def test_no_text_yields_a_special_token(trained, text):
    tokenizer, folder = trained
    for own in (tokenizer, load_tokenizer(folder), pickle.loads(pickle.dumps(tokenizer))):
        for ids in (own.encode(text), *own.encode_batch([text, text]), own.encode_parts([text])):
            assert all(number >= len(SPECIAL_TOKENS) for number in ids)


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_the_file_is_an_ordinary_one_that_matches_special_names(trained, name):
    """The counter-check: what this class prevents does happen to who reads the same file in the usual way."""
    tokenizer, folder = trained
    assert tokenizers.Tokenizer.from_file(f"{folder}/{FILE_NAME}").encode(name).ids == [tokenizer.special[name]]
    assert len(tokenizer.encode(name)) > 1


def test_special_tokens_have_the_first_ids(tokenizer):
    assert tokenizer.vocab_size == VOCAB_SIZE
    first = [
        "<pad>",
        "[MASK]",
        "[gMASK]",
        "[sMASK]",
        "<sop>",
        "<eop>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    ]
    assert list(SPECIAL_TOKENS[:10]) == first  # ids that models in use were trained with
    assert tokenizer.special == {name: index for index, name in enumerate(SPECIAL_TOKENS)} and len(SPECIAL_TOKENS) == 34
    assert tokenizer.decode(range(34), skip_special=False) == "".join(SPECIAL_TOKENS)
    assert tokenizer.decode(range(34)) == ""


def first_release(layout: dict) -> dict:
    """The same tokenizer with the first ten special tokens alone: all other ids move down."""
    model, gone = layout["model"], SPECIAL_TOKENS[10:]
    vocab = {name: number - len(gone) * (number >= 10) for name, number in model["vocab"].items() if name not in gone}
    added = [token for token in layout["added_tokens"] if token["content"] not in gone]
    return {**layout, "model": {**model, "vocab": vocab}, "added_tokens": added}


@pytest.fixture(scope="module")
def of_first_release(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("first-release")
    layout = json.loads((Path(trained[1]) / FILE_NAME).read_text())
    (folder / FILE_NAME).write_text(json.dumps(first_release(layout)))
    return load_tokenizer(folder)


@given(fragments | any_text)
def test_a_tokenizer_of_the_first_release_opens_with_its_ten(of_first_release, tokenizer, text):
    assert of_first_release.special == dict(zip(SPECIAL_TOKENS[:10], range(10), strict=True))
    assert of_first_release.vocab_size == VOCAB_SIZE - 24
    assert of_first_release.encode(text) == [number - 24 for number in tokenizer.encode(text)]
    assert of_first_release.decode(of_first_release.encode(text), skip_special=False) == text


def test_the_names_are_those_that_the_family_uses():
    """Tools as ChatGLM was first described, thoughts as GLM-Z1, pictures as GLM-4V, code as CodeGeeX4 fills it in."""
    assert len(set(SPECIAL_TOKENS)) == 34
    assert {"[Begin]", "[Param]", "[End]", "[Gen]", "<think>", "</think>", "<|code_middle|>"} <= set(SPECIAL_TOKENS)
    assert SPECIAL_TOKENS.index("<|begin_of_image|>") < SPECIAL_TOKENS.index("<|end_of_image|>")


@given(st.lists(fragments, max_size=4))
def test_the_program_composes_prompts_from_texts_and_ids(tokenizer, texts):
    mask = tokenizer.special["[MASK]"]
    ids = tokenizer.encode_parts(part for text in texts for part in (text, mask))
    assert ids.count(mask) == len(texts)
    assert tokenizer.decode(ids) == "".join(texts)


@given(st.lists(fragments | any_text, max_size=5))
def test_a_batch_is_its_single_texts(tokenizer, texts):
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize(
    "pieces",
    [
        ["It", "'s", ",", " '", "salad", " we", "'ll"],
        ["GLM", "模型是", " good", "。\u201d", "\n\n", "　　", "从前", " ", "1", "9", "年"],
        ["):", "\n", "       ", " return", " x", "_", "1", "   ", "\n", "\t", "y", " ", "\r\n", "b"],
        ["<|", "user", "|>[", "MASK", "]"],
    ],
)
def test_texts_are_cut_where_the_pattern_says(trained, pieces):
    cutter, text = tokenizers.Tokenizer.from_file(f"{trained[1]}/{FILE_NAME}").pre_tokenizer, "".join(pieces)
    assert [text[start:end] for _, (start, end) in cutter.pre_tokenize_str(text)] == pieces


@given(any_text)
def test_digits_lines_and_scripts_do_not_mix_in_a_token(tokenizer, text):
    for number in tokenizer.encode(text + " 2024年第12章\n第3行GLM模型 v1.5"):
        piece = tokenizer.decode_bytes([number]).decode(errors="ignore")
        assert len(piece) == 1 or not any(c.isdecimal() for c in piece)
        assert not set(piece) & {"\n", "\r"} or set(piece) <= {"\n", "\r"}
        scripts = {"han" if unicodedata.name(c, "").startswith("CJK UNIFIED") else "other" for c in piece}
        assert len(scripts) <= 1


def test_merges_are_learnt_in_both_languages(tokenizer):
    assert len(tokenizer.encode("今天天气很好")) < 6
    assert len(tokenizer.encode(" weather is fine today")) < 10


@pytest.mark.parametrize(
    "unit", ["a", "你", " ", " x", ".", "\n", " \n", "\u0301", " \u3000", "'s", "[MASK]", "12", "今天 day, "]
)
def test_long_texts_take_linearly_many_tokens(tokenizer, unit):
    """A token more or less at the seam: no piece of the pattern runs away, and a megabyte is no special case."""
    unit *= 1 + 1000 // len(unit)
    one, many = len(tokenizer.encode(unit)), tokenizer.encode(unit * 100)
    assert len(many) <= 100 * (one + 1)
    assert tokenizer.decode(many) == unit * 100


def test_other_threads_go_on_while_a_long_text_is_cut(tokenizer):
    """A server answers others meanwhile."""
    cutting = threading.Thread(target=tokenizer.encode, args=(" \n" * 300_000,))
    turns = 0
    cutting.start()
    while cutting.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 10


@pytest.mark.parametrize("text", ["\ud800", "好\udfff", "\udc00\ud800"])
def test_half_a_surrogate_pair_is_a_clear_error(tokenizer, text, tmp_path):
    for call in (
        tokenizer.encode,
        lambda t: tokenizer.encode_batch(["fine", t]),
        lambda t: tokenizer.encode_parts([t]),
        lambda t: train_tokenizer([t], 300, tmp_path),
    ):
        with pytest.raises(ValueError, match="surrogate") as error:
            call(text)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [-1, VOCAB_SIZE])
def test_an_id_outside_the_vocabulary_is_an_error(tokenizer, bad):
    for call in (lambda: tokenizer.decode([bad]), lambda: tokenizer.encode_parts([bad])):
        with pytest.raises(ValueError, match=f"token id = {bad}"):
            call()


@given(any_text)
def test_sentence_ends_are_the_tokens_that_show_one(tokenizer, text):
    text += "好。Yes? 走！go; 1: …\n"
    marked = [tokenizer.decode([number]) for number in tokenizer.encode(text) if number in tokenizer.sentence_ends]
    assert all(set(piece) & set(".?!;:。？！；：…\n") for piece in marked)
    assert sum(piece.count("\n") for piece in marked) == text.count("\n")
    assert sum(piece.count(".") for piece in marked) == text.count(".")
    assert not tokenizer.sentence_ends & set(tokenizer.special.values())


def test_the_common_sentence_ends_are_found(tokenizer):
    assert all(any(number in tokenizer.sentence_ends for number in tokenizer.encode(mark)) for mark in "。？！.?!;:\n")


@given(any_text)
def test_bytes_of_tokens_join_to_the_text(tokenizer, text):
    assert b"".join(tokenizer.decode_bytes([number]) for number in tokenizer.encode(text)) == text.encode()


def test_the_same_texts_give_the_same_file_in_any_process(trained, tmp_path):
    tokenizer, folder = trained
    script = "import sys, json; from openglm.text import train_tokenizer; train_tokenizer(json.load(sys.stdin), int(sys.argv[1]), sys.argv[2])"
    subprocess.run(
        [sys.executable, "-c", script, str(VOCAB_SIZE), str(tmp_path)],
        input=json.dumps(TEXTS),
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert (tmp_path / FILE_NAME).read_bytes() == (Path(folder) / FILE_NAME).read_bytes()
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_loading_by_file_folder_and_name(trained, tmp_path, monkeypatch):
    tokenizer, folder = trained
    monkeypatch.setattr("openglm.text.load.ASSETS", tmp_path)
    tokenizer.save(tmp_path / "tiny")
    for source in (folder, Path(folder), f"{folder}/{FILE_NAME}", "tiny"):
        assert load_tokenizer(source).fingerprint == tokenizer.fingerprint
    for source in ("absent", tmp_path / "absent", "../tiny"):
        with pytest.raises(ValueError, match="tokenizer = "):
            load_tokenizer(source)


def _swapped(vocab: dict[str, int], one: str, other: str) -> dict[str, int]:
    return {**vocab, one: vocab[other], other: vocab[one]}


def _damage(layout: dict, how: str) -> object:
    model = layout["model"]
    if how == "special renamed":
        model["vocab"]["<user>"] = model["vocab"].pop("<|user|>")
    elif how == "merge onto a special":
        model["merges"].append(["<", "eop>"])
    elif how == "some of the special tokens":
        model["vocab"]["<|spare_12|>"] = model["vocab"].pop("<|spare_11|>")
    elif how == "merge onto one that it has not":
        first_release(layout)["model"]["merges"].append(["<", "think>"])
        return first_release(layout)
    elif how == "names as ordinary tokens":
        return {**layout, "model": {**model, "vocab": _swapped(model["vocab"], "[Begin]", "!")}}
    elif how == "unknown token":
        model["unk_token"] = "[MASK]"
    elif how == "byte missing":
        model["vocab"]["Āx"] = model["vocab"].pop("Ā")
    elif how == "not BPE":
        model["type"] = "WordPiece"
    elif how == "a list":
        return [layout]
    return layout


@pytest.mark.parametrize(
    "how",
    [
        "special renamed",
        "merge onto a special",
        "some of the special tokens",
        "merge onto one that it has not",
        "names as ordinary tokens",
        "unknown token",
        "byte missing",
        "not BPE",
        "a list",
        "cut short",
    ],
)
def test_a_file_that_is_no_tokenizer_of_ours_is_refused(trained, tmp_path, how):
    content = (Path(trained[1]) / FILE_NAME).read_text()
    damaged = content[:1000] if how == "cut short" else json.dumps(_damage(json.loads(content), how))
    (tmp_path / FILE_NAME).write_text(damaged)
    with pytest.raises(ValueError, match="not a tokenizer of OpenGLM") as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path / FILE_NAME) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 289])
def test_a_vocabulary_that_cannot_be_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match=f"vocab_size = {size}"):
        train_tokenizer(TEXTS, size, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_token_is_longer_than_sixteen_bytes(tokenizer):
    assert max(len(tokenizer.decode_bytes([number])) for number in range(tokenizer.vocab_size)) <= 16
    assert isinstance(tokenizer, Tokenizer)
