"""Conversion of tensors into the pointers, dtypes, sizes and strides for native ops, and checks of their support."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..checks import accumulation_dtype

DTYPE_CODES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
    torch.bool: 4,
    torch.int64: 5,
}
"""Codes of dtypes; must match ``enum class DType`` in csrc/operand.h."""

MAX_DIMS = 8
"""Maximum number of axes; must match ``kMaxDims`` in csrc/operand.h."""

CHUNK = 2048
"""The elements of a tensor that an optimizer's kernels handle together; must match ``kChunk`` in csrc/calls.h."""

STRIDED = torch.strided

PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)

Operand = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def refusal(tensors: tuple[Tensor | None, ...], axes: int = 0) -> str | None:
    """Return the reason why native ops do not support these tensors, or None; the reference supports all."""
    tracing = torch.compiler.is_compiling()
    if not tracing and forward_ad._current_level >= 0:
        return "forward-mode differentiation is not supported"
    transformed = not tracing and torch._C._are_functorch_transforms_active()
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.layout is not STRIDED:
            return f"a tensor is {tensor.layout}, not strided"
        if (dim := tensor.dim()) > axes:
            axes = dim
        if tracing:
            continue  # tracing uses fake tensors; the dispatcher passes plain tensors to the registered op
        if type(tensor) not in PLAIN:
            return f"a tensor has the subclass {type(tensor).__name__}"
        if tensor.is_neg() or tensor._is_zerotensor():
            return "a tensor is lazily negated or zero, which its memory does not reflect"
        if transformed and _is_batched(tensor):
            return "a tensor is batched by torch.func.vmap"
    if axes > MAX_DIMS:
        return f"the call has {axes} axes, at most {MAX_DIMS} are supported"
    return None


def _is_batched(tensor: Tensor) -> bool:
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def leading_shape(*tensors: Tensor) -> tuple[int, ...]:
    """Return the common shape of all axes but the last, for tensors known to broadcast."""
    shapes = [tuple(t.shape[:-1]) for t in tensors]
    longest: tuple[int, ...] = ()
    for shape in shapes:
        if len(shape) > len(longest):
            longest = shape
    # torch.broadcast_shapes is slow, and most calls only broadcast observations over samples.
    if all(shape == longest[len(longest) - len(shape) :] for shape in shapes):
        return longest
    return tuple(torch.broadcast_shapes(*shapes))


def operand(tensor: Tensor) -> Operand:
    """Return pointer, dtype, sizes and strides; the extension broadcasts them to the shape of the call."""
    return tensor.data_ptr(), DTYPE_CODES[tensor.dtype], tensor.shape, tensor.stride()


def optional_operand(tensor: Tensor | None) -> Operand | None:
    """Return :func:`operand` of a tensor, or None for None."""
    return None if tensor is None else operand(tensor)


def empty_selection(decoder: Tensor, encoder: Tensor, budget: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Allocate the results of ``select_samples``: indices, scales of decoder and encoder, their ratio, and the number
    of samples with a nonzero scale."""
    observations, dtype = decoder.shape[1], accumulation_dtype(decoder, encoder)
    samples = decoder.new_empty((budget, observations), dtype=torch.int64)
    chosen = [decoder.new_empty((budget, observations), dtype=dtype) for _ in range(3)]
    return samples, chosen[0], chosen[1], chosen[2], decoder.new_empty(observations, dtype=torch.int64)


def empty_bound(terms: Sequence[Tensor], reduction: str, scales: int) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Allocate the results of ``weight_scales``: loss, bounds, log-weights, and this many scales."""
    shape, dtype = terms[0].shape, accumulation_dtype(*terms)
    loss, bound, log_weights, *others = (
        terms[0].new_empty(size, dtype=dtype)
        for size in (shape[1:] if reduction == "none" else (), shape[1:], shape, *(shape,) * scales)
    )
    return loss, bound, log_weights, others


def empty_squares(gradients: Sequence[Tensor]) -> Tensor:
    """Allocate a number for each chunk of each gradient; an empty tensor has one chunk."""
    return gradients[0].new_empty(sum(max(1, -(-g.numel() // CHUNK)) for g in gradients), dtype=torch.float64)


def pointer(tensor: Tensor | None) -> int:
    """Return the address of a contiguous tensor, or 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def gradient_like(tensor: Tensor) -> Tensor:
    """Return memory for the gradient of a tensor."""
    return empty_like(tensor, tensor.dtype)


def empty_like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return new memory of a tensor's shape and device.

    It is contiguous for any strides: those of an expanded tensor cannot be used. ``new_empty`` with a shape takes half
    as long again (3.7 us instead of 2.4).
    """
    if tensor.dtype is dtype:
        return torch.empty_like(tensor, memory_format=torch.contiguous_format)
    return torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)
