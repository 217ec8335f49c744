"""Loading, threads and processes."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from helpers.programs import LIBRARY, Request, Served, product

from openglm import runtime
from openglm.kernels import library as lib

needs_library = pytest.mark.skipif(LIBRARY is None, reason="the package was installed without its kernels")


@pytest.fixture
def fresh():
    lib.load.cache_clear()
    yield
    lib.load.cache_clear()


def test_without_a_library_one_line_says_why_and_nothing_breaks(monkeypatch, capsys, tmp_path, fresh):
    monkeypatch.setattr(lib, "files", lambda package: tmp_path)
    assert lib.load() is None and lib.load() is None
    assert capsys.readouterr().err.count("note: no CPU kernels") == 1


@needs_library
def test_a_library_of_another_version_is_not_used(monkeypatch, capsys, fresh):
    monkeypatch.setattr(lib, "ABI", lib.ABI + 1)
    assert lib.load() is None
    assert "another version" in capsys.readouterr().err


def test_off_is_silent(monkeypatch, capsys, fresh):
    monkeypatch.setenv("OPENGLM_KERNELS", "off")
    assert lib.load() is None and capsys.readouterr().err == ""


@needs_library
def test_an_unknown_path_is_an_error_that_names_the_known_ones(monkeypatch, fresh):
    monkeypatch.setenv("OPENGLM_KERNELS", "mmx")
    with pytest.raises(ValueError, match=r"OPENGLM_KERNELS = 'mmx'.*portable"):
        lib.load()


@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_wrong_numbers_of_threads_are_refused(monkeypatch, value):
    runtime.cpu_threads.cache_clear()
    monkeypatch.setenv("OPENGLM_THREADS", value)
    with pytest.raises(ValueError, match="OPENGLM_THREADS"):
        runtime.cpu_threads()


def test_half_precision_is_that_of_torch():
    """The portable path converts by hand; every fp16 number and every rounding must be IEEE's. Seen through scales and the cache."""
    if LIBRARY is None:
        pytest.skip("the package was installed without its kernels")
    every = (
        torch.arange(0x7C00, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    )  # all finite positive ones
    between = torch.cat([every, (every[:-1] + every[1:]) / 2, (every * 1.0003)[1:]])
    for path in lib.paths(LIBRARY):
        assert lib.start(LIBRARY, path, 1)
        for values in torch.nn.functional.pad(between, (0, -len(between) % 16384)).view(-1, 64, 1, 256):
            served = Served(LIBRARY, "float16", [Request(values * 0, values * 0, values)], blocks=4)
            served.advance([64])
            stored = served.store.data[1].view(torch.float16).view(4, 2, 256 * 16)[served.tables[0], 1].view(64, 256)
            assert torch.equal(stored, values.half().view(64, 256)), path
    lib.start(LIBRARY)


@needs_library
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same_bits(threads):
    lib.start(LIBRARY, "auto", 1)
    alone = product(LIBRARY)
    lib.start(LIBRARY, "auto", threads)
    for _ in range(20):
        assert torch.equal(product(LIBRARY), alone)
    lib.start(LIBRARY)


@needs_library
def test_callers_on_several_threads_take_turns():
    expected, results = product(LIBRARY), []
    callers = [threading.Thread(target=lambda: results.extend(product(LIBRARY) for _ in range(10))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert len(results) == 40 and all(torch.equal(r, expected) for r in results)


FORKED = """
import os, sys, torch
torch.set_num_threads(1)  # torch's own threads do not survive a fork
from helpers.programs import LIBRARY, lib, product
lib.start(LIBRARY, "auto", 2)
before = product(LIBRARY)
child = os.fork()
if child == 0:
    os._exit(0 if bool((product(LIBRARY) == before).all()) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_computes_alone(request):
    """Data workers are forked; the threads of the parent are not in them, and waiting for one would never end."""
    path = os.pathsep.join([str(request.config.rootpath / "tests"), str(request.config.rootpath)])
    done = subprocess.run(
        [sys.executable, "-c", FORKED], env={**os.environ, "PYTHONPATH": path}, timeout=60, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
