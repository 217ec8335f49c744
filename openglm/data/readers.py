"""One small reader for each kind of text: files in, whole documents out, in a fixed order.

`READERS` names them for a sources file, `OWN_READERS` by ending for a user's own files.
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
from openglm.data.folders import kind, list_files, looks_like_gbk, say_skipped, unpacked
from openglm.data.records import RECORD_KINDS, parquet_batches, read_records, records
from openglm.runtime import say

Reader = Callable[[Path], Iterator[str]]


def read_utf8(path: Path) -> str:
    """The text of a file, unpacked."""
    if path.suffix == ".dz":  # dictd's
        raw = gzip.decompress(path.read_bytes())
    else:
        with unpacked(path) as file:
            raw = file.read()
    return decode(raw, path)


def decode(raw: bytes, path: Path) -> str:
    """Not UTF-8: ValueError with the file, the byte offset and what it may be."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        guess = ", probably GBK" if looks_like_gbk(raw) else ""
        raise ValueError(
            f"{path}: not UTF-8 at byte {error.start}{guess}; convert the file, for instance with iconv"
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
    """Evaluation items: every text of every record, question, options, answer and passage alike."""
    for where, record in records(path):
        if isinstance(record, ValueError):
            raise ValueError(f"{path}, {where}: {record}")
        yield from _strings(record)


READERS: dict[str, Reader] = {f.__name__: f for f in (plain, lines, rst, roff, pod, html, json_strings, items)}


# A user's own files.


def own_records(path: Path) -> Iterator[str]:
    """The field "text" of every record."""
    yield from read_records(path, _text, "data")


def _text(record: Any) -> str:
    if not isinstance(record, dict) or "text" not in record:
        found = f"; its fields are {', '.join(map(str, record))}" if isinstance(record, dict) else ""
        raise ValueError(f'every record must be a JSON object with a "text" field{found}')
    if not isinstance(record["text"], str):
        raise ValueError(f'"text" must be a string, not {type(record["text"]).__name__}')
    return record["text"]


def own_parquet(path: Path) -> Iterator[str]:
    """A table with a column "text"."""
    import pyarrow

    def choose(schema: Any) -> list[str]:
        if "text" not in schema.names:
            raise ValueError(f'{path}: has no column "text"; its columns are {", ".join(schema.names)}')
        kind = schema.field("text").type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if not any(test(kind) for test in (pyarrow.types.is_string, pyarrow.types.is_large_string)):
            raise ValueError(f'{path}: its column "text" holds {kind}, not text; write it as strings')
        return ["text"]

    for batch in parquet_batches(path, choose):
        yield from (text or "" for text in batch.column(0).to_pylist())  # a null is counted as an empty document


_TEXTS = (".txt", ".text", ".md", ".markdown")
OWN_READERS: dict[str, Reader] = {
    **dict.fromkeys(_TEXTS, plain),
    **dict.fromkeys(RECORD_KINDS, own_records),
    ".parquet": own_parquet,
}


def own_texts(path: Path) -> Iterator[str]:
    """The documents of a user's file, by its ending."""
    return OWN_READERS[kind(path)](path)


def own_items(path: Path) -> Iterator[str]:
    """The texts of a file of evaluation items, by its ending."""
    return (plain if kind(path) in _TEXTS else items)(path)


def own_files(folder: str | Path, option: str = "data") -> list[Path]:
    """The files of a user's folder that we read, sorted, or the one file that is given; says which are not read. Raises
    ValueError if there is none."""
    folder = Path(folder)
    if not folder.exists():
        raise ValueError(f"{option} {folder}: no such folder or file")
    files, skipped = list_files(folder, OWN_READERS) if folder.is_dir() else ([folder], {})
    if skipped:
        say(f"{folder}: not read: {say_skipped(skipped)}")
    if not files or kind(files[0]) not in OWN_READERS:
        known = f"{', '.join(OWN_READERS)} file, packed (.gz, .zst, ..) or not"
        raise ValueError(f"{option} {folder}: no {known}{'' if folder.is_file() else ', in it'}")
    return files
