"""Files and folders that are whole or absent, whatever kills their writer; and where assets lie.

A folder is filled under another name beside its place, every file is forced to the disk, `manifest.json` gets the size
and the SHA-256 of each, and only then does the folder take its name. Reading verifies the manifest and names the file
that is wrong.
This file knows nothing of models.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl

ASSETS = Path(__file__).resolve().parent / "assets"  # a folder for each bundled model

MANIFEST = "manifest.json"
_EDITED = ("generation_config.json",)  # settings that people change by hand: not held to the manifest
_POINTER = b"version https://git-lfs"
_TEMPORARY, _REPLACED = ".tmp-", ".old-"
_LARGEST_MANIFEST = 64 << 20  # bytes; a longer one is not ours


class CannotWrite(ValueError):
    """A file that could not be written, as one line for the user; its cause is what the system said."""


def write_folder(parent: Path | str, name: str, writer: Callable[[Path], None]) -> Path:
    """Make the folder parent/name with what `writer` puts into the empty folder it is given; an earlier one of ours is
    replaced.

    Returns the folder's path. Raises ValueError (one line) when the disk is full, the place is read-only and the like:
    nothing is left behind then, and what was there before is untouched.
    """
    with filling(parent, name) as temporary:
        writer(temporary)
    return Path(parent) / name


@contextlib.contextmanager
def filling(parent: Path | str, name: str) -> Iterator[Path]:
    """`write_folder` as a block: an empty folder that takes its name at the end of it."""
    target = Path(parent) / name
    temporary = target.parent / f"{_TEMPORARY}{name}-{os.getpid()}"
    try:
        if target.exists() and not (target / MANIFEST).is_file() and any(target.iterdir()):
            raise ValueError(f"{target} holds files that are not ours to replace; choose another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        _seal(temporary)
        publish(temporary, target)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = _disk_trouble(error)
        if reason is None:
            raise
        raise ValueError(
            f"cannot write {target}: {reason}; nothing was changed there. Free space or choose another folder"
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def refuse_pointer(path: Path, option: str) -> None:
    """Raises ValueError for what git leaves in place of a large file that it did not fetch."""
    with path.open("rb") as file:
        start = file.read(len(_POINTER))
    if start == _POINTER:
        raise ValueError(
            f"{option} = {str(path)!r}: a git-lfs pointer of {path.stat().st_size} bytes in place of the file; "
            "run git lfs pull in that folder, or download the file itself"
        )


def write_file(path: Path | str, content: str | bytes) -> None:
    """Replace a small file in one go; text is written as UTF-8."""
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path | str, values: Any) -> None:
    """Replace a small file by a JSON text."""
    write_file(path, json.dumps(values, indent=1) + "\n")


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A place beside `path` to write a file at, which takes its name at the end: after a crash there is the old file or
    the new one.

    Raises ValueError (one line) when the disk is full and the like. Whatever goes wrong, the old file is untouched and
    nothing else is left.
    """
    path = Path(path)
    temporary = path.parent / f"{_TEMPORARY}{path.name}-{os.getpid()}"
    try:
        yield temporary
        _sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise CannotWrite(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def verify_folder(folder: Path | str) -> None:
    """Hold every file to the manifest. Raises ValueError that names the first file that is missing, cut short or
    changed.

    Files that the manifest does not list are not looked at.
    """
    folder = Path(folder)
    for name, expected in read_manifest(folder).items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path}: missing, though {MANIFEST} lists it; use another copy of this folder")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise ValueError(
                f"{path}: {size} bytes where {MANIFEST} says {expected['bytes']}; use another copy of this folder"
            )
        if _sha256(path) != expected["sha256"]:
            raise ValueError(
                f"{path}: contents differ from the SHA-256 in {MANIFEST} (a changed or swapped file); "
                "use another copy of this folder"
            )


def read_manifest(folder: Path) -> dict[str, dict]:
    """{file name: {"bytes", "sha256"}}. Raises ValueError unless every byte of the manifest is as we write it."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{path}: missing, so this folder was never finished or is not ours; use another copy of it")
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; not one of our manifests")
    raw = path.read_bytes()
    try:
        files = json.loads(raw)["files"]
        intact = raw == _render(files) and all(
            _inside(folder, name) and set(entry) == {"bytes", "sha256"} for name, entry in files.items()
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise ValueError(f"{path}: damaged; use another copy of this folder")
    return files


@contextlib.contextmanager
def locked(folder: Path, option: str, doing: str) -> Iterator[None]:
    """Hold a folder, which is made if it is not there. Raises ValueError when another process holds it. The lock ends
    with the process, however it ends."""
    if sys.platform == "win32":
        raise ValueError(f"{option} = {str(folder)!r}: {doing} needs locks that Windows lacks; use Linux, macOS or WSL")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
    except OSError as error:
        raise ValueError(f"{option} = {str(folder)!r}: {error.strerror}; choose a folder that can be written") from None
    with file:
        try:  # lockf, not flock: a forked worker that outlives its parent must not inherit the lock
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ValueError(
                f"{option} = {str(folder)!r}: process {holder} is {doing} here; wait for it or choose another folder"
            ) from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its holder's number
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


def clear_stale(parent: Path | str) -> None:
    """Remove what killed writers left behind. Only for the process that alone may write here (it holds the run's
    lock)."""
    parent = Path(parent)
    for old in parent.glob(f"{_REPLACED}*"):
        target = parent / old.name.removeprefix(_REPLACED)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            recover(target)
    for path in parent.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Delete a folder so that a half-deleted one is never taken for a whole one."""
    doomed = folder.parent / f"{_TEMPORARY}{folder.name}-{os.getpid()}"
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def publish(temporary: Path, target: Path) -> None:
    """Give a filled folder, whose files are on the disk, the name `target`, in the place of an earlier one.

    A folder cannot replace a filled one in one call, so the old one steps aside first: see `recover`.
    """
    aside = target.parent / f"{_REPLACED}{target.name}"
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    temporary.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def recover(target: Path) -> None:
    """Bring back a folder that stepped aside for one that never came, for the writer was killed in between."""
    aside = target.parent / f"{_REPLACED}{target.name}"
    if aside.is_dir() and not target.exists():
        aside.rename(target)


def sync_tree(folder: Path) -> None:
    """Force all files and names in a folder to the disk."""
    for path in folder.rglob("*"):
        sync_folder(path) if path.is_dir() else _sync_file(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    if sys.platform == "win32":
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {}
    for path in files:
        path.chmod(folder.stat().st_mode & 0o666)  # safetensors keeps its files to their owner
        _sync_file(path)
        if path.name in _EDITED:
            continue
        manifest[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    (folder / MANIFEST).write_bytes(_render(manifest))
    _sync_file(folder / MANIFEST)
    for path in [*(p for p in folder.rglob("*") if p.is_dir()), folder]:
        sync_folder(path)


def _render(files: dict[str, dict]) -> bytes:
    """The manifest's bytes. It carries its own hash, so that a flipped bit inside it is seen too."""
    body = json.dumps(files, sort_keys=True, separators=(",", ":"))
    return json.dumps(
        {"version": 1, "sha256": hashlib.sha256(body.encode()).hexdigest(), "files": files}, indent=1, sort_keys=True
    ).encode()


def _inside(folder: Path, name: str) -> bool:
    return (folder / name).resolve().is_relative_to(folder.resolve())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _disk_trouble(error: Exception) -> str | None:
    """What the system said, also where safetensors or `replacing` wraps it in an error of its own."""
    if isinstance(error, CannotWrite) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, OSError):
        return error.strerror or str(error)
    text = str(error)
    return text.splitlines()[0] if "os error" in text or "I/O error" in text else None
