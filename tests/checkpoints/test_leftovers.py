"""Folders that hold more than one set of weights: the newest save is read, as `transformers` does, and it is said."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import openglm
from openglm.checkpoints.load import open_checkpoint
from openglm.cli.main import main

SOURCE = Path(__file__).parent.parent / "golden" / "glm4_9b" / "checkpoint"
IDS = torch.tensor([[3, 5, 7, 11, 13]])


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def old_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of an earlier save: others."""
    return {name: (tensor.float() * 0.5).to(tensor.dtype) for name, tensor in tensors.items()}


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], stem: str) -> None:
    kind, names = ("bin" if stem == "pytorch_model" else "safetensors"), sorted(tensors)
    files = {name: f"{stem}-0000{1 + number % 2}-of-00002.{kind}" for number, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: tensors[name] for name in names if files[name] == file}
        torch.save(part, folder / file) if kind == "bin" else save_file(part, folder / file)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": files}))


@pytest.fixture
def folder(tmp_path):
    """Configuration alone."""
    target = shutil.copytree(SOURCE, tmp_path / "model")
    for path in [*target.glob("*.safetensors*"), *target.glob("*.bin*")]:
        path.unlink()
    return target


@pytest.fixture(scope="module")
def new():
    return weights_of(SOURCE)


@pytest.fixture(scope="module")
def wanted():
    return openglm.load_model(SOURCE, device="cpu", dtype="float32").logits(IDS)


def write(folder: Path, kind: str, tensors: dict[str, torch.Tensor]) -> None:
    if kind == "model.safetensors":
        save_file(tensors, folder / kind)
    elif kind == "pytorch_model.bin":
        torch.save(tensors, folder / kind)
    else:
        write_shards(folder, tensors, kind.split(".")[0])


ORDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@pytest.mark.parametrize(("first", "second"), [(a, b) for i, a in enumerate(ORDER) for b in ORDER[i + 1 :]])
def test_of_two_sets_the_first_in_transformers_order_is_read_and_the_other_named(
    folder, new, wanted, capsys, first, second
):
    write(folder, first, new)
    write(folder, second, old_of(new))
    assert torch.equal(openglm.load_model(folder, device="cpu", dtype="float32").logits(IDS), wanted)
    said = capsys.readouterr().err
    assert f"reads {first}; not read, though there: " in said and second in said


def test_one_set_alone_is_read_without_a_word(folder, new, wanted, capsys):
    write(folder, "model.safetensors.index.json", new)
    assert torch.equal(openglm.load_model(folder, device="cpu", dtype="float32").logits(IDS), wanted)
    assert "not read" not in capsys.readouterr().err


def test_a_trainers_shards_do_not_outrank_the_folders_own_weights(folder, new, wanted):
    write(folder, "model.safetensors", new)
    (folder / "latest").write_text("global_step50")
    (folder / "global_step50").mkdir()
    torch.save({"module": old_of(new)}, folder / "global_step50" / "mp_rank_00_model_states.pt")
    assert torch.equal(openglm.load_model(folder, device="cpu", dtype="float32").logits(IDS), wanted)
    assert [path.name for path in open_checkpoint(folder).source.ranks[0].files] == ["model.safetensors"]


def test_shards_without_an_index_must_be_all_there(folder, new):
    write(folder, "model.safetensors.index.json", new)
    (folder / "model.safetensors.index.json").unlink()
    openglm.load_model(folder, device="cpu")
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00001-of-00002.*2 shards by its name, and 1 are there"):
        openglm.load_model(folder, device="cpu")


def test_inspect_names_the_files_that_are_read(folder, new, capsys):
    write(folder, "model.safetensors", new)
    write(folder, "pytorch_model.bin", old_of(new))
    assert main(["inspect", str(folder), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["files"]) == ["model.safetensors"]
    assert main(["inspect", str(folder)]) == 0
    assert "read from: model.safetensors" in capsys.readouterr().out
