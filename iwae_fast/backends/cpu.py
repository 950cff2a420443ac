"""The C++ backend: each op allocates its results through torch and hands raw pointers to ``iwae_fast._C``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import linear
from .marshal import accumulation_dtype, leading_shape, operand, optional_operand

_C: Any = None
_REASON: str | None = None
try:
    # After torch, so that both share one OpenMP runtime.
    _C = importlib.import_module("iwae_fast._C")
except ModuleNotFoundError as error:
    _REASON = f"the C++ extension is not there ({error}); reinstall with a C++17 compiler to build it"
except ImportError as error:
    _REASON = f"the C++ extension does not load: {error}"

DEVICE = "cpu"

EXTRA = frozenset(
    {
        "bernoulli_iwae_loss_and_gradients",
        "gaussian_iwae_loss_and_gradients",
        "linear_bernoulli_iwae_loss",
        "linear_bernoulli_log_prob_and_residual",
        "linear_tanh",
    }
)


def missing() -> str | None:
    """What this backend lacks to be used, or None."""
    return _REASON


unavailable = missing


def details() -> dict[str, Any]:
    if _C is None:
        return {}
    return {"isa": _C.isa(), "usable_isas": _C.usable_isas(), "openmp": _C.has_openmp(), "file": _C.__file__}


# --- densities ------------------------------------------------------------------------------------------------


def gaussian_log_prob(value: Tensor, mean: Tensor, log_std: Tensor, mask: Tensor | None) -> Tensor:
    return _density("gaussian", (value, mean, log_std), mask)


def gaussian_log_prob_backward(
    grad: Tensor, value: Tensor, mean: Tensor, log_std: Tensor, mask: Tensor | None, needs: list[bool]
) -> list[Tensor]:
    return _density_backward("gaussian", grad, (value, mean, log_std), mask, needs)


def standard_gaussian_log_prob(value: Tensor, mask: Tensor | None) -> Tensor:
    return _density("standard_gaussian", (value,), mask)


def standard_gaussian_log_prob_backward(
    grad: Tensor, value: Tensor, mask: Tensor | None, needs: list[bool]
) -> list[Tensor]:
    return _density_backward("standard_gaussian", grad, (value,), mask, needs)


def bernoulli_log_prob(value: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    return _density("bernoulli", (value, logits), mask)


def bernoulli_log_prob_backward(
    grad: Tensor, value: Tensor, logits: Tensor, mask: Tensor | None, needs: list[bool]
) -> list[Tensor]:
    return _density_backward("bernoulli", grad, (value, logits), mask, needs)


def _biased_bernoulli(value: Tensor, products: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    if bias is None:
        return _density("bernoulli", (value, products), mask)
    return _density("biased_bernoulli", (value, products, bias), mask)


_BERNOULLI = linear.Likelihood(_biased_bernoulli, bernoulli_log_prob_backward)
linear_bernoulli_log_prob = partial(linear.log_prob, _BERNOULLI)
linear_bernoulli_log_prob_backward = partial(linear.log_prob_backward, _BERNOULLI)


def linear_bernoulli_log_prob_and_residual(
    value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The log-probability, and value - sigmoid(logits) in the memory of the logits: what its gradients are made of."""
    products = _products(hidden, weight)
    if bias is None:
        return _density("bernoulli", (value, products), mask, (None, products)), products
    return _density("biased_bernoulli", (value, products, bias), mask, (None, products)), products


def _density(
    density: str, parameters: tuple[Tensor, ...], mask: Tensor | None, kept: Sequence[Tensor | None] = ()
) -> Tensor:
    """The log-density; gradients in its parameters are written to the tensors that are to keep them."""
    dtype = accumulation_dtype(*parameters)
    leading = leading_shape(*parameters)
    shape = (*leading, parameters[0].shape[-1])
    log_prob = parameters[0].new_empty(leading, dtype=dtype)
    _C.density(
        density,
        dtype == torch.float64,
        shape,
        [operand(p) for p in parameters],
        optional_operand(mask),
        log_prob.data_ptr(),
        _pointers(kept),
        torch.get_num_threads(),
    )
    return log_prob


def _density_backward(
    density: str, grad: Tensor, parameters: tuple[Tensor, ...], mask: Tensor | None, needs: list[bool]
) -> list[Tensor]:
    shape = (*leading_shape(*parameters), parameters[0].shape[-1])
    gradients = [_gradient_like(p) if needed else None for p, needed in zip(parameters, needs, strict=True)]
    _C.density_backward(
        density,
        accumulation_dtype(*parameters) == torch.float64,
        shape,
        [operand(p) for p in parameters],
        optional_operand(mask),
        operand(grad),
        [optional_operand(g) for g in gradients],
        torch.get_num_threads(),
    )
    return [g for g in gradients if g is not None]


def _gradient_like(tensor: Tensor) -> Tensor:
    # Contiguous whatever the input's strides: an expanded input has no memory of its own to mirror.
    return tensor.new_empty(tensor.shape)


def _pointers(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


# --- dense layers -----------------------------------------------------------------------------------------------


def _products(hidden: Tensor, weight: Tensor) -> Tensor:
    """hidden @ weight.T, new and contiguous."""
    leading = hidden.shape[:-1]
    return torch.mm(hidden.reshape(leading.numel(), hidden.shape[-1]), weight.t()).view(*leading, weight.shape[0])


def linear_tanh(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    values = _products(hidden, weight)
    if bias is not None:
        bias = bias.contiguous()
    _C.tanh_layer(
        values.dtype == torch.float64,
        hidden.shape[:-1].numel(),
        weight.shape[0],
        values.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        torch.get_num_threads(),
    )
    return values


def linear_tanh_backward(
    grad: Tensor, output: Tensor, hidden: Tensor, weight: Tensor, needs: list[bool]
) -> list[Tensor]:
    """The gradients of hidden, weight and bias, of which those that are needed."""
    rows, size = hidden.shape[:-1].numel(), output.shape[-1]
    output, grad = output.contiguous(), grad.contiguous()
    gradient = output.new_empty(rows, size)
    of_bias = output.new_empty(size)
    _C.tanh_layer_backward(
        output.dtype == torch.float64,
        rows,
        size,
        output.data_ptr(),
        grad.data_ptr(),
        gradient.data_ptr(),
        of_bias.data_ptr(),
        torch.get_num_threads(),
    )
    gradients = []
    if needs[0]:
        gradients.append(torch.mm(gradient, weight).view(hidden.shape))
    if needs[1]:
        gradients.append(torch.mm(gradient.t(), hidden.reshape(rows, hidden.shape[-1])))
    if needs[2]:
        gradients.append(of_bias)
    return gradients


# --- importance weights -----------------------------------------------------------------------------------------


def log_mean_exp(log_weights: Tensor, dim: int) -> Tensor:
    columns = log_weights.movedim(dim, 0)
    bound = columns.new_empty(columns.shape[1:], dtype=accumulation_dtype(log_weights))
    _C.log_mean_exp(
        bound.dtype == torch.float64,
        tuple(columns.shape),
        operand(columns),
        bound.data_ptr(),
        torch.get_num_threads(),
    )
    return bound


def log_mean_exp_backward(grad: Tensor, log_weights: Tensor, dim: int) -> Tensor:
    columns = log_weights.movedim(dim, 0)
    shape = tuple(columns.shape)
    gradient = log_weights.new_empty(log_weights.shape)
    _C.log_mean_exp_backward(
        log_weights.dtype == torch.float64,
        shape,
        operand(columns),
        operand(grad),
        operand(gradient.movedim(dim, 0)),
        torch.get_num_threads(),
    )
    return gradient


# --- fused losses -------------------------------------------------------------------------------------------------


def bernoulli_iwae_loss(
    value: Tensor, logits: Tensor, log_ratio: Tensor, mask: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    return _iwae_loss("bernoulli", (value, logits), log_ratio, mask, reduction)


def bernoulli_iwae_loss_backward(
    grad: Tensor,
    weights: Tensor,
    value: Tensor,
    logits: Tensor,
    mask: Tensor | None,
    reduction: str,
    needs: list[bool],
) -> list[Tensor]:
    return _iwae_loss_backward("bernoulli", grad, weights, (value, logits), mask, reduction, needs)


def gaussian_iwae_loss(
    value: Tensor, mean: Tensor, log_std: Tensor, log_ratio: Tensor, mask: Tensor | None, reduction: str
) -> tuple[Tensor, Tensor]:
    return _iwae_loss("gaussian", (value, mean, log_std), log_ratio, mask, reduction)


def gaussian_iwae_loss_backward(
    grad: Tensor,
    weights: Tensor,
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    mask: Tensor | None,
    reduction: str,
    needs: list[bool],
) -> list[Tensor]:
    return _iwae_loss_backward("gaussian", grad, weights, (value, mean, log_std), mask, reduction, needs)


def bernoulli_iwae_loss_and_gradients(
    value: Tensor, logits: Tensor, log_ratio: Tensor, mask: Tensor | None, reduction: str, wanted: list[bool]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    return _iwae_loss_and_gradients("bernoulli", (value, logits), log_ratio, mask, reduction, wanted)


def gaussian_iwae_loss_and_gradients(
    value: Tensor,
    mean: Tensor,
    log_std: Tensor,
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    return _iwae_loss_and_gradients("gaussian", (value, mean, log_std), log_ratio, mask, reduction, wanted)


def linear_bernoulli_iwae_loss(
    value: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The reduced loss, the bounds, the normalised weights, and in the memory of the logits their gradient."""
    products = _products(hidden, weight)
    bound = log_ratio.new_empty(log_ratio.shape[1:], dtype=accumulation_dtype(value, hidden, log_ratio))
    if bias is None:
        loss, weights = _iwae_loss("bernoulli", (value, products), log_ratio, mask, reduction, (None, products), bound)
    else:
        loss, weights = _iwae_loss(
            "biased_bernoulli", (value, products, bias), log_ratio, mask, reduction, (None, products), bound
        )
    return loss, bound, weights, products


def _iwae_loss_and_gradients(
    density: str,
    parameters: tuple[Tensor, ...],
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Besides, the gradients of the wanted parameters, of the shape of the whole call, for an incoming one of 1."""
    kept = [_gradient_like(p) if want else None for p, want in zip(parameters, wanted, strict=True)]
    loss, weights = _iwae_loss(density, parameters, log_ratio, mask, reduction, kept)
    return loss, weights, [gradient for gradient in kept if gradient is not None]


def _iwae_loss(
    density: str,
    parameters: tuple[Tensor, ...],
    log_ratio: Tensor,
    mask: Tensor | None,
    reduction: str,
    kept: Sequence[Tensor | None] = (),
    bound: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The reduced loss, and the normalised weights that its gradient needs.

    The gradients of parameters, and the bound of each observation, are written to the tensors that are to have them.
    """
    leading = tuple(log_ratio.shape)
    shape = (*leading, parameters[0].shape[-1])
    dtype = accumulation_dtype(*parameters, log_ratio)
    weights = log_ratio.new_empty(leading, dtype=dtype)
    loss = log_ratio.new_empty(leading[1:] if reduction == "none" else (), dtype=dtype)
    _C.iwae_loss(
        density,
        dtype == torch.float64,
        shape,
        [operand(p) for p in parameters],
        optional_operand(mask),
        operand(log_ratio),
        reduction,
        weights.data_ptr(),
        loss.data_ptr(),
        0 if bound is None else bound.data_ptr(),
        _pointers(kept),
        torch.get_num_threads(),
    )
    return loss, weights


def _iwae_loss_backward(
    density: str,
    grad: Tensor,
    weights: Tensor,
    parameters: tuple[Tensor, ...],
    mask: Tensor | None,
    reduction: str,
    needs: list[bool],
) -> list[Tensor]:
    """Gradients of the needed parameters, then of the log-ratio (in the dtype of the weights)."""
    leading = tuple(weights.shape)
    shape = (*leading, parameters[0].shape[-1])
    gradients = [_gradient_like(p) if needed else None for p, needed in zip(parameters, needs, strict=True)]
    weights = weights.contiguous()  # as the forward made them, but vmap hands over slices
    grad_log_ratio = weights.new_empty(leading)
    _C.iwae_loss_backward(
        density,
        weights.dtype == torch.float64,
        shape,
        [operand(p) for p in parameters],
        optional_operand(mask),
        weights.data_ptr(),
        operand(grad),
        reduction,
        grad_log_ratio.data_ptr(),
        [optional_operand(g) for g in gradients],
        torch.get_num_threads(),
    )
    return [*(g for g in gradients if g is not None), grad_log_ratio]


# --- noise --------------------------------------------------------------------------------------------------------


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
    _C.standard_normal(
        dtype == torch.float64,
        seed.data_ptr(),
        optional_operand(samples),
        tuple(shape),
        (sample_offset, observation_offset, stream),
        noise.data_ptr(),
        torch.get_num_threads(),
    )
    return noise


def sample_gaussian(
    mean: Tensor,
    log_std: Tensor,
    seed: Tensor,
    samples: Tensor | None,
    num_samples: int,
    sample_offset: int,
    observation_offset: int,
    stream: int,
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(mean, log_std)
    shape = (num_samples, *mean.shape)
    z, log_ratio = mean.new_empty(shape, dtype=dtype), mean.new_empty(shape[:2], dtype=dtype)
    _C.sample_gaussian(
        dtype == torch.float64,
        seed.data_ptr(),
        optional_operand(samples),
        shape,
        (sample_offset, observation_offset, stream),
        operand(mean),
        operand(log_std),
        z.data_ptr(),
        log_ratio.data_ptr(),
        torch.get_num_threads(),
    )
    return z, log_ratio


def sample_gaussian_backward(
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
) -> tuple[Tensor, Tensor]:
    grad_mean, grad_log_std = _gradient_like(mean), _gradient_like(log_std)
    _C.sample_gaussian_backward(
        accumulation_dtype(mean, log_std) == torch.float64,
        seed.data_ptr(),
        optional_operand(samples),
        (num_samples, *mean.shape),
        (sample_offset, observation_offset, stream),
        operand(mean),
        operand(log_std),
        optional_operand(grad_z),
        optional_operand(grad_log_ratio),
        path_only,
        operand(grad_mean),
        operand(grad_log_std),
        torch.get_num_threads(),
    )
    return grad_mean, grad_log_std
