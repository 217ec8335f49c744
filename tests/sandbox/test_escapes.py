"""Sixty and more programs that try to leave the sandbox: with namespaces, and with Landlock instead."""

import functools
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.escapes import ESCAPES, Escape, open_world, outcome

from openglm import sandbox
from openglm.sandbox import languages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has more than limits")


@pytest.fixture(scope="module")
def other_python():
    """As root the program becomes nobody, who cannot pass through /root: a Python there would not start, the system's does."""
    original = languages.toolchain
    python = os.path.realpath("/usr/bin/python3")
    if os.geteuid() == 0 and os.path.exists(python):
        languages.toolchain = lambda name: (python, [python]) if name == "python" else original(name)
    yield
    languages.toolchain = original


def attempts(layers: tuple[str, ...], escapes: list[Escape]) -> dict[str, str]:
    """What came of each, four at once."""
    run = functools.partial(run_with, layers)
    with open_world() as world, ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda escape: outcome(escape, world, run), escapes)
        return {escape.name: what for escape, what in zip(escapes, found, strict=True)}


def run_with(layers, source, *, language, stdin, seconds):
    file = languages.LANGUAGES[language].file
    limits = dict(seconds=seconds, memory=256 << 20)
    return sandbox.run_in_layers(layers, language, {file: source}, stdin, limits, 1 << 16)


def installed(escape: Escape) -> bool:
    return escape.language == "python" or shutil.which(languages.LANGUAGES[escape.language].tool) is not None


@pytest.fixture(scope="module")
def in_namespaces():
    if "namespaces" not in sandbox.protections():
        pytest.skip("this system allows no namespaces")
    return attempts(sandbox.protections(), list(filter(installed, ESCAPES)))


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: escape.name)
def test_no_escape_succeeds(escape, in_namespaces):
    if not installed(escape):
        pytest.skip(f"{escape.language} is not installed")
    assert in_namespaces[escape.name] == ""


WITH_LANDLOCK = [escape for escape in ESCAPES if escape.landlock and escape.language == "python"]


@pytest.fixture(scope="module")
def with_landlock(other_python):
    layers = ("limits", "landlock", "seccomp")
    try:
        run_with(layers, "", language="python", stdin="", seconds=20.0)
    except OSError as error:
        pytest.skip(f"no Landlock: {error}")
    return attempts(layers, WITH_LANDLOCK)


@pytest.mark.parametrize("escape", WITH_LANDLOCK, ids=lambda escape: escape.name)
def test_no_escape_succeeds_without_namespaces(escape, with_landlock):
    assert with_landlock[escape.name] == ""


def test_there_are_at_least_sixty_of_them():
    assert len({escape.name for escape in ESCAPES}) == len(ESCAPES) >= 60
