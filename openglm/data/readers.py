"""One small reader for each kind of text: files in, whole documents out, in a fixed order.

`READERS` names them for a sources file, `OWN_READERS` by suffix for a user's own .txt, .jsonl and .parquet files.
Readers know formats, not packages: which files they get is said in the sources file. A recipe brings readers of its own
by passing them to `openglm.data.build.build`.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from openglm.data import markup

Reader = Callable[[Path], Iterator[str]]


def read_utf8(path: Path) -> str:
    """The text of a file (.gz and dictd's .dz are unpacked). Not UTF-8: ValueError with the file and the byte
    offset."""
    raw = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        raw = gzip.decompress(raw)
    return decode(raw, path)


def decode(raw: bytes, path: Path, offset: int = 0) -> str:
    try:
        return raw.decode("utf-8-sig" if not offset else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 at byte {offset + error.start}; convert the file, for instance with iconv"
        ) from None


def plain(path: Path) -> Iterator[str]:
    """A file is a document."""
    yield read_utf8(path)


def lines(path: Path) -> Iterator[str]:
    """A line is a document."""
    yield from read_utf8(path).splitlines()


def rst(path: Path) -> Iterator[str]:
    """reStructuredText: directives, comments and field lists go, prose and examples stay."""
    text = re.sub(r"^[ \t]*(?:\.\. |:[\w-]+:).*\n", "", read_utf8(path), flags=re.M)
    text = re.sub(
        r":[\w:-]+:`~?!?([^`<]*?)(?: <[^`]*>)?`|``([^`]*)``|\*\*([^*\n]+)\*\*",
        lambda m: m[1] or m[2] or m[3] or "",
        text,
    )
    yield markup.unwrap(re.sub(r"^([=\-~^*+#\"'`.:_])\1{2,}$", "", text, flags=re.M), indented=False)


def roff(path: Path) -> Iterator[str]:
    yield markup.roff_text(read_utf8(path))


def pod(path: Path) -> Iterator[str]:
    yield markup.pod_text(
        gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        if path.suffix == ".gz"
        else path.read_bytes().decode("utf-8", "replace")
    )


def html(path: Path) -> Iterator[str]:
    yield markup.html_text(read_utf8(path))


def json_strings(path: Path) -> Iterator[str]:
    """A JSON list of texts, each a document."""
    for text in json.loads(read_utf8(path)):
        if isinstance(text, str):
            yield text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _strings(child)


def items(path: Path) -> Iterator[str]:
    """Evaluation items (.json or .jsonl): every text of every record, question, options, answer and passage alike."""
    text = read_utf8(path)
    for record in [text] if path.suffix == ".json" else text.splitlines():
        if record.strip():
            yield from _strings(json.loads(record))


READERS: dict[str, Reader] = {f.__name__: f for f in (plain, lines, rst, roff, pod, html, json_strings, items)}


# A user's own files.


def own_jsonl(path: Path) -> Iterator[str]:
    """A JSON object with a "text" field a line."""
    offset = 0
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            line = decode(raw, path, offset)
            offset += len(raw)
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (ValueError, TypeError, KeyError):
                raise ValueError(
                    f'{path}, line {number}: every line must be a JSON object with a "text" field'
                ) from None
            if not isinstance(text, str):
                raise ValueError(f'{path}, line {number}: "text" must be a string, not {type(text).__name__}')
            yield text


def own_parquet(path: Path) -> Iterator[str]:
    """A table with a column "text"."""
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError):
        raise ValueError(f"{path}: not a parquet file, or damaged") from None
    if "text" not in table.schema_arrow.names:
        raise ValueError(f'{path}: has no column "text"; its columns are {", ".join(table.schema_arrow.names)}')
    for batch in table.iter_batches(columns=["text"]):
        yield from (text for text in batch.column(0).to_pylist() if text)


OWN_READERS: dict[str, Reader] = {".txt": plain, ".jsonl": own_jsonl, ".parquet": own_parquet}


def own_files(folder: str | Path) -> list[Path]:
    """The files of a user's folder that we read, sorted, or the one file that is given. Raises ValueError if there is
    none."""
    folder = Path(folder)
    if not folder.exists():
        raise ValueError(f"data {folder}: no such folder or file")
    paths = [folder] if folder.is_file() else folder.rglob("*")
    files = sorted(path for path in paths if path.suffix in OWN_READERS and path.is_file())
    if not files:
        raise ValueError(f"data {folder}: no .txt, .jsonl or .parquet file{'' if folder.is_file() else ' in it'}")
    return files
