"""One run of `glm eval` as one JSON object, and its files."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openglm import __version__
from openglm.config import require
from openglm.evaluation.models import EngineModel
from openglm.evaluation.report import page, table
from openglm.evaluation.run import Options, evaluate
from openglm.evaluation.suites import averages, expand
from openglm.evaluation.tasks import TASKS
from openglm.files import write_file
from openglm.runtime import say


def measured(model: Any, names: Sequence[str], data: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Our tasks on our files; names that are not ours are lm-eval's, whose data come from a hub."""
    asked = expand(names)
    chosen = {key: settings[key] for key in ("limit", "shots", "written", "samples")}
    options = Options(data, axes=settings["axes"] or "helm" in names, **chosen)
    tasks = evaluate(model, [name for name in asked if name in TASKS], options)
    others = [name for name in asked if name not in TASKS]
    if others:
        tasks |= _harness(model, others, settings)
    return {
        "model": model.name,
        "model_hash": model.fingerprint,
        "tasks": tasks,
        "suites": averages(names, tasks),
        "settings": dict(settings),
        "versions": {
            "openglm": __version__,
            "python": platform.python_version(),
            "torch": importlib.metadata.version("torch"),
        },
    }


def _harness(model: Any, names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    inner = getattr(model, "model", model)
    require(
        isinstance(inner, EngineModel),
        "tasks",
        names,
        f"known: {', '.join(TASKS)}; lm-eval's need a model of this machine",
    )
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        known = ", ".join(TASKS)
        way_out = f"known: {known}; for lm-eval's: pip install 'openglm[harness]'"
        raise ValueError(f"tasks = {', '.join(names)}: {way_out}") from error

    from openglm.evaluation.harness import HarnessModel, figures

    manager = TaskManager()
    unknown = [name for name in names if name not in manager.all_tasks]
    require(not unknown, "tasks", unknown, f"neither ours nor lm-eval's; ours: {', '.join(TASKS)}")
    try:
        found = simple_evaluate(
            HarnessModel(inner),
            tasks=list(names),
            task_manager=manager,
            limit=settings["limit"] or None,
            num_fewshot=settings["shots"],
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"tasks = {', '.join(names)}: lm-eval could not fetch their data ({str(error).splitlines()[0]})"
        ) from None
    return {name: figures(name, found) for name in found["results"]}


def write(result: Mapping[str, Any], out: Path) -> None:
    """results.json, report.md and report.html."""
    write_file(out / "results.json", json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    write_file(out / "report.md", table(result) + "\n")
    write_file(out / "report.html", page([result]))
    say(f"results.json, report.md and report.html are in {out}")
