from __future__ import annotations

import pytest
import torch
from linear_gaussian import linear_gaussian
from torch import Tensor, nn

import iwae_fast as iw


class ConvolutionalEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.net(x).chunk(2, -1)  # strided views
        return mean, log_std


def test_anybodys_modules_and_image_shapes() -> None:
    decoder = nn.Sequential(nn.Linear(5, 64), nn.Unflatten(1, (1, 8, 8)))
    model = iw.models.VAE(ConvolutionalEncoder(), decoder, latent_dim=5)
    x = torch.rand(3, 1, 8, 8)
    iw.Objective(iw.bounds.IWAE(), num_samples=4)(model, x).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.reconstruct(x).shape == x.shape
    assert model.sample(6).shape == (6, 1, 8, 8)
    assert model.log_weights(x, 4).shape == (4, 3)


def test_log_weights_are_the_densities_written_out() -> None:
    model, x = iw.models.DenseVAE(16, (4,), (8,)).double(), torch.rand(5, 16, dtype=torch.float64)
    mean, log_std = model.encode(x)
    z = mean + log_std.exp() * iw.standard_normal((3, 5, 4), 9, dtype=torch.float64)
    expected = (
        torch.distributions.Bernoulli(logits=model.decoder(z), validate_args=False).log_prob(x).sum(-1)
        + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        - torch.distributions.Normal(mean, log_std.exp()).log_prob(z).sum(-1)
    )
    torch.testing.assert_close(model.log_weights(x, 3, 9), expected)


class HeavyTailed(nn.Module):
    def forward(self, x: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Cauchy(x[:, :2], torch.ones(len(x), 2))


def test_encode_returns_posteriors_of_public_classes() -> None:
    """Check the table in docs/models.md."""
    x = torch.rand(3, 6)
    gaussian = iw.models.DenseVAE(6, (2,), (5,)).encode(x)
    assert isinstance(gaussian, iw.models.DiagonalGaussian)
    mean, log_std = gaussian
    assert mean.shape == log_std.shape == (3, 2)
    sampled = iw.models.VAE(HeavyTailed(), nn.Linear(2, 6)).encode(x)
    assert isinstance(sampled, iw.models.SampledPosterior)
    assert isinstance(sampled.distribution, torch.distributions.Cauchy)
    binary = iw.models.BernoulliVAE(nn.Linear(6, 2), nn.Linear(2, 6), latent_dim=2).encode(x)
    assert isinstance(binary, iw.models.BernoulliPosterior)
    (logits,) = binary
    torch.testing.assert_close(binary.mean, logits.sigmoid())
    random = iw.models.RandomWeightsVAE(6, 2, (5,))
    torch.testing.assert_close(random.encode(x).x, x)
    assert random.posterior_mean(x).shape == (3, 2)


def test_paper_network() -> None:
    model = iw.models.DenseVAE(784)
    sizes = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(200, 784), (200, 200), (50, 200), (50, 200), (200, 50), (200, 200), (784, 200)]
    assert all((m.bias == 0).all() for m in model.modules() if isinstance(m, nn.Linear))


def test_output_bias_starts_at_the_mean_pixel() -> None:
    mean = torch.rand(16)
    mean[0], mean[1] = 0.0, 1.0
    model = iw.models.DenseVAE(16, (4,), (8,), data_mean=mean)
    torch.testing.assert_close(model.decoder.output.bias.sigmoid().detach(), mean.clamp(0.001, 0.999))


def test_forced_backend_reaches_the_kernels() -> None:
    model = iw.models.DenseVAE(16, (4,), (8,), backend="no-such")
    with pytest.raises(ValueError, match="unknown backend 'no-such'"):
        model.log_weights(torch.rand(2, 16), 1)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: iw.models.DenseVAE(16, (4, 2), (8,)), ValueError, "one tuple per stochastic layer, 2 in all"),
        (lambda: iw.models.DenseVAE(0), ValueError, "at least 1"),
        (lambda: iw.models.DenseVAE(16, data_mean=torch.rand(3)), ValueError, r"data_mean must be \(16,\)"),
        (lambda: iw.models.VAE(nn.Identity(), nn.Identity(), "poisson"), ValueError, "likelihood must be one of"),
    ],
)
def test_bad_arguments(build: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_networks_that_do_not_fit() -> None:
    x = torch.rand(3, 16)
    encoder = iw.models.DenseVAE(16, (4,), (8,)).encoder
    with pytest.raises(ValueError, match=r"logits \(6, 9\) do not fit observations \(3, 16\) with k = 2"):
        iw.models.VAE(encoder, nn.Linear(4, 9)).log_weights(x, 2)
    with pytest.raises(TypeError, match=r"encoder must return \(mean, log_std\), got Tensor"):
        iw.models.VAE(nn.Linear(16, 4), nn.Linear(4, 16)).log_weights(x, 2)
    with pytest.raises(TypeError, match=r"Gaussian decoder must return \(mean, log_std\), got Tensor"):
        iw.models.VAE(encoder, nn.Linear(4, 16), "gaussian").log_weights(x, 2)
    with pytest.raises(ValueError, match="give latent_dim"):
        iw.models.VAE(encoder, nn.Linear(4, 16)).sample(2)


def test_implicit_posterior_goes_from_q_to_the_posterior() -> None:
    """Expect q for k = 1, and the exact posterior for many samples (Cremer et al. 2017)."""
    model, x = linear_gaussian(), torch.randn(1, 7, dtype=torch.float64)
    mean, log_std = model.encode(x)
    exact_mean, exact_std = mean[0].detach(), log_std[0].exp().detach()
    with torch.no_grad():
        model.encoder.bias += 0.5 * exact_std
        model.encoder.log_std += 0.4
    many = x.expand(20_000, 7)
    q_mean, q_log_std = (t[0].detach() for t in model.encode(x))
    draws = model.sample_implicit_posterior(many, 1, seed=1)
    assert draws.shape == (20_000, 3)
    error = 5 * q_log_std.exp() / 20_000**0.5
    assert ((draws.mean(0) - q_mean).abs() < error).all()
    draws = model.sample_implicit_posterior(many, 200, seed=1)
    assert ((draws.mean(0) - exact_mean).abs() < 0.05 * exact_std).all()
    torch.testing.assert_close(draws.std(0), exact_std, rtol=0.05, atol=0)
    assert torch.equal(model.sample_implicit_posterior(x, 5, seed=2), model.sample_implicit_posterior(x, 5, seed=2))


@pytest.mark.parametrize("options", [{}, {"kl_weight": 0.3}, {"reduction": "sum", "dataset_size": 30}, {"mask": True}])
def test_a_linear_output_is_taken_in_one_with_the_loss_unless_hooks_want_to_see_it(options: dict) -> None:
    """Compare the results with and without hooks, with enough rows for the kernels of tanh layers."""
    torch.manual_seed(0)
    model, x = iw.models.DenseVAE(30, (5,), (200, 200)).double(), torch.rand(6, 30).round().double()
    mask = torch.rand(6, 30) < 0.7 if options.pop("mask", False) else None
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=40, **options)
    seen: list[tuple[int, ...]] = []

    def step() -> tuple[torch.Tensor, list[torch.Tensor], iw.objective.Diagnostics]:
        loss = objective(model, x, mask=mask, seed=3)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        assert objective.last is not None
        return loss.detach(), list(gradients), objective.last

    in_one = step()
    assert model.linear_decoder is model.decoder
    model.decoder.output.register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape)))
    assert model.linear_decoder is None
    in_parts = step()
    assert seen == [(240, 30)]
    torch.testing.assert_close(in_one, in_parts)


def test_a_decoder_that_is_compiled_is_called() -> None:
    model = iw.models.DenseVAE(12, (3,), (8,))
    model.decoder = torch.compile(model.decoder, backend="eager")  # type: ignore[assignment]
    assert model.linear_decoder is None
    iw.Objective(iw.bounds.IWAE(), num_samples=3)(model, torch.rand(4, 12)).backward()
    assert all(p.grad is not None for p in model.parameters())
