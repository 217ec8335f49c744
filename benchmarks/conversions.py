"""Every kind of folder that opens, converted to every form and quantized: how far the copy's logits are from the source's.

    python benchmarks/conversions.py

The folders are the small ones of the tests (tests/golden), which hold what the original code of each generation saved, and
some that are made here. A copy of ours must give the same logits to the last bit; one for `transformers` runs through its
own classes; a GGUF's numbers are read back with the `gguf` package, in half precision; a quantized one is compared with the
source whose matrices were rounded one by one. Needs the extra `test`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from gguf_parity import stored_model
from safetensors.torch import load_file, save_file

from openglm import load_model
from openglm.checkpoints.convert import convert
from openglm.checkpoints.load import matrix_format
from openglm.checkpoints.native import save_model
from openglm.checkpoints.quantize import quantize_checkpoint
from openglm.model.transformer import Transformer
from openglm.presets import model_preset
from openglm.quant.codes import dequantize, quantize

GOLDEN = Path(__file__).resolve().parents[1] / "tests/golden"
TARGETS = ("openglm", "hf", "gguf", "int8", "int4")
GROUP = 16
TOLERANCE = {"openglm": 0.0, "hf": 2e-5, "gguf": 2e-3, "int8": 1e-5, "int4": 1e-5}
"""largest difference of logits, as a share of the largest logit"""
_GLM10B, _GLM130B = str(GOLDEN / "glm_10b/checkpoint/config.json"), str(GOLDEN / "glm_130b/model_args.json")
_SAVED = {
    "GLM-10B, published class": ("glm_10b/checkpoint", None),
    "GLM-10B, training run": ("glm_10b/checkpoint_native", _GLM10B),
    "GLM-10B, training run of two ranks": ("glm_10b/checkpoint_native_mp2", _GLM10B),
    "GLM-130B, one rank": ("glm_130b/checkpoint_tp1", _GLM130B),
    "GLM-130B, two ranks": ("glm_130b/checkpoint_tp2", _GLM130B),
    "GLM-130B, int8": ("glm_130b/checkpoint_int8_tp1", _GLM130B),
    "GLM-130B, int4": ("glm_130b/checkpoint_int4_tp1", _GLM130B),
    "ChatGLM-6B": ("chatglm_6b/checkpoint", None),
    "ChatGLM-6B, first release": ("chatglm_6b_first/checkpoint", None),
    "ChatGLM-6B, int8": ("chatglm_6b/checkpoint_int8", None),
    "ChatGLM-6B, int4": ("chatglm_6b/checkpoint_int4", None),
    "ChatGLM2-6B": ("chatglm2_6b/checkpoint", None),
    "ChatGLM2-6B, int8": ("chatglm2_6b/checkpoint_int8", None),
    "ChatGLM2-6B, int4": ("chatglm2_6b/checkpoint_int4", None),
    "ChatGLM3-6B": ("chatglm3_6b/checkpoint", None),
    "ChatGLM3-6B, int4": ("chatglm3_6b/checkpoint_int4", None),
    "GLM-4-9B, original class": ("glm4_9b/checkpoint", None),
    "GLM-4-9B, transformers": ("glm_hf/checkpoint", None),
    "GLM-4-0414": ("glm4_0414/checkpoint", None),
}


def with_prefix(work: Path) -> Path:
    """ChatGLM2 with a P-Tuning prefix among its weights."""
    source, tensors = GOLDEN / "chatglm2_6b", {}
    for path in [*source.glob("checkpoint/*.bin"), *source.glob("prefix/*.bin"), *source.glob("prefix/*.safetensors")]:
        tensors |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, work / "model.safetensors")
    shutil.copy(source / "checkpoint/config.json", work)
    return work


def codegeex2(work: Path) -> Path:
    """ChatGLM2's network under another name."""
    folder = shutil.copytree(GOLDEN / "chatglm2_6b/checkpoint", work / "codegeex2")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"_name_or_path": "THUDM/codegeex2-6b"}))
    return folder


def of_transformers(kind: str, **options: Any) -> Callable[[Path], Path]:
    """A random model, saved by a class of `transformers`."""

    def make(work: Path) -> Path:
        import transformers

        shape = dict(vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
        shape |= dict(num_key_value_heads=2, head_dim=16, max_position_embeddings=256, pad_token_id=3, eos_token_id=[3])
        torch.manual_seed(3)
        model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**shape | options))
        randomize(model)
        model.save_pretrained(work)
        return work

    return make


def ours(score: bool = False, bits: int = 0) -> Callable[[Path], Path]:
    """A small random model in our own format."""

    def make(work: Path) -> Path:
        shape = dict(vocab_size=256, layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn_hidden=96)
        model = Transformer(dataclasses.replace(model_preset("nano", **shape, max_positions=128), score=score))
        randomize(model)
        folder = save_model(work / "whole", model.eval(), None)
        return quantize_checkpoint(folder, work / "codes", bits, GROUP) if bits else folder

    return make


def randomize(model: torch.nn.Module) -> None:
    """Numbers larger than a network begins with, so that every option shows, and that half precision holds."""
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.6 if weight.dim() == 1 else 0.0, 0.2)
        weight.data.copy_(weight.half())


_YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, rope_theta=10000.0)
_MADE = {
    "ChatGLM2-6B with a prefix": with_prefix,
    "CodeGeeX2-6B": codegeex2,
    "GLM-Z1-0414, YaRN": of_transformers("Glm4", rope_parameters=_YARN, max_position_embeddings=128),
    "GLM-Edge": of_transformers("Glm", partial_rotary_factor=1.0, attention_bias=False, tie_word_embeddings=True),
    "ours": ours(),
    "ours, int4": ours(bits=4),
    "ours, reward model": ours(score=True),
}
KINDS = (*_SAVED, *_MADE)


def folder_of(kind: str, work: Path) -> tuple[Path, str | None]:
    """The folder of a kind, made in `work` where it is not kept, and what `config` names for it."""
    return (GOLDEN / _SAVED[kind][0], _SAVED[kind][1]) if kind in _SAVED else (_MADE[kind](work), None)


def prompt(model: Transformer) -> torch.Tensor:
    """[1, 60] ids that the family can read."""
    tokens, length = model.config.tokens, min(60, model.config.max_positions)
    ids = torch.randint(8, 100, (1, length), generator=torch.Generator().manual_seed(1))
    ids[:, -2:] = torch.tensor([tokens.gmask, tokens.sop]) if tokens.gmask >= 0 else ids[:, -2:]
    return ids


def rounded(model: Transformer, bits: int) -> Transformer:
    """The network with each matrix rounded as a quantized copy holds it."""
    for name, matrix in model.config.matrices().items():
        module, wanted = model.get_submodule(name), matrix.quantized_bits(bits)
        if wanted in (0, getattr(module, "bits", 0)):
            continue
        codes = quantize(module.weight.data, *matrix_format(matrix, bits, GROUP))
        if hasattr(module, "codes"):  # int8 that becomes int4
            model.set_submodule(name, type(module).holding(module, *codes))
        else:
            module.weight.data = dequantize(*codes)
    return model


@torch.no_grad()
def difference(folder: Path, config: str | None, target: str, work: Path) -> float:
    """Largest difference of a copy's logits from the source's, as a share of the largest. ValueError: a refusal."""

    def load(path: Path, **options: Any) -> Transformer:
        return load_model(path, device="cpu", dtype="float32", **options)

    source = load(folder, config=config)
    ids, out = prompt(source), work / "out"
    if target.startswith("int"):
        copy = load(quantize_checkpoint(folder, out, int(target[3:]), GROUP, config=config)).logits(ids)
        source = rounded(source, int(target[3:]))
    elif target == "openglm":
        copy = load(convert(folder, out, target, config=config)).logits(ids)
    elif target == "gguf":
        copy = stored_model(source, convert(folder, out, target, config=config)).logits(ids)
    else:
        from transformers import AutoModelForCausalLM

        path = convert(folder, out, target, config=config)
        copy = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()(ids).logits
    wanted = source.logits(ids)
    return float((copy - wanted).abs().max() / wanted.abs().max())


def cells(kind: str) -> Iterator[float | str]:
    """The row of a kind: for each target the difference, or the refusal."""
    with tempfile.TemporaryDirectory() as base:
        folder, config = folder_of(kind, Path(base))
        for target in TARGETS:
            (work := Path(base) / target).mkdir()
            try:
                yield difference(folder, config, target, work)
            except ValueError as error:
                yield str(error).replace(str(folder), folder.name)


def main() -> None:
    reasons: list[str] = []
    print(f"| folder | {' | '.join(TARGETS)} |\n|---{'|---' * len(TARGETS)}|")
    for kind in KINDS:
        shown = []
        for target, cell in zip(TARGETS, cells(kind), strict=True):
            if isinstance(cell, str):
                reason = cell.split(": ", 1)[1].replace(f"which {target}", "which this target")
                reasons += [] if reason in reasons else [reason]
                shown.append(f"refused ({reasons.index(reason) + 1})")
            else:
                shown.append(f"{cell:.0e}" if cell else "0")
        print(f"| {kind} | {' | '.join(shown)} |", flush=True)
    print("\n".join(f"\n{number}. {reason}" for number, reason in enumerate(reasons, 1)))


if __name__ == "__main__":
    main()
