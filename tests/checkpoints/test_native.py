"""Our model folder: what is saved is loaded, and a folder that lies is refused in one line."""

import json
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from openglm.checkpoints import native
from openglm.checkpoints.load import load_model
from openglm.checkpoints.native import save_model
from openglm.config import ModelConfig
from openglm.files import write_folder
from openglm.model.transformer import Transformer

TINY = ModelConfig(
    vocab_size=30, layers=2, hidden=16, heads=2, kv_heads=1, ffn_hidden=24, max_positions=32, qk_norm=True
)
OTHERS = {
    "untied": {"tied": False}, "biased": {"bias": "all", "norm": "layernorm", "activation": "gelu", "positions": "learned_2d"},
    "sandwich": {"residual": "sandwich", "bias": "qkv", "positions": "rope_half"}, "deepnorm": {"residual": "deepnorm", "positions": "rope_2d"},
}  # fmt: skip


def tiny(**options) -> Transformer:
    torch.manual_seed(1)
    model = Transformer(
        ModelConfig(
            **{
                "vocab_size": 30,
                "layers": 2,
                "hidden": 16,
                "heads": 2,
                "ffn_hidden": 24,
                "max_positions": 32,
                **options,
            }
        )
    )
    model.initialize()
    return model


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "model", tiny(qk_norm=True, kv_heads=1), None)


def rewrite(folder, **files):
    """Change files of a folder and seal it again, as somebody who wants to deceive would."""
    kept = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"} | files
    write_folder(
        folder.parent, folder.name, lambda target: [(target / name).write_bytes(data) for name, data in kept.items()]
    )


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS.keys())
def test_a_saved_model_is_the_same_model(tmp_path, options):
    model = tiny(**options)
    again = load_model(save_model(tmp_path / "m", model, None), device="cpu")
    assert again.config == model.config and not again.training
    for (name, ours), theirs in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs) and not theirs.requires_grad, name
    ids = torch.arange(2, 12)[None]
    if model.config.positions != "learned_2d":
        assert torch.equal(model.eval().logits(ids), again.logits(ids))


def test_half_precision_storage_loads_as_float32(tmp_path):
    model = tiny()
    folder = save_model(tmp_path / "m", model, None, dtype="float16")
    full, half = load_model(folder, device="cpu"), load_model(folder, device="cpu", dtype="float16")
    for ours, theirs, kept in zip(model.parameters(), full.parameters(), half.parameters(), strict=True):
        assert theirs.dtype == torch.float32 and kept.dtype == torch.float16
        assert torch.equal(theirs, ours.half().float())


def test_a_saved_average_takes_the_place_of_the_weights(tmp_path):
    model = tiny()
    average = {name: torch.full_like(p, 0.5) for name, p in model.named_parameters()}
    again = load_model(native.write_model(tmp_path / "m", model.config, average.items(), None), device="cpu")
    assert all(bool((p == 0.5).all()) for p in again.parameters())


def test_bundled_names_are_found_and_listed(tmp_path, monkeypatch):
    save_model(tmp_path / "nano", tiny(), None)
    monkeypatch.setattr(native, "ASSETS", tmp_path)
    assert load_model("nano", device="cpu").config.layers == 2
    with pytest.raises(ValueError, match=r"'giant'.*bundled name: nano"):
        load_model("giant")


@pytest.mark.parametrize("option", ["config", "adapter", "quantize", "dtype", "device"])
def test_wrong_options_are_named(folder, option):
    with pytest.raises(ValueError, match=f"{option} = 'int9'"):
        load_model(folder, **{option: "int9"})


def header(change) -> bytes:
    """A safetensors file whose header was changed by `change`."""
    text = {"embedding.weight": {"dtype": "F32", "shape": [30, 16], "data_offsets": [0, 1920]}}
    change(text)
    raw = json.dumps(text).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(1920)


def config(**options) -> bytes:
    model = {
        "vocab_size": 30,
        "layers": 2,
        "hidden": 16,
        "heads": 2,
        "kv_heads": 1,
        "ffn_hidden": 24,
        "qk_norm": True,
        **options,
    }
    return json.dumps({"format": "openglm", "version": 1, "model": model}).encode()


LIES = {
    "no tensors": ({"model.safetensors": header(lambda t: t.clear())}, "not a readable safetensors"),
    "too few tensors": ({"model.safetensors": header(lambda t: None)}, "holds 1 tensors"),
    "offsets past the end": (
        {"model.safetensors": header(lambda t: t["embedding.weight"].update(data_offsets=[0, 1 << 40]))},
        "not a readable safetensors",
    ),
    "huge shape": (
        {"model.safetensors": header(lambda t: t["embedding.weight"].update(shape=[1 << 62, 4]))},
        "not a readable safetensors",
    ),
    "negative shape": (
        {"model.safetensors": header(lambda t: t["embedding.weight"].update(shape=[-30, 16]))},
        "not a readable safetensors",
    ),
    "header longer than the file": (
        {"model.safetensors": struct.pack("<Q", 1 << 60) + b"{}"},
        "not a readable safetensors",
    ),
    "empty weights": ({"model.safetensors": b""}, "not a readable safetensors"),
    "a pickle": ({"model.safetensors": b"\x80\x04c__builtin__\nprint\n."}, "not a readable safetensors"),
    "more layers than weights": ({"config.json": config(layers=10**9)}, "holds 24 tensors"),
    "another width": ({"config.json": config(hidden=10**12)}, "cannot be"),
    "unknown option": ({"config.json": config(depth=1)}, "model.depth"),
    "wrong kind": ({"config.json": config(layers="two")}, "model.layers"),
    "a fraction": ({"config.json": config(layers=2.5)}, "model.layers"),
    "a list": ({"config.json": config(layers=[1])}, "wrong kind"),
    "not JSON": ({"config.json": b"\xff\x00"}, "not valid JSON"),
    "deep JSON": ({"config.json": b"[" * 200_000}, "not valid JSON"),
    "not a table": ({"config.json": b"[]"}, "must hold a table"),
    "published": (
        {"config.json": b'{"model_type": "chatglm", "auto_map": {"AutoModel": "evil.py"}}'},
        "unknown generation; known: ChatGLM-6B",
    ),
    "newer": ({"config.json": b'{"format": "openglm", "version": 2}'}, "newer release"),
    "no model": ({"config.json": b'{"format": "openglm", "version": 1}'}, "must be a table"),
}


@pytest.mark.parametrize("files, named", LIES.values(), ids=LIES.keys())
def test_a_folder_that_lies_is_refused_in_one_line(folder, files, named):
    rewrite(folder, **files)
    with pytest.raises(ValueError, match=named) as error:
        load_model(folder, device="cpu")
    assert "\n" not in str(error.value)


def test_tensors_of_the_right_number_but_other_names_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["blocks.0.attention.x_proj.weight"] = tensors.pop("blocks.0.attention.q_proj.weight")
    save_file(tensors, folder / "other.safetensors")
    rewrite(folder, **{"model.safetensors": (folder / "other.safetensors").read_bytes()})
    with pytest.raises(ValueError, match=r"blocks.0.attention.q_proj.weight' is missing"):
        load_model(folder, device="cpu")


def test_a_missing_file_is_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors: missing"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds no config.json"):
        load_model(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_header_never_does_more_than_raise(folder, data):
    """Behind the manifest: a weights file with any bytes of its header changed either reads or is refused in one line."""
    path = folder / "model.safetensors"
    good = path.read_bytes()
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, 300))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(bad[: data.draw(st.sampled_from([len(bad), 400, 9]))]))
    try:
        load_model(folder, device="cpu")
    except ValueError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(good)
