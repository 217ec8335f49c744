"""GLM-Edge's whole turned heads and YaRN's long contexts: equal to `transformers`, also in the engine, quantized and as GGUF."""

import json

import gguf
import pytest
import torch

from openglm import Engine, generate, load_model
from openglm.checkpoints.convert import convert
from openglm.checkpoints.load import network_config
from openglm.checkpoints.native import save_model
from openglm.checkpoints.published import recognize
from openglm.checkpoints.quantize import quantize_checkpoint
from openglm.config import EngineConfig
from openglm.engine.params import SamplingParams
from openglm.model.positions import Rotary
from openglm.model.transformer import Transformer
from openglm.presets import model_preset

transformers = pytest.importorskip("transformers")

YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=160)
ODD = dict(YARN, factor=2.5, beta_fast=16.0, beta_slow=2.0, attention_factor=1.3, truncate=False)
DEEPSEEK = dict(YARN, factor=16.0, mscale=1.0, mscale_all_dim=0.7)
KINDS = {
    "edge": (1.0, dict(rope_type="default")),
    "yarn": (0.5, YARN),
    "yarn, edge": (1.0, YARN),
    "odd": (0.75, ODD),
    "two lengths": (0.5, DEEPSEEK),
}


def peer_config(kind: str, **changes):
    part, rope = KINDS[kind]
    rope = rope | dict(rope_theta=10000.0, partial_rotary_factor=part)
    shape = dict(vocab_size=96, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    more = dict(num_key_value_heads=2, head_dim=32, max_position_embeddings=640, pad_token_id=3, eos_token_id=[3])
    return transformers.GlmConfig(**shape, **more | changes, rope_parameters=rope, attn_implementation="eager")


@pytest.mark.parametrize("head_dim", [32, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_cosines_and_sines_are_those_of_transformers_to_the_last_bit(kind, head_dim):
    from transformers.models.glm.modeling_glm import GlmRotaryEmbedding

    config = peer_config(kind, head_dim=head_dim, max_position_embeddings=131072)
    positions = torch.arange(0, 131072, 3)
    theirs = GlmRotaryEmbedding(config)(torch.zeros(1), positions[None])
    ours = Rotary(recognize(config.to_dict())[1]).angles(torch.stack([positions, positions])[None])
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine[0, 0, :, 0], other[0, :, : mine.shape[-1]])


@pytest.fixture(scope="module", params=["edge", "yarn, edge", "odd"])
def saved(request, tmp_path_factory):
    """A random model of transformers, its folder, and a prompt beyond the context of its training."""
    torch.manual_seed(3)
    peer = transformers.GlmForCausalLM(peer_config(request.param)).eval()
    for weight in peer.parameters():
        torch.nn.init.normal_(weight, 0.6 if weight.dim() == 1 else 0.0, 0.2)
    folder = tmp_path_factory.mktemp("rotary") / "model"
    peer.save_pretrained(folder)
    return peer, folder, torch.randint(8, 96, (1, 300), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("runner", ["native", "torch"])
def test_the_engine_answers_a_long_prompt_as_transformers_does(saved, runner):
    peer, folder, ids = saved
    theirs = peer.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None)[0, ids.shape[1] :].tolist()
    model = load_model(folder, device="cpu", dtype="float32")
    engine = Engine(model, EngineConfig(runner=runner, kv_dtype="float32", kv_tokens=1024, max_sequences=1))
    answer = engine.generate([ids[0].tolist()], SamplingParams(max_tokens=12, temperature=0.0, stop_ids=()))[0]
    assert answer.ids == theirs


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_copies_turn_as_the_source_does(saved, bits, tmp_path):
    """As near as other networks come; with another rotation, logits are off by more than themselves."""
    peer, folder, ids = saved
    small = load_model(quantize_checkpoint(folder, tmp_path / "small", bits, 32), device="cpu", dtype="float32")
    assert small.config == load_model(folder, device="cpu").config
    with torch.no_grad():
        whole = peer(ids).logits
    assert (small.logits(ids) - whole).norm() < (0.05 if bits == 8 else 0.6) * whole.norm()


def test_our_copy_and_the_way_back_keep_the_rotation(saved, tmp_path):
    peer, folder, ids = saved
    back = convert(convert(folder, tmp_path / "ours", "openglm"), tmp_path / "hf", "hf")
    again = transformers.GlmForCausalLM.from_pretrained(back, dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, peer(ids).logits, rtol=0, atol=1e-5)


def published(**options) -> dict:
    """GLM-Z1-9B-0414's configuration, shortened."""
    shape = dict(model_type="glm4", num_hidden_layers=2, hidden_size=64, num_attention_heads=2, num_key_value_heads=1)
    more = dict(head_dim=32, intermediate_size=64, vocab_size=96, rms_norm_eps=1e-5, rope_theta=10000.0)
    return shape | more | dict(attention_bias=False, max_position_embeddings=32768) | options


@pytest.mark.parametrize("kind", ["type", "rope_type"])
def test_a_context_extended_by_hand_as_the_models_page_says(kind):
    """The page adds `rope_scaling` alone; the context is then the factor times the one of training."""
    scaling = {kind: "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = recognize(published(rope_scaling=scaling))[1]
    assert config.max_positions == 131072 and config.yarn.factor == 4 and config.yarn.original_positions == 32768
    assert recognize(published(rope_scaling=scaling, max_position_embeddings=100_000))[1].max_positions == 100_000


@pytest.mark.parametrize(("scaling", "named"), [
    ({"rope_type": "longrope", "factor": 4.0}, "config.rope_scaling = 'longrope'"),
    ({"type": "dynamic", "factor": 4.0}, "config.rope_scaling = 'dynamic'"),
    ({"rope_type": "default", "mrope_section": [8, 12]}, "config.rope_scaling = 'mrope_section'"),
    ({"rope_type": "yarn", "factor": "4"}, "yarn.factor = '4'"), ({"rope_type": "yarn", "factor": 0.5}, r"yarn.factor = 0.5: must lie in \[1"),
    ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 0}, "must"),
    ({"rope_type": "yarn", "factor": 4.0, "beta_fast": 1, "beta_slow": 2}, "yarn.beta_fast = 1"),
    ({"partial_rotary_factor": 0.3}, "model.rotary_factor = 0.3"), ("yarn", "must be a table"),
])  # fmt: skip
def test_other_scalings_are_named(scaling, named):
    with pytest.raises(ValueError, match=named) as error:
        recognize(published(rope_scaling=scaling))
    assert "\n" not in str(error.value)


def network(**changes) -> Transformer:
    shape = dict(vocab_size=96, layers=2, hidden=64, heads=2, kv_heads=1, head_dim=32, ffn_hidden=64)
    tokens = dict(pad=3, stop=(3,))
    config = model_preset("glm-4-0414-9b", **shape, max_positions=1024, bias="none", tokens=tokens, **changes)
    model = Transformer(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        weight.normal_(1.0 if weight.dim() == 1 else 0.0, 0.2, generator=generator).copy_(weight.half())
    return model


@pytest.mark.parametrize("length", [0.0, 1.5])
def test_gguf_names_the_scaling(length, tmp_path):
    """llama.cpp multiplies by 0.1 ln(factor) + 1 and by attn_factor."""
    yarn = dict(factor=4.0, original_positions=256, beta_fast=24.0, attention_factor=length)
    model = network(yarn=yarn, rotary_factor=1.0)
    path = convert(save_model(tmp_path / "ours", model, None), tmp_path / "m.gguf", "gguf")
    header = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if ".rope." in name}
    found = {name.partition(".rope.")[2]: value for name, value in header.items()}
    usual = 0.1 * torch.log(torch.tensor(4.0)).item() + 1
    assert found.pop("scaling.attn_factor") == pytest.approx((length or usual) / usual)
    assert found == {"dimension_count": 32, "freq_base": 10000.0, "scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 256,
                     "scaling.yarn_beta_fast": 24.0, "scaling.yarn_beta_slow": 1.0}  # fmt: skip
    with pytest.raises(ValueError, match=r"model.yarn.truncate = False: .*llama.cpp"):
        folder = save_model(tmp_path / "odd", network(yarn=dict(yarn, truncate=False)), None)
        convert(folder, tmp_path / "odd.gguf", "gguf")


@pytest.mark.parametrize(
    "changes", [{"rotary_factor": 1.0}, {"yarn": dict(factor=4.0, original_positions=128)}], ids=str
)
def test_llama_cpp_turns_as_we_do(changes, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    model, ids = network(**changes), torch.randint(8, 96, (300,), generator=torch.Generator().manual_seed(1)).tolist()
    path = convert(save_model(tmp_path / "ours", model, None), tmp_path / "m.gguf", "gguf")
    llama = llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, logits_all=True, verbose=False)
    llama.eval(ids)
    ours = model.logits(torch.tensor([ids]))[0]
    assert (torch.from_numpy(llama.scores[:300]) - ours).abs().max() < 0.05 * ours.abs().max()
    assert generate(model, torch.tensor([ids]), 1)[0, -1] == int(llama.scores[299].argmax())
    llama.close()


def test_a_folder_of_ours_that_lacks_the_options_turns_half_a_head(tmp_path):
    """Folders written before the options were known."""
    folder = save_model(tmp_path / "old", network(), None)
    values = json.loads((folder / "config.json").read_text())
    del values["model"]["yarn"], values["model"]["rotary_factor"]
    (folder / "config.json").write_text(json.dumps(values))
    assert network_config(folder) == network().config
