"""Which questions of a benchmark a corpus has seen: runs of 13 words in both, as for GPT-3 and GLM-130B."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openglm.config import require
from openglm.data.clean import contamination_index, ngram_hashes, words
from openglm.data.readers import own_files, own_texts
from openglm.evaluation.items import Item
from openglm.evaluation.tasks import SUITES, TASKS, find
from openglm.runtime import progress


def contamination(corpus: str, names: Sequence[str], data: Path) -> dict[str, dict[str, Any]]:
    """Task -> how many of its questions share a run of 13 words with the corpus, and which. Shorter questions can share
    none, and are counted."""
    asked = dict.fromkeys(task for name in names for task in SUITES.get(name, (name,)))
    unknown = [name for name in asked if name not in TASKS]
    require(not unknown, "tasks", unknown, f"known: {', '.join([*SUITES, *TASKS])}")
    items = {name: find(TASKS[name], data)[0] for name in asked}
    index = contamination_index(_text(item) for each in items.values() for item in each)
    files = own_files(corpus, "corpus")
    seen = np.zeros(len(index), bool)
    with progress("corpus", len(files), "files") as advance:
        for file in files:
            for text in own_texts(file):
                hashes = ngram_hashes(words(text))
                places = np.searchsorted(index, hashes).clip(max=max(len(index) - 1, 0))
                seen[places[index[places] == hashes] if len(index) else []] = True
            advance()
    known = index[seen]
    return {name: _report(each, known) for name, each in items.items()}


def _report(items: Sequence[Item], known: np.ndarray) -> dict[str, Any]:
    runs = [ngram_hashes(words(_text(item))) for item in items]
    shared = [number for number, hashes in enumerate(runs) if np.isin(hashes, known).any()]
    short = sum(not len(hashes) for hashes in runs)
    return {"items": len(items), "shared": len(shared), "too_short": short, "numbers": shared}


def _text(item: Item) -> str:
    return "\n".join([*item.fields.values(), *item.choices])
