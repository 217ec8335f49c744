"""The corpus on disk: documents as token ids, in shards that are read in place.

    CORPUS/manifest.json            what is in the folder, with the SHA-256 of every file
    CORPUS/tokenizer.json           the tokenizer that made the ids
    CORPUS/<source>-00000.tokens    ids, little-endian uint16 (uint32 for a vocabulary above 65535), documents back to
    back CORPUS/<source>-00000.index     little-endian int64: where each document of the shard ends, in tokens
    CORPUS/<source>-heldout.*       the documents kept out of training

Nothing here knows about text, masks or rows: `build.py` writes, `mixture.py` reads.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

SHARD_TOKENS = (
    1 << 27
)  # a quarter of a gigabyte in uint16: small enough to copy, large enough that a corpus has few files
Split = Literal["train", "heldout"]


def token_dtype(vocab_size: int) -> np.dtype:
    """Type of the ids on disk."""
    return np.dtype("<u2" if vocab_size <= 65535 else "<u4")


def _write_shard(
    folder: Path, stem: str, documents: Iterable[Sequence[int]], dtype: np.dtype, limit: int
) -> dict[str, Any] | None:
    """Write documents until one passes `limit` tokens; None if there was none."""
    ends: list[int] = []
    total, hash_tokens = 0, hashlib.sha256()
    with open(folder / f"{stem}.tokens", "wb") as file:
        for document in documents:
            raw = np.asarray(document, dtype).tobytes()
            file.write(raw)
            hash_tokens.update(raw)
            total += len(raw) // dtype.itemsize
            ends.append(total)
            if total >= limit:
                break
    if not ends:
        (folder / f"{stem}.tokens").unlink()
        return None
    index = np.array(ends, "<i8").tobytes()
    (folder / f"{stem}.index").write_bytes(index)
    hash_tokens.update(index)
    return {"file": stem, "tokens": total, "documents": len(ends), "sha256": hash_tokens.hexdigest()}


def write_source(
    folder: Path,
    name: str,
    split: Split,
    documents: Iterable[Sequence[int]],
    vocab_size: int,
    shard_tokens: int = SHARD_TOKENS,
) -> list[dict[str, Any]]:
    """Write one source's documents (token ids) as shards into `folder`; returns their manifest entries.

    A shard's "sha256" is that of its .tokens file followed by its .index file. The held-out split is one shard whatever
    its length.
    """
    documents = iter(documents)
    shards: list[dict[str, Any]] = []
    if split == "heldout":
        shard = _write_shard(folder, f"{name}-heldout", documents, token_dtype(vocab_size), 1 << 62)
        return [shard] if shard else []
    while shard := _write_shard(folder, f"{name}-{len(shards):05d}", documents, token_dtype(vocab_size), shard_tokens):
        shards.append(shard)
    return shards


def canonical_hash(value: dict[str, Any]) -> str:
    """SHA-256 of a JSON value written in one way only."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
    ).hexdigest()


def write_manifest(
    folder: Path, tokenizer_fingerprint: str, vocab_size: int, sources: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write manifest.json, last of all files, and return it. Its "sha256" names the corpus: same texts and options,
    same hash."""
    manifest = {"version": 1, "tokenizer": tokenizer_fingerprint, "vocab_size": vocab_size, "sources": sources}
    manifest["sha256"] = canonical_hash(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


class Source:
    """The documents of one source and split, over all its shards, memory-mapped.

    name; tokens: number of ids; lengths: int64 [documents], tokens of each.
    """

    def __init__(self, name: str, shards: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """shards: ids of documents back to back, and where each ends."""
        self.name = name
        self._tokens, self._ends = zip(*shards, strict=True)
        self._first = np.cumsum([0] + [len(ends) for ends in self._ends])  # number of each shard's first document
        self.lengths = np.concatenate([np.diff(ends, prepend=0) for ends in self._ends])
        self.tokens = int(self.lengths.sum())

    def __len__(self) -> int:
        return int(self._first[-1])

    def document(self, i: int) -> np.ndarray:
        """Token ids of document `i`: a slice of the file, not a copy."""
        shard = int(np.searchsorted(self._first, i, side="right")) - 1
        at = i - self._first[shard]
        start = self._ends[shard][at - 1] if at else 0
        return self._tokens[shard][start : self._ends[shard][at]]


def _open_shard(folder: Path, shard: dict[str, Any], dtype: np.dtype, verify: bool) -> tuple[np.ndarray, np.ndarray]:
    paths = [folder / f"{shard['file']}{suffix}" for suffix in (".tokens", ".index")]
    for path, size in zip(paths, (shard["tokens"] * dtype.itemsize, shard["documents"] * 8), strict=True):
        if not path.is_file():
            raise ValueError(
                f"{path}: missing, though manifest.json lists it; build the corpus again with `glm data build`"
            )
        if path.stat().st_size != size:
            state = "cut short" if path.stat().st_size < size else "too long"
            raise ValueError(
                f"{path}: {state} ({path.stat().st_size} bytes, manifest.json says {size}); build the corpus again "
                "with `glm data build`"
            )
    if verify:
        found = hashlib.sha256(paths[0].read_bytes() + paths[1].read_bytes()).hexdigest()
        if found != shard["sha256"]:
            raise ValueError(
                f"{paths[0]}: damaged (its SHA-256 is not the one in manifest.json); build the corpus again with "
                "`glm data build`"
            )
    tokens = np.memmap(paths[0], dtype, "r") if shard["tokens"] else np.zeros(0, dtype)
    return tokens, np.fromfile(paths[1], "<i8")


def is_corpus(folder: str | Path) -> bool:
    """Whether the folder is one that `glm data build` wrote."""
    return (Path(folder) / "manifest.json").is_file()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a corpus folder. Raises ValueError if there is none, or it is damaged."""
    path = Path(folder) / "manifest.json"
    if not is_corpus(folder):
        what = "has no manifest.json" if path.parent.is_dir() else "no such folder"
        raise ValueError(f"corpus {folder}: {what}; make one with `glm data build`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        named, rest = manifest.get("sha256"), {k: v for k, v in manifest.items() if k != "sha256"}
    except (ValueError, AttributeError):
        raise ValueError(f"{path}: not a manifest of a corpus; build the corpus again with `glm data build`") from None
    if rest.get("version") != 1:
        raise ValueError(
            f"{path}: version {rest.get('version')!r}, this program reads version 1; build the corpus again with "
            "`glm data build`"
        )
    if canonical_hash(rest) != named:
        raise ValueError(
            f"{path}: damaged (it does not match its own SHA-256); build the corpus again with `glm data build`"
        )
    return manifest


class Corpus:
    """A corpus folder opened for reading. `sources` holds those that have documents in the split.

    verify: also hold every byte to the SHA-256 of the manifest (reads everything once); lengths are always checked.
    """

    def __init__(self, folder: str | Path, split: Split = "train", verify: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        self.vocab_size: int = self.manifest["vocab_size"]
        self.fingerprint: str = self.manifest["sha256"]
        self.sources: dict[str, Source] = {}
        for entry in self.manifest["sources"]:
            shards = entry["shards"] if split == "train" else [entry["heldout"]]
            shards = [shard for shard in shards if shard["documents"]]
            if shards:
                opened = [_open_shard(self.folder, shard, token_dtype(self.vocab_size), verify) for shard in shards]
                self.sources[entry["name"]] = Source(entry["name"], opened)
        if not self.sources:
            raise ValueError(
                f"corpus {folder}: no {split} documents in it; build it from more text with `glm data build`"
            )


def encode_in_batches(tokenizer: Any, texts: Iterable[str], batch: int = 1024) -> Iterable[list[int]]:
    """Token ids of each text, in order."""
    texts = iter(texts)
    while block := list(islice(texts, batch)):
        yield from tokenizer.encode_batch(block)
