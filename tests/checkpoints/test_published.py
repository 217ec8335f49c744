"""Published folders beyond the golden cases: any number of shards, round trips, types, and folders that are wrong in one way or another."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from openglm.checkpoints import native
from openglm.checkpoints.convert import convert
from openglm.checkpoints.load import load_model, open_checkpoint
from openglm.checkpoints.published import recognise
from openglm.checkpoints.report import report
from openglm.config import PRESETS, model_preset
from openglm.model.transformer import Transformer
from openglm.quant.codes import dequantize, pack
from openglm.quant.layers import QuantizedEmbedding, QuantizedLinear

GOLDEN = Path(__file__).parent.parent / "golden"
GLM130B = {"config": str(GOLDEN / "glm_130b/model_args.json")}


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert not [name for name, tensor in ours.items() if tensor.dtype != theirs[name].dtype or not torch.equal(tensor, theirs[name])]


@pytest.fixture
def copy(tmp_path):
    """A golden checkpoint to spoil."""
    return lambda name: Path(shutil.copytree(GOLDEN / name, tmp_path / "copy"))


# Tensor-parallel shards

def sat_state(folder: str = "glm_130b/checkpoint_tp1/49300") -> dict[str, torch.Tensor]:
    return torch.load(GOLDEN / folder / "mp_rank_00_model_states.pt", weights_only=True)["module"]


def shard(state: dict[str, torch.Tensor], ranks: int, rank: int) -> dict[str, torch.Tensor]:
    """What one rank of a tensor-parallel run of GLM-130B holds, by the rule of the README."""
    def cut(name, tensor):
        if "dense_h_to_4h" in name:
            return torch.cat([half.chunk(ranks)[rank] for half in tensor.chunk(2)])
        if "query_key_value" in name or "word_embeddings" in name:
            return tensor.chunk(ranks)[rank]
        return tensor.chunk(ranks, 1)[rank] if name.endswith(("dense.weight", "dense_4h_to_h.weight")) else tensor
    return {name: cut(name, tensor).clone() for name, tensor in state.items()}


def write_ranks(folder: Path, states: list[dict[str, torch.Tensor]]) -> Path:
    folder.mkdir(parents=True)
    for rank, state in enumerate(states):
        torch.save({"module": state}, folder / f"mp_rank_{rank:02}_model_states.pt")
    return folder


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_gives_the_same_weights(ranks, tmp_path):
    folder = write_ranks(tmp_path / "cut", [shard(sat_state(), ranks, rank) for rank in range(ranks)])
    same(weights(load_model(folder, device="cpu", **GLM130B)), weights(load_model(GOLDEN / "glm_130b/checkpoint_tp1", device="cpu", **GLM130B)))


@pytest.mark.parametrize("bits", [8, 4])
def test_ranks_that_were_quantised_one_by_one_keep_their_codes_and_scales(bits, tmp_path):
    codes, plain = [], []
    for rank in range(4):
        state, held = shard(sat_state(), 4, rank), {}
        for name, tensor in list(state.items()):
            if name.endswith(("dense.weight", "query_key_value.weight", "4h.weight", "4h_to_h.weight")):
                scale = (tensor.abs().amax(1) / (2 ** (bits - 1) - 1)).half()
                code = (tensor.float() / scale.float()[:, None]).round().to(torch.int8)
                held[name], held[f"{name}_scale"] = (pack(code).view(torch.int8) if bits == 4 else code), scale
                state[name] = dequantize(code, scale[:, None])
        codes.append({**state, **held})
        plain.append(state)
    ours = load_model(write_ranks(tmp_path / "codes", codes), device="cpu", **GLM130B)
    whole = load_model(write_ranks(tmp_path / "plain", plain), device="cpu", **GLM130B)
    for path, module in whole.blocks.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert torch.equal(ours.blocks.get_submodule(path).weight, module.weight), path
    assert ours.blocks[0].attention.o_proj.scales.shape == (64, 4) and ours.blocks[0].attention.q_proj.scales.shape == (64, 1)


def test_heads_that_the_ranks_divide_are_put_together(tmp_path):
    """GLM-10B's cut takes a half of each third, whatever the number of heads."""
    config = model_preset("glm-10b", vocab_size=64, layers=1, hidden=40, heads=5, ffn_hidden=160, max_positions=16)
    model = Transformer(config)
    model.initialize(torch.Generator().manual_seed(1))
    own = dict(model.named_parameters())
    names = {"attention.dense": "attention.o_proj", "mlp.dense_h_to_4h": "ffn.up_proj", "mlp.dense_4h_to_h": "ffn.down_proj", "input_layernorm": "attention_norm"}
    state = {f"transformer.layers.0.{theirs}.{leaf}": own[f"blocks.0.{ours}.{leaf}"] for theirs, ours in {**names, "post_attention_layernorm": "ffn_norm"}.items() for leaf in ("weight", "bias")}
    state |= {f"transformer.layers.0.attention.query_key_value.{leaf}": torch.cat([own[f"blocks.0.attention.{n}_proj.{leaf}"] for n in "qkv"]) for leaf in ("weight", "bias")}
    state |= {f"transformer.{table}s.weight": own[f"{table}.weight"] for table in ("position_embedding", "block_position_embedding")}
    state |= {"word_embeddings.weight": own["embedding.weight"], **{f"transformer.final_layernorm.{leaf}": own[f"final_norm.{leaf}"] for leaf in ("weight", "bias")}}

    def cut(name, tensor, rank):
        if "query_key_value" in name:
            return torch.cat([third.chunk(2)[rank] for third in tensor.chunk(3)])
        if "h_to_4h" in name or name.startswith("word"):
            return tensor.chunk(2)[rank]
        return tensor.chunk(2, 1)[rank] if name.endswith(("dense.weight", "4h_to_h.weight")) else tensor

    folder = write_ranks(tmp_path / "cut", [{name: cut(name, tensor.detach(), rank).clone() for name, tensor in state.items()} for rank in range(2)])
    (tmp_path / "shape.json").write_text(json.dumps({"vocab_size": 64, "num_layers": 1, "hidden_size": 40, "num_attention_heads": 5, "max_sequence_length": 16, "pad_token_id": 40}))
    again = load_model(folder, device="cpu", config=str(tmp_path / "shape.json"))
    same(weights(again), weights(model))
    assert (again.config.tokens.sop, again.config.tokens.mask, again.config.activation) == (41, 44, "gelu_tanh")


def test_the_chinese_glm_10b_gets_a_row_for_gmask(tmp_path):
    state = sat_state("glm_10b/checkpoint_native")
    shape = json.loads((GOLDEN / "glm_10b/checkpoint/config.json").read_text())
    (tmp_path / "chinese.json").write_text(json.dumps({**shape, "pad_token_id": 120, "eos_token_id": 127}))
    model = load_model(write_ranks(tmp_path / "native", [state]), device="cpu", config=str(tmp_path / "chinese.json"))
    expected = state["word_embeddings.weight"].float()
    expected[129] = expected[127]  # [gMASK] shared its id with <eop> when the weights were trained
    assert torch.equal(model.embedding.weight, expected)
    assert (model.config.tokens.gmask, model.config.tokens.eop, model.config.tokens.sop, model.config.tokens.mask) == (129, 127, 126, 123)


# Types and round trips

@pytest.mark.parametrize("name", ["glm_hf/checkpoint", "glm4_0414/checkpoint"])
def test_from_hf_to_ours_and_back_every_tensor_is_the_same(name, tmp_path):
    convert(convert(GOLDEN / name, tmp_path / "ours", "openglm"), tmp_path / "hf", "hf")
    before, after = ({k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()} for folder in (GOLDEN / name, tmp_path / "hf"))
    same(after, before)
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (GOLDEN / name, tmp_path / "hf"))
    assert {key: new.get(key) for key in old} | {"transformers_version": "", "initializer_range": 0} == old | {"transformers_version": "", "initializer_range": 0}


@pytest.mark.parametrize("name", ["chatglm2_6b/checkpoint", "glm4_9b/checkpoint", "chatglm_6b/checkpoint", "glm_10b/checkpoint", "chatglm2_6b/checkpoint_int4", "chatglm3_6b/checkpoint_int8"])
def test_ours_holds_every_published_checkpoint_in_its_own_type(name, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "_SHARD", 30_000)
    ours = convert(GOLDEN / name, tmp_path / "ours", "openglm")
    assert len(list(ours.glob("model-*.safetensors"))) > 1
    source, again = open_checkpoint(GOLDEN / name), open_checkpoint(ours, verify=True)
    assert (again.config, again.family, again.source.bits) == (source.config, source.family, source.source.bits)
    flat = [{f"{path}.{leaf}": t.contiguous() for path, leaves in c.source.modules() for leaf, t in leaves.items()} for c in (source, again)]
    same(*flat)
    same(weights(load_model(ours, device="cpu")), weights(load_model(GOLDEN / name, device="cpu")))


def test_a_quantised_model_is_saved_and_opened_as_it_is(tmp_path):
    model = load_model(GOLDEN / "glm4_9b/checkpoint", device="cpu", quantize="int4")
    kinds = {type(module) for module in model.modules()}
    assert {QuantizedLinear, QuantizedEmbedding} <= kinds and torch.nn.Linear not in kinds
    again = load_model(native.save_model(tmp_path / "m", model, None), device="cpu")
    same(weights(again), weights(model))
    ids = torch.arange(9)[None]
    assert torch.equal(again.logits(ids), model.logits(ids))
    with pytest.raises(ValueError, match="int4 already"):
        load_model(tmp_path / "m", device="cpu", quantize="int8")


@pytest.mark.parametrize("name", ["chatglm_6b", "glm_10b", "glm4_9b"])
@pytest.mark.parametrize("bits", [8, 4])
def test_weights_quantised_while_they_are_read_are_near_the_originals(name, bits):
    plain, coded = (load_model(GOLDEN / name / "checkpoint", device="cpu", quantize=q) for q in (None, f"int{bits}"))
    for path, module in coded.named_modules():
        if isinstance(module, (QuantizedLinear, QuantizedEmbedding)):
            error = (module.weight - plain.get_submodule(path).weight).norm() / plain.get_submodule(path).weight.norm()
            assert error < (0.01 if bits == 8 else 0.12), path


def test_types(tmp_path):
    folder = GOLDEN / "glm4_0414/checkpoint"
    assert load_model(folder, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"dtype = 'float16'.*overflow.*bfloat16"):
        load_model(folder, device="cpu", dtype="float16")
    with pytest.raises(ValueError, match=r"dtype = 'float16'.*overflow"):
        convert(folder, tmp_path / "x", "hf", dtype="float16")
    assert load_model(GOLDEN / "chatglm2_6b/checkpoint", device="cpu").dtype == torch.float32
    half = convert(GOLDEN / "glm4_9b/checkpoint", tmp_path / "half", "openglm", dtype="float16")
    assert {t.dtype for t in load_file(half / "model.safetensors").values()} == {torch.float16}


def test_half_precision_runs_stay_near_the_originals():
    for name, given, kind, tolerance in (("chatglm_6b", "single", "float16", 0.3), ("glm4_9b", "single", "bfloat16", 2.0)):
        tensors = load_file(GOLDEN / name / "golden.safetensors")
        expected = tensors.get(f"{kind}.{given}.logits", tensors.get(f"fp16.{given}.logits")).float()
        ours = load_model(GOLDEN / name / "checkpoint", device="cpu", dtype=kind).logits(tensors[f"fp32.{given}.input_ids"])
        assert (ours - expected).abs().max() < tolerance


# Configurations

PUBLISHED = {
    "chatglm-6b": dict(model_type="chatglm", num_layers=28, hidden_size=4096, num_attention_heads=32, inner_hidden_size=16384, vocab_size=130528, max_sequence_length=2048,
                       bos_token_id=130004, eos_token_id=130005, mask_token_id=130000, gmask_token_id=130001, pad_token_id=3, layernorm_epsilon=1e-5, position_encoding_2d=True),
    "chatglm-6b-first": dict(model_type="chatglm", num_layers=28, hidden_size=4096, num_attention_heads=32, inner_hidden_size=16384, vocab_size=150528, max_sequence_length=2048,
                             bos_token_id=150004, eos_token_id=150005, pad_token_id=3, layernorm_epsilon=1e-5, position_encoding_2d=True),
    "chatglm2-6b": dict(model_type="chatglm", num_layers=28, hidden_size=4096, num_attention_heads=32, ffn_hidden_size=13696, padded_vocab_size=65024, seq_length=32768, kv_channels=128,
                        multi_query_attention=True, multi_query_group_num=2, add_qkv_bias=True, add_bias_linear=False, rmsnorm=True, layernorm_epsilon=1e-5, eos_token_id=2, pad_token_id=0),
    "glm-4-9b-chat": dict(model_type="chatglm", num_layers=40, hidden_size=4096, num_attention_heads=32, ffn_hidden_size=13696, padded_vocab_size=151552, seq_length=131072,
                          kv_channels=128, multi_query_attention=True, multi_query_group_num=2, add_qkv_bias=True, layernorm_epsilon=1.5625e-07, rope_ratio=500, pad_token_id=151329,
                          eos_token_id=[151329, 151336, 151338]),
    "glm-4-0414-32b": dict(model_type="glm4", num_hidden_layers=61, hidden_size=6144, num_attention_heads=48, num_key_value_heads=2, head_dim=128, intermediate_size=23040,
                           attention_bias=False, vocab_size=151552, max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=10000.0, pad_token_id=151329,
                           eos_token_id=[151329, 151336, 151338]),
    "glm-10b": dict(model_type="glm", num_layers=48, hidden_size=4096, num_attention_heads=64, vocab_size=50304, max_sequence_length=1024, block_position_encoding=True),
    "glm-10b-chinese": dict(model_type="glm", num_layers=48, hidden_size=4096, num_attention_heads=64, vocab_size=50048, max_sequence_length=1024, block_position_encoding=True),
    "glm-130b": dict(num_layers=70, hidden_size=12288, num_attention_heads=96, inner_hidden_size=32768, vocab_size=150528, max_sequence_length=2048),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_gives_the_preset(name):
    _, config = recognise(PUBLISHED[name], sharded=True)
    assert config == model_preset(name)


def test_later_chatglm_configurations_are_told_apart():
    names = [recognise({**PUBLISHED["chatglm2-6b"], **change})[0] for change in ({}, {"seq_length": 8192}, {"_name_or_path": "THUDM/chatglm3-6b-32k"})]
    assert names == ["chatglm2-6b", "chatglm3-6b", "chatglm3-6b"]


@pytest.mark.parametrize(
    ("base", "change", "named"),
    [
        ("chatglm2-6b", {"rmsnorm": False}, "config.rmsnorm = False"), ("chatglm2-6b", {"add_bias_linear": True}, "config.add_bias_linear"),
        ("glm-4-0414-32b", {"rope_scaling": {"type": "yarn", "factor": 4}}, "config.type = 'yarn'"), ("glm-4-0414-32b", {"partial_rotary_factor": 1.0}, "partial_rotary_factor"),
        ("glm-4-0414-32b", {"hidden_act": "gelu"}, "hidden_act"), ("glm-4-9b-chat", {"vision_config": {}}, "vision part: an unknown generation"),
        ("glm-4-0414-32b", {"model_type": "llama"}, "'llama': an unknown generation; known: ChatGLM-6B"), ("glm-4-0414-32b", {"model_type": "glm4_moe"}, "an unknown generation"),
        ("glm-4-0414-32b", {"hidden_size": "wide"}, "model.hidden = 'wide'"), ("glm-4-0414-32b", {"num_hidden_layers": 0}, "model.layers = 0"),
        ("glm-10b", {"vocab_size": 1000}, "config.pad_token_id"), ("chatglm2-6b", {"rope_ratio": 16, "_name_or_path": "THUDM/chatglm2-6b-32k"}, "config.rope_ratio = 16"),
        ("chatglm-6b", {"bos_token_id": None}, "config.bos_token_id"), ("glm-4-0414-32b", {"rope_parameters": [1]}, "rope"),
    ],
)
def test_another_network_is_refused_by_the_option_that_asks_for_it(base, change, named):
    with pytest.raises(ValueError, match=named) as error:
        recognise({**PUBLISHED[base], **change})
    assert "\n" not in str(error.value)


JUNK = st.one_of(st.none(), st.booleans(), st.integers(-5, 10**12), st.floats(), st.text(max_size=4), st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=3), st.none(), max_size=2))


@settings(max_examples=200, deadline=None)
@given(base=st.sampled_from(sorted(PUBLISHED)), data=st.data())
def test_any_value_in_a_configuration_is_taken_or_refused_in_one_line(base, data):
    values = dict(PUBLISHED[base])
    for name in data.draw(st.lists(st.sampled_from([*values, "rope_scaling", "special", "rope_ratio"]), min_size=1, max_size=3)):
        values[name] = data.draw(JUNK)
    try:
        recognise(values)
    except ValueError as error:
        assert "\n" not in str(error)


# Folders that are wrong

class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def spoil_shape(folder: Path) -> None:
    state = torch.load(folder / "pytorch_model-00003-of-00003.bin", weights_only=True)
    state["transformer.output_layer.weight"] = state["transformer.output_layer.weight"][:-1].clone()
    torch.save(state, folder / "pytorch_model-00003-of-00003.bin")


def set_index(**places):
    def change(folder: Path) -> None:
        index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
        index["weight_map"] |= places
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    return change


def set_config(**options):
    return lambda folder: (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | options))


def cut_file(name: str, size: int):
    return lambda folder: os.truncate(folder / name, size)


def expanded(folder: Path) -> None:
    """A tensor of terabytes over one number."""
    state = torch.load(folder / "pytorch_model-00003-of-00003.bin", weights_only=True)
    state["transformer.output_layer.weight"] = torch.zeros(1, dtype=torch.float16).expand(1 << 20, 1 << 21)
    torch.save(state, folder / "pytorch_model-00003-of-00003.bin")


BIN, LAST = "chatglm2_6b/checkpoint", "pytorch_model-00003-of-00003.bin"
WRONG = {
    "a missing shard": (BIN, lambda f: (f / LAST).unlink(), f"{LAST}.*missing, though pytorch_model.bin.index.json lists it"),
    "a missing safetensors shard": ("glm_hf/checkpoint", lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "model-00002-of-00002.safetensors.*missing"),
    "a shard of another model": (BIN, lambda f: shutil.copy(GOLDEN / "chatglm_6b/checkpoint/pytorch_model-00001-of-00002.bin", f / LAST), "weight' is missing"),
    "a wrong shape": (BIN, spoil_shape, r"'transformer.output_layer.weight' has shape \[255, 64\], the configuration says \[256, 64\]"),
    "another width": (BIN, set_config(ffn_hidden_size=80), r"dense_h_to_4h.weight' has shape \[192, 64\], the configuration says \[160, 64\]"),
    "fewer layers": (BIN, set_config(num_layers=2), "tensor = 'transformer.encoder.layers.2.* unknown"),
    "more layers": (BIN, set_config(num_layers=4), "layers.3.* is missing"),
    "a thousand million layers": (BIN, set_config(num_layers=10**9), "model.layers = 1000000000"),
    "a width that overflows": (BIN, set_config(hidden_size=10**15, kv_channels=10**14), "cannot be"),
    "no configuration": (BIN, lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "a truncated configuration": (BIN, cut_file("config.json", 200), "not valid JSON"),
    "a truncated index": (BIN, cut_file("pytorch_model.bin.index.json", 200), "not valid JSON"),
    "a truncated shard": (BIN, cut_file(LAST, 20_000), f"{LAST}: "),
    "an empty shard": (BIN, cut_file(LAST, 0), f"{LAST}: "),
    "a truncated safetensors file": ("glm_hf/checkpoint", cut_file("model-00001-of-00002.safetensors", 100_000), "not a readable safetensors"),
    "a truncated header": ("glm_hf/checkpoint", cut_file("model-00001-of-00002.safetensors", 90), "not a readable safetensors"),
    "an endless header": ("glm_hf/checkpoint", lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}"), "not a readable safetensors"),
    "a shard outside the folder": (BIN, set_index(x="../../secret.bin"), "weight_map"),
    "an index that is no table": (BIN, lambda f: (f / "pytorch_model.bin.index.json").write_text('{"weight_map": [1]}'), "weight_map"),
    "no weights": (BIN, lambda f: [p.unlink() for p in f.glob("pytorch*")], "holds no weights; looked for model.safetensors"),
    "terabytes over one number": (BIN, expanded, "declares .* bytes of tensors in a file of"),
    "a pickle that runs": (BIN, lambda f: torch.save({"a": Harm()}, f / LAST), "holds more than tensors"),
    "an old pickle that runs": (BIN, lambda f: (f / LAST).write_bytes(pickle.dumps(Harm())), f"{LAST}: "),
    "a module in a pickle": (BIN, lambda f: torch.save(torch.nn.Linear(2, 2), f / LAST), "holds more than tensors"),
    "a list of tensors": (BIN, lambda f: torch.save([torch.zeros(2)], f / LAST), "holds no table of tensors"),
    "codes without scales": ("chatglm2_6b/checkpoint_int8", lambda f: drop(f / "pytorch_model.bin", "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight_scale"), "codes are int8"),
}  # fmt: skip


def drop(path: Path, name: str) -> None:
    state = torch.load(path, weights_only=True)
    del state[name]
    torch.save(state, path)


@pytest.mark.parametrize(("name", "spoil", "named"), WRONG.values(), ids=WRONG.keys())
def test_a_folder_that_is_wrong_is_refused_in_one_line(name, spoil, named, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = copy(name)
    spoil(folder)
    with pytest.raises(ValueError, match=named) as error:
        load_model(folder, device="cpu")
    assert "\n" not in str(error.value) and not Path("harm").exists()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: (f / "49300/mp_rank_00_model_states.pt").unlink(), "mp_rank_00_model_states.pt.*missing"),
        (lambda f: (f / "49300/mp_rank_01_model_states.pt").unlink(), r"word_embeddings.weight' has shape \[128, 64\], the configuration says \[256, 64\]"),
        (lambda f: (f / "latest").write_text("../../etc"), "must name a folder"),
        (lambda f: (f / "latest").write_text("50000"), "holds no config.json"),
    ],
)
def test_a_run_with_shards_that_are_wrong_is_refused(spoil, named, copy):
    folder = copy("glm_130b/checkpoint_tp2")
    spoil(folder)
    with pytest.raises(ValueError, match=named):
        load_model(folder, device="cpu", **(GLM130B if "50000" not in (folder / "latest").read_text() else {}))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "shards of a training run and no configuration"), ({"config": "glm-5"}, r"config = 'glm-5': neither a file nor a preset; known: .*glm-130b"),
        ({"config": "glm-130b"}, "model.layers = 70"), ({**GLM130B, "quantize": "int3"}, "quantize = 'int3'"), ({**GLM130B, "dtype": "float8"}, "dtype = 'float8'"),
        ({**GLM130B, "adapter": "nowhere"}, "adapter = 'nowhere'"), ({**GLM130B, "adapter": str(GOLDEN / "glm_hf/checkpoint")}, "prefix_encoder"),
        ({**GLM130B, "adapter": str(GOLDEN / "chatglm2_6b/prefix")}, "belongs to another model.* 192 numbers where this one takes 384"),
    ],
)
def test_options_that_do_not_fit_are_named(options, named):
    with pytest.raises(ValueError, match=named) as error:
        load_model(GOLDEN / "glm_130b/checkpoint_tp2", device="cpu", **options)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_of_a_pickle_never_do_more_than_raise(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "fuzzed"
    shutil.copytree(GOLDEN / "chatglm2_6b/checkpoint_int8", folder, dirs_exist_ok=True)
    raw = bytearray((folder / "pytorch_model.bin").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, 6000))] = data.draw(st.integers(0, 255))
    (folder / "pytorch_model.bin").write_bytes(bytes(raw))
    try:
        load_model(folder, device="cpu")
    except ValueError as error:
        assert "\n" not in str(error)


def test_a_target_that_cannot_hold_a_network_is_refused_and_nothing_is_left(tmp_path):
    for name, to, named in (("chatglm_6b/checkpoint", "hf", "transformers runs ChatGLM2"), ("chatglm2_6b/checkpoint_int4", "hf", "int4 codes"), ("glm_hf/checkpoint", "onnx", "openglm, hf, gguf")):
        with pytest.raises(ValueError, match=named):
            convert(GOLDEN / name, tmp_path / "out", to)
    assert not list(tmp_path.iterdir())


# What is said about a checkpoint

@pytest.mark.parametrize("name", [*(p.parent.name + "/" + p.name for p in sorted(GOLDEN.glob("*/checkpoint"))), "chatglm2_6b/checkpoint_int4"])
def test_the_report_needs_no_weights_and_counts_as_the_network_does(name, monkeypatch):
    model = load_model(GOLDEN / name, device="cpu")
    monkeypatch.setattr("openglm.checkpoints.tensors.Tensors.__getitem__", lambda *_: pytest.fail("a weight was read"))
    found = report(open_checkpoint(GOLDEN / name))
    assert found["parameters"] == model.config.parameters and found["bytes"] == sum(found["files"].values())
    assert found["memory"]["inference"]["fp16"] == 2 * found["parameters"] and json.dumps(found)
    assert found["weights"] == ("int4" if "int4" in name else "bfloat16" if name[:4] in ("glm4", "glm_") and "10b" not in name else "float16")


@pytest.mark.parametrize(("bits", "preset"), [(8, "glm-4-9b-chat"), (4, "glm-4-9b-chat"), (4, "chatglm-6b"), (8, "glm-10b")])
def test_memory_of_codes_is_that_of_the_quantised_network(bits, preset):
    from openglm.checkpoints.report import memory
    from openglm.quant.layers import quantize_model

    config = model_preset(preset, vocab_size=128, layers=2, hidden=128, heads=4, kv_heads=4 if "kv_heads" not in PRESETS[preset] else 2, head_dim=32, ffn_hidden=256, max_positions=64)
    model = quantize_model(Transformer(config).half(), bits, 64)
    assert memory(config)["inference"][f"int{bits}"] == sum(tensor.nbytes for tensor in model.state_dict().values())


def test_unused_vocabulary_of_safetensors_types(tmp_path):
    """A type that is not read is named."""
    folder = Path(shutil.copytree(GOLDEN / "glm_hf/checkpoint", tmp_path / "copy"))
    tensors = load_file(folder / "model-00002-of-00002.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].float().to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"lm_head.weight.*F8_E4M3.*not read"):
        load_model(folder, device="cpu")
