"""Types, quantization while reading, round trips between layouts, and what is said about a checkpoint."""

import base64
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from openglm.checkpoints import native
from openglm.checkpoints.convert import convert
from openglm.checkpoints.library import library_json
from openglm.checkpoints.load import load_model, open_checkpoint
from openglm.checkpoints.quantize import quantize_checkpoint
from openglm.checkpoints.report import memory, report
from openglm.model.transformer import Transformer
from openglm.presets import PRESETS, model_preset
from openglm.quant.layers import QuantizedEmbedding, QuantizedLinear, StoredEmbedding
from openglm.text.load import load_tokenizer

GOLDEN = Path(__file__).parent.parent / "golden"


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert not [
        name
        for name, tensor in ours.items()
        if tensor.dtype != theirs[name].dtype or not torch.equal(tensor, theirs[name])
    ]


@pytest.mark.parametrize("name", ["glm_hf/checkpoint", "glm4_0414/checkpoint"])
def test_from_hf_to_ours_and_back_every_tensor_is_the_same(name, tmp_path):
    convert(convert(GOLDEN / name, tmp_path / "ours", "openglm"), tmp_path / "hf", "hf")
    before, after = (
        {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
        for folder in (GOLDEN / name, tmp_path / "hf")
    )
    same(after, before)
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (GOLDEN / name, tmp_path / "hf"))
    assert {key: new.get(key) for key in old} | {"transformers_version": "", "initializer_range": 0} == old | {
        "transformers_version": "",
        "initializer_range": 0,
    }


EVERY_KIND = [
    "chatglm2_6b/checkpoint",
    "glm4_9b/checkpoint",
    "chatglm_6b/checkpoint",
    "glm_10b/checkpoint",
    "chatglm2_6b/checkpoint_int4",
    "chatglm3_6b/checkpoint_int8",
]


@pytest.mark.parametrize("name", EVERY_KIND)
def test_ours_holds_every_published_checkpoint_in_its_own_type(name, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "_SHARD", 30_000)
    ours = convert(GOLDEN / name, tmp_path / "ours", "openglm")
    assert len(list(ours.glob("model-*.safetensors"))) > 1
    source, again = open_checkpoint(GOLDEN / name), open_checkpoint(ours, verify=True)
    assert (again.config, again.family, again.source.bits) == (source.config, source.family, source.source.bits)
    flat = [
        {f"{path}.{leaf}": t.contiguous() for path, leaves in c.source.modules() for leaf, t in leaves.items()}
        for c in (source, again)
    ]
    same(*flat)
    same(load_model(ours, device="cpu").state_dict(), load_model(GOLDEN / name, device="cpu").state_dict())


@pytest.mark.parametrize(
    "name, settings",
    [
        ("glm4_0414/checkpoint", ""),
        ("chatglm3_6b/checkpoint", '{"name_or_path": "THUDM/chatglm3-6b"}'),
        ("chatglm2_6b/checkpoint", '{"name_or_path": "chatglm2-6b"}'),
    ],
)
def test_the_tokenizer_of_a_converted_model_is_the_same(name, settings, toy, tmp_path):
    """Its generation too, although our configuration does not name it."""
    folder = shutil.copytree(GOLDEN / name, tmp_path / "source")
    if settings:
        shutil.copy(GOLDEN / "sp_tokenizers" / "tokenizer.model", folder)
        (folder / "tokenizer_config.json").write_text(settings)
    else:
        (folder / "tokenizer.json").write_text(huggingface(load_tokenizer(toy)))
    before, after = load_tokenizer(folder), load_tokenizer(convert(folder, tmp_path / "ours", "openglm"))
    assert (after.format.name, after.special, after.encode("你好 all")) == (
        before.format.name,
        before.special,
        before.encode("你好 all"),
    )


def test_transformers_reads_the_tokenizer_of_glm4s_original_layout(toy, tmp_path):
    folder, ours = shutil.copytree(GOLDEN / "glm4_9b/checkpoint", tmp_path / "source"), load_tokenizer(toy)
    first = len(ours.special)  # what text can hold comes behind the special tokens
    (folder / "tokenizer.model").write_bytes(
        b"".join(
            base64.b64encode(ours.decode_bytes([number])) + b" %d\n" % (number - first)
            for number in range(first, ours.vocab_size)
        )
    )
    glm4, text = load_tokenizer(folder), "你好 the [MASK]\n<|user|> don't  123"
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(convert(folder, tmp_path / "hf", "hf") / "tokenizer.json"))
    parts = ["你好 the ", glm4.special["[MASK]"], "\n", glm4.special["<|user|>"], " don't  123"]
    assert theirs(text, add_special_tokens=False)["input_ids"] == glm4.encode_parts(parts)
    assert theirs.decode(glm4.encode_parts(parts)) == text


def huggingface(ours) -> str:
    """A tokenizer of ours as one of GLM-4-0414."""
    return library_json(ours).replace('"<pad>"', '"<|endoftext|>"')


def test_a_quantized_model_is_saved_and_opened_as_it_is(tmp_path):
    model = load_model(GOLDEN / "glm4_9b/checkpoint", device="cpu", quantize="int4")
    kinds = {type(module) for module in model.modules()}
    assert {QuantizedLinear, StoredEmbedding} <= kinds and torch.nn.Linear not in kinds
    again = load_model(native.save_model(tmp_path / "m", model, None), device="cpu")
    same(again.state_dict(), model.state_dict())
    ids = torch.arange(9)[None]
    assert torch.equal(again.logits(ids), model.logits(ids))
    with pytest.raises(ValueError, match="int4 already"):
        load_model(tmp_path / "m", device="cpu", quantize="int8")


def mapped_from(folder, tensor):
    """Whether a tensor's numbers lie in a mapped file of the folder."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [
        [int(end, 16) for end in line[0].split("-")]
        for line in lines
        if len(line) == 6 and line[5].startswith(str(folder))
    ]
    return any(low <= tensor.data_ptr() < high for low, high in ranges)


needs_maps = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what is mapped")


@needs_maps
@pytest.mark.parametrize("name", ["glm4_9b/checkpoint", "chatglm2_6b/checkpoint_int4"])
def test_a_table_that_is_only_looked_up_stays_in_its_file_unrounded(name, tmp_path):
    """Also once the file has another name, or none: who replaces a model must not change what a running one says."""
    whole = load_model(GOLDEN / name.replace("_int4", ""), device="cpu", dtype="float32")
    folder = shutil.copytree(GOLDEN / name, tmp_path / "model")
    model = load_model(folder, device="cpu", dtype="float32", quantize="int4")
    assert mapped_from(folder, model.embedding.weight)
    ids = torch.arange(9)[None]
    before = model.logits(ids)
    shutil.rmtree(folder)
    assert torch.equal(model.embedding(ids), whole.embedding(ids))
    assert torch.equal(model.logits(ids), before)


@needs_maps
def test_codes_of_a_table_stay_in_their_file(tmp_path):
    quantize_checkpoint(GOLDEN / "glm4_9b/checkpoint", tmp_path / "int4", 4, 32)
    model = load_model(tmp_path / "int4", device="cpu")
    assert mapped_from(tmp_path / "int4", model.embedding.codes) and not mapped_from(
        tmp_path / "int4", model.head.codes
    )
    copied = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shutil.rmtree(tmp_path / "int4")
    same(model.state_dict(), copied)


@pytest.mark.parametrize("name", ["chatglm_6b", "glm_10b", "glm4_9b"])
@pytest.mark.parametrize("bits", [8, 4])
def test_weights_quantized_while_they_are_read_are_near_the_originals(name, bits):
    plain, coded = (load_model(GOLDEN / name / "checkpoint", device="cpu", quantize=q) for q in (None, f"int{bits}"))
    for path, module in coded.named_modules():
        if isinstance(module, (QuantizedLinear, QuantizedEmbedding)):
            error = (module.weight - plain.get_submodule(path).weight).norm() / plain.get_submodule(path).weight.norm()
            assert error < (0.01 if bits == 8 else 0.12), path


def test_types(tmp_path):
    folder = GOLDEN / "glm4_0414/checkpoint"
    assert load_model(folder, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"dtype = 'float16'.*overflow.*bfloat16"):
        load_model(folder, device="cpu", dtype="float16")
    with pytest.raises(ValueError, match=r"dtype = 'float16'.*overflow"):
        convert(folder, tmp_path / "x", "hf", dtype="float16")
    assert load_model(GOLDEN / "chatglm2_6b/checkpoint", device="cpu").dtype == torch.float32
    half = convert(GOLDEN / "glm4_9b/checkpoint", tmp_path / "half", "openglm", dtype="float16")
    assert {t.dtype for t in load_file(half / "model.safetensors").values()} == {torch.float16}


def test_half_precision_runs_stay_near_the_originals():
    for name, given, kind, tolerance in (
        ("chatglm_6b", "single", "float16", 0.3),
        ("glm4_9b", "single", "bfloat16", 2.0),
    ):
        tensors = load_file(GOLDEN / name / "golden.safetensors")
        expected = tensors.get(f"{kind}.{given}.logits", tensors.get(f"fp16.{given}.logits")).float()
        ours = load_model(GOLDEN / name / "checkpoint", device="cpu", dtype=kind).logits(
            tensors[f"fp32.{given}.input_ids"]
        )
        assert (ours - expected).abs().max() < tolerance


@pytest.mark.parametrize(
    "name",
    [*(p.parent.name + "/" + p.name for p in sorted(GOLDEN.glob("*/checkpoint"))), "chatglm2_6b/checkpoint_int4"],
)
def test_the_report_needs_no_weights_and_counts_as_the_network_does(name, monkeypatch):
    model = load_model(GOLDEN / name, device="cpu")
    monkeypatch.setattr("openglm.checkpoints.tensors.Tensors.__getitem__", lambda *_: pytest.fail("a weight was read"))
    found = report(open_checkpoint(GOLDEN / name))
    assert found["parameters"] == model.config.parameters and found["bytes"] == sum(found["files"].values())
    assert found["memory"]["inference"]["fp16"] == 2 * found["parameters"] and json.dumps(found)
    assert found["weights"] == (
        "int4" if "int4" in name else "bfloat16" if name[:4] in ("glm4", "glm_") and "10b" not in name else "float16"
    )


@pytest.mark.parametrize(
    ("bits", "preset"), [(8, "glm-4-9b-chat"), (4, "glm-4-9b-chat"), (4, "chatglm-6b"), (8, "glm-10b")]
)
def test_memory_of_codes_is_that_of_the_quantized_network(bits, preset, tmp_path):
    kv_heads = 2 if "kv_heads" in PRESETS[preset] else 4
    config = model_preset(
        preset,
        vocab_size=128,
        layers=2,
        hidden=128,
        heads=4,
        kv_heads=kv_heads,
        head_dim=32,
        ffn_hidden=256,
        max_positions=64,
    )
    model = load_model(
        native.save_model(tmp_path / "m", Transformer(config), None),
        device="cpu",
        dtype="float16",
        quantize=f"int{bits}",
    )
    in_file = (
        0 if config.tied else 128 * 128 * bits // 8 + 2 * 128 * 128 // 64
    )  # as codes, which an accelerator would hold
    held = [
        tensor.nbytes for name, tensor in model.state_dict().items() if config.tied or not name.startswith("embedding.")
    ]
    assert memory(config)["inference"][f"int{bits}"] == sum(held) + in_file


def test_a_type_that_is_not_read_is_named(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "glm_hf/checkpoint", tmp_path / "copy"))
    tensors = load_file(folder / "model-00002-of-00002.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].float().to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"lm_head.weight.*F8_E4M3.*not read"):
        load_model(folder, device="cpu")
