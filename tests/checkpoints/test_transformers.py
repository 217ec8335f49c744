"""Side by side with `transformers`: what its classes save we open, what we write its classes open, and both give the same logits and tokens."""

import json

import pytest
import torch

from openglm.checkpoints.convert import convert
from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import save_model
from openglm.model.generate import generate
from openglm.model.transformer import Transformer
from openglm.presets import model_preset

transformers = pytest.importorskip("transformers")

TOKENS = dict(pad_token_id=3, eos_token_id=[3, 5])
SHAPES = {
    "grouped": dict(num_attention_heads=6, num_key_value_heads=2, head_dim=8, hidden_size=40, intermediate_size=56),
    "tied": dict(
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        hidden_size=64,
        intermediate_size=80,
        tie_word_embeddings=True,
        rope_theta=5e6,
    ),
    "one pair": dict(
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=12,
        hidden_size=48,
        intermediate_size=40,
        attention_bias=False,
        rms_norm_eps=1.5625e-7,
    ),
    "whole heads turned": dict(
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        hidden_size=48,
        intermediate_size=40,
        partial_rotary_factor=1.0,
    ),
    "yarn": dict(
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        hidden_size=64,
        intermediate_size=40,
        rope_parameters=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=160, rope_theta=10000.0),
    ),
}


def theirs(kind: str, shape: dict):
    config_class, model_class = (
        (transformers.GlmConfig, transformers.GlmForCausalLM)
        if kind == "glm"
        else (transformers.Glm4Config, transformers.Glm4ForCausalLM)
    )
    torch.manual_seed(3)
    options = {"attention_bias": True, "rms_norm_eps": 1e-5, **shape}
    model = model_class(
        config_class(
            vocab_size=96,
            num_hidden_layers=3,
            max_position_embeddings=640,
            attn_implementation="eager",
            **TOKENS,
            **options,
        )
    ).eval()
    for weight in model.parameters():  # larger than they start, so that every option shows
        torch.nn.init.normal_(weight, 0.6 if weight.dim() == 1 else 0.0, 0.25)
    return model


@pytest.mark.parametrize("kind", ["glm", "glm4"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_what_transformers_saves_we_open(kind, shape, tmp_path):
    peer = theirs(kind, shape)
    peer.save_pretrained(tmp_path, max_shard_size="100KB")
    ours = load_model(tmp_path, device="cpu", dtype="float32")
    assert ours.config.tokens.stop == (3, 5)
    generator = torch.Generator().manual_seed(1)
    for length in (7, 600):
        ids = torch.randint(8, 96, (1, length), generator=generator)
        with torch.no_grad():
            torch.testing.assert_close(ours.logits(ids), peer(ids).logits, rtol=0, atol=2e-4)
    real = torch.arange(12) >= torch.tensor([[5], [0]])
    ids = torch.randint(8, 96, (2, 12), generator=generator).masked_fill(~real, 3)
    with torch.no_grad():
        positions = (real.cumsum(1) - 1).clamp_min(0)
        batch = peer(ids, attention_mask=real.long(), position_ids=positions).logits
    torch.testing.assert_close(ours.logits(ids, real)[real], batch[real], rtol=0, atol=2e-4)
    answer = peer.generate(
        ids, attention_mask=real.long(), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=3
    )
    assert torch.equal(generate(ours, ids, 8, real)[:, 12:], answer[:, 12:])


YARN = dict(factor=4.0, original_positions=16)
WRITTEN = [
    ("glm-4-9b-chat", False, "qkv"),
    ("glm-4-0414-9b", False, "none"),
    ("glm-4-0414-9b", True, "qkv"),
    ("chatglm3-6b", False, "qkv"),
    ("glm-4-9b-chat", True, "none", dict(rotary_factor=1.0)),
    ("glm-4-0414-9b", False, "none", dict(yarn=YARN)),
    ("glm-4-0414-9b", False, "none", dict(yarn=YARN | dict(attention_factor=1.4, beta_fast=9, truncate=False))),
]


@pytest.mark.parametrize(("preset", "tied", "bias", "more"), [(*case, {})[:4] for case in WRITTEN])
def test_what_we_write_transformers_opens(preset, tied, bias, more, tmp_path):
    config = model_preset(
        preset,
        vocab_size=96,
        layers=2,
        hidden=48,
        heads=6,
        kv_heads=3,
        head_dim=8,
        ffn_hidden=40,
        max_positions=64,
        tied=tied,
        bias=bias,
        tokens={"pad": 3},
        **more,
    )
    model, generator = Transformer(config), torch.Generator().manual_seed(3)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.6 if weight.dim() == 1 else 0.0, 0.25, generator)
    convert(save_model(tmp_path / "ours", model, None), tmp_path / "hf", "hf")
    peer, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", dtype=torch.float32, output_loading_info=True
    )
    assert (
        not report["missing_keys"]
        and not report["unexpected_keys"]
        and json.loads((tmp_path / "hf/config.json").read_text())["model_type"] in ("glm", "glm4")
    )
    assert load_model(tmp_path / "hf", device="cpu").config == config
    ids = torch.randint(8, 96, (2, 60), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(peer.eval()(ids).logits, model.eval().logits(ids), rtol=0, atol=2e-4)
