"""Our models in lm-eval, so that all of its tasks measure them: `simple_evaluate(model=HarnessModel(model), tasks=[..])`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from openglm.config import require
from openglm.evaluation.models import EngineModel, Query, Writing, collect

_LONGEST = 256  # tokens, where a task does not say; as lm-eval's `hf`


class HarnessModel(LM):
    """lm-eval's interface over an engine. Requests that share a context are its choices, and share its computation."""

    def __init__(self, model: EngineModel) -> None:
        super().__init__()
        self.model = model

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return collect("answers", self.model.likelihoods([Query(*one.args) for one in requests]), len(requests))

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        found = collect("texts", self.model.nats([one.args[0] for one in requests]), len(requests))
        return [-nats for nats, _ in found]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return collect("texts", self.model.write([_writing(*one.args) for one in requests]), len(requests))

    @property
    def tokenizer_name(self) -> str:
        return self.model.name


def _writing(before: str, options: dict[str, Any]) -> Writing:
    stops = options.get("until") or ()
    stops = (stops,) if isinstance(stops, str) else tuple(stop for stop in stops if stop)
    heat = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
    most = options.get("max_gen_toks", options.get("max_new_tokens", _LONGEST))
    return Writing(before, "", stops, int(most), heat, float(options.get("top_p", 1.0)))


def lm_eval_figures(
    model: EngineModel, names: Sequence[str], limit: int, shots: int | None, ours: str
) -> dict[str, dict[str, Any]]:
    """lm-eval's tasks, told as ours are. Raises ValueError where it knows none or has no data."""
    manager = TaskManager()
    unknown = [name for name in names if name not in manager.all_tasks]
    require(not unknown, "tasks", unknown, f"neither ours nor lm-eval's; {ours}")
    asked = {"tasks": list(names), "task_manager": manager, "limit": limit or None, "num_fewshot": shots}
    try:
        found = simple_evaluate(HarnessModel(model), **asked)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"tasks = {', '.join(names)}: lm-eval could not fetch their data ({reason})") from None
    return {name: _figures(one, found["n-samples"].get(name, {})) for name, one in found["results"].items()}


def _figures(one: dict[str, Any], counts: dict[str, Any]) -> dict[str, Any]:
    """The first metric. lm-eval keeps the rest to itself: no chance level, no answers."""
    metric, value = next((k, v) for k, v in one.items() if isinstance(v, float) and "_stderr" not in k)
    stderr = one.get(metric.replace(",", "_stderr,"))
    stderr = stderr if isinstance(stderr, float) else 0.0
    ends = {"low": value - 1.96 * stderr, "high": value + 1.96 * stderr}
    told = {"metric": metric.partition(",")[0], "value": value, "stderr": stderr, **ends}
    return {**told, "chance": 0.0, "items": counts.get("effective", 0), "missing": [], "prompt": ""}
