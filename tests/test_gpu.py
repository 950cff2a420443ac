"""What only a GPU shows. The contract tests of every op run there too, through tests/devices.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import iwae_fast as iw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def loss_inputs(k: int = 50, batch: int = 20, features: int = 784) -> list[torch.Tensor]:
    value = torch.rand(batch, features, device="cuda").round()
    logits = torch.randn(k, batch, features, device="cuda", requires_grad=True)
    log_ratio = torch.randn(k, batch, device="cuda", requires_grad=True)
    return [value, logits, log_ratio]


@pytest.fixture
def synchronization_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_triton_serves_cuda_tensors() -> None:
    assert iw.backends.info()["chosen"]["cuda"] == "triton"
    assert iw.backends.choose(None, (torch.ones(3, device="cuda"),)) == "triton"


def test_importing_initialises_nothing() -> None:
    code = (
        "import sys, torch, iwae_fast\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'iwae_fast.kernels' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loss_and_samples_never_wait_for_the_device(synchronization_is_an_error: None) -> None:
    inputs = loss_inputs()
    mean, log_std = (torch.randn(20, 50, device="cuda").requires_grad_() for _ in range(2))
    seed = torch.zeros((), dtype=torch.int64, device="cuda")
    samples = torch.randint(5000, (20, 50), device="cuda").T
    loss = iw.bernoulli_iwae_loss(*inputs)
    for chosen in (None, samples):
        loss = loss + sum(t.sum() for t in iw.sample_gaussian(mean, log_std, 50, seed, samples=chosen))
    loss.backward()


def test_captured_graph_draws_fresh_noise_from_a_seed_on_the_device() -> None:
    mean, log_std = torch.randn(2, 20, 50, device="cuda").unbind()
    seed = torch.tensor(1, device="cuda")
    iw.sample_gaussian(mean, log_std, 5, seed)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        z, log_ratio = iw.sample_gaussian(mean, log_std, 5, seed)
    for number in (1, 2):
        seed.fill_(number)
        graph.replay()
        torch.testing.assert_close((z, log_ratio), iw.sample_gaussian(mean, log_std, 5, number), rtol=0, atol=0)


def test_captured_training_step() -> None:
    inputs = loss_inputs()

    def step() -> list[torch.Tensor]:
        loss = iw.bernoulli_iwae_loss(*inputs)
        return [loss.detach(), *torch.autograd.grad(loss, inputs[1:])]

    eager = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.testing.assert_close(captured, eager, rtol=0, atol=0)


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


def test_linear_layer_never_waits_for_the_device(synchronization_is_an_error: None) -> None:
    linear_step(linear_inputs())


def test_captured_linear_layer_without_memory_for_its_logits() -> None:
    inputs = linear_inputs(batch=1024)
    eager = linear_step(inputs)
    torch.testing.assert_close(linear_step(inputs), eager, rtol=0, atol=0)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    linear_step(inputs)
    beside_results = torch.cuda.max_memory_allocated() - before - sum(t.nbytes for t in eager)
    logits = 50 * 1024 * 784 * 4
    assert beside_results < logits / 8
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = linear_step(inputs)
    graph.replay()
    torch.testing.assert_close(captured, eager, rtol=0, atol=0)


def test_another_stream() -> None:
    inputs = loss_inputs()
    expected = iw.bernoulli_iwae_loss(*inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        logits = inputs[1].detach().mul(1.0)  # on this stream, just before it is read
        result = iw.bernoulli_iwae_loss(inputs[0], logits, inputs[2])
    stream.synchronize()
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_another_device() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    inputs = [t.detach().to("cuda:1") for t in loss_inputs()]
    torch.testing.assert_close(iw.bernoulli_iwae_loss(*inputs).cpu(), iw.bernoulli_iwae_loss(*loss_inputs()).cpu())


def test_more_elements_than_32_bits_count() -> None:
    """Rows behind the 2^31st element, forward and backward, against the same rows alone."""
    rows, features = 2**31 // 1024 + 100, 1024
    if torch.cuda.mem_get_info()[0] < 5 * rows * features * 2:
        pytest.skip("not enough memory")
    logits = torch.empty(rows, features, dtype=torch.bfloat16, device="cuda").normal_().requires_grad_()
    value = torch.ones(features, device="cuda")
    result = iw.bernoulli_log_prob(value, logits)
    (gradient,) = torch.autograd.grad(result.sum(), logits)
    last = logits[-50:].detach().requires_grad_()
    expected = iw.bernoulli_log_prob(value, last)
    torch.testing.assert_close(result[-50:], expected, rtol=0, atol=0)
    torch.testing.assert_close(gradient[-50:], torch.autograd.grad(expected.sum(), last)[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    decoder = torch.nn.Linear(50, 784, device="cuda")
    z, value = torch.randn(5, 20, 50, device="cuda"), torch.rand(20, 784, device="cuda")
    with torch.autocast("cuda", dtype=dtype):
        logits = decoder(z)
        loss = iw.bernoulli_iwae_loss(value, logits, torch.zeros(5, 20, device="cuda"))
    assert logits.dtype == dtype
    assert loss.dtype == torch.float32
    loss.backward()
    assert decoder.weight.grad.isfinite().all()


def test_same_bits_again() -> None:
    inputs = [t.detach().requires_grad_() for t in loss_inputs(batch=300)]
    runs = []
    for _ in range(3):
        loss = iw.bernoulli_iwae_loss(*inputs)
        runs.append([loss.detach(), *torch.autograd.grad(loss, inputs)])
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=0, atol=0)


def test_the_reference_agrees_at_full_size() -> None:
    inputs = loss_inputs(batch=256)
    ours = iw.bernoulli_iwae_loss(*inputs)
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    exact = iw.bernoulli_iwae_loss(*doubles, backend="reference")
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=0)
    ours_grads = torch.autograd.grad(ours, inputs[1:])
    exact_grads = torch.autograd.grad(exact, doubles[1:])
    for our, exa in zip(ours_grads, exact_grads, strict=True):
        torch.testing.assert_close(our.double(), exa, rtol=1e-4, atol=1e-9)


def test_models_train_on_the_gpu() -> None:
    torch.manual_seed(0)
    model = iw.models.DenseVAE(784, (50,)).cuda()
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=8)
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.rand(20, 784, device="cuda").round()
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
def test_objectives_never_wait_for_the_device_and_agree_with_the_cpu(estimator: str, options: dict) -> None:
    torch.manual_seed(0)
    model, x = iw.models.DenseVAE(64, (8, 4), ((16,), (8,))), torch.rand(5, 64).round()
    objective = iw.Objective(iw.bounds.IWAE(), estimator, num_samples=10, **options)

    def step(x: torch.Tensor, seed: torch.Tensor) -> list[torch.Tensor]:
        loss = objective(model, x, seed=seed)
        return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

    expected = step(x, torch.tensor(3))
    model.cuda()
    x, seed = x.cuda(), torch.tensor(3, device="cuda")
    step(x, seed)  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = step(x, seed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # The sample that a budget draws may be another where two are as good as equal.
    compared = 1 if "budget" in options else None
    for ours, theirs in zip(found[:compared], expected[:compared], strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-4)


def test_compiles_as_one_graph() -> None:
    inputs = loss_inputs(k=5)
    compiled = torch.compile(lambda *t: iw.bernoulli_iwae_loss(*t) * 2.0, fullgraph=True)
    expected = iw.bernoulli_iwae_loss(*inputs) * 2.0
    torch.testing.assert_close(compiled(*inputs), expected)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*inputs), inputs[1:]), torch.autograd.grad(expected, inputs[1:])
    )
