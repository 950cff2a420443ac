"""Triton kernels, one op a file: the kernel, then its launch wrapper. Installs as ``iwae_fast.kernels``."""

if __name__ == "kernels":
    raise ImportError("this folder is the package iwae_fast.kernels: import it by that name, not as 'kernels'")
