"""The one chat renderer: messages to (ids, loss mask), and its inverse, which reads replies.

Training, the terminal and the server all pass through `render`, so what a model saw in training is what it is asked
with. The words and special tokens come from the format of the tokenizer's generation (formats.py). In those with role
tokens all stands behind <sop> and texts are encoded one by one, hence the prompt of a later turn begins with that of an
earlier one: a KV cache holds over turns. Not so in GLM-Z1, which forgets its thoughts, nor in the rounds of ChatGLM-6B
and ChatGLM2, which are one text.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Protocol

from openglm.config import require
from openglm.text.checks import require_text
from openglm.text.formats import ROLE_TOKENS, Format, Rounds
from openglm.text.reading import ReplyReader, read_reply
from openglm.text.replies import Message, Tool, arguments_of, is_name, json_text
from openglm.text.steps import BEGIN, check_steps
from openglm.text.thinking import AS_USUAL, MARKS, Thinking, ThinkingTurns, by_call

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
    thinking: Thinking = AS_USUAL,
    lenient: bool = False,
) -> tuple[list[int], list[int]]:
    """Ids of a conversation, and a loss mask of the same length: 1 where the token itself is predicted and trained (not
    shifted).

    messages: in OpenAI's form: {"role": system | user | assistant | tool (or observation), "content": str}. An
    assistant message may hold calls, "tool_calls": [{"function": {"name", "arguments": object or JSON text}}], and a
    result follows for each; "steps": calls inside its content (steps.py); "reasoning_content": its thoughts; or, as
    ChatGLM3 and GLM-4 write it, "metadata": a header line whose content is passed on as it is. "loss": false leaves it
    out of training.
    tools: in OpenAI's form: [{"type": "function", "function": {"name", "description", "parameters"}}]; a first system
    message may hold them instead.
    generation_prompt: end with the opening of an answer, for a model to go on. thinking: what its thoughts are to be.
    lenient: take messages in any order, as clients send them: each stands where it came, as the published templates
    have it, and a prompt goes on with an answer that comes last. Nothing is to be learnt from these.
    Trained are the assistants' contents and the tokens that close them alone. Raises ValueError naming the field.
    """
    turns = tokenizer.format.turns
    if turns is None:
        raise ValueError("messages: this is a base model, which is not asked in conversations; use Tokenizer.prompt")
    _check_messages(messages, lenient)
    tools = list(tools or messages[0].get("tools") or [])
    _check_tools(messages, tools, turns.tools)
    answered = generation_prompt and messages[-1]["role"] == "assistant"
    where, why = f"messages[{len(messages) - 1}].role", "to ask for an answer, the last message must be another's"
    require(lenient or not answered, where, "assistant", why)
    begun = answered and not _calls(messages[-1])
    messages = messages if BEGIN in tokenizer.special else [_without_steps(one) for one in messages]
    laid_out = _laid_out(messages, turns, lenient)
    parts = list(turns(laid_out, tools, generation_prompt and not begun, thinking))
    return _encoded(tokenizer, parts[: len(parts) - begun])  # the last one closes the answer


def _encoded(tokenizer: Tokenizer, parts: Iterable[tuple[str, bool, bool]]) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    loss_mask: list[int] = []
    for text, is_special, trained in parts:
        spelled = not is_special or (text in MARKS and text not in tokenizer.special)
        piece = tokenizer.encode(text) if spelled else [tokenizer.special[text]]
        ids += piece
        loss_mask += [int(trained)] * len(piece)
    return ids, loss_mask


def _without_steps(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "steps"}


def reader_of(format: Format, tools: Sequence[Tool] | None = None, thinking: Thinking = AS_USUAL) -> ReplyReader | None:
    """Reads answers while they come, of formats with thoughts; of GLM-Z1's, whose calls are lines, the thoughts alone."""
    turns = format.turns
    if isinstance(turns, ThinkingTurns):
        return ReplyReader(turns.opens(thinking), tools)
    return ReplyReader(True, ()) if turns is not None and turns.opens(thinking) else None


def parse_reply(
    tokenizer: Tokenizer, ids: Iterable[int], tools: Sequence[Tool] | None = None, thinking: Thinking = AS_USUAL
) -> dict[str, Any]:
    """What a model generated after a generation prompt, as a message {"role", "content", "tool_calls"} that `render`
    takes back, with "reasoning_content" where it thought.

    The reply ends at the first end token or role token, but <|assistant|> parts its texts. Until GLM-Z1 it holds a call
    only where <|observation|> closed it; since GLM-4.5 the call's own end counts. tools: those that may be called, with
    their arguments' types; None: any. thinking: what the prompt was rendered with.
    """
    ends = {tokenizer.special[name] for name in _ENDS if name in tokenizer.special}
    assistant, closing = tokenizer.special.get("<|assistant|>"), None
    segments: list[list[int]] = [[]]
    for number in map(int, ids):
        if number in ends:
            closing = number
            break
        if number == assistant:
            segments.append([])
        else:
            segments[-1].append(number)
    texts = [tokenizer.decode(segment) for segment in segments]
    turns = tokenizer.format.turns
    if isinstance(turns, ThinkingTurns):
        return read_reply(ReplyReader(turns.opens(thinking), tools), "\n".join(texts))
    called = closing is not None and closing == tokenizer.special.get("<|observation|>")
    if thinking.closed and turns is not None and turns.opens(AS_USUAL):
        texts[0] = f"</think>{texts[0]}"  # the prompt has ended the thoughts
    reply, tidy = tokenizer.format.parse(texts, called), tokenizer.format.tidy
    return {**reply, "content": tidy(reply["content"])} if tidy else reply


def _laid_out(messages: Sequence[Message], turns: Any, lenient: bool) -> Sequence[Message]:
    """As this form can write them."""
    if lenient and isinstance(turns, Rounds):
        return _alternating(messages)
    return messages if turns.parallel else _one_call_each(messages, lenient)


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """Questions and answers in turn, behind a system message in front: what one side says in several messages is one
    text."""
    first = messages[:1] if messages[0]["role"] == "system" else []
    flat: list[Message] = [*first]
    for message in messages[len(first) :]:
        role, content = "assistant" if message["role"] == "assistant" else "user", message["content"]
        if role == "assistant" and len(flat) == len(first):
            flat.append({"role": "user", "content": ""})
        if len(flat) > len(first) and flat[-1]["role"] == role:
            flat[-1] = {**flat[-1], "content": f"{flat[-1]['content']}\n{content}"}
        else:
            flat.append({"role": role, "content": content})
    return flat if len(flat) > len(first) else [{**flat[0], "role": "user"}]


def _one_call_each(messages: Sequence[Message], lenient: bool) -> list[Message]:
    """Several calls of one answer one after another, each followed by its result; where some may lack theirs, they
    come last."""
    flat: list[Message] = []
    done = 0
    for number, message in enumerate(messages):
        calls = message.get("tool_calls") or ()
        if number < done:
            continue
        done = number + 1
        if len(calls) < 2:
            flat.append(message)
            continue
        results = list(takewhile(_is_result, messages[done : done + len(calls)]))
        done += len(results)
        require(
            lenient or len(results) == len(calls),
            f"messages[{number}].tool_calls",
            f"{len(calls)} calls",
            "this model writes one call at a time, so the result of each must follow",
        )
        named = [one.get("tool_call_id") for one in results]
        calls = sorted(calls, key=lambda call: call.get("id") not in named)
        results = by_call(calls[: len(results)], results)
        for index, call in enumerate(calls):
            content = "" if index else message.get("content")
            flat += [{**message, "content": content, "tool_calls": [call]}, *results[index : index + 1]]
    return flat


def _is_result(message: Message) -> bool:
    return ROLE_TOKENS[message["role"]] == "<|observation|>"


def _check_messages(messages: Sequence[Message], lenient: bool) -> None:
    require(
        isinstance(messages, Sequence) and len(messages) > 0,
        "messages",
        messages,
        "must be a list of at least one message",
    )
    before: Message = {"role": "start"}
    waiting = 0  # calls without a result
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
        if not lenient:
            _check_order(before, message, where, waiting)
        before = message
        waiting = max(waiting - 1, len(message.get("tool_calls") or ()), int(bool(message.get("metadata"))))
    require(
        lenient or not waiting or _calls(before),
        f"messages[{len(messages) - 1}].role",
        before["role"],
        f"results (role tool) of {waiting} more calls must follow",
    )


def _check_fields(message: Message, where: str) -> None:
    calls, metadata = message.get("tool_calls"), message.get("metadata")
    if calls:
        require(message["role"] == "assistant", f"{where}.tool_calls", message["role"], "only an assistant calls tools")
        _check_calls(calls, f"{where}.tool_calls")
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
    if message.get("reasoning_content") is not None:
        require(
            message["role"] == "assistant", f"{where}.reasoning_content", message["role"], "only an assistant thinks"
        )
        require_text(message["reasoning_content"], f"{where}.reasoning_content")
    if message.get("steps"):
        check_steps(message, f"{where}.steps")
    require(isinstance(message.get("loss", True), bool), f"{where}.loss", message.get("loss"), "must be true or false")


def _check_calls(calls: Any, where: str) -> None:
    require(isinstance(calls, Sequence), where, type(calls).__name__, "must be a list of calls")
    for number, call in enumerate(calls):
        function, here = _function(call, f"{where}[{number}].function"), f"{where}[{number}].function.arguments"
        arguments = function.get("arguments")
        require(arguments_of(arguments) is not None, here, arguments, "must be a JSON object, or the text of one")


def _function(one: Any, where: str, bare: Any = None) -> Mapping[str, Any]:
    """What a call or a tool holds; a tool may stand `bare`, without its type."""
    function: Any = one.get("function", bare) if isinstance(one, Mapping) else None
    require(isinstance(function, Mapping), where, type(function).__name__, "must be an object with a name")
    require(is_name(function.get("name")), f"{where}.name", function.get("name"), "must be a name without spaces")
    return function


def _check_order(before: Message, message: Message, where: str, waiting: int) -> None:
    """The token that closes an answer is the one that generation stops at, so only its role may follow."""
    role = message["role"]
    result = _is_result(message)
    if waiting or result:
        require(
            bool(waiting) and result,
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
        function = _function(tool, where := f"tools[{number}].function", bare=tool)
        require(json_text(function) is not None, where, function["name"], "cannot be written as JSON")
