"""Tests of ops that need a GPU, for each backend with GPU kernels. The contract tests of every op also run on a GPU,
through tests/support/devices.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import density_ops
import pytest
import tolerances
import torch
from density_ops import DensityOp
from every_kernel import drawn
from torch import Tensor

import iwae_fast as iw
from iwae_fast.backends import MISSING, NATIVE, serving

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

BACKENDS = [
    pytest.param(
        name, marks=pytest.mark.skipif(NATIVE[name].unavailable() is not None, reason=str(NATIVE[name].unavailable()))
    )
    for name in ("cuda", "triton")
]

per_backend = pytest.mark.parametrize("backend", BACKENDS)


class Call(NamedTuple):
    """An op on fresh inputs: ``function(*inputs, backend=...)``."""

    function: Callable[..., Any]
    inputs: Callable[[], list[Tensor]]
    leaves: Sequence[int]
    exact: bool = True
    """True if equal inputs always give equal bits; torch's matrix products may differ."""

    def tensors(self) -> list[Tensor]:
        """Return new inputs; the leaves require gradients."""
        return [t.requires_grad_(index in self.leaves) for index, t in enumerate(self.inputs())]

    def step(self, tensors: list[Tensor], backend: str, factor: float = 3.0) -> list[Tensor]:
        """Return results and gradients for an upstream gradient other than 1."""
        results = self.function(*tensors, backend=backend)
        results = list(results) if isinstance(results, tuple) else [results]
        incoming = [torch.full_like(r, factor) for r in results]
        gradients = torch.autograd.grad(results, [tensors[index] for index in self.leaves], incoming)
        return [*(r.detach() for r in results), *gradients]

    def assert_same(self, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        allowed = {"rtol": 0.0, "atol": 0.0} if self.exact else {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(list(found), list(expected), **allowed)


def normal(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, device="cuda") for shape in shapes]


def pixels(*shape: int) -> Tensor:
    return torch.rand(*shape, device="cuda").round()


def linear(k: int, batch: int, hidden: int, features: int) -> list[Tensor]:
    (activations, weight, bias) = normal((k, batch, hidden), (features, hidden), (features,))
    return [pixels(batch, features), activations.tanh(), weight / hidden**0.5, bias]


def density_calls(op: DensityOp, k: int, batch: int, features: int, *log_ratio: tuple[int, int]) -> list[Call]:
    """Return a call of an op of a density with gradients of all tensors but the observations, and one with all."""
    whole, count = (k, batch, features), len(op.parameters)
    if count == 1:
        return [Call(op.function, lambda: normal(whole), [0])]

    def inputs() -> list[Tensor]:
        return [pixels(batch, features), *normal(*[whole] * (count - 1), *log_ratio)]

    every = range(count + len(log_ratio))
    return [Call(op.function, inputs, every[1:]), Call(op.function, inputs, every)]


def calls(k: int, batch: int, features: int) -> dict[str, Call]:
    """Return a call of every op that has a backward pass, at these sizes."""
    whole, some = (k, batch, features), (batch, features)
    densities = {name: density_calls(op, k, batch, features) for name, op in density_ops.LOG_PROBS.items()}
    losses = {name: density_calls(op, k, batch, features, (k, batch)) for name, op in density_ops.LOSSES.items()}
    return {
        **{
            name + suffix: call
            for name, both in {**densities, **losses}.items()
            for suffix, call in zip(("", ", all"), both, strict=False)
        },
        "gaussian_log_prob, a scale of each feature": Call(
            iw.gaussian_log_prob, lambda: normal(some, whole, (features,)), [0, 1, 2]
        ),
        "log_mean_exp": Call(iw.log_mean_exp, lambda: normal((k, batch)), [0]),
        "gaussian_iwae_loss, a scale of each feature": Call(
            iw.gaussian_iwae_loss, lambda: normal(some, whole, (features,), (k, batch)), [1, 2, 3]
        ),
        "sample_gaussian": Call(
            partial(drawn, samples=None, num_samples=k),
            lambda: [*normal((batch, 50), (batch, 50)), torch.randint(99, (), device="cuda")],
            [0, 1],
        ),
        "linear_bernoulli_log_prob": Call(
            iw.linear_bernoulli_log_prob, lambda: linear(k, batch, 200, features), [1, 2, 3], exact=False
        ),
        "linear_bernoulli_log_prob, stored": Call(
            partial(iw.linear_bernoulli_log_prob, recompute=False),
            lambda: linear(k, batch, 200, features),
            [1, 2, 3],
            exact=False,
        ),
        "linear_bernoulli_iwae_loss": Call(
            iw.linear_bernoulli_iwae_loss,
            lambda: [*linear(k, batch, 200, features), *normal((k, batch))],
            [1, 2, 3, 4],
            exact=False,
        ),
    }


SMALL, MANY, LARGE = calls(5, 20, 784), calls(5, 300, 784), calls(50, 256, 784)
"""Few observations and many, which take different kernels; and as much as the papers' networks see at most."""

each_op = pytest.mark.parametrize("name", SMALL)
few_and_many = pytest.mark.parametrize("ops", [SMALL, MANY], ids=["few", "many"])


def loss_inputs(k: int = 50, batch: int = 20, features: int = 784) -> list[Tensor]:
    return calls(k, batch, features)["bernoulli_iwae_loss"].tensors()


@pytest.fixture
def synchronization_is_an_error() -> Iterator[Callable[[], None]]:
    """Make synchronization an error from the call on; compiling or loading before it may synchronize."""
    yield partial(torch.cuda.set_sync_debug_mode, "error")
    torch.cuda.set_sync_debug_mode("default")


def test_who_serves_cuda_tensors() -> None:
    content = iw.backends.info()["serving"]
    for op, rule in serving.RULES.items():
        for elements, told in zip((1, 2**40), (content[op][0], content[op][-1]), strict=True):
            best = next(name for name in rule.order(elements) if MISSING[name] is None)
            assert iw.backends.choose(None, (torch.ones(3, device="cuda"),), op, (elements,)) == told["backend"] == best


def test_importing_initialises_nothing() -> None:
    code = (
        "import sys, torch, iwae_fast\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'iwae_fast.kernels' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# When and where kernels run


@few_and_many
@each_op
@per_backend
def test_no_op_waits_for_the_device(
    backend: str, name: str, ops: dict[str, Call], synchronization_is_an_error: Callable[[], None]
) -> None:
    call = ops[name]
    tensors = call.tensors()
    call.step(tensors, backend)
    synchronization_is_an_error()
    call.step(tensors, backend)
    call.step(tensors, backend, factor=1.0)


@per_backend
def test_chosen_samples_and_sums_of_losses_never_wait_for_the_device(
    backend: str, synchronization_is_an_error: Callable[[], None]
) -> None:
    inputs = loss_inputs()
    mean, log_std = (torch.randn(20, 50, device="cuda").requires_grad_() for _ in range(2))
    seed = torch.zeros((), dtype=torch.int64, device="cuda")
    samples = torch.randint(5000, (20, 50), device="cuda").T

    def step() -> None:
        loss = iw.bernoulli_iwae_loss(*inputs, backend=backend)
        for chosen in (None, samples):
            drawn = iw.sample_gaussian(mean, log_std, 50, seed, sample_indices=chosen, backend=backend)
            loss = loss + sum(t.sum() for t in drawn)
        loss.backward()

    step()
    synchronization_is_an_error()
    step()


@few_and_many
@each_op
@per_backend
def test_every_op_is_captured_and_replayed_on_other_numbers(backend: str, name: str, ops: dict[str, Call]) -> None:
    call = ops[name]
    tensors = call.tensors()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call.step(tensors, backend)  # compiles
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = call.step(tensors, backend)
    for _ in range(2):
        with torch.no_grad():
            for tensor, fresh in zip(tensors, call.inputs(), strict=True):
                tensor.copy_(fresh)
        graph.replay()
        call.assert_same(captured, call.step(tensors, backend))


@each_op
@per_backend
def test_another_stream(backend: str, name: str) -> None:
    """Run on another stream, whose inputs are written just before, after long-running work."""
    call = SMALL[name]
    tensors = call.tensors()
    expected = call.step(tensors, backend)
    busy = torch.randn(4096, 4096, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(20):
            busy = torch.mm(busy, busy).clamp(-1.0, 1.0)
        copies = [t.detach().clone().requires_grad_(t.requires_grad) for t in tensors]
        found = call.step(copies, backend)
    stream.synchronize()
    call.assert_same(found, expected)


@each_op
@per_backend
def test_another_device(backend: str, name: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    call = SMALL[name]
    tensors = call.tensors()
    expected = call.step(tensors, backend)
    there = [t.detach().to("cuda:1").requires_grad_(t.requires_grad) for t in tensors]
    found = call.step(there, backend)
    assert {t.device.index for t in found} == {1}
    assert torch.cuda.current_device() == 0
    call.assert_same([t.to("cuda:0") for t in found], expected)


@each_op
@per_backend
def test_another_thread(backend: str, name: str) -> None:
    call = SMALL[name]
    tensors = call.tensors()
    expected = call.step(tensors, backend)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: call.step(tensors, backend), range(8)):
            torch.cuda.synchronize()
            call.assert_same(found, expected)


@per_backend
def test_captured_graph_draws_fresh_noise_from_a_seed_on_the_device(backend: str) -> None:
    mean, log_std = torch.randn(2, 20, 50, device="cuda").unbind()
    seed = torch.tensor(1, device="cuda")
    iw.sample_gaussian(mean, log_std, 5, seed, backend=backend)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = iw.sample_gaussian(mean, log_std, 5, seed, backend=backend)
    for number in (1, 2):
        seed.fill_(number)
        graph.replay()
        fresh = iw.sample_gaussian(mean, log_std, 5, number, backend=backend)
        torch.testing.assert_close(captured, fresh, rtol=0, atol=0)


# What they compute


@few_and_many
@each_op
@per_backend
def test_same_bits_again(backend: str, name: str, ops: dict[str, Call]) -> None:
    call = ops[name]
    tensors = call.tensors()
    first = call.step(tensors, backend)
    for _ in range(3):
        torch.testing.assert_close(call.step(tensors, backend), first, rtol=0, atol=0)


DENSITIES = [name for name in SMALL if name.split(",")[0] in density_ops.LOG_PROBS]


@each_op
@per_backend
def test_full_size_is_no_worse_than_torch(backend: str, name: str) -> None:
    call = LARGE[name]
    tensors = call.tensors()
    doubles = [t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t for t in tensors]
    ours, eager = call.step(tensors, backend, 1.0), call.step(tensors, "reference", 1.0)
    exact = call.step(doubles, "reference", 1.0)
    results = len(exact) - len(call.leaves)
    nats = float(exact[results - 1].abs().max())  # a log-weight's error is a relative one of the weights
    features = tensors[0].shape[-1]
    for our, eag, exa in zip(ours[:results], eager, exact, strict=False):
        allowance = 4 * tolerances.ROUNDING[torch.float32] * (float(exa.abs().max()) + 4 * features)
        if name in DENSITIES:
            terms = call.function(*(t.detach().unsqueeze(-1) for t in doubles), backend="reference")
            allowance = tolerances.sum_allowance(torch.float32, terms)
        tolerances.assert_no_worse(our, eag, exa, allowance)
    for our, eag, exa in zip(ours[results:], eager[results:], exact[results:], strict=True):
        largest = float(exa.abs().max()) * (1.0 if name in DENSITIES else 1.0 + nats + 4 * features)
        allowance = tolerances.gradient_allowance(torch.float32, torch.float32, exa, largest)
        tolerances.assert_no_worse(our, eag, exa, allowance)


EDGES = [0.0, 1e-45, 1e-39, 1e-30, 1e-7, 0.5, 1.0, 16.0, 17.5, 60.0, 87.5, 88.8, 89.5, 103.0, 104.5, 1e3, 1e4, 3e38]
"""Subnormal numbers, and those around which an exponential leaves the normal and then all float32 numbers."""


@per_backend
def test_logits_at_the_edges(backend: str) -> None:
    """Test the GPU's exponentials, reciprocals and logarithms, one entry per row."""
    logits = torch.tensor([sign * edge for edge in EDGES for sign in (1.0, -1.0)], device="cuda")[:, None]
    for value in (0.0, 1.0, 0.3):
        _assert_no_worse_at_the_edges(iw.bernoulli_log_prob, [torch.full_like(logits, value), logits], [1], backend)


@per_backend
def test_scales_at_the_edges(backend: str) -> None:
    """Test values equal to their means, for scales whose reciprocal is representable in float32."""
    log_std = torch.tensor([-100.0, -88.0, -60.0, -40.0, -1e-39, 0.0, 40.0, 60.0, 88.0, 100.0], device="cuda")[:, None]
    for distance in (1.0, 1e-3, 1e-20, -7.0):
        value = torch.full_like(log_std, distance)
        _assert_no_worse_at_the_edges(iw.gaussian_log_prob, [value, torch.zeros_like(value), log_std], [0, 1], backend)
    at_mean = [torch.ones_like(log_std[3:]), torch.ones_like(log_std[3:]), log_std[3:]]
    _assert_no_worse_at_the_edges(iw.gaussian_log_prob, at_mean, [0, 1, 2], backend)


def _assert_no_worse_at_the_edges(
    function: Callable[..., Tensor], inputs: list[Tensor], leaves: list[int], backend: str
) -> None:
    call = Call(function, lambda: [t.clone() for t in inputs], leaves)
    doubles = [t.double().requires_grad_(index in leaves) for index, t in enumerate(inputs)]
    ours, eager = call.step(call.tensors(), backend, 1.0), call.step(call.tensors(), "reference", 1.0)
    exact = call.step(doubles, "reference", 1.0)
    allowance = tolerances.sum_allowance(torch.float32, exact[0][:, None])
    tolerances.assert_no_worse(ours[0], eager[0], exact[0], allowance)
    for our, eag, exa in zip(ours[1:], eager[1:], exact[1:], strict=True):
        # Each entry has an allowance of its own: their sizes differ by many powers of ten.
        allowance = tolerances.gradient_allowance(torch.float32, torch.float32, exa, 1.0)
        tolerances.assert_no_worse(our, eag, exa, allowance)


@per_backend
def test_log_weights_at_the_edges(backend: str) -> None:
    columns = torch.tensor(
        [
            [-torch.inf, -torch.inf, -torch.inf],
            [-torch.inf, 0.0, -torch.inf],
            [1e4, 1e4 - 1.0, 1e4 - 200.0],
            [-1e4, -1e4 - 88.0, -1e4 - 104.0],
            [1e-40, 0.0, -1e-40],
            [torch.nan, 0.0, 0.0],
        ],
        device="cuda",
    ).T.contiguous()
    (ours, gradient), (exact, exact_gradient) = (
        Call(iw.log_mean_exp, lambda t=t: [t.clone()], [0]).step([t.clone().requires_grad_()], name, 1.0)
        for t, name in ((columns, backend), (columns.double(), "reference"))
    )
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-6, atol=1e-6, equal_nan=True)
    for observations in (2, 200):  # in a launch of their own, and together with the likelihood
        log_ratio = columns.repeat(1, observations)
        zeros = torch.zeros(3, log_ratio.shape[1], 4, device="cuda")
        loss, _, gradient = Call(partial(iw.bernoulli_iwae_loss, reduction="none"), list, [1, 2]).step(
            [zeros[0], zeros.clone().requires_grad_(), log_ratio.clone().requires_grad_()], backend, 1.0
        )
        expected = 4 * torch.tensor(2.0).log().item() - exact
        torch.testing.assert_close(loss.double(), expected.repeat(observations), rtol=1e-6, atol=1e-6, equal_nan=True)
        wanted = -exact_gradient.repeat(1, observations)
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


# More than 2^31 elements: what lies behind them against the same rows alone


@pytest.fixture
def enough_memory() -> Iterator[Callable[[int], None]]:
    """Skip the test unless this many bytes are free; return them to other processes afterwards."""

    def check(size: int) -> None:
        if torch.cuda.mem_get_info()[0] < size:
            pytest.skip(f"less than {size / 1e9:.0f} GB of the GPU's memory are free")

    yield check
    torch.cuda.empty_cache()


@per_backend
def test_more_elements_of_a_density_than_32_bits_count(backend: str, enough_memory: Callable[[int], None]) -> None:
    rows, features = 2**31 // 1024 + 100, 1024
    enough_memory(5 * rows * features)
    logits = torch.empty(rows, features, dtype=torch.bfloat16, device="cuda").normal_().requires_grad_()
    value = torch.ones(features, device="cuda")
    result = iw.bernoulli_log_prob(value, logits, backend=backend)
    (gradient,) = torch.autograd.grad(result.sum(), logits)
    last = logits[-50:].detach().requires_grad_()
    expected = iw.bernoulli_log_prob(value, last, backend=backend)
    torch.testing.assert_close(result[-50:], expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient[-50:], torch.autograd.grad(expected.sum(), last)[0], rtol=0, atol=0)


@per_backend
def test_more_elements_of_a_loss_than_32_bits_count(backend: str, enough_memory: Callable[[int], None]) -> None:
    observations, features = 2**20 + 100, 1024
    enough_memory(9 * 2 * observations * features)
    loss = partial(iw.bernoulli_iwae_loss, reduction="none", backend=backend)
    logits = torch.empty(2, observations, features, device="cuda").normal_().requires_grad_()
    value, log_ratio = torch.ones(features, device="cuda"), torch.randn(2, observations, device="cuda")
    result = loss(value, logits, log_ratio)
    (gradient,) = torch.autograd.grad(result.sum(), logits)
    last = logits[:, -200:].detach().requires_grad_()
    expected = loss(value, last, log_ratio[:, -200:])
    torch.testing.assert_close(result[-200:], expected)
    torch.testing.assert_close(gradient[:, -200:], torch.autograd.grad(expected.sum(), last)[0])


@per_backend
def test_more_samples_than_32_bits_count(backend: str, enough_memory: Callable[[int], None]) -> None:
    k, observations, latents = 4, 2**20 + 100, 512
    enough_memory(9 * k * observations * latents)
    seed = torch.tensor(5, device="cuda")
    mean, log_std = (torch.empty(observations, latents, device="cuda").normal_() for _ in range(2))
    leaves = [mean.requires_grad_(), log_std.mul_(0.1).requires_grad_()]
    z, log_ratio = iw.sample_gaussian(*leaves, k, seed, backend=backend)
    gradients = torch.autograd.grad(log_ratio.sum(), leaves)
    last = [t[-50:].detach().requires_grad_() for t in leaves]
    offset = observations - 50
    few, few_ratios = iw.sample_gaussian(*last, k, seed, observation_offset=offset, backend=backend)
    torch.testing.assert_close((z[:, -50:], log_ratio[:, -50:]), (few, few_ratios))
    expected = torch.autograd.grad(few_ratios.sum(), last)
    torch.testing.assert_close([g[-50:] for g in gradients], list(expected))


# With the rest of torch


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@per_backend
def test_autocast(backend: str, dtype: torch.dtype) -> None:
    decoder = torch.nn.Linear(50, 784, device="cuda")
    z, value = torch.randn(5, 20, 50, device="cuda"), pixels(20, 784)
    log_ratio = torch.zeros(5, 20, device="cuda")
    with torch.autocast("cuda", dtype=dtype):
        logits = decoder(z)
        loss = iw.bernoulli_iwae_loss(value, logits, log_ratio, backend=backend)
        fused = iw.linear_bernoulli_iwae_loss(value, z, decoder.weight, decoder.bias, log_ratio, backend=backend)
    assert logits.dtype == dtype
    assert loss.dtype == torch.float32
    torch.testing.assert_close(fused, loss, rtol=2e-3, atol=0.0)
    (loss + fused).backward()
    assert decoder.weight.grad.isfinite().all()


@per_backend
def test_models_train_on_the_gpu(backend: str) -> None:
    model = iw.models.DenseVAE(784, (50,), backend=backend).cuda()
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=8)
    optimizer = torch.optim.Adam(model.parameters())
    x = pixels(20, 784)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = objective(model, x)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("options", [{}, {"budget": 3}, {"chunk_size": 4}], ids=str)
@pytest.mark.parametrize("estimator", ["reparameterized", "dreg", "gdreg", "rws", "vimco"])
@per_backend
def test_objectives_never_wait_for_the_device_and_agree_with_the_cpu(
    backend: str, estimator: str, options: dict, synchronization_is_an_error: Callable[[], None]
) -> None:
    sizes = (64, (8, 4), ((16,), (8,)))
    model, x = iw.models.DenseVAE(*sizes), torch.rand(5, 64).round()
    objective = iw.Objective(iw.bounds.IWAE(), estimator, num_samples=10, **options)

    def step(model: iw.models.DenseVAE, x: Tensor, seed: Tensor) -> list[Tensor]:
        loss = objective(model, x, seed=seed)
        return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

    expected = step(model, x, torch.tensor(3))
    there = iw.models.DenseVAE(*sizes, backend=backend).cuda()
    there.load_state_dict(model.state_dict())
    x, seed = x.cuda(), torch.tensor(3, device="cuda")
    step(there, x, seed)  # compiles
    torch.cuda.synchronize()
    synchronization_is_an_error()
    found = step(there, x, seed)
    torch.cuda.set_sync_debug_mode("default")
    # The sample that a budget draws may be another where two are as good as equal.
    compared = 1 if "budget" in options else None
    for ours, theirs in zip(found[:compared], expected[:compared], strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-4)


@per_backend
def test_compiles_as_one_graph(backend: str) -> None:
    inputs = loss_inputs(k=5)
    compiled = torch.compile(lambda *t: iw.bernoulli_iwae_loss(*t, backend=backend) * 2.0, fullgraph=True)
    expected = iw.bernoulli_iwae_loss(*inputs, backend=backend) * 2.0
    torch.testing.assert_close(compiled(*inputs), expected)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*inputs), inputs[1:]), torch.autograd.grad(expected, inputs[1:])
    )


def linear_inputs(k: int = 50, batch: int = 20, width: int = 200, features: int = 784) -> list[torch.Tensor]:
    value = torch.rand(batch, features, device="cuda").round()
    hidden = torch.randn(k, batch, width, device="cuda").tanh()
    weight, bias = torch.randn(features, width, device="cuda") / width**0.5, torch.randn(features, device="cuda")
    return [value, *(t.requires_grad_() for t in (hidden, weight, bias))]


def linear_step(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    result = iw.linear_bernoulli_log_prob(*inputs)
    return [result.detach(), *torch.autograd.grad(result.sum(), inputs[1:])]


@pytest.mark.parametrize("batch", [20, 1024])
@pytest.mark.parametrize(("precision", "allowed"), [("ieee", 2e-6), ("tf32", 2e-3)])
def test_linear_layer_keeps_the_digits_that_torch_is_told_to(precision: str, allowed: float, batch: int) -> None:
    inputs = linear_inputs(batch=batch)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        ours = linear_step(inputs)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    exact = iw.linear_bernoulli_log_prob(*doubles, backend="reference")
    exact_grads = torch.autograd.grad(exact.sum(), doubles[1:])
    for our, exa in zip(ours, (exact, *exact_grads), strict=True):
        assert (our.double() - exa).abs().max() <= allowed * exa.abs().max()


def test_captured_linear_layer_without_memory_for_its_logits() -> None:
    inputs = linear_inputs(batch=1024)
    eager = linear_step(inputs)
    torch.testing.assert_close(linear_step(inputs), eager, rtol=0, atol=0)
    torch.cuda.reset_peak_memory_stats()
    results = linear_step(inputs)
    # Results are counted as the allocator counts them: it gives the hidden layer's gradient of 40,960,000 bytes 20
    # pages of 2 MiB, and leaves what is below 1 MiB of them unused.
    beside_results = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    torch.testing.assert_close(results, eager, rtol=0, atol=0)
    logits = 50 * 1024 * 784 * 4
    assert beside_results < logits / 8
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = linear_step(inputs)
    graph.replay()
    torch.testing.assert_close(captured, eager, rtol=0, atol=0)
