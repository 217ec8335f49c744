"""What stands beside a tokenizer's file in its folder: settings, tokens that were added, ids that end an answer. Small
JSON files; nothing in them is run."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openglm.config import require

SETTINGS, GENERATION, CONFIG = "tokenizer_config.json", "generation_config.json", "config.json"
FLAGS = ("special", "single_word", "lstrip", "rstrip", "normalized")
_PLAIN = dict.fromkeys(FLAGS, False)
Added = dict[str, Any]
"""A token as `tokenizer.json` declares it: id, content, special, and how text beside it is matched."""


def read_beside(folder: Path, name: str) -> dict[str, Any]:
    """A small JSON file of a folder; {} where there is none. Raises ValueError for another one."""
    file = folder / name
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        values = None
    require(isinstance(values, dict), "tokenizer", str(file), "not a JSON object; use another copy of this file")
    return values


def declared_tokens(folder: Path, entries: Iterable[Mapping[str, Any]] = ()) -> dict[str, Added]:
    """Added tokens by content: `entries` of a `tokenizer.json`, `added_tokens.json`, and `added_tokens_decoder` of the
    settings. Raises ValueError where two of them give a content two ids, or an id two contents."""
    settings, names = read_beside(folder, SETTINGS), set(_special_names(folder))
    decoder, bare = settings.get("added_tokens_decoder") or {}, read_beside(folder, "added_tokens.json")
    try:
        rows = [
            *entries,
            *({"content": name, "id": number, "special": name in names} for name, number in bare.items()),
            *({**entry, "id": int(number)} for number, entry in decoder.items()),
        ]
        tokens = [{**_PLAIN, **row, "id": int(row["id"]), "content": str(row["content"])} for row in rows]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: its added tokens are not readable ({error}); use another copy") from None
    found: dict[str, Added] = {}
    holders: dict[int, str] = {}
    for token in tokens:
        name, number = token["content"], token["id"]
        known = found.get(name, token)["id"], holders.setdefault(number, name)
        _require_same(
            known == (number, name), str(folder), name, number, f"these files also say {known[1]!r}: {known[0]}"
        )
        found[name] = token
    return found


def merged(
    where: str, special: Mapping[str, int], declared: Mapping[str, Added]
) -> tuple[dict[str, int], dict[str, Added]]:
    """Ids of the special tokens, of which declared ones outrank those that a generation is known to have, and the added
    tokens that are text."""
    known = dict(special)
    for name, token in declared.items():
        if token["special"] or name in special:
            known[name] = token["id"]
    added = {name: token for name, token in declared.items() if name not in known}
    holders = {number: name for name, number in special.items() if name not in declared}
    for name, token in declared.items():
        holder = holders.get(token["id"], name)
        _require_same(holder == name, where, name, token["id"], f"which is {holder!r} in this vocabulary")
    return known, added


def _require_same(same: bool, where: str, name: str, number: int, what: str) -> None:
    require(same, f"{where}: added token {name!r}", number, f"{what}; use the tokenizer files of one model")


def _special_names(folder: Path) -> Iterator[str]:
    for name in (SETTINGS, "special_tokens_map.json"):
        for value in read_beside(folder, name).values():
            for one in value if isinstance(value, list) else [value]:
                yield str(one.get("content") if isinstance(one, dict) else one)


def declared_ends(*configurations: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids that end an answer, of all these configurations. Raises ValueError for what is no id."""
    found: list[int] = []
    for values in configurations:
        ends = values.get("eos_token_id")
        row = ends if isinstance(ends, list) else [] if ends is None else [ends]
        sound = all(isinstance(end, int) and not isinstance(end, bool) for end in row)
        require(sound, "config.eos_token_id", ends, "must be an id or a list of ids")
        found += row
    return tuple(dict.fromkeys(found))
