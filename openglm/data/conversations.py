"""Conversations in the shapes that circulate, as messages in OpenAI's form.

    {"messages": [{"role", "content", "tool_calls"?} ..], "tools"?}                     OpenAI; GLM-4, with the tools in the system message
    {"conversations": [{"role", "content"} ..], "tools"?}                               ChatGLM3, whose role "tool" is a call and its result in one
    {"conversations": [{"from": "human" | "gpt" | .., "value"} ..], "system"?}          ShareGPT, with function_call and observation
    {"conversation": [{"input" | "human", "output" | "assistant"} ..]}                  XTuner, MOSS
    {"prompt", "response", "history"?: [[question, answer] ..], "system"?}              ChatGLM-6B's P-Tuning
    {"instruction", "input"? | "context"?, "output" | "response"}                       Alpaca, Dolly
    {"content", "summary"}                                                              ADGEN

and other pairs of a question and an answer (`QUESTIONS`, `ANSWERS`). A record may also be the list of messages alone.
A turn with "loss": false, "train": false or "weight": 0 is read and not taught.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from openglm.config import require, shorten
from openglm.text.replies import parse_text

Message = dict[str, Any]
Conversation = tuple[list[Message], "list[Any] | None"]  # messages in OpenAI's form, tools

QUESTIONS = ("instruction", "prompt", "question", "query", "problem", "input", "content")
ANSWERS = ("response", "completion", "output", "solution", "answer", "summary", "target", "content")
_LISTS = ("messages", "conversations", "conversation")
_BESIDE = ("input", "context")  # belong to the question
_SYSTEMS = ("system", "system_prompt")
_OTHERS = ("tools", "history", "reasoning_content", *_SYSTEMS)
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "function_response": "tool",
    "developer": "system",
}
_FROM = ("user", "assistant", "system", "observation", "tool", *_ROLES)
_TRAINED = ("loss", "train", "training", "weight")
_READ = ("tool_calls", "steps", "metadata", "reasoning_content", "tools", "loss", "tool_call_id", "name")
_SPOKEN = ("role", "content", *_READ)


def conversation(record: object, fields: Mapping[str, str] | None = None) -> Conversation:
    """Messages in OpenAI's form, and tools, from a record in any known shape. Raises ValueError naming the field.

    fields: for names of this module's shapes, the record's own.
    """
    if isinstance(record, list) and record and all(isinstance(item, dict) for item in record):
        record = {"messages": record}
    if not isinstance(record, dict):
        raise ValueError(f"line = {type(record).__name__!r}: must hold one JSON object")
    record = renamed(record, fields or {})
    shape = _shape(record)
    if shape is None:
        raise ValueError(
            f"fields = {shorten(', '.join(map(str, record))) or 'none'}: not a conversation; a line needs messages or"
            f" conversations, or a question ({', '.join(QUESTIONS)}) and an answer ({', '.join(ANSWERS)});"
            " --data.fields prompt=NAME response=NAME says which they are"
        )
    if len(shape) == 2:
        return _exchange(record, *shape), _tools(record)
    items = _list(record, shape[0])
    if shape[0] == "conversation" and not any("role" in item or "from" in item for item in items):
        return _rounds(record, items), _tools(record)
    return _turns(record, items, f"{shape[0]}[{{}}].")


def asked(record: Message, turns: str | list[Any]) -> Conversation:
    """A prompt, text or messages, behind the system text and with the tools that its record may hold."""
    beside = {name: record[name] for name in ("system", "tools") if record.get(name)}
    messages = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    return conversation({"messages": messages, **beside})


def renamed(record: Message, fields: Mapping[str, str]) -> Message:
    for field, name in fields.items():
        require(name in record, f"data.fields {field}", name, f"no such field here; there are {', '.join(record)}")
    chosen = {field: record[name] for field, name in fields.items()}
    if not chosen or _shape(chosen):
        return {**{name: record[name] for name in _OTHERS if chosen and name in record}, **chosen} or record
    return {**{name: value for name, value in record.items() if name not in fields.values()}, **chosen}


def _shape(record: Message) -> tuple[str, ...] | None:
    """The field of the messages, or those of question and answer."""
    for name in _LISTS:
        if name in record:
            return (name,)
    pairs = itertools.product(QUESTIONS, ANSWERS)
    return next(((q, a) for q, a in pairs if q in record and a in record and q != a), None)


def unused(record: object, fields: Mapping[str, str], messages: Sequence[Message]) -> set[str]:
    """Names of what a record holds and the conversation read from it does not."""
    extra = {f"messages[].{name}" for message in messages for name in message if name not in _SPOKEN}
    if not isinstance(record, dict):
        return extra
    known = renamed(record, fields)
    shape = _shape(known) or ()
    used = {*shape, *_OTHERS, *(_BESIDE if len(shape) == 2 else ())}
    return extra | {name for name in record if name not in fields.values() and not (name in used and name in known)}


def _text(holder: Mapping[str, Any], field: str, where: str = "") -> str:
    require(isinstance(holder.get(field), str), where + field, holder.get(field), "must be text")
    return holder[field]


def _list(holder: Mapping[str, Any], field: str) -> list[Any]:
    """A list of objects, or the JSON text of one."""
    items = _parsed(holder[field])
    require(isinstance(items, list), field, items, "must be a list")
    for i, item in enumerate(items):
        require(isinstance(item, dict), f"{field}[{i}]", item, "must be an object")
    return items


def _parsed(value: object) -> Any:
    """What a JSON text holds; anything else as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _tools(holder: Mapping[str, Any]) -> list[Any] | None:
    return _list(holder, "tools") or None if holder.get("tools") else None


def _system(record: Message) -> list[Message]:
    name = next((name for name in _SYSTEMS if record.get(name)), None)
    return [{"role": "system", "content": _text(record, name)}] if name else []


# Lists of turns.


def _turns(record: Message, items: list[Message], where: str) -> Conversation:
    messages, tools = _system(record), _tools(record)
    for i, turn in enumerate(items):
        turn = {name: value for name, value in turn.items() if value is not None}
        if turn.get("role") == "tool" and "content" not in turn:
            messages = _with_call(messages, turn, where.format(i), last=i == len(items) - 1)
        else:
            _add(messages, _message(turn, where.format(i)))
    if messages and messages[0].get("role") == "system":
        tools = _tools(messages[0]) or tools
        messages[0].pop("tools", None)
        if tools and not messages[0].get("content"):
            messages = messages[1:]
    _find_calls(messages, tools or [])
    return messages, tools


def _message(turn: Message, where: str) -> Message:
    if "from" in turn and "role" not in turn:
        require(turn["from"] in _FROM, f"{where}from", turn["from"], f"choose one of {', '.join(_FROM)}")
        turn = {**turn, "role": turn["from"], "content": _text(turn, "value", where)}
        del turn["from"], turn["value"]
    role = turn.get("role")
    message = {name: value for name, value in turn.items() if name not in _TRAINED}
    if isinstance(role, str):
        message["role"] = _ROLES.get(role, role)
    if isinstance(turn.get("content"), list):
        message["content"] = _joined(turn["content"], f"{where}content")
    if not is_trained(turn, where):
        message["loss"] = False
    if role == "function_call":
        calls = _parsed(message["content"])
        message |= {"content": "", "tool_calls": [_call(call, f"{where}value") for call in _as_list(calls)]}
    if "function_call" in turn:  # OpenAI's first form
        message["tool_calls"] = [_call(message.pop("function_call"), f"{where}function_call")]
    elif "tool_calls" in turn:
        calls = _as_list(_parsed(turn["tool_calls"]))
        message["tool_calls"] = [_call(call, f"{where}tool_calls") for call in calls]
        if not calls:
            del message["tool_calls"]
    return message


def is_trained(turn: Message, where: str) -> bool:
    """What a turn's own field says of its loss."""
    for name in _TRAINED:
        value = turn.get(name, True)
        require(value in (0, 1), f"{where}{name}", value, "must be true or false, or 1 or 0: answers are not weighted")
        if not value:
            return False
    return True


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _call(call: Any, where: str) -> Message:
    """OpenAI's form of a call; {"name", "arguments"} alone is one too."""
    if isinstance(call, dict) and "function" not in call and "name" in call:
        call = {"function": {"name": call["name"], "arguments": call.get("arguments", call.get("parameters", {}))}}
    require(isinstance(call, dict) and "function" in call, where, call, "must be a call: {name, arguments}")
    return call


def _joined(parts: list[Any], where: str) -> str:
    for part in parts:
        text = isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text"
        require(text, where, part, "only parts of type text can be learnt")
    return "".join(part["text"] for part in parts)


def _add(messages: list[Message], message: Message) -> None:
    """Calls that follow what the assistant said, or other calls, belong to the same message."""
    before = messages[-1] if messages else {}
    calls = message.get("tool_calls")
    joins = calls and not message.get("content") and before.get("role") == "assistant" == message.get("role")
    if joins and before.get("loss", True) == message.get("loss", True):
        messages[-1] = {**before, "tool_calls": [*before.get("tool_calls", ()), *(calls or ())]}
    else:
        messages.append(message)


def _with_call(messages: list[Message], turn: Message, where: str, last: bool) -> list[Message]:
    """ChatGLM3 puts call and result in one turn; what the assistant said just before belongs to the call."""
    call = {"function": {"name": _text(turn, "name", where), "arguments": turn.get("parameters")}}
    said = {"role": "assistant", "content": "", **({} if is_trained(turn, where) else {"loss": False})}
    if messages and messages[-1].get("role") == "assistant" and not messages[-1].get("tool_calls"):
        messages, said = messages[:-1], messages[-1]
    called = [*messages, {**said, "tool_calls": [call]}]
    if last and "observation" not in turn:
        return called
    require("observation" in turn, f"{where}observation", None, "a call needs its result here")
    result = turn["observation"]
    content = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    return [*called, {"role": "tool", "content": content}]


def _find_calls(messages: list[Message], tools: list[Any]) -> None:
    """GLM-4 writes a call as text: name, line end, JSON. A last one has no result behind it, but the name of a tool."""
    names = [tool.get("function", tool).get("name") for tool in tools if isinstance(tool.get("function", tool), dict)]
    behind: list[Message] = [*messages[1:], {}]
    for message, after in zip(messages, behind, strict=False):
        if message.get("role") != "assistant" or message.get("tool_calls") or message.get("metadata"):
            continue
        if after.get("role") == "observation" or (not after and names):
            read = parse_text(_text(message, "content"), called=True)
            calls = read["tool_calls"]
            if after or (calls and calls[0]["function"]["name"] in names):
                message.update(read)


# Questions and answers.


def _rounds(record: Message, items: list[Message]) -> list[Message]:
    messages = _system(record) or _system(items[0] if items else {})
    for i, item in enumerate(items):
        for role, names in (("user", ("input", "human")), ("assistant", ("output", "assistant"))):
            name = next((name for name in names if name in item), names[0])
            messages.append({"role": role, "content": _text(item, name, f"conversation[{i}].")})
    return messages


def _exchange(record: Message, question: str, answer: str) -> list[Message]:
    """The system text and the earlier exchanges a record may hold, then its own."""
    messages = _system(record)
    history = _parsed(record.get("history")) or []
    require(isinstance(history, list), "history", history, "must be a list")
    for i, pair in enumerate(history):
        if isinstance(pair, dict):
            messages.append(_message(pair, f"history[{i}]."))
            continue
        sound = isinstance(pair, list) and len(pair) == 2 and all(isinstance(side, str) for side in pair)
        require(sound, f"history[{i}]", pair, "must be [question, answer]")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    asked, said = record[question], record[answer]
    if isinstance(asked, list) or isinstance(said, list):  # TRL's form of messages
        both = [*_list(record, question), *_list(record, answer)]
        return [*messages, *(_message(turn, f"{question}[{i}].") for i, turn in enumerate(both))]
    parts = [_text(record, question)]
    parts += [_text(record, name) for name in _BESIDE if record.get(name) and name not in (question, answer)]
    reply = {"role": "assistant", "content": _text(record, answer)}
    if record.get("reasoning_content"):
        reply["reasoning_content"] = record["reasoning_content"]
    return [*messages, {"role": "user", "content": "\n".join(parts)}, reply]
