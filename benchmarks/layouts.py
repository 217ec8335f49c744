"""The same training run in every layout of one, two and four processes: are its losses and its weights the same?

    python benchmarks/layouts.py --out FOLDER [--steps 50] [--picture FILE.png] [--processes 2 4]

A small GLM (4 blocks, 64 wide, 4 query heads and 2 key/value heads, tied) learns to repeat texts, in fp32 with AdamW, running averages and two micro-batches
(four where there are four stages). Every layout starts from the same seed. Chains are runs that are stopped and go on in another layout. Processes talk through
gloo on this machine. Finished runs in --out are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

import torch
from measure import table
from runs import tiny_runs, torchrun

from openglm.checkpoints.sharded import whole_tensors
from openglm.config import ModelConfig, OptimizerConfig, ParallelConfig, RunConfig, TrainConfig
from openglm.train.loop import train
from openglm.train.run import Run

SEQ, VOCAB = 48, 96
MODEL = ModelConfig(
    vocab_size=VOCAB, layers=4, hidden=64, heads=4, kv_heads=2, ffn_hidden=128, max_positions=SEQ, qk_norm=True
)
ALONE = "1 process"
LAYOUTS: dict[int, dict[str, dict]] = {
    2: {
        "data 2, ZeRO-1": {"data": 2}, "data 2, ZeRO-2": {"data": 2, "zero": 2}, "data 2, ZeRO-3": {"data": 2, "zero": 3}, "tensor 2": {"tensor": 2},
        "pipeline 2, GPipe": {"pipeline": 2, "schedule": "gpipe"}, "pipeline 2, 1F1B": {"pipeline": 2},
        "pipeline 2, interleaved": {"pipeline": 2, "schedule": "interleaved", "chunks": 2}, "pipeline 2, zero-bubble": {"pipeline": 2, "schedule": "zero-bubble"},
    },
    4: {
        "data 4, ZeRO-1": {"data": 4}, "data 4, ZeRO-3": {"data": 4, "zero": 3},
        "data 2 x tensor 2": {"data": 2, "tensor": 2}, "data 2 x tensor 2, ZeRO-3": {"data": 2, "tensor": 2, "zero": 3},
        "data 2 x pipeline 2": {"data": 2, "pipeline": 2}, "tensor 2 x pipeline 2": {"tensor": 2, "pipeline": 2}, "pipeline 4, 1F1B": {"pipeline": 4},
    },
}  # fmt: skip
CHAINS = {  # layouts that one run goes through, and their processes
    "4 (data x tensor), then 2 (pipeline)": [(4, {"data": 2, "tensor": 2}), (2, {"pipeline": 2})],
    "2 (ZeRO-3), then 4 (tensor x pipeline), then 1": [
        (2, {"data": 2, "zero": 3}),
        (4, {"tensor": 2, "pipeline": 2}),
        (1, {}),
    ],
}


def rows(seed: int) -> tiny_runs.Rows:
    return tiny_runs.Rows(seed, SEQ, VOCAB)


def run(out: Path, steps: int, stop_at: int, parallel: ParallelConfig) -> None:
    """Train, or go on, in `out`; with stop_at, up to that step."""
    losses: dict[int, float] = {}

    def on_step(step: int, record: dict) -> None:
        losses[step] = record["loss"]
        if step == stop_at:
            (out / "stop").touch()

    accumulation = max(2, parallel.pipeline)
    options = TrainConfig(
        str(out),
        steps,
        SEQ,
        16,
        accumulation,
        device="cpu",
        dtype="float32",
        ema=0.9,
        save_every=steps,
        eval_every=max(1, steps // 2),
        eval_rows=16,
        log_every=1,
    )
    config = RunConfig(train=options, optimizer=OptimizerConfig(lr=1e-3), parallel=parallel)
    train(Run(config=config, model=MODEL, rows=rows(0), heldout={"heldout": rows(1)}, on_step=on_step))
    if int(os.environ.get("RANK", 0)) == 0:
        kept = out / "losses.json"
        before = json.loads(kept.read_text()) if kept.exists() else {}
        kept.write_text(json.dumps({**before, **losses}))


def work(spec: list) -> None:
    """What each process does: several runs, one after another, over the same connections."""
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
    for out, steps, stop_at, parallel in spec:
        run(Path(out), steps, stop_at, ParallelConfig(**parallel))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def launch(processes: int, spec: list, timeout: float = 3600) -> None:
    """Start `work` in so many processes. Raises RuntimeError with the end of what they said."""
    done = subprocess.run(
        torchrun(processes, __file__, "--work", json.dumps(spec)),
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])


def weights(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint."""
    folder = max((out / "checkpoints").glob("step-*"))
    return {f"{kind}|{name}": tensor for kind in ("weights", "average") for name, tensor in whole_tensors(folder, kind)}


def folder_of(out: Path, name: str) -> Path:
    return out / name.replace(" ", "-").replace(",", "").replace("(", "").replace(")", "")


def compare(out: Path, name: str) -> dict[str, float]:
    """Largest differences from the run of one process."""
    ours, reference = (json.loads((folder_of(out, n) / "losses.json").read_text()) for n in (name, ALONE))
    held, expected = weights(folder_of(out, name)), weights(folder_of(out, ALONE))
    assert held.keys() == expected.keys() and ours.keys() == reference.keys(), name
    return {
        "loss": max(abs(ours[s] / reference[s] - 1) for s in reference),
        "weights": max(float((held[n] - expected[n]).abs().max()) for n in held),
    }  # fmt: skip


def picture(out: Path, names: list[str], path: str) -> None:
    from matplotlib.figure import Figure

    curves = {name: json.loads((folder_of(out, name) / "losses.json").read_text()) for name in (ALONE, *names)}
    steps = sorted(map(int, curves[ALONE]))
    figure = Figure((12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, curve in curves.items():
        left.plot(steps, [curve[str(s)] for s in steps], lw=1)
        if name != ALONE:
            right.semilogy(
                steps, [max(abs(curve[str(s)] / curves[ALONE][str(s)] - 1), 1e-9) for s in steps], lw=1, label=name
            )
    left.set(xlabel="step", ylabel="loss, nats a token", title=f"{len(curves)} layouts, one curve")
    right.axhline(1e-4, color="#b33", ls="--", lw=1)
    right.set(xlabel="step", title="relative difference from one process (bound: 1e-4)")
    right.legend(fontsize=6, ncols=2)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the runs")
    parser.add_argument("--steps", type=int, default=50, help="steps of each run")
    parser.add_argument("--processes", type=int, nargs="*", default=[2, 4], help="numbers of processes to try")
    parser.add_argument("--picture", help="write the picture here")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(json.loads(args.work))
        return

    def missing(specs: dict[str, tuple]) -> list:
        return [
            [str(folder_of(args.out, name)), *spec]
            for name, spec in specs.items()
            if not (folder_of(args.out, name) / "model").is_dir()
        ]

    launch(1, missing({ALONE: (args.steps, 0, {})}))
    for count in args.processes:
        if spec := missing({name: (args.steps, 0, layout) for name, layout in LAYOUTS[count].items()}):
            launch(count, spec)
    names = [name for count in args.processes for name in LAYOUTS[count]]
    if 4 in args.processes:
        for name, parts in CHAINS.items():
            for number, (count, layout) in enumerate(parts, 1):
                if spec := missing(
                    {name: (args.steps, args.steps * number // len(parts) if number < len(parts) else 0, layout)}
                ):
                    launch(count, spec)
        names += CHAINS
    columns = ["layout", "loss, largest relative difference", "weights and averages, largest difference"]
    apart = {name: compare(args.out, name) for name in names}
    print(table(columns, [[name, f"{d['loss']:.1e}", f"{d['weights']:.1e}"] for name, d in apart.items()]))
    if args.picture:
        picture(args.out, names, args.picture)


if __name__ == "__main__":
    main()
