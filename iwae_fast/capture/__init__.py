"""Training steps as CUDA graphs: small batches are bound by launching kernels, and a graph launches all at once.

``recorder.py`` turns a function into a graph, ``program.py`` decides run by run whether to call or to replay it,
``rates.py`` keeps learning rates where a graph reads them, ``obstacles.py`` knows what cannot be captured, and
``step.py`` is what users see.
"""

from .obstacles import obstacle
from .program import Program
from .rates import Rates
from .recorder import CudaGraphs, Recorder, Recording, unavailable
from .step import CapturedStep

__all__ = ["CapturedStep", "CudaGraphs", "Program", "Rates", "Recorder", "Recording", "obstacle", "unavailable"]
