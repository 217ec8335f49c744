"""The steps of a corpus build, for datatrove's pipelines: what rank r of a stage does with its documents.

A step without counts of its own is a function that datatrove calls with (data, rank, number of ranks) behind what it is
given here.
Only what OpenGLM adds: the readers, cleaning, contamination, jieba's words for MinHash, the tokenizer and the shards.
The order of the steps, and the duplicate removal between them (datatrove's own), is in `build.py`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jieba
import multiprocess
import multiprocess.connection as connection
import numpy as np
import opencc
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.utils.word_tokenizers import WordTokenizer
from loguru import logger

from openglm.config import require
from openglm.data import clean
from openglm.data.readers import Reader, own_items, own_texts
from openglm.data.shards import Split, encode_in_batches, write_manifest, write_source
from openglm.text.bpe_training import train_tokenizer
from openglm.text.load import load_tokenizer

NOTHING_LEFT = "data: no text is left after cleaning; give more of it, or longer documents"
_TOKENIZER_SAMPLE = 40_000_000  # bytes; the merges of a small vocabulary do not change with more


@dataclass(frozen=True)
class Unit:
    """What one task reads: files of one source, all of one kind. reader "": by the file's suffix."""

    source: str
    files: tuple[str, ...]
    reader: str = ""
    simplify: bool = False
    cap_mb: float = 0.0
    code: bool = False


@dataclass(frozen=True)
class SourceInfo:
    name: str
    language: str
    licence: str

    def __post_init__(self) -> None:
        require(
            not self.name.endswith("-heldout"),
            "source",
            self.name,
            "the end -heldout names held-out documents; choose another name",
        )


def read_unit(
    units: tuple[Unit, ...], readers: Mapping[str, Reader], data: Any, rank: int, *_: Any
) -> Iterator[Document]:
    """Rank r reads unit r: every document, in order, or a sample of `cap_mb`."""
    unit = units[rank]
    texts = unit_texts(unit, readers)
    if unit.cap_mb:
        texts = clean.sample_to_size(texts, int(unit.cap_mb * 1e6), unit.source)
    to_simplified = opencc.OpenCC("t2s").convert if unit.simplify else str
    for i, text in enumerate(texts):
        yield Document(to_simplified(text), f"{rank}/{i}", metadata={"source": unit.source, "code": unit.code})


def unit_texts(unit: Unit, readers: Mapping[str, Reader]) -> Iterator[str]:
    for name in unit.files:
        yield from (readers[unit.reader] if unit.reader else own_texts)(Path(name))


class CleanText(PipelineStep):
    """Programs keep every line: a row of dashes is junk in prose, and needed here."""

    type, name = "CLEAN", "normal form, junk lines"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            if document.metadata.pop("code"):
                document.text = clean.normalize_code(document.text)
            else:
                text = clean.normalize(document.text)
                document.text = clean.drop_junk_lines(text)
                self.stat_update("junk_lines", value=sum(map(clean.is_junk, text.split("\n"))))
            yield document


class DropContaminated(PipelineStep):
    """Drop lines that share 13 words with an evaluation item. index_file: see `index_evaluation`."""

    type, name = "DECONTAMINATE", "13-grams of evaluation items"

    def __init__(self, index_file: str) -> None:
        super().__init__()
        self.index_file = index_file

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        index = np.load(self.index_file)
        for document in data:
            document.text, dropped = clean.drop_contaminated_lines(document.text, index)
            self.stat_update("contaminated_lines", value=dropped)
            yield document


class KeepReadable(BaseFilter):
    name = "readable"

    def filter(self, doc: Document) -> bool:
        return clean.is_readable(doc.text)


def index_evaluation(files: tuple[str, ...], index_file: str, *_: Any) -> None:
    """Hash the runs of 13 words of all evaluation items into one file."""
    texts = (text for name in files for text in own_items(Path(name)))
    np.save(index_file, clean.contamination_index(texts))


class ReadRank(JsonlReader):
    """Rank r reads back what rank r wrote (datatrove's own reader counts files, and a task that kept nothing wrote
    none)."""

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        name = f"{rank:05d}.jsonl"
        yield from self.read_files_shard([name] if self.data_folder.exists(name) else [])


class JiebaWords(WordTokenizer):
    """Words for MinHash: jieba's for Chinese, blanks for the rest."""

    def word_tokenize(self, text: str) -> list[str]:
        if text.isascii():
            return text.split()
        jieba.setLogLevel(60)
        return [word for word in jieba.cut(text, HMM=False) if not word.isspace()]

    def sent_tokenize(self, text: str) -> list[str]:
        return text.splitlines()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def document_text(document: Document) -> str:
    return document.text


def _texts_of(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.jsonl")):
        with open(path, encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)["text"]


_LEFT_OUT = {
    "FILTER: readable": "too short or unreadable documents",
    "exact-deduplication stage 3": "exact copies",
    "MinHash stage 4": "near copies",
    "junk_lines": "lines of rulers or lost bytes",
    "contaminated_lines": "lines of evaluation items",
}


def left_out(log: Path) -> tuple[int, dict[str, int]]:
    """Documents that were read, and what of them is not in the corpus, by reason, as the stages have counted."""
    read, found = 0, dict.fromkeys(_LEFT_OUT.values(), 0)
    for path in log.glob("*/stats/*.json"):
        for step in json.loads(path.read_text(encoding="utf-8")):
            counts = {key: value["total"] if isinstance(value, dict) else value for key, value in step["stats"].items()}
            read += counts.get("total", 0) if "FILTER: readable" in step["name"] else 0
            for mark, reason in _LEFT_OUT.items():
                found[reason] += counts.get("dropped" if mark in step["name"] else mark, 0)
    return read, {reason: int(count) for reason, count in found.items() if count}


class QuietExecutor(LocalPipelineExecutor):
    """datatrove's local executor, with its log in the work folder rather than on the terminal, whose processes end with
    this one and whose death is noticed."""

    pipeline: list[Any]

    def finish_tasks(self) -> Iterator[Any]:
        """Run the tasks that no earlier run has finished; yields once for each that is done."""
        ranks = self.get_incomplete_ranks(range(self.tasks))
        yield from [None] * (self.tasks - len(ranks))
        if self.workers > 1:
            context = multiprocess.get_context("forkserver")
            with context.Pool(self.workers, _end_with_parent) as pool:
                yield from _watched(pool.imap_unordered(self._run_for_rank, ranks))
            return
        pipeline = self.pipeline
        for rank in ranks:
            self.pipeline = deepcopy(pipeline)
            yield self._run_for_rank(rank)

    def _run_for_rank(self, *args: Any, **kwargs: Any) -> Any:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            try:
                return super()._run_for_rank(*args, **kwargs)
            finally:
                logger.remove()


def _end_with_parent() -> None:
    """Let this process end when the one that started the build does, in whatever way."""
    started_by = multiprocess.parent_process().sentinel

    def watch() -> None:
        connection.wait([started_by])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _watched(results: Any) -> Iterator[Any]:
    """What a pool gives, or ValueError where one of its processes was killed: it would wait for ever."""
    processes = multiprocess.active_children()
    while True:
        try:
            yield results.next(timeout=1)
        except StopIteration:
            return
        except multiprocess.TimeoutError:
            if not all(process.is_alive() for process in processes):
                raise ValueError(
                    "workers: a process of the build died, perhaps for lack of memory; the same command with fewer "
                    "--workers goes on from there"
                ) from None


def fit_tokenizer(
    text: str, sources: tuple[SourceInfo, ...], vocab_size: int, heldout: float, out: str, *_: Any
) -> None:
    """A tokenizer from training documents, the same number of bytes of every source as far as it has them."""
    if not any(Path(text).rglob("*.jsonl")):
        raise ValueError(NOTHING_LEFT)
    folders = [Path(text, source.name) for source in sources]
    train_tokenizer(_sample(folders, heldout), vocab_size, out)


def _sample(folders: list[Path], heldout: float) -> Iterator[str]:
    for folder in folders:
        size = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
        share = _TOKENIZER_SAMPLE / len(folders) / max(size, 1)
        for text in _texts_of(folder):
            if clean.stable_hash(text, "tokenizer") < share * 2**64 and not clean.is_held_out(text, heldout):
                yield text


def write_tokens(work: str, sources: tuple[SourceInfo, ...], heldout: float, data: Any, rank: int, *_: Any) -> None:
    """Rank r turns source r into shards, and leaves its manifest entry and its split texts in the work folder."""
    source, corpus = sources[rank], Path(work, "corpus")
    tokenizer = load_tokenizer(corpus)
    train, held = _split(Path(work, "text", source.name), heldout)
    shards: dict[str, list[dict[str, Any]]] = {}
    splits: dict[Split, list[str]] = {"train": train, "heldout": held}
    for split, texts in splits.items():
        ids = encode_in_batches(tokenizer, texts)
        shards[split] = write_source(corpus, source.name, split, ids, tokenizer.vocab_size)
        _write_texts(Path(work, "split", source.name + "-heldout" * (split == "heldout") + ".jsonl"), texts)
    none = {"file": f"{source.name}-heldout", "tokens": 0, "documents": 0, "sha256": hashlib.sha256().hexdigest()}
    entry = {
        **dataclasses.asdict(source),
        "bytes": _bytes(train),
        "tokens": sum(s["tokens"] for s in shards["train"]),
        "documents": len(train),
        "shards": shards["train"],
        "heldout": {**(shards["heldout"] or [none])[0], "bytes": _bytes(held)},
    }
    Path(work, "entries", f"{rank:05d}.json").write_text(json.dumps(entry), encoding="utf-8")


def _split(folder: Path, heldout: float) -> tuple[list[str], list[str]]:
    """The texts of a source: training, held out. A source too small for its share gives the one document of the
    smallest hash, unless that would be more than a tenth of it."""
    train: list[str] = []
    held: list[str] = []
    for text in _texts_of(folder):
        (held if clean.is_held_out(text, heldout) else train).append(text)
    if not held and len(train) >= 10 and heldout > 0:
        held.append(train.pop(min(range(len(train)), key=lambda i: clean.stable_hash(train[i], "heldout"))))
    return train, held


def write_corpus_manifest(work: str, *_: Any) -> None:
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(work, "entries").glob("*.json"))]
    entries = [entry for entry in entries if entry["documents"]]
    if not entries:
        raise ValueError(NOTHING_LEFT)
    corpus = Path(work, "corpus")
    tokenizer = load_tokenizer(corpus)
    write_manifest(corpus, tokenizer.fingerprint, tokenizer.vocab_size, entries)


def _bytes(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _write_texts(path: Path, texts: list[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
