"""Records of users' files: JSON lines, JSON arrays, objects over several lines, CSV and parquet, packed or not, or a
folder of them. What is wrong is found in all of a file before anything is said."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from openglm.config import require
from openglm.data.folders import decode, kind, list_files, say_skipped, unpacked
from openglm.runtime import progress, say

Placed = tuple[str, object]
"""where a record stands in its file, and the record; a ValueError in place of one that cannot be read"""

RECORD_KINDS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet")
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_BETWEEN = re.compile(r"[\s,]*")
_UNCLOSED = "not JSON: the record that begins here is not closed"
_DEEPEST = 500
_WRAPPER = {"data", "version", "name", "description", "license", "info", "metadata"}
_SHOWN = 40  # line numbers, and reasons, in one message


def read_records(
    path: str | Path, read: Callable[[Any], Any], option: str, skip_bad: bool | None = None
) -> Iterator[Any]:
    """`read(record)` for each record of a file, or of all files of a folder.

    Raises ValueError that names every record which cannot be read, or of which `read` raises ValueError, once the rest
    has been read. skip_bad: leave them out and say so; None: there is no such option.
    """
    path = Path(path)
    require(path.exists(), option, str(path), "no such file")
    files, skipped = list_files(path, RECORD_KINDS) if path.is_dir() else ([path], {})
    if skipped:
        say(f"{path}: not read: {say_skipped(skipped)}")
    require(bool(files), option, str(path), f"no {', '.join(RECORD_KINDS)} file in it")
    bad: dict[tuple[Path, str], list[tuple[str, str]]] = {}
    count = 0
    for file in files:
        size = file.stat().st_size
        with progress(f"reading {file.name}", size, "bytes", shown=size > 1 << 20) as advance:
            for where, record in records(file, advance):
                count += 1
                try:
                    if isinstance(record, ValueError):
                        raise record
                    result = read(record)
                except ValueError as error:
                    reason = re.sub(r"\d+", "#", str(error))
                    bad.setdefault((file, where.split()[0] + reason), []).append((where, str(error)))
                else:
                    yield result
    if bad:
        problem = _describe(bad, count)
        if skip_bad is None or not skip_bad:
            raise ValueError(problem + ("; --data.skip-bad leaves them out" if skip_bad is not None else ""))
        say(f"left out: {problem}")


def _describe(bad: dict[tuple[Path, str], list[tuple[str, str]]], count: int) -> str:
    groups = [(file, places) for (file, _), places in bad.items()]
    total = sum(len(places) for _, places in groups)
    if total == 1:
        file, [(where, reason)] = groups[0]
        return f"{file}, {where}: {reason}"
    parts = [
        f"{file}, {_join([where for where, _ in places])}: {places[0][1]}"
        + (f" ({len(places)} times)" if len(places) > 1 else "")
        for file, places in groups[:_SHOWN]
    ]
    rest = f"; and {len(groups) - _SHOWN} other reasons" if len(groups) > _SHOWN else ""
    return f"{'; '.join(parts)}{rest}; {total} of {count} records cannot be used"


def _join(places: list[str]) -> str:
    """Lines 1, 3-5, .. of `line 1`, `line 3` and so on."""
    unit = places[0].split()[0]
    numbers = [int(place.split()[-1]) for place in places]
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:_SHOWN]]
    return f"{unit}{'s' * (len(places) > 1)} {', '.join(shown)}{', ..' if len(runs) > _SHOWN else ''}"


def records(path: Path, advance: Callable[[float], object] = lambda amount: None) -> Iterator[Placed]:
    """All records of one file. Raises ValueError where the file as a whole cannot be read."""
    if kind(path) == ".parquet":
        yield from _parquet_rows(path)
        return
    with unpacked(path) as file:
        if kind(path) in (".csv", ".tsv"):
            yield from _csv_rows(path, file)
        else:
            yield from _JsonRecords().read(file, advance)


def _parquet_rows(path: Path) -> Iterator[Placed]:
    number = 0
    for batch in parquet_batches(path):
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", _without_nulls(row)


def parquet_batches(path: Path, columns: Callable[[Any], list[str] | None] = lambda schema: None) -> Iterator[Any]:
    """The record batches of a file; `columns` chooses from its schema."""
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        yield from table.iter_batches(batch_size=1024, columns=columns(table.schema_arrow))
    except (pyarrow.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: not a parquet file, or damaged") from None


def _without_nulls(value: Any) -> Any:
    """Parquet fills every field that any row has."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _csv_rows(path: Path, file: IO[bytes]) -> Iterator[Placed]:
    csv.field_size_limit(1 << 30)
    try:
        text = io.StringIO(decode(file.read()), newline="")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    reader = csv.DictReader(text, delimiter="\t" if kind(path) == ".tsv" else ",")
    for row in reader:
        where = f"line {reader.line_num}"
        yield where, ValueError("has more cells than the first line") if None in row else row


class _JsonRecords:
    """JSON values one after another: a line each, over several lines, with commas between them, in an array or not.

    A value that does not parse costs no other one: the next begins where a line opens as that value did.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []  # of the value that is open
        self.start, self.depth, self.count = 0, 0, 0
        self.in_array = False

    def read(self, file: IO[bytes], advance: Callable[[float], object]) -> Iterator[Placed]:
        number = 0
        for raw in file:
            advance(len(raw))
            for line in raw.splitlines():  # bytes break at line ends alone, and old files have lone \r
                number += 1
                try:
                    text = decode(line)
                except ValueError as error:
                    yield from self._give_up(_UNCLOSED)
                    yield self._placed(f"line {number}", error)
                else:
                    yield from self._line(text, number)
        yield from self._give_up(_UNCLOSED)

    def _placed(self, where: str, value: object) -> Placed:
        self.count += 1
        return where, value

    def _give_up(self, reason: str) -> Iterator[Placed]:
        """Leave the first line of what is open, and read the rest again."""
        while self.lines:
            lines, self.lines, self.depth = self.lines, [], 0
            start = self.start
            yield self._placed(f"line {start}", ValueError(reason))
            opening = lines[0][: len(lines[0]) - len(lines[0].lstrip())] + "{"
            again = next((i for i in range(1, len(lines)) if lines[i].startswith(opening)), len(lines))
            for i in range(again, len(lines)):
                yield from self._line(lines[i], start + i)

    def _line(self, text: str, number: int) -> Iterator[Placed]:
        if not text.strip(" \t,"):
            self.lines += [text] if self.lines else []
            return
        if self.lines and self.lines[0][:1] == "{" == text[0] and self.lines[-1].rstrip()[-1:] not in ("[", ",", ":"):
            yield from self._give_up(_UNCLOSED)
        bare = _STRING.sub("", text)
        depth = self.depth + sum(map(bare.count, "{[")) - sum(map(bare.count, "}]"))
        if not self.lines:
            self.start = number
            if depth > 0 and text.lstrip()[0] == "[" and not self.count and not self.in_array:
                self.in_array, text, depth = True, text.lstrip()[1:], depth - 1
        if depth == -1 and self.in_array:
            self.in_array, depth, text = False, 0, text.rstrip()[:-1]
        self.lines.append(text)
        self.depth = depth
        if depth > _DEEPEST:
            yield from self._give_up("not a conversation: nested too deeply")
        elif depth <= 0 or '"' in bare:
            yield from self._values("\n".join(self.lines))

    def _values(self, text: str) -> Iterator[Placed]:
        """What stands in the open lines, which are complete."""
        at = _skip(text, 0)
        several = False
        while at < len(text):
            try:
                value, at = json.JSONDecoder().raw_decode(text, at)
            except json.JSONDecodeError as error:
                yield from self._give_up(f"not JSON ({error.msg}, character {error.colno})")
                return
            at = _skip(text, at)
            for item in _unwrapped(value):
                several = several or at < len(text) or item is not value
                yield self._placed(f"record {self.count + 1}" if several else f"line {self.start}", item)
        self.lines, self.depth = [], 0


def _skip(text: str, at: int) -> int:
    """Where the next value begins."""
    match = _BETWEEN.match(text, at)
    return match.end() if match else at


def _unwrapped(value: object) -> list[Any]:
    """The records of an array, or of an object around one: {"version": "1", "data": [..]}; else the value alone."""
    inner = value["data"] if isinstance(value, dict) and "data" in value and value.keys() <= _WRAPPER else value
    return inner if isinstance(inner, list) and _is_array_of_records(inner) else [value]


def _is_array_of_records(value: object) -> bool:
    """Not a conversation that is a list of messages."""
    if not isinstance(value, list) or not value:
        return False
    return all(
        isinstance(item, list) or (isinstance(item, dict) and not ("role" in item or "from" in item)) for item in value
    )
