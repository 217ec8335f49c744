"""What `glm sft` works out before it trains: memory, and how much plain text it repeats."""

import dataclasses
from types import SimpleNamespace

import pytest
from helpers.adapter_runs import base_model
from helpers.tiny_runs import MODEL, options

from openglm.checkpoints.load import load_model, open_checkpoint
from openglm.config import DataConfig, LoraConfig, PrefixConfig, SFTConfig
from openglm.data.mixture import BLOCK, shares
from openglm.train import memory
from openglm.train.pretrain import replay_weights


@pytest.fixture
def config(tmp_path):
    return SFTConfig(init_from="x", train=options(tmp_path / "run", accumulation=1), data=DataConfig())


@pytest.fixture
def checkpoint(tmp_path):
    return open_checkpoint(base_model(tmp_path / "base"))


def test_weights_and_moments_are_counted_as_they_are(checkpoint, config):
    whole = memory.estimate(checkpoint, config, 1)
    count = MODEL.parameters
    assert (whole["weights"], whole["gradients"], whole["optimizer"]) == (4 * count, 4 * count, 8 * count)
    lora = dataclasses.replace(config, adapter="lora", lora=LoraConfig(2, targets=("q_proj", "down_proj")))
    trained = MODEL.layers * 2 * ((16 + 16) + (32 + 16))  # of two matrices, [16, 16] and [16, 32]
    found = memory.estimate(checkpoint, lora, 1)
    assert found["gradients"] == 4 * trained and found["activations"] == whole["activations"]
    prefix = dataclasses.replace(config, adapter="prefix", prefix=PrefixConfig(5))
    assert memory.estimate(checkpoint, prefix, 1)["gradients"] == 4 * 5 * MODEL.layers * 2 * MODEL.kv_heads * 8
    int4 = dataclasses.replace(lora, quantize="int4")
    held = load_model(checkpoint.folder, device="cpu", quantize="int4")
    codes = sum(t.nbytes for name, t in held.named_buffers() if name.endswith(("codes", "scales")))
    assert memory.estimate(checkpoint, int4, 1)["weights"] == pytest.approx(codes + 4 * trained, rel=0.15)


def test_the_least_change_that_fits_is_said(checkpoint, config, monkeypatch, capsys):
    def said(free):
        monkeypatch.setattr(memory, "free_memory", lambda device: free)
        memory.say_memory(checkpoint, config, 1)
        return capsys.readouterr().err.splitlines()

    needed = sum(memory.estimate(checkpoint, config, 1).values())
    assert len(said(needed + 1)) == 1
    assert "with --train.accumulation 2 it would" in said(needed - 1)[1]
    assert "shorter train.seq_len or a smaller model" in said(1)[1]


def test_replayed_text_has_its_share_of_the_rows():
    texts = {"wiki": SimpleNamespace(tokens=300), "web": SimpleNamespace(tokens=900)}
    weights = replay_weights(0.1, texts, {"chat": SimpleNamespace(tokens=50)})
    assert dict(zip(weights, shares(weights), strict=True)) == {"wiki": 25, "web": 75, "chat": BLOCK - 100}
