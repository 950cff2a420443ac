"""The native ops, registered once with torch.library, and the one way to call them.

In eager mode :func:`call` goes straight to the backend's function: a registered op costs microseconds more. While
tracing, or inside a transform of torch.func, it goes through the registered op, which ``torch.compile`` and ``make_fx``
see; both are the same function. Each op takes the name of its backend last. Autograd stands outside, in
:mod:`iwae_fast.ops.autograd`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..backends import NATIVE
from ..backends.marshal import accumulation_dtype, leading_shape

LIBRARY = torch.library.Library("iwae_fast", "DEF")

Fake = Callable[..., Any]


def call(name: str, *arguments: Any, backend: str) -> Any:
    """Run the op ``name`` on ``backend``."""
    if traced_or_transformed():
        return getattr(torch.ops.iwae_fast, name)(*arguments, backend)
    return getattr(NATIVE[backend], name)(*arguments)


def offered(name: str, backend: str) -> bool:
    """Whether the backend has an op that not every one has."""
    return name in NATIVE[backend].EXTRA


def traced_or_transformed() -> bool:
    """Whether tensors may be stand-ins, which only the dispatcher can turn into plain ones."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
    )


def _register(schema: str) -> Callable[[Fake], Fake]:
    """Define an op whose implementation is the backend's function of its name and whose fake is decorated."""
    name = schema.split("(")[0]

    def implementation(*arguments: Any) -> Any:
        *rest, backend = arguments
        return getattr(NATIVE[backend], name)(*rest)

    def decorate(fake: Fake) -> Fake:
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
        torch.library.register_fake(f"iwae_fast::{name}", fake, lib=LIBRARY)
        return fake

    return decorate


def _log_prob(*parameters: Tensor) -> Tensor:
    return parameters[0].new_empty(leading_shape(*parameters), dtype=accumulation_dtype(*parameters))


def _contiguous_like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _needed(parameters: tuple[Tensor, ...], needs: list[bool]) -> list[Tensor]:
    return [_contiguous_like(p) for p, needed in zip(parameters, needs, strict=True) if needed]


def _loss_and_weights(reduction: str, log_ratio: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(log_ratio, *parameters)
    loss = log_ratio.new_empty(log_ratio.shape[1:] if reduction == "none" else (), dtype=dtype)
    return loss, log_ratio.new_empty(log_ratio.shape, dtype=dtype)


@_register("gaussian_log_prob(Tensor value, Tensor mean, Tensor log_std, Tensor? mask, str backend) -> Tensor")
def _(value: Tensor, mean: Tensor, log_std: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    return _log_prob(value, mean, log_std)


@_register(
    "gaussian_log_prob_backward(Tensor grad, Tensor value, Tensor mean, Tensor log_std, Tensor? mask, "
    "bool[] needs, str backend) -> Tensor[]"
)
def _(
    grad: Tensor,
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    mask: Tensor | None,
    needs: list[bool],
    backend: str,
) -> list[Tensor]:
    return _needed((value, mean, log_std), needs)


@_register("standard_gaussian_log_prob(Tensor value, Tensor? mask, str backend) -> Tensor")
def _(value: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    return _log_prob(value)


@_register(
    "standard_gaussian_log_prob_backward(Tensor grad, Tensor value, Tensor? mask, bool[] needs, str backend) "
    "-> Tensor[]"
)
def _(grad: Tensor, value: Tensor, mask: Tensor | None, needs: list[bool], backend: str) -> list[Tensor]:
    return _needed((value,), needs)


@_register("bernoulli_log_prob(Tensor value, Tensor logits, Tensor? mask, str backend) -> Tensor")
def _(value: Tensor, logits: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    return _log_prob(value, logits)


@_register(
    "bernoulli_log_prob_backward(Tensor grad, Tensor value, Tensor logits, Tensor? mask, bool[] needs, "
    "str backend) -> Tensor[]"
)
def _(
    grad: Tensor, value: Tensor, logits: Tensor, mask: Tensor | None, needs: list[bool], backend: str
) -> list[Tensor]:
    return _needed((value, logits), needs)


@_register(
    "linear_bernoulli_log_prob(Tensor value, Tensor hidden, Tensor weight, Tensor? bias, Tensor? mask, str backend) "
    "-> Tensor"
)
def _(value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, backend: str) -> Tensor:
    return _log_prob(value, hidden)


@_register(
    "linear_bernoulli_log_prob_backward(Tensor grad, Tensor value, Tensor hidden, Tensor weight, Tensor? bias, "
    "Tensor? mask, bool[] needs, str backend) -> Tensor[]"
)
def _(
    grad: Tensor,
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    needs: list[bool],
    backend: str,
) -> list[Tensor]:
    return _needed((value, hidden, weight, weight[:, 0] if bias is None else bias), needs)


@_register(
    "linear_bernoulli_log_prob_and_residual(Tensor value, Tensor hidden, Tensor weight, Tensor? bias, Tensor? mask, "
    "str backend) -> (Tensor log_prob, Tensor residual)"
)
def _(
    value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    return _log_prob(value, hidden), hidden.new_empty((*hidden.shape[:-1], weight.shape[0]))


@_register("linear_tanh(Tensor hidden, Tensor weight, Tensor? bias, str backend) -> Tensor")
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    return hidden.new_empty((*hidden.shape[:-1], weight.shape[0]))


@_register(
    "linear_tanh_backward(Tensor grad, Tensor output, Tensor hidden, Tensor weight, bool[] needs, str backend) "
    "-> Tensor[]"
)
def _(grad: Tensor, output: Tensor, hidden: Tensor, weight: Tensor, needs: list[bool], backend: str) -> list[Tensor]:
    return _needed((hidden, weight, weight[:, 0]), needs)


@_register("log_mean_exp(Tensor log_weights, int dim, str backend) -> Tensor")
def _(log_weights: Tensor, dim: int, backend: str) -> Tensor:
    shape = (*log_weights.shape[:dim], *log_weights.shape[dim + 1 :])
    return log_weights.new_empty(shape, dtype=accumulation_dtype(log_weights))


@_register("log_mean_exp_backward(Tensor grad, Tensor log_weights, int dim, str backend) -> Tensor")
def _(grad: Tensor, log_weights: Tensor, dim: int, backend: str) -> Tensor:
    return _contiguous_like(log_weights)


@_register(
    "bernoulli_iwae_loss(Tensor value, Tensor logits, Tensor log_ratio, Tensor? mask, str reduction, "
    "str backend) -> (Tensor loss, Tensor weights)"
)
def _(
    value: Tensor, logits: Tensor, log_ratio: Tensor, mask: Tensor | None, reduction: str, backend: str
) -> tuple[Tensor, Tensor]:
    return _loss_and_weights(reduction, log_ratio, value, logits)


@_register(
    "bernoulli_iwae_loss_and_gradients(Tensor value, Tensor logits, Tensor log_ratio, Tensor? mask, str reduction, "
    "bool[] wanted, str backend) -> (Tensor loss, Tensor weights, Tensor[] gradients)"
)
def _(
    value: Tensor,
    logits: Tensor,
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    return *_loss_and_weights(reduction, log_ratio, value, logits), _needed((value, logits), wanted)


@_register(
    "bernoulli_iwae_loss_backward(Tensor grad, Tensor weights, Tensor value, Tensor logits, "
    "Tensor? mask, str reduction, bool[] needs, str backend) -> Tensor[]"
)
def _(
    grad: Tensor,
    weights: Tensor,
    value: Tensor,
    logits: Tensor,
    mask: Tensor | None,
    reduction: str,
    needs: list[bool],
    backend: str,
) -> list[Tensor]:
    return [*_needed((value, logits), needs), _contiguous_like(weights)]


@_register(
    "linear_bernoulli_iwae_loss(Tensor value, Tensor hidden, Tensor weight, Tensor? bias, Tensor log_ratio, "
    "Tensor? mask, str reduction, str backend) -> (Tensor loss, Tensor bound, Tensor weights, Tensor gradient)"
)
def _(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, weights = _loss_and_weights(reduction, log_ratio, value, hidden)
    bound = weights.new_empty(weights.shape[1:])
    return loss, bound, weights, hidden.new_empty((*hidden.shape[:-1], weight.shape[0]))


@_register(
    "gaussian_iwae_loss(Tensor value, Tensor mean, Tensor log_std, Tensor log_ratio, Tensor? mask, str reduction, "
    "str backend) -> (Tensor loss, Tensor weights)"
)
def _(
    value: Tensor, mean: Tensor, log_std: Tensor, log_ratio: Tensor, mask: Tensor | None, reduction: str, backend: str
) -> tuple[Tensor, Tensor]:
    return _loss_and_weights(reduction, log_ratio, value, mean, log_std)


@_register(
    "gaussian_iwae_loss_and_gradients(Tensor value, Tensor mean, Tensor log_std, Tensor log_ratio, Tensor? mask, "
    "str reduction, bool[] wanted, str backend) -> (Tensor loss, Tensor weights, Tensor[] gradients)"
)
def _(
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    return *_loss_and_weights(reduction, log_ratio, value, mean, log_std), _needed((value, mean, log_std), wanted)


@_register(
    "gaussian_iwae_loss_backward(Tensor grad, Tensor weights, Tensor value, Tensor mean, "
    "Tensor log_std, Tensor? mask, str reduction, bool[] needs, str backend) -> Tensor[]"
)
def _(
    grad: Tensor,
    weights: Tensor,
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    mask: Tensor | None,
    reduction: str,
    needs: list[bool],
    backend: str,
) -> list[Tensor]:
    return [*_needed((value, mean, log_std), needs), _contiguous_like(weights)]


@_register(
    "standard_normal(Tensor seed, Tensor? samples, SymInt[] shape, SymInt sample_offset, SymInt observation_offset, "
    "int stream, ScalarType dtype, str backend) -> Tensor"
)
def _(
    seed: Tensor,
    samples: Tensor | None,
    shape: list[int],
    sample_offset: int,
    observation_offset: int,
    stream: int,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    return seed.new_empty(shape, dtype=dtype)


@_register(
    "sample_gaussian(Tensor mean, Tensor log_std, Tensor seed, Tensor? samples, SymInt num_samples, "
    "SymInt sample_offset, SymInt observation_offset, int stream, str backend) -> (Tensor z, Tensor log_ratio)"
)
def _(
    mean: Tensor,
    log_std: Tensor,
    seed: Tensor,
    samples: Tensor | None,
    num_samples: int,
    sample_offset: int,
    observation_offset: int,
    stream: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(mean, log_std)
    z = mean.new_empty((num_samples, *mean.shape), dtype=dtype)
    return z, mean.new_empty((num_samples, mean.shape[0]), dtype=dtype)


@_register(
    "sample_gaussian_backward(Tensor? grad_z, Tensor? grad_log_ratio, Tensor mean, Tensor log_std, Tensor seed, "
    "Tensor? samples, SymInt num_samples, SymInt sample_offset, SymInt observation_offset, int stream, "
    "bool path_only, str backend) -> (Tensor grad_mean, Tensor grad_log_std)"
)
def _(
    grad_z: Tensor | None,
    grad_log_ratio: Tensor | None,
    mean: Tensor,
    log_std: Tensor,
    seed: Tensor,
    samples: Tensor | None,
    num_samples: int,
    sample_offset: int,
    observation_offset: int,
    stream: int,
    path_only: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _contiguous_like(mean), _contiguous_like(log_std)
