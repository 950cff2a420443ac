"""Triton kernels, one op per file: the kernel, then its launch wrapper. Installed as ``iwae_fast.kernels``."""

if __name__ == "kernels":
    raise ImportError("this folder is the package iwae_fast.kernels: import it by that name, not as 'kernels'")
