"""What people download that is not what they think: the error says what it is and what to do."""

import json
import shutil
from pathlib import Path

import pytest

import openglm
from openglm.assistant import Assistant
from openglm.cli.main import main
from openglm.text.load import load_tokenizer

SOURCE = Path(__file__).parent.parent / "golden" / "glm4_9b" / "checkpoint"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(SOURCE, tmp_path / "model")


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "compressed-tensors"])
def test_other_programs_codes_are_named_before_weights_are_looked_for(folder, method):
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
    with pytest.raises(ValueError, match=f"config.quantization_config = '{method}': codes of this kind are not read"):
        openglm.load_model(folder, device="cpu")


@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "pytorch_model.bin", "tokenizer.model"])
def test_a_pointer_of_git_is_said_to_be_one(folder, name):
    if name.endswith(".bin"):
        for path in folder.glob("*.safetensors*"):
            path.unlink()
    (folder / name).write_text(POINTER)
    with pytest.raises(ValueError, match=f"{name}': a git-lfs pointer of {len(POINTER)} bytes.*git lfs pull"):
        (load_tokenizer if name == "tokenizer.model" else openglm.load_model)(folder)


def test_a_hubs_cache_says_where_the_model_lies(tmp_path, folder):
    inside = tmp_path / "models--x" / "snapshots" / "abc"
    shutil.copytree(folder, inside)
    with pytest.raises(ValueError, match=f"this is a hub's cache, the model lies in {inside}"):
        openglm.load_model(tmp_path / "models--x", device="cpu")


def test_a_model_without_a_tokenizer_says_so_before_its_weights_are_read(folder, monkeypatch, capsys):
    def unwanted(*_, **__):
        raise AssertionError("weights were read first")

    monkeypatch.setattr("openglm.assistant.load_model", unwanted)
    with pytest.raises(ValueError, match="a model without a tokenizer; copy the tokenizer files of its base model"):
        Assistant(folder)
    assert main(["chat", str(folder), "--prompt", "hi"]) == 1
    assert "copy the tokenizer files" in capsys.readouterr().err
