"""Programs that a model wrote, put together as HumanEval and HumanEval-X do and run in the sandbox with their tests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openglm.evaluation import metrics
from openglm.evaluation.items import Item
from openglm.evaluation.models import Model, Writing
from openglm.evaluation.tasks import Task
from openglm.runtime import cpu_threads, progress
from openglm.sandbox import MIB, run
from openglm.sandbox.languages import toolchain

_SECONDS = 5.0
_MEMORY = 512 * MIB
_PYTHON = "import math, re, sys, copy, datetime, itertools, collections, heapq, statistics, functools, hashlib, random\nfrom typing import *\n"
_CPP = "".join(
    f"#include<{name}>\n"
    for name in [
        "stdlib.h",
        "algorithm",
        "math.h",
        "stdio.h",
        "vector",
        "string",
        "climits",
        "cstring",
        "iostream",
        "map",
        "set",
        "list",
    ]
)
# What Go's tests call of testify, for nothing can be fetched.
_GO = """
type assertions struct{}
func (assertions) New(t *testing.T) assertions { return assertions{} }
func (assertions) Equal(want, got interface{}, more ...interface{}) bool {
	if !reflect.DeepEqual(want, got) { panic("not equal") }
	return true
}
var assert assertions
"""
_FOREIGN_CRATES = re.compile(r"^use (rand::Rng|regex::Regex|md5);\n", re.MULTILINE)


def program(language: str, fields: Mapping[str, str], completion: str) -> str:
    """A whole program that ends well if the completion is right."""
    whole = fields["prompt"] + completion + "\n" + fields["test"]
    if language == "python":
        called = re.search(r"^check\(", fields["test"], re.MULTILINE)
        return _PYTHON + whole + ("" if called else f"\ncheck({fields['entry_point']})\n")
    if language == "cpp":
        return _CPP + whole
    if language == "go":
        return _go(fields, completion)
    if language == "rust":
        tests = fields["test"].replace("#[cfg(test)]", "").replace("#[test]", "pub")
        calls = "".join(f"tests::{name}(); " for name in re.findall(r"fn (\w+)\(\)", fields["test"]))
        declared = _FOREIGN_CRATES.sub("", fields["declaration"])  # three crates of which few solutions make use
        return f"{fields['prompt']}{declared}{completion}\n{tests}\nfn main() {{ {calls}}}\n"
    return whole


def _go(fields: Mapping[str, str], completion: str) -> str:
    body = fields["prompt"].removeprefix(fields["import"]) + completion + "\n" + fields["test"]
    named = {*re.findall(r'"([^"]+)"', fields["import"] + fields["test_setup"]), "testing", "reflect"}
    imported = [
        n for n in sorted(named) if "." not in n and (n in ("testing", "reflect") or f"{n.split('/')[-1]}." in body)
    ]
    calls = "".join(f"{name}(nil); " for name in re.findall(r"func (Test\w+)\(", fields["test"]))
    imports = "".join(f'import "{name}"\n' for name in imported)
    return f"package main\n{imports}{_GO}{body}\nfunc main() {{ {calls}}}\n"


def passes(language: str, source: str) -> bool:
    """Whether a program ends well within its limits. JavaScript's console.assert only writes to standard error."""
    result = run(source, language=language, seconds=_SECONDS, memory_bytes=_MEMORY)
    return result.status == 0 and not result.killed_by and not (language == "javascript" and result.stderr)


def evaluate(model: Model, name: str, task: Task, items: Sequence[Item], samples: int) -> dict[str, Any]:
    """pass@k for k = 1, 10 and 100, as far as there are samples. One is the likeliest text; more are drawn as
    CodeGeeX drew them (temperature 0.2, top-p 0.95)."""
    toolchain(task.language)  # says what is not installed before anything is asked
    drawn = {"temperature": 0.2, "top_p": 0.95} if samples > 1 else {}
    asked = [
        Writing(task.ask(item), task.stop, task.max_tokens, seed=seed, **drawn)
        for item in items
        for seed in range(samples)
    ]
    texts: list[str | None] = [None] * len(asked)
    with progress(name, len(asked), "programs") as advance:
        for number, text in model.write(asked):
            texts[number] = text
            advance()
    missing = sorted({number // samples for number, text in enumerate(texts) if text is None})
    sources = [
        program(task.language, items[n // samples].fields, _closed(task.language, text or ""))
        for n, text in enumerate(texts)
    ]
    right = check_all(name, task.language, sources)
    counts = [sum(right[start : start + samples]) for start in range(0, len(right), samples)]
    scores = {k: [metrics.pass_at_k(samples, count, k) for count in counts] for k in (1, 10, 100) if k <= samples}
    whole = dict.fromkeys(metrics.Estimate._fields) if missing else metrics.mean(scores[1])._asdict()
    found = {
        "metric": "pass@1",
        **whole,
        "chance": 0.0,
        "items": len(items),
        "missing": missing,
        "prompt": asked[0].before,
    }
    found |= {f"pass@{k}": metrics.mean(each).value for k, each in scores.items() if not missing}
    return found | {"scores": scores[1]}


def check_all(name: str, language: str, sources: list[str]) -> list[bool]:
    """Each program's verdict, several at a time."""
    with progress(f"{name}, tests", len(sources), "programs") as advance, ThreadPoolExecutor(cpu_threads()) as pool:
        found = []
        for verdict in pool.map(lambda source: passes(language, source), sources):
            found.append(verdict)
            advance()
    return found


def _closed(language: str, text: str) -> str:
    """With the braces that the stop texts took away."""
    if language == "python":
        return text
    return text + "\n}" * max(0, 1 + (language == "java") + text.count("{") - text.count("}"))
