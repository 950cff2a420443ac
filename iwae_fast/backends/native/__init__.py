"""The operations of the C++ extension, the same for the CPU and for GPUs; how a kernel is run differs."""

from .linear import Linear
from .samples import Samples
from .weights import Weights


class NativeBackend(Linear, Samples, Weights):
    """All operations on the extension's kernels. A subclass says which kernels, and runs them."""


__all__ = ["NativeBackend"]
