"""Standard normal noise (samples, observations, dimensions) as a function of its seed and indices."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import OPTIONS, alignment, device_of, noise_tile, samples_strides, scalar
from .memory import multiple
from .noise import VARYING, sample_indices, standard_normals
from .overlap import begin_kernel


@triton.jit(do_not_specialize=["rows", "observations", *VARYING])
def standard_normal_kernel(
    noise,
    seed,
    samples,
    rows,
    observations,
    features,
    sample_offset,
    observation_offset,
    stream,
    sample_stride,
    observation_stride,
    ACC: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    begin_kernel()
    blocks = tl.cdiv(features, BLOCK)
    features = multiple(features, ALIGNMENT)
    program = tl.program_id(0)
    block = program % blocks
    row = (program // blocks).to(rows.dtype) * ROWS + tl.arange(0, ROWS)
    sample = sample_indices(
        samples,
        sample_stride,
        observation_stride,
        (row // observations).to(tl.int64),
        (row % observations).to(tl.int64),
        sample_offset,
        row < rows,
    )
    observation = (row % observations).to(tl.int64) + observation_offset
    normals = standard_normals(tl.load(seed), sample, observation, stream.to(tl.uint32), block, ACC, BLOCK)
    feature = block * BLOCK + tl.arange(0, BLOCK)
    address = noise + (row.to(tl.int64) * features)[:, None] + feature[None, :]
    tl.store(address, normals, (row < rows)[:, None] & (feature < features)[None, :])


def standard_normal(
    seed: Tensor,
    samples: Tensor | None,
    shape: list[int],
    sample_offset: int,
    observation_offset: int,
    stream: int,
    dtype: torch.dtype,
) -> Tensor:
    noise = seed.new_empty(shape, dtype=dtype)
    count, observations, features = shape
    rows = count * observations
    rows_a_program, block = noise_tile(rows, features)
    with device_of(seed) as options:
        standard_normal_kernel[(triton.cdiv(rows, rows_a_program) * triton.cdiv(features, block),)](
            noise,
            seed,
            samples,
            rows,
            observations,
            features,
            sample_offset,
            observation_offset,
            stream,
            *samples_strides(samples),
            ACC=scalar(dtype),
            ALIGNMENT=alignment(features),
            ROWS=rows_a_program,
            BLOCK=block,
            **OPTIONS,
            **options,
        )
    return noise
