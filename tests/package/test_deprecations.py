"""Old spellings of arguments work as the new ones do, and name these in a DeprecationWarning."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import iwae_fast as iw

INDICES = torch.tensor([[3, 1], [0, 2]])


class Joined(nn.Module):
    """A linear network that takes its context beside its input."""

    def __init__(self, inputs: int, outputs: int, parts: int = 1) -> None:
        super().__init__()
        self.linear, self.parts = nn.Linear(inputs, outputs), parts

    def forward(self, x: Tensor, y: Tensor) -> Tensor | tuple[Tensor, ...]:
        output = self.linear(torch.cat([x, y], -1))
        return output if self.parts == 1 else output.chunk(self.parts, -1)


def model_and_data() -> tuple[iw.models.VAE, Tensor, Tensor]:
    torch.manual_seed(0)
    model = iw.models.VAE(Joined(6, 4, parts=2), Joined(4, 4), "bernoulli", latent_dim=2)
    return model, torch.rand(3, 4).round(), torch.randn(3, 2)


def test_sample_indices() -> None:
    mean = torch.zeros(2, 3)
    with pytest.warns(DeprecationWarning, match=r"samples of sample_gaussian\(\) is deprecated.*use sample_indices="):
        old, _ = iw.sample_gaussian(mean, mean, 2, 5, samples=INDICES)
    assert torch.equal(old, iw.sample_gaussian(mean, mean, 2, 5, sample_indices=INDICES)[0])
    with pytest.warns(DeprecationWarning, match=r"samples of standard_normal\(\)"):
        old = iw.standard_normal((2, 2, 3), 5, samples=INDICES)
    assert torch.equal(old, iw.standard_normal((2, 2, 3), 5, sample_indices=INDICES))
    with pytest.raises(TypeError, match="got sample_indices and samples, its old name"):
        iw.standard_normal((2, 2, 3), 5, samples=INDICES, sample_indices=INDICES)


CALLS: list[Callable[..., Tensor]] = [
    lambda model, x, *y, **named: iw.Objective(iw.bounds.IWAE(), num_samples=3)(model, x, *y, seed=1, **named),
    lambda model, x, *y, **named: iw.Objective(iw.bounds.IWAE(), num_samples=3).bind(model)(x, *y, seed=1, **named),
    lambda model, x, *y, **named: model.encode(x, *y, **named)[0],
    lambda model, x, *y, **named: model.posterior_mean(x, *y, **named),
    lambda model, x, *y, **named: model.reconstruct(x, *y, **named),
]


@pytest.mark.parametrize("call", CALLS, ids=["objective", "bind", "encode", "posterior_mean", "reconstruct"])
def test_context(call: Callable[..., Tensor]) -> None:
    model, x, y = model_and_data()
    with pytest.warns(DeprecationWarning, match=r"further positional arguments is deprecated.*use context=\(\.\.\.\)"):
        old = call(model, x, y)
    assert torch.equal(old, call(model, x, context=(y,)))
    with pytest.raises(TypeError, match="context was given twice"):
        call(model, x, y, context=(y,))


def test_a_seed_may_be_a_tensor_wherever_it_may_be_a_number() -> None:
    model, x, y = model_and_data()
    results = [iw.evaluate.log_likelihood(model, x, 5, seed=s, context=(y,)).value for s in (4, torch.tensor(4))]
    assert torch.equal(*results)
