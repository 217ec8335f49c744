"""One small reader for each kind of text: files in, whole documents out, in a fixed order.

`READERS` names them for a sources file, `OWN_READERS` by ending for a user's own files.
Readers know formats, not packages: which files they get is said in the sources file. A recipe brings readers of its own
by passing them to `openglm.data.build.build`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from openglm.data.folders import decode, kind, list_files, say_skipped, unpacked
from openglm.data.markup import html_text
from openglm.data.records import RECORD_KINDS, parquet_batches, read_records, records
from openglm.runtime import say

Reader = Callable[[Path], Iterator[str]]


def read_utf8(path: Path) -> str:
    """The text of a file, unpacked."""
    with unpacked(path) as file:
        raw = file.read()
    try:
        return decode(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def plain(path: Path) -> Iterator[str]:
    """A file is a document."""
    yield read_utf8(path)


def lines(path: Path) -> Iterator[str]:
    """A line is a document."""
    yield from read_utf8(path).splitlines()


def html(path: Path) -> Iterator[str]:
    yield html_text(read_utf8(path))


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


READERS: dict[str, Reader] = {f.__name__: f for f in (plain, lines, html, json_strings, items)}


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
