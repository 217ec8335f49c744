"""One run of `glm eval` as one JSON object, and its files."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openglm import __version__
from openglm.config import require
from openglm.evaluation.models import EngineModel
from openglm.evaluation.report import chart, page, table
from openglm.evaluation.run import STEREOTYPES, Options, run
from openglm.evaluation.tasks import SUITES, TASKS
from openglm.files import write_file
from openglm.runtime import say


def measured(model: Any, names: Sequence[str], options: Options, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Our tasks on our files; names that are not ours are lm-eval's, whose data come from a hub."""
    asked = list(dict.fromkeys(task for name in names for task in SUITES.get(name, (name,))))
    others = [name for name in asked if name not in TASKS]
    tasks = _harness(model, others, options) if others else {}
    mine = [name for name in asked if name in TASKS]
    tasks |= run(model, mine, options, names) if mine else {}
    versions = {
        "openglm": __version__,
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }
    return {
        "model": model.name,
        "model_hash": model.fingerprint,
        "tasks": tasks,
        "suites": {name: average(name, tasks) for name in names if name in SUITES},
        "settings": dict(settings),
        "versions": versions,
    }


def average(suite: str, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The plain mean over a suite's tasks, but for those that measure bias or toxicity; of BIG-bench-lite that of (value - chance) / (1 - chance), so that guessing
    is 0. None where a task has no value; `without` names tasks that are not in the mean."""
    judged = [name for name in SUITES[suite] if tasks.get(name, {}).get("metric") not in ("toxicity", STEREOTYPES)]
    each = [tasks[name] for name in judged if name in tasks]
    without = [name for name in judged if name not in tasks]
    if any(one["value"] is None for one in each):
        return {"value": None, "stderr": None, "without": without}
    chances = [one["chance"] if suite == "bigbench-lite" else 0.0 for one in each]
    values = [(one["value"] - chance) / (1 - chance) for one, chance in zip(each, chances, strict=True)]
    errors = [one["stderr"] / (1 - chance) for one, chance in zip(each, chances, strict=True)]
    return {"value": sum(values) / len(each), "stderr": math.hypot(*errors) / len(each), "without": without}


def _harness(model: Any, names: Sequence[str], options: Options) -> dict[str, Any]:
    inner = getattr(model, "model", model)
    known = f"ours: {', '.join([*SUITES, *TASKS])}"
    require(isinstance(inner, EngineModel), "tasks", names, f"lm-eval's need a model of this machine; {known}")
    try:
        from openglm.evaluation.harness import lm_eval_figures
    except ModuleNotFoundError:
        raise ValueError(
            f"tasks = {', '.join(names)}: {known}; for lm-eval's: pip install 'openglm[harness]'"
        ) from None
    return lm_eval_figures(inner, names, options.limit, options.shots, known)


def write(results: Sequence[Mapping[str, Any]], out: Path) -> None:
    """results.json of one model; report.md, report.html and the picture report.svg of all."""
    out.mkdir(parents=True, exist_ok=True)
    if len(results) == 1:
        write_file(out / "results.json", json.dumps(results[0], ensure_ascii=False, indent=1) + "\n")
    write_file(out / "report.md", "\n\n".join(table(result) for result in results) + "\n")
    write_file(out / "report.html", page(results))
    write_file(out / "report.svg", chart(results))
    say(f"report.html, report.md and report.svg are in {out}")
