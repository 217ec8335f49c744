"""How each generation of the family is asked: the frame of plain text, the form of a conversation, stop tokens and
sampling defaults, as data.

A form turns checked messages into parts, each a text or the name of a special token, with a flag that says whether it
is trained.
Three forms cover the family: turns opened by role tokens (ChatGLM3, GLM-4, ours), numbered rounds of plain text
(ChatGLM-6B, ChatGLM2), and turns with marks around thoughts and calls (since GLM-4.5, thinking.py).
The words of the prompts are the published templates'. Parts become ids in render.py; replies are read back in
replies.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openglm.config import require
from openglm.config.checks import NotNegative, Whole, check_fields
from openglm.text.replies import (
    Message,
    Part,
    Tool,
    arguments_of,
    dated,
    json_text,
    parse_chatglm3,
    parse_glm4,
    parse_own,
    parse_plain,
    parse_z1,
    widened,
    write_json_call,
    write_python_call,
)
from openglm.text.steps import with_steps
from openglm.text.thinking import AS_USUAL, Thinking, ThinkingTurns

ROLE_TOKENS = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "tool": "<|observation|>",
    "observation": "<|observation|>",
}


@dataclass(frozen=True)
class Sampling:
    """What a model's makers sample its answers with."""

    temperature: NotNegative
    top_p: float
    max_length: int
    """prompt and answer together, in tokens"""
    top_k: Whole = 0
    """draw from so many likeliest tokens; 0: from all"""

    def __post_init__(self) -> None:
        check_fields(self)
        require(0 < self.top_p <= 1, "top_p", self.top_p, "must lie in (0, 1]")

    def changed(self, given: Mapping[str, Any]) -> Sampling:
        """With what a generation_config.json says; without `do_sample` the likeliest token is taken, as there."""
        known = {name: type(value) for name, value in dataclasses.asdict(self).items()}
        values = {name: given[name] for name, kind in known.items() if type(given.get(name)) in (int, kind)}
        return dataclasses.replace(self, **(values | ({"temperature": 0.0} if given.get("do_sample") is False else {})))

    def described(self) -> dict[str, Any]:
        """As a generation_config.json says it."""
        values = dataclasses.asdict(self)
        return {"do_sample": self.temperature > 0, **{name: value for name, value in values.items() if value}}

    @property
    def params(self) -> dict[str, Any]:
        """What one answer is drawn with."""
        return {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}


@dataclass(frozen=True)
class Frame:
    """What stands around a plain text, as names of special tokens."""

    head: tuple[str, ...] = ()
    mask: str = ""
    """where [gMASK] is put behind the text: always, or where it is missing, i.e. the text holds no mask"""
    end: str = ""
    """closes a text that does not end in a mask"""
    tail: tuple[str, ...] = ()

    def __call__(self, special: Mapping[str, int], ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids before and behind the ids of a text."""
        masks = {special[name] for name in ("[MASK]", "[gMASK]", "[sMASK]")}
        names = list(self.tail)
        if self.mask == "always" or (self.mask == "missing" and masks.isdisjoint(ids)):
            names.insert(0, "[gMASK]")
        elif self.end and not (ids and ids[-1] in masks):
            names.insert(0, self.end)
        return [special[name] for name in self.head], [special[name] for name in names]


@dataclass(frozen=True)
class RoleTurns:
    """Each message behind its role token. The role token that follows an answer closes it, so it is trained with it."""

    head: tuple[str, ...]
    list_tools: Callable[[Sequence[Tool], str], str]
    """text of the tools, from their list and the system message, which has no turn of its own where `merged`"""
    write_call: Callable[[str, Mapping[str, Any]], str]
    """text of a call's arguments"""
    call_opening: str = ""
    """what stands before a call's arguments where they are to follow as JSON"""
    inline: bool = False
    """a call's name and arguments are the last lines of a content; else the name is the header line of an answer of its
    own"""
    merged: bool = False
    joined: bool = True
    """header line and content are encoded as one text, as the Jinja templates do"""
    opening: str = ""
    """what follows <|assistant|> in a prompt, so that the model need not write it"""
    thinks: bool = False
    """answers have thoughts, and are kept without them"""
    last: str = "<|user|>"
    """closes a last answer, as who speaks next would"""
    tools, parallel = True, False  # has it tools, and may an answer call several

    def alone(self, messages: Sequence[Message]) -> bool:
        """Earlier answers are shown otherwise than they were asked for, so the last one alone can be learnt from."""
        return self.thinks

    def __call__(
        self, messages: Sequence[Message], tools: Sequence[Tool], generation_prompt: bool, thinking: Thinking = AS_USUAL
    ) -> Iterator[Part]:
        yield from ((name, True, False) for name in self.head)
        trained = False
        for role, header, content, is_trained, opened, steps in self._turns(messages, tools):
            yield ROLE_TOKENS[role], True, trained  # it also closes the answer before it
            trained = is_trained
            if opened:
                yield self.opening, False, False
                yield from with_steps(content, steps, trained)
            else:
                yield from self._text(header, content, trained)
        if messages[-1]["role"] == "assistant":
            called = messages[-1].get("tool_calls") or messages[-1].get("metadata")
            yield ROLE_TOKENS["tool"] if called else self.last, True, trained
        if generation_prompt:
            yield ROLE_TOKENS["assistant"], True, False
            off = self.thinks and thinking.enable_thinking is False
            require(not off, "enable_thinking", False, "this model always thinks; leave it out")
            yield f"{self.opening}\n</think>\n" if self.thinks and thinking.closed else self.opening, False, False

    def opens(self, thinking: Thinking) -> bool:
        """Whether an answer to this request begins inside thoughts."""
        return self.thinks and not thinking.closed

    def _turns(
        self, messages: Sequence[Message], tools: Sequence[Tool]
    ) -> Iterator[tuple[str, str, str, bool, bool, Sequence[Message]]]:
        """Role, header line, content, whether trained, whether the prompt has opened it, and calls inside of it, of
        each turn; an answer that calls a tool may be two."""
        if tools:
            system = messages[0]["content"] if messages[0]["role"] == "system" else ""
            yield "system", "", self.list_tools(tools, system), False, False, ()
        for number, message in enumerate(messages):
            role, content = message["role"], message.get("content") or ""
            if tools and role == "system" and ((number == 0 and self.merged) or (not content and not self.inline)):
                continue  # the list of tools has said it
            answered = role == "assistant"
            thoughtful = self.thinks and answered
            asked = thoughtful and number == len(messages) - 1
            if thoughtful:
                content = _with_thoughts(message) if asked else content.rpartition("</think>")[2].strip()
            opened = answered and (asked if self.thinks else bool(self.opening))
            for header, text in self._texts(message, content):
                trained = answered and message.get("loss", True)
                yield role, header, text, trained, opened and not header, message.get("steps") or ()

    def _texts(self, message: Message, content: str) -> Iterator[tuple[str, str]]:
        if not message.get("tool_calls"):
            header = message.get("metadata", "")
            yield ("", f"{header}\n{content}") if header and self.inline else (header, content)
            return
        function = message["tool_calls"][0]["function"]
        name, call = function["name"], self.write_call(function["name"], arguments_of(function["arguments"]) or {})
        if self.inline:
            yield "", "\n".join([*filter(None, [content]), name, call])
            return
        if content:
            yield "", content
        yield name, call

    def _text(self, header: str, content: str, trained: bool) -> Iterator[Part]:
        if self.joined:
            yield f"{header}\n{content}", False, trained
        else:
            yield f"{header}\n", False, trained
            yield content, False, trained


def _with_thoughts(message: Message) -> str:
    """An answer behind the <think> that its prompt ends with."""
    content = message.get("content") or ""
    if "</think>" in content:
        return content.strip().removeprefix("<think>")
    thoughts = (message.get("reasoning_content") or "").strip()
    return f"\n{thoughts}\n</think>\n{content}" if thoughts else f"\n</think>\n{content}"


@dataclass(frozen=True)
class Rounds:
    """Questions and answers as numbered rounds of one plain text. Only the last answer is trained: the earlier ones
    carry no end token."""

    head: tuple[str, ...]
    tail: tuple[str, ...]
    first: int
    gap: str
    bare: bool
    """a first question stands alone"""
    end: str
    tools = parallel = thinks = False

    def alone(self, messages: Sequence[Message]) -> bool:
        """Always: earlier answers have no end token."""
        return True

    def opens(self, thinking: Thinking) -> bool:
        """Its answers have no thoughts."""
        return False

    def __call__(
        self, messages: Sequence[Message], tools: Sequence[Tool], generation_prompt: bool, thinking: Thinking = AS_USUAL
    ) -> Iterator[Part]:
        """A question always ends in the opening of its answer. The system message stands before the last question, as
        in the published server."""
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        turns = list(messages[bool(system) or messages[0]["role"] == "system" :])
        for number, message in enumerate(turns):
            where = f"messages[{number + len(messages) - len(turns)}].role"
            require(
                message["role"] == ("user", "assistant")[number % 2],
                where,
                message["role"],
                "in this model's format questions (user) and answers (assistant) alternate",
            )
        require(len(turns) > 0, "messages", len(messages), "must hold a question (user)")
        answer = turns.pop() if len(turns) % 2 == 0 else None
        yield from ((name, True, False) for name in self.head)
        yield self._text([turn["content"] for turn in turns], system), False, False
        yield from ((name, True, False) for name in self.tail)
        if answer is not None:
            yield answer["content"], False, answer.get("loss", True)
            yield self.end, True, answer.get("loss", True)

    def _text(self, contents: list[str], system: str) -> str:
        *before, question = contents
        question = system + question
        if self.bare and not before:
            return question
        text, gap = "", self.gap
        for number in range(0, len(before), 2):
            text += f"[Round {self.first + number // 2}]{gap}问：{before[number]}{gap}答：{before[number + 1]}{gap}"
        return f"{text}[Round {self.first + len(before) // 2}]{gap}问：{question}{gap}答："


@dataclass(frozen=True)
class Format:
    """All of this for one generation. `turns` is None for base models, which are not asked in conversations."""

    name: str
    frame: Frame
    stop: tuple[str, ...]
    sampling: Sampling
    turns: RoleTurns | Rounds | ThinkingTurns | None = None
    parse: Callable[[Sequence[str], bool], dict[str, Any]] = parse_own
    tidy: Callable[[str], str] | None = None
    """what is done to the characters of a content"""


def _list_tools(tools: Sequence[Tool], system: str) -> str:
    """GLM-4-0414, and ours."""
    text = "# 可用工具"
    for tool in tools:
        function = tool.get("function", tool)
        text += f"\n\n## {function['name']}\n\n{json_text(function, indent=4)}\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
    return text


def _list_tools_glm4(tools: Sequence[Tool], system: str) -> str:
    persona = "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。"
    return f"{persona}\n\n{_list_tools(tools, system)}"


def _list_tools_chatglm3(tools: Sequence[Tool], system: str) -> str:
    words = system or "Answer the following questions as best as you can. You have access to the following tools:"
    return f"{words}\n{json_text([tool.get('function', tool) for tool in tools], indent=4)}"


_HEAD = ("[gMASK]", "<sop>")
_OWN_TURNS = RoleTurns(_HEAD, _list_tools, write_json_call, inline=True, opening="\n")
_CHATGLM3_TURNS = RoleTurns(
    ("[gMASK]", "sop"),
    _list_tools_chatglm3,
    write_python_call,
    "```python\ntool_call(**",
    merged=True,
    joined=False,
    last="</s>",
)
_GLM4_TURNS = RoleTurns(_HEAD, _list_tools_glm4, write_json_call)
_0414_TURNS = RoleTurns(_HEAD, _list_tools, write_json_call)
_Z1_TURNS = RoleTurns(_HEAD, _list_tools, write_json_call, opening="\n<think>", thinks=True)
_CHATGLM6B_TURNS = Rounds((), _HEAD, first=0, gap="\n", bare=True, end="<eop>")
_CHATGLM2_TURNS = Rounds(("[gMASK]", "sop"), (), first=1, gap="\n\n", bare=False, end="</s>")

_THINKING_TURNS = {
    # GLM-4.5, 4.5-Air, 4.6
    "glm-4.5": ThinkingTurns("", gap="\n", switch="/nothink", wrapped=True, stripped=True),
    # GLM-4.7, 4.7-Flash, 5
    "glm-4.7": ThinkingTurns(closed="</think>", wrapped=True, stripped=True),
    "glm-5.1": ThinkingTurns(closed="</think>"),
    "glm-5.2": ThinkingTurns(efforts=("max", "high")),
    # GLM-5.3, 5.3-Flash
    "glm-5.3": ThinkingTurns(efforts=("max", "high", "low"), always=True, clears=False, sorts=True),
}

_GLM_FRAME = Frame(("[CLS]",), "missing", tail=("<|endoftext|>", "<|startofpiece|>"))
_ICE_FRAME = Frame(mask="missing", end="</s>", tail=("<sop>",))
_GLM4_STOP = ("<|endoftext|>", "<|user|>", "<|observation|>")
_CHATGLM6B_SAMPLING = Sampling(temperature=0.95, top_p=0.7, max_length=2048)
_CHATGLM2_SAMPLING = Sampling(temperature=0.8, top_p=0.8, max_length=8192)
_GLM4_SAMPLING = Sampling(temperature=0.8, top_p=0.8, max_length=128000)
_THINKING_SAMPLING = Sampling(temperature=1.0, top_p=0.95, max_length=131072)
_BASE_SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_length=1024)

_FORMATS = (
    Format(
        "openglm",
        Frame(mask="missing", tail=("<sop>",)),
        ("<eop>", "<|user|>", "<|observation|>"),
        Sampling(temperature=0.5, top_p=0.8, max_length=512),
        _OWN_TURNS,
    ),
    Format("glm-10b", _GLM_FRAME, ("<|endofpiece|>", "<|endoftext|>"), _BASE_SAMPLING),
    Format("glm-130b", _ICE_FRAME, ("<eop>", "</s>"), _BASE_SAMPLING),
    Format("chatglm-6b-first", _ICE_FRAME, ("<eop>",), _CHATGLM6B_SAMPLING, _CHATGLM6B_TURNS, parse_plain, widened),
    Format(
        "chatglm-6b",
        Frame(mask="always", tail=("<sop>",)),
        ("<eop>",),
        _CHATGLM6B_SAMPLING,
        _CHATGLM6B_TURNS,
        parse_plain,
        widened,
    ),
    Format(
        "chatglm2-6b", Frame(("[gMASK]", "sop")), ("</s>",), _CHATGLM2_SAMPLING, _CHATGLM2_TURNS, parse_plain, dated
    ),
    Format(
        "chatglm3-6b",
        Frame(("[gMASK]", "sop")),
        ("</s>", "<|user|>", "<|observation|>"),
        _CHATGLM2_SAMPLING,
        _CHATGLM3_TURNS,
        parse_chatglm3,
        dated,
    ),
    Format("glm-4", Frame(_HEAD), _GLM4_STOP, _GLM4_SAMPLING, _GLM4_TURNS, parse_glm4),
    Format(
        "glm-4-0414",
        Frame(_HEAD),
        _GLM4_STOP,
        Sampling(temperature=0.8, top_p=0.8, max_length=32768),
        _0414_TURNS,
        parse_glm4,
    ),
    Format(
        "glm-z1",
        Frame(_HEAD),
        _GLM4_STOP,
        Sampling(temperature=0.6, top_p=0.95, max_length=32768, top_k=40),
        _Z1_TURNS,
        parse_z1,
    ),
    *(Format(name, Frame(_HEAD), _GLM4_STOP, _THINKING_SAMPLING, turns) for name, turns in _THINKING_TURNS.items()),
)
FORMATS = {format.name: format for format in _FORMATS}
"""By the name under which a tokenizer of ours remembers its generation."""
