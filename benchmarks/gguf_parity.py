"""llama.cpp on our GGUF files against our own network in fp32: random small models with a real vocabulary, token by token.

    python benchmarks/gguf_parity.py [--tokenizer nano] [--kinds f16 q8_0 q4_0] [--steps 32] [--json]

Weights are numbers that fp16 holds, so an F16 file is the same model, and llama.cpp differs by its half-precision activations and cache alone.
Both sides continue prompts given as ids; llama.cpp is fed our answer, so where all its choices agree, its own greedy answer is the same. A margin
is the distance of our two largest logits, its error what llama.cpp makes of it. Rows of an output matrix of its own have lengths of different
scale, as trained ones have: with equal rows, the margins of 100,000 random logits drown in rounding. For q8_0 and q4_0 the error is mostly that
of the weights; `against_file` compares with our network on the weights that stand in the file.
Needs llama-cpp-python (extra `bench`), which compiles for 10 to 20 minutes.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from openglm import generate, load_tokenizer
from openglm.checkpoints.gguf import layout, write_gguf
from openglm.config import ModelConfig
from openglm.model.transformer import Transformer
from openglm.presets import model_preset

PROMPTS = (3, 20, 75)  # tokens
NETWORKS: dict[str, tuple[str, dict]] = {
    "chatglm": ("glm-4-9b-chat", {}),
    "chatglm tied": ("chatglm3-6b", {"tied": True, "kv_heads": 8, "bias": "none"}),
    "glm4": ("glm-4-0414-9b", {"kv_heads": 4}),
    "glm4 without bias": ("glm-4-0414-32b", {"head_dim": 64}),
}


def random_model(network: str, tokenizer: Any, seed: int = 1) -> Transformer:
    """4 layers, hidden 256, 8 query heads, with the rows and special tokens of a vocabulary."""
    preset, changes = NETWORKS[network]
    names = {
        name: tokenizer.special.get(token, -1)
        for name, token in (
            ("mask", "[MASK]"),
            ("gmask", "[gMASK]"),
            ("smask", "[sMASK]"),
            ("sop", "<sop>"),
            ("eop", "<eop>"),
        )
    }
    tokens = {**names, "pad": tokenizer.special.get("<|endoftext|>", 0), "stop": (tokenizer.special["<|user|>"],)}
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "layers": 4,
        "hidden": 256,
        "heads": 8,
        "ffn_hidden": 640,
        "head_dim": 0,
        "max_positions": 256,
        "tokens": tokens,
    }
    model = Transformer(model_preset(preset, **{**shape, **changes})).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            weight.normal_(1.0 if "norm" in name else 0.0, 0.2, generator=generator)
        else:
            weight.normal_(0.0, 1.0 * weight.shape[1] ** -0.5, generator=generator)
    if model.head is not None:
        model.head.weight.mul_(torch.randn(model.config.vocab_size, 1, generator=generator).mul(0.7).exp())
    for weight in model.parameters():
        weight.copy_(weight.half())
    return model


def prompt_ids(config: ModelConfig, length: int) -> list[int]:
    rest = np.random.default_rng(length).integers(10, config.vocab_size // 2, length - 2)
    return [config.tokens.gmask, config.tokens.sop, *rest.tolist()]


def our_answer(model: Transformer, prompt: Sequence[int], steps: int) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens by the plain loop, and the logits [steps, V] before each."""
    ids = generate(model, torch.tensor([prompt]), steps)
    return ids[0].tolist(), model.logits(ids[:, :-1])[0, len(prompt) - 1 :]


def their_logits(path: Path, rows: Sequence[Sequence[int]], given: Sequence[int]) -> list[np.ndarray]:
    """llama.cpp's logits [steps, V] after each row's first `given` tokens and after each further one but the last, read one by one through its cache."""
    import llama_cpp

    llama, found = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, logits_all=True, verbose=False), []
    for row, length in zip(rows, given, strict=True):
        llama.reset()
        llama.eval(row[:length])
        for token in row[length:-1]:
            llama.eval([token])
        found.append(llama.scores[length - 1 : len(row) - 1].copy())
    llama.close()
    return found


def stored_model(model: Transformer, path: Path) -> Transformer:
    """The network with the weights that stand in the file."""
    other = copy.deepcopy(model)
    weights = dict(other.named_parameters())
    placed = dict(layout(model.config.layers, weights))
    for tensor in gguf.GGUFReader(path).tensors:
        names = placed[tensor.name]
        numbers = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
        for name, part in zip(names, numbers.split([len(weights[name]) for name in names]), strict=True):
            weights[name].copy_(part)
    return other


def parity(model: Transformer, tokenizer: Any, kind: str, steps: int = 32) -> dict[str, Any]:
    """Write the model, let both sides answer the prompts, and compare."""
    prompts = [prompt_ids(model.config, length) for length in PROMPTS]
    rows, ours = zip(*(our_answer(model, prompt, steps) for prompt in prompts), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        path = write_gguf(Path(folder) / "model.gguf", dict(model.named_parameters()), model.config, tokenizer, kind)
        theirs, size, stored = (
            their_logits(path, rows, PROMPTS),
            path.stat().st_size,
            model if kind == "f16" else stored_model(model, path),
        )
    again = [stored.logits(torch.tensor([row[:-1]]))[0, given - 1 :] for row, given in zip(rows, PROMPTS, strict=True)]
    ours_SV, again_SV, theirs_SV = torch.cat(ours), torch.cat(again), torch.from_numpy(np.concatenate(theirs))
    best = ours_SV.topk(2)
    margin, their_margin = best.values.diff().neg()[:, 0], theirs_SV.gather(1, best.indices).diff().neg()[:, 0]
    return {
        "kind": kind, "parameters": model.config.parameters, "file_bytes": size, "steps": len(ours_SV), "same_tokens": int((ours_SV.argmax(-1) == theirs_SV.argmax(-1)).sum()),
        "distinct_tokens": len(set(ours_SV.argmax(-1).tolist())), "smallest_margin": float(margin.min()), "largest_margin_error": float((margin - their_margin).abs().max()),
        "smallest_margin_by_its_error": float((margin / (margin - their_margin).abs()).min()), "relative_error": relative_error(theirs_SV, ours_SV),
        "against_file": {"same_tokens": int((again_SV.argmax(-1) == theirs_SV.argmax(-1)).sum()), "relative_error": relative_error(theirs_SV, again_SV)},
    }  # fmt: skip


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", default="nano", help="folder of a tokenizer, or the name of a bundled one")
    parser.add_argument("--kinds", nargs="+", default=["f16", "q8_0", "q4_0"], help="storage types")
    parser.add_argument("--steps", type=int, default=32, help="tokens generated after each of the three prompts")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    tokenizer, found = load_tokenizer(args.tokenizer), {}
    for network in NETWORKS:
        model = random_model(network, tokenizer)
        found[network] = [parity(model, tokenizer, kind, args.steps) for kind in args.kinds]
    lines = (
        f"{network:<20}" + "  ".join(f"{name} {value}" for name, value in row.items())
        for network, rows in found.items()
        for row in rows
    )
    print(json.dumps(found) if args.json else "\n".join(lines))


if __name__ == "__main__":
    main()
