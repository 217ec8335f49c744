"""The one chat renderer: messages to (ids, loss mask), and its inverse, the reply parser.

Training, the terminal and the server all pass through `render`, so what a model saw in training is what it is asked with. A template
is a function from checked messages to parts, each a text or a special id, with a flag that says whether it is trained: the template of
our own models is `_openglm`. The form is GLM-4's: `[gMASK] <sop>`, then for each message its role token, a line end and the content; an
answer is closed by the role token that follows it, <|user|>, or <|observation|> after a tool call. All stands behind <sop>, hence is
causal, and texts are encoded one by one, hence the ids of a longer conversation begin with those of a shorter one: a KV cache holds over turns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from openglm.config import require
from openglm.text.tokenizer import Tokenizer, require_text

Message = Mapping[str, Any]
Part = tuple[str | int, bool]  # text or special id; trained or not

_ROLE_TOKENS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>", "tool": "<|observation|>", "observation": "<|observation|>"}
_END_TOKENS = ("<eop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


def render(tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None, *, generation_prompt: bool = False) -> tuple[list[int], list[int]]:
    """Ids of a conversation, and a loss mask of the same length: 1 where the token itself is predicted and trained (not shifted).

    messages: in OpenAI's form: {"role": system | user | assistant | tool (or observation), "content": str}. An assistant message may hold one
    call, "tool_calls": [{"function": {"name", "arguments": object or JSON text}}], and "loss": false leaves it out of training.
    tools: in OpenAI's form: [{"type": "function", "function": {"name", "description", "parameters"}}].
    generation_prompt: end with the opening of an answer, for a model to go on.
    Trained are the assistants' contents and the tokens that close them, and nothing else. Raises ValueError naming message and field.
    """
    _check_messages(messages)
    if generation_prompt:
        last = len(messages) - 1
        require(messages[last]["role"] != "assistant", f"messages[{last}].role", "assistant", "to ask for an answer, the last message must be another's")
    ids: list[int] = []
    loss_mask: list[int] = []
    for part, trained in _openglm(tokenizer.special, messages, tools, generation_prompt):
        piece = tokenizer.encode_parts([part])
        ids += piece
        loss_mask += [int(trained)] * len(piece)
    return ids, loss_mask


def parse_reply(tokenizer: Tokenizer, ids: Iterable[int]) -> dict[str, Any]:
    """What a model generated after a generation prompt, as a message {"role", "content", "tool_calls"} that `render` takes back.

    The reply ends at the first role token or <eop>; it holds a tool call only where <|observation|> closed it (see `parse_text`).
    """
    ends = {tokenizer.special[name] for name in _END_TOKENS}
    ids = [int(number) for number in ids]
    length = next((place for place, number in enumerate(ids) if number in ends), len(ids))
    return parse_text(tokenizer.decode(ids[:length]), called=ids[length : length + 1] == [tokenizer.special["<|observation|>"]])


def parse_text(text: str, called: bool) -> dict[str, Any]:
    """`parse_reply` for text already decoded; `called`: <|observation|> closed it. A malformed call stays visible as content."""
    if called:
        head, _, last_line = text.rpartition("\n")
        content, _, name = head.rpartition("\n")
        arguments = _arguments_line(last_line)
        if _is_name(name) and arguments is not None:
            return {"role": "assistant", "content": content, "tool_calls": [{"type": "function", "function": {"name": name, "arguments": json.loads(arguments)}}]}
    return {"role": "assistant", "content": text, "tool_calls": []}


def _openglm(special: Mapping[str, int], messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, generation_prompt: bool) -> Iterator[Part]:
    """The template of our own models."""
    yield special["[gMASK]"], False
    yield special["<sop>"], False
    if tools:
        yield special["<|system|>"], False
        yield "\n", False
        yield _tools_text(tools), False
    trained = False
    for message in messages:
        yield special[_ROLE_TOKENS[message["role"]]], trained  # it also closes the answer before it
        yield "\n", False
        trained = message["role"] == "assistant" and message.get("loss", True)
        yield _body(message), trained
    if messages[-1]["role"] == "assistant":
        yield special[_ROLE_TOKENS["tool" if messages[-1].get("tool_calls") else "user"]], trained
    if generation_prompt:
        yield special["<|assistant|>"], False
        yield "\n", False


def _body(message: Message) -> str:
    """Content of a message; a tool call is two more lines, its name and its arguments as JSON."""
    content, calls = message.get("content") or "", message.get("tool_calls")
    if not calls:
        return content
    function, line_end = calls[0]["function"], "\n" if content else ""
    return f"{content}{line_end}{function['name']}\n{_arguments_line(function['arguments'])}"


def _tools_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """The list of tools, in the words of GLM-4-0414's published template."""
    text = "# 可用工具"
    for number, tool in enumerate(tools):
        where = f"tools[{number}].function"
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        require(isinstance(function, Mapping) and _is_name(function.get("name")), f"{where}.name", function and function.get("name"), "each tool needs a name without spaces")
        schema = _json(function, indent=4)
        require(schema is not None, where, function["name"], "cannot be written as JSON")
        text += f"\n\n## {function['name']}\n\n{schema}\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
    return text


def _check_messages(messages: Sequence[Message]) -> None:
    require(isinstance(messages, Sequence) and len(messages) > 0, "messages", messages, "must be a list of at least one message")
    before: Message = {"role": "start"}
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        require(isinstance(message, Mapping), where, type(message).__name__, "must be an object with role and content")
        role = message.get("role")
        require(isinstance(role, str) and role in _ROLE_TOKENS, f"{where}.role", role, f"choose one of {', '.join(_ROLE_TOKENS)}")
        _check_fields(message, where)
        _check_order(before, message, where)
        before = message


def _check_fields(message: Message, where: str) -> None:
    calls = message.get("tool_calls")
    if calls:
        require(message["role"] == "assistant", f"{where}.tool_calls", message["role"], "only an assistant calls tools")
        _check_call(calls, f"{where}.tool_calls")
    if not (calls and message.get("content") is None):
        require_text(message.get("content"), f"{where}.content")
    require(isinstance(message.get("loss", True), bool), f"{where}.loss", message.get("loss"), "must be true or false")
    require(not message.get("tools"), f"{where}.tools", "...", "tools stand beside the messages, not in one")


def _check_call(calls: object, where: str) -> None:
    require(isinstance(calls, Sequence) and len(calls) == 1, where, type(calls).__name__, "must be a list of one call; the next call follows the result of the first")
    function = calls[0].get("function") if isinstance(calls[0], Mapping) else None
    require(isinstance(function, Mapping), f"{where}[0].function", type(function).__name__, "must be an object with name and arguments")
    require(_is_name(function.get("name")), f"{where}[0].function.name", function.get("name"), "must be a name without spaces")
    arguments = function.get("arguments")
    require(_arguments_line(arguments) is not None, f"{where}[0].function.arguments", arguments, "must be a JSON object, or the text of one")


def _check_order(before: Message, message: Message, where: str) -> None:
    """The token that closes an answer is the one that generation stops at, so only its role may follow."""
    called, role = bool(before.get("tool_calls")), message["role"]
    if called or _ROLE_TOKENS[role] == "<|observation|>":
        require(called and _ROLE_TOKENS[role] == "<|observation|>", f"{where}.role", role, "a tool call and its result (role tool) must follow one another")
    elif before["role"] == "assistant":
        require(role == "user", f"{where}.role", role, "an assistant's answer must be followed by the user")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.split() == [value] and value.isprintable()


def _arguments_line(value: object) -> str | None:
    """A call's arguments as one line of JSON; None unless they are an object or the text of one."""
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None
    return _json(value) if isinstance(value, dict) else None


def _json(value: object, indent: int | None = None) -> str | None:
    """JSON text; None where there is none: NaN, foreign types, and half of a surrogate pair, which JSON can escape but no text can hold."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
        text.encode()
    except (ValueError, TypeError, RecursionError):
        return None
    return text
