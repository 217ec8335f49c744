"""Weights as training programs leave them: names that carry a wrapper's, tables inside of tables."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openglm import load_model

GOLDEN = Path(__file__).parent.parent / "golden"
FOLDERS = ["chatglm_6b/checkpoint", "chatglm2_6b/checkpoint_int4", "glm_hf/checkpoint", "glm_10b/checkpoint"]
NAMES = {
    "module.": lambda name: f"module.{name}",
    "base_model.model.": lambda name: f"base_model.model.{name}",
    "_orig_mod.": lambda name: f"_orig_mod.{name}",
    "twice": lambda name: f"module._orig_mod.module.{name}",
    "in the middle": lambda name: name.replace(".", "._orig_mod.", 1),
    "of a module": lambda name: f"model.{name}",
}
TABLES = {
    "state_dict": lambda tensors: {"state_dict": tensors, "epoch": 3},
    "model": lambda tensors: {"model": tensors, "optimizer": {"lr": 1e-4}},
    "module": lambda tensors: {"module": tensors},
    "state_dict in model": lambda tensors: {"model": {"state_dict": tensors}},
    "module in state_dict": lambda tensors: {"state_dict": {"module": tensors}},
}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.bin")]:
        found |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return found


def rewritten(source: Path, target: Path, tensors) -> Path:
    """A folder with these tensors in place of its own."""
    target.mkdir()
    shutil.copy(source / "config.json", target)
    torch.save(tensors, target / "pytorch_model.bin")
    return target


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = (load_model(folder, device="cpu").state_dict() for folder in (one, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("rename", NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("name", FOLDERS)
def test_names_that_carry_a_wrapper(name, rename, tmp_path):
    tensors = {rename(name): tensor for name, tensor in tensors_of(GOLDEN / name).items()}
    assert_same(rewritten(GOLDEN / name, tmp_path / "model", tensors), GOLDEN / name)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_tables_inside_of_tables(table, tmp_path):
    source = GOLDEN / FOLDERS[0]
    assert_same(rewritten(source, tmp_path / "model", table(tensors_of(source))), source)


def test_a_safetensors_file_with_wrapped_names(tmp_path):
    source = GOLDEN / "glm_hf/checkpoint"
    folder = rewritten(source, tmp_path / "model", {})
    (folder / "pytorch_model.bin").unlink()
    wrapped = {f"base_model.model.{name}": tensor for name, tensor in tensors_of(source).items()}
    save_file(wrapped, folder / "model.safetensors")
    assert_same(folder, source)


def test_a_table_that_holds_itself_ends(tmp_path):
    source = GOLDEN / FOLDERS[0]
    endless = tensors_of(source)
    endless["model"] = endless
    assert_same(rewritten(source, tmp_path / "model", endless), source)


def test_layers_of_lora_that_were_not_merged_are_named(tmp_path):
    source = GOLDEN / "glm_hf/checkpoint"
    tensors = {
        f"base_model.model.{name.replace('q_proj.', 'q_proj.base_layer.')}": tensor
        for name, tensor in tensors_of(source).items()
    }
    with pytest.raises(ValueError, match="LoRA layers beside the weights; merge them first"):
        load_model(rewritten(source, tmp_path / "model", tensors), device="cpu")


def test_one_tensor_under_two_names_is_refused(tmp_path):
    source = GOLDEN / FOLDERS[0]
    tensors = tensors_of(source)
    tensors["module.lm_head.weight"] = tensors["lm_head.weight"] + 1
    with pytest.raises(ValueError, match=r"lm_head.weight.*is there twice"):
        load_model(rewritten(source, tmp_path / "model", tensors), device="cpu")
