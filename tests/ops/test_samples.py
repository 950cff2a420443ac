"""Tests of sample_gaussian and of its noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import strategies
import tolerances
import torch
from devices import ALL, BACKENDS, device_of, place, run
from hypothesis import given
from hypothesis import strategies as st

import iwae_fast as iw
from iwae_fast import reference


def noise(*arguments: Any, backend: str, **options: Any) -> torch.Tensor:
    """Return noise of a backend, computed on its device."""
    device = device_of(backend)
    placed = {name: place(option, device) for name, option in options.items()}
    return iw.standard_normal(*arguments, backend=backend, device=device, **placed).cpu()


def chosen_samples(k: int, batch: int, total: int) -> torch.Tensor:
    """Return noncontiguous indices (k, batch) below ``total``, unordered and with repetitions."""
    return torch.randint(total, (batch, k)).T


def gathered(whole: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """Return the entries of ``whole`` (total, B, ...) at the samples (k, B) of each observation."""
    return whole[samples, torch.arange(samples.shape[1])]


PHILOX_KNOWN_ANSWERS = [
    # counter, key, words: the known-answer vectors published with Random123 (Salmon et al. 2011)
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), PHILOX_KNOWN_ANSWERS)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]) -> None:
    result = reference.philox(tuple(torch.tensor(c) for c in counter), tuple(torch.tensor(k) for k in key))
    assert tuple(int(word) for word in result) == words


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    seed=st.integers(0, 2**63 - 1),
    shape=st.tuples(
        st.integers(0, 4), st.integers(0, 4), st.one_of(st.integers(0, 13), st.sampled_from([64, 65, 150]))
    ),
    sample_offset=st.integers(0, 2**31),
    observation_offset=st.integers(0, 2**31),
    stream=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_backend_gives_the_same_noise(
    backend: str,
    seed: int,
    shape: tuple[int, int, int],
    sample_offset: int,
    observation_offset: int,
    stream: int,
    dtype: torch.dtype,
) -> None:
    ours, truth = (
        noise(
            shape,
            seed,
            sample_offset=sample_offset,
            observation_offset=observation_offset,
            stream=stream,
            dtype=dtype,
            backend=name,
        )
        for name in (backend, "reference")
    )
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, truth, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=2e-6)


@pytest.mark.parametrize("backend", ALL)
def test_chunks_and_shards_are_parts_of_the_whole(backend: str) -> None:
    whole = noise((6, 5, 7), 3, backend=backend)
    part = noise((2, 3, 7), 3, sample_offset=4, observation_offset=2, backend=backend)
    assert torch.equal(part, whole[4:, 2:])
    assert torch.equal(noise((6, 5, 4), 3, backend=backend), whole[..., :4])


@pytest.mark.parametrize("backend", ALL)
@given(
    seed=st.integers(0, 2**63 - 1),
    k=st.integers(0, 9),
    batch=st.integers(0, 5),
    dimensions=st.one_of(st.integers(0, 13), st.sampled_from([64, 65, 150])),
    observation_offset=st.integers(0, 2**31),
    stream=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    layout=st.sampled_from(["contiguous", "transposed", "every other", "expanded"]),
)
def test_chosen_samples_are_parts_of_the_whole(
    backend: str,
    seed: int,
    k: int,
    batch: int,
    dimensions: int,
    observation_offset: int,
    stream: int,
    dtype: torch.dtype,
    layout: str,
) -> None:
    samples = {
        "contiguous": lambda: chosen_samples(k, batch, 12).contiguous(),
        "transposed": lambda: chosen_samples(k, batch, 12),
        "every other": lambda: chosen_samples(2 * k, 2 * batch, 12)[::2, 1::2],
        "expanded": lambda: chosen_samples(k, 1, 12).expand(k, batch),
    }[layout]()
    options = {"observation_offset": observation_offset, "stream": stream, "dtype": dtype, "backend": backend}
    whole = noise((12, batch, dimensions), seed, **options)
    assert torch.equal(noise((k, batch, dimensions), seed, sample_indices=samples, **options), gathered(whole, samples))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ALL)
def test_noise_of_chosen_samples_compiles_as_one_graph(backend: str, dynamic: bool) -> None:
    torch._dynamo.reset()

    def draw(seed: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        shape = (*samples.shape, 5)
        return iw.standard_normal(shape, seed, sample_indices=samples, device=samples.device, backend=backend)

    compiled = torch.compile(draw, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    seed, samples = (place(t, device_of(backend)) for t in (torch.tensor(4), chosen_samples(3, 4, 500)))
    assert torch.equal(compiled(seed, samples), draw(seed, samples))


@pytest.mark.parametrize("backend", ALL)
def test_a_chosen_sample_may_have_any_index(backend: str) -> None:
    samples = torch.tensor([[2**32 - 1, 0], [2**31, 2**31 - 1]])
    ours = noise((2, 2, 9), 3, sample_indices=samples, backend=backend)
    for (i, b), index in zip([(0, 0), (0, 1), (1, 0), (1, 1)], samples.flatten().tolist(), strict=True):
        one = noise((1, 1, 9), 3, sample_offset=index, observation_offset=b, backend=backend)
        assert torch.equal(ours[i, b], one[0, 0])


@pytest.mark.parametrize("backend", ALL)
def test_noise_is_standard_normal(backend: str) -> None:
    normals = noise((100, 50, 50), 1, backend=backend).flatten()
    n = len(normals)
    moments = [normals.pow(p).mean().item() for p in (1, 2, 3, 4)]
    spread = [1.0, 2.0, 15.0, 96.0]  # variance of each power under N(0, 1)
    for moment, expected, variance in zip(moments, (0.0, 1.0, 0.0, 3.0), spread, strict=True):
        assert abs(moment - expected) < 5 * math.sqrt(variance / n)
    quantiles = torch.linspace(0.001, 0.999, 999)
    normal = torch.distributions.Normal(0.0, 1.0)
    distance = (normal.cdf(normals.sort().values[(quantiles * n).long()]) - quantiles).abs().max()
    assert distance < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at about 1e-3
    neighbours = normals[:-1] * normals[1:]
    assert neighbours.mean().abs() < 5 / math.sqrt(n)


@pytest.mark.parametrize("backend", ALL)
def test_streams_and_seeds_are_independent(backend: str) -> None:
    arrays = [noise((10, 10, 50), seed, stream=s, backend=backend) for seed in (0, 1) for s in (0, 1)]
    correlations = torch.corrcoef(torch.stack([a.flatten() for a in arrays]))
    assert (correlations - torch.eye(4)).abs().max() < 5 / math.sqrt(5000)


def test_seed_from_the_generator() -> None:
    torch.manual_seed(5)
    first = iw.standard_normal((2, 3, 4))
    second = iw.standard_normal((2, 3, 4))
    torch.manual_seed(5)
    assert torch.equal(iw.standard_normal((2, 3, 4)), first)
    assert not torch.equal(first, second)


def test_seed_as_a_tensor() -> None:
    assert torch.equal(iw.standard_normal((2, 3, 4), torch.tensor(9)), iw.standard_normal((2, 3, 4), 9))


@pytest.mark.parametrize(
    ("seed", "error"),
    [(-1, ValueError), (2**63, ValueError), (1.5, TypeError), (True, TypeError), (torch.tensor(1.0), TypeError)],
)
def test_bad_seeds(seed: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="seed must be"):
        iw.standard_normal((1, 1, 1), seed)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dtype": torch.float16}, TypeError, "dtype must be float32 or float64, got torch.float16"),
        ({"dtype": torch.int32}, TypeError, "dtype must be float32 or float64"),
        ({"shape": (2, 3)}, ValueError, r"shape must be \(samples, observations, dimensions\), got \(2, 3\)"),
        ({"sample_offset": 2**32}, ValueError, "sample_offset must be in"),
        ({"sample_offset": 2**32 - 1}, ValueError, "sample_offset must be in"),
        ({"observation_offset": -1}, ValueError, "observation_offset must be in"),
        ({"stream": 2**32}, ValueError, "stream must be in"),
        ({"sample_indices": [[0] * 3] * 2}, TypeError, "sample_indices must be an int64 tensor of indices, got list"),
        (
            {"sample_indices": torch.zeros(2, 3)},
            TypeError,
            "sample_indices must be an int64 tensor of indices, got torch.float32",
        ),
        (
            {"sample_indices": torch.zeros(2, 3, dtype=torch.int32)},
            TypeError,
            "sample_indices must be .*, got torch.int32",
        ),
        (
            {"sample_indices": torch.zeros(3, 2).long()},
            ValueError,
            r"must be .* = \(2, 3\), got \(3, 2\)",
        ),
        ({"sample_indices": torch.zeros(3).long()}, ValueError, r"sample_indices must be .* = \(2, 3\), got \(3,\)"),
        (
            {"sample_indices": torch.zeros(2, 3).long(), "sample_offset": 1},
            ValueError,
            "sample_offset must be 0 if .*, got 1",
        ),
    ],
)
def test_bad_arguments(backend: str, arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        noise(**{"shape": (2, 3, 4), "seed": 1, "backend": backend, **arguments})


@pytest.mark.parametrize("path_only", [False, True])
class TestSampleGaussian:
    @pytest.mark.parametrize("backend", ALL)
    @pytest.mark.parametrize("dtype", strategies.DTYPES)
    def test_against_the_densities(self, backend: str, dtype: torch.dtype, path_only: bool) -> None:
        """Compare log p - log q and its gradients with autograd through the densities, in float64."""
        torch.manual_seed(0)
        mean, log_std = (t.to(dtype).requires_grad_() for t in torch.randn(2, 4, 6).unbind())
        weights, at_z = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, 6, dtype=torch.float64)
        z, log_ratio = run(iw.sample_gaussian, mean, log_std, 5, seed=1, path_only=path_only, backend=backend)
        assert z.dtype == log_ratio.dtype == torch.promote_types(dtype, torch.float32)
        ours = torch.autograd.grad((z, log_ratio), (mean, log_std), (at_z.to(z.dtype), weights.to(z.dtype)))
        assert [g.dtype for g in ours] == [dtype, dtype]

        m, log_s = (t.detach().double().requires_grad_() for t in (mean, log_std))
        exact_z = m + log_s.exp() * iw.standard_normal((5, 4, 6), 1, dtype=torch.float64, backend="reference")
        q = (m.detach(), log_s.detach()) if path_only else (m, log_s)
        ratio = reference.standard_gaussian_log_prob(exact_z) - reference.gaussian_log_prob(exact_z, *q)
        exact = torch.autograd.grad((exact_z, ratio), (m, log_s), (at_z, weights))
        close = {"rtol": 1e-5, "atol": 2e-5} if dtype != torch.float64 else {"rtol": 1e-12, "atol": 1e-12}
        torch.testing.assert_close((z.double(), log_ratio.double()), (exact_z, ratio), **close)
        if dtype in (torch.bfloat16, torch.float16):
            close = {"rtol": 2 * tolerances.ROUNDING[dtype], "atol": 1e-3}
        torch.testing.assert_close([g.double() for g in ours], list(exact), **close)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_strides_and_expanded_gradients(self, backend: str, path_only: bool) -> None:
        mean, log_std = (
            torch.randn(12, 8, dtype=torch.float64).T[::2, ::3],
            torch.randn(4, dtype=torch.float64).expand(4, 4),
        )
        leaves = [mean.detach().requires_grad_(), log_std.detach().requires_grad_()]
        results = [run(iw.sample_gaussian, *leaves, 3, 5, path_only, backend=name) for name in (backend, "reference")]
        torch.testing.assert_close(*results)
        for incoming in ((torch.ones(()).double().expand(3, 4, 4), None), (None, torch.ones(()).double().expand(3, 4))):
            ours, theirs = (
                torch.autograd.grad(
                    [o for o, i in zip(r, incoming, strict=True) if i is not None],
                    leaves,
                    [i for i in incoming if i is not None],
                    retain_graph=True,
                )
                for r in results
            )
            torch.testing.assert_close(ours, theirs)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_many_samples_keep_their_digits(self, backend: str, path_only: bool) -> None:
        leaves = [t.requires_grad_() for t in torch.randn(2, 1, 3).unbind()]
        doubles = [t.detach().double().requires_grad_() for t in leaves]
        ours, exact = (
            torch.autograd.grad(sum(t.sum() for t in run(iw.sample_gaussian, *q, 3000, 5, path_only, backend=name)), q)
            for name, q in ((backend, leaves), ("reference", doubles))
        )
        torch.testing.assert_close([g.double() for g in ours], list(exact), rtol=1e-5, atol=1e-2)

    @pytest.mark.parametrize("backend", ALL)
    def test_chunks_and_shards_are_parts_of_the_whole(self, backend: str, path_only: bool) -> None:
        """Compare samples 2 and 3 of observations 1 to 3, with more latents than a tile, and their gradient."""
        leaves = [t.requires_grad_() for t in torch.randn(2, 5, 150, dtype=torch.float64).unbind()]
        at_z, weights = torch.randn(6, 5, 150, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
        at_z[:2], at_z[4:], weights[:2], weights[4:] = 0.0, 0.0, 0.0, 0.0
        whole = run(iw.sample_gaussian, *leaves, 6, 7, path_only, stream=3, backend=backend)
        part = run(
            iw.sample_gaussian,
            *(t[1:4] for t in leaves),
            2,
            7,
            path_only,
            sample_offset=2,
            observation_offset=1,
            stream=3,
            backend=backend,
        )
        torch.testing.assert_close(part, tuple(t[2:4, 1:4] for t in whole), rtol=0, atol=1e-12)
        grad_whole = torch.autograd.grad(whole, leaves, (at_z, weights))
        grad_part = torch.autograd.grad(part, leaves, (at_z[2:4, 1:4], weights[2:4, 1:4]))
        for ours, theirs in zip(grad_part, grad_whole, strict=True):
            torch.testing.assert_close(ours[1:4], theirs[1:4])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("backend", ALL)
    def test_chosen_samples_are_parts_of_the_whole(self, backend: str, dtype: torch.dtype, path_only: bool) -> None:
        """Compare draws bitwise, and gradients, which are sums over samples, up to rounding; one sample is repeated."""
        leaves = [t.requires_grad_() for t in torch.randn(2, 3, 150, dtype=dtype).unbind()]
        at_z, weights = torch.randn(4, 3, 150, dtype=dtype), torch.randn(4, 3, dtype=dtype)
        samples = torch.stack([torch.randperm(20)[:4] for _ in range(3)], 1)
        samples[3] = samples[0]
        options = {"observation_offset": 2, "stream": 3, "backend": backend}
        whole = run(iw.sample_gaussian, *leaves, 20, 7, path_only, **options)
        expected = [gathered(t, samples) for t in whole]
        grad_whole = torch.autograd.grad(expected, leaves, (at_z, weights))
        strided = torch.stack([samples.T, samples.T], -1)[..., 0].T
        for layout in (samples, strided):
            part = run(iw.sample_gaussian, *leaves, 4, 7, path_only, sample_indices=layout, **options)
            torch.testing.assert_close(part, tuple(expected), rtol=0, atol=0)
            close = {"rtol": 1e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
            torch.testing.assert_close(torch.autograd.grad(part, leaves, (at_z, weights)), grad_whole, **close)

    @pytest.mark.parametrize("backend", ALL)
    def test_gradcheck_of_chosen_samples(self, backend: str, path_only: bool) -> None:
        """Check the gradient of z alone: with path_only that of the log-ratio is not its whole derivative."""
        leaves = [t.requires_grad_() for t in torch.randn(2, 2, 2, dtype=torch.float64).unbind()]
        samples = chosen_samples(2, 2, 500)

        def draw(*q: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
            drawn = run(iw.sample_gaussian, *q, 2, 5, path_only, sample_indices=samples, backend=backend)
            return drawn[0] if path_only else drawn

        assert torch.autograd.gradcheck(draw, leaves)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_second_derivative_raises(self, backend: str, path_only: bool) -> None:
        mean, log_std = (t.requires_grad_() for t in torch.randn(2, 2, 3).unbind())
        z, _ = run(iw.sample_gaussian, mean, log_std, 3, 5, path_only, backend=backend)
        (first,) = torch.autograd.grad(z.square().sum(), mean, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivatives"):
            first.sum().backward()

    @pytest.mark.parametrize("chosen", [False, True])
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_func_transforms(self, backend: str, chosen: bool, path_only: bool) -> None:
        mean, log_std = torch.randn(2, 4, 6).unbind()
        samples = chosen_samples(3, 4, 500) if chosen else None

        def total(mean: torch.Tensor, log_std: torch.Tensor, name: str = backend) -> torch.Tensor:
            z, log_ratio = run(iw.sample_gaussian, mean, log_std, 3, 5, path_only, sample_indices=samples, backend=name)
            return z.sin().sum() + log_ratio.sum()

        ours = torch.func.grad(total, (0, 1))(mean, log_std)
        leaves = mean.requires_grad_(), log_std.requires_grad_()
        torch.testing.assert_close(ours, torch.autograd.grad(total(*leaves, "reference"), leaves), rtol=1e-5, atol=2e-5)

    @pytest.mark.parametrize("chosen", [False, True])
    @pytest.mark.parametrize("backend", ALL)
    @pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
    def test_empty(self, backend: str, shape: tuple[int, int], chosen: bool, path_only: bool) -> None:
        leaves = [torch.zeros(shape).requires_grad_() for _ in range(2)]
        samples = chosen_samples(4, shape[0], 500) if chosen else None
        z, log_ratio = run(iw.sample_gaussian, *leaves, 4, path_only=path_only, sample_indices=samples, backend=backend)
        assert (z.shape, log_ratio.shape) == ((4, *shape), (4, shape[0]))
        assert (log_ratio == 0).all()
        assert all(g.shape == shape for g in torch.autograd.grad(z.sum() + log_ratio.sum(), leaves))

    @pytest.mark.parametrize(("dynamic", "chosen"), [(False, False), (True, True)])
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_compiles_as_one_graph(self, backend: str, dynamic: bool, chosen: bool, path_only: bool) -> None:
        torch._dynamo.reset()

        def total(
            mean: torch.Tensor, log_std: torch.Tensor, seed: torch.Tensor, samples: torch.Tensor | None
        ) -> torch.Tensor:
            z, log_ratio = run(
                iw.sample_gaussian, mean, log_std, 3, seed, path_only, sample_indices=samples, backend=backend
            )
            return z.sin().sum() + log_ratio.sum()

        leaves = [t.requires_grad_() for t in torch.randn(2, 4, 6).unbind()]
        compiled = torch.compile(total, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        samples = chosen_samples(3, 4, 500) if chosen else None
        results = [f(*leaves, torch.tensor(4), samples) for f in (compiled, total)]
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*(torch.autograd.grad(r, leaves) for r in results))


class TestSampleGaussianArguments:
    def test_path_only_changes_the_gradient_alone(self) -> None:
        mean, log_std = torch.full((2, 50), 100.0), torch.full((2, 50), -9.0)
        results = [iw.sample_gaussian(mean, log_std, 3, seed=1, path_only=path_only) for path_only in (False, True)]
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)

    def test_forward_mode_and_vmap_fall_back(self) -> None:
        mean, log_std = torch.randn(2, 4, 6).unbind()
        primal, tangent = torch.func.jvp(lambda m: iw.sample_gaussian(m, log_std, 3, 1)[0], (mean,), (mean,))
        torch.testing.assert_close(tangent, mean.expand_as(primal))
        batched = torch.func.vmap(lambda m: iw.sample_gaussian(m, log_std, 3, 1)[0])(torch.stack([mean, mean + 1]))
        torch.testing.assert_close(batched[1], iw.sample_gaussian(mean + 1, log_std, 3, 1)[0])

    def test_vmap_over_chosen_samples_falls_back(self) -> None:
        mean, log_std = torch.randn(2, 4, 6).unbind()
        samples = torch.stack([chosen_samples(3, 4, 500) for _ in range(2)])
        batched = torch.func.vmap(lambda s: iw.sample_gaussian(mean, log_std, 3, 1, sample_indices=s)[0])(samples)
        torch.testing.assert_close(batched[1], iw.sample_gaussian(mean, log_std, 3, 1, sample_indices=samples[1])[0])

    def test_half_precision_is_widened(self) -> None:
        z, log_ratio = iw.sample_gaussian(torch.zeros(2, 3).bfloat16(), torch.zeros(2, 3).bfloat16(), 4)
        assert (z.dtype, log_ratio.dtype) == (torch.float32, torch.float32)

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
            iw.sample_gaussian(torch.zeros(2, 3), torch.zeros(2, 3), 0)
        with pytest.raises(ValueError, match=r"must both be \(B, Z\), got \(2, 3\) and \(3,\)"):
            iw.sample_gaussian(torch.zeros(2, 3), torch.zeros(3), 1)

    def test_bad_samples(self) -> None:
        mean, log_std = torch.zeros(2, 2, 3).unbind()
        with pytest.raises(TypeError, match=r"sample_indices must be an int64 tensor of indices, got torch.int32"):
            iw.sample_gaussian(mean, log_std, 4, sample_indices=torch.zeros(4, 2, dtype=torch.int32))
        with pytest.raises(ValueError, match=r"sample_indices must be \(num_samples, B\) = \(4, 2\), got \(4, 1\)"):
            iw.sample_gaussian(mean, log_std, 4, sample_indices=torch.zeros(4, 1).long())
        with pytest.raises(ValueError, match="sample_indices is on meta, but the noise is to be on cpu"):
            iw.sample_gaussian(mean, log_std, 4, sample_indices=torch.zeros(4, 2, device="meta").long())
        with pytest.raises(ValueError, match="sample_offset must be 0 if sample_indices is given, got 5"):
            iw.sample_gaussian(mean, log_std, 4, sample_indices=torch.zeros(4, 2).long(), sample_offset=5)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("log_std", [-30.0, -95.0, -110.0])
def test_gradients_of_the_path_where_the_reciprocal_of_the_scale_overflows(log_std: float, backend: str) -> None:
    """Expect finite gradients of log_std, since (z - m)^2 / (2 s^2) = eps^2 / 2, and eps / s for the mean."""
    mean, incoming = torch.tensor([[0.0, 2.0, -1.0, 0.5, 3.0]]), torch.tensor([[0.5]])
    leaves = [mean.requires_grad_(), torch.full((1, 5), log_std, requires_grad=True)]
    _, log_ratio = run(iw.sample_gaussian, *leaves, 1, 3, True, backend=backend)
    grad_mean, grad_log_std = torch.autograd.grad(log_ratio, leaves, incoming)
    eps = iw.standard_normal((1, 1, 5), 3, backend="reference")[0].double()
    step = math.exp(log_std) * eps
    expected = incoming.double() * (eps.square() - (mean.detach() + step) * step)
    torch.testing.assert_close(grad_log_std.double(), expected, rtol=1e-4, atol=1e-5)
    exact = (incoming.double() * (eps / math.exp(log_std) - mean.detach())).float()
    torch.testing.assert_close(grad_mean, exact, rtol=1e-4, atol=1e-5)
