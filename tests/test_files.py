"""A folder is whole or absent: every damage is named, every kill and every full disk leaves the folder before it."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openglm.files import MANIFEST, clear_stale, recover, remove_folder, verify_folder, write_file, write_folder

FILES = {
    "model.bin": bytes(range(256)) * 20,
    "other.bin": bytes(reversed(range(256))) * 20,
    "deep/state.json": b'{"step": 1}',
}


def fill(target: Path, files=FILES):
    for name, content in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "runs", "step-1", fill)


def content(folder: Path):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_was_written_is_read_back(folder):
    verify_folder(folder)
    assert {name: data for name, data in content(folder).items() if name != MANIFEST} == FILES
    assert os.listdir(folder.parent) == ["step-1"]


def test_a_folder_that_stepped_aside_comes_back(folder):
    """Killed between the two renames of a replacement, as `publish` does them."""
    before = content(folder)
    folder.rename(folder.parent / f".old-{folder.name}")
    recover(folder)
    assert content(folder) == before and os.listdir(folder.parent) == ["step-1"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux")
def test_every_file_is_on_the_disk_before_the_folder_has_its_name(tmp_path, monkeypatch):
    calls, fsync, rename = [], os.fsync, Path.rename
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: (calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name), fsync(descriptor)),
    )
    monkeypatch.setattr(Path, "rename", lambda self, target: (calls.append("rename"), rename(self, target))[1])
    write_folder(tmp_path / "runs", "step-1", fill)
    before, after = calls[: calls.index("rename")], calls[calls.index("rename") :]
    assert {"model.bin", "other.bin", "state.json", "deep", MANIFEST} < set(before) and before[-1].startswith(".tmp-")
    assert before.index(MANIFEST) > max(before.index(Path(name).name) for name in FILES)
    assert after == ["rename", "runs"]


def test_a_file_of_someone_else_is_no_damage(folder):
    (folder / "notes.txt").write_text("mine")
    verify_folder(folder)


def cut(folder):
    os.truncate(folder / "model.bin", 100)


def lengthen(folder):
    with (folder / "model.bin").open("ab") as file:
        file.write(b"x")


def swap(folder):
    (folder / "model.bin").rename(folder / "x")
    (folder / "other.bin").rename(folder / "model.bin")
    (folder / "x").rename(folder / "other.bin")


def reach_outside(folder):
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("other.bin", "../../other.bin"))


@pytest.mark.parametrize("damage, named", [
    (cut, "model.bin: 100 bytes"), (lengthen, "model.bin: 5121 bytes"), (swap, "model.bin: contents differ"),
    (lambda f: (f / "deep/state.json").unlink(), "state.json: missing"), (lambda f: (f / MANIFEST).unlink(), f"{MANIFEST}: missing"),
    (lambda f: (f / MANIFEST).write_text("[" * 100_000), f"{MANIFEST}: damaged"), (lambda f: (f / MANIFEST).write_text('{"files": [1]}'), f"{MANIFEST}: damaged"),
    (reach_outside, f"{MANIFEST}: damaged"),
])  # fmt: skip
def test_damage_is_named(folder, damage, named):
    damage(folder)
    with pytest.raises(ValueError, match=named) as error:
        verify_folder(folder)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_named(folder, data):
    name = data.draw(st.sampled_from([*FILES, MANIFEST]))
    good = (folder / name).read_bytes()
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(bad)
    try:
        with pytest.raises(ValueError, match=name):
            verify_folder(folder)
    finally:
        (folder / name).write_bytes(good)


def test_a_later_save_replaces_the_whole_folder(folder):
    write_folder(folder.parent, folder.name, lambda target: fill(target, {"new.bin": b"1"}))
    verify_folder(folder)
    assert content(folder).keys() == {"new.bin", MANIFEST}
    assert os.listdir(folder.parent) == ["step-1"]


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "diary.txt").write_text("dear")
    with pytest.raises(ValueError, match="not ours to replace"):
        write_folder(tmp_path, "home", fill)
    assert (tmp_path / "home" / "diary.txt").read_text() == "dear"


def test_a_full_disk_leaves_the_old_folder(folder):
    before = content(folder)

    def writer(target):
        (target / "half.bin").write_bytes(b"x" * 1000)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ValueError, match="step-1: No space left on device; nothing was changed") as error:
        write_folder(folder.parent, folder.name, writer)
    assert "\n" not in str(error.value)
    assert content(folder) == before and os.listdir(folder.parent) == ["step-1"]


def test_a_full_disk_under_safetensors_is_one_line_too(folder):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    before, limits = content(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"cannot write .*step-1: ") as error:
            write_folder(
                folder.parent,
                folder.name,
                lambda target: save_file({"w": torch.zeros(1 << 20)}, target / "model.safetensors"),
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(error.value)
    assert content(folder) == before and os.listdir(folder.parent) == ["step-1"]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="POSIX")
def test_a_read_only_place_is_one_line(folder):
    before, user = content(folder), os.geteuid()
    folder.parent.chmod(0o555)
    if user == 0:  # permissions do not stop root
        os.seteuid(65534)
    try:
        with pytest.raises(ValueError, match=r"cannot write .*: Permission denied"):
            write_folder(folder.parent, folder.name, fill)
        with pytest.raises(ValueError, match=r"cannot write .*latest: Permission denied"):
            write_file(folder.parent / "latest", "step-1")
    finally:
        os.seteuid(user)
        folder.parent.chmod(0o755)
    assert content(folder) == before


def test_a_removed_folder_is_gone(folder):
    remove_folder(folder)
    assert os.listdir(folder.parent) == []


# A process that saves without end: two names in turn (a new folder each time, and one that is replaced), and a pointer to the last whole one.
SAVER = """
import os, sys
from pathlib import Path
from openglm.files import clear_stale, write_file, write_folder
parent, number = Path(sys.argv[1]), int(sys.argv[2])
clear_stale(parent)
payload = os.urandom(300_000)
print("ready", flush=True)
while True:
    number += 1
    for name in (f"step-{number:05d}", "model"):
        write_folder(parent, name, lambda p: [(p / f"{i}.bin").write_bytes(payload) for i in range(3)] and (p / "step").write_text(str(number)))
    write_file(parent / "latest", f"step-{number:05d}")
    print(number, flush=True)
"""


def whole(parent: Path) -> int:
    """Checks all that a reader can see; returns the newest whole step."""
    clear_stale(parent)
    for seen in parent.iterdir():
        if seen.is_dir():
            verify_folder(seen)
    steps = sorted(parent.glob("step-*"))
    latest = parent / "latest"
    assert not latest.exists() or (parent / latest.read_text()).is_dir()
    assert not list(parent.glob(".*"))
    return int(steps[-1].name[5:]) if steps else 0


def test_kill_at_random_instants_of_saving(tmp_path):
    chance, number = random.Random(0), 0
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        done = [int(line) for line in process.stdout.read().split()]
        process.wait()
        process.stdout.close()
        found = whole(tmp_path)
        assert found >= max(done, default=number), "a finished save was lost"
        number = found
    assert number > 0


def die_before(operation: int) -> None:
    """From now on this process counts its operations on files and kills itself before the one of that number."""
    left, fsync = [operation], os.fsync

    def watch(event, *_):
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "fsync"):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = lambda descriptor: (watch("fsync"), fsync(descriptor))
    sys.addaudithook(watch)


def test_kill_before_every_call_that_touches_the_disk(folder):
    """A child replaces the folder and adds another; it dies before its k-th operation on files, for every k."""
    parent, at = folder.parent, 0
    while True:
        child = os.fork()
        if child == 0:
            die_before(at)
            write_folder(parent, "step-1", fill)
            write_folder(parent, "step-2", fill)
            write_file(parent / "latest", "step-2")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert (parent / "step-1").exists() or (parent / ".old-step-1").exists()
        assert whole(parent) >= 1
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0 and (parent / "latest").read_text() == "step-2"
            break
        if (parent / "step-2").exists():
            remove_folder(parent / "step-2")
            (parent / "latest").unlink(missing_ok=True)
        at += 1
    assert at > 30
