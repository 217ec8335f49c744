"""Native CPU kernels: C++ in csrc/, built when the package is installed. tests/helpers/reference.py has the definition of
each in torch."""
