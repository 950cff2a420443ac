"""The operations registered with torch.library, so that torch's compilers and transforms see them in a graph.

In eager mode a backend is called directly, since a registered op costs microseconds more. While tracing, it is replaced
by :class:`RegisteredOps`, whose methods call the registered ops; these call the backend named by their last argument.
Autograd is handled outside, in the Functions of :mod:`iwae_fast.ops`.

The ops of a density are generated from :data:`iwae_fast.reference.DENSITIES`: ``X_log_prob`` and its backward pass, and
for a likelihood ``X_iwae_loss``, ``X_iwae_loss_and_gradients`` and ``X_iwae_loss_backward``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends import NATIVE
from ..backends.base import Ops, WithoutOptionalOps
from ..backends.marshal import empty_bound, empty_selection, empty_squares, leading_shape
from ..checks import accumulation_dtype
from ..reference import DENSITIES, ScaleFactors
from ..reference.adam import AdamExtras, AdamSettings, AdamTensors

NAMESPACE = __name__.partition(".")[0]
"""The namespace of the ops: the name of the root package, so that a copy of the package under another name, as in
release/hub_kernel.py, defines ops of its own."""
LIBRARY = torch.library.Library(NAMESPACE, "DEF")
OPS = getattr(torch.ops, NAMESPACE)

Fake = Callable[..., Any]


class RegisteredOps(WithoutOptionalOps):
    """The operations of a backend, called through the registered ops."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def density(self, name: str, parameters: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        return self._call(f"{name}_log_prob", *parameters, mask)

    def density_backward(
        self, name: str, grad: Tensor, parameters: Sequence[Tensor], mask: Tensor | None, needs_grad: Sequence[bool]
    ) -> list[Tensor]:
        return self._call(f"{name}_log_prob_backward", grad, *parameters, mask, needs_grad)

    def iwae_loss(
        self, name: str, parameters: Sequence[Tensor], log_ratio: Tensor, mask: Tensor | None, reduction: str
    ) -> tuple[Tensor, Tensor]:
        return self._call(f"{name}_iwae_loss", *parameters, log_ratio, mask, reduction)

    def iwae_loss_and_gradients(
        self,
        name: str,
        parameters: Sequence[Tensor],
        log_ratio: Tensor,
        mask: Tensor | None,
        reduction: str,
        needs_grad: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        return self._call(f"{name}_iwae_loss_and_gradients", *parameters, log_ratio, mask, reduction, needs_grad)

    def iwae_loss_backward(
        self,
        name: str,
        grad: Tensor,
        weights: Tensor,
        parameters: Sequence[Tensor],
        mask: Tensor | None,
        reduction: str,
        needs_grad: Sequence[bool],
    ) -> list[Tensor]:
        return self._call(f"{name}_iwae_loss_backward", grad, weights, *parameters, mask, reduction, needs_grad)

    def log_mean_exp(self, *arguments: Any, **options: Any) -> Tensor:
        return self._call("log_mean_exp", *arguments, **options)

    def log_mean_exp_backward(self, *arguments: Any, **options: Any) -> Tensor:
        return self._call("log_mean_exp_backward", *arguments, **options)

    def weight_scales(
        self, terms: Sequence[Tensor], kl_weight: float, factors: ScaleFactors, reduction: str
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        return self._call("weight_scales", list(terms), kl_weight, *factors, reduction)

    def scaled_gradients(self, *arguments: Any, **options: Any) -> list[Tensor]:
        return self._call("scaled_gradients", *arguments, **options)

    def select_samples(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self._call("select_samples", *arguments, **options)

    def standard_normal(self, *arguments: Any, **options: Any) -> Tensor:
        return self._call("standard_normal", *arguments, **options)

    def sample_gaussian(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return self._call("sample_gaussian", *arguments, **options)

    def sample_gaussian_backward(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return self._call("sample_gaussian_backward", *arguments, **options)

    def linear_bernoulli_log_prob(self, *arguments: Any, **options: Any) -> Tensor:
        return self._call("linear_bernoulli_log_prob", *arguments, **options)

    def linear_bernoulli_log_prob_backward(self, *arguments: Any, **options: Any) -> list[Tensor]:
        return self._call("linear_bernoulli_log_prob_backward", *arguments, **options)

    def linear_bernoulli_log_prob_and_residual(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        return self._call("linear_bernoulli_log_prob_and_residual", *arguments, **options)

    def linear_bernoulli_iwae_loss(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._call("linear_bernoulli_iwae_loss", *arguments, **options)

    def linear_activation(self, *arguments: Any, **options: Any) -> list[Tensor]:
        return self._call("linear_activation", *arguments, **options)

    def linear_activation_backward(self, *arguments: Any, **options: Any) -> list[Tensor]:
        return self._call("linear_activation_backward", *arguments, **options)

    def linear_heads(self, *arguments: Any, **options: Any) -> list[Tensor]:
        return self._call("linear_heads", *arguments, **options)

    def linear_heads_backward(self, *arguments: Any, **options: Any) -> list[Tensor]:
        return self._call("linear_heads_backward", *arguments, **options)

    def adam(self, tensors: AdamTensors, settings: AdamSettings, extras: AdamExtras, turns: Tensor) -> None:
        rate = settings.lr if isinstance(settings.lr, Tensor) else None
        settings = settings if rate is None else settings._replace(lr=0.0)
        self._call("adam", *map(list, tensors), rate, *settings, *extras, turns)

    def sum_squares(self, gradients: Sequence[Tensor]) -> Tensor:
        return self._call("sum_squares", list(gradients))

    def _call(self, op: str, *arguments: Any, **options: Any) -> Any:
        return getattr(OPS, op)(*arguments, **options, backend=self.backend)


def _define(schema: str, run: Callable[..., Any], fake: Fake) -> None:
    """Define an op by its schema, whose last argument is the backend's name, a method of backends and a fake."""
    name = schema.split("(")[0]

    def implementation(*arguments: Any) -> Any:
        *rest, backend = arguments
        return run(NATIVE[backend], *rest)

    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)


def _register(schema: str) -> Callable[[Fake], Fake]:
    """Define an op that calls the backend method of its name, with the decorated function as its fake."""
    name = schema.split("(")[0]

    def decorate(fake: Fake) -> Fake:
        _define(schema, lambda backend, *arguments: getattr(backend, name)(*arguments), fake)
        return fake

    return decorate


def _define_density(name: str, names: Sequence[str]) -> None:
    """Define the ops of a log-density with these parameters and of its backward pass."""
    count = len(names)
    tensors = "".join(f"Tensor {parameter}, " for parameter in names)
    _define(
        f"{name}_log_prob({tensors}Tensor? mask, str backend) -> Tensor",
        lambda backend, *a: backend.density(name, a[:count], a[count]),
        lambda *a: _log_prob(*a[:count]),
    )
    _define(
        f"{name}_log_prob_backward(Tensor grad, {tensors}Tensor? mask, bool[] needs, str backend) -> Tensor[]",
        lambda backend, grad, *a: backend.density_backward(name, grad, a[:count], *a[count:]),
        lambda _, *a: _needed(a[:count], a[count + 1]),
    )


def _define_losses(name: str, names: Sequence[str]) -> None:
    """Define the ops of the IWAE loss with a density of these parameters as the likelihood, with and without gradients
    from the forward pass, and of its backward pass."""
    count = len(names)
    tensors = "".join(f"Tensor {parameter}, " for parameter in names)
    _define(
        f"{name}_iwae_loss({tensors}Tensor log_ratio, Tensor? mask, str reduction, str backend) "
        "-> (Tensor loss, Tensor weights)",
        lambda backend, *a: backend.iwae_loss(name, a[:count], *a[count:]),
        lambda *a: _loss_and_weights(a[count + 2], a[count], *a[:count]),
    )
    _define(
        f"{name}_iwae_loss_and_gradients({tensors}Tensor log_ratio, Tensor? mask, str reduction, bool[] wanted, "
        "str backend) -> (Tensor loss, Tensor bound, Tensor weights, Tensor[] gradients)",
        lambda backend, *a: backend.iwae_loss_and_gradients(name, a[:count], *a[count:]),
        lambda *a: _loss_and_gradients(a[count + 2], a[count], a[:count], a[count + 3]),
    )
    _define(
        f"{name}_iwae_loss_backward(Tensor grad, Tensor weights, {tensors}Tensor? mask, str reduction, bool[] needs, "
        "str backend) -> Tensor[]",
        lambda backend, grad, weights, *a: backend.iwae_loss_backward(name, grad, weights, a[:count], *a[count:]),
        lambda _, weights, *a: [*_needed(a[:count], a[count + 2]), _contiguous_like(weights)],
    )


def _log_prob(*parameters: Tensor) -> Tensor:
    return parameters[0].new_empty(leading_shape(*parameters), dtype=accumulation_dtype(*parameters))


def _contiguous_like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _needed(parameters: Sequence[Tensor], needs: list[bool]) -> list[Tensor]:
    return [_contiguous_like(p) for p, needed in zip(parameters, needs, strict=True) if needed]


def _loss_and_weights(reduction: str, log_ratio: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(log_ratio, *parameters)
    loss = log_ratio.new_empty(log_ratio.shape[1:] if reduction == "none" else (), dtype=dtype)
    return loss, log_ratio.new_empty(log_ratio.shape, dtype=dtype)


def _loss_and_gradients(
    reduction: str, log_ratio: Tensor, parameters: Sequence[Tensor], needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    loss, weights = _loss_and_weights(reduction, log_ratio, *parameters)
    return loss, weights.new_empty(log_ratio.shape[1:]), weights, _needed(parameters, needs)


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
    "str backend) -> (Tensor log_prob, Tensor residual, Tensor copy)"
)
def _(
    value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    residual = hidden.new_empty((*hidden.shape[:-1], weight.shape[0]))
    return _log_prob(value, hidden), residual, _log_prob(value, hidden)


@_register(
    "linear_activation(Tensor hidden, Tensor weight, Tensor? bias, str activation, bool keep, str backend) -> Tensor[]"
)
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool, backend: str) -> list[Tensor]:
    return [hidden.new_empty((*hidden.shape[:-1], weight.shape[0])) for _ in range(1 + keep)]


@_register(
    "linear_activation_backward(Tensor grad, Tensor? kept, Tensor hidden, Tensor weight, str activation, "
    "bool[] needs, Tensor? coefficient, Tensor? result, str backend) -> Tensor[]"
)
def _(
    grad: Tensor,
    kept: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    activation: str,
    needs: list[bool],
    coefficient: Tensor | None,
    result: Tensor | None,
    backend: str,
) -> list[Tensor]:
    return _needed((hidden, weight, weight[:, 0]), needs)


@_register("linear_heads(Tensor hidden, Tensor[] weights, Tensor[] biases, str backend) -> Tensor[]")
def _(hidden: Tensor, weights: list[Tensor], biases: list[Tensor], backend: str) -> list[Tensor]:
    return [hidden.new_empty((*hidden.shape[:-1], weight.shape[0])) for weight in weights]


@_register(
    "linear_heads_backward(Tensor[] grads, Tensor hidden, Tensor[] weights, bool[] needs, str backend) -> Tensor[]"
)
def _(grads: list[Tensor], hidden: Tensor, weights: list[Tensor], needs: list[bool], backend: str) -> list[Tensor]:
    return _needed((hidden, *weights, *(weight[:, 0] for weight in weights))[: len(needs)], needs)


@_register("log_mean_exp(Tensor log_weights, int dim, str backend) -> Tensor")
def _(log_weights: Tensor, dim: int, backend: str) -> Tensor:
    shape = (*log_weights.shape[:dim], *log_weights.shape[dim + 1 :])
    return log_weights.new_empty(shape, dtype=accumulation_dtype(log_weights))


@_register("log_mean_exp_backward(Tensor grad, Tensor log_weights, int dim, str backend) -> Tensor")
def _(grad: Tensor, log_weights: Tensor, dim: int, backend: str) -> Tensor:
    return _contiguous_like(log_weights)


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


def weight_scales(backend: Ops, terms: list[Tensor], kl_weight: float, *numbers: Any) -> Any:
    """Call a backend's method with the flat arguments of the op's schema."""
    *factors, reduction = numbers
    return backend.weight_scales(terms, kl_weight, ScaleFactors(*factors), reduction)


def _weight_scales(terms: list[Tensor], kl_weight: float, *numbers: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    *factors, reduction, _ = numbers
    return empty_bound(terms, reduction, 1 if ScaleFactors(*factors).is_one else 3)


_define(
    "weight_scales(Tensor[] terms, float kl_weight, float power, int groups, float linear, float quadratic, "
    "float rounding, str reduction, str backend) -> (Tensor loss, Tensor bound, Tensor log_weights, Tensor[] scales)",
    weight_scales,
    _weight_scales,
)


@_register("scaled_gradients(Tensor[] scales, Tensor grad, float[] factors, str backend) -> Tensor[]")
def _(scales: list[Tensor], grad: Tensor, factors: list[float], backend: str) -> list[Tensor]:
    return [_contiguous_like(scale) for scale in scales]


@_register(
    "select_samples(Tensor decoder, Tensor encoder, Tensor seed, int budget, SymInt observation_offset, int stream, "
    "float rounding, str backend) -> (Tensor samples, Tensor decoder, Tensor encoder, Tensor ratio, Tensor used)"
)
def _(
    decoder: Tensor,
    encoder: Tensor,
    seed: Tensor,
    budget: int,
    observation_offset: int,
    stream: int,
    rounding: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return empty_selection(decoder, encoder, budget)


def adam(backend: Ops, *arguments: Any) -> None:
    """Call a backend's method with the flat arguments of the op's schema."""
    tensors, (rate, *rest) = AdamTensors(*arguments[:5]), arguments[5:]
    settings = AdamSettings(*rest[:-4])
    if rate is not None:
        settings = settings._replace(lr=rate)
    backend.adam(tensors, settings, AdamExtras(*rest[-4:-1]), rest[-1])


_define(
    "adam(Tensor(a!)[] parameters, Tensor(b!)[] gradients, Tensor(c!)[] first, Tensor(d!)[] second, "
    "Tensor(e!)[] steps, Tensor? rate, float lr, float beta1, float beta2, float eps, float weight_decay, "
    "bool decoupled, bool maximize, bool corrects_eps, float? max_norm, Tensor? scale, Tensor? found_inf, "
    "Tensor? squares, Tensor(f!) turns, str backend) -> ()",
    adam,
    lambda *_: None,
)


@_register("sum_squares(Tensor[] gradients, str backend) -> Tensor")
def _(gradients: list[Tensor], backend: str) -> Tensor:
    return empty_squares(gradients)


for _name in DENSITIES:
    *_parameters, _mask = inspect.signature(DENSITIES[_name]).parameters
    _define_density(_name, _parameters)
    if len(_parameters) > 1:  # a density of a network's output can be a likelihood
        _define_losses(_name, _parameters)
