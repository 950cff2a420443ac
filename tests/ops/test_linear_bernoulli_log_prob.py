"""Tests of bernoulli_log_prob of a linear layer's output, which never stores the logits."""

from __future__ import annotations

from functools import partial

import pytest
import strategies
import tolerances
import torch
from contract import Contract, gradients
from devices import BACKENDS, COMPILED, TRITON, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import iwae_fast as iw
from benchmarks.peak_memory import PeakMemory
from iwae_fast.backends import tiled as linear


class TestLinearBernoulliLogProb(Contract):
    names = ("value", "hidden", "weight", "bias")

    @staticmethod
    def call(*inputs: Tensor, mask: Tensor | None = None, backend: str | None = None) -> Tensor:
        return run(iw.linear_bernoulli_log_prob, *inputs, mask=mask, backend=backend)

    @staticmethod
    def example() -> list[Tensor]:
        value, hidden = torch.rand(3, 7), torch.randn(2, 3, 4)
        return [t.double() for t in (value, hidden, torch.randn(7, 4), torch.randn(7))]

    @pytest.fixture(autouse=True)
    def small_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make tiles small, so that an example has several."""
        monkeypatch.setattr(linear, "ROWS_A_TILE", {"cpu": 4, "cuda": 4})

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, dtype: torch.dtype) -> None:
        """Compare with a linear layer and the density, up to one rounding: the bias is added in float32."""
        value, hidden, weight, bias = self.leaves(torch.float32)
        with torch.autocast("cpu", dtype=dtype):
            ours = self.call(value, hidden, weight, bias)
            logits = torch.nn.functional.linear(hidden, weight, bias)
        roundings = tolerances.ROUNDING[dtype] * logits.abs().sum(-1)
        assert ((ours - iw.bernoulli_log_prob(value, logits)).abs() <= 2 * roundings).all()
        grads = torch.autograd.grad(ours.sum(), [hidden, weight])
        assert all(g.dtype == torch.float32 for g in grads)

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_is_the_density_of_the_logits(self, backend: str) -> None:
        value, hidden, weight, bias = self.example()
        logits = hidden @ weight.T + bias
        torch.testing.assert_close(
            self.call(value, hidden, weight, bias, backend=backend), iw.bernoulli_log_prob(value, logits)
        )
        mask = torch.rand(3, 7) < 0.5
        expected = iw.bernoulli_log_prob(value, logits - bias, mask)
        torch.testing.assert_close(self.call(value, hidden, weight, None, mask=mask, backend=backend), expected)

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize(
        ("value", "hidden"),
        [
            ((7,), (3, 4, 5)),
            ((4, 7), (5,)),
            ((2, 1, 4, 7), (3, 1, 5)),
            ((7,), (5,)),
            ((1, 7), (0, 5)),
            ((40, 7), (2, 40, 5)),
        ],
    )
    def test_shapes_that_broadcast(self, backend: str, value: tuple[int, ...], hidden: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        inputs = [torch.rand(value), torch.randn(hidden), torch.randn(7, 5), torch.randn(7)]
        inputs = [t.double() for t in inputs]
        expected, expected_grads = gradients(lambda *t: self.call(*t, backend="reference"), inputs, 1)
        ours, our_grads = gradients(lambda *t: self.call(*t, backend=backend), inputs, 1)
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(our_grads, expected_grads)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_only_what_is_needed_and_strides(self, backend: str) -> None:
        value, hidden, weight, bias = self.example()
        hidden = hidden.transpose(0, 1).contiguous().transpose(0, 1)
        weight = weight.T.contiguous().T.requires_grad_()
        ours = self.call(value, hidden, weight, None, backend=backend)
        (gradient,) = torch.autograd.grad(ours.sum(), weight)
        expected = iw.bernoulli_log_prob(value, hidden @ weight.T)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), weight)[0])
        assert not self.call(value, hidden, weight.detach(), bias, backend=backend).requires_grad

    @pytest.mark.parametrize("backend", COMPILED)
    @given(data=st.data())
    def test_no_worse_than_torch(self, backend: str, data: st.DataObject) -> None:
        self.check_no_worse_than_torch(backend, data)

    @pytest.mark.parametrize("backend", TRITON)
    @settings(max_examples=settings.default.max_examples // 4)
    @given(data=st.data())
    def test_no_worse_than_torch_on_triton(self, backend: str, data: st.DataObject) -> None:
        self.check_no_worse_than_torch(backend, data)

    def check_no_worse_than_torch(self, backend: str, data: st.DataObject) -> None:
        inputs, mask = data.draw(calls())
        exact, exact_grads = gradients(
            lambda *t: self.call(*t, mask=mask, backend="reference"), [t.double() for t in inputs], 1
        )
        eager, eager_grads = gradients(lambda *t: self.call(*t, mask=mask, backend="reference"), inputs, 1)
        ours, our_grads = gradients(lambda *t: self.call(*t, mask=mask, backend=backend), inputs, 1)
        assert ours.dtype == eager.dtype
        dtype = inputs[1].dtype
        logits = torch.nn.functional.linear(*(t.double() for t in inputs[1:]))
        terms = (inputs[0].double() * logits).abs() + torch.nn.functional.softplus(logits)
        if mask is not None:
            terms = torch.where(mask, terms, 0.0)
        tolerances.assert_no_worse(ours, eager, exact, 4 * tolerances.sum_allowance(dtype, terms))
        # Of size 1 before it is small: v - sigmoid(l), which the layer's factors multiply.
        largest = max(1.0, *(float(t.abs().max()) for t in inputs[1:]))
        for our, eag, exa, source in zip(our_grads, eager_grads, exact_grads, inputs, strict=True):
            assert our.dtype == source.dtype
            assert our.shape == source.shape
            # Sums over rows: rounded once for the result's dtype, and each term for that of the logits.
            rounding = max(tolerances.ROUNDING[t] for t in (dtype, source.dtype))
            allowance = 16 * rounding * (largest + exa.abs().max())
            assert (our.double() - exa).abs().max() <= 2 * (eag.double() - exa).abs().max() + allowance

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize(("rows", "width", "features"), [(70, 70, 130), (70, 260, 66)])
    def test_several_tiles_of_everything(self, backend: str, rows: int, width: int, features: int) -> None:
        """Test sizes of more than one block of rows, features and columns, with an incomplete last block."""
        inputs = [torch.rand(rows // 5, features), torch.randn(5, rows // 5, width) / width**0.5]
        inputs = [t.double() for t in (*inputs, torch.randn(features, width), torch.randn(features))]
        mask = torch.rand(rows // 5, features) < 0.7
        exact = gradients(lambda *t: self.call(*t, mask=mask, backend="reference"), inputs, 1)
        ours = gradients(lambda *t: self.call(*t, mask=mask, backend=backend), inputs, 1)
        torch.testing.assert_close(ours, exact)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_masked_features_count_nothing(self, backend: str) -> None:
        kept = torch.arange(7) % 3 != 0
        value, hidden, weight, bias = (t.float() for t in self.example())
        reduced = [value[:, kept], hidden, weight[kept], bias[kept]]
        expected, expected_grads = gradients(lambda *t: self.call(*t, backend=backend), reduced, 5)
        value[:, ~kept] = torch.nan
        bias[~kept] = torch.nan
        inputs = [value, hidden, weight, bias]
        result, grads = gradients(lambda *t: self.call(*t, mask=kept, backend=backend), inputs, 5)
        torch.testing.assert_close(result, expected)
        for index, (grad, expected_grad) in enumerate(zip(grads, expected_grads, strict=True)):
            if index == 1:
                torch.testing.assert_close(grad, expected_grad)
                continue
            axis = 1 if index == 0 else 0
            torch.testing.assert_close(grad.index_select(axis, kept.nonzero().squeeze(1)), expected_grad)
            assert (grad.index_select(axis, (~kept).nonzero().squeeze(1)) == 0).all()

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("size", [1e30, torch.nan])
    def test_a_coefficient_of_zero_stops_what_is_not_finite(self, backend: str, size: float) -> None:
        """Test rows whose logits overflow, and rows of NaN."""
        value, hidden, weight, bias = (t.float() for t in self.example())
        weight[0] = 1e30 * torch.tensor([1.0, -1.0, 1.0, 1.0])
        hidden[1, 2] = size
        leaves = [t.requires_grad_() for t in (value, hidden, weight, bias)]
        result = self.call(*leaves, backend=backend)
        # A sum of products that overflow is inf - inf where each is rounded, and +inf where they are multiplied and
        # added in one step after the first, as processors and tensor cores do: the log-probability is NaN, or -inf.
        assert not result.isfinite()[1, 2]
        assert result.isnan()[1, 2] or size == size
        incoming = torch.zeros(2, 3)
        incoming[0, 0] = 1.0
        grad_value, grad_hidden, grad_weight, grad_bias = torch.autograd.grad(result, leaves, incoming)
        assert (grad_hidden[1:] == 0).all()
        assert (grad_value[1:] == 0).all()
        assert grad_bias.isfinite().all()
        if size == size:  # torch's matrix products multiply zeros and NaN
            assert grad_weight.isfinite().all()

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_nan_is_never_hidden(self, backend: str) -> None:
        for index, at in enumerate([(1, 5), (0, 1, 3), (5, 3), (5,)]):
            inputs = [t.float() for t in self.example()]
            inputs[index][at] = torch.nan
            nan = self.call(*inputs, backend=backend).isnan()
            rows = {0: nan[:, 1], 1: nan[0, 1]}.get(index, nan)
            assert rows.all()
            assert nan.sum() == rows.numel()

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    @pytest.mark.parametrize(
        ("value", "hidden", "weight"),
        [((4, 0), (3, 4, 5), (0, 5)), ((0, 7), (3, 0, 5), (7, 5)), ((4, 7), (3, 4, 0), (7, 0)), ((0,), (0,), (0, 0))],
    )
    def test_empty(
        self, backend: str, value: tuple[int, ...], hidden: tuple[int, ...], weight: tuple[int, ...]
    ) -> None:
        """Test sizes of zero, for features, rows, columns and all of them."""
        inputs = [torch.rand(value), torch.ones(hidden), torch.ones(weight), torch.zeros(weight[0])]
        result, grads = gradients(lambda *t: self.call(*t, backend=backend), inputs, 6)
        logits = torch.zeros(*hidden[:-1], weight[0])
        torch.testing.assert_close(result, iw.bernoulli_log_prob(inputs[0], logits))
        assert [g.shape for g in grads] == [t.shape for t in inputs]
        assert all((g == 0).all() for g in grads[:3])


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[Tensor], Tensor | None]:
    """Draw value, hidden, weight and bias in any layout, the value in any dtype, and a mask or None."""
    full = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    width, features = (draw(st.one_of(st.integers(1, 20), st.sampled_from([64, 70]))) for _ in range(2))
    generator = torch.Generator().manual_seed(draw(strategies.seeds))
    dtype = draw(strategies.dtypes)
    one_dtype = draw(st.booleans())

    def laid_out(tensor: Tensor, dtype: torch.dtype) -> Tensor:
        return strategies.lay_out(tensor.to(dtype), draw(strategies.layouts))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    leading = [full, draw(strategies.leading_shapes(full))]
    draw(st.randoms(use_true_random=False)).shuffle(leading)
    value = normal(*leading[0], features).sigmoid()
    inputs = [
        laid_out(value, dtype if one_dtype else draw(strategies.dtypes)),
        laid_out(normal(*leading[1], width), dtype),
        laid_out(normal(features, width) / width**0.5, dtype),
        laid_out(normal(features), dtype),
    ]
    if not draw(st.booleans()):
        return inputs, None
    return inputs, torch.rand(*draw(strategies.leading_shapes(full)), features, generator=generator) > 0.4


class TestResidualsKept(Contract):
    """The contract without recomputation, for observations that do not require a gradient."""

    names = ("hidden", "weight", "bias")

    @staticmethod
    def call(*inputs: Tensor, mask: Tensor | None = None, backend: str | None = None) -> Tensor:
        hidden, weight, bias = inputs
        floating = isinstance(hidden, Tensor) and hidden.is_floating_point()
        value = torch.linspace(0.0, 1.0, 21, dtype=hidden.dtype if floating else None).view(3, 7)
        return run(
            partial(iw.linear_bernoulli_log_prob, recompute=False),
            value,
            hidden,
            weight,
            bias,
            mask=mask,
            backend=backend,
        )

    example = staticmethod(lambda: TestLinearBernoulliLogProb.example()[1:])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, dtype: torch.dtype) -> None:
        """Compare with a linear layer and the density."""
        hidden, weight, bias = self.leaves(torch.float32)
        with torch.autocast("cpu", dtype=dtype):
            result = self.call(hidden, weight, bias)
        exact = self.call(hidden, weight, bias)
        torch.testing.assert_close(result, exact, rtol=2e-2, atol=2e-2)
        assert all(g.dtype == torch.float32 for g in torch.autograd.grad(result.sum(), [hidden, weight, bias]))

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("with_bias", [False, True])
    def test_mask(self, backend: str, with_bias: bool) -> None:
        hidden, weight, bias = self.example()
        mask = torch.rand(3, 7) < 0.5
        given = bias if with_bias else None
        leaves = [t.requires_grad_() for t in (hidden, weight)]
        ours = self.call(hidden, weight, given, mask=mask, backend=backend)
        exact = self.call(hidden, weight, given, mask=mask, backend="reference")
        torch.testing.assert_close(ours, exact)
        ours, exact = (torch.autograd.grad(t.square().sum(), leaves) for t in (ours, exact))
        torch.testing.assert_close(ours, exact)

    def test_a_coefficient_of_zero_stops_nan(self) -> None:
        hidden, weight, bias = self.leaves()
        poisoned = hidden.detach().clone()
        poisoned[1, 2] = torch.nan
        poisoned.requires_grad_()
        result = self.call(poisoned, weight, bias)
        assert result.isnan().sum() == 1
        incoming = torch.ones(2, 3).double()
        incoming[1, 2] = 0.0
        grad_hidden, grad_weight, grad_bias = torch.autograd.grad(result, [poisoned, weight, bias], incoming)
        assert (grad_hidden[1, 2] == 0).all()
        expected = torch.autograd.grad(self.call(hidden, weight, bias), [weight, bias], incoming)
        torch.testing.assert_close((grad_weight, grad_bias), expected)

    def test_one_array_as_large_as_the_logits(self) -> None:
        value, hidden, weight = torch.rand(5, 4096), torch.randn(20, 5, 8), torch.randn(4096, 8, requires_grad=True)
        with PeakMemory() as memory:
            iw.linear_bernoulli_log_prob(value, hidden, weight, recompute=False).sum().backward()
        logits = 4 * 20 * 5 * 4096
        assert logits <= memory.peak < 1.5 * logits


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_stored_residuals_on_every_backend(backend: str, dtype: torch.dtype, masked: bool) -> None:
    """Compare with the reference, on several blocks of features, the last of which is incomplete."""
    torch.manual_seed(0)
    inputs = [torch.rand(5, 130), torch.randn(3, 5, 20), torch.randn(130, 20), torch.randn(130)]
    inputs = [t.to(dtype) for t in inputs]
    mask = torch.rand(5, 130) < 0.7 if masked else None
    stored = partial(iw.linear_bernoulli_log_prob, mask=mask, recompute=False)
    exact = gradients(lambda *t: stored(inputs[0], *t, backend="reference"), inputs[1:], 1)
    ours = gradients(lambda *t: stored(inputs[0], *t, backend=backend), inputs[1:], 1)
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", TRITON)
def test_residuals_of_bfloat16_are_stored_in_it(backend: str) -> None:
    """Compare with float64, up to the roundings of residuals, weights and products; small coefficients stay nonzero."""
    value, *layer = torch.rand(5, 130), torch.randn(3, 5, 20), torch.randn(130, 20) / 5, torch.randn(130)
    layer = [t.bfloat16().requires_grad_() for t in layer]
    stored = partial(iw.linear_bernoulli_log_prob, value, recompute=False)
    ours = stored(*layer, backend=backend)
    incoming = 1e-6 * torch.rand(3, 5)
    found = torch.autograd.grad(ours, layer, incoming)
    doubles = [t.detach().double().requires_grad_() for t in layer]
    exact = stored(*doubles, backend="reference")
    torch.testing.assert_close(ours.double(), exact.detach(), rtol=1e-5, atol=1e-4)
    for gradient, expected in zip(found, torch.autograd.grad(exact, doubles, incoming.double()), strict=True):
        assert gradient.dtype == torch.bfloat16
        assert (gradient.double() - expected).abs().max() < 0.02 * expected.abs().max()
    kept = saved_bytes(backend, False, value, *layer)
    assert kept == 15 * (2 * 130 + 4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ["hidden", "value"])
def test_stored_residuals_of_nan(backend: str, where: str) -> None:
    """Check that NaN reaches the gradients of its row, unless the row's coefficient is zero."""
    value, hidden, weight = torch.rand(4, 6), torch.randn(2, 4, 3), torch.randn(6, 3)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    with torch.no_grad():
        (hidden[1, 2] if where == "hidden" else value[2])[0] = torch.nan
    result = iw.linear_bernoulli_log_prob(value, hidden, weight, recompute=False, backend=backend)
    assert result[1, 2].isnan()
    of_hidden, of_weight = torch.autograd.grad(result, leaves, torch.ones(2, 4), retain_graph=True)
    assert of_hidden[1, 2].isnan().all()
    assert of_weight.isnan().any(0).all()
    assert of_hidden[:, [0, 1, 3]].isfinite().all()
    without = torch.ones(2, 4)
    without[:, 2] = 0.0
    of_hidden, of_weight = torch.autograd.grad(result, leaves, without)
    assert (of_hidden[:, 2] == 0).all()
    assert of_weight.isfinite().all()


def saved_bytes(backend: str, recompute: bool, *inputs: Tensor) -> int:
    """Return the bytes that a call keeps for its backward pass, beside its inputs."""
    own = {t.untyped_storage().data_ptr() for t in inputs}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        iw.linear_bernoulli_log_prob(*inputs, recompute=recompute, backend=backend).sum()
    return sum(kept.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_kept_for_the_backward_pass(backend: str) -> None:
    """Recompute from the inputs alone, or keep residuals in the dtype of the call and a log-probability per row."""
    value, hidden, weight = torch.rand(5, 300), torch.randn(20, 5, 8), torch.randn(300, 8, requires_grad=True)
    assert saved_bytes(backend, True, value, hidden, weight) == 0
    assert saved_bytes(backend, False, value, hidden, weight) == 4 * 20 * 5 * (300 + 1)


def test_recomputing_takes_a_tenth_of_the_memory() -> None:
    """Compare the peak of a backward pass with the logits, where a tile is the share of the rows that it is for the
    papers' shape on a GPU; and that share itself."""
    rows = 50 * 1024
    assert 2 * linear.ROWS_A_TILE["cuda"] <= rows // 10  # a tile of logits and of their gradient
    value, hidden, weight = torch.rand(64, 2048), torch.randn(8, 64, 2), torch.randn(2048, 2, requires_grad=True)
    logits = 4 * 8 * 64 * 2048
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(linear.ROWS_A_TILE, "cpu", 8 * 64 * linear.ROWS_A_TILE["cuda"] // rows)
        with PeakMemory() as memory:
            iw.linear_bernoulli_log_prob(value, hidden, weight, recompute=True).sum().backward()
    assert memory.peak < logits / 10


@pytest.mark.parametrize("leading", [(), (3,), (5, 4), (2, 3, 4), (0, 3), (3, 0)])
@pytest.mark.parametrize("rows", [1, 4, 7, 100])
def test_tiles_cover_everything_once(leading: tuple[int, ...], rows: int) -> None:
    seen = torch.zeros(leading)
    for index in linear.tiles(leading, rows):
        seen[index] += 1
        assert seen[index].numel() <= rows or rows == 1
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 7), (3, 4, 6), (7, 5), (7,)), r"hidden \(3, 4, 6\) and weight \(7, 5\) must be \(..., H\) and \(D, H\)"),
        (((4, 7), (3, 4, 5), (7, 5), (5,)), r"bias must be \(7,\) as weight \(7, 5\), got \(5,\)"),
        (((4, 6), (3, 4, 5), (7, 5), (7,)), r"value must be \(..., 7\), got \(4, 6\)"),
        (((3, 7), (3, 4, 5), (7, 5), (7,)), "shapes do not broadcast"),
    ],
)
def test_bad_shapes(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        iw.linear_bernoulli_log_prob(*(torch.rand(shape) for shape in shapes))


def test_mixed_dtypes() -> None:
    with pytest.raises(TypeError, match="hidden, weight and bias must have one dtype"):
        iw.linear_bernoulli_log_prob(torch.rand(7), torch.rand(5).double(), torch.rand(7, 5))
