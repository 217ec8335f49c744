"""A run that was broken and one that was not are the same run, bit for bit; whatever lies in its folder."""

import multiprocessing
import os
import shutil
import signal

import pytest
import torch
from helpers.crashes import Crash, assert_same, crash_at
from helpers.processes import start, until
from helpers.tiny_runs import MODEL, Rows, log_lines, run, run_without_end

from openglm.checkpoints.load import load_model
from openglm.checkpoints.sharded import whole_tensors
from openglm.config import OptimizerConfig
from openglm.files import locked, verify_folder
from openglm.train import state
from openglm.train.interrupt import stop_requests
from openglm.train.state import find_checkpoint, read_record

WEIGHTS, MOMENTS = (
    f"shard-00001-model-{number:05}-of-00003.safetensors" for number in (1, 2)
)  # of the first process, as PyTorch names them


@pytest.mark.parametrize("optimizer, changes, workers", [
    (OptimizerConfig("adamw", lr=1e-2), {"ema": 0.9}, 0), (OptimizerConfig("muon", lr=1e-2), {"dtype": "bfloat16"}, 0),
    (OptimizerConfig("muon", lr=1e-2), {"activation_checkpointing": True, "ema": 0.5}, 1),
], ids=["adamw-ema", "muon-bfloat16", "muon-worker"])  # fmt: skip
def test_a_broken_run_equals_an_unbroken_one(tmp_path, optimizer, changes, workers):
    assert run(tmp_path / "whole", optimizer, **changes).finished
    broken = tmp_path / "broken"
    for step in (2, 7, 8, 11):  # before the first checkpoint, between two, right after one, near the end
        with pytest.raises(Crash):
            run(broken, optimizer, on_step=crash_at(step), workers=workers, **changes)
        with (broken / "log.jsonl").open("a") as log:
            log.write('{"step": 3, "lo')  # a line that the kill cut short
    result = run(broken, optimizer, workers=workers, **changes)
    assert result.finished and result.step == 12
    assert_same(tmp_path / "whole", broken)
    ours, theirs = load_model(tmp_path / "whole" / "model"), load_model(result.model)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_rows_are_read_in_order_and_none_is_skipped_by_a_resume(tmp_path):
    first, second = Rows(), Rows()
    with pytest.raises(Crash):
        run(tmp_path, rows=first, on_step=crash_at(6))
    run(tmp_path, rows=second)
    assert first.asked == list(range(6 * 8))
    assert second.asked == list(range(4 * 8, 12 * 8))
    assert read_record(tmp_path / "checkpoints" / "step-00000012")["rows"] == 12 * 8


def test_training_leaves_the_random_numbers_alone(tmp_path):
    """Loaders, held-out losses and samples draw none, so that nothing depends on how often they ran."""
    run(tmp_path / "a", eval_every=12)
    run(tmp_path / "b", eval_every=1, workers=1)
    states = [read_record(tmp_path / name / "checkpoints" / "step-00000012")["rng"] for name in "ab"]
    assert states[0] == states[1]


def test_the_running_average_becomes_the_model(tmp_path):
    result = run(tmp_path, ema=0.9)
    average, last = (
        dict(whole_tensors(tmp_path / "checkpoints" / "step-00000012", kind)) for kind in ("average", "weights")
    )
    model = dict(load_model(result.model).named_parameters())
    assert all(torch.equal(model[name], average[name]) for name in model)
    assert not torch.equal(average["embedding.weight"], last["embedding.weight"])


def damage(path, how):
    if how == "flip":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "missing":
        path.unlink()
    else:  # swapped with that of an earlier checkpoint
        shutil.copy(path.parent.parent / "step-00000004" / path.name, path)


@pytest.mark.parametrize("how", ["flip", "cut", "missing", "swap"])
@pytest.mark.parametrize("name", [WEIGHTS, MOMENTS, "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_used(tmp_path_factory, capfd, how, name):
    base = tmp_path_factory.getbasetemp() / "finished"
    if not base.exists():
        run(base)
    out = tmp_path_factory.mktemp("damaged")
    shutil.copytree(base / "checkpoints", out / "checkpoints")
    damage(out / "checkpoints" / "step-00000012" / name, how)
    capfd.readouterr()
    assert find_checkpoint(out).name == "step-00000008"
    said = capfd.readouterr().err
    assert (
        len(said.splitlines()) == 1
        and f"step-00000012/{'' if how == 'swap' and name == 'manifest.json' else name}" in said
    )


def test_the_run_goes_on_from_the_older_checkpoint_to_the_same_end(tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(Crash):
        run(tmp_path / "broken", on_step=crash_at(10))
    damage(tmp_path / "broken" / "checkpoints" / "step-00000008" / "manifest.json", "missing")
    run(tmp_path / "broken")
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_without_a_whole_checkpoint_nothing_is_overwritten(tmp_path):
    run(tmp_path, keep=1)
    damage(tmp_path / "checkpoints" / "step-00000012" / WEIGHTS, "flip")
    with pytest.raises(ValueError, match="none of its checkpoints is whole"):
        run(tmp_path, keep=1)


def test_a_checkpoint_under_another_name_is_refused(tmp_path):
    run(tmp_path)
    (tmp_path / "checkpoints" / "step-00000012").rename(tmp_path / "checkpoints" / "step-00000099")
    assert find_checkpoint(tmp_path).name == "step-00000008"


def test_old_checkpoints_go_and_latest_names_the_newest(tmp_path):
    run(tmp_path, save_every=2, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00000012"]
    assert (tmp_path / "latest").read_text() == "step-00000012\n"


@pytest.mark.parametrize("named, changes", [
    ("optimizer.lr", {"optimizer": OptimizerConfig(lr=2e-2)}), ("train.batch_rows", {"batch_rows": 16}), ("train.seed", {"seed": 2}),
    ("model.layers", {"model": type(MODEL)(**{**MODEL.__dict__, "layers": 3})}),
])  # fmt: skip
def test_a_resume_with_other_options_is_refused_by_name(tmp_path, named, changes):
    with pytest.raises(Crash):
        run(tmp_path, on_step=crash_at(5))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*")}
    with pytest.raises(ValueError, match=f"^{named} = .*made with"):
        run(tmp_path, **changes)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*")}


def test_a_resume_on_other_texts_is_refused(tmp_path):
    with pytest.raises(Crash):
        run(tmp_path, on_step=crash_at(5))
    rows = Rows()
    rows.fingerprint = "other"
    with pytest.raises(ValueError, match=r"^data = .*texts or conversations are not those"):
        run(tmp_path, rows=rows)


def test_options_that_change_only_speed_may_change(tmp_path):
    with pytest.raises(Crash):
        run(tmp_path, on_step=crash_at(5))
    assert run(tmp_path, accumulation=4, log_every=1, workers=1).finished


def test_a_finished_run_is_left_as_it_is(tmp_path):
    run(tmp_path)
    rows = Rows()
    assert run(tmp_path, rows=rows).step == 12
    assert log_lines(tmp_path)[-1]["step"] == 12 and len(rows.asked) <= 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(tmp_path, number):
    before = signal.getsignal(number)
    result = run(tmp_path / "broken", on_step=lambda step, _: os.kill(os.getpid(), number) if step == 5 else None)
    assert (result.step, result.finished) == (5, False)
    verify_folder(tmp_path / "broken" / "checkpoints" / "step-00000005")
    assert signal.getsignal(number) == before
    run(tmp_path / "broken")
    run(tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_a_stop_file_finishes_the_step_and_saves(tmp_path):
    result = run(tmp_path, on_step=lambda step, _: (tmp_path / "stop").touch() if step == 7 else None)
    assert (result.step, result.finished) == (7, False)
    assert not (tmp_path / "stop").exists()
    assert find_checkpoint(tmp_path).name == "step-00000007"


def test_a_second_signal_leaves_at_once(tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    with stop_requests(tmp_path) as request:
        request.handle(signal.SIGTERM, None)
        assert request.requested == "SIGTERM" and not left
        request.handle(signal.SIGTERM, None)
    assert left == [143]


def test_the_death_of_a_data_worker_is_one_line(tmp_path):
    def kill_worker(step, _):
        if step == 5:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(ValueError, match=r"^data.workers = 1: a process that prepares rows died") as error:
        run(tmp_path, workers=1, steps=1000, on_step=kill_worker)
    assert "\n" not in str(error.value)
    assert find_checkpoint(tmp_path) is not None


def test_a_second_process_is_kept_out_and_sigterm_to_the_group_ends_the_first(tmp_path):
    said = tmp_path / "said"
    process = start(said, run_without_end, tmp_path)
    try:
        until(lambda: "step 1\n" in said.read_text(encoding="utf-8"), 300)
        with pytest.raises(ValueError, match=f"process {process.pid} is training here"):
            run(tmp_path)
        os.killpg(process.pid, signal.SIGTERM)  # the data worker gets it too
        process.join(300)
        lines = said.read_text(encoding="utf-8").splitlines()
        assert process.exitcode == 0 and any("SIGTERM" in line for line in lines)
        step, finished = lines[-1].split()
        assert finished == "False" and find_checkpoint(tmp_path).name == f"step-{int(step):08d}"
    finally:
        process.kill()
        process.join()
    with locked(tmp_path, "train.out", "training"):  # the lock went with the process
        pass


def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint_whole(tmp_path):
    optimizer = OptimizerConfig(lr=1e30, warmup_ratio=0)
    with pytest.raises(ValueError, match=r"step \d+: loss .*Lower optimizer.lr") as error:
        run(tmp_path, optimizer, save_every=1)
    assert "\n" not in str(error.value)
    found = find_checkpoint(tmp_path)
    assert all(bool(t.isfinite().all()) for _, t in whole_tensors(found, "weights"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"train.out = .*choose a folder"):
        run(tmp_path / "file" / "run")


def full_disk(monkeypatch, *names):
    """Saves under these names find no space once they have written their weights."""
    original = state.save_shards

    def save(folder, tensors):
        original(folder, tensors)
        if any(name in str(folder) for name in names):
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(state, "save_shards", save)


def test_a_full_disk_is_said_and_training_goes_on(tmp_path, monkeypatch, capfd):
    full_disk(monkeypatch, "step-00000008")
    assert run(tmp_path / "full").finished
    said = [line for line in capfd.readouterr().err.splitlines() if "cannot write" in line]
    assert (
        len(said) == 1 and "step-00000008: No space left on device" in said[0] and said[0].endswith("Training goes on")
    )
    assert sorted(p.name for p in (tmp_path / "full" / "checkpoints").iterdir()) == ["step-00000004", "step-00000012"]
    run(tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "full")


def test_a_disk_that_is_full_at_the_end_ends_the_run_with_an_error_and_the_last_checkpoint_whole(tmp_path, monkeypatch):
    full_disk(monkeypatch, "step-00000008", "step-00000012")
    with pytest.raises(ValueError, match=r"cannot write .*step-00000012: No space left on device"):
        run(tmp_path)
    assert find_checkpoint(tmp_path).name == "step-00000004"
    assert not list((tmp_path / "checkpoints").glob(".*"))
    monkeypatch.undo()
    assert run(tmp_path).finished
