"""Tuning a whole model from a folder of int8 or int4 weights: it starts where that folder's answers are."""

import pytest
import torch
from helpers.pairs import SHAPE, tiny_model, write_chats
from helpers.tiny_runs import options

import openglm
from openglm.checkpoints.quantize import quantize_checkpoint
from openglm.config import DataConfig, OptimizerConfig, SFTConfig
from openglm.train.sft import sft


@pytest.mark.parametrize("bits", [8, 4])
def test_tuning_widens_the_weights_it_starts_from_and_says_so(bits, tmp_path, capfd):
    whole = tiny_model(tmp_path / "whole", SHAPE)
    small = quantize_checkpoint(whole, tmp_path / "small", bits, 32)
    chats = str(write_chats(tmp_path / "chats.jsonl", 8))
    train = options(tmp_path / "run", seq_len=SHAPE.max_positions, steps=1, batch_rows=8, save_every=1)
    config = SFTConfig(
        init_from=str(small),
        train=train,
        data=DataConfig(dialogues={"chat": chats}),
        optimizer=OptimizerConfig(lr=1e-12),
    )
    result = sft(config)
    assert "widened to float32" in capfd.readouterr().err
    ids = torch.arange(10, 40)[None]
    logits = [openglm.load_model(folder, dtype="float32").logits(ids) for folder in (small, result.model, whole)]
    torch.testing.assert_close(logits[1], logits[0], atol=1e-4, rtol=1e-4)
    assert (logits[1] - logits[2]).abs().max() > 1e-3  # not the weights before they were quantized
