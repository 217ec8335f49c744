"""Checkpoints in pieces: what is read is what was written; names, shapes and files that do not fit are named, and nothing in the folder is run."""

import pickle

import pytest
import torch

from openglm.checkpoints.sharded import load_shards, names, save_shards, whole_tensors

TENSORS = {
    "weights|a.weight": torch.randn(3, 4),
    "weights|b": torch.arange(5.0),
    "optimizer|a.weight|step": torch.tensor(7.0),
    "average|b": torch.randn(5).bfloat16(),
}


@pytest.fixture
def folder(tmp_path):
    save_shards(tmp_path, TENSORS)
    return tmp_path


def test_what_was_written_is_read(folder):
    blank = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    load_shards(folder, blank)
    assert all(torch.equal(blank[name], tensor) for name, tensor in TENSORS.items())
    assert dict(whole_tensors(folder, "weights")).keys() == {"a.weight", "b"} and names(folder, "optimizer") == [
        "a.weight|step"
    ]
    assert torch.equal(dict(whole_tensors(folder, "average"))["b"], TENSORS["average|b"])


@pytest.mark.parametrize("wanted, message", [
    ({"weights|c": torch.zeros(2)}, r"weights\|c = .*lacks it"), ({"weights|a.weight": torch.zeros(4, 3)}, r"weights\|a.weight = \[3, 4\]: .*not \[4, 3\]"),
])  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(folder, wanted, message):
    with pytest.raises(ValueError, match=message):
        load_shards(folder, wanted)


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled(folder, tmp_path_factory):
    canary = tmp_path_factory.mktemp("canary") / "sang"
    trap = pickle.dumps(Canary(canary))
    (folder / ".metadata").write_bytes(trap)
    load_shards(folder, {"weights|b": torch.zeros(5)})
    for file in folder.glob("*.safetensors"):
        file.write_bytes(trap)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_shards(folder, {"weights|b": torch.zeros(5)})
    assert not canary.exists()
