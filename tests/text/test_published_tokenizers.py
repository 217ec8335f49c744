"""The published tokenizers: ids as the originals give them, text back, special tokens out of reach of text, bad files named."""

import dataclasses
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
import tokenizers
from helpers.text_samples import any_text, fragments
from helpers.tokenizer_files import GOLDEN, KINDS, huggingface_file, ranks_of, sentencepiece_model, tiktoken_file
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from openglm.presets import model_preset
from openglm.text import load_tokenizer
from openglm.text.bpe import _GLM4_PIECES, GLM4_SPECIAL
from openglm.text.formats import FORMATS
from openglm.text.sentencepiece import ICE_SPECIAL

SENTENCEPIECE = json.loads((GOLDEN / "sp_tokenizers" / "cases.json").read_text(encoding="utf-8"))
GLM4 = json.loads((GOLDEN / "glm4_tokenizer" / "cases.json").read_text(encoding="utf-8"))
GLM10B = json.loads((GOLDEN / "glm_10b" / "golden.json").read_text(encoding="utf-8"))
# GLM-4's own file belongs to its makers: these tests run where a copy lies beside the repository.
GLM4_FILE = Path(
    os.environ.get("OPENGLM_GLM4_TOKENIZER", GOLDEN.parent.parent / "../shared/tokenizer_glm4/tokenizer.model")
)

white = st.sampled_from(
    [
        " ",
        "  ",
        " " * 3,
        " " * 80,
        " " * 81,
        " " * 165,
        "\n",
        "\t",
        "\n\n",
        " \n",
        "　",
        "\xa0",
        "\x00",
        "\x07",
        "▁",
        "<n>",
        "<|blank_3|>",
        "１２",
        "ﬁ",
        "，",
    ]
)
mixed = st.lists(fragments | white | any_text, max_size=6).map("".join)
masks = st.sampled_from(["[MASK]", "[gMASK]", "[sMASK]"])


def cut(tokenizer, text, names):
    """The text with these names taken as special tokens."""
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return [tokenizer.special[part] if i % 2 else part for i, part in enumerate(re.split(f"({pattern})", text))]


@pytest.mark.parametrize("case", SENTENCEPIECE["chatglm_6b"]["cases"], ids=lambda case: case["text"])
def test_chatglm6b_ids(family, case):
    """The original takes "[gMASK]" in a text for the special token; here the program says that it is one."""
    tokenizer, parts = family["chatglm-6b"], cut(family["chatglm-6b"], case["text"], ICE_SPECIAL)
    assert tokenizer.encode_parts(parts) == case["ids_no_special"] and tokenizer.prompt(parts) == case["ids"]
    assert tokenizer.decode(case["ids_no_special"], skip_special=False) == case["decoded"]
    if len(parts) == 1:
        assert tokenizer.encode(case["text"]) == case["ids_no_special"]


def test_chatglm6b_pair_and_special(family):
    tokenizer, golden = family["chatglm-6b"], SENTENCEPIECE["chatglm_6b"]
    assert [tokenizer.special[name] for name in ("<sop>", "<eop>", "[gMASK]", "<pad>", "[MASK]")] == [
        golden[name] for name in ("bos", "eos", "gmask", "pad", "mask")
    ]
    assert tokenizer.vocab_size == golden["vocab_size"]
    pair = golden["pair"]
    assert (
        tokenizer.render([{"role": "user", "content": pair["a"]}, {"role": "assistant", "content": pair["b"]}])[0]
        == pair["ids"]
    )


@pytest.mark.parametrize("case", SENTENCEPIECE["chatglm2_6b"]["cases"], ids=lambda case: case["text"])
def test_chatglm2_ids(family, case):
    tokenizer = family["chatglm2-6b"]
    assert tokenizer.encode(case["text"]) == case["ids_no_special"] and tokenizer.prompt(case["text"]) == case["ids"]
    assert tokenizer.decode(case["ids_no_special"]) == case["decoded"]


def test_chatglm2_prompts_and_special(family):
    tokenizer, golden = family["chatglm2-6b"], SENTENCEPIECE["chatglm2_6b"]
    assert (tokenizer.vocab_size, tokenizer.stop, tokenizer.special["<unk>"]) == (
        golden["vocab_size"],
        (golden["eos"],),
        golden["pad"],
    )
    for case in golden["prompts"]:
        turns = [
            message
            for question, answer in case["history"]
            for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        ]
        messages = [*turns, {"role": "user", "content": case["query"]}]
        assert tokenizer.render(messages, generation_prompt=True)[0] == tokenizer.prompt(case["prompt"])
    pair = golden["pair"]
    assert tokenizer.prompt(pair["a"]) + tokenizer.encode(pair["b"]) + [golden["eos"]] == pair["ids"]


@pytest.mark.parametrize("case", SENTENCEPIECE["chatglm3_6b"]["cases"], ids=lambda case: case["text"])
def test_chatglm3_ids(family, case):
    tokenizer = family["chatglm3-6b"]
    assert (
        tokenizer.prompt(case["text"]) == case["ids"]
        and tokenizer.decode(tokenizer.encode(case["text"])) == case["decoded"]
    )
    parts = [
        part for part in cut(tokenizer, case["text"], ["<|user|>", "<|assistant|>"]) if part != ""
    ]  # the original's option takes role tokens alone
    assert tokenizer.prompt(parts) == case["ids_encode_special_tokens"]
    assert tokenizer.decode(tokenizer.encode_parts(parts), skip_special=False) == case["decoded"]


def test_chatglm3_conversations_and_special(family):
    tokenizer, golden = family["chatglm3-6b"], SENTENCEPIECE["chatglm3_6b"]
    assert tokenizer.vocab_size == golden["vocab_size"] and golden["special"].items() <= tokenizer.special.items()
    published = dataclasses.asdict(model_preset("chatglm3-6b").tokens)
    shift = 64789 - golden["special"]["[MASK]"]  # the special tokens follow the vocabulary, which is smaller here
    assert {
        name: number + shift * (number > 2)
        for name, number in dataclasses.asdict(tokenizer.tokens).items()
        if name != "stop"
    } | {"stop": published["stop"]} == published
    assert tuple(number + shift * (number > 2) for number in tokenizer.stop) == published["stop"]
    for case in golden["chat"]:
        assert [
            tokenizer.render(
                [*case["history"], {"role": case["role"], "content": case["query"]}], generation_prompt=True
            )[0]
        ] == case["ids"]


@pytest.fixture(scope="module")
def glm4():
    if not GLM4_FILE.is_file():
        pytest.skip("GLM-4's tokenizer.model is not there")
    return load_tokenizer(GLM4_FILE)


def test_glm4_ids(glm4):
    assert (
        glm4.special == GLM4["special"]
        and glm4.vocab_size == GLM4["vocab_size"] + len(GLM4["special"])
        and GLM4["pattern"] == _GLM4_PIECES
    )
    assert glm4.tokens == model_preset("glm-4-9b-chat").tokens
    for case, framed in zip(GLM4["encode_no_special"], GLM4["encode_with_prefix"], strict=True):
        parts = cut(glm4, case["text"], GLM4["special"])
        assert glm4.encode(case["text"]) == case["ids"] and glm4.decode(case["ids"]) == case["decoded"]
        assert glm4.encode_parts(parts) == case["hf_encode_ids"] and glm4.prompt(parts) == framed["ids"]


def test_glm4_conversations(glm4):
    """The tools' text of the last case comes from a shortened template, so it is compared from the user's turn on."""
    for case in GLM4["chat"]:
        user = glm4.special["<|user|>"] if case["messages"][0].get("tools") else glm4.special["[gMASK]"]
        for ids, golden in (
            (glm4.render(case["messages"], generation_prompt=True)[0], case["ids_gen_prompt"]),
            (glm4.render(case["messages"])[0], case["ids_no_gen_prompt"]),
        ):
            assert ids[ids.index(user) :] == golden[golden.index(user) :]


@pytest.mark.parametrize(
    "text",
    [
        "\u0301" * 50 + "aab" * 40,
        "=-" * 60 + "\n" * 33 + " " * 200 + "x",
        "0x" * 80,
        "哈哈哈" * 30 + "!?" * 50,
        "𓀀🏳️‍🌈\u200b\ufeff\x00",
    ],
)
def test_glm4_vocabulary_is_tiktokens(glm4, text):
    ranks = {glm4.decode_bytes([number]): number for number in range(GLM4["vocab_size"])}
    oracle = tiktoken.Encoding("glm4", pat_str=_GLM4_PIECES, mergeable_ranks=ranks, special_tokens={})
    assert glm4.encode(text) == oracle.encode_ordinary(text)


@pytest.fixture(scope="module")
def tiktoken_oracle(tokenizer):
    return tiktoken.Encoding("small", pat_str=_GLM4_PIECES, mergeable_ranks=ranks_of(tokenizer), special_tokens={})


@given(text=mixed)
def test_ranks_give_tiktokens_ids(family, tiktoken_oracle, text):
    assert family["glm-4"].encode(text) == tiktoken_oracle.encode_ordinary(text)


@given(texts=st.lists(mixed, min_size=1, max_size=4))
def test_huggingface_layout_gives_the_librarys_ids(family, folders, texts):
    usual, ours = tokenizers.Tokenizer.from_file(str(folders["glm-4-0414"] / "tokenizer.json")), family["glm-4-0414"]
    parts = [part for text in texts for part in cut(ours, text, GLM4_SPECIAL)]
    joined = "".join(part if isinstance(part, str) else usual.id_to_token(part) for part in parts)
    assert ours.encode_parts(cut(ours, joined, GLM4_SPECIAL)) == usual.encode(joined, add_special_tokens=False).ids
    assert ours.vocab_size == usual.get_vocab_size(with_added_tokens=True)


@pytest.mark.parametrize("case", GLM10B["tokenizer_cases"], ids=lambda case: case["text"])
def test_glm10b_ids(case):
    """White space beside special tokens is dropped. A text without a mask, which the original does not generate from, gets [gMASK]."""
    tokenizer = load_tokenizer(GOLDEN / "glm_10b" / "checkpoint")
    assert tokenizer.special == GLM10B["special_ids"]
    parts = cut(tokenizer, case["text"], tokenizer.special)
    has_mask = not {tokenizer.special[name] for name in ("[MASK]", "[gMASK]", "[sMASK]")}.isdisjoint(
        part for part in parts if isinstance(part, int)
    )
    *text, end = case["input_ids"]
    assert tokenizer.encode_parts(parts) == case["input_ids_no_special"]
    assert tokenizer.prompt(parts) == [
        *text,
        *[tokenizer.special["[gMASK]"]][has_mask:],
        end,
        tokenizer.special["<|startofpiece|>"],
    ]
    assert tokenizer.decode(case["input_ids"], skip_special=False) == case["decoded"]


def test_glm10b_truncation_keeps_the_right_end():
    tokenizer, case = load_tokenizer(GOLDEN / "glm_10b" / "checkpoint"), GLM10B["truncation_case"]
    parts = cut(tokenizer, case["text"], tokenizer.special)
    assert tokenizer.prompt(parts, limit=case["max_length"] + 1) == [
        *case["input_ids"],
        tokenizer.special["<|startofpiece|>"],
    ]
    with pytest.raises(ValueError, match="limit = 2"):
        tokenizer.prompt(parts, limit=2)


def ice_preprocessed(text: str) -> str:
    """As the original writes white space before SentencePiece sees it, length by length."""
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    for length in range(80, 1, -1):
        text = text.replace(" " * length, f"<|blank_{length}|>")
    return text


def ice_decoded(text: str) -> str:
    text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
    for length in range(2, 81):
        text = text.replace(f"<|blank_{length}|>", " " * length)
    return text


@pytest.fixture(scope="module")
def ice_oracle(folders):
    return sentencepiece.SentencePieceProcessor(model_file=str(folders["chatglm-6b"] / "ice_text.model"))


@given(pieces=st.lists(mixed | masks | st.sampled_from(["<sop>", "<eop>"]), max_size=6))
def test_parts_give_what_the_original_gives_for_the_whole_text(family, ice_oracle, pieces):
    """Full-width names apart: the original takes them for special tokens too."""
    text, tokenizer = "".join(pieces), family["chatglm-6b"]
    ids = ice_oracle.encode(ice_preprocessed(text))
    if "".join(map(ice_oracle.id_to_piece, ids)).count("MASK]") == text.count("MASK]"):
        assert tokenizer.encode_parts(cut(tokenizer, text, ICE_SPECIAL)) == ids
    assert tokenizer.decode(ids, skip_special=False) == ice_decoded(ice_oracle.decode(ids))


@pytest.fixture(scope="module")
def first_oracle():
    """The first release's vocabulary as its code made it, through the protocol buffer library."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_model())
    blanks = ["<|tab|>", *(f"<|blank_{length}|>" for length in range(2, 81))]
    for names, kind in ((ICE_SPECIAL, 3), (blanks, 4), ([f"<0x{byte:02X}>" for byte in range(256)], 6)):
        for name in names:
            proto.pieces.append(proto.SentencePiece(piece=name, score=0.0, type=kind))
    proto.trainer_spec.byte_fallback = True
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


@given(text=mixed)
def test_the_first_release_completes_icetks_vocabulary(family, first_oracle, text):
    tokenizer, ids = family["chatglm-6b-first"], first_oracle.encode(ice_preprocessed(text))
    assert tokenizer.encode(text) == [20000 + number for number in ids]
    assert [tokenizer.special[name] for name in ICE_SPECIAL] == [
        20000 + first_oracle.piece_to_id(name) for name in ICE_SPECIAL
    ]
    assert tokenizer.vocab_size == 20000 + first_oracle.get_piece_size()


def test_the_first_releases_frame(family):
    """[gMASK] where the text has no mask; </s> behind a text that does not end in one (GLM-130B's rule as well)."""
    for tokenizer in (family["chatglm-6b-first"], family["glm-130b"]):
        mask, gmask, sop, end = (tokenizer.special[name] for name in ("[MASK]", "[gMASK]", "<sop>", "</s>"))
        ids = tokenizer.encode("你好")
        assert tokenizer.prompt("你好") == tokenizer.prompt(["你好", gmask]) == [*ids, gmask, sop]
        assert tokenizer.prompt(["你好", mask]) == [*ids, mask, sop]
        assert tokenizer.prompt([mask, "你好"])[-2:] == [end, sop] and gmask not in tokenizer.prompt([mask, "你好"])
        assert end == 20002


def test_the_chinese_model_keeps_its_collision(folders, tmp_path):
    """Trained natively, [gMASK] had the id of <|endofpiece|>; the published conversion moved it."""
    native = load_tokenizer(folders["glm-10b-chinese"])
    size = sentencepiece.SentencePieceProcessor(
        model_file=str(folders["glm-10b-chinese"] / "cog-pretrain.model")
    ).get_piece_size()
    assert native.special["[gMASK]"] == native.special["<|endofpiece|>"] == size + 7
    shutil.copytree(folders["glm-10b-chinese"], tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "glm"}')
    converted = load_tokenizer(tmp_path / "hf")
    order = (
        "<|endoftext|>",
        "[SEP]",
        "[CLS]",
        "[MASK]",
        "[UNK]",
        "<|startofpiece|>",
        "<|endofpiece|>",
        "[sMASK]",
        "[gMASK]",
        "[dBLOCK]",
    )
    assert [converted.special[name] - size for name in order] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    for tokenizer, name in ((native, "native"), (converted, "converted")):
        tokenizer.save(tmp_path / name)
        (tmp_path / name / "config.json").write_text('{"format": "openglm"}')
        assert load_tokenizer(tmp_path / name).special == tokenizer.special


@given(text=mixed)
def test_texts_come_back(family, text):
    for kind in ("glm-4", "glm-4-0414", "glm-10b"):
        assert family[kind].decode(family[kind].encode(text)) == text
    for kind in ("chatglm2-6b", "chatglm3-6b"):
        assert family[kind].decode(family[kind].encode(text)) == text.replace("▁", " ")


tidy = st.lists(
    st.sampled_from(
        [
            "今天",
            "天气，",
            "weather",
            "x = [1, 2]",
            "👋🏽",
            "\n",
            "\t",
            "  ",
            " " * 80,
            "é",
            "\n\n    return",
            "Ωж",
            "a b",
            "。",
        ]
    ),
    max_size=8,
)


@given(pieces=tidy)
def test_normalized_texts_come_back_from_chatglm6b(family, pieces):
    text = "".join(pieces).replace("，", ",")
    text = re.sub(" {81,}", " " * 80, text)
    for kind in ("chatglm-6b", "chatglm-6b-first"):
        assert family[kind].decode(family[kind].encode(text)) == text


@given(text=mixed)
def test_chatglm6b_loses_what_its_normalization_loses_and_no_more(family, text):
    for kind in ("chatglm-6b", "chatglm-6b-first"):
        once = family[kind].decode(family[kind].encode(text))
        blanks = len(once) - len(once.rstrip(" "))
        lost = (
            blanks % 80 == 1
        )  # "▁" beside 80 spaces came back as one more: alone behind a whole blank, it is dropped at the end
        assert family[kind].decode(family[kind].encode(once)) == once[: len(once) - lost]


def test_a_space_behind_a_whole_blank_is_dropped_at_the_end(family):
    for kind in ("chatglm-6b", "chatglm-6b-first"):
        once = family[kind].decode(family[kind].encode("a▁" + " " * 80))
        assert once == "a" + " " * 81 and family[kind].decode(family[kind].encode(once)) == "a" + " " * 80


names = [
    *GLM4_SPECIAL,
    *ICE_SPECIAL,
    "sop",
    "eop",
    "<s>",
    "</s>",
    "<pad>",
    "[CLS]",
    "<|endofpiece|>",
    "［gMASK］",
    "＜ｓｏｐ＞",
    "[ＭＡＳＫ]",
    " ",
]
forgeries = st.lists(st.sampled_from(names) | mixed, max_size=6).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(text=forgeries)
def test_no_text_yields_a_special_token(family, kind, text):
    tokenizer = family[kind]
    forbidden = set(tokenizer.special.values()) - {tokenizer.special.get("<unk>")}
    for ids in (tokenizer.encode(text), *tokenizer.encode_batch([text, text]), tokenizer.encode_parts([text])):
        assert forbidden.isdisjoint(ids)
    assert max(tokenizer.encode(text), default=0) < tokenizer.vocab_size


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_pieces_of_a_stream_join_to_the_text(family, kind, data):
    tokenizer = family[kind]
    ids = data.draw(
        st.lists(
            st.integers(0, tokenizer.vocab_size - 1) | st.sampled_from(sorted(tokenizer.special.values())), max_size=12
        )
    ) + tokenizer.encode(data.draw(mixed))
    for skip in (True, False):
        pieces = list(map(tokenizer.decoder(skip), ids))
        assert b"".join(pieces).decode(errors="replace") == tokenizer.decode(ids, skip)
        assert all(
            whole in (piece, b" " + piece)
            for whole, piece in zip((tokenizer.decode_bytes([number], skip) for number in ids), pieces, strict=True)
        )


@pytest.mark.parametrize("kind", KINDS)
def test_saved_loaded_and_pickled_it_is_the_same(family, folders, kind, tmp_path):
    tokenizer, text = family[kind], "你好 the [MASK]\n\t  <|user|>"
    first = tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text('{"format": "openglm"}')
    for other in (
        load_tokenizer(tmp_path),
        load_tokenizer(first),
        load_tokenizer(folders[kind]),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert other.encode(text) == tokenizer.encode(text) and other.special == tokenizer.special
        assert (
            other.format == tokenizer.format
            and other.vocab_size == tokenizer.vocab_size
            and other.fingerprint == tokenizer.fingerprint
        )
    assert tokenizer.format.name == kind.removesuffix("-chinese")


@pytest.mark.parametrize("unit", ["a", "你", " ", "\n", "=", "\u0301", " x"])
@pytest.mark.parametrize("kind", ["chatglm-6b", "chatglm3-6b", "glm-4", "glm-10b"])
def test_long_texts_are_encoded(family, kind, unit):
    text = unit * (50_000 // len(unit))
    ids = family[kind].encode(text)
    assert len(ids) <= len(text.encode()) + 2
    if unit not in (" ", "\u0301", "="):
        assert family[kind].decode(ids).strip() == text.strip()


def test_hundreds_of_thousands_of_spaces_do_not_end_the_process(family):
    assert family["glm-4"].decode(family["glm-4"].encode(" " * 300_000)) == " " * 300_000


@pytest.mark.parametrize(
    "folder, name, text, kind",
    [
        ("chatglm2-6b", "", "", "chatglm2-6b"),
        ("ChatGLM3-6B-32k", "", "", "chatglm3-6b"),
        ("m", "", "", "chatglm3-6b"),
        ("m", "config.json", '{"_name_or_path": "THUDM/chatglm2-6b"}', "chatglm2-6b"),
        ("chatglm2-6b", "config.json", '{"_name_or_path": "THUDM/chatglm3-6b"}', "chatglm3-6b"),
        ("m", "tokenizer_config.json", '{"name_or_path": "THUDM/codegeex2-6b"}', "chatglm2-6b"),
        ("m", "tokenization_chatglm.py", "special = ['[MASK]', 'sop']", "chatglm2-6b"),
        ("m", "tokenization_chatglm.py", "raise SystemExit  # <|assistant|>", "chatglm3-6b"),
    ],
)
def test_generations_that_share_a_file_are_told_apart(folders, tmp_path, folder, name, text, kind):
    (tmp_path / folder).mkdir()
    shutil.copy(folders["chatglm3-6b"] / "tokenizer.model", tmp_path / folder)
    if name:
        (tmp_path / folder / name).write_text(text)
    tokenizer = load_tokenizer(tmp_path / folder)
    assert tokenizer.format.name == kind and ("<|user|>" in tokenizer.special) == (kind == "chatglm3-6b")


@pytest.mark.parametrize("kind", ["glm-4", "glm-4-0414", "glm-z1"])
def test_glm4s_generation_does_not_depend_on_the_layout(folders, tmp_path, kind):
    """config.json and the template tell, be the vocabulary in one file or the other."""
    for name in ("tokenizer.json", "tokenizer.model"):
        folder = shutil.copytree(folders[kind], tmp_path / name)
        for other in ("tokenizer.json", "tokenizer.model"):
            (folder / other).unlink(missing_ok=True)
        shutil.copy(folders["glm-4" if name == "tokenizer.model" else "glm-4-0414"] / name, folder)
        assert load_tokenizer(folder).format.name == kind


def test_settings_of_the_folder_decide(folders, tmp_path):
    shutil.copytree(folders["chatglm3-6b"], tmp_path / "m")
    (tmp_path / "m" / "tokenizer_config.json").write_text('{"openglm_format": "chatglm2-6b"}')
    (tmp_path / "m" / "generation_config.json").write_text(
        '{"temperature": 0.1, "max_length": 77, "top_p": null, "eos_token_id": 2}'
    )
    tokenizer = load_tokenizer(tmp_path / "m")
    assert tokenizer.format.name == "chatglm2-6b" and "<|user|>" not in tokenizer.special
    assert (
        tokenizer.format.sampling.temperature,
        tokenizer.format.sampling.max_length,
        tokenizer.format.sampling.top_p,
    ) == (0.1, 77, FORMATS["chatglm2-6b"].sampling.top_p)


def bad_files(folders, tokenizer) -> dict[str, tuple[dict[str, bytes], str]]:
    """Files of a folder, and what the error must say."""
    ranks, ice, layout = (
        ranks_of(tokenizer),
        (folders["chatglm-6b"] / "ice_text.model").read_bytes(),
        huggingface_file(ranks_of(tokenizer)),
    )
    return {
        "empty": ({}, "ice_text.model"),
        "no model": ({"tokenizer.model": b"\xff\xfe" * 50}, "tokenizer.model"),
        "empty model": ({"tokenizer.model": b""}, "tokenizer.model"),
        "cut short": ({"ice_text.model": ice[:100_000]}, "ice_text.model"),
        "text": ({"cog-pretrain.model": b"hello"}, "cog-pretrain.model"),
        "ranks with a gap": ({"tokenizer.model": tiktoken_file({**ranks, b"\xff\xff\xff": 9999})}, "run from 0 on"),
        "ranks without bytes": ({"tokenizer.model": tiktoken_file({b"a": 0, b"b": 1})}, "each byte"),
        "ranks cut": ({"tokenizer.model": tiktoken_file(ranks)[:-3]}, "tokenizer.model"),
        "half of a pair": ({"vocab.json": b"{}"}, "merges.txt"),
        "merges of nothing": ({"vocab.json": b'{"a": 0}', "merges.txt": b"x y\n"}, "vocab.json"),
        "ids too far": ({"tokenizer.json": layout.replace(b'"id": 563', b'"id": 999999999')}, "999999999"),
        "ids that are no numbers": ({"vocab.json": b'{"a": "x"}', "merges.txt": b""}, "vocab.json"),
        "json cut": ({"tokenizer.json": layout[:-300]}, "tokenizer.json"),
        "unknown format": (
            {"tokenizer.json": layout, "tokenizer_config.json": b'{"openglm_format": "gpt"}'},
            "openglm_format = 'gpt'",
        ),
        "settings": ({"tokenizer.json": layout, "tokenizer_config.json": b"["}, "tokenizer_config.json"),
        "image tokens": (
            {"ice_text.model": ice, "tokenizer_config.json": b'{"num_image_tokens": 7}'},
            "num_image_tokens = 7",
        ),
    }


HOW = [
    "empty",
    "no model",
    "empty model",
    "cut short",
    "text",
    "ranks with a gap",
    "ranks without bytes",
    "ranks cut",
    "half of a pair",
    "merges of nothing",
    "json cut",
    "ids too far",
    "ids that are no numbers",
]


@pytest.mark.parametrize("how", [*HOW, "unknown format", "settings", "image tokens"])
def test_bad_files_are_named_in_one_line(folders, tokenizer, tmp_path, how):
    files, said = bad_files(folders, tokenizer)[how]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_tokenizer(tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_another_file_is_refused_by_name(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"model\.safetensors.*tokenizer\.model"):
        load_tokenizer(tmp_path / "model.safetensors")
