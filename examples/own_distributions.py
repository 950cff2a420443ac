"""The likelihood of a model of your own, written with torch.distributions: trained here by a plain ELBO, without the
package, and evaluated with k-hat, which says whether the estimate can be trusted.

Run ``python examples/own_distributions.py``.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import iwae_fast as iw

features, latent = 10, 3
torch.manual_seed(0)
decoder, encoder = nn.Linear(latent, features), nn.Linear(features, 2 * latent)
truth = nn.Linear(latent, features).requires_grad_(False)
data = truth(torch.randn(1000, latent)) + 0.3 * torch.randn(1000, features)
train, test = data[:800], data[800:]

prior = Independent(Normal(torch.zeros(latent), torch.ones(latent)), 1)
noise = nn.Parameter(torch.zeros(()))  # the logarithm of the standard deviation of x


def posterior(x: Tensor) -> Independent:
    mean, log_std = encoder(x).chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


def likelihood(z: Tensor) -> Independent:
    return Independent(Normal(decoder(z), noise.exp()), 1)


def log_joint(x: Tensor, z: Tensor) -> Tensor:  # (k, B) for z (k, B, Z)
    return prior.log_prob(z) + likelihood(z).log_prob(x)


optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), noise], lr=1e-2)
model = iw.evaluate.FromDistributions(posterior, log_joint, modules=(encoder, decoder))
for step in range(601):
    if step in (0, 50, 600):
        found = iw.evaluate.log_likelihood(model, test, num_samples=1000, seed=0)
        with torch.no_grad():
            covariance = decoder.weight @ decoder.weight.T + (2 * noise).exp() * torch.eye(features)
            exact = MultivariateNormal(decoder.bias, covariance).log_prob(test).mean().item()
        unreliable = (found.pareto_k > 0.7).double().mean().item()
        print(
            f"step {step}: log p(x) {found.mean:.3f} nats, exactly {exact:.3f}; k-hat above 0.7 for "
            f"{unreliable:.0%} of the observations"
        )
    x = train[torch.randint(len(train), (100,))]
    q = posterior(x)
    loss = kl_divergence(q, prior).mean() - likelihood(q.rsample()).log_prob(x).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
