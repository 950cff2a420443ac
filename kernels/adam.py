"""A step of Adam for several tensors in one launch: a program takes a chunk of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import LOAD_BYTES, OPTIONS, alignment, bits, device_of
from .memory import double, multiple
from .overlap import begin_kernel

CHUNK = 2048
"""The elements of a tensor that one program takes."""

MOST_TENSORS = 32
"""The tensors of a launch: each has a pointer among the kernel's arguments, and compiling takes longer with more."""

NUMBERS = ("lr", "beta1", "beta2", "eps", "weight_decay", "max_norm")


@triton.jit
def of_program(values, first_programs, program):
    """Return the value of the tensor to which a program belongs."""
    found = values[0]
    for i in tl.static_range(1, len(values)):
        found = tl.where(program >= first_programs[i], values[i], found)
    return found


@triton.jit
def pointer_of_program(pointers, first_programs, program, ALIGNED: tl.constexpr):
    """Return the pointer of the tensor to which a program belongs; ALIGNED if all are to 16 bytes."""
    found = of_program(pointers, first_programs, program)
    return tl.multiple_of(found, 16) if ALIGNED else found


@triton.jit
def quotient(x, y, ACC: tl.constexpr):
    """Return x / y, correctly rounded."""
    if tl.float32 == ACC:
        return tl.div_rn(x, y)
    else:
        return x / y


@triton.jit
def square_root(x, ACC: tl.constexpr):
    """Return the square root, correctly rounded."""
    if tl.float32 == ACC:
        return tl.sqrt_rn(x)
    else:
        return tl.sqrt(x)


@triton.jit(do_not_specialize=["lr", "beta1", "beta2", "eps", "weight_decay", "max_norm"])
def adam_kernel(
    parameters,
    gradients,
    firsts,
    seconds,
    steps,
    sizes,
    first_programs,
    rate,
    scale,
    found_inf,
    squares,
    lr,
    beta1,
    beta2,
    eps,
    weight_decay,
    max_norm,
    DECOUPLED: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    CORRECTS_EPS: tl.constexpr,
    ACC: tl.constexpr,
    ALIGNED: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    CHUNK: tl.constexpr,
):
    begin_kernel()
    program = tl.program_id(0)
    parameter = pointer_of_program(parameters, first_programs, program, ALIGNED)
    gradient = pointer_of_program(gradients, first_programs, program, ALIGNED)
    first = pointer_of_program(firsts, first_programs, program, ALIGNED)
    second = pointer_of_program(seconds, first_programs, program, ALIGNED)
    at = (program - of_program(first_programs, first_programs, program)).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    size = multiple(of_program(sizes, first_programs, program), ALIGNMENT)
    if found_inf is not None:
        size = multiple(tl.where(tl.load(found_inf) == 0.0, size, 0), ALIGNMENT)
    inside = at < size
    p = tl.load(parameter + at, inside, other=0.0).to(ACC)
    g = tl.load(gradient + at, inside, other=0.0).to(ACC)
    m = tl.load(first + at, inside, other=0.0).to(ACC)
    v = tl.load(second + at, inside, other=0.0).to(ACC)

    # In float64: 1 - beta^t loses precision for small t.
    t = tl.load(of_program(steps, first_programs, program)).to(tl.float64)
    beta1, beta2, decay = double(beta1), double(beta2), double(weight_decay)
    lr = tl.load(rate).to(tl.float64) if rate is not None else double(lr)
    deviation = tl.sqrt(1.0 - tl.exp(t * tl.log(beta2)))
    step = lr / (1.0 - tl.exp(t * tl.log(beta1)))
    eps = double(eps)
    if CORRECTS_EPS:
        eps = eps / deviation
    if scale is not None:
        g = quotient(g, tl.load(scale).to(ACC), ACC)
        tl.store(gradient + at, g.to(gradient.dtype.element_ty), inside)
    if squares is not None:
        norm = tl.sqrt(tl.load(squares))
        if scale is not None:
            norm = norm / tl.load(scale).to(tl.float64)
        factor = double(max_norm) / (norm + 1e-6)
        g *= tl.where(factor > 1.0, 1.0, factor).to(ACC)
    if MAXIMIZE:
        g = -g
    if DECOUPLED:
        p *= (1.0 - lr * decay).to(ACC)
    else:
        g = tl.where(decay == 0.0, g, g + p * decay.to(ACC))
    m += (g - m) * (1.0 - beta1).to(ACC)
    v = g * (1.0 - beta2).to(ACC) * g + v * beta2.to(ACC)
    divisor = quotient(square_root(v, ACC), tl.zeros_like(v) + deviation.to(ACC), ACC) + eps.to(ACC)
    p -= quotient(m * step.to(ACC), divisor, ACC)
    tl.store(parameter + at, p.to(parameter.dtype.element_ty), inside)
    tl.store(first + at, m.to(first.dtype.element_ty), inside)
    tl.store(second + at, v.to(second.dtype.element_ty), inside)


@triton.jit
def sum_squares_kernel(
    gradients,
    sizes,
    first_programs,
    squares,
    ALIGNED: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    CHUNK: tl.constexpr,
):
    begin_kernel()
    program = tl.program_id(0)
    gradient = pointer_of_program(gradients, first_programs, program, ALIGNED)
    at = (program - of_program(first_programs, first_programs, program)).to(tl.int64) * CHUNK + tl.arange(0, CHUNK)
    size = multiple(of_program(sizes, first_programs, program), ALIGNMENT)
    g = tl.load(gradient + at, at < size, other=0.0).to(tl.float64)
    tl.store(squares + program, tl.sum(g * g, 0))


def adam(tensors: Any, settings: Any, extras: Any) -> None:
    """Take a step of Adam: see ``iwae_fast.reference.adam``, whose tuples these are."""
    rate = settings.lr if isinstance(settings.lr, Tensor) and settings.lr.device == tensors.steps[0].device else None
    numbers = {name: getattr(settings, name) for name in NUMBERS}
    if rate is not None:
        numbers["lr"] = 0.0
    squares = None
    if settings.max_norm is not None:
        squares = extras.squares.sum()
    else:
        numbers["max_norm"] = 0.0
    with device_of(tensors.parameters[0]) as options:
        if extras.found_inf is None:
            torch._foreach_add_(list(tensors.steps), 1)
        else:
            torch._foreach_add_(list(tensors.steps), (extras.found_inf == 0).float())
        for launch in _launches(tensors):
            adam_kernel[(launch.programs,)](
                *launch.tensors,
                launch.sizes,
                launch.first_programs,
                rate,
                extras.scale,
                extras.found_inf,
                squares,
                **{name: bits(number) for name, number in numbers.items()},
                DECOUPLED=settings.decoupled,
                MAXIMIZE=settings.maximize,
                CORRECTS_EPS=settings.corrects_eps,
                ACC=tl.float64 if tensors.parameters[0].dtype == torch.float64 else tl.float32,
                **launch.options,
                **options,
            )


def sum_squares(gradients: Sequence[Tensor], squares: Tensor) -> None:
    """Write the sum of the squares of each chunk."""
    with device_of(squares) as options:
        written = 0
        for launch in _launches([gradients]):
            sum_squares_kernel[(launch.programs,)](
                *launch.tensors, launch.sizes, launch.first_programs, squares[written:], **launch.options, **options
            )
            written += launch.programs


class _Launch(NamedTuple):
    """The tensors of one launch."""

    tensors: list[tuple[Tensor, ...]]
    """Tuples of tensors of the same sizes: parameters, gradients, ..."""
    sizes: tuple[int, ...]
    first_programs: tuple[int, ...]
    programs: int
    options: dict[str, Any]


def _launches(tensors: Sequence[Sequence[Tensor]]) -> Iterator[_Launch]:
    for begin in range(0, len(tensors[0]), MOST_TENSORS):
        together = [tuple(each[begin : begin + MOST_TENSORS]) for each in tensors]
        sizes = tuple(tensor.numel() for tensor in together[0])
        first_programs, programs = [], 0
        for size in sizes:
            first_programs.append(programs)
            programs += max(1, triton.cdiv(size, CHUNK))
        aligned = all(tensor.data_ptr() % LOAD_BYTES == 0 for each in together[:4] for tensor in each)
        options = {"ALIGNED": aligned, "ALIGNMENT": alignment(*sizes), "CHUNK": CHUNK, **OPTIONS, "num_warps": 8}
        yield _Launch(together, sizes, tuple(first_programs), programs, options)
