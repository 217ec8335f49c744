"""Answers that are kept as they come, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openglm.evaluation.models import Answered, Likelihood, Model, Query, Writing


class Kept:
    """`Kept(model, Path("answers.jsonl"))` is the same model, which is asked nothing twice. A line holds the hash of the
    model and the question, and the answer."""

    def __init__(self, model: Model, path: Path) -> None:
        self.model, self.path = model, path
        self.name, self.fingerprint, self.fits = model.name, model.fingerprint, model.fits
        self._known: dict[str, Any] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            with contextlib.suppress(ValueError):  # the last line of a run that was killed
                self._known.update([json.loads(line)])

    def likelihoods(self, queries: Sequence[Query]) -> Answered:
        for number, answer in self._ask(queries, self.model.likelihoods):
            yield number, answer and Likelihood(*answer)

    def write(self, writings: Sequence[Writing]) -> Answered:
        return self._ask(writings, self.model.write)

    def nats(self, texts: Sequence[str]) -> Answered:
        return self._ask([(text,) for text in texts], lambda fresh: self.model.nats([text for (text,) in fresh]))

    def _ask(self, questions: Sequence[Any], ask: Callable[[Sequence[Any]], Answered]) -> Answered:
        keys = [self._key(question) for question in questions]
        yield from ((n, self._known[key]) for n, key in enumerate(keys) if key in self._known)
        askers: dict[str, list[int]] = {}
        for number, key in enumerate(keys):
            if key not in self._known:
                askers.setdefault(key, []).append(number)
        fresh = list(askers)
        with self.path.open("a", encoding="utf-8") as file:
            for place, answer in ask([questions[askers[key][0]] for key in fresh]):
                if answer is not None:
                    self._known[fresh[place]] = answer
                    file.write(json.dumps([fresh[place], answer], ensure_ascii=False) + "\n")
                    file.flush()
                yield from ((number, answer) for number in askers[fresh[place]])

    def _key(self, question: Any) -> str:
        told = json.dumps([self.fingerprint, type(question).__name__, *question])
        return hashlib.sha256(told.encode()).hexdigest()[:32]
