"""Calls inside an answer, as the first ChatGLM wrote them: [Begin]NAME[Param]ARGUMENTS[End]RESULT[Gen].

The marks are tokens that no text is encoded to, so nothing that a user, a page or a tool says opens or closes a call.
An answer's message has its calls beside its text, which is whole without them: "steps": [{"at": characters of the text
before the call, "name", "arguments", "result"}]. Formats without these tokens leave them out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openglm.config import require
from openglm.text.checks import require_text
from openglm.text.replies import Part

BEGIN, PARAM, END, GEN = "[Begin]", "[Param]", "[End]", "[Gen]"
SURE = 3.0
"""how much likelier, in nats, than anything else a call must be to be opened: twenty times"""


def with_steps(content: str, steps: Sequence[Mapping[str, Any]], trained: bool) -> Iterator[Part]:
    """A text with its calls at their places. What a tool returned is read, not learnt."""
    done = 0
    for step in steps:
        yield content[done : step["at"]], False, trained
        yield BEGIN, True, trained
        yield step["name"], False, trained
        yield PARAM, True, trained
        yield step["arguments"], False, trained
        yield END, True, trained
        yield step["result"], False, False
        yield GEN, True, False
        done = step["at"]
    yield content[done:], False, trained


def no_call(special: Mapping[str, int]) -> dict[int, float]:
    """A bias on the logits of a model that has no tools at hand, so that it opens no call."""
    return {special[BEGIN]: -1e9} if BEGIN in special else {}


def read_call(special: Mapping[str, int], ids: Sequence[int]) -> tuple[int, list[int], list[int]] | None:
    """Where the call begins that ids end with, and the ids of its name and of its arguments; None where they end with
    none. A call that is closed but not opened has no name."""
    if special.get(END) not in ids[-1:]:
        return None
    backwards = list(ids[::-1])
    start = len(ids) - 1 - (backwards.index(special[BEGIN]) if special[BEGIN] in backwards else 0)
    inside = list(ids[start + 1 : -1])
    middle = inside.index(special[PARAM]) if special[PARAM] in inside else len(inside)
    return start, inside[:middle], inside[middle + 1 :]


def check_steps(message: Mapping[str, Any], where: str) -> None:
    """Raise ValueError, naming the field, unless a message's steps are as above."""
    steps, before = message["steps"], 0
    require(isinstance(steps, list) and message["role"] == "assistant", where, "...", "must be an assistant's list")
    for number, step in enumerate(steps):
        here = f"{where}[{number}]"
        at = step.get("at") if isinstance(step, Mapping) else None
        at = at if isinstance(at, int) else -1
        in_order = before <= at <= len(message.get("content") or "")
        require(in_order, f"{here}.at", at, "must lie in the content, behind the step before it")
        for field in ("name", "arguments", "result"):
            require_text(step.get(field), f"{here}.{field}")
        before = at
