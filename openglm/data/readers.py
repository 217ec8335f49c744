"""One small reader for each kind of text: files in, whole documents out, in a fixed order.

`READERS` names them for a sources file; `read_folder` is the reader of a user's own .txt, .jsonl and .parquet files.
Readers know formats, not packages: which files they get is said in the sources file.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from openglm.data import markup

Reader = Callable[[Path], Iterator[str]]


def read_utf8(path: Path) -> str:
    """The text of a file (.gz and dictd's .dz are unpacked). Not UTF-8: ValueError with the file and the byte offset."""
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


def libreoffice(path: Path) -> Iterator[str]:
    """A page of LibreOffice's help, without the lists of related pages."""
    yield markup.html_text(read_utf8(path), inside="DisplayArea", without=frozenset({"embedded", "related", "debug"}))


def fortunes(path: Path) -> Iterator[str]:
    """Sayings between lines of a single percent sign."""
    text = re.sub(r"\x1b\[[0-9;]*m|\x08.", "", read_utf8(path))
    for saying in re.split(r"^%\s*$", text, flags=re.M):
        yield saying.strip("\n").replace("\t", "    ")


def poems(path: Path) -> Iterator[str]:
    """A poem is 《title》, author, lines; collections nest in chapters and the files use several names for the same thing."""
    yield from _poems(json.loads(read_utf8(path)), "", "")


def _poems(node: Any, title: str, author: str) -> Iterator[str]:
    if isinstance(node, list):
        for child in node:
            yield from _poems(child, title, author)
        return
    if not isinstance(node, dict):
        return
    own = next(
        (node[key] for key in ("title", "rhythmic", "chapter", "subchapter", "type") if isinstance(node.get(key), str)),
        "",
    )
    title, author = own or title, node.get("author") or author
    body = next((node[key] for key in ("paragraphs", "content", "para") if node.get(key)), [])
    if isinstance(body, str):
        body = [body]
    text = [line for line in body if isinstance(line, str)]
    if text and not any("□" in line or "〖" in line for line in text):
        yield "\n".join([f"《{title}》"] * bool(title) + [author] * bool(author) + text)
    yield from _poems([child for child in body if not isinstance(child, str)], title, author)


def biographies(path: Path) -> Iterator[str]:
    """Lives of the poets: name, then a paragraph."""
    for entry in json.loads(read_utf8(path)):
        text = entry.get("desc") or ""
        if len(text) > 10 and text != "--":
            yield f"{entry['name']}\n{text}"


_WIDE = {
    code: code - 0xFEE0
    for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B), 0xFF05, 0xFF0E)
}


def tagged_news(path: Path) -> Iterator[str]:
    """Word/tag lines of a newspaper. A headline (short, no full stop) after a finished paragraph starts the next article."""
    article: list[str] = []
    for line in read_utf8(path).splitlines():
        text = "".join(re.sub(r"/\w+$", "", word) for word in line.split()).translate(_WIDE)
        headline = len(text) < 40 and not text.endswith(("。", "！", "？", "”", "）", "；", "：", "…"))
        if (
            headline
            and article
            and article[-1].endswith(("。", "！", "？", "”", "）", "…"))
            and len("".join(article)) > 80
        ):
            yield "\n".join(article)
            article = []
        article.append(text)
    yield "\n".join(article)


def idioms(path: Path) -> Iterator[str]:
    """Idiom, reading, meaning, origin and example; the ～ of an example stands for the idiom."""
    for entry in json.loads(read_utf8(path)):
        word = entry["word"]
        parts = [f"{word}（{entry['pinyin']}）：{entry['explanation']}"]
        parts += [f"出处：{entry['derivation']}"] * (entry.get("derivation", "无") not in ("无", ""))
        parts += [f"例句：{entry['example'].replace('～', word)}"] * (entry.get("example", "无") not in ("无", ""))
        yield "\n".join(parts)


def _zipped_table(path: Path) -> Iterator[list[str]]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            for line in decode(archive.read(name), path).splitlines():
                yield line.split("\t")


def definitions(path: Path) -> Iterator[str]:
    """A zipped table of words: the first column is the word, the last its definition; ~ and ～ stand for the word."""
    for row in _zipped_table(path):
        if len(row) > 1 and len(row[-1]) > 2:
            yield f"{row[0]}：{row[-1].replace('～', row[0]).replace('~', row[0])}"


def riddles(path: Path) -> Iterator[str]:
    """A zipped table of two-part sayings: what is said, and what is meant."""
    for row in _zipped_table(path):
        if len(row) == 2:
            yield f"{row[0]}——{row[1]}"


def json_strings(path: Path) -> Iterator[str]:
    """A JSON list of texts, each a document."""
    for text in json.loads(read_utf8(path)):
        if isinstance(text, str):
            yield text


def brown(path: Path) -> Iterator[str]:
    """The Brown corpus: word/tag, a paragraph or sentence a line; a file is a document."""
    out = []
    for line in read_utf8(path).splitlines():
        text = " ".join(word.rsplit("/", 1)[0] for word in line.split())
        text = re.sub(r" ([,.;:?!)\]]|''|'s\b|n't\b)", r"\1", re.sub(r"(``|[(\[]) ", r"\1", text))
        text = re.sub(r"([;:?!])(\1)", r"\1", text)  # the corpus doubles them
        out += [text.replace("``", '"').replace("''", '"')] * bool(text)
    yield "\n".join(out)


def chitchat(path: Path) -> Iterator[str]:
    """Conversations of two people, a line a turn."""
    for dialogue in json.loads(read_utf8(path)).values():
        turns = [" ".join(message["text"].strip() for message in turn) for turn in dialogue["messages"]]
        if len(turns) >= 4:
            yield "\n".join(turn for turn in turns if turn)


def wiki_dump(path: Path) -> Iterator[str]:
    """A bz2 dump of MediaWiki pages: title and prose of each article."""
    title = ""
    for _, element in ElementTree.iterparse(io.BytesIO(bz2.decompress(path.read_bytes()))):
        tag = element.tag.rsplit("}", 1)[-1]
        if tag == "title":
            title = element.text or ""
        elif tag == "text" and ":" not in title and element.text and not element.text.lower().startswith("#redirect"):
            yield f"{title}\n\n{markup.wiki_text(element.text)}"
        element.clear()


_PARTS_OF_SPEECH = {"n": "noun", "v": "verb", "a": "adjective", "s": "adjective", "r": "adverb"}


def wordnet(path: Path) -> Iterator[str]:
    """WordNet's data files: the words of a sense, its part of speech, its gloss and examples."""
    for line in read_utf8(path).splitlines():
        if line.startswith("  ") or "|" not in line:
            continue
        fields, gloss = line.split("|", 1)
        fields = fields.split()
        names = [re.sub(r"\(\w+\)$", "", fields[4 + 2 * i]).replace("_", " ") for i in range(int(fields[3], 16))]
        yield f"{', '.join(names)} ({_PARTS_OF_SPEECH[fields[2]]}): {gloss.strip()}"


def foldoc(path: Path) -> Iterator[str]:
    """A dictd dictionary whose headwords start in the first column and whose articles are indented."""
    for entry in re.split(r"\n(?=\S)", read_utf8(path))[1:]:
        head, _, body = entry.partition("\n")
        body = re.sub(r"\{([^{}]*)\}", r"\1", re.sub(r"\n\s*\(\d{4}-\d\d-\d\d\)", "", body))
        if len(body) > 20:
            yield f"{head}\n{markup.unwrap(body).strip()}"


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


READERS: dict[str, Reader] = {
    f.__name__: f
    for f in (
        plain,
        lines,
        rst,
        roff,
        pod,
        html,
        libreoffice,
        fortunes,
        poems,
        biographies,
        tagged_news,
        idioms,
        definitions,
        riddles,
        json_strings,
        brown,
        chitchat,
        wiki_dump,
        wordnet,
        foldoc,
        items,
    )
}


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
    """The files of a user's folder that we read, sorted. Raises ValueError if the folder is missing or holds none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"data {folder}: no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix in OWN_READERS and path.is_file())
    if not files:
        raise ValueError(f"data {folder}: no .txt, .jsonl or .parquet file in it")
    return files
