"""Launches every kernel of a backend through the public functions, at small and odd sizes, and compares results and
gradients with the reference: ``python tests/support/every_kernel.py cuda``. Memory checkers run this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import density_ops
import torch
from torch import Tensor

import iwae_fast as iw
from iwae_fast import reference
from iwae_fast.backends import NATIVE
from iwae_fast.objectives.budgets import within_budget
from iwae_fast.objectives.estimators import Scales
from iwae_fast.objectives.routing import with_ratio
from iwae_fast.ops.adam import adam, sum_squares
from iwae_fast.ops.function import supports
from iwae_fast.ops.samples import standard_normal
from iwae_fast.ops.scales import scaled_loss, select_samples
from iwae_fast.reference.adam import AdamExtras, AdamSettings, AdamTensors

ALLOWED = {torch.float64: 1e-10, torch.float32: 5e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""The allowed error relative to the largest entry of a result, by dtype. The tests of each op are stricter."""

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


STRIDE = 11


class Case(NamedTuple):
    """A call of the form ``function(*inputs, backend=...)``."""

    name: str
    function: Callable[..., Any]
    inputs: Sequence[Tensor | None]
    leaves: Sequence[int] = ()
    """The indices of the inputs that get a gradient."""
    factor: float = 1.0
    """The value of every entry of the upstream gradient."""

    def run(self, backend: str, device: str, double: bool = False) -> list[Tensor]:
        """Return the results and the gradients of the leaves."""
        given = []
        for index, tensor in enumerate(self.inputs):
            if tensor is not None:
                tensor = tensor.double() if double and tensor.is_floating_point() else tensor
                tensor = moved(tensor, device).detach().requires_grad_(index in self.leaves)
            given.append(tensor)
        results = self.function(*given, backend=backend)
        results = list(results) if isinstance(results, tuple) else [results]
        leaves = [given[index] for index in self.leaves]
        if not leaves:
            return results
        incoming = [torch.full_like(r, self.factor) for r in results]
        return [*(r.detach() for r in results), *torch.autograd.grad(results, leaves, incoming)]


def moved(tensor: Tensor, device: str) -> Tensor:
    """Move a tensor with its strides: ``to`` would materialize an expanded tensor."""
    base = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)
    return base.to(device).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    yield from densities()
    yield from losses()
    yield from weights()
    yield from noise()
    yield from linear_layers()
    yield from optimizers()


def observed(*shape: int) -> Tensor:
    return torch.rand(*shape) > 0.3


def densities() -> Iterator[Case]:
    for dtype, size in product(FLOATS, (1, 7, 64)):
        for mask in (None, observed(size), observed(5, 3, size)):
            where = f"{dtype} D={size} mask {None if mask is None else tuple(mask.shape)}"
            for name, (function, names) in density_ops.LOG_PROBS.items():
                value, *others = (torch.rand(5, 3, size).to(dtype) for _ in names)
                leaves = range(len(names))
                yield Case(f"{name} {where}", function, (value, *others, mask), leaves)
                if others:
                    *whole, last = others
                    shared = (value[0], *whole, last[:1, :1] if whole else last)
                    yield Case(f"shared {name} {where}", function, (*shared, mask), leaves)
    rows, one = torch.randn(300, 70), torch.randn(70)
    yield Case("sums over rows in parts", iw.gaussian_log_prob, (rows, one, one / 3, None), (0, 1, 2))
    yield Case("sums, one parameter", iw.bernoulli_log_prob, (one, rows, None), (0,))
    every_other = torch.randn(6, 5, 14)[:, :, ::2].transpose(0, 1)
    yield Case("strided", iw.bernoulli_log_prob, (every_other[0, 0], every_other, observed(7)), (0, 1))
    yield Case("long rows", iw.bernoulli_log_prob, (torch.rand(3, 5001), torch.randn(3, 5001), None), (1,))
    yield Case("no features", iw.bernoulli_log_prob, (torch.rand(3, 0), torch.randn(3, 0), None), (1,))


def losses() -> Iterator[Case]:
    for observations, size, dtype in product((20, 300), (7, 64), FLOATS):
        value, log_ratio = torch.rand(observations, size).to(dtype), torch.randn(3, observations)
        for mask, reduction in ((None, "mean"), (observed(size), "none"), (None, "sum")):
            where = f"{dtype} B={observations} D={size} {reduction}"
            for name, (function, names) in density_ops.LOSSES.items():
                loss, factor = partial(function, reduction=reduction), 3.0 if len(names) == 2 else 1.0
                first, *others = (torch.randn(3, observations, size).to(dtype) for _ in names[1:])
                inputs = (value, first, *(other / 3 for other in others), log_ratio, mask)
                yield Case(f"{name} {where}", loss, inputs, range(1, len(names) + 1), factor)
    # Read once: from one block with one row per warp to a cluster of large blocks, with more observations than fit.
    for k, observations, size, dtype in ((5, 300, 64, FLOATS[0]), (50, 40, 784, FLOATS[0]), (50, 40, 784, FLOATS[2])):
        value, logits = torch.rand(observations, size), torch.randn(k, observations, size).to(dtype)
        inputs = (value, logits, torch.randn(k, observations), None)
        yield Case(f"bernoulli_iwae_loss, read once, {k} {size} {dtype}", iw.bernoulli_iwae_loss, inputs, (1, 2))
    value, mean, log_std = torch.rand(20, 256), torch.randn(500, 20, 256), torch.randn(500, 20, 256) / 9
    inputs = (value, mean, log_std, torch.randn(500, 20), None)
    yield Case("gaussian_iwae_loss, read once, 500 256", iw.gaussian_iwae_loss, inputs, (1, 2, 3))
    value, logits, log_ratio = torch.rand(20, 64), torch.randn(5, 20, 64), torch.randn(5, 20)
    inputs = (value, logits, log_ratio, None)
    yield Case("loss, all gradients", iw.bernoulli_iwae_loss, inputs, (0, 1, 2))
    yield Case("loss, no gradient", iw.bernoulli_iwae_loss, inputs)
    yield Case("loss, the log-ratio's gradient", iw.bernoulli_iwae_loss, inputs, (2,))
    scales = (value, logits, logits[0, 0] / 3, log_ratio, None)
    yield Case("loss, a scale of each feature", iw.gaussian_iwae_loss, scales, (0, 1, 2, 3), 0.5)
    impossible = log_ratio.clone()
    impossible[:, 3] = -torch.inf
    yield Case("loss, without weight", weightless, (value, logits, impossible, None), (1, 2))


def weightless(*inputs: Tensor, backend: str) -> Tensor:
    """Compute the loss without its infinite entries, whose differences would be NaN."""
    return iw.bernoulli_iwae_loss(*inputs, reduction="none", backend=backend).clamp(max=1e4)


def weights() -> Iterator[Case]:
    for dtype, shape, dim in product(FLOATS, ((1, 5), (7, 3), (50, 40, 2), (300, 33)), (0, -1)):
        name = f"log_mean_exp {dtype} {shape} over {dim}"
        yield Case(name, partial(iw.log_mean_exp, dim=dim), (torch.randn(shape).to(dtype),), (0,))
    for dtype, shape, groups in product(FLOATS, ((6, 5), (50, 40, 2), (300, 33), (6, 700)), (1, 3)):
        if shape[0] % groups == 0:
            inputs = (torch.randn(shape).to(dtype), torch.randn(shape))
            for reduction, quadratic in (("mean", 9.0), ("none", 0.0)):
                name = f"weight_scales {dtype} {shape} {groups} groups {reduction} {quadratic}"
                function = partial(scaled, groups=groups, reduction=reduction, quadratic=quadratic)
                yield Case(name, function, inputs, (0, 1))
    for k, budget in ((1, 1), (7, 3), (50, 8), (300, 2)):
        both = (torch.randn(k, 9), torch.randn(9, k).T, torch.tensor(3))
        yield Case(f"select_samples k={k} budget={budget}", partial(selected, budget), both)


def scaled(*terms: Tensor, groups: int, reduction: str, quadratic: float, backend: str) -> Tensor:
    """Return the loss of an estimator, whose gradients are its scales."""
    factors = reference.ScaleFactors(0.7, groups, 0.3 if quadratic else 1.0, quadratic, 0.3)
    if backend != "reference":
        return scaled_loss(terms, factors, reduction, 0.4, backend=backend).loss
    loss, _, _, by_sample = reference.weight_scales([t.detach() for t in terms], 0.4, factors, reduction)
    encoder = by_sample[1] if len(by_sample) > 1 else by_sample[0]
    linear = (by_sample[0] * terms[0] + 0.4 * encoder * terms[1]).sum(0)
    linear = linear.sum() if reduction == "mean" else linear
    return loss + linear - linear.detach()


def selected(budget: int, decoder: Tensor, encoder: Tensor, seed: Tensor, backend: str) -> tuple[Tensor, ...]:
    """Return the scales and their ratio, of the chosen samples."""
    if backend != "reference" and supports("select_samples", backend):
        return select_samples(decoder, encoder, seed, budget, 0, 0, 1e-3, backend=backend)[1:4]
    normal = standard_normal((*decoder.shape, 2), seed, device=decoder.device)
    chosen, ratio = with_ratio(
        within_budget(Scales(decoder, encoder), budget, 0.5 * normal.square().sum(-1)).scales, 1e-3
    )
    return *chosen, ratio


def noise() -> Iterator[Case]:
    seed = torch.tensor(3)
    for dtype, size in product(FLOATS, (1, 7, 50)):
        mean, log_std, samples = (
            torch.randn(9, size).to(dtype),
            torch.rand(9, size).to(dtype),
            torch.randint(99, (5, 9)),
        )
        for chosen, path_only in product((None, samples, samples.T.contiguous().T), (False, True)):
            strides = None if chosen is None else chosen.stride()
            function = partial(drawn, path_only=path_only)
            name = f"sample_gaussian {dtype} Z={size} samples {strides} path_only={path_only}"
            yield Case(name, function, (mean, log_std, seed, chosen), (0, 1))
    for size, dtype in product((1, 6, 64), (torch.float32, torch.float64)):
        function = partial(normal, shape=(3, 5, size), dtype=dtype)
        yield Case(f"standard_normal {dtype} Z={size}", function, (seed, torch.randint(99, (3, 5))))
    yield Case("many draws", partial(drawn, num_samples=700), (torch.randn(2, 5), torch.rand(2, 5), seed, None), (0, 1))


def drawn(
    mean: Tensor, log_std: Tensor, seed: Tensor, samples: Tensor | None, num_samples: int = 5, **options: Any
) -> tuple[Tensor, Tensor]:
    return iw.sample_gaussian(mean, log_std, num_samples, seed, sample_indices=samples, **options)


def normal(seed: Tensor, samples: Tensor, shape: tuple[int, int, int], dtype: torch.dtype, backend: str) -> Tensor:
    return standard_normal(shape, seed, sample_indices=samples, dtype=dtype, device=seed.device, backend=backend)


def linear_layers() -> Iterator[Case]:
    for observations, size in product((20, 300), (7, 64)):
        value, hidden = torch.rand(observations, size), torch.randn(3, observations, 9)
        weight, bias, log_ratio = torch.randn(size, 9), torch.randn(size), torch.randn(3, observations)
        for mask in (None, observed(size)):
            where = f"B={observations} D={size} mask {mask is not None}"
            layer = (value, hidden, weight, bias)
            for recompute in (True, False):
                function = partial(iw.linear_bernoulli_log_prob, recompute=recompute)
                yield Case(f"linear_bernoulli_log_prob {where} {recompute}", function, (*layer, mask), (1, 2, 3))
            yield Case(f"linear loss {where}", iw.linear_bernoulli_iwae_loss, (*layer, log_ratio, mask), (1, 2, 3, 4))
    for rows, dtype, activation in product((5, 700), (torch.float32, torch.bfloat16), ("none", "tanh", "gelu")):
        layer = (torch.randn(rows, 9).to(dtype), torch.randn(70, 9).to(dtype), torch.randn(70).to(dtype))
        function = partial(iw.linear_activation, activation=activation)
        yield Case(f"linear_activation {rows} rows {dtype} {activation}", function, layer, (0, 1, 2))
    yield Case("without bias", iw.linear_bernoulli_log_prob, (value, hidden, weight, None), (1, 2))


def optimizers() -> Iterator[Case]:
    for dtype, max_norm in product((torch.float32, torch.float64, torch.bfloat16), (None, 1.5)):
        parameters, gradients = ([torch.randn(size).to(dtype) for size in (1, 0, 7, 4099)] for _ in range(2))
        yield Case(f"adam {dtype} max_norm={max_norm}", partial(steps, max_norm=max_norm), (*parameters, *gradients))


def steps(*inputs: Tensor, max_norm: float | None, backend: str) -> tuple[Tensor, ...]:
    """Take two steps of Adam; the second half of the inputs are the gradients. Return the parameters."""
    half = len(inputs) // 2
    parameters, gradients = [t.clone() for t in inputs[:half]], [t.clone() for t in inputs[half:]]
    first, second = ([torch.zeros_like(t) for t in parameters] for _ in range(2))
    counts = [torch.zeros((), device=t.device) for t in parameters]
    turns = torch.zeros((), dtype=torch.int32, device=inputs[0].device)
    settings = AdamSettings(0.1, 0.9, 0.999, 1e-8, weight_decay=0.01, max_norm=max_norm)
    for _ in range(2):
        squares = None if max_norm is None else sum_squares(gradients, backend)
        extras = AdamExtras(squares=squares)
        adam(AdamTensors(parameters, gradients, first, second, counts), settings, extras, turns, backend)
    return tuple(parameters)


def wrong(case: Case, backend: str, device: str) -> str | None:
    """Describe the errors of a backend's results, or return None."""
    ours = case.run(backend, device)
    exact = case.run("reference", "cpu", double=True)
    for index, (our, exa) in enumerate(zip(ours, exact, strict=True)):
        size = max(float(exa.abs().max()), 1.0) if exa.numel() else 1.0
        error = float((our.cpu().double() - exa).abs().max()) / size if exa.numel() else 0.0
        if not error <= ALLOWED[our.dtype]:
            return f"{case.name}: result {index} is off by {error:.1e} of its largest entry"
    return None


def main(backend: str) -> int:
    reason = NATIVE[backend].unavailable()
    if reason is not None:
        print(f"{backend} cannot run here: {reason}")
        return 2
    device = NATIVE[backend].device
    every = list(cases())
    # In strides, so that a run that is stopped early has covered some cases of every kind.
    order = [case for first in range(STRIDE) for case in every[first::STRIDE]]
    failures = [what for case in order if (what := wrong(case, backend, device)) is not None]
    print("\n".join([*failures, f"{len(every)} calls of every kernel of {backend}, {len(failures)} wrong"]))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or ["cuda"])))
