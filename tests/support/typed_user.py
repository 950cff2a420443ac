"""A user's program with the public interface, for type checkers in strict mode: it is checked, and is also run.

``assert_type`` makes a checker refuse a result that it sees as Any or as another type.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import assert_type

import iwae_fast as iw
from iwae_fast.evaluate import LogLikelihood
from iwae_fast.evaluate.gradient_snr import SignalToNoise
from iwae_fast.models import DenseVAE, Prior


class Laplace(Prior):
    """A prior of one's own, with learned scales."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def log_prob(self, z: Tensor) -> Tensor:
        return (-(z.abs() * torch.exp(-self.log_scale)) - self.log_scale).sum(-1)

    def sample(self, num_samples: int) -> Tensor:
        return torch.zeros(num_samples, len(self.log_scale))


def ops(x: Tensor, logits: Tensor, log_ratio: Tensor) -> Tensor:
    """Call ops by their public names."""
    loss = assert_type(iw.bernoulli_iwae_loss(x, logits, log_ratio), Tensor)
    log_weights = assert_type(iw.bernoulli_log_prob(x, logits, backend="reference"), Tensor) + log_ratio
    weights = assert_type(iw.normalized_weights(log_weights, 0), Tensor)
    noise = assert_type(iw.standard_normal((2, len(x), 3), seed=0), Tensor)
    z, ratio = iw.sample_gaussian(noise[0], noise[1], num_samples=5, seed=0)
    assert_type(z, Tensor)
    assert_type(ratio, Tensor)
    size = iw.effective_sample_size(log_weights, 0)
    return loss + iw.log_mean_exp(log_weights, 0).mean() + size.mean() + weights.sum()


def train(x: Tensor, model: DenseVAE) -> iw.Objective:
    """Train for two steps: in a loop of one's own, and by a captured step."""
    objective = iw.Objective(iw.bounds.VRIWAE(alpha=0.5), "dreg", num_samples=5, budget=2)
    optimizer = iw.optim.Adam(model.parameters(), lr=1e-3, max_norm=1.0)
    loss = assert_type(objective(model, x, seed=0), Tensor)
    torch.autograd.backward(loss)  # torch does not declare the types of Tensor.backward
    optimizer.step()
    objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=5)
    step = iw.CapturedStep(objective, model, optimizer, seed=0)
    assert_type(step(x), Tensor)
    assert_type(step.reason, str | None)
    assert_type(step.objective.num_samples, int)
    return objective


def evaluate(x: Tensor, model: DenseVAE, objective: iw.Objective) -> float:
    """Evaluate and prune a model, and look at the gradients of an estimator."""
    found = assert_type(iw.evaluate.log_likelihood(model, x, num_samples=20, seed=0), LogLikelihood)
    assert_type(found.value, Tensor)
    units = iw.activity.active_units(model, x)
    assert_type(iw.pruning.without_units(model, units.active), DenseVAE)
    ratios = iw.gradient_snr(objective, model, x, num_draws=3)
    assert_type(ratios, dict[str, SignalToNoise])
    return found.mean


def parallel(objective: iw.Objective, model: DenseVAE, mesh: DeviceMesh, x: Tensor) -> Tensor:
    """Bind a model to a mesh, for a wrapper of torch."""
    module = DistributedDataParallel(objective.bind(model, mesh=mesh))
    loss = module(x, seed=0)
    assert isinstance(loss, Tensor)
    return loss


def with_pyro() -> object:
    """Make an objective for Pyro, which has no types of its own."""
    from iwae_fast.contrib.pyro import IWAE_ELBO

    return IWAE_ELBO(num_particles=50, bound=iw.bounds.IWAE(), estimator="dreg", max_plate_nesting=1)


def main() -> None:
    """Run everything that needs one process."""
    x = torch.rand(8, 12).round()
    ops(x, torch.randn(5, 8, 12), torch.randn(5, 8))
    own_prior = DenseVAE(12, (3,), ((8,),), prior=Laplace(3), likelihood=iw.likelihoods.Bernoulli())
    objective = train(x, own_prior)
    print(evaluate(x, DenseVAE(12, (3,), ((8,),)), objective))


if __name__ == "__main__":
    main()
