"""Triton kernels, installed as ``iwae_fast.kernels``.

The file of a density has its formulas only, which are compiled into the kernels of ``density_forward.py`` and
``density_backward.py``. The file of another op has its kernels, then their launch functions; ``iwae_loss.py`` serves
the losses of all densities. ``launches.py`` lists them for the backend.
"""

if __name__ == "kernels":
    raise ImportError("this folder is the package iwae_fast.kernels: import it by that name, not as 'kernels'")
