"""How a program of each language is compiled and run, and which folders of the system it has to see."""

import functools
import glob
import os
import shutil
import subprocess
import sys
from typing import NamedTuple

from openglm.config import require


class Language(NamedTuple):
    """One row of LANGUAGES. A command begins with the tool, a name beside it (java), or a path in the work folder."""

    tool: str
    file: str
    compile: str
    run: str
    reserve: int = 0
    """bytes that a run time maps and does not use: stacks of its threads (8 MB, ulimit -s), HotSpot's code cache"""
    find: tuple[str, ...] = ()
    """arguments that make it print the folder whose bin/ holds the real tool, where the one on PATH may be a switch"""


# {heap}: MiB, three quarters of the memory, so that a program of Java or JavaScript gets its own error before the
# sandbox ends it.
LANGUAGES = {
    "python": Language("python", "main.py", "", "python -sB main.py"),
    "javascript": Language("node", "main.js", "", "node --max-old-space-size={heap} main.js", 256 << 20),
    "cpp": Language("g++", "main.cpp", "g++ -std=c++17 -O1 -o main main.cpp", "./main"),
    "java": Language(
        "javac",
        "Main.java",
        "javac -encoding UTF-8 -J-XX:+UseSerialGC -J-XX:ActiveProcessorCount=2 -J-XX:TieredStopAtLevel=1 Main.java",
        "java -Xmx{heap}m -XX:+UseSerialGC -XX:ActiveProcessorCount=2 -Dfile.encoding=UTF-8 Main",
        512 << 20,
    ),
    "go": Language("go", "main.go", "go build -o main main.go", "./main", 256 << 20),
    "rust": Language(
        "rustc", "main.rs", "rustc -O -C linker=gcc -o main main.rs", "./main", find=("--print", "sysroot")
    ),
}
# Libraries and the dynamic linker's list of them, data of Debian's node and Java: nothing here is a secret, and of
# programs only what libraries start.
_RUN = (
    *("/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/lib", "/lib32", "/lib64"),
    *("/nix/store", "/etc/ld.so.cache", "/usr/share/nodejs", "/etc/java-*"),
)
# Beside them for compilers: assembler, linker, headers, and what finds its own place by /proc/self/exe.
_COMPILE = (
    *("/usr/bin", "/usr/include", "/usr/libexec", "/usr/local/bin", "/usr/local/include", "/usr/local/libexec"),
    *("/usr/share/go-*", "/proc"),
)


@functools.cache
def toolchain(name: str) -> tuple[str, list[str]]:
    """The real path of a language's tool, and the folders of its installation.

    Raises ValueError if the language is unknown or its tool is not installed.
    """
    require(name in LANGUAGES, "language", name, f"it is one of {', '.join(LANGUAGES)}")
    language = LANGUAGES[name]
    found = sys.executable if name == "python" else shutil.which(language.tool)
    if found and language.find:
        home = subprocess.run([found, *language.find], capture_output=True, text=True, check=False).stdout.strip()
        found = shutil.which(language.tool, path=f"{home}/bin")
    require(bool(found), "language", name, f"needs {language.tool}, which this machine lacks: put it on PATH")
    assert found is not None
    tool = os.path.realpath(found)
    homes = {os.path.dirname(os.path.dirname(tool))}
    if name == "python":
        homes.add(os.path.realpath(sys.base_prefix))
    return tool, sorted(homes - {"/usr", "/usr/local"}) + [tool]


def steps(name: str, heap: int) -> list[dict]:
    """Commands of a language, each with what it may see. `heap`: MiB that a managed run time may fill."""
    language = LANGUAGES[name]
    tool, home = toolchain(name)

    def step(command: str, patterns: tuple[str, ...]) -> dict:
        first, *rest = command.format(heap=heap).split()
        path = tool if first == language.tool else first if "/" in first else os.path.join(os.path.dirname(tool), first)
        folders = home + [found for pattern in patterns for found in glob.glob(pattern)]
        return dict(command=[path, *rest], folders=folders)

    run = step(language.run, _RUN)
    return [step(language.compile, _RUN + _COMPILE), run] if language.compile else [run]


def environment(name: str, work: str) -> dict[str, str]:
    """All environment variables of a program: nothing of ours goes in."""
    folder = os.path.dirname(toolchain(name)[0])
    libraries = os.path.join(os.path.dirname(folder), "lib")  # where $ORIGIN would point to, if there were a /proc
    go = {"CGO_ENABLED": "0", "GOMAXPROCS": "2", "GOTOOLCHAIN": "local", "GOFLAGS": "-p=2"} if name == "go" else {}
    common = {
        "PATH": f"{folder}:/usr/bin",
        "LD_LIBRARY_PATH": libraries,
        "HOME": work,
        "TMPDIR": work,
        "LANG": "C.UTF-8",
    }
    return common | go
