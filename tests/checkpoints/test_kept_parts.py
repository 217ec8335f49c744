"""What loading honours beside the matrices is kept by every conversion, or the conversion is refused."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import openglm
from openglm.checkpoints.convert import convert
from openglm.checkpoints.native import save_model
from openglm.checkpoints.quantize import quantize_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module", params=["prefix", "prefix_projection"])
def with_prefix(request, tmp_path_factory):
    """ChatGLM2's golden model with a P-Tuning prefix among its own weights."""
    folder = shutil.copytree(GOLDEN / "chatglm2_6b/checkpoint", tmp_path_factory.mktemp("prefix") / "model")
    tensors = {}
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        tensors |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        path.unlink()
    for path in folder.glob("*.index.json"):
        path.unlink()
    for path in (GOLDEN / "chatglm2_6b" / request.param).iterdir():
        if path.suffix in (".safetensors", ".bin"):
            tensors |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def logits(folder):
    model = openglm.load_model(folder, device="cpu", dtype="float32")
    assert model.prefix is not None
    return model.logits(torch.tensor([[9, 10, 11, 12, 13]]))


def test_a_prefix_survives_a_copy_of_ours(with_prefix, tmp_path):
    assert torch.equal(logits(convert(with_prefix, tmp_path / "out", "openglm")), logits(with_prefix))


def test_a_prefix_survives_quantizing(with_prefix, tmp_path):
    """As far from the source as int8 weights are without a prefix; without it, logits were off by tens."""
    whole, quantized = logits(with_prefix), logits(quantize_checkpoint(with_prefix, tmp_path / "out", 8, 32))
    assert (whole - quantized).abs().max() < 0.05 * whole.abs().max()


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_a_form_without_room_for_a_prefix_is_refused(with_prefix, tmp_path, to):
    with pytest.raises(ValueError, match=f"holds a P-Tuning prefix, which {to} has no form for"):
        convert(with_prefix, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_a_reward_models_scores_are_not_lost(toy, tmp_path, to):
    model = openglm.load_model(toy, device="cpu")
    shape = dataclasses.replace(model.config, score=True)
    scorer = openglm.model.transformer.Transformer(shape)
    scorer.load_state_dict(model.state_dict(), strict=False)
    torch.nn.init.normal_(scorer.score.weight)
    folder = save_model(tmp_path / "reward", scorer, toy)
    copy = openglm.load_model(convert(folder, tmp_path / "copy", "openglm"), device="cpu")
    assert torch.equal(copy.score.weight, scorer.score.weight)
    with pytest.raises(ValueError, match="layer for scores"):
        convert(folder, tmp_path / "out", to)
