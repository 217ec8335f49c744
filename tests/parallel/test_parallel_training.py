"""A run in several processes is the run in one: the same losses and weights, whichever layout it begins, goes on and ends in. Layouts that do not fit are refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import run_together

from openglm.config import ParallelConfig
from openglm.files import verify_folder
from openglm.parallel.apply import check_layout
from openglm.parallel.processes import Processes, shape
from openglm.parallel.stages import stage_layers
from openglm.presets import model_preset
from openglm.train.state import find_checkpoint

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import layouts  # noqa: E402

ALONE, STEPS = Processes(torch.device("cpu")), 6
SPREAD = {
    "shared": {"data": 2, "tensor": 2, "zero": 3}, "piped": {"data": 2, "pipeline": 2}, "both": {"tensor": 2, "pipeline": 2, "schedule": "interleaved", "chunks": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The reference, three layouts of four processes, and a run that goes through two of them and ends in one process."""
    folder = tmp_path_factory.mktemp("spread")
    run_together(1, layouts.work, [[str(folder / "alone"), STEPS, 0, {}]])
    moved = [[str(folder / "moved"), STEPS, 2, SPREAD["shared"]], [str(folder / "moved"), STEPS, 4, SPREAD["both"]]]
    spread = [[str(folder / name), STEPS, 0, layout] for name, layout in SPREAD.items()]
    run_together(4, layouts.work, [*spread, *moved])
    run_together(1, layouts.work, [[str(folder / "moved"), STEPS, 0, {}]])
    return folder


@pytest.mark.parametrize("name", [*SPREAD, "moved"])
def test_losses_and_weights_are_those_of_one_process(runs, name):
    ours, expected = (json.loads((runs / n / "losses.json").read_text()) for n in (name, "alone"))
    assert ours.keys() == expected.keys() and len(ours) == STEPS
    for step, loss in expected.items():
        assert ours[step] == pytest.approx(loss, rel=1e-6), step
    held, wanted = layouts.weights(runs / name), layouts.weights(runs / "alone")
    assert held.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(held[key], tensor, rtol=0, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", [*SPREAD, "moved"])
def test_log_and_model_are_written_once_and_whole(runs, name):
    steps = [
        json.loads(line)["step"]
        for line in (runs / name / "log.jsonl").read_text().splitlines()
        if "heldout" not in line
    ]
    assert steps == list(range(1, STEPS + 1))
    verify_folder(runs / name / "model")
    ours, expected = (
        [
            json.loads(line)["heldout"]["heldout"]
            for line in (runs / n / "log.jsonl").read_text().splitlines()
            if "heldout" in line
        ]
        for n in (name, "alone")
    )
    assert len(expected) == 2 and ours == pytest.approx(
        expected, rel=1e-6
    )  # in the middle, on averaged weights that training must not see, and at the end


def test_sigterm_to_the_launcher_saves_and_ends_all(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(BENCHMARKS / "layouts.py"),
        "--work",
    ]
    spec, environment = json.dumps([[str(tmp_path / "run"), 100000, 0, {}]]), {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, spec], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    log = tmp_path / "run" / "log.jsonl"
    while not (log.exists() and log.read_text().count("\n") > 2):
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    found = find_checkpoint(tmp_path / "run")
    assert found is not None
    lines = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert found.name == f"step-{lines[-1]:08d}"


@pytest.mark.parametrize("config, count, named", [
    ({"data": 2}, 1, r"parallel.data x tensor x pipeline = 2 x 1 x 1: needs 2 processes and there are 1; start them with: torchrun --nproc-per-node 2"),
    ({"tensor": 2, "pipeline": 3}, 4, r"= 1 x 2 x 3: needs 6 processes and there are 4"), ({"data": 3}, 4, r"= 3 x 1 x 1: needs 3 processes and there are 4"),
])  # fmt: skip
def test_processes_that_do_not_fit_are_counted(config, count, named):
    with pytest.raises(ValueError, match=named) as error:
        shape(ParallelConfig(**config), count)
    assert "\n" not in str(error.value)


def test_what_is_left_of_the_processes_shares_the_rows():
    assert shape(ParallelConfig(tensor=2), 8) == (1, 4, 2)
    assert shape(ParallelConfig(tensor=4, pipeline=8), 768) == (8, 24, 4)


@pytest.mark.parametrize("config, rows, micro_batches, named", [
    ({"tensor": 3}, 32, 1, r"parallel.tensor = 3: must divide the key/value heads \(2\).* these would: 1, 2"),
    ({"pipeline": 5}, 32, 8, r"parallel.pipeline = 5: must divide the 6 layers, or 8 with lighter end stages; these would: 1, 2, 3, 4, 6, 8"),
    ({}, 32, 5, r"train.batch_rows = 32: must be a multiple of parallel.data x train.accumulation \(1 x 5\)"),
    ({"pipeline": 3}, 32, 2, r"train.accumulation = 2: a pipeline of 3 stages needs at least"), ({"pipeline": 2, "zero": 3}, 32, 2, "parallel.zero = 3: a pipeline"),
    ({"pipeline": 2, "schedule": "zero-bubble"}, 33, 3, "train.accumulation = 3: must be a multiple of the 2 stages"),
])  # fmt: skip
def test_layouts_that_do_not_divide_say_what_would(config, rows, micro_batches, named):
    with pytest.raises(ValueError, match=named) as error:
        check_layout(ParallelConfig(**config), model_preset("nano", layers=6), ALONE, rows, micro_batches)
    assert "\n" not in str(error.value)


def test_glm_130b_fits_its_published_layout_with_lighter_ends():
    """Section 2.3: 70 layers on 8 stages, tensor parallel 4, 24 replicas, 4,224 rows."""
    published = ParallelConfig(data=24, tensor=4, pipeline=8)
    check_layout(published, model_preset("glm-130b"), ALONE, 4224, 176)
    assert stage_layers(70, 8) == [8, 9, 9, 9, 9, 9, 9, 8]
