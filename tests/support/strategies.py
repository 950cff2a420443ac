"""Hypothesis strategies for tensors: shapes that broadcast, dtypes, memory layouts, magnitudes."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")

dtypes = st.sampled_from(DTYPES)
layouts = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)
features = st.one_of(st.integers(1, 40), st.sampled_from([64, 511, 512, 513, 784, 1030]))


def lay_out(tensor: Tensor, layout: str) -> Tensor:
    """Return the same values in another memory layout ("expanded" repeats the first feature)."""
    if layout == "transposed":
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided":
        wide = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if layout == "offset":  # not aligned to a vector
        flat = tensor.new_full((tensor.numel() + 1,), torch.nan)
        flat[1:] = tensor.flatten()
        return flat[1:].view(tensor.shape)
    if layout == "expanded":
        return tensor[..., :1].expand(tensor.shape)
    return tensor.contiguous()


@st.composite
def leading_shapes(draw: st.DrawFn, full: tuple[int, ...]) -> tuple[int, ...]:
    """Draw a shape that broadcasts to ``full``: some leading axes dropped, others of size 1."""
    kept = full[draw(st.integers(0, len(full))) :]
    return tuple(size if draw(st.booleans()) else 1 for size in kept)


@st.composite
def parameters(draw: st.DrawFn, count: int, dtype: torch.dtype | None = None) -> tuple[list[Tensor], Tensor | None]:
    """Draw ``count`` tensors that broadcast to (..., D), and a mask or None."""
    full = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    size = draw(features)
    generator = torch.Generator().manual_seed(draw(seeds))
    tensors = []
    for index in range(count):
        # At least one parameter has the full shape, so that the call's shape is the one that was drawn.
        leading = full if index == 0 else draw(leading_shapes(full))
        scale = draw(st.sampled_from([1e-3, 1.0, 4.0]))
        tensor = scale * torch.randn(*leading, size, generator=generator, dtype=torch.float64)
        tensors.append(lay_out(tensor.to(dtype or draw(dtypes)), draw(layouts)))
    draw(st.randoms(use_true_random=False)).shuffle(tensors)
    if not draw(st.booleans()):
        return tensors, None
    mask = torch.rand(*draw(leading_shapes(full)), size, generator=generator) > 0.4
    return tensors, mask
