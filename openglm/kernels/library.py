"""The compiled kernels as Python sees them: structures that mirror csrc/glm.h, and whether they can be used here.

Nothing is compiled at run time. Where the package was installed without a C++ compiler `load` returns None and says
why, once.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, Structure, c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from importlib.resources import files

from openglm.config import require
from openglm.runtime import cpu_threads, kernel_path, say

F32, Q4, Q8 = 0, 1, 2
ROWS_F32, ROWS_F16, ROWS_BF16, ROWS_Q4, ROWS_Q8 = range(3, 8)
CACHE_KINDS = {"float32": 0, "float16": 1, "int8": 2}
EMBED, NORM, LINEAR, ROTARY, ATTEND, GATHER = range(6)
PLAIN, RESIDUAL, GELU, GELU_TANH, GEGLU, SWIGLU = range(6)
LAYOUTS = {"learned_2d": 0, "rope": 1, "rope_2d": 2, "rope_half": 3}
PANEL = 16
"""rows of weights in a panel, tokens in a block of the cache"""
LARGEST_HEAD = 256


class Matrix(Structure):
    _fields_ = (
        ("data", c_void_p),
        ("bias", c_void_p),
        ("scales", c_void_p),
        ("rows", c_int32),
        ("columns", c_int32),
        ("kind", c_int32),
        ("block", c_int32),
    )


class Cache(Structure):
    _fields_ = (
        ("data", c_void_p),
        ("layer_bytes", c_int64),
        ("block_bytes", c_int64),
        ("head_bytes", c_int64),
        ("kind", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
    )


class Op(Structure):
    _fields_ = (
        ("kind", c_int32),
        ("in_", c_int32),
        ("out", c_int32),
        ("other", c_int32),
        ("adapter", c_int32),
        ("added", c_int32),
        ("layer", c_int32),
        ("mode", c_int32),
        ("scale", c_float),
        ("eps", c_float),
        ("matrix", POINTER(Matrix)),
        ("weight", c_void_p),
        ("bias", c_void_p),
    )


class Buffer(Structure):
    _fields_ = (("data", c_void_p), ("width", c_int64))


class Program(Structure):
    _fields_ = (
        ("ops", POINTER(Op)),
        ("buffers", POINTER(Buffer)),
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("corrections", c_void_p),
        ("cache", Cache),
        ("frequencies", c_void_p),
        ("angles", c_void_p),
        ("ended", c_void_p),
        ("op_count", c_int32),
        ("rotary", c_int32),
        ("angle_count", c_int32),
        ("angle_scale", c_float),
    )


class Step(Structure):
    _fields_ = (
        ("ids", c_void_p),
        ("positions", c_void_p),
        ("starts", c_void_p),
        ("cached", c_void_p),
        ("prefix", c_void_p),
        ("tables", c_void_p),
        ("rows", c_void_p),
        ("adapters", c_void_p),
        ("tokens", c_int32),
        ("sequences", c_int32),
        ("table_width", c_int32),
        ("outputs", c_int32),
    )


class Choice(Structure):
    """How the next token is chosen (engine/sampling.py)."""

    _fields_ = (
        ("temperature", c_double),
        ("top_p", c_double),
        ("min_p", c_double),
        ("bias_ids", c_void_p),
        ("bias_values", c_void_p),
        ("ends", c_void_p),
        ("top_k", c_int32),
        ("bias_count", c_int32),
        ("end_count", c_int32),
    )


class Ahead(Structure):
    _fields_ = (
        ("choices", c_void_p),
        ("uniforms", c_void_p),
        ("positions", c_void_p),
        ("chosen", c_void_p),
        ("steps", c_int32),
    )


_STRUCTURES = (Matrix, Cache, Op, Program, Step, Choice, Ahead)
ABI = sum(7**i * ctypes.sizeof(s) for i, s in enumerate(_STRUCTURES)) * 16 + 3


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library with its threads started, or None. The first call without one prints one line that says why and what
    it costs."""
    wanted = kernel_path()
    if wanted == "off":
        return None
    try:
        library = open_library()
    except OSError as error:
        say(
            f"note: no CPU kernels ({error}); running on PyTorch alone, several times slower. Install a C++ compiler "
            "and reinstall openglm"
        )
        return None
    require(
        start(library, wanted),
        "OPENGLM_KERNELS",
        wanted,
        f"not a code path of this machine; known: auto, off, {', '.join(paths(library))}",
    )
    return library


def open_library() -> ctypes.CDLL:
    """Raises OSError where there is none that fits this version."""
    path = files(__package__) / "openglm_kernels.so"
    if not path.is_file():
        raise OSError("they were not built when openglm was installed")
    library = ctypes.CDLL(str(path))
    if library.glm_abi() != ABI:
        raise OSError("they were built for another version of openglm")
    library.glm_paths.restype = ctypes.c_char_p
    library.glm_packed_bytes.restype = c_int64
    library.glm_pack.argtypes = (*[c_int32] * 4, c_void_p, c_void_p, c_int32, c_void_p, *[c_int32] * 3)
    library.glm_huge_pages.argtypes = library.glm_forget.argtypes = (c_void_p, c_int64)
    library.glm_run.argtypes = (POINTER(Program), POINTER(Step))
    library.glm_go_on.argtypes = (POINTER(Program), POINTER(Step), POINTER(Ahead))
    library.glm_choose.argtypes = (c_void_p, c_int32, POINTER(Choice), c_double)
    library.glm_read.argtypes, library.glm_read.restype = (c_void_p, c_int64), c_uint64
    return library


def paths(library: ctypes.CDLL) -> list[str]:
    """Code paths that this processor runs, best first."""
    return library.glm_paths().decode().split()


def start(library: ctypes.CDLL, path: str = "auto", threads: int = 0) -> bool:
    """Choose the code path (auto: the best) and the number of threads (0: one a core); False for a path that is not
    there."""
    chosen = paths(library)[0] if path == "auto" else path
    return library.glm_start(threads or cpu_threads(), chosen.encode()) == 0
