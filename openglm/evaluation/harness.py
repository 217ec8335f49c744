"""Our models in lm-eval, so that all of its tasks measure them: `simple_evaluate(model=HarnessModel(model), tasks=[..])`."""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from openglm.evaluation.models import Answered, EngineModel, Query, Writing
from openglm.runtime import progress

_LONGEST = 256  # tokens, where a task does not say; as lm-eval's `hf`


class HarnessModel(LM):
    """lm-eval's interface over an engine. Requests that share a context are its choices, and share its computation."""

    def __init__(self, model: EngineModel) -> None:
        super().__init__()
        self.model = model

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        found = _in_order(self.model.likelihoods([Query(*one.args) for one in requests]), len(requests))
        return [(one.logprob, one.greedy) for one in found]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return [-nats for nats in self.model.nats([one.args[0] for one in requests])]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return _in_order(self.model.write([_writing(*one.args) for one in requests]), len(requests))

    @property
    def tokenizer_name(self) -> str:
        return self.model.name


def _writing(before: str, options: dict[str, Any]) -> Writing:
    stops = options.get("until") or ()
    stops = (stops,) if isinstance(stops, str) else tuple(stop for stop in stops if stop)
    heat = float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0
    most = options.get("max_gen_toks", options.get("max_new_tokens", _LONGEST))
    return Writing(before, stops, int(most), heat, float(options.get("top_p", 1.0)))


def _in_order(answered: Answered, count: int) -> list[Any]:
    found = [None] * count
    with progress("answers", count, "requests") as advance:
        for number, answer in answered:
            found[number] = answer
            advance()
    return found


def figures(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """A task's first metric as ours are told. lm-eval keeps the rest to itself: no chance level, no answers."""
    scores = {
        key: value for key, value in found["results"][name].items() if isinstance(value, float) and "_stderr" not in key
    }
    metric, value = next(iter(scores.items()))
    stderr = found["results"][name].get(metric.replace(",", "_stderr,"))
    stderr = stderr if isinstance(stderr, float) else 0.0
    count = found["n-samples"].get(name, {}).get("effective", 0)
    ends = {"low": value - 1.96 * stderr, "high": value + 1.96 * stderr}
    return {
        "metric": metric.partition(",")[0],
        "value": value,
        "stderr": stderr,
        **ends,
        "chance": 0.0,
        "items": count,
        "missing": [],
        "prompt": "",
    }
