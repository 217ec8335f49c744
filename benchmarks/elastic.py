"""A worker is killed with -9 at random moments, torchrun starts all again, and the run ends with the weights of one that was never hurt.

python benchmarks/elastic.py --out FOLDER [--kills 10] [--processes 2] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import layouts
import torch
from runs import tiny_runs, torchrun

STEPS, EVERY = 300, 10


def work(out: Path, parallel: dict) -> None:
    """What each process does; it leaves its number in the folder so that it can be found."""
    from openglm.config import OptimizerConfig, ParallelConfig, RunConfig, TrainConfig
    from openglm.train.loop import train
    from openglm.train.run import Run

    torch.set_num_threads(1)
    (out / f"pid-{os.environ.get('RANK', 0)}").write_text(str(os.getpid()))
    options = TrainConfig(
        str(out),
        STEPS,
        layouts.SEQ,
        16,
        2,
        device="cpu",
        dtype="float32",
        save_every=EVERY,
        eval_every=STEPS,
        eval_rows=16,
        log_every=1,
    )

    def on_step(step: int, _: dict) -> None:
        (out / "step").write_text(str(step))

    train(
        Run(
            config=RunConfig(train=options, optimizer=OptimizerConfig(lr=1e-3), parallel=ParallelConfig(**parallel)),
            model=layouts.MODEL,
            rows=layouts.rows(0),
            on_step=on_step,
        )
    )


def start(out: Path, processes: int, parallel: dict, restarts: int) -> subprocess.Popen:
    out.mkdir(parents=True)
    command = torchrun(processes, __file__, "--out", str(out), "--work", json.dumps(parallel), restarts=restarts)
    with (out / "output.txt").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def hurt(out: Path, launcher: subprocess.Popen, kills: int, processes: int, chance: random.Random) -> list[int]:
    """Kill one worker after another, each once the run has got some random steps further than before. Returns the steps at which they died."""
    died = []
    while len(died) < kills and launcher.poll() is None:
        wanted = (died[-1] if died else 0) // EVERY * EVERY + chance.randrange(1, STEPS // kills)
        while (
            launcher.poll() is None and int((out / "step").read_text() or 0 if (out / "step").exists() else 0) < wanted
        ):
            time.sleep(0.01)
        if launcher.poll() is not None:
            break
        died.append(int((out / "step").read_text() or 0))
        (out / "step").unlink()
        os.kill(int((out / f"pid-{chance.randrange(processes)}").read_text()), signal.SIGKILL)
    return died


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--kills", type=int, default=10, help="workers to kill")
    parser.add_argument(
        "--processes", type=int, default=2, help="workers; half of them share matrices where there are four"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of who dies when")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.out, json.loads(args.work))
        return 0
    parallel = {"tensor": 2} if args.processes == 4 else {}
    whole = start(args.out / "whole", args.processes, parallel, 0)
    assert whole.wait() == 0, (args.out / "whole/output.txt").read_text()[-2000:]
    broken = start(args.out / "broken", args.processes, parallel, args.kills)
    died = hurt(args.out / "broken", broken, args.kills, args.processes, random.Random(args.seed))
    code = broken.wait()
    assert code == 0, (args.out / "broken/output.txt").read_text()[-2000:]
    ours, theirs = layouts.weights(args.out / "broken"), layouts.weights(args.out / "whole")
    logs_equal = tiny_runs.log_lines(args.out / "broken") == tiny_runs.log_lines(args.out / "whole")
    different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    print(
        f"{args.processes} workers, {len(died)} killed at steps {died} of {STEPS}; tensors that differ: {len(different)} of {len(theirs)}; logs equal: {logs_equal}"
    )
    return 1 if different or len(died) < args.kills else 0


if __name__ == "__main__":
    sys.exit(main())
