"""`glm eval`: figures on benchmarks, a comparison of two results, or what a corpus has seen of a benchmark."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from openglm.cli.options import parse
from openglm.config import require


@dataclass
class EvalOptions:
    """Measure a model on benchmarks: glm eval nano --tasks mmlu,logiqa --limit 100."""

    model: Annotated[str, tyro.conf.Positional] = "nano"
    """folder of a model, the name of a bundled one, or the address of an OpenAI-compatible interface"""
    tasks: str = ""
    """names of tasks or suites, with commas between: mmlu, clue, deck-exams, code ..; others are lm-eval's"""
    data: str = ""
    """folder with the benchmarks' own files, or that of one benchmark; empty: what `glm data eval-items` fetched"""
    limit: int = 0
    """questions of each task, evenly chosen; 0: all"""
    shots: int | None = None
    """questions with answers to show before each; None: as many as the benchmark's authors do"""
    out: str = ""
    """folder for results.json, report.md, report.html, and the answers as they come: the same command goes on there"""
    chat: bool = False
    """ask in the model's form of conversations, as a user would"""
    written: bool = False
    """let the model write the letter of its choice, in place of comparing the choices' likelihoods"""
    forward: bool = False
    """read prompts from left to right, where the model would read them both ways"""
    axes: bool = False
    """also measure robustness and calibration, as HELM does; the suite helm always does"""
    samples: int = 1
    """programs for each coding problem; with 10 or 100, pass@10 and pass@100 are given too"""
    endpoint_model: str = ""
    """name of the model at an address"""
    compare: tuple[str, ...] = ()
    """results.json of two models or more: differences from the first on the same questions, and how likely these are by
    chance; with --out also a report of all side by side"""
    corpus: str = ""
    """folder or file of texts: say how many questions of the tasks share 13 words in a row with it"""
    adapter: str = ""
    """folder of a LoRA or a prefix for this model"""
    quantize: str = ""
    """int8 or int4: shrink the weights first"""
    device: str = "auto"
    """device to run on: auto, cpu, cuda, mps, ..."""
    json: bool = False
    """print one JSON object instead of a table"""


def run(argv: list[str]) -> int:
    options = parse(EvalOptions, argv, "glm eval", "Measure a model on benchmarks.")
    from openglm.evaluation.report import table

    if options.compare:
        return _compare(options)
    require(options.limit >= 0, "limit", options.limit, "must not be negative")
    require(options.samples > 0, "samples", options.samples, "must be 1 at least")
    require(bool(options.tasks), "tasks", "", "name some, such as mmlu or clue")
    result = _corpus(options) if options.corpus else measure(options)
    print(json.dumps(result, ensure_ascii=False) if options.json or options.corpus else table(result))
    missing = {name: one["missing"] for name, one in result["tasks"].items() if one.get("missing")}
    if missing:
        named = "; ".join(f"{name}: {', '.join(map(str, numbers))}" for name, numbers in missing.items())
        raise ValueError(f"no answer came to these questions, so there is no average: {named}; run it again with --out")
    return 0


def _compare(options: EvalOptions) -> int:
    from openglm.evaluation.report import compare
    from openglm.evaluation.results import write

    require(len(options.compare) > 1, "compare", options.compare, "give two results.json or more")
    first, *others = ({"model": path, **_read(path)} for path in options.compare)
    print("\n\n".join(compare(first, other) for other in others))
    if options.out:
        write([first, *others], Path(options.out))
    return 0


def _read(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        require("tasks" in found, "compare", path, "is no results.json of glm eval")
        return found
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"compare = {path!r}: cannot be read ({error}); give a results.json of glm eval") from None


def _data(options: EvalOptions) -> Path:
    from openglm.evaluation.packages import items_folder

    return Path(options.data) if options.data else items_folder()


def _corpus(options: EvalOptions) -> dict[str, Any]:
    from openglm.evaluation.contamination import contamination

    return {"tasks": contamination(options.corpus, _names(options), _data(options))}


def _names(options: EvalOptions) -> list[str]:
    return [name for name in options.tasks.split(",") if name]


def measure(options: EvalOptions) -> dict[str, Any]:
    """Ask everything, and write what --out wants."""
    from openglm.evaluation.kept import Kept
    from openglm.evaluation.results import measured, write
    from openglm.evaluation.run import Options

    names = _names(options)
    model: Any = _model(options)
    out = Path(options.out) if options.out else None
    if out:
        out.mkdir(parents=True, exist_ok=True)
        model = Kept(model, out / "answers.jsonl")
    axes = options.axes or "helm" in names
    how = Options(_data(options), options.limit, options.shots, options.written, axes, options.samples)
    result = measured(model, names, how, vars(options))
    if out:
        write([result], out)
    return result


def _model(options: EvalOptions) -> Any:
    if options.model.startswith(("http://", "https://")):
        from openglm.evaluation.endpoint import EndpointModel

        return EndpointModel(options.model, options.endpoint_model, options.chat)
    from openglm.assistant import Assistant
    from openglm.evaluation.models import EngineModel

    assistant = Assistant(
        options.model, adapter=options.adapter or None, device=options.device, quantize=options.quantize or None
    )
    settings = f"{assistant.fingerprint}{options.quantize}"
    return EngineModel(assistant.engine, options.model, settings, options.chat, options.forward)
