"""A written GGUF holds our numbers under llama.cpp's names, and llama.cpp continues a prompt as we do."""

import io
import json
import os
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path

import gguf
import jinja2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Regex, models, pre_tokenizers

from openglm.checkpoints.convert import convert
from openglm.checkpoints.gguf import write_gguf
from openglm.checkpoints.gguf_vocabulary import merges
from openglm.checkpoints.load import load_model
from openglm.model.transformer import Transformer
from openglm.presets import model_preset
from openglm.text.bpe import BpeTokenizer, without_named
from openglm.text.formats import FORMATS, RoleTurns
from openglm.text.load import ASSETS, load_tokenizer
from openglm.text.sentencepiece import CHATGLM_SPECIAL, SentencePieceTokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gguf_parity

GOLDEN = Path(__file__).parent.parent / "golden"
SHAPE = dict(vocab_size=340, layers=3, hidden=96, heads=6, kv_heads=2, ffn_hidden=160, max_positions=128)
NETWORKS = {
    "chatglm": ("chatglm", "glm-4-9b", dict(rope_theta=5e6, norm_eps=1.5625e-7)),
    "chatglm tied": ("chatglm", "chatglm3-6b", dict(tied=True, kv_heads=6)),
    "glm4": ("glm4", "glm-4-0414-9b", dict(kv_heads=3)),
    "glm4 without bias": ("glm4", "glm-4-0414-32b", dict(head_dim=32)),
}  # fmt: skip
TOKENS = dict(pad=0, mask=1, gmask=2, smask=3, sop=4, eop=5, stop=(5, 7, 9))
STEP = {"Q8_0": 127, "Q4_0": 8}  # steps between zero and a block's largest number


def random_model(preset: str, **changes) -> Transformer:
    model = (
        Transformer(model_preset(preset, **{**SHAPE, "head_dim": 0, "tokens": TOKENS, **changes}))
        .eval()
        .requires_grad_(False)
    )
    generator = torch.Generator().manual_seed(5)
    for name, weight in model.named_parameters():  # biases and norms too, so that none can be swapped or lost unseen
        weight.normal_(
            1.0 if "norm" in name else 0.0, 0.1 if weight.dim() == 1 else weight.shape[1] ** -0.5, generator=generator
        )
    return model


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    architecture, preset, changes = NETWORKS[request.param]
    return architecture, random_model(preset, **changes)


def weights_of(model: Transformer) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def read(path: Path):
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, {
        tensor.name: tensor for tensor in reader.tensors
    }


def expected(model: Transformer) -> dict[str, torch.Tensor]:
    """llama.cpp's tensors, spelt out from its loader: rows of q, k, v and of gate, up one under another."""
    ours, out = weights_of(model), {}
    out["token_embd.weight"], out["output_norm.weight"] = ours["embedding.weight"], ours["final_norm.weight"]
    if not model.config.tied:
        out["output.weight"] = ours["head.weight"]
    for i in range(model.config.layers):

        def part(name, i=i):
            return ours[f"blocks.{i}.{name}"]

        out[f"blk.{i}.attn_qkv.weight"] = torch.cat([part(f"attention.{n}_proj.weight") for n in "qkv"])
        if model.config.bias == "qkv":
            out[f"blk.{i}.attn_qkv.bias"] = torch.cat([part(f"attention.{n}_proj.bias") for n in "qkv"])
        out[f"blk.{i}.ffn_up.weight"] = torch.cat([part("ffn.gate_proj.weight"), part("ffn.up_proj.weight")])
        plain = {
            "attn_norm": "attention_norm",
            "attn_output": "attention.o_proj",
            "ffn_norm": "ffn_norm",
            "ffn_down": "ffn.down_proj",
        }
        if model.config.residual == "sandwich":
            plain |= {"post_attention_norm": "attention_post_norm", "post_ffw_norm": "ffn_post_norm"}
        out |= {f"blk.{i}.{theirs}.weight": part(f"{name}.weight") for theirs, name in plain.items()}
    return out


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_the_tensors_are_ours(network, tmp_path, kind):
    _, model = network
    wanted, (_, found) = (
        expected(model),
        read(write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, kind=kind)),
    )
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        ours, stored = wanted[name].numpy(), tensor.tensor_type.name
        assert tensor.shape.tolist() == list(ours.shape)[::-1], name
        if stored in ("F32", "F16"):
            assert np.array_equal(tensor.data, ours.astype(tensor.data.dtype)), name
            assert (stored == "F32") == (ours.ndim == 1) and (stored == "F32" or kind == "f16"), name
            continue
        blocks = ours.reshape(-1, 32)
        peak = np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), 1)
        step = np.abs(peak) / STEP[stored]
        # Half a step, and the rounding of the step itself to fp16. Q4_0 has no +8: a number as large as the peak, of the other sign, falls one step short.
        beyond = np.abs(blocks) - 7.5 * step if stored == "Q4_0" else 0
        bound = (
            np.maximum(step / 2, np.where(np.sign(blocks) != np.sign(peak), beyond + step / 2, 0))
            + 2**-11 * np.abs(peak)
            + 1e-7
        )
        assert (np.abs(gguf.dequantize(tensor.data, tensor.tensor_type).reshape(-1, 32) - blocks) <= bound).all(), name


def test_four_bits_but_eight_for_the_logits(network, tmp_path):
    _, model = network
    _, tensors = read(write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, kind="q4_0"))
    types = {name: tensor.tensor_type.name for name, tensor in tensors.items() if len(tensor.shape) == 2}
    eight = "token_embd.weight" if model.config.tied else "output.weight"
    assert types.pop(eight) == "Q8_0" and set(types.values()) == {"Q4_0"}


def test_rows_that_no_block_divides_stay_f16(tmp_path):
    model = random_model("glm-4-9b", hidden=80, heads=4, ffn_hidden=96)
    _, tensors = read(write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, kind="q8_0"))
    assert (
        tensors["blk.0.ffn_up.weight"].tensor_type.name == "F16"
        and tensors["blk.0.ffn_down.weight"].tensor_type.name == "Q8_0"
    )


def test_the_header_describes_the_network(network, tmp_path):
    architecture, model = network
    config, (header, _) = (
        model.config,
        read(write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, kind="q8_0")),
    )
    shape = {
        "vocab_size": config.vocab_size, "context_length": config.max_positions, "embedding_length": config.hidden, "feed_forward_length": config.ffn_hidden,
        "block_count": config.layers, "attention.head_count": config.heads, "attention.head_count_kv": config.kv_heads, "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim // 2,
    }  # fmt: skip
    assert (
        header["general.architecture"] == architecture and header["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    )
    assert {name: header[f"{architecture}.{name}"] for name in shape} == shape
    assert header[f"{architecture}.rope.freq_base"] == pytest.approx(config.rope_theta)
    assert header[f"{architecture}.attention.layer_norm_rms_epsilon"] == pytest.approx(config.norm_eps)


class OnDisk(Mapping):
    """Tensors that are made when asked for; counts how many are alive at once."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors, self.alive, self.most, self.reads = tensors, weakref.WeakSet(), 0, []

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.tensors[name].clone()
        self.alive.add(tensor.untyped_storage())
        self.most, self.reads = max(self.most, len(self.alive)), [*self.reads, name]
        return tensor

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_one_tensor_is_held_at_a_time(network, tmp_path):
    _, model = network
    lazy = OnDisk(weights_of(model))
    whole = write_gguf(tmp_path / "a.gguf", weights_of(model), model.config).read_bytes()
    assert write_gguf(tmp_path / "b.gguf", lazy, model.config).read_bytes() == whole
    assert lazy.most == 1 and sorted(lazy.reads) == sorted(lazy.tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_any_float_type(tmp_path, dtype):
    model = random_model("glm-4-9b")
    half = {name: weight.to(dtype) for name, weight in weights_of(model).items()}
    _, tensors = read(write_gguf(tmp_path / "m.gguf", half, model.config))
    assert np.array_equal(tensors["blk.1.ffn_down.weight"].data, half["blocks.1.ffn.down_proj.weight"].half().numpy())


@pytest.mark.parametrize("preset", ["glm-base", "glm-130b", "chatglm-6b", "nano"])
def test_other_networks_are_refused(tmp_path, preset):
    config = model_preset(preset)
    with pytest.raises(ValueError, match=r"model\.\w+ = .*ChatGLM2, ChatGLM3, GLM-4-9B and GLM-4-0414") as error:
        write_gguf(tmp_path / "m.gguf", {}, config)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [dict(qk_norm=True), dict(mask="prefix"), dict(norm="layernorm"), dict(bias="all"), dict(activation="geglu"), dict(positions="rope"),
                                     dict(head_dim=32), dict(rope_fp16_frequencies=True)], ids=str)  # fmt: skip
def test_one_foreign_part_is_enough(tmp_path, changes):
    model = random_model("glm-4-9b", **changes)
    with pytest.raises(ValueError, match=f"model.{next(iter(changes))} = "):
        write_gguf(tmp_path / "m.gguf", weights_of(model), model.config)


@pytest.mark.parametrize(("fault", "message"), [
    (lambda w: w.pop("head.weight"), "'head.weight' is missing"),
    (lambda w: w.update(extra=torch.zeros(2)), "'extra' is unknown"),
    (lambda w: w.update({"head.weight": torch.zeros(340, 95)}), r"shape \[340, 95\].*\[340, 96\]"),
    (lambda w: w.update({"head.weight": torch.zeros(340, 96, dtype=torch.int8)}), "int8"),
    (lambda w: w["head.weight"].__setitem__((3, 4), float("nan")), "'head.weight' = nan"),
    (lambda w: w["head.weight"].__setitem__((3, 4), 65600.0), "65600.0: .*beyond F16"),
])  # fmt: skip
def test_bad_weights_leave_the_old_file(tmp_path, fault, message):
    model = random_model("glm-4-9b")
    weights = {name: weight.clone() for name, weight in weights_of(model).items()}
    fault(weights)
    (tmp_path / "m.gguf").write_bytes(b"before")
    with pytest.raises(ValueError, match=message) as error:
        write_gguf(tmp_path / "m.gguf", weights, model.config)
    assert "\n" not in str(error.value) and [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [
        ("m.gguf", b"before")
    ]


def test_bad_places_and_kinds(tmp_path):
    model = random_model("glm-4-9b")
    with pytest.raises(ValueError, match=r"kind = 'q5_0': choose one of f16, q8_0, q4_0"):
        write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, kind="q5_0")
    with pytest.raises(ValueError, match=r"cannot write .*No such file"):
        write_gguf(tmp_path / "absent" / "m.gguf", weights_of(model), model.config)


@pytest.fixture(scope="module")
def glm4_tokenizer():
    path = Path(
        os.environ.get("OPENGLM_GLM4_TOKENIZER", Path(__file__).parents[3] / "shared/tokenizer_glm4/tokenizer.model")
    )
    if not path.is_file():
        pytest.skip("GLM-4's tokenizer.model is not here; OPENGLM_GLM4_TOKENIZER names it")
    return load_tokenizer(path)


def plain_tokens(tokenizer) -> list[bytes]:
    return [
        tokenizer.decode_bytes([n], skip_special=False)
        for n in range(tokenizer.vocab_size)
        if n not in tokenizer.special.values()
    ]


def test_our_vocabulary_comes_back(tmp_path):
    """Tokens, kinds and stop ids; the merges are those of tokenizer.json, found from the tokens alone."""
    tokenizer = load_tokenizer("nano")
    model = random_model("glm-4-9b", vocab_size=8200)
    header, _ = read(write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, tokenizer))
    whole = json.loads((ASSETS / "nano/tokenizer.json").read_bytes())
    file, marks = whole["model"], len(whole["added_tokens"])
    assert header["tokenizer.ggml.tokens"] == [
        *sorted(file["vocab"], key=file["vocab"].get),
        *(f"[PAD{n}]" for n in range(8192, 8200)),
    ]
    assert header["tokenizer.ggml.merges"] == [" ".join(pair) for pair in file["merges"]]
    kinds = gguf.TokenType
    wanted = [kinds.CONTROL] * marks + [kinds.NORMAL] * (8192 - marks) + [kinds.UNUSED] * 8
    assert header["tokenizer.ggml.token_type"] == wanted
    assert [header[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom", "padding")] == [5, 7, 9, 0]
    assert header["tokenizer.ggml.model"] == "gpt2" and header["tokenizer.ggml.add_bos_token"] is False


GLM4_PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def two_bpes(glm4_tokenizer):
    """tiktoken's, and one with the merges that the file gets, which takes whole pieces first as llama.cpp does for `glm4`."""
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {token: rank for rank, token in enumerate(plain_tokens(glm4_tokenizer))}
    pairs = [(spell(a), spell(b)) for a, b in merges(plain_tokens(glm4_tokenizer))]
    bpe = models.BPE({spell(token): rank for token, rank in ranks.items()}, pairs, ignore_merges=True)
    return tiktoken.Encoding("glm-4", pat_str=GLM4_PIECES, mergeable_ranks=ranks, special_tokens={}), bpe


def spell(token: bytes) -> str:
    return "".join(chr(0x2800 + byte) for byte in token)  # any 256 characters do


ADDED = dict.fromkeys(("special", "single_word", "lstrip", "rstrip", "normalized"), False)
ODD_TEXTS = [
    " 你好，世界\n\n\n  I'LL  pay $1234567.89\t\tfoo_bar(x)",
    "　　🚀👨\u200d👩\u200d👧 naïve e\u0301 ſ'S ١٢٣ \x00\x1f",
    "<|user|>[MASK]\r\n \r\n...?!  ",
]
FRAGMENTS = ["你好", "，我们", " the", " lan", "guage", "ing", "'ll", "12345", "  ", "\n", "🚀", "def ", "(x)"]


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",))) | st.lists(st.sampled_from(FRAGMENTS)).map("".join))
def test_glm4s_merges_tokenize_as_tiktoken(two_bpes, text):
    theirs, bpe = two_bpes
    pieces = [text[a:b] for _, (a, b) in pre_tokenizers.Split(Regex(GLM4_PIECES), "isolated").pre_tokenize_str(text)]
    assert [token.id for piece in pieces for token in bpe.tokenize(spell(piece.encode()))] == theirs.encode(text)


def sentencepiece_tokenizer():
    """A small SentencePiece model as ChatGLM2 and ChatGLM3 have one: BPE, bytes as the last resort, special tokens behind it."""
    import sentencepiece

    lines, model = (
        ["今天天气很好，我们一起去公园散步。你想去哪里？", "The weather is fine today; we walk in the park. 1 + 2 = 3"],
        io.BytesIO(),
    )
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 4),
        model_writer=model,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    special = {name: index for index, name in enumerate(CHATGLM_SPECIAL)}
    return SentencePieceTokenizer({}, model.getvalue(), special, FORMATS["chatglm3-6b"], "here")


def test_sentencepiece_vocabularies(tmp_path):
    tokenizer = sentencepiece_tokenizer()
    processor, model = tokenizer.pieces, random_model("chatglm3-6b", vocab_size=360)
    header, _ = read(write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, tokenizer))
    pieces, kinds = range(len(processor)), gguf.TokenType
    assert header["tokenizer.ggml.model"] == "llama" and header["tokenizer.ggml.scores"][: len(pieces)] == [
        processor.get_score(n) for n in pieces
    ]
    assert header["tokenizer.ggml.tokens"][: len(pieces)] == [processor.id_to_piece(n) for n in pieces]
    assert header["tokenizer.ggml.token_type"][:4] == [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, kinds.BYTE]
    assert (
        header["tokenizer.ggml.tokens"][tokenizer.special["[gMASK]"]] == "[gMASK]"
        and header["tokenizer.ggml.token_type"][tokenizer.special["sop"]] == kinds.CONTROL
    )
    assert {len(header[f"tokenizer.ggml.{name}"]) for name in ("tokens", "token_type", "scores")} == {360}


@pytest.mark.parametrize("name", ["chatglm3_6b", "glm_hf", "glm4_0414"])
def test_a_published_checkpoint_becomes_the_file_of_its_model(tmp_path, name):
    """Read from disk tensor by tensor, or from the opened model: the same bytes. Golden checkpoints have no tokenizer, so neither has the file."""
    model = load_model(GOLDEN / name / "checkpoint", device="cpu", dtype="float32")
    direct = write_gguf(tmp_path / "a.gguf", weights_of(model), model.config, kind="q8_0")
    assert (
        convert(GOLDEN / name / "checkpoint", tmp_path / "b.gguf", "gguf", "q8_0").read_bytes() == direct.read_bytes()
    )
    assert read(direct)[0]["tokenizer.ggml.model"] == "no_vocab"


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path):
    model = random_model("glm-4-9b")
    with pytest.raises(ValueError, match="tokenizer = '8192 tokens': more than the model's vocabulary of 340"):
        write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, load_tokenizer("nano"))


@pytest.mark.parametrize(
    "format",
    [format for format in FORMATS.values() if isinstance(format.turns, RoleTurns)],
    ids=lambda format: format.name,
)
def test_the_chat_template_writes_what_our_renderer_does(tmp_path, format):
    tokenizer, model = load_tokenizer("nano"), random_model("glm-4-9b", vocab_size=8192)
    tokenizer.format = format
    header, _ = read(write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, tokenizer))
    messages = [
        {"role": role, "content": content}
        for role, content in (
            ("system", "Be brief."),
            ("user", "a\nb"),
            ("assistant", "<think>x</think>c"),
            ("user", "谢谢！"),
        )
    ]
    found = jinja2.Template(header["tokenizer.chat_template"]).render(messages=messages, add_generation_prompt=True)
    assert found.replace("\n ", "\n") == "".join(text for text, _, _ in format.turns(messages, (), True))


def test_chatglm2_gets_its_rounds(tmp_path):
    model = random_model("chatglm2-6b", vocab_size=360)
    tokenizer = sentencepiece_tokenizer()
    tokenizer.format = FORMATS["chatglm2-6b"]
    header, _ = read(write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, tokenizer))
    turns = [("system", "S."), ("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": content} for role, content in turns]
    template = jinja2.Template(header["tokenizer.chat_template"])
    for chat in (messages, messages[1:], messages[:2]):
        found = template.render(messages=chat, add_generation_prompt=True)
        assert found == "".join(text for text, _, _ in tokenizer.format.turns(chat, (), True))
    assert found == "[gMASK]sop[Round 1]\n\n问：S.a\n\n答："


def test_added_tokens_are_named(tmp_path):
    """llama.cpp finds tokens of this kind in texts, by the text that they have here."""
    tokenizer = load_tokenizer("nano")
    words = {word: {"id": tokenizer.vocab_size + place, **ADDED} for place, word in enumerate(["<color>", "新词元"])}
    bpe, tokens = without_named(tokenizer.layout(), {}, words)
    added = BpeTokenizer({}, bpe, tokens, tokenizer.special, tokenizer.format, added=words)
    model = random_model("glm-4-9b", vocab_size=8200)
    header, _ = read(write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, added))
    for word, token in words.items():
        assert header["tokenizer.ggml.tokens"][token["id"]] == word
        assert header["tokenizer.ggml.token_type"][token["id"]] == gguf.TokenType.USER_DEFINED
    plain, _ = read(write_gguf(tmp_path / "n.gguf", weights_of(model), model.config, tokenizer))
    assert header["tokenizer.ggml.merges"] == plain["tokenizer.ggml.merges"]


@pytest.fixture(scope="module")
def llama_cpp():
    return pytest.importorskip("llama_cpp")


@pytest.mark.parametrize("network", gguf_parity.NETWORKS)
def test_llama_cpp_answers_as_we_do(llama_cpp, network):
    tokenizer = load_tokenizer("nano")
    found = gguf_parity.parity(gguf_parity.random_model(network, tokenizer), tokenizer, "f16", steps=16)
    assert found["same_tokens"] == found["steps"] == 48 and found["distinct_tokens"] > 5, found
    assert found["relative_error"] < 3e-3, (
        found
    )  # half-precision activations and cache through four layers; a wrong rotation is of order one


@pytest.mark.parametrize("name", ["chatglm2_6b", "chatglm3_6b", "glm4_9b", "glm_hf", "glm4_0414"])
def test_llama_cpp_answers_as_the_original_code_did(llama_cpp, tmp_path, name):
    """A published layout, converted: the tokens and logits of the checkpoint's own modelling code in fp32."""
    golden = load_file(GOLDEN / name / "golden.safetensors")
    rows = [golden[f"fp32.gen.{prompt}.output_ids"][0].tolist() for prompt in ("single", "long")]
    path = convert(GOLDEN / name / "checkpoint", tmp_path / "m.gguf", "gguf")
    for prompt, row, logits in zip(
        ("single", "long"), rows, gguf_parity.their_logits(path, rows, [len(row) - 16 for row in rows]), strict=True
    ):
        assert logits.argmax(-1).tolist() == row[-16:]
        wanted = golden[f"fp32.{prompt}.logits"][0, -1].numpy()
        assert np.linalg.norm(logits[0] - wanted) < 5e-3 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("network", "kind"), [("chatglm", "q8_0"), ("glm4 without bias", "q4_0")])
def test_llama_cpp_reads_the_blocks_as_they_are_meant(llama_cpp, network, kind):
    """Against our network on the weights of the file there is left what llama.cpp's 8-bit activations cost."""
    tokenizer = load_tokenizer("nano")
    found = gguf_parity.parity(gguf_parity.random_model(network, tokenizer), tokenizer, kind, steps=8)
    assert found["against_file"]["relative_error"] < 0.05, found


def test_llama_cpp_knows_glm4s_tokens_and_where_to_stop(llama_cpp, glm4_tokenizer, tmp_path):
    special = glm4_tokenizer.special
    stop = tuple(special[name] for name in ("<|endoftext|>", "<|user|>", "<|observation|>"))
    small = dict(layers=1, hidden=32, heads=2, kv_heads=1, ffn_hidden=32, tokens=dict(TOKENS, pad=stop[0], stop=stop))
    model = random_model("glm-4-9b", vocab_size=glm4_tokenizer.vocab_size + 5, **small)
    llama = llama_cpp.Llama(
        str(write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, glm4_tokenizer)),
        vocab_only=True,
        verbose=False,
    )
    vocabulary = llama_cpp.llama_model_get_vocab(llama._model.model)
    assert [n for n in special.values() if llama_cpp.llama_vocab_is_eog(vocabulary, n)] == list(stop)
    chat = jinja2.Template(llama.metadata["tokenizer.chat_template"]).render(
        messages=[{"role": "user", "content": "你好"}], add_generation_prompt=True
    )
    assert llama.tokenize(chat.encode(), add_bos=False, special=True) == [
        151331,
        151333,
        151336,
        198,
        109377,
        151337,
    ]  # as the published tokenizer has it
    ranks = {token: rank for rank, token in enumerate(plain_tokens(glm4_tokenizer))}
    tiktoken = pytest.importorskip("tiktoken").Encoding(
        "glm-4", pat_str=GLM4_PIECES, mergeable_ranks=ranks, special_tokens={}
    )
    for text in ODD_TEXTS:
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == tiktoken.encode(text), text
    llama.close()


def test_llama_cpp_cuts_as_sentencepiece_does(llama_cpp, tmp_path):
    tokenizer, model = sentencepiece_tokenizer(), random_model("chatglm3-6b", vocab_size=360)
    llama = llama_cpp.Llama(
        str(write_gguf(tmp_path / "m.gguf", weights_of(model), model.config, tokenizer)), vocab_only=True, verbose=False
    )
    for text in ODD_TEXTS:
        assert llama.tokenize(text.encode(), add_bos=False, special=False) == tokenizer.encode(text), text
    llama.close()
