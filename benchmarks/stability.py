"""Stability at small scale: without and with the measures of GLM-130B, at a usual and at a large learning rate; and spikes left out or jumped over.

    python benchmarks/stability.py CORPUS [--steps 80] [--rates 5e-4 3e-3 5e-2 1e-1] [--json FILE] [--out docs/images/stability.png]

Half precision is simulated as Apex O2 has it: what linear layers, norms, embedding and blocks give, and every gradient, is rounded to float16 and overflows there;
products add up in fp32, as tensor cores do; weights and optimizer stay in fp32; the loss scale is the guard's. Three networks of one shape:
Pre-LN and Post-LN (DeepNorm with alpha 1 and GLM's plain initial weights) with attention scores and their softmax in float16; and GLM-130B's measures together: DeepNorm
with its initial weights, embedding-gradient shrink 0.1, scores divided by the layer's number, softmax in fp32. A batch whose loss or gradient overflows is left out.

The second half runs the real loop on a corpus in which some rows are noise (random tokens, random targets): kept, left out, or jumped over from the last checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from openglm.config import (
    DataConfig,
    InfillingConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    StabilityConfig,
    TrainConfig,
)
from openglm.data.mixture import Row, batches
from openglm.model import attention
from openglm.model.transformer import Block, Transformer
from openglm.parallel.processes import Processes
from openglm.text.load import load_tokenizer
from openglm.train.forward_backward import WholeForwardBackward
from openglm.train.loop import train
from openglm.train.optimizer import Optimizers, learning_rate
from openglm.train.pretrain import fit_to_tokenizer, make_rows
from openglm.train.run import Run
from openglm.train.stability import Guard, unscale

ALONE = Processes(torch.device("cpu"))
SEQ, ROWS = 64, 8
SHAPE = {
    "layers": 8,
    "hidden": 64,
    "heads": 4,
    "ffn_hidden": 168,
    "max_positions": SEQ,
    "norm": "layernorm",
    "activation": "geglu",
    "bias": "all",
    "positions": "rope",
}
KINDS = {
    "Pre-LN, bare": {},
    "Post-LN, bare": {"residual": "deepnorm", "deepnorm_alpha": 1.0},
    "GLM-130B's measures": {"residual": "deepnorm", "embedding_gradient_shrink": 0.1, "qk_layer_scaling": True},
}  # fmt: skip
NOISE = range(560, 584)  # rows; the batches of steps 71 to 73


class Half(torch.autograd.Function):
    """Through float16 and back, forward and backward."""

    @staticmethod
    def forward(_, x: Tensor) -> Tensor:
        return x.half().float()

    @staticmethod
    def backward(_, gradient: Tensor) -> Tensor:
        return gradient.half().float()


def in_half(model: Transformer) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding, nn.LayerNorm, Block)):
            module.register_forward_hook(lambda _, inputs, out: Half.apply(out))
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient.half().float())


def attend_in_half(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Scores and softmax in float16, without care."""
    scores = Half.apply(q @ k.transpose(-1, -2) * scale)
    mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() if mask is None else mask
    return Half.apply(Half.apply(torch.softmax(scores.masked_fill(~mask, -65504.0), -1)) @ v)


@contextmanager
def careless(wanted: bool):
    usual = attention.attend
    attention.attend = attend_in_half if wanted else usual
    try:
        yield
    finally:
        attention.attend = usual


def corpus(path: str, **shape):
    tokenizer = load_tokenizer(path)
    config = fit_to_tokenizer(ModelConfig(vocab_size=1, **{**SHAPE, **shape}), tokenizer)
    return config, *make_rows(DataConfig(path=path), InfillingConfig(), config, tokenizer, SEQ)


def network(config: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config)
    model.initialize()
    if config.deepnorm_alpha == 1.0:  # Post-LN, not DeepNorm: its initial weights as well
        torch.manual_seed(0)
        plain = Transformer(dataclasses.replace(config, residual="pre"))
        plain.initialize()
        model.load_state_dict(plain.state_dict())
    in_half(model)
    return model.train()


def by_layer(model: Transformer) -> list[float]:
    """Norm of the gradient of the embedding, and of each block."""
    parts = [[model.embedding.weight], *([*block.parameters()] for block in model.blocks)]
    return [float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm([p.grad for p in part])))) for part in parts]


def curve(path: str, kind: str, rate: float, steps: int) -> dict:
    """Loss, norm, norm by layer and loss scale of each step; ends where 20 batches in a row had to be left out."""
    config, rows, _ = corpus(path, **KINDS[kind])
    model, optimizer = network(config), OptimizerConfig(lr=rate, warmup_ratio=0.05)
    optimizers = Optimizers(model.named_parameters(), optimizer, torch.float32, ALONE)
    guard = Guard(StabilityConfig(policy="skip", limit=10**6), ROWS, True, config.embedding_gradient_shrink)
    seen: dict[str, list] = {"loss": [], "norm": [], "layers": [], "scale": [], "left out": []}
    forward_backward, seconds, apart = WholeForwardBackward(model, ALONE, torch.float32, ROWS), 0.0, 0.0
    with careless(kind.endswith("bare")):
        for step, batch in enumerate(itertools.islice(batches(rows, 0, ROWS, 0), steps), 1):
            started, total, scale = time.process_time(), float(batch["loss_mask"].sum()), guard.memory.scale
            loss = forward_backward.gradient(batch, total / scale) / total
            unscale(model.parameters(), scale)
            before = time.process_time()
            layers = by_layer(model)
            apart += time.process_time() - before
            norm = optimizers.clip()
            action = guard.judge(loss, norm)
            optimizers.step(learning_rate(step, steps, optimizer)) if action is None else model.zero_grad()
            seconds += time.process_time() - started
            for name, value in zip(seen, (loss, norm, layers, scale, action is not None), strict=True):
                seen[name].append(value)
            if len(seen["loss"]) >= 20 and all(seen["left out"][-20:]):
                break
    print(f"{kind:22} lr {rate:g}: {summary(seen)}", flush=True)
    return {"kind": kind, "rate": rate, **seen, "share of the time for norms by layer": apart / seconds}


def summary(seen: dict) -> str:
    last = statistics.fmean(seen["loss"][-20:])
    first, end = (
        statistics.median(sum(norms[1:3]) / 2 for norms in part) for part in (seen["layers"][:3], seen["layers"][-20:])
    )
    return f"steps {len(seen['loss'])}, loss of the last 20 {last:.3f}, left out {sum(seen['left out'])}, gradient of blocks 1 and 2: {first:.2g} at first, {end:.2g} at last"


class Noisy:
    """The corpus, but for some rows of noise."""

    def __init__(self, rows, vocab: int, noise: range) -> None:
        self.rows, self.vocab, self.noise, self.fingerprint = rows, vocab, noise, f"{rows.fingerprint} {noise}"

    def row(self, i: int) -> Row:
        row = self.rows.row(i)
        if i not in self.noise:
            return row
        tokens, targets = np.random.default_rng(i).integers(10, self.vocab, (2, SEQ))
        return dataclasses.replace(row, tokens=tokens, targets=targets, loss_mask=np.ones(SEQ, np.float32))


def spikes(path: str, name: str, stability: StabilityConfig, noise: range, steps: int = 120) -> dict:
    """The real loop, fp32: loss of each step in the order in which they were made, acts, and the held-out loss at the end."""
    config, rows, heldout = corpus(path, layers=4, hidden=32, heads=2, ffn_hidden=84)
    with tempfile.TemporaryDirectory() as out:
        options = TrainConfig(
            out=out,
            steps=steps,
            seq_len=SEQ,
            batch_rows=ROWS,
            device="cpu",
            dtype="float32",
            save_every=20,
            keep=9,
            eval_every=steps,
            eval_rows=32,
        )
        seen: list[dict] = []
        optimizer = OptimizerConfig(lr=1e-2, warmup_ratio=0.05)
        result = train(
            Run(
                config=RunConfig(train=options, optimizer=optimizer, stability=stability),
                model=config,
                rows=Noisy(rows, config.vocab_size, noise),
                heldout=heldout,
                on_step=lambda _, record: seen.append(record),
            )
        )
        acts = [line for line in map(json.loads, (Path(out) / "log.jsonl").read_text().splitlines()) if "act" in line]
    heldout_loss = statistics.fmean(result.heldout.values())
    print(
        f"{name:22} held-out loss {heldout_loss:.4f}; loss of the last 10 steps {statistics.fmean(r['loss'] for r in seen[-10:]):.4f}; acts {json.dumps(acts)}",
        flush=True,
    )
    acted = [i for i, r in enumerate(seen) if "act" in r]
    return {
        "name": name,
        "step": [r["step"] for r in seen],
        "loss": [r["loss"] for r in seen],
        "norm": [r["grad_norm"] for r in seen],
        "acts": acted,
        "heldout": heldout_loss,
    }


def draw(curves: list[dict], runs: list[dict], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rates = sorted({c["rate"] for c in curves})
    figure, axes = plt.subplots(len(rates) + 1, 4, figsize=(19, 4 * len(rates) + 4), constrained_layout=True)
    for row, rate in zip(axes, rates, strict=False):
        for axis, c in zip(row[1:], (c for c in curves if c["rate"] == rate), strict=True):
            row[0].plot(c["loss"], label=c["kind"])
            norms = np.ma.masked_invalid(np.log10(np.maximum(np.array(c["layers"]).T, 1e-9)))
            image = axis.imshow(
                norms, aspect="auto", origin="lower", vmin=-5, vmax=1, cmap="viridis", interpolation="nearest"
            )
            axis.set(
                title=f"{c['kind']}, lr {rate:g}: log10 of the gradient norm\n(white: not finite)",
                xlabel="step",
                ylabel="embedding (0) and blocks",
            )
            figure.colorbar(image, ax=axis)
        row[0].set(title=f"loss at lr {rate:g}, float16 simulated", xlabel="step", ylim=(6.5, 12))
        row[0].legend()
    for run, axis in zip(runs, axes[-1], strict=False):
        axis.plot(run["loss"], lw=1)
        for act in run["acts"]:
            axis.axvline(act, color="tab:red", ls=":", lw=1)
        axis.set(
            title=f"noise, {run['name']}\nheld-out loss {run['heldout']:.3f}",
            xlabel="steps as made; dotted: an act",
            ylim=(6, 12),
        )
    figure.savefig(out, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 3e-3, 5e-2, 1e-1])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images/stability.png"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    guarded = {"loss_spike": 6.0, "norm_spike": 25.0}
    policies = {
        "kept": (StabilityConfig(), NOISE),
        "skip": (StabilityConfig(policy="skip", **guarded), NOISE),
        "rollback": (StabilityConfig(policy="rollback", **guarded), NOISE),
        "no noise at all": (StabilityConfig(policy="skip", **guarded), range(0)),
    }
    curves = [curve(args.corpus, kind, rate, args.steps) for rate in args.rates for kind in KINDS]
    print("time for norms by layer: " + ", ".join(f"{c['share of the time for norms by layer']:.1%}" for c in curves))
    runs = [spikes(args.corpus, name, *policy) for name, policy in policies.items()]
    if args.json:
        args.json.write_text(json.dumps({"curves": curves, "spikes": runs}))
    draw(curves, runs, args.out)
    assert all(math.isfinite(run["heldout"]) for run in runs)


if __name__ == "__main__":
    main()
