"""Turns tensors into the pointers, dtypes, sizes and strides that native ops take, and says what they refuse."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPE_CODES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
    torch.bool: 4,
    torch.int64: 5,
}
"""As ``enum class DType`` in csrc/operand.h."""

MAX_DIMS = 8
"""As ``kMaxDims`` in csrc/operand.h."""

PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)

Operand = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def refusal(tensors: tuple[Tensor | None, ...], axes: int = 0) -> str | None:
    """Why native ops cannot take these tensors, or None: the reference serves what is refused."""
    tracing = torch.compiler.is_compiling()
    if not tracing and torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode derivatives are asked for"
    transformed = not tracing and torch._C._are_functorch_transforms_active()
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.layout is not torch.strided:
            return f"a tensor is {tensor.layout}, not strided"
        axes = max(axes, tensor.dim())
        if tracing:
            continue  # tracing sees stand-ins; the dispatcher hands the registered op plain tensors
        if type(tensor) not in PLAIN:
            return f"a tensor is of the subclass {type(tensor).__name__}"
        if tensor.is_neg() or tensor._is_zerotensor():
            return "a tensor is lazily negated or zero, and has no memory that says so"
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
    """The common shape of all axes but the last, of tensors known to broadcast."""
    shapes = [tuple(t.shape[:-1]) for t in tensors]
    longest: tuple[int, ...] = ()
    for shape in shapes:
        if len(shape) > len(longest):
            longest = shape
    # torch's own is slow, and most calls broadcast an observation over its samples.
    if all(shape == longest[len(longest) - len(shape) :] for shape in shapes):
        return longest
    return tuple(torch.broadcast_shapes(*shapes))


def operand(tensor: Tensor) -> Operand:
    """Pointer, dtype, sizes and strides; the extension broadcasts them to the shape of the call."""
    return tensor.data_ptr(), DTYPE_CODES[tensor.dtype], tensor.shape, tensor.stride()


def optional_operand(tensor: Tensor | None) -> Operand | None:
    return None if tensor is None else operand(tensor)
