"""Tests of captured steps with real CUDA graphs, against the same steps without capture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR

import iwae_fast as iw
from iwae_fast.capture import launched_by_a_graph
from iwae_fast.experiments.optimizers import PublishedAdam
from iwae_fast.experiments.train.pixels import as_pixels, batches_as_pixels
from iwae_fast.seeds import Purpose

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

RATE = 2.0**-9
"""The same number in float32 and in double."""

SAME_BITS = {"rtol": 0.0, "atol": 0.0}
IWAE = iw.bounds.IWAE()


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=RATE, fused=True, capturable=True)


def dense(latent_dims: tuple[int, ...] = (8,), hidden_dims: Any = ((32,),)) -> iw.models.DenseVAE:
    torch.manual_seed(1)
    return iw.models.DenseVAE(64, latent_dims, hidden_dims).cuda()


def batches(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(size, 64, generator=generator).round().cuda() for size in sizes]


class Pair:
    """Two copies of a training: one captured, one stepped directly."""

    def __init__(
        self,
        objective: Callable[[], iw.Objective],
        build: Callable[[], nn.Module] = dense,
        optimizer: Callable[[Any], torch.optim.Optimizer] = adam,
    ) -> None:
        self.models = build(), build()
        self.optimizers = [optimizer(model.parameters()) for model in self.models]
        self.objectives = objective(), objective()
        self.step = iw.CapturedStep(self.objectives[0], self.models[0], self.optimizers[0], seed=5)
        self.seed = self.step.seed.clone()

    def by_hand(self, x: Tensor) -> Tensor:
        self.optimizers[1].zero_grad()
        with launched_by_a_graph():
            loss = self.objectives[1](self.models[1], x, seed=self.seed)
        loss.backward()
        self.optimizers[1].step()
        self.seed = self.seed + 1
        return loss.detach()

    def both(self, x: Tensor) -> None:
        torch.testing.assert_close(self.step(x), self.by_hand(x), **SAME_BITS)

    def agree(self) -> None:
        one, other = self.models
        torch.testing.assert_close(one.state_dict(), other.state_dict(), **SAME_BITS)
        ours, theirs = (objective.last for objective in self.objectives)
        torch.testing.assert_close(ours[:4], theirs[:4], **SAME_BITS)


@pytest.mark.parametrize(
    ("bound", "estimator", "options", "layers"),
    [
        (IWAE, "reparameterized", {}, 1),
        (IWAE, "dreg", {"budget": 3}, 1),
        (IWAE, "dreg", {"chunk_size": 4}, 1),
        (IWAE, "gdreg", {}, 2),
        (iw.bounds.VRIWAE(0.3), "stl", {"reduction": "sum"}, 1),
        (iw.bounds.JVI(1), "reparameterized", {"budget": 3}, 2),
        (iw.bounds.TVO(), "reparameterized", {}, 1),
    ],
    ids=str,
)
def test_captured_steps_leave_the_bits_of_single_ones(bound: Any, estimator: str, options: dict, layers: int) -> None:
    sizes: Any = ((8,), ((32,),)) if layers == 1 else ((8, 4), ((32,), (16,)))
    pair = Pair(lambda: iw.Objective(bound, estimator, 10, **options), lambda: dense(*sizes))
    for x in batches(*[20] * 20):
        pair.both(x)
    assert pair.step.reason is None
    pair.agree()


def objective() -> iw.Objective:
    return iw.Objective(IWAE, "dreg", 10)


def test_replays_never_wait_for_the_device() -> None:
    pair = Pair(objective)
    xs = batches(20, 20, 20, 20, 20)
    for x in xs:
        pair.step(x)
    with waiting_is_an_error():
        losses = [pair.step(x) for x in xs]
    assert torch.stack(losses).isfinite().all()
    assert pair.step.reason is None


def test_every_replay_has_fresh_noise() -> None:
    model, (x,) = dense(), batches(20)
    still = torch.optim.Adam(model.parameters(), lr=0.0, fused=True, capturable=True)
    step = iw.CapturedStep(objective(), model, still, seed=3)
    losses = torch.stack([step(x) for _ in range(20)])
    assert step.reason is None
    assert len(losses.unique()) == 20


def test_a_ragged_batch() -> None:
    pair = Pair(objective)
    for x in batches(*(20, 20, 7) * 6):
        pair.both(x)
    assert pair.step.reason is None
    pair.agree()


def test_a_loaded_state_is_captured_anew() -> None:
    """Load a state while results of earlier replays are alive, in the memory of deleted graphs."""
    pair = Pair(objective)
    for x in batches(*[20] * 5):
        pair.both(x)
    held = pair.step.objective.last, [parameter.grad for parameter in pair.models[0].parameters()]
    for optimizer in pair.optimizers:
        optimizer.load_state_dict(optimizer.state_dict())
    for x in batches(*[20] * 6):
        pair.both(x)
    assert pair.step.reason is None
    assert held[0].value.isfinite().all()
    pair.agree()


@pytest.mark.parametrize(
    "optimizer",
    [
        adam,
        lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.5, fused=True),
        lambda p: PublishedAdam(p, lr=RATE),
        lambda p: iw.optim.AdamW(p, lr=RATE, max_norm=1.0),
    ],
    ids=["Adam", "SGD", "PublishedAdam", "AdamW of ours"],
)
def test_rates_are_followed(optimizer: Any) -> None:
    pair = Pair(objective, optimizer=lambda p: optimizer(p))
    schedulers = [ExponentialLR(each, 0.5) for each in pair.optimizers]
    for x in batches(*[20] * 10):
        pair.both(x)
        for scheduler in schedulers:
            scheduler.step()
    assert pair.step.reason is None
    pair.agree()


def test_autocast_casts_the_weights_as_they_are_at_each_replay() -> None:
    pair, xs = Pair(objective), batches(*[20] * 8)
    with torch.autocast("cuda", torch.bfloat16):
        recorded = [pair.step(x) for x in xs]
    expected = []
    for x in xs:
        with torch.autocast("cuda", torch.bfloat16):
            expected.append(pair.by_hand(x))
    torch.testing.assert_close(recorded, expected, **SAME_BITS)
    assert pair.step.reason is None


class LaplaceEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 16)

    def forward(self, x: Tensor) -> torch.distributions.Distribution:
        mean, log_std = self.layer(x).chunk(2, -1)
        return torch.distributions.Laplace(mean, log_std.exp())


class Synchronizing(nn.Linear):
    """A layer that synchronizes in a way that only a capture forbids."""

    def forward(self, input: Tensor) -> Tensor:
        torch.cuda.synchronize()
        return super().forward(input)


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        (LaplaceEncoder, lambda: nn.Linear(8, 64), r"it forces a device synchronization at .*\.py:\d+"),
        (None, lambda: Synchronizing(8, 64), "captur"),
    ],
    ids=["posterior", "synchronize"],
)
def test_what_cannot_be_captured_goes_on_one_by_one(encoder: Any, decoder: Any, message: str) -> None:
    def build() -> iw.models.VAE:
        torch.manual_seed(1)
        first = encoder() if encoder else dense().encoder.cpu()
        return iw.models.VAE(first, decoder()).cuda()

    pair = Pair(lambda: iw.Objective(IWAE, num_samples=10), build)
    stream = torch.cuda.current_stream()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x in batches(*[20] * 6):
            pair.both(x)
    assert pair.step.reason is not None
    assert any(word in pair.step.reason for word in (message, "device synchronization"))
    assert torch.cuda.current_stream() == stream
    pair.agree()
    # Other captures go on to work.
    other = Pair(objective)
    for x in batches(*[20] * 4):
        other.both(x)
    assert other.step.reason is None
    assert torch.rand(3, device="cuda").isfinite().all()


def test_seeds_that_are_numbers_are_not_copied_from_the_host() -> None:
    model, (x,) = dense(), batches(20)
    iw.Objective(IWAE, num_samples=4)(model, x, seed=1).backward()  # compiles
    with waiting_is_an_error():
        iw.Objective(IWAE, num_samples=4)(model, x, seed=1).backward()


def test_published_adam_does_not_wait() -> None:
    model, other = dense(), dense().cpu()
    ours, theirs = PublishedAdam(model.parameters()), PublishedAdam(other.parameters())
    for parameter, on_cpu in zip(model.parameters(), other.parameters(), strict=True):
        on_cpu.grad = torch.randn_like(on_cpu)
        parameter.grad = on_cpu.grad.cuda()
    ours.step()
    theirs.step()
    with waiting_is_an_error():
        ours.step()
    theirs.step()
    torch.testing.assert_close({n: t.cpu() for n, t in model.state_dict().items()}, other.state_dict())


def test_both_devices_train_on_the_same_pixels() -> None:
    levels, seed, steps = torch.rand(4, 50, 784), torch.tensor(9), torch.arange(4) + 7
    drawn = batches_as_pixels(levels, seed, steps)
    on_gpu = batches_as_pixels(levels.cuda(), seed.cuda(), steps.cuda()).cpu()
    assert (drawn != on_gpu).double().mean() < 1e-5  # whose noise is within rounding of their level
    fixed = as_pixels(levels[0], True, 0, Purpose.TEST_PIXELS)
    assert (fixed != as_pixels(levels[0].cuda(), True, 0, Purpose.TEST_PIXELS).cpu()).double().mean() < 1e-4
