"""The one chat renderer: messages to (ids, loss mask), and its inverse, which reads replies.

Training, the terminal and the server all pass through `render`, so what a model saw in training is what it is asked
with. The words and special tokens come from the format of the tokenizer's generation (formats.py). In those with role
tokens all stands behind <sop> and texts are encoded one by one, hence the prompt of a later turn begins with that of an
earlier one: a KV cache holds over turns. Not so in GLM-Z1, which forgets its thoughts, nor in the rounds of ChatGLM-6B
and ChatGLM2, which are one text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from openglm.config import require
from openglm.text.checks import require_text
from openglm.text.formats import ROLE_TOKENS, Format
from openglm.text.replies import Message, arguments_of, is_name, json_text

_ENDS = ("<eop>", "</s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|observation|>")


class Tokenizer(Protocol):
    """What rendering and reading need of a tokenizer (tokenizer.py)."""

    special: dict[str, int]
    format: Format

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    generation_prompt: bool = False,
) -> tuple[list[int], list[int]]:
    """Ids of a conversation, and a loss mask of the same length: 1 where the token itself is predicted and trained (not
    shifted).

    messages: in OpenAI's form: {"role": system | user | assistant | tool (or observation), "content": str}. An assistant message may hold one
    call, "tool_calls": [{"function": {"name", "arguments": object or JSON text}}], or, as ChatGLM3 and GLM-4 write it,
    "metadata": a header line whose content is passed on as it is; "loss": false leaves it out of training.
    tools: in OpenAI's form: [{"type": "function", "function": {"name", "description", "parameters"}}]; a first system
    message may hold them instead.
    generation_prompt: end with the opening of an answer, for a model to go on.
    Trained are the assistants' contents and the tokens that close them, and nothing else. Raises ValueError naming
    message and field.
    """
    turns = tokenizer.format.turns
    require(
        turns is not None,
        "messages",
        "...",
        "this is a base model, which is not asked in conversations; use Tokenizer.prompt",
    )
    _check_messages(messages)
    tools = list(tools or messages[0].get("tools") or [])
    _check_tools(messages, tools, turns.tools)
    if generation_prompt:
        last = len(messages) - 1
        require(
            messages[last]["role"] != "assistant",
            f"messages[{last}].role",
            "assistant",
            "to ask for an answer, the last message must be another's",
        )
    ids: list[int] = []
    loss_mask: list[int] = []
    for text, is_special, trained in turns(messages, tools, generation_prompt):
        piece = [tokenizer.special[text]] if is_special else tokenizer.encode(text)
        ids += piece
        loss_mask += [int(trained)] * len(piece)
    return ids, loss_mask


def parse_reply(tokenizer: Tokenizer, ids: Iterable[int]) -> dict[str, Any]:
    """What a model generated after a generation prompt, as a message {"role", "content", "tool_calls"} that `render`
    takes back.

    The reply ends at the first end token or role token, but <|assistant|> parts its texts; it holds a tool call only where <|observation|> closed it.
    """
    ends = {tokenizer.special[name] for name in _ENDS if name in tokenizer.special}
    assistant, segments, closing = tokenizer.special.get("<|assistant|>"), [[]], None
    for number in map(int, ids):
        if number in ends:
            closing = number
            break
        if number == assistant:
            segments.append([])
        else:
            segments[-1].append(number)
    called = closing is not None and closing == tokenizer.special.get("<|observation|>")
    return tokenizer.format.parse([tokenizer.decode(segment) for segment in segments], called)


def _check_messages(messages: Sequence[Message]) -> None:
    require(
        isinstance(messages, Sequence) and len(messages) > 0,
        "messages",
        messages,
        "must be a list of at least one message",
    )
    before: Message = {"role": "start"}
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        require(isinstance(message, Mapping), where, type(message).__name__, "must be an object with role and content")
        role = message.get("role")
        require(
            isinstance(role, str) and role in ROLE_TOKENS,
            f"{where}.role",
            role,
            f"choose one of {', '.join(ROLE_TOKENS)}",
        )
        _check_fields(message, where)
        require(
            not message.get("tools") or (number == 0 and role == "system"),
            f"{where}.tools",
            "...",
            "tools stand beside the messages, or in a first system message",
        )
        _check_order(before, message, where)
        before = message


def _check_fields(message: Message, where: str) -> None:
    calls, metadata = message.get("tool_calls"), message.get("metadata")
    if calls:
        require(message["role"] == "assistant", f"{where}.tool_calls", message["role"], "only an assistant calls tools")
        _check_call(calls, f"{where}.tool_calls")
    if not (calls and message.get("content") is None):
        require_text(message.get("content"), f"{where}.content")
    if metadata:
        require(
            message["role"] == "assistant" and not calls,
            f"{where}.metadata",
            metadata,
            "belongs to an assistant's message without tool_calls",
        )
        require_text(metadata, f"{where}.metadata")
    require(isinstance(message.get("loss", True), bool), f"{where}.loss", message.get("loss"), "must be true or false")


def _check_call(calls: object, where: str) -> None:
    require(
        isinstance(calls, Sequence) and len(calls) == 1,
        where,
        type(calls).__name__,
        "must be a list of one call; the next call follows the result of the first",
    )
    function = calls[0].get("function") if isinstance(calls[0], Mapping) else None
    require(
        isinstance(function, Mapping),
        f"{where}[0].function",
        type(function).__name__,
        "must be an object with name and arguments",
    )
    require(
        is_name(function.get("name")),
        f"{where}[0].function.name",
        function.get("name"),
        "must be a name without spaces",
    )
    arguments = function.get("arguments")
    require(
        arguments_of(arguments) is not None,
        f"{where}[0].function.arguments",
        arguments,
        "must be a JSON object, or the text of one",
    )


def _check_order(before: Message, message: Message, where: str) -> None:
    """The token that closes an answer is the one that generation stops at, so only its role may follow."""
    called, role = _calls(before), message["role"]
    if called or ROLE_TOKENS[role] == "<|observation|>":
        require(
            called and ROLE_TOKENS[role] == "<|observation|>",
            f"{where}.role",
            role,
            "a tool call and its result (role tool) must follow one another",
        )
    elif before["role"] == "assistant":
        require(role == "user", f"{where}.role", role, "an assistant's answer must be followed by the user")


def _calls(message: Message) -> bool:
    return bool(message.get("tool_calls") or message.get("metadata"))


def _check_tools(messages: Sequence[Message], tools: Sequence[object], known: bool) -> None:
    require(known or not tools, "tools", "...", "this model's format has no tools")
    for number, message in enumerate(messages):
        require(
            known or not _calls(message), f"messages[{number}].tool_calls", "...", "this model's format has no tools"
        )
    for number, tool in enumerate(tools):
        where = f"tools[{number}].function"
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        require(
            isinstance(function, Mapping) and is_name(function.get("name")),
            f"{where}.name",
            function and function.get("name"),
            "each tool needs a name without spaces",
        )
        require(json_text(function) is not None, where, function["name"], "cannot be written as JSON")
