"""Tests of the likelihood of models that are not the package's, on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import iwae_fast as iw
from iwae_fast.evaluate import FromDistributions, FromDraws

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


class Pair(nn.Module):
    """A model of x = z + noise with a proposal that is too wide."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(1, 1)

    def posterior(self, x: Tensor) -> Normal:
        return Normal(self.mean(x), 1.0)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        return (Normal(0.0, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(x)).sum(-1)

    def draw(self, x: Tensor, num_samples: int, _: int) -> Tensor:
        q = self.posterior(x)
        z = q.sample((num_samples,))
        return self.log_joint(x, z) - q.log_prob(z).sum(-1)


def test_draws_are_seeded_and_batches_are_moved() -> None:
    pair, x = Pair().cuda(), torch.linspace(-2.0, 2.0, 300)[:, None]
    exact = Normal(0.0, 2.0**0.5).log_prob(x).squeeze(-1).double().cuda()
    sources = FromDraws(pair.draw), FromDistributions(pair.posterior, pair.log_joint)
    for source in sources:
        before = torch.cuda.get_rng_state()
        found = iw.evaluate.log_likelihood(source, x.cuda(), 2000, seed=1)
        assert torch.equal(torch.cuda.get_rng_state(), before)
        assert ((found.value - exact).abs() < 6 * found.std_error).all()
        again = iw.evaluate.log_likelihood(source, x.split(64), 2000, seed=1)  # a loader's batches are on the CPU
        torch.testing.assert_close(again.value, found.value)
    with pytest.raises(ValueError, match="on the device of x, cuda:0, got cpu"):
        iw.evaluate.log_likelihood(lambda x, k, seed: torch.zeros(k, len(x)), x.cuda(), 10)
