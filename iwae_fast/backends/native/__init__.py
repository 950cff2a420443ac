"""The operations of the C++ extension, shared by the CPU and CUDA backends, which differ in how kernels are run."""

from .adam import AdamSteps
from .layers import Layers
from .linear import Linear
from .samples import Samples
from .scales import SampleScales
from .training import TrainingSteps
from .weights import Weights


class NativeBackend(Linear, Layers, Samples, Weights, SampleScales, AdamSteps):
    """All operations on the extension's kernels. A subclass selects the kernels and runs them."""


__all__ = ["NativeBackend", "TrainingSteps"]
