"""Programs that a model wrote, put together as HumanEval and HumanEval-X do and run in the sandbox with their tests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from openglm.runtime import cpu_threads, progress
from openglm.sandbox import MIB, run

SANDBOX_NAMES = {"js": "javascript"}
"""of languages that HumanEval-X calls otherwise"""
_SECONDS = 5.0
_MEMORY = 512 * MIB
_PYTHON = (
    "import math, re, sys, copy, datetime, itertools, collections, heapq, statistics, functools, hashlib, random, string\n"
    "from typing import *\nfrom collections import *\n"
)
_CPP = [
    "stdlib.h",
    "algorithm",
    "math.h",
    "stdio.h",
    "vector",
    "string",
    "climits",
    "cstring",
    "iostream",
    "map",
    "set",
    "list",
]
_GO_PACKAGES = ["math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5"]
_ABSENT = re.compile(r"boost/|openssl/|\brand::(?!Rng;)")
# What Go's tests call of testify, for nothing can be fetched.
_GO = """
type assertions struct{}
func (assertions) New(t *testing.T) assertions { return assertions{} }
func (assertions) Equal(want, got interface{}, more ...interface{}) bool {
	if !reflect.DeepEqual(want, got) { panic("not equal") }
	return true
}
var assert assertions
"""


def program(language: str, fields: Mapping[str, str], completion: str) -> str:
    """A whole program that ends well if the completion is right."""
    written = fields["prompt"] + completion + fields["after"]
    whole = f"{written}\n{fields['test']}"
    if language == "python":
        called = re.search(r"^check\(", fields["test"], re.MULTILINE)
        return _PYTHON + whole + ("" if called else f"\ncheck({fields['entry_point']})\n")
    if language == "cpp":
        return "".join(f"#include<{name}>\n" for name in _CPP) + whole
    if language == "js":
        hashed = "(text => require('crypto').createHash('md5').update(text).digest('hex'))"
        return whole.replace("require('js-md5')", hashed)  # the one package of which a problem makes use
    if language == "go":
        return _go(fields, f"{written.removeprefix(fields['import'])}\n{fields['test']}")
    if language == "rust":
        tests = fields["test"].replace("#[cfg(test)]", "").replace("#[test]", "pub")
        calls = "".join(f"tests::{name}(); " for name in re.findall(r"fn (\w+)\(\)", tests))
        return f"{written}\n{tests}\nfn main() {{ {calls}}}\n"
    return whole


def _go(fields: Mapping[str, str], body: str) -> str:
    named = {*re.findall(r'"([^"]+)"', fields["import"] + fields["test_setup"]), *_GO_PACKAGES}
    used = [name for name in sorted(named) if "." not in name and re.search(rf"\b{name.split('/')[-1]}\.", body)]
    imports = "".join(f'import "{name}"\n' for name in dict.fromkeys([*used, "testing", "reflect"]))
    calls = "".join(f"{name}(nil); " for name in re.findall(r"func (Test\w+)\(", fields["test"]))
    return f"package main\n{imports}{_GO}{body}\nfunc main() {{ {calls}}}\n"


def runs_here(fields: Mapping[str, str]) -> bool:
    """Whether a problem and its tests do without packages that the sandbox lacks: Boost, OpenSSL, Rust's rand."""
    return not _ABSENT.search(fields["prompt"] + fields["test"])


def passes(language: str, source: str) -> bool:
    """Whether a program ends well within its limits. JavaScript's console.assert only writes to standard error."""
    result = run(source, language=SANDBOX_NAMES.get(language, language), seconds=_SECONDS, memory_bytes=_MEMORY)
    return result.status == 0 and not result.killed_by and not (language == "js" and result.stderr)


def check_all(name: str, language: str, sources: Sequence[str]) -> list[bool]:
    """Each program's verdict, several at a time."""
    with progress(f"{name}, tests", len(sources), "programs") as advance, ThreadPoolExecutor(cpu_threads()) as pool:
        found = []
        for verdict in pool.map(lambda source: passes(language, source), sources):
            found.append(verdict)
            advance()
    return found


def closed(language: str, text: str) -> str:
    """With the braces that the stop texts took away."""
    if language == "python":
        return text
    return text + "\n}" * max(0, 1 + (language == "java") + text.count("{") - text.count("}"))
