"""Every test of a kernel runs on every code path that this processor has."""

import pytest
from helpers.programs import LIBRARY, PATHS

from openglm.kernels import library as lib


@pytest.fixture(params=PATHS or ["none"])
def library(request):
    """The kernels, on one code path and two threads."""
    if LIBRARY is None:
        pytest.skip("the package was installed without its kernels")
    assert lib.start(LIBRARY, request.param, 2)
    yield LIBRARY
    lib.start(LIBRARY)
