"""What long runs need: a log that a full disk does not end, lines where there is no terminal, a length in epochs, and ways to go on."""

import io
import json
import types

import pytest
import torch
from helpers.tiny_runs import Rows, log_lines, options, run
from rich.console import Console
from safetensors.torch import load_file

from openglm import runtime
from openglm.config import OptimizerConfig
from openglm.train.log import Log

STEADY = OptimizerConfig(lr=1e-2, schedule="constant", warmup_ratio=0)


def test_log_lines_on_a_full_disk_are_said_once_and_the_next_are_whole(tmp_path, capfd):
    log = Log(tmp_path, 0, 0)
    log.write({"step": 1, "loss": 2.0})
    log.path, real = type(log.path)("/dev/full"), log.path
    for step in (2, 3):
        log.write({"step": step, "loss": 2.0})
    log.path = real
    log.write({"step": 4, "loss": 1.0})
    log.close()
    assert [json.loads(line)["step"] for line in real.read_text().splitlines()] == [1, 4]
    said = [line for line in capfd.readouterr().err.splitlines() if "cannot write the log" in line]
    assert len(said) == 1 and "No space left on device" in said[0] and "Training goes on" in said[0]


def test_without_a_terminal_there_are_plain_lines_now_and_then(capfd, monkeypatch):
    now = iter(range(0, 10_000, 3))
    monkeypatch.setattr(runtime, "time", types.SimpleNamespace(monotonic=lambda: next(now)))
    with runtime.progress("training", 100, "steps") as advance:
        for _ in range(100):
            advance(1, "loss 2.50  900 tokens/s")
    lines = capfd.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 25 and all(line.startswith("training: ") for line in lines)
    assert "left" in lines[0] and "loss 2.50" in lines[0]
    assert lines[-1].startswith("training: 100/100 steps") and "\x1b" not in "".join(lines)


def test_on_80_columns_the_bar_is_whole(monkeypatch):
    """As many pieces of the extra text as fit; the numbers and times always do."""
    monkeypatch.setenv("COLUMNS", "80")
    progress = runtime.progress("training", 200_000, "steps")
    progress(12_345, "loss 3.1416  grad 0.52  lr 1.0e-03  12,345 tokens/s  3.1 TFLOP/s")
    console = Console(width=80, file=io.StringIO())
    console.print(progress.bar.get_renderable())
    (line,) = console.file.getvalue().rstrip("\n").split("\n")
    assert len(line) <= 80 and "12345/200000 steps" in line and "loss 3.1416" in line
    assert line.count(":") >= 4 and "\u2026" not in line


def test_a_run_needs_a_folder_of_its_own():
    for out in ("", " "):
        with pytest.raises(ValueError, match=r"train.out = .*give a folder"):
            options(out)


def test_a_length_in_epochs(tmp_path, capfd):
    class Counted(Rows):
        rows = 20  # in an epoch; a step takes 8

    assert run(tmp_path / "a", rows=Counted(), steps=0, epochs=1.5).step == 4
    assert "4 steps; an epoch has 20 rows" in capfd.readouterr().err
    assert run(tmp_path / "b", rows=Counted(), steps=0).step == 3
    with pytest.raises(ValueError, match=r"train.steps = 0: say how many"):
        run(tmp_path / "c", steps=0)
    with pytest.raises(ValueError, match=r"train.epochs = 2.*not both"):
        options(tmp_path, epochs=2)


def test_a_finished_run_goes_on_as_if_it_had_been_longer(tmp_path):
    run(tmp_path / "longer", optimizer=STEADY, steps=6)
    assert run(tmp_path / "longer", optimizer=STEADY, steps=9).step == 9
    run(tmp_path / "whole", optimizer=STEADY, steps=9)
    ends = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("longer", "whole")]
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_weights_of_another_run_are_where_one_begins(tmp_path):
    run(tmp_path / "first", optimizer=STEADY, steps=4)
    still = OptimizerConfig(lr=1e-30, schedule="constant", warmup_ratio=0)
    begun = run(tmp_path / "second", optimizer=still, model=None, init_from=str(tmp_path / "first" / "model"), steps=2)
    assert begun.step == 2 and log_lines(tmp_path / "second")
    before, after = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("first", "second"))
    assert all(torch.equal(before[key], after[key]) for key in before)
