"""Manuals as plain text: manual pages (roff), Perl documentation (pod), reStructuredText, hard-wrapped paragraphs.

Good enough for training text, not for rendering: unknown markup is dropped rather than explained.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from openglm.data.readers import read_utf8


def rst(path: Path) -> Iterator[str]:
    """reStructuredText: directives, comments and field lists go, prose and examples stay."""
    text = re.sub(r"^[ \t]*(?:\.\. |:[\w-]+:).*\n", "", read_utf8(path), flags=re.M)
    text = re.sub(
        r":[\w:-]+:`~?!?([^`<]*?)(?: <[^`]*>)?`|``([^`]*)``|\*\*([^*\n]+)\*\*",
        lambda m: m[1] or m[2] or m[3] or "",
        text,
    )
    yield unwrap(re.sub(r"^([=\-~^*+#\"'`.:_])\1{2,}$", "", text, flags=re.M), indented=False)


def roff(path: Path) -> Iterator[str]:
    yield roff_text(read_utf8(path))


def pod(path: Path) -> Iterator[str]:
    yield pod_text(
        gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        if path.suffix == ".gz"
        else path.read_bytes().decode("utf-8", "replace")
    )


def is_han(character: str) -> bool:
    return "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or "\uff00" <= character <= "\uff64"


def unwrap(text: str, indented: bool = True) -> str:
    """Join the lines of hard-wrapped paragraphs; blank lines and a change of indentation end a paragraph.
    `indented=False` leaves lines that start with a space alone."""
    out: list[str] = []
    fresh, depth = True, 0
    for line in text.split("\n"):
        body = line.strip()
        indent = len(line) - len(line.lstrip())
        if not body or fresh or indent != depth or (indent and not indented):
            out.append(body if indented else line.rstrip())
        else:
            glue = "" if is_han(out[-1][-1]) and is_han(body[0]) else " "
            out[-1] += glue + body
        fresh, depth = not body, indent
    return "\n".join(out)


_ROFF_FONT = re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)|\\s[+-]?\d+|\\[&|^,/%)!]|\\m\[[^\]]*\]|\\v'[^']*'|\\h'[^']*'")
_ROFF_CHARACTERS = {
    "(aq": "'",
    "(dq": '"',
    "(lq": "“",
    "(rq": "”",
    "(oq": "‘",
    "(cq": "’",
    "(bu": "•",
    "(em": "—",
    "(en": "–",
    "(hy": "-",
    "(mu": "×",
    "(ha": "^",
    "(ti": "~",
    "(co": "©",
    "(rg": "®",
    "(rs": "\\",
    "e": "\\",
    "-": "-",
    " ": " ",
    "~": " ",
    "0": " ",
    "'": "'",
    "`": "`",
    ".": ".",
}
_ROFF_ESCAPE = re.compile(r"\\(\(..|\[[^\]]*\]|.)")
_ROFF_TEXT_MACROS = frozenset(
    [
        "B",
        "I",
        "BR",
        "BI",
        "RB",
        "IB",
        "IR",
        "RI",
        "SM",
        "SB",
        "Nm",
        "Fl",
        "Ar",
        "Pa",
        "Xr",
        "Cm",
        "Op",
        "Dv",
        "Ev",
        "Li",
        "Em",
        "Sy",
        "Nd",
        "UR",
        "URL",
    ]
)


def _roff_line(text: str) -> str:
    text = _ROFF_ESCAPE.sub(lambda m: _ROFF_CHARACTERS.get(m[1], ""), _ROFF_FONT.sub("", text))
    return text.replace("\n", " ")


def roff_text(source: str) -> str:
    """The text of a manual page. Tables and equations are dropped."""
    out: list[str] = []
    skipping = False
    for line in source.replace("\\\n", "").split("\n"):
        match = re.match(r"[.'][ \t]*(\w+|\\\")?[ \t]*(.*)", line)
        if not match:
            if not skipping:
                out.append(_roff_line(line))
            continue
        macro, rest = match[1] or "", match[2]
        if macro in ("TS", "EQ", "de", "ig", "PS"):
            skipping = True
        elif macro in ("TE", "EN", "PE") or line.strip() == "..":
            skipping = False
        elif macro in ("SH", "SS", "Sh", "Ss"):
            out += ["", _roff_line(rest.replace('"', "")), ""]
        elif macro in ("PP", "P", "LP", "TP", "IP", "br", "sp", "It", "Pp", "TQ"):
            out += ["", _roff_line(re.sub(r'"([^"]*)".*|(\S+).*', r"\1\2", rest))] if macro == "IP" and rest else [""]
        elif macro in _ROFF_TEXT_MACROS and not skipping:
            spaced = macro in ("B", "I", "SM", "SB")
            parts = [a or b for a, b in re.findall(r'"([^"]*)"|(\S+)', rest)]
            out.append(_roff_line((" " if spaced else "").join(parts)))
    paragraphs = re.split(r"\n\s*\n", "\n".join(out))
    return "\n\n".join(unwrap(p).strip() for p in paragraphs if p.strip())


_POD_CODE = re.compile(r"[A-Z]<((?:[^<>]|<[^<>]*>)*)>")


def pod_text(source: str) -> str:
    """The text of Perl's plain old documentation, examples included."""
    out = []
    for paragraph in re.split(r"\n\s*\n", source):
        if paragraph.startswith("="):
            command, _, paragraph = paragraph.partition(" ")
            if not command.startswith(("=head", "=item")):
                continue
        if not paragraph.startswith((" ", "\t")):
            for _ in range(3):
                paragraph = _POD_CODE.sub(lambda m: m[1].strip("<> ").split("|")[0], paragraph)
            paragraph = re.sub(r"\s*\n\s*", " ", paragraph)
        out.append(paragraph)
    return "\n\n".join(out)
