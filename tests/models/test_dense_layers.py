"""Tests of the launches of a dense model's layers, and of the backend that a model forces on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import device_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import iwae_fast as iw
from iwae_fast.backends import BEST, NATIVE, REFERENCE
from iwae_fast.ops import linear

pytestmark = pytest.mark.skipif(NATIVE["triton"].unavailable() is not None, reason="Triton cannot run here")

WITHOUT_LAUNCH = {
    *("detach", "empty", "expand", "new_empty", "t", "transpose", "view", "_unsafe_view", "select", "slice"),
    *("linear_activation", "linear_activation_backward", "linear_heads", "linear_heads_backward"),
}
"""Operations that launch nothing on a GPU, or whose kernels are counted."""


class Launches(TorchDispatchMode):
    """A mode that counts torch's operations, each of which is at least one launch on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in WITHOUT_LAUNCH:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


class Counted:
    """A kernel of Triton whose launches are counted."""

    def __init__(self, kernel: Any, counts: Counter[str], name: str) -> None:
        self.kernel, self.counts, self.name = kernel, counts, name

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        self.counts[self.name] += 1
        return self.kernel[grid]


def launches(monkeypatch: pytest.MonkeyPatch, backend: str | None) -> tuple[Counter[str], list[Tensor]]:
    """Count the launches of a forward and a backward pass of the papers' hidden layers and heads."""
    from iwae_fast.kernels import linear_activation_backward, linear_activation_forward

    torch.manual_seed(1)
    model = iw.models.DenseVAE(784, backend=backend).to(device_of("triton"))
    x, z = torch.rand(20, 784, device=device_of("triton")), torch.randn(60, 50, device=device_of("triton"))
    mode = Launches()
    with monkeypatch.context() as patched:
        for file, name in (
            (linear_activation_forward, "forward_kernel"),
            (linear_activation_backward, "backward_kernel"),
            (linear_activation_backward, "sum_kernel"),
        ):
            patched.setattr(file, name, Counted(getattr(file, name), mode.counts, f"triton {name}"))
        with mode:
            outputs = [*model.encoder(x), model.decoder.features(z.requires_grad_())]
        leaves = [z, *model.encoder.parameters(), *model.decoder.hidden.parameters()]
        incoming = [torch.ones_like(output) for output in outputs]
        with mode:
            gradients = torch.autograd.grad(outputs, leaves, incoming)
    return mode.counts, [*(output.detach() for output in outputs), *gradients]


def test_a_layer_on_triton_is_one_launch_forward_and_one_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare six layers, of which two share an input and their launches, with torch's operations."""
    before, expected = launches(monkeypatch, "reference")
    after, found = launches(monkeypatch, "triton")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert after == Counter({"triton forward_kernel": 5, "triton backward_kernel": 5})
    assert before == Counter({"addmm": 6, "tanh": 4, "tanh_backward": 4, "mm": 11, "sum": 6, "add": 1})


def test_a_model_forces_triton_on_its_layers() -> None:
    model = iw.models.DenseVAE(6, (2, 2), ((3,), (4,)))
    layers = [module for module in model.modules() if isinstance(module, iw.models.dense.DenseLayer)]
    assert len(layers) == 10
    for backend in ("triton", None):
        model.backend = backend
        assert {layer.backend for layer in layers} == {backend}


@pytest.mark.parametrize("decoder_only", [False, True])
def test_objectives_on_triton_have_the_gradients_of_the_reference(decoder_only: bool) -> None:
    """Test a model whose layers, and whose likelihood's products, are Triton's kernels, with rows of weight 0."""
    torch.manual_seed(1)
    objective, model = iw.Objective(iw.bounds.IWAE(), num_samples=3), iw.models.DenseVAE(30, (8,), ((40,),))
    model.to(device_of("triton"))
    model.encoder.requires_grad_(not decoder_only)
    x, results = torch.rand(5, 30, device=device_of("triton")).round(), []
    for name in ("triton", "reference"):
        model.backend = name
        loss = objective(model, x, seed=1)
        parameters = [p for p in model.parameters() if p.requires_grad]
        results.append((loss.detach(), *torch.autograd.grad(loss, parameters)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(device_of("triton") != "cpu" or BEST["cpu"] == REFERENCE, reason="needs C++ and the interpreter")
@pytest.mark.parametrize("bound", [iw.bounds.IWAE(), iw.bounds.VRIWAE(0.5)], ids=str)
def test_triton_makes_the_gradients_of_another_backends_last_layer(
    monkeypatch: pytest.MonkeyPatch, bound: iw.bounds.Bound
) -> None:
    """Test a captured step of CUDA C++, whose last layer's products are Triton's, with the C++ of the CPU."""
    used = []
    backward = NATIVE["triton"].linear_activation_backward
    monkeypatch.setattr(
        NATIVE["triton"], "linear_activation_backward", lambda *a: used.append(len(a)) or backward(*a), raising=False
    )
    torch.manual_seed(1)
    objective, model = iw.Objective(bound, num_samples=3), iw.models.DenseVAE(30, (8,), ((40,),))
    x, results = torch.rand(5, 30).round(), []
    for backend, products in (("cpu", "triton"), ("reference", None)):
        monkeypatch.setattr(linear, "_products_backend", lambda *_, products=products: products)
        model.backend = backend
        loss = 3.0 * objective(model, x, seed=1)
        results.append((loss.detach(), *torch.autograd.grad(loss, list(model.parameters()), create_graph=True)))
        if products is not None:
            with pytest.raises(RuntimeError, match="second derivatives"):
                results[-1][-1].square().sum().backward()
    assert len(used) == 1
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
