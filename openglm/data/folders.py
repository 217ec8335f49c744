"""Users' files: which of a folder are read, and their bytes, packed or not."""

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def _zstd(path: Path) -> Any:
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")


_PACKED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".dz": gzip.open,  # dictd's
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstd,
}
_BOMS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


def kind(path: Path) -> str:
    """A file's ending in small letters, without a packer's: .jsonl for A.JSONL.gz."""
    endings = [ending.lower() for ending in path.suffixes]
    while endings and endings[-1] in _PACKED:
        endings.pop()
    return endings[-1] if endings else ""


def readable(name: str) -> str:
    """A file's name as text that can be stored: one that is not UTF-8 is read as GBK, or its bytes are spelt out."""
    raw = os.fsencode(name)
    with suppress(ValueError):
        return decode(raw)
    return raw.decode("gb18030" if looks_like_gbk(raw) else "utf-8", "backslashreplace")


def list_files(folder: Path, known: Collection[str]) -> tuple[list[Path], dict[str, list[str]]]:
    """Files of the known kinds in a folder and in those below it, linked ones too, sorted; and names of all that is not
    read, by reason."""
    files: list[Path] = []
    skipped: dict[str, list[str]] = {}
    seen = {folder.resolve()}
    waiting = [folder]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            reason = ""
            if path.name.startswith("."):
                reason = "hidden"
            elif path.is_dir():
                reason = "linked twice" if path.resolve() in seen else ""
                if not reason:
                    seen.add(path.resolve())
                    waiting.append(path)
            elif not path.is_file():
                reason = "no regular file"
            elif kind(path) in known:
                files.append(path)
            else:
                reason = kind(path) or "without an ending"
            if reason:
                skipped.setdefault(reason, []).append(readable(path.name))
    return sorted(files), skipped


def say_skipped(skipped: dict[str, list[str]]) -> str:
    """What of a folder is not read, for one line."""
    parts = []
    for reason, names in sorted(skipped.items()):
        shown = ", ".join(names[:3]) + (", .." if len(names) > 3 else "")
        parts.append(f"{len(names)} {reason} ({shown})")
    return "; ".join(parts)


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked. Raises ValueError where they cannot be, or are UTF-16."""
    opener = _PACKED.get(path.suffix.lower(), lambda path: path.open("rb"))
    try:
        with opener(path) as file:
            buffered = io.BufferedReader(file)
            start = buffered.peek(4)[:4]
            name = next((name for mark, name in _BOMS if start.startswith(mark)), "UTF-16" if b"\0" in start else "")
            if name:
                raise ValueError(f"{path}: is {name}, not UTF-8; convert it: iconv -f {name} -t UTF-8")
            yield buffered
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: cannot be unpacked ({error}); is it complete?") from None


def decode(raw: bytes) -> str:
    """Text of bytes in UTF-8. Raises ValueError that names the encoding they seem to have, or the first wrong byte."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if looks_like_gbk(raw):
            raise ValueError("not UTF-8, probably GBK; convert the file: iconv -f GB18030 -t UTF-8") from None
        raise ValueError(f"not UTF-8 at byte {error.start}; convert the file, for instance with iconv") from None


def looks_like_gbk(raw: bytes) -> bool:
    try:
        text = raw.decode("gb18030")
    except UnicodeDecodeError:
        return False
    return any("\u4e00" <= c <= "\u9fff" for c in text)
