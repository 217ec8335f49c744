"""Shares of a tensor-parallel run: any number of ranks gives the same network, quantized rank by rank or not."""

import json
from pathlib import Path

import pytest
import torch

from openglm.checkpoints.load import load_model
from openglm.model.transformer import Transformer
from openglm.presets import model_preset
from openglm.quant.codes import dequantize, pack

GOLDEN = Path(__file__).parent.parent / "golden"
GLM130B = {"config": str(GOLDEN / "glm_130b/model_args.json")}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert not [
        name
        for name, tensor in ours.items()
        if tensor.dtype != theirs[name].dtype or not torch.equal(tensor, theirs[name])
    ]


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
    same(
        load_model(folder, device="cpu", **GLM130B).state_dict(),
        load_model(GOLDEN / "glm_130b/checkpoint_tp1", device="cpu", **GLM130B).state_dict(),
    )


def test_a_configuration_beside_the_shards_is_found(tmp_path):
    folder = write_ranks(tmp_path / "run" / "100", [sat_state()])
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("100")
    (tmp_path / "run" / "config.json").write_bytes(Path(GLM130B["config"]).read_bytes())
    same(
        load_model(tmp_path / "run", device="cpu").state_dict(),
        load_model(folder, device="cpu", **GLM130B).state_dict(),
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_ranks_that_were_quantized_one_by_one_keep_their_codes_and_scales(bits, tmp_path):
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
    assert ours.blocks[0].attention.o_proj.scales.shape == (64, 4) and ours.blocks[0].attention.q_proj.scales.shape == (
        64,
        1,
    )


def test_heads_that_the_ranks_divide_are_put_together(tmp_path):
    """GLM-10B's cut takes a half of each third, whatever the number of heads."""
    config = model_preset("glm-10b", vocab_size=64, layers=1, hidden=40, heads=5, ffn_hidden=160, max_positions=16)
    model = Transformer(config)
    model.initialize(torch.Generator().manual_seed(1))
    own = dict(model.named_parameters())
    names = {
        "attention.dense": "attention.o_proj",
        "mlp.dense_h_to_4h": "ffn.up_proj",
        "mlp.dense_4h_to_h": "ffn.down_proj",
        "input_layernorm": "attention_norm",
    }
    names |= {"post_attention_layernorm": "ffn_norm"}
    state = {
        f"transformer.{table}s.weight": own[f"{table}.weight"]
        for table in ("position_embedding", "block_position_embedding")
    }
    state["word_embeddings.weight"] = own["embedding.weight"]
    for leaf in ("weight", "bias"):
        state |= {
            f"transformer.layers.0.{theirs}.{leaf}": own[f"blocks.0.{ours}.{leaf}"] for theirs, ours in names.items()
        }
        state[f"transformer.layers.0.attention.query_key_value.{leaf}"] = torch.cat(
            [own[f"blocks.0.attention.{n}_proj.{leaf}"] for n in "qkv"]
        )
        state[f"transformer.final_layernorm.{leaf}"] = own[f"final_norm.{leaf}"]

    def cut(name, tensor, rank):
        if "query_key_value" in name:
            return torch.cat([third.chunk(2)[rank] for third in tensor.chunk(3)])
        if "h_to_4h" in name or name.startswith("word"):
            return tensor.chunk(2)[rank]
        return tensor.chunk(2, 1)[rank] if name.endswith(("dense.weight", "4h_to_h.weight")) else tensor

    folder = write_ranks(
        tmp_path / "cut",
        [{name: cut(name, tensor.detach(), rank).clone() for name, tensor in state.items()} for rank in range(2)],
    )
    shape = {
        "vocab_size": 64,
        "num_layers": 1,
        "hidden_size": 40,
        "num_attention_heads": 5,
        "max_sequence_length": 16,
        "pad_token_id": 40,
    }
    (tmp_path / "shape.json").write_text(json.dumps(shape))
    again = load_model(folder, device="cpu", config=str(tmp_path / "shape.json"))
    same(again.state_dict(), model.state_dict())
    assert (again.config.tokens.sop, again.config.tokens.mask, again.config.activation) == (41, 44, "gelu_tanh")


def test_the_chinese_glm_10b_gets_a_row_for_gmask(tmp_path):
    state = sat_state("glm_10b/checkpoint_native")
    shape = json.loads((GOLDEN / "glm_10b/checkpoint/config.json").read_text())
    (tmp_path / "chinese.json").write_text(json.dumps({**shape, "pad_token_id": 120, "eos_token_id": 127}))
    model = load_model(write_ranks(tmp_path / "native", [state]), device="cpu", config=str(tmp_path / "chinese.json"))
    expected = state["word_embeddings.weight"].float()
    expected[129] = expected[127]  # [gMASK] shared its id with <eop> when the weights were trained
    assert torch.equal(model.embedding.weight, expected)
    assert (model.config.tokens.gmask, model.config.tokens.eop, model.config.tokens.sop, model.config.tokens.mask) == (
        129,
        127,
        126,
        123,
    )
