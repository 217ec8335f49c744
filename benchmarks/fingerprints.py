"""Hashes of what must not change when code is only moved: logits of every family and golden case, and three short trainings, bit for bit.

    python benchmarks/fingerprints.py before.json            in one state of the repository
    python benchmarks/fingerprints.py after.json before.json  in another, on the same machine: names what differs

One thread, on the CPU. Needs the golden cases (see tests/golden).
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "checkpoints"))
import test_golden as golden
from helpers import families, tiny_runs

import openglm
from openglm.config import OptimizerConfig

RUNS = {
    "adamw": {},
    "muon and average": {"optimizer": OptimizerConfig(name="muon", lr=1e-2), "ema": 0.9},
    "bfloat16": {"dtype": "bfloat16"},
}


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()


@torch.no_grad()
def logits() -> dict[str, str]:
    found = {}
    for kind in families.KINDS:
        model = families.network(families.small(kind))
        ids = torch.tensor([families.prompt(model.config, 11, seed) for seed in (1, 2)])
        found[f"logits, {kind}"] = digest(model.logits(ids))
        found[f"answer, {kind}"] = digest(openglm.generate(model, ids, 6))
    for (name, folder, options, _), case in zip(golden.CASES, golden.IDS, strict=True):
        model = golden.opened(name, folder, tuple(options.items()))
        for prompt, (ids, real) in golden.prompts(name).items():
            found[f"golden, {case}, {prompt}"] = digest(model.logits(ids, real)[real])
    return found


def training(options: dict) -> str:
    """Losses, norms and rates of 50 steps, and the finished weights."""
    record: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        result = tiny_runs.run(
            Path(folder),
            on_step=lambda _, step: record.extend([step["loss"], step["grad_norm"], step["lr"]]),
            **{"steps": 50, "save_every": 25, "eval_every": 10, **options},
        )
        weights = openglm.load_model(result.model, dtype="float32").state_dict()
    parts = [digest(torch.tensor(record, dtype=torch.float64)), *map(digest, weights.values())]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def main() -> int:
    torch.set_num_threads(1)
    found = logits() | {f"50 steps, {name}": training(options) for name, options in RUNS.items()}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if len(sys.argv) < 3:
        return 0
    before = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    differing = [name for name in before if name in found and found[name] != before[name]]
    print(f"{len(before.keys() & found.keys())} compared, {len(differing)} differ: {', '.join(differing)}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
