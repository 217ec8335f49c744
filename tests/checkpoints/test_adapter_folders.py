"""LoRA beside `peft` on `transformers`' classes, both ways; layouts of the published code; merging; what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.families import network, small
from safetensors.torch import load_file, save_file

import openglm
from openglm.checkpoints.adapters import home_layout, read_adapter, write_lora
from openglm.checkpoints.convert import convert
from openglm.checkpoints.layouts import LAYOUTS
from openglm.checkpoints.load import load_model, open_checkpoint
from openglm.checkpoints.native import save_model
from openglm.checkpoints.quantize import quantize_checkpoint
from openglm.cli.main import main
from openglm.config import LoraConfig
from openglm.model.adapters import Lora

GOLDEN = Path(__file__).parent.parent / "golden"
IDS = torch.tensor([[9, 10, 11, 12, 13, 14, 15, 16, 17]])


def noisy(config, options: LoraConfig, seed: int = 5) -> Lora:
    """A LoRA as after some training."""
    lora = Lora.fresh(config, options, seed)
    generator = torch.Generator().manual_seed(seed)
    for weight in lora.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.2, generator)
    return lora.requires_grad_(False)


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    """A small network as ours and in the folder that `transformers` opens."""
    folder = tmp_path_factory.mktemp("hf")
    save_model(folder / "ours", network(small("glm-4-9b-chat")), None)
    return convert(folder / "ours", folder / "hf", "hf")


def peer(folder):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)


@pytest.mark.parametrize("options", [
    LoraConfig(4, alpha=6), LoraConfig(3, alpha=5, rslora=True, targets=("all",)), LoraConfig(2, targets=("v_proj", "down_proj", "gate_proj")),
], ids=["attention", "all, rslora", "some"])  # fmt: skip
def test_what_we_write_peft_opens_with_the_same_outputs_and_gradients(hf, tmp_path, options):
    peft = pytest.importorskip("peft")
    checkpoint = open_checkpoint(hf)
    lora = noisy(checkpoint.config, options)
    folder = write_lora(tmp_path / "lora", lora, checkpoint.config, checkpoint.source.layout, options, str(hf))
    theirs = peft.PeftModel.from_pretrained(peer(hf), folder, is_trainable=True)
    ours = load_model(hf, adapter=str(folder), device="cpu", dtype="float32")
    torch.testing.assert_close(ours.logits(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)
    lora.requires_grad_(True).attach(base := load_model(hf, device="cpu", dtype="float32"))
    positions = torch.stack([torch.arange(9), torch.zeros(9, dtype=torch.long)])[None]
    base.project(base(IDS, positions)).square().mean().backward()
    theirs(IDS).logits.square().mean().backward()
    found = {name: weight.grad for name, weight in theirs.named_parameters() if weight.grad is not None}
    for layer in lora.names:  # those of `up` one by one; a shared `down` has the sum of theirs
        leaf = layer.rpartition(".")[2]
        if leaf in ("q_proj", "v_proj", "down_proj"):
            place = "mlp" if leaf == "down_proj" else "self_attn"
            number = layer.split(".")[1]
            wanted = found[f"base_model.model.model.layers.{number}.{place}.{leaf}.lora_B.default.weight"]
            torch.testing.assert_close(lora.raw(layer)[1].grad, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_what_peft_writes_we_open(hf, tmp_path, rslora):
    peft = pytest.importorskip("peft")
    options = {"alpha_pattern": {"o_proj": 3}, "rank_pattern": {"v_proj": 2}}
    targets = ["q_proj", "v_proj", "o_proj", "gate_up_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=10, target_modules=targets, use_rslora=rslora, **options)
    theirs = peft.get_peft_model(peer(hf), config)
    for name, weight in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, 0.0, 0.2)
    theirs.save_pretrained(tmp_path)
    ours = load_model(hf, adapter=str(tmp_path), device="cpu", dtype="float32")
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(IDS), theirs(IDS).logits, rtol=0, atol=1e-5)
        merged = theirs.merge_and_unload()(IDS).logits
    copy = load_model(convert(hf, tmp_path / "copy", "openglm", adapter=str(tmp_path)), device="cpu", dtype="float32")
    torch.testing.assert_close(copy.logits(IDS), merged, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, layer, per_head", [
    ("chatglm_6b", "transformer.layers.{}.attention.query_key_value", True),
    ("chatglm2_6b", "transformer.encoder.layers.{}.self_attention.query_key_value", False),
    ("glm_10b", "transformer.layers.{}.attention.query_key_value", False),
])  # fmt: skip
def test_a_lora_of_the_published_fused_matrix_is_added_to_that_matrix(tmp_path, name, layer, per_head):
    """As peft makes it over the published code, against the same product added to the checkpoint's own tensors."""
    base = GOLDEN / name / "checkpoint"
    checkpoint = open_checkpoint(base)
    config, draw = checkpoint.config, torch.Generator().manual_seed(2)
    tensors, changes = {}, {}
    for number in range(config.layers):
        fused = layer.format(number)
        held = next(n for n in checkpoint.source.ranks[0] if n.endswith(f"{fused}.weight"))
        rows, columns = checkpoint.source.ranks[0].shapes[held]
        a, b = torch.randn(2, columns, generator=draw), torch.randn(rows, 2, generator=draw)
        tensors |= {f"base_model.model.{fused}.lora_A.weight": a, f"base_model.model.{fused}.lora_B.weight": b}
        changes[held] = 32 / 2 * (b @ a)
    (tmp_path / "lora").mkdir()
    save_file(tensors, tmp_path / "lora" / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "r": 2, "lora_alpha": 32, "target_modules": ["query_key_value"]}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(described))
    shutil.copytree(base, tmp_path / "changed")
    for path in [*(tmp_path / "changed").glob("*.safetensors"), *(tmp_path / "changed").glob("*.bin")]:
        held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        held = {key: t.float() + changes[key] if key in changes else t.float() for key, t in held.items()}
        if path.suffix == ".safetensors":
            save_file(held, path)
        else:
            torch.save(held, path)
    options = {"device": "cpu", "dtype": "float32"}
    wanted = load_model(tmp_path / "changed", **options)
    found = load_model(base, adapter=str(tmp_path / "lora"), **options)
    ids = torch.tensor([[9, 10, 11, *(token for token in (config.tokens.gmask, config.tokens.sop) if token >= 0), 12]])
    torch.testing.assert_close(found.logits(ids), wanted.logits(ids), rtol=1e-4, atol=1e-3)
    # What we train of it is written under the same names, and comes back as it was.
    lora = noisy(config, LoraConfig(4))
    again = write_lora(
        tmp_path / "again", lora, config, home_layout(config, checkpoint.source.layout), LoraConfig(4), ""
    )
    assert load_file(again / "adapter_model.safetensors").keys() == tensors.keys()
    back = read_adapter(again, config)
    for name in lora.names:
        for one, other in zip(lora.pair(name), back.pair(name), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("bits", [0, 8, 4])
def test_merged_weights_answer_as_the_adapter_did(toy, tmp_path, bits, capfd):
    """Whole weights to rounding; codes are quantized anew, and no worse than the changed weights would be at once."""
    base = quantize_checkpoint(toy, tmp_path / "base", bits, 16) if bits else toy
    config = open_checkpoint(toy).config
    options = LoraConfig(4, targets=("all",))
    folder = write_lora(tmp_path / "lora", noisy(config, options), config, None, options, "toy")
    assert main(["merge", str(base), "--adapter", str(folder), "--out", str(tmp_path / "out")]) == 0
    said = capfd.readouterr().err
    assert "folded into 14 matrices" in said and (f"int{bits}: widened, changed" in said) == bool(bits)
    wanted = load_model(base, adapter=str(folder), device="cpu")
    found = load_model(tmp_path / "out", device="cpu")
    assert openglm.load_tokenizer(tmp_path / "out").encode("abc") == openglm.load_tokenizer(toy).encode("abc")
    if not bits:
        torch.testing.assert_close(found.logits(IDS), wanted.logits(IDS))
    for name in wanted.lora.names:
        down, up = wanted.lora.pair(name)
        whole = wanted.get_submodule(name).weight + up @ down
        error = (found.get_submodule(name).weight - whole).norm() / whole.norm()
        assert error < {0: 1e-6, 8: 0.01, 4: 0.12}[bits], name
        assert hasattr(found.get_submodule(name), "codes") == bool(bits)


def test_an_adapter_taken_off_leaves_the_base_to_the_last_bit(toy):
    for quantize in (None, "int4"):
        model = load_model(toy, device="cpu", quantize=quantize)
        before = model.logits(IDS)
        lora = noisy(model.config, LoraConfig(4, targets=("all",)))
        lora.attach(model)
        assert (model.logits(IDS) - before).abs().max() > 1e-3
        lora.detach(model)
        assert torch.equal(model.logits(IDS), before)


@pytest.mark.parametrize("change, named", [
    ({"use_dora": True}, "use_dora = True: not read; merge the adapter with peft"),
    ({"peft_type": "IA3"}, "peft_type = 'IA3': only LORA is read"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save = .*not read"),
    ({"bias": "all"}, "bias = 'all': biases are not read"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa': changes the base too"),
    ({"alpha_pattern": {"(q|k)_proj": 3}}, "alpha_pattern = .*no patterns"),
])  # fmt: skip
def test_what_is_not_served_is_named_before_weights_are_read(hf, tmp_path, change, named, monkeypatch):
    config = open_checkpoint(hf).config
    folder = write_lora(tmp_path / "lora", noisy(config, LoraConfig(2)), config, LAYOUTS["hf"], LoraConfig(2), "x")
    described = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**described, **change}))
    monkeypatch.setattr("openglm.checkpoints.load._assign", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match=named) as error:
        load_model(hf, adapter=str(folder), device="cpu")
    assert "\n" not in str(error.value)


def test_an_adapter_of_another_base_is_refused(hf, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("openglm.checkpoints.load._assign", lambda *_: pytest.fail("weights were read"))
    for number, other in enumerate((small("glm-4-9b-chat", layers=4), small("glm-4-9b-chat", hidden=40))):
        folder = tmp_path / str(number)
        write_lora(folder, noisy(other, LoraConfig(2)), other, LAYOUTS["hf"], LoraConfig(2), "THUDM/glm-x")
        with pytest.raises(ValueError, match=r"another|no such layer|none of this name"):
            load_model(hf, adapter=str(folder), device="cpu")
    monkeypatch.undo()
    config = open_checkpoint(hf).config
    write_lora(tmp_path / "0", noisy(config, LoraConfig(2)), config, LAYOUTS["hf"], LoraConfig(2), "THUDM/glm-x")
    load_model(hf, adapter=str(tmp_path / "0"), device="cpu")
    assert "was made for a model called glm-x; this one is hf" in capfd.readouterr().err


def test_a_folder_of_an_adapter_alone_is_said_to_be_one(hf, tmp_path):
    for source in ("prefix", "prefix_projection"):
        folder = GOLDEN / "chatglm_6b" / source
        for opened in (openglm.load_model, openglm.Assistant):
            with pytest.raises(ValueError, match=r"this is a prefix; give its base model.*--adapter"):
                opened(folder)
    config = open_checkpoint(hf).config
    write_lora(tmp_path / "lora", noisy(config, LoraConfig(2)), config, LAYOUTS["hf"], LoraConfig(2), "x")
    with pytest.raises(ValueError, match=r"this is a LoRA; give its base model"):
        openglm.load_model(tmp_path / "lora")


def test_a_prefix_is_written_beside_the_weights_and_not_merged(tmp_path, capsys):
    base, prefix = GOLDEN / "chatglm_6b/checkpoint", GOLDEN / "chatglm_6b/prefix_projection"
    copy = convert(base, tmp_path / "copy", "openglm", adapter=str(prefix))
    ids = torch.tensor([[9, 10, *(open_checkpoint(base).config.tokens.gmask, open_checkpoint(base).config.tokens.sop)]])
    options = {"device": "cpu", "dtype": "float32"}
    wanted = load_model(base, adapter=str(prefix), **options)
    assert torch.equal(load_model(copy, **options).logits(ids), wanted.logits(ids))
    assert main(["merge", str(base), "--adapter", str(prefix), "--out", str(tmp_path / "out")]) == 1
    assert "a prefix has no weights to fold in" in capsys.readouterr().err
