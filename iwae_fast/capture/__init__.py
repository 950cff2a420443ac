"""Training steps as CUDA graphs: steps on small batches are limited by kernel launches, and a graph launches all its
kernels at once.

``recorder.py`` captures a function as a graph, ``program.py`` decides per call whether to call or to replay it,
``rates.py`` keeps learning rates in device memory, ``obstacles.py`` lists what cannot be captured, and ``step.py`` has
the public class.
"""

from ..backends.serving import launched_by_a_graph
from .obstacles import obstacle
from .program import Program
from .rates import Rates
from .recorder import CudaGraphs, Recorder, Recording, unavailable
from .step import CapturedStep

__all__ = [
    "CapturedStep",
    "CudaGraphs",
    "Program",
    "Rates",
    "Recorder",
    "Recording",
    "launched_by_a_graph",
    "obstacle",
    "unavailable",
]
