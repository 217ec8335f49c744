"""The local index: a folder with an SQLite file, whose full-text search (FTS5) ranks by BM25.

An update touches what has changed and nothing else, and is one transaction, so a killed one leaves what was there
before. Vectors come afterwards, some at a time: a question embeds those of its candidates that are missing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from openglm.config import require
from openglm.web.citations import Source
from openglm.web.documents import Document
from openglm.web.ranking import CANDIDATES, Embedder, full_text, ordered
from openglm.web.words import asked, passages, searched

VERSION = 2
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE documents (id INTEGER PRIMARY KEY, url TEXT UNIQUE NOT NULL, title TEXT NOT NULL, stamp TEXT NOT NULL);
CREATE TABLE passages (id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
                       text TEXT NOT NULL, vector BLOB);
CREATE INDEX passages_of ON passages (document);
CREATE INDEX without_vector ON passages (id) WHERE vector IS NULL;
CREATE VIRTUAL TABLE found USING fts5 (words, tokenize = 'porter unicode61');
CREATE TRIGGER forget AFTER DELETE ON passages BEGIN DELETE FROM found WHERE rowid = old.id; END;
"""
_SOURCE, _JOINED = "title, url, text", "passages p JOIN documents d ON d.id = document"
_AT_ONCE = 16  # passages that are embedded between two commits
_SCORED = 100_000
"""passages that are scored for a question at most, a microsecond each; its commonest words are left out for that"""


class Index:
    """Open, and made where `create` says so. Threads and processes may search while one updates."""

    def __init__(self, folder: str | Path, embedder: Embedder | None = None, create: bool = False) -> None:
        self.folder, self.embedder = Path(folder), embedder
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
                about = (document.url, document.title, stamp)
                number = database.execute("INSERT INTO documents (url, title, stamp) VALUES (?, ?, ?)", about).lastrowid
                for text in dict.fromkeys(passages(document.text)):
                    passage = database.execute("INSERT INTO passages (document, text) VALUES (?, ?)", [number, text])
                    row = (passage.lastrowid, " ".join(searched(f"{document.title} {text}")))
                    database.execute("INSERT INTO found (rowid, words) VALUES (?, ?)", row)
            database.executemany("DELETE FROM documents WHERE url = ?", [[url] for url in gone()])

    @staticmethod
    def _meta(database: sqlite3.Connection, name: str) -> str:
        row = database.execute("SELECT value FROM meta WHERE name = ?", [name]).fetchone()
        return row[0] if row else ""

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
        best = "SELECT rowid, -rank AS score FROM found WHERE found MATCH ? ORDER BY rank LIMIT ?"
        query = (
            f"SELECT {_SOURCE}, vector, score FROM ({best}) f JOIN {_JOINED} WHERE p.id = f.rowid ORDER BY score DESC"
        )
        with self._database() as database:
            rows = database.execute(query, [_expression(database, asked(question)), CANDIDATES]).fetchall()
        found = [(Source(*source), score) for *source, _, score in rows]
        return ordered(question, found, count, self.embedder, [vector for *_, vector, _ in rows])


def _expression(database: sqlite3.Connection, question: Sequence[str]) -> str:
    """What FTS5 shall look for: any of the question's rarest words, as many as together are in `_SCORED` passages."""
    quoted = [f'"{word}"' for word in dict.fromkeys(question)]
    counting = "SELECT count(*) FROM (SELECT 1 FROM found WHERE found MATCH ? LIMIT ?)"
    counts = {word: database.execute(counting, [word, _SCORED]).fetchone()[0] for word in quoted}
    rarest = sorted(quoted, key=counts.__getitem__)
    together = accumulate(counts[word] for word in rarest)
    kept = [word for word, total in zip(rarest, together, strict=True) if word == rarest[0] or total <= _SCORED]
    return " OR ".join(kept) or '""'
