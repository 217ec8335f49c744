"""Folders that are wrong, cut short or mean harm: one line that names what is wrong, and nothing is run."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openglm.checkpoints.convert import convert
from openglm.checkpoints.load import load_model

GOLDEN = Path(__file__).parent.parent / "golden"
GLM130B = {"config": str(GOLDEN / "glm_130b/model_args.json")}


@pytest.fixture
def copy(tmp_path):
    """A golden checkpoint to spoil."""
    return lambda name: Path(shutil.copytree(GOLDEN / name, tmp_path / "copy"))


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def spoil_shape(folder: Path) -> None:
    state = torch.load(folder / "pytorch_model-00003-of-00003.bin", weights_only=True)
    state["transformer.output_layer.weight"] = state["transformer.output_layer.weight"][:-1].clone()
    torch.save(state, folder / "pytorch_model-00003-of-00003.bin")


def set_index(**files):
    def change(folder: Path) -> None:
        index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
        index["weight_map"] |= files
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    return change


def set_config(**options):
    return lambda folder: (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | options)
    )


def cut_file(name: str, size: int):
    return lambda folder: os.truncate(folder / name, size)


def expanded(folder: Path) -> None:
    """A tensor of terabytes over one number."""
    state = torch.load(folder / "pytorch_model-00003-of-00003.bin", weights_only=True)
    state["transformer.output_layer.weight"] = torch.zeros(1, dtype=torch.float16).expand(1 << 20, 1 << 21)
    torch.save(state, folder / "pytorch_model-00003-of-00003.bin")


def drop_scales(folder: Path) -> None:
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del state["transformer.encoder.layers.1.mlp.dense_4h_to_h.weight_scale"]
    torch.save(state, folder / "pytorch_model.bin")


BIN, LAST = "chatglm2_6b/checkpoint", "pytorch_model-00003-of-00003.bin"
WRONG = {
    "a missing shard": (BIN, lambda f: (f / LAST).unlink(), f"{LAST}.*missing, though pytorch_model.bin.index.json lists it"),
    "a missing safetensors shard": ("glm_hf/checkpoint", lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "model-00002-of-00002.safetensors.*missing"),
    "a shard of another model": (BIN, lambda f: shutil.copy(GOLDEN / "chatglm_6b/checkpoint/pytorch_model-00001-of-00002.bin", f / LAST), "weight' is missing"),
    "a wrong shape": (BIN, spoil_shape, r"'transformer.output_layer.weight' has shape \[255, 64\], the configuration says \[256, 64\]"),
    "another width": (BIN, set_config(ffn_hidden_size=80), r"dense_h_to_4h.weight' has shape \[192, 64\], the configuration says \[160, 64\]"),
    "fewer layers": (BIN, set_config(num_layers=2), "tensor = 'transformer.encoder.layers.2.* unknown"),
    "more layers": (BIN, set_config(num_layers=4), "layers.3.* is missing"),
    "a thousand million layers": (BIN, set_config(num_layers=10**9), "model.layers = 1000000000"),
    "a width that overflows": (BIN, set_config(hidden_size=10**15, kv_channels=10**14), "cannot be"),
    "no configuration": (BIN, lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "a truncated configuration": (BIN, cut_file("config.json", 200), "not valid JSON"),
    "a truncated index": (BIN, cut_file("pytorch_model.bin.index.json", 200), "not valid JSON"),
    "a truncated shard": (BIN, cut_file(LAST, 20_000), f"{LAST}: "),
    "an empty shard": (BIN, cut_file(LAST, 0), f"{LAST}: "),
    "a truncated safetensors file": ("glm_hf/checkpoint", cut_file("model-00001-of-00002.safetensors", 100_000), "not a readable safetensors"),
    "a truncated header": ("glm_hf/checkpoint", cut_file("model-00001-of-00002.safetensors", 90), "not a readable safetensors"),
    "an endless header": ("glm_hf/checkpoint", lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}"), "not a readable safetensors"),
    "a shard outside the folder": (BIN, set_index(x="../../secret.bin"), "weight_map"),
    "an index that is no table": (BIN, lambda f: (f / "pytorch_model.bin.index.json").write_text('{"weight_map": [1]}'), "weight_map"),
    "no weights": (BIN, lambda f: [p.unlink() for p in f.glob("pytorch*")], "holds no weights; looked for model.safetensors"),
    "terabytes over one number": (BIN, expanded, "declares .* bytes of tensors in a file of"),
    "a pickle that runs": (BIN, lambda f: torch.save({"a": Harm()}, f / LAST), "holds more than tensors"),
    "an old pickle that runs": (BIN, lambda f: (f / LAST).write_bytes(pickle.dumps(Harm())), f"{LAST}: "),
    "a module in a pickle": (BIN, lambda f: torch.save(torch.nn.Linear(2, 2), f / LAST), "holds more than tensors"),
    "a list of tensors": (BIN, lambda f: torch.save([torch.zeros(2)], f / LAST), "holds no table of tensors"),
    "codes without scales": ("chatglm2_6b/checkpoint_int8", drop_scales, "codes are int8"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(("name", "spoil", "named"), WRONG.values(), ids=WRONG.keys())
def test_a_folder_that_is_wrong_is_refused_in_one_line(name, spoil, named, copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = copy(name)
    spoil(folder)
    with pytest.raises(ValueError, match=named) as error:
        load_model(folder, device="cpu")
    assert "\n" not in str(error.value) and not Path("harm").exists()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: (f / "49300/mp_rank_00_model_states.pt").unlink(), "mp_rank_00_model_states.pt.*missing"),
        (
            lambda f: (f / "49300/mp_rank_01_model_states.pt").unlink(),
            r"word_embeddings.weight' has shape \[128, 64\], the configuration says \[256, 64\]",
        ),
        (lambda f: (f / "latest").write_text("../../etc"), "must name a folder"),
        (lambda f: (f / "latest").write_text("50000"), "holds no config.json"),
    ],
)
def test_a_run_with_shards_that_are_wrong_is_refused(spoil, named, copy):
    folder = copy("glm_130b/checkpoint_tp2")
    spoil(folder)
    with pytest.raises(ValueError, match=named):
        load_model(folder, device="cpu", **(GLM130B if "50000" not in (folder / "latest").read_text() else {}))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "shards of a training run and no configuration"),
        ({"config": "glm-5"}, r"config = 'glm-5': neither a file nor a preset; known: .*glm-130b"),
        ({"config": "glm-130b"}, "model.layers = 70"),
        ({**GLM130B, "quantize": "int3"}, "quantize = 'int3'"),
        ({**GLM130B, "dtype": "float8"}, "dtype = 'float8'"),
        ({**GLM130B, "adapter": "nowhere"}, "adapter = 'nowhere'"),
        ({**GLM130B, "adapter": str(GOLDEN / "glm_hf/checkpoint")}, "prefix_encoder"),
        (
            {**GLM130B, "adapter": str(GOLDEN / "chatglm2_6b/prefix")},
            "belongs to another model.* 192 numbers where this one takes 384",
        ),
    ],
)
def test_options_that_do_not_fit_are_named(options, named):
    with pytest.raises(ValueError, match=named) as error:
        load_model(GOLDEN / "glm_130b/checkpoint_tp2", device="cpu", **options)
    assert "\n" not in str(error.value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_of_a_pickle_never_do_more_than_raise(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "fuzzed"
    shutil.copytree(GOLDEN / "chatglm2_6b/checkpoint_int8", folder, dirs_exist_ok=True)
    raw = bytearray((folder / "pytorch_model.bin").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, 6000))] = data.draw(st.integers(0, 255))
    (folder / "pytorch_model.bin").write_bytes(bytes(raw))
    try:
        load_model(folder, device="cpu")
    except ValueError as error:
        assert "\n" not in str(error)


def test_a_target_that_cannot_hold_a_network_is_refused_and_nothing_is_left(tmp_path):
    cases = [
        ("chatglm_6b/checkpoint", "hf", "transformers runs ChatGLM2"),
        ("chatglm2_6b/checkpoint_int4", "hf", "int4 codes"),
        ("glm_hf/checkpoint", "onnx", "openglm, hf, gguf"),
    ]
    for name, to, named in cases:
        with pytest.raises(ValueError, match=named):
            convert(GOLDEN / name, tmp_path / "out", to)
    assert not list(tmp_path.iterdir())
