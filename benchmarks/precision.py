"""The precision of float32 products on a GPU: in float32, or in TF32, with a mantissa of 11 bits instead of 24."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

TF32 = "tf32"
"""The dtype of a workload in float32 whose products may be computed in TF32."""


@contextmanager
def products_of(dtype: str) -> Iterator[None]:
    """Allow TF32 in matrix products and convolutions inside the block if that is the dtype, and forbid it otherwise.

    Everybody reads these settings: cuBLAS and cuDNN when a product is launched or captured, torch.compile, and Triton's
    kernels of this package. By default torch allows TF32 in convolutions alone.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if dtype == TF32 else "highest")
    torch.backends.cudnn.allow_tf32 = dtype == TF32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
