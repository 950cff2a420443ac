"""Configuration and fixtures of all tests."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# benchmarks/ is not installed. Appended, so that an installed package is found before its sources.
sys.path.append(str(Path(__file__).parents[1]))

if torch.cuda.is_available():
    # Required by deterministic algorithms before the first matrix product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
else:
    # Triton's kernels then run in its interpreter, on CPU tensors. The variable is read when they are defined.
    os.environ.setdefault("TRITON_INTERPRET", "1")
    # The CUDA C++ kernels are compiled for the CPU, before tests query the available backends.
    import emulated_cuda

    emulated_cuda.install()

# Contracts are inherited by the tests of several ops, which hypothesis sees as one test with different executors.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
settings.register_profile("fast", settings.get_profile("default"), max_examples=5)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=300)
# On a GPU most examples of dtypes and layouts compile a separate kernel.
settings.register_profile("gpu", settings.get_profile("default"), max_examples=20)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gpu" if torch.cuda.is_available() else "default"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with groups that must run in one process, so that the other processes do not wait for their end."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(autouse=True, scope="session")
def interpreter() -> None:
    """Patch Triton's interpreter, if it is used, for speed and for rounding as on a GPU."""
    if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None:
        import interpreter

        interpreter.mend()


@pytest.fixture(autouse=True)
def uninitialized_memory_is_nan() -> Iterator[None]:
    """Fill torch.empty with NaN, so that a test fails if a kernel does not write an element."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def mnist_folder() -> Path:
    """Return the folder of real MNIST files, or skip with the folder in which they were expected."""
    folder = Path(os.environ.get("IWAE_FAST_DATA", "")) / "mnist"
    if "IWAE_FAST_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("real MNIST is looked for in $IWAE_FAST_DATA/mnist, which is not there")
    return folder
