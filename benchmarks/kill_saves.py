"""Kill a training run inside its saves, again and again, and see what is left.

    python benchmarks/kill_saves.py [--kills 200] [--seed 0]

Random instants: a run that saves after every step gets SIGKILL at a random moment of a save; the next one resumes. Stages: a process
dies before its k-th operation on files, for every k of one save. After each death all visible checkpoints are verified and the newest
is compared with the last step that had begun to be saved. One JSON object on standard output.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from runs import child, tiny_runs

from openglm.config import ModelConfig, OptimizerConfig
from openglm.train import state

SHAPE = ModelConfig(
    vocab_size=tiny_runs.VOCAB, layers=2, hidden=128, heads=4, ffn_hidden=512, max_positions=tiny_runs.SEQ
)  # half a million weights: 6 MB a save


def train_on(out: Path) -> None:
    tiny_runs.run(
        out,
        OptimizerConfig(),
        model=SHAPE,
        steps=1_000_000,
        batch_rows=2,
        accumulation=1,
        save_every=1,
        log_every=1,
        eval_every=1_000_000,
    )


def report_saves(write: int) -> None:
    """From now on a process says when a save begins and ends."""
    save = state.Saver.save

    def reporting(saver, now, settings):
        os.write(write, b"begin %d\n" % now.step)
        save(saver, now, settings)
        os.write(write, b"end %d\n" % now.step)

    state.Saver.save = reporting


def newest(out: Path, count: dict[str, int]) -> int:
    """The step a resume would start from; every folder that can be seen must be whole."""
    whole = [0]
    for folder in (out / "checkpoints").glob("step-*"):
        try:
            state.verify_folder(folder)
            whole.append(int(folder.name.removeprefix("step-")))
        except ValueError as error:
            print(error, file=sys.stderr)
            count["damaged_folders"] += 1
    count["verified_folders"] += len(whole) - 1
    return max(whole)


def random_kills(out: Path, kills: int, chance: random.Random, count: dict[str, int]) -> None:
    length = 0.1  # seconds that a save takes, learned on the way
    while count["kills_within_a_save"] < kills:
        number, read = child(lambda write: (report_saves(write), train_on(out)))
        with os.fdopen(read) as lines:
            for _ in range(2 * chance.randint(0, 2)):  # whole saves first
                started, line = time.perf_counter(), lines.readline()
                if line.startswith("end"):
                    length = 0.8 * length + 0.2 * (time.perf_counter() - started)
            began = int(lines.readline().split()[1])
            time.sleep(chance.uniform(0, length))
            os.kill(number, signal.SIGKILL)
            rest = [line.split() for line in lines if line.endswith("\n")]
        os.waitpid(number, 0)
        last = max([began, *(int(step) for event, step in rest if event == "begin")])
        ended = max([began - 1, *(int(step) for event, step in rest if event == "end")])
        count["kills"] += 1
        count["kills_within_a_save"] += ended < last
        found = newest(out, count)
        count["finished_saves_lost"] += found < ended
        count["most_intervals_lost"] = max(count["most_intervals_lost"], last - found)
        if count["kills"] % 20 == 0:
            print(
                f"{count['kills']} kills, {count['kills_within_a_save']} of them within a save, step {found}",
                file=sys.stderr,
            )


def die_at(operation: int, out: Path) -> None:
    """Resume, train one step, and die before the operation of that number of its save."""
    save, fsync = state.Saver.save, os.fsync

    def dying(*arguments):
        left = [operation]

        def watch(event, *_):
            if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "fsync"):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        os.fsync = lambda descriptor: (watch("fsync"), fsync(descriptor))
        save(*arguments)
        os._exit(0)

    state.Saver.save = dying
    train_on(out)


def stages(out: Path, count: dict[str, int]) -> None:
    while True:
        before = newest(out, count)
        number, read = child(lambda _: die_at(count["stages"], out))
        os.close(read)
        status = os.waitpid(number, 0)[1]
        found = newest(out, count)
        count["most_intervals_lost"] = max(count["most_intervals_lost"], before + 1 - found)
        if os.WIFEXITED(status):
            return
        count["stages"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="kills within a save")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    options = parser.parse_args()
    torch.set_num_threads(1)
    importlib.import_module("torch.utils.tensorboard")  # once here, not in every child
    count = dict.fromkeys(
        (
            "kills",
            "kills_within_a_save",
            "stages",
            "verified_folders",
            "damaged_folders",
            "finished_saves_lost",
            "most_intervals_lost",
        ),
        0,
    )
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kill_saves-", ignore_cleanup_errors=True) as out:
        random_kills(Path(out), options.kills, random.Random(options.seed), count)
        stages(Path(out), count)
    print(json.dumps({**count, "seconds": round(time.perf_counter() - started, 1)}))


if __name__ == "__main__":
    main()
