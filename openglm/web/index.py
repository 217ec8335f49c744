"""The local index: a folder with the passages in SQLite, and BM25's arrays beside it.

An update is one transaction, so a killed one leaves what was there before. Vectors come afterwards, some at a time: a
question embeds those of its candidates that are missing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import bm25s
import numpy as np

from openglm.config import require
from openglm.web.citations import Source
from openglm.web.documents import Document
from openglm.web.ranking import Embedder, bm25, candidates, full_text, ordered
from openglm.web.words import passages, words

VERSION = 1
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE documents (id INTEGER PRIMARY KEY, url TEXT UNIQUE NOT NULL, title TEXT NOT NULL, stamp TEXT NOT NULL);
CREATE TABLE passages (id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
                       text TEXT NOT NULL, words TEXT NOT NULL, vector BLOB);
CREATE INDEX passages_of ON passages (document);
"""
_SOURCE, _JOINED = "title, url, text", "passages p JOIN documents d ON d.id = document"
_AT_ONCE = 16  # passages that are embedded between two commits


class Index:
    """Open, and made where `create` says so. Threads and processes may search while one updates."""

    def __init__(self, folder: str | Path, embedder: Embedder | None = None, create: bool = False) -> None:
        self.folder, self.embedder = Path(folder), embedder
        self._ranker: tuple[str, bm25s.BM25, np.ndarray] | None = None
        file = self.folder / "index.sqlite"
        require(
            create or file.is_file(), "index", str(folder), "is no index; make one with glm index FOLDER --out INDEX"
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._database() as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and create:
                database.executescript(f"{_TABLES} PRAGMA user_version = {VERSION};")
                version = VERSION
            way_out = f"is an index of version {version}, this program reads {VERSION}; make it anew with glm index"
            require(version == VERSION, "index", str(folder), way_out)
            self._check_embedder(database)

    def _check_embedder(self, database: sqlite3.Connection) -> None:
        """Vectors of two models cannot be compared."""
        if self.embedder is None:
            return
        made_with = self._meta(database, "embedder")
        mine = self.embedder.name
        require(made_with in ("", mine), "embedder", mine, f"this index has vectors of {made_with}")

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises ValueError of one line."""
        try:
            with contextlib.closing(sqlite3.connect(self.folder / "index.sqlite", timeout=30)) as database, database:
                database.execute("PRAGMA foreign_keys = ON")
                yield database
        except sqlite3.Error as error:
            raise ValueError(f"index = {str(self.folder)!r}: {error}; make it anew with glm index") from None

    def stamps(self) -> dict[str, str]:
        """Of each document, what tells whether it has changed."""
        with self._database() as database:
            return dict(database.execute("SELECT url, stamp FROM documents"))

    def __len__(self) -> int:
        with self._database() as database:
            return database.execute("SELECT count(*) FROM passages").fetchone()[0]

    def update(self, changed: Iterator[tuple[Document, str]], gone: Callable[[], Collection[str]]) -> None:
        """Take documents in, with their stamps, in the place of those of the same URL; then take out those that are
        `gone`."""
        with self._database() as database:
            for document, stamp in changed:
                database.execute("DELETE FROM documents WHERE url = ?", [document.url])
                row = (document.url, document.title, stamp)
                number = database.execute("INSERT INTO documents (url, title, stamp) VALUES (?, ?, ?)", row).lastrowid
                database.executemany(
                    "INSERT INTO passages (document, text, words) VALUES (?, ?, ?)",
                    [
                        (number, text, " ".join(words(f"{document.title} {text}")))
                        for text in dict.fromkeys(passages(document.text))
                    ],
                )
            database.executemany("DELETE FROM documents WHERE url = ?", [[url] for url in gone()])
            if database.total_changes:
                self._rank(database)
        self._clear()

    def _rank(self, database: sqlite3.Connection) -> None:
        """BM25's statistics are of all passages, so they are computed anew, into a folder of a new name."""
        before = self._meta(database, "bm25")
        name = f"bm25-{int(before.partition('-')[2] or 0) + 1}"
        shutil.rmtree(self.folder / name, ignore_errors=True)
        rows = database.execute("SELECT words FROM passages ORDER BY id")
        ids = [number for (number,) in database.execute("SELECT id FROM passages ORDER BY id")]
        if ids:
            bm25(row[0].split() for row in rows).save(self.folder / name)
            np.save(self.folder / name / "ids.npy", np.array(ids))
        database.execute("INSERT OR REPLACE INTO meta VALUES ('bm25', ?)", [name])

    @staticmethod
    def _meta(database: sqlite3.Connection, name: str) -> str:
        row = database.execute("SELECT value FROM meta WHERE name = ?", [name]).fetchone()
        return row[0] if row else ""

    def _clear(self) -> None:
        """Remove the arrays of earlier updates, and of one that was killed."""
        with self._database() as database:
            name = self._meta(database, "bm25")
        for folder in self.folder.glob("bm25-*"):
            if folder.name != name:
                shutil.rmtree(folder, ignore_errors=True)

    def missing(self) -> int:
        """Passages without a vector."""
        with self._database() as database:
            return database.execute("SELECT count(*) FROM passages WHERE vector IS NULL").fetchone()[0]

    def embed(self, done: Callable[[int], object]) -> None:
        """Compute the vectors that are missing; whatever ends it, those that are there stay."""
        assert self.embedder is not None, "whoever calls this has one"
        while True:
            with self._database() as database:
                query = f"SELECT p.id, {_SOURCE} FROM {_JOINED} WHERE vector IS NULL LIMIT {_AT_ONCE}"
                rows = database.execute(query).fetchall()
                if not rows:
                    return
                vectors = self.embedder.embed([full_text(Source(*source)) for _, *source in rows], False)
                packed = [(vector.astype("<f2").tobytes(), row[0]) for vector, row in zip(vectors, rows, strict=True)]
                database.execute("INSERT OR REPLACE INTO meta VALUES ('embedder', ?)", [self.embedder.name])
                database.executemany("UPDATE passages SET vector = ? WHERE id = ?", packed)
            done(len(rows))

    def search(self, question: str, count: int) -> tuple[list[Source], np.ndarray | None]:
        """The passages that answer best, and their vectors; none where no word of the question is known."""
        with self._database() as database:
            found = self._candidates(database, words(question))
            rows = database.execute(
                f"SELECT p.id, {_SOURCE}, vector FROM {_JOINED} WHERE p.id IN (SELECT value FROM json_each(?))",
                [json.dumps([number for number, _ in found])],
            )
            by_id = {number: (Source(*source), vector) for number, *source, vector in rows}
        found = [(number, score) for number, score in found if number in by_id]
        stored = [by_id[number][1] for number, _ in found]
        return ordered(question, [(by_id[number][0], score) for number, score in found], count, self.embedder, stored)

    def _candidates(self, database: sqlite3.Connection, question: Sequence[str]) -> list[tuple[int, float]]:
        name = self._meta(database, "bm25")
        if not (self.folder / name / "ids.npy").is_file():
            return []
        if self._ranker is None or self._ranker[0] != name:
            ranker = bm25s.BM25.load(self.folder / name, mmap=True)
            self._ranker = name, ranker, np.load(self.folder / name / "ids.npy")
        _, ranker, ids = self._ranker
        return [(int(ids[place]), score) for place, score in candidates(ranker, question)]
