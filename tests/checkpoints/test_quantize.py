"""Quantized folders: what is read back is what the definition says, calibrated or not; hostile and unfit input."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from helpers.pairs import SHAPE, tiny_model

import openglm
from openglm.checkpoints.native import save_model
from openglm.checkpoints.quantize import calibration_rows, quantize_checkpoint
from openglm.cli.main import main
from openglm.model.transformer import Transformer
from openglm.presets import model_preset
from openglm.quant.codes import dequantize, quantize
from openglm.quant.layers import QuantizedLinear

TEXT = (
    "春天来了，公园里的花都开了，孩子们在草地上跑来跑去。The old man walked slowly along the river and watched the boats.\n"
    * 40
)
IDS = torch.tensor([[2, 4, 300, 301, 302, 303]])


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize(("bits", "group"), [(4, 64), (8, 0)])
def test_a_quantized_folder_is_the_model_with_rounded_weights(tmp_path, two_blocks, bits, group):
    folder = quantize_checkpoint(two_blocks, tmp_path / "small", bits, group)
    model, whole = openglm.load_model(folder, device="cpu"), openglm.load_model(two_blocks, device="cpu")
    for name, parameter in whole.named_parameters():
        if parameter.dim() == 2:
            parameter.data = dequantize(*quantize(parameter, 8 if name == "embedding.weight" else bits, group))
    torch.testing.assert_close(model.logits(IDS), whole.logits(IDS), atol=1e-4, rtol=1e-4)
    assert {m.bits for m in model.modules() if isinstance(m, QuantizedLinear)} == {bits}
    assert openglm.load_tokenizer(folder).fingerprint == openglm.load_tokenizer("nano").fingerprint
    if bits == 4:
        stored = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        assert stored < 0.35 * whole.config.parameters * 2 + whole.config.vocab_size * whole.config.hidden


def test_calibration_brings_the_network_nearer_to_the_whole_one(tmp_path, two_blocks, text):
    whole = openglm.load_model(two_blocks, device="cpu")
    rows = calibration_rows(openglm.load_tokenizer("nano"), whole.config, text)
    errors = [
        (
            openglm.load_model(quantize_checkpoint(two_blocks, tmp_path / name, 4, 64, file), device="cpu").logits(
                rows[:1]
            )
            - whole.logits(rows[:1])
        )
        .square()
        .mean()
        for name, file in (("plain", None), ("calibrated", text))
    ]
    assert errors[1] < 0.5 * errors[0]


def test_calibration_text_is_cut_into_whole_rows_behind_the_head(text):
    tokenizer, config = openglm.load_tokenizer("nano"), openglm.load_model("nano", device="cpu").config
    rows = calibration_rows(tokenizer, config, text)
    assert rows.shape[1] == 512
    assert torch.equal(rows[:, 2:].flatten(), torch.tensor(tokenizer.encode(TEXT)[: rows.shape[0] * 510]))
    assert bool((rows[:, 0] == config.tokens.gmask).all()) and bool((rows[:, 1] == config.tokens.sop).all())


@pytest.mark.parametrize(("arguments", "message"), [
    (["--group", "-1"], "group = -1"), (["--calibrate", "nowhere.txt"], "nowhere.txt"),
    (["--calibrate", "SHORT"], "at least 256"), (["--calibrate", "BINARY"], "not UTF-8 at byte 0"),
])  # fmt: skip
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys, arguments, message):
    (tmp_path / "SHORT").write_text("短", encoding="utf-8")
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe\x00")
    arguments = [str(tmp_path / a) if a.isupper() else a for a in arguments]
    assert main(["quantize", "nano", str(tmp_path / "out"), *arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("glm quantize: ") and message in error
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_tokenizer_is_quantized_and_cannot_be_calibrated(tmp_path, text):
    source = Path(__file__).parent.parent / "golden/glm4_9b/checkpoint"
    folder, whole = (
        quantize_checkpoint(source, tmp_path / "small", 8, 16),
        openglm.load_model(source, device="cpu", dtype="float32"),
    )
    ids, small = torch.tensor([[9, 20, 31, 12]]), openglm.load_model(folder, device="cpu", dtype="float32")
    assert (small.logits(ids) - whole.logits(ids)).norm() < 0.05 * whole.logits(ids).norm()
    assert {m.bits for m in small.modules() if isinstance(m, QuantizedLinear)} == {8}
    with pytest.raises(ValueError, match="has no tokenizer"):
        quantize_checkpoint(source, tmp_path / "other", 4, 16, text)


def test_calibrated_codes_are_of_the_same_kinds_as_plain_ones(tmp_path, two_blocks, text):
    """A group that divides no row becomes one scale a row, with a text as without."""
    plain, calibrated = (
        quantize_checkpoint(two_blocks, tmp_path / name, 4, 48, file)
        for name, file in (("plain", None), ("calibrated", text))
    )
    shapes = [
        {
            name: (tensor.dtype, tensor.shape)
            for name, tensor in openglm.load_model(folder, device="cpu").state_dict().items()
        }
        for folder in (plain, calibrated)
    ]
    assert shapes[0] == shapes[1]


def test_int8_codes_may_become_int4_and_nothing_else(tmp_path, text, capfd):
    """By loading, by a file and calibrated; the output layer, which has 8 bits in all of them, keeps its codes."""
    whole = tiny_model(tmp_path / "whole", SHAPE)
    int8 = quantize_checkpoint(whole, tmp_path / "int8", 8, 16)
    for bits in (8, 4):
        folder = int8 if bits == 8 else quantize_checkpoint(int8, tmp_path / "int4", 4, 16)
        with pytest.raises(ValueError, match=f"holds int{bits} codes already"):
            quantize_checkpoint(folder, tmp_path / "again", 8, 16)
    assert "int4 codes are made from the int8 codes" in capfd.readouterr().err
    ids = torch.arange(10, 40)[None]
    exact, kept = (openglm.load_model(folder, device="cpu") for folder in (whole, int8))
    calibrated = quantize_checkpoint(int8, tmp_path / "calibrated", 4, 16, text)
    narrow = [openglm.load_model(int8, device="cpu", quantize="int4"), *map(openglm.load_model, (folder, calibrated))]
    for model in narrow:
        assert {layer.bits for layer in model.blocks.modules() if isinstance(layer, QuantizedLinear)} == {4}
        difference = (model.logits(ids) - exact.logits(ids)).norm() / exact.logits(ids).norm()
        assert difference < 0.3
    for model in narrow[:2]:
        assert torch.equal(model.embedding.codes, kept.embedding.codes)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_others_may_read_what_the_folder_lets_them_read(tmp_path):
    """safetensors makes its files readable by their owner alone."""
    whole = tiny_model(tmp_path / "whole", SHAPE)
    modes = {path.name: path.stat().st_mode & 0o777 for path in whole.iterdir()}
    assert set(modes.values()) == {whole.stat().st_mode & 0o666}, modes


def test_a_vocabulary_that_was_resized_is_calibrated(toy, tmp_path, text):
    """Its configuration does not tell the special tokens; the tokenizer does. Of fewer rows than tokens, one line."""
    tokenizer = openglm.load_tokenizer(toy)
    shape = dict(vocab_size=345, layers=2, hidden=32, heads=4, kv_heads=2, head_dim=8, ffn_hidden=64, max_positions=64)
    whole = Transformer(model_preset("glm-4-9b-chat", **shape, tokens={})).eval()
    folder = save_model(tmp_path / "resized", whole, tokenizer)
    rows = calibration_rows(tokenizer, whole.config, text)
    assert rows[:, :2].unique(dim=0).tolist() == [[tokenizer.special["[gMASK]"], tokenizer.special["<sop>"]]]
    small = openglm.load_model(quantize_checkpoint(folder, tmp_path / "int8", 8, 16, text), device="cpu")
    error = (small.logits(rows[:2]) - whole.logits(rows[:2])).norm() / whole.logits(rows[:2]).norm()
    assert error < 0.05
    with pytest.raises(
        ValueError, match="calibrate = 'id 338': the model has 20 rows; the tokenizer beside it belongs"
    ):
        calibration_rows(tokenizer, dataclasses.replace(whole.config, vocab_size=20), text)
