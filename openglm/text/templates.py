"""The chat template that a folder declares, rendered on a short chat to be compared with our own form."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openglm.runtime import say
from openglm.text.beside import SETTINGS, read_beside
from openglm.text.render import render

if TYPE_CHECKING:
    from openglm.text.tokenizer import Tokenizer

_CHILD = Path(__file__).with_name("jinja.py")
_LONGEST, _SECONDS, _SHOWN = 1 << 18, 30, 60  # characters; for a slow machine to start Python; characters
_CHAT = [
    {"role": "user", "content": "How are you?"},
    {"role": "assistant", "content": "Fine."},
    {"role": "user", "content": "1 + 1"},
]


def declared_template(folder: Path) -> str:
    """The chat template of a folder; "" where it has none."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8", errors="replace")
    template = read_beside(folder, SETTINGS).get("chat_template")
    if isinstance(template, list):  # several by name
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else ""


def opens_thoughts(template: str) -> bool:
    """Whether a prompt by this template ends in opened thoughts, as GLM-Z1's does: the word alone says nothing."""
    prompt = rendered(template, {}) if "<think>" in template else None
    return bool(prompt) and str(prompt).endswith("<|assistant|>\n<think>")


def warn_of_template(folder: Path, tokenizer: Tokenizer) -> None:
    """Say it where a folder's own template asks in another form than ours."""
    template = declared_template(folder)
    if not template or tokenizer.format.turns is None:
        return
    theirs = rendered(template, read_beside(folder, SETTINGS))
    ours = render(tokenizer, _CHAT, generation_prompt=True)[0]
    if theirs is None:
        say(f"{folder}: its chat template cannot be rendered; prompts have the form of {tokenizer.format.name}")
    elif tokenizer.encode_parts(_parts(tokenizer, theirs)) != ours:
        text = tokenizer.decode(ours, skip_special=False)
        start = next((i for i, pair in enumerate(zip(text, theirs, strict=False)) if pair[0] != pair[1]), 0)
        said = [repr(one[start : start + _SHOWN]) for one in (theirs, text)]
        say(
            f"{folder}: its chat template writes {said[0]} where the form of {tokenizer.format.name}, which prompts "
            f"will have, writes {said[1]}; if answers are poor, choose another with --format"
        )


def _parts(tokenizer: Tokenizer, text: str) -> list[str | int]:
    """A text whose special names are tokens."""
    names = sorted(tokenizer.special, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", text)
    return [tokenizer.special[piece] if place % 2 else piece for place, piece in enumerate(pieces) if piece]


def rendered(template: str, settings: Mapping[str, Any]) -> str | None:
    """A short chat and the opening of an answer, by this template; None where it fails or takes too long."""
    names = {name: _content(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    return _run(json.dumps({**names, "template": template}))


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else token if isinstance(token, str) else ""


@lru_cache(maxsize=64)
def _run(given: str) -> str | None:
    if len(given) > _LONGEST:
        return None
    values = {**json.loads(given), "messages": _CHAT, "add_generation_prompt": True}
    command = [sys.executable, "-I", str(_CHILD)]
    try:
        child = subprocess.run(command, input=json.dumps(values).encode(), capture_output=True, timeout=_SECONDS)
    except (subprocess.TimeoutExpired, OSError):
        return None
    return child.stdout.decode("utf-8", errors="replace") if child.returncode == 0 else None
