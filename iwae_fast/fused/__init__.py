"""Many training steps in one launch: for a dense model with one stochastic layer, a kernel whose blocks stay on the GPU
from the first step to the last.

``items.py`` has the words that the kernel reads, ``plan.py`` the phases of a step and where its buffers lie,
``served.py`` the reasons why a step is not served, and ``step.py`` the public class.
"""

from .served import refusal
from .step import FusedStep, StepMetrics

__all__ = ["FusedStep", "StepMetrics", "refusal"]
