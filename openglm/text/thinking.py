"""The form of conversations since GLM-4.5: thoughts between <think> and </think>, calls between <tool_call> and
</tool_call>, results between <tool_response> and </tool_response>.

The generations differ in line ends, in what stands for thoughts that are left out, and in how a request steers them:
fields of `ThinkingTurns`, whose values in formats.py follow the published chat templates. The marks are tokens of
their own, so "<think>" in a user's text stays text. Answers are read back in reading.py.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from openglm.config import require
from openglm.text.replies import Message, Part, Tool, arguments_of, json_text

MARKS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    *("<tool_response>", "</tool_response>", "/nothink"),
)
"""Tokens that stand for themselves in decoded text. A tokenizer without one spells it."""
_WORDS = re.compile(f"({'|'.join(map(re.escape, ('{}', *MARKS)))})")
_TOOLS = """
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{}
</tools>

For each function call, output the function name and arguments within the following XML format:
"""
_UNLISTED = ("defer_loading", "strict")


@dataclass(frozen=True)
class Thinking:
    """What a request says of an answer's thoughts, by the names of the published templates; None: as the format has
    it."""

    enable_thinking: bool | None = None
    clear_thinking: bool | None = None
    """leave thoughts out of the answers before the last question"""
    reasoning_effort: str | None = None
    closed: bool = False
    """no thoughts, whatever the format: what follows is a demanded call, or an answer in a given schema"""


AS_USUAL = Thinking()


@dataclass(frozen=True)
class ThinkingTurns:
    opening: str = "<think>"
    """what follows <|assistant|> in a prompt"""
    closed: str = "<think></think>"
    """stands for thoughts that are left out, in earlier answers and in a prompt that asks for none"""
    gap: str = ""
    """between the parts of a turn"""
    switch: str = ""
    """closes each question where no thoughts are asked for; a user may write it too"""
    wrapped: bool = False
    """tools are listed as given, with their type; else the function alone"""
    stripped: bool = False
    """thoughts lose the white space around them, and empty ones count as none"""
    clears: bool = True
    """thoughts before the last question are left out by default"""
    efforts: tuple[str, ...] = ()
    """the default first; opens the conversation"""
    always: bool = False
    """there is no way to ask for an answer without thoughts"""
    sorts: bool = False
    """results follow the order of their calls"""
    head = ("[gMASK]", "<sop>")
    tools = parallel = thinks = True

    def alone(self, messages: Sequence[Message]) -> bool:
        """Where earlier answers lose their thoughts, or what stands for none, only the last can be learnt from."""
        traced = any(one.get("reasoning_content") or "</think>" in str(one.get("content")) for one in messages)
        return (self.clears or bool(self.switch)) and (traced or not self.stripped)

    def __call__(
        self, messages: Sequence[Message], tools: Sequence[Tool], generation_prompt: bool, thinking: Thinking = AS_USUAL
    ) -> Iterator[Part]:
        """Adjacent texts come as one, as the templates' text is cut into tokens."""
        parts = self._parts(messages, tools, generation_prompt, thinking)
        for (special, trained), group in groupby(parts, key=lambda part: part[1:]):
            texts = [text for text, _, _ in group]
            for text in texts if special else ["".join(texts)]:
                yield text, special, trained

    def opens(self, thinking: Thinking) -> bool:
        """Whether an answer to this request begins inside thoughts."""
        return bool(self.opening) and self._thinks(thinking) and not thinking.closed

    def _thinks(self, thinking: Thinking) -> bool:
        off = thinking.enable_thinking is False
        require(
            not (off and self.always),
            "enable_thinking",
            False,
            f"this model always thinks; ask for less with reasoning_effort, one of {', '.join(self.efforts)}",
        )
        return not off and (self.always or not thinking.closed)

    def _parts(
        self, messages: Sequence[Message], tools: Sequence[Tool], generation_prompt: bool, thinking: Thinking
    ) -> Iterator[Part]:
        thinks = self._thinks(thinking)
        for name in self.head:
            yield name, True, False
        if self.efforts and thinks:
            asked = thinking.reasoning_effort
            effort = asked if asked in self.efforts else self.efforts[0]
            yield from self._turn("system", [(f"Reasoning Effort: {effort.capitalize()}", False)], gap=False)
        if tools:
            yield from self._turn("system", self._listed(tools), gap=False)
        trained, before = False, ""
        for number, (message, later, traced) in enumerate(_placed(self._ordered(messages))):
            role = "observation" if message["role"] == "tool" else message["role"]
            require(
                not message.get("metadata"),
                f"messages[{number}].metadata",
                "...",
                "this format has none; use tool_calls",
            )
            if role == "system" and not message.get("content") and tools:
                continue  # it held the tools
            if not (role == before == "observation"):
                yield f"<|{role}|>", True, trained
            before, trained = role, role == "assistant" and message.get("loss", True)
            if role == "assistant":
                yield from self._answer(message, later, traced, thinking)
            else:
                yield from self._turn("", self._said(role, message.get("content") or "", thinks))
        if messages[-1]["role"] == "assistant":
            yield "<|observation|>" if messages[-1].get("tool_calls") else "<|user|>", True, trained
        if generation_prompt:
            yield from self._turn("assistant", _filled(self.opening if self.opens(thinking) else ""), gap=False)
            if thinking.closed or not thinks:
                yield from self._turn("", _filled(self.closed))

    def _turn(self, role: str, said: Sequence[tuple[str, bool]], gap: bool = True) -> Iterator[Part]:
        if role:
            yield f"<|{role}|>", True, False
        yield from ((text, special, False) for text, special in [(self.gap * gap, False), *said] if text)

    def _said(self, role: str, content: str, thinks: bool) -> list[tuple[str, bool]]:
        if role == "observation":
            return _filled(f"<tool_response>{self.gap}{{}}{self.gap}</tool_response>", content)
        switched = bool(self.switch) and role == "user" and content.endswith(self.switch)
        said = [(content.removesuffix(self.switch) if switched else content, False)]
        return [*said, (self.switch, True)] if switched or (role == "user" and not thinks and self.switch) else said

    def _listed(self, tools: Sequence[Tool]) -> list[tuple[str, bool]]:
        shown: list[Mapping[str, Any]] = list(tools)
        if not self.wrapped:
            functions = [tool.get("function", tool) for tool in tools]
            shown = [
                {key: value for key, value in function.items() if key not in _UNLISTED}
                for function in functions
                if not function.get("defer_loading")
            ]
        pair = "<arg_key>{{arg-key-{0}}}</arg_key>{1}<arg_value>{{arg-value-{0}}}</arg_value>{1}"
        call = f"<tool_call>{{function-name}}{self.gap}{''.join(pair.format(n, self.gap) for n in (1, 2))}..."
        return _filled(f"{_TOOLS}{call}{self.gap}</tool_call>", "\n".join(map(str, map(json_text, shown))))

    def _answer(self, message: Message, later: bool, traced: bool, thinking: Thinking) -> Iterator[Part]:
        """What the default prompt already holds of it is not trained."""
        content, thoughts = message.get("content") or "", message.get("reasoning_content")
        if thoughts is None and "</think>" in content:
            before, *_, content = content.split("</think>")
            thoughts = before.rpartition("<think>")[2]
        if self.stripped:
            thoughts = thoughts.strip() if thoughts else None
        elif thoughts is None and (self._thinks(thinking) if later else traced):
            thoughts = ""
        clear = self.clears if thinking.clear_thinking is None else thinking.clear_thinking
        kept = thoughts is not None and (later or not (clear or self.switch))
        block = _filled("<think>{}</think>", thoughts or "") if kept else _filled(self.closed)
        given = 0 if not self.opening else 1 if block[0][0] == self.opening else len(block)
        words = [*block[given:]]
        if content.strip():
            words += [(self.gap, False), (content.strip(), False)]
        for call in message.get("tool_calls") or ():
            words += [(self.gap, False), *self._call(call["function"])]
        yield from self._turn("", block[:given], gap=bool(given))
        trained = message.get("loss", True)
        words = words if given else [(self.gap, False), *words]
        yield from ((text, special, trained) for text, special in words if text)

    def _call(self, function: Mapping[str, Any]) -> list[tuple[str, bool]]:
        words = _filled(f"<tool_call>{{}}{self.gap}", function["name"])
        pair = f"<arg_key>{{}}</arg_key>{self.gap}<arg_value>{{}}</arg_value>{self.gap}"
        for key, value in (arguments_of(function["arguments"]) or {}).items():
            words += _filled(pair, key, value if isinstance(value, str) else str(json_text(value)))
        return [*words, ("</tool_call>", True)]

    def _ordered(self, messages: Sequence[Message]) -> list[Message]:
        ordered: list[Message] = []
        for message in messages:
            ordered.append(message)
            calls = ordered[-count - 1].get("tool_calls") if (count := _results(ordered)) else None
            if self.sorts and calls and count == len(calls):
                ordered[-count:] = by_call(calls, ordered[-count:])
        return ordered


def _results(messages: Sequence[Message]) -> int:
    """How many results of tools stand at the end."""
    return next((n for n, one in enumerate(reversed(messages)) if one["role"] not in ("tool", "observation")), 0)


def by_call(calls: Sequence[Mapping[str, Any]], results: Sequence[Message]) -> list[Message]:
    """Results in the order of their calls where ids tell it, else as they stand."""
    found = {result.get("tool_call_id"): result for result in results}
    ids = [call.get("id") for call in calls]
    return [found[one] for one in ids] if None not in ids and found.keys() == set(ids) else list(results)


def _placed(messages: Sequence[Message]) -> Iterator[tuple[Message, bool, bool]]:
    """Each message, whether it stands behind the last question, and whether an answer to its question has thoughts."""
    turns = [sum(one["role"] == "user" for one in messages[: number + 1]) for number in range(len(messages))]
    traced = {turn for turn, one in zip(turns, messages, strict=True) if isinstance(one.get("reasoning_content"), str)}
    for turn, message in zip(turns, messages, strict=True):
        yield message, turn == turns[-1], turn in traced


def _filled(words: str, *values: str) -> list[tuple[str, bool]]:
    """Fixed words, cut at their marks, with values in place of {}; values are text, whatever they hold."""
    rest = iter(values)
    pieces = [(next(rest), False) if piece == "{}" else (piece, piece in MARKS) for piece in _WORDS.split(words)]
    return [piece for piece in pieces if piece[0]]
