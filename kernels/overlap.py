"""The first statement of every kernel, which lets launches overlap on GPUs that can do so."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.language.target_info import cuda_capability_geq

from .launch import INTERPRETED

_INTERPRETED = tl.constexpr(INTERPRETED)


@triton.jit
def begin_kernel():
    """Wait until the kernel ahead in the stream has ended and its memory is visible.

    On GPUs from sm_90 on, a kernel is launched as soon as every program of the one ahead of it has begun, so that the
    work of the launch overlaps with it (programmatic dependent launch; ``launch.device_of`` gives the option). No
    memory may be read or written before this call.
    """
    if not _INTERPRETED and cuda_capability_geq(9, 0):
        gdc_launch_dependents()
        gdc_wait()
