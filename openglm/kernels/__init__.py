"""Native CPU kernels: C++ in csrc/, built when the package is installed. tests/helpers/reference.py defines in torch
what each computes."""
