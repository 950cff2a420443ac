"""Training steps as CUDA graphs: steps on small batches are limited by kernel launches, and a graph launches all its
kernels at once.

``recorder.py`` captures a function as a graph, ``program.py`` decides per call whether to call or to replay it,
``rates.py`` keeps learning rates in device memory, ``obstacles.py`` lists what cannot be captured, ``compiled.py`` puts
networks through torch.compile, ``step.py`` has the public class, and ``steps.py`` that of several models side by side.
"""

from ..backends.serving import launched_by_a_graph
from .compiled import CompiledNetworks
from .obstacles import obstacle
from .program import Program
from .rates import Rates
from .recorder import CudaGraphs, Recorder, Recording, unavailable
from .step import CapturedStep
from .steps import CapturedSteps

__all__ = [
    "CapturedStep",
    "CapturedSteps",
    "CompiledNetworks",
    "CudaGraphs",
    "Program",
    "Rates",
    "Recorder",
    "Recording",
    "launched_by_a_graph",
    "obstacle",
    "unavailable",
]
