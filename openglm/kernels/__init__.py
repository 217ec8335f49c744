"""Native CPU kernels: C++ in csrc/, built when the package is installed, each beside its definition in torch
(reference.py)."""
