"""Tests of the adapter for modules of scvi-tools: of a module with its interface, and of scvi-tools where installed."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from linear_gaussian import exact_log_likelihood, linear_gaussian
from torch import Tensor, nn
from torch.distributions import Normal

import iwae_fast as iw
from iwae_fast.contrib.scvi import FromSCVI

FIELDS = ("value", "std_error", "ess", "pareto_k")


class LinearGaussianModule(nn.Module):
    """A module with the interface of scvi-tools' VAE whose p(x | batch) is known: the batch shifts x."""

    def __init__(self, latent_library: bool = False) -> None:
        super().__init__()
        self.model = linear_gaussian()
        self.latent_library = latent_library
        self.calls = 0

    def _get_inference_input(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": tensors["X"], "batch_index": tensors["batch"]}

    def inference(self, x: Tensor, batch_index: Tensor) -> dict[str, Any]:
        self.calls += 1
        mean, log_std = self.model.encoder(x - batch_index)
        ql = Normal(torch.full_like(mean[:, :1], 0.25), 1.3) if self.latent_library else None
        return {"z": mean, "qz": Normal(mean, 1.2 * log_std.exp()), "ql": ql, "library": torch.zeros_like(mean[:, :1])}

    def _get_generative_input(self, tensors: dict[str, Tensor], outputs: dict[str, Any]) -> dict[str, Tensor]:
        return {"z": outputs["z"], "library": outputs["library"], "batch_index": tensors["batch"]}

    def generative(self, z: Tensor, library: Tensor, batch_index: Tensor) -> dict[str, Any]:
        assert library.shape[:2] == z.shape[:2]
        mean, log_std = self.model.decoder(z)
        pl = Normal(torch.zeros_like(library[0]), 1.0) if self.latent_library else None
        px = Normal(mean + batch_index + 0.1 * library, log_std.exp())
        return {"px": px, "pl": pl, "pz": Normal(torch.zeros_like(z), 1.0)}


def batches(size: int, count: int = 11) -> list[dict[str, Tensor]]:
    """Return mappings of so many cells, without the tensors that scvi-tools leaves out."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, 7, dtype=torch.float64, generator=generator)
    batch = torch.arange(count, dtype=torch.float64)[:, None] % 3
    parts = zip(x.split(size), batch.split(size), strict=True)
    return [{"X": x, "batch": b, "cat_covs": None} for x, b in parts]


def test_a_module_gives_the_closed_form() -> None:
    module = LinearGaussianModule()
    (whole,) = batches(11)
    exact = exact_log_likelihood(module.model, whole["X"] - whole["batch"])
    found = iw.evaluate.log_likelihood(FromSCVI(module), batches(4), 2000, seed=1)
    assert ((found.value - exact).abs() < 5 * found.std_error).all()
    assert (found.pareto_k < 0.5).all()
    assert module.calls == 1  # the encoder runs once per chunk of cells, of all three batches


def test_a_latent_library_size_is_part_of_the_weights() -> None:
    """Compare with the closed form of p(x) where a tenth of the library size, a standard normal, is added to x."""
    module = LinearGaussianModule(latent_library=True)
    (whole,) = batches(11)
    decoder = module.model.decoder
    with torch.no_grad():
        covariance = decoder.weight @ decoder.weight.T + torch.diag((2 * decoder.log_std).exp()) + 0.01
        exact = torch.distributions.MultivariateNormal(decoder.bias, covariance).log_prob(whole["X"] - whole["batch"])
    found = iw.evaluate.log_likelihood(FromSCVI(module), batches(4), 20000, seed=1)
    assert ((found.value - exact).abs() < 5 * found.std_error).all()
    assert found.std_error.max() < 0.2


def test_the_result_depends_on_neither_chunks_nor_batches() -> None:
    for latent_library in (False, True):
        source = FromSCVI(LinearGaussianModule(latent_library))
        whole = iw.evaluate.log_likelihood(source, batches(11), 100, 100, seed=3)
        for size, chunk_size in ((3, 7), (11, None), (1, 1)):
            found = iw.evaluate.log_likelihood(source, batches(size), 100, chunk_size, seed=3)
            for name in FIELDS:
                torch.testing.assert_close(getattr(found, name), getattr(whole, name))


def without(name: str) -> nn.Module:
    module = LinearGaussianModule()
    generative = module.generative
    module.generative = lambda **inputs: {**generative(**inputs), name: None}  # type: ignore[method-assign]
    return module


def with_distribution(name: str) -> nn.Module:
    module = LinearGaussianModule()
    module.latent_distribution = name
    return module


@pytest.mark.parametrize(
    ("module", "x", "error", "message"),
    [
        (lambda: nn.Linear(2, 2), None, TypeError, "module must be one of scvi-tools, .* got Linear, .* inference"),
        (lambda: with_distribution("ln"), None, ValueError, "latent_distribution 'normal', got 'ln'"),
        (lambda: without("px"), batches(4), ValueError, "a distribution 'px', got 'px', 'pl', 'pz'"),
        (LinearGaussianModule, batches(4)[0]["X"], TypeError, "x must be a loader of mappings with 'X', .* got Tensor"),
        (LinearGaussianModule, [torch.zeros(2, 7)], TypeError, "mappings with 'X', but batch 0 is Tensor"),
        (LinearGaussianModule, [{"batch": torch.zeros(2, 1)}], TypeError, "but batch 0 is a mapping with 'batch'"),
        (LinearGaussianModule, [batches(4)[0], {"X": torch.zeros(2, 7)}], ValueError, "but batch 1 has .*, not "),
    ],
)
def test_what_does_not_fit_is_refused(
    module: Callable[[], nn.Module], x: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        iw.evaluate.log_likelihood(FromSCVI(module()), x, 10)


def test_a_tensor_after_a_loader_is_refused() -> None:
    source = FromSCVI(LinearGaussianModule())
    iw.evaluate.log_likelihood(source, batches(4), 10)
    with pytest.raises(TypeError, match="x must be a loader of mappings"):
        iw.evaluate.log_likelihood(source, batches(4)[0]["X"], 10)


@pytest.mark.skipif(importlib.util.find_spec("scvi") is None, reason="scvi-tools is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("observed_library", [True, False])
def test_a_module_of_scvi_tools(observed_library: bool) -> None:
    """Compare with scvi-tools' own estimate, for numbers of samples that its passes divide."""
    import anndata
    import numpy as np
    import scvi

    scvi.settings.seed = 0
    numbers = np.random.default_rng(0)
    data = anndata.AnnData(numbers.poisson(3.0, (40, 12)).astype("float32"), obs={"batch": np.array(["a", "b"] * 20)})
    scvi.model.SCVI.setup_anndata(data, batch_key="batch")
    model = scvi.model.SCVI(data, n_hidden=16, n_latent=3, use_observed_lib_size=observed_library)
    model.module.eval()
    if not observed_library:  # an untrained q(l | x) is far from p(l), and no number of samples would be enough
        with torch.no_grad():
            for layer, moments in (("mean_encoder", "library_log_means"), ("var_encoder", "library_log_vars")):
                target = getattr(model.module, moments).mean()
                getattr(model.module.l_encoder, layer).weight.zero_()
                getattr(model.module.l_encoder, layer).bias.fill_(target.log() if "var" in layer else target)
    loader = model._make_data_loader(adata=data, batch_size=15)
    found = iw.evaluate.log_likelihood(FromSCVI(model.module), loader, 2000, seed=1)
    own = model.get_marginal_ll(n_mc_samples=4000, n_mc_samples_per_pass=400, return_mean=False)
    assert (found.pareto_k < 0.7).all()
    difference = (found.value - own) / found.std_error
    assert difference.abs().max() < 6.0
    assert abs(difference.mean().item()) < 4.0 * math.sqrt(1.5 / 40)
