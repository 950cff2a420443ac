"""Tests of steps whose networks run through torch.compile: recorded with the compiled code, equal to eager steps to
rounding, and nothing of it in what is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from host_recorder import TapeRecorder
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.distributions import Distribution

import iwae_fast as iw
from iwae_fast.capture import compiled

pytestmark = pytest.mark.filterwarnings("ignore:training steps are run one by one:UserWarning")


class Halves(nn.Module):
    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        first, second = value.chunk(2, -1)
        return first, second


def convolutional() -> iw.models.VAE:
    torch.manual_seed(1)
    encoder = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 2, 2), nn.ReLU(), nn.Flatten(), Halves())
    decoder = nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 1, 2, 2), nn.Flatten())
    return iw.models.VAE(encoder, decoder)


def two_layers() -> iw.models.DenseVAE:
    torch.manual_seed(1)
    return iw.models.DenseVAE(16, (4, 2), ((6,), (5,)))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Compile to torch's operations, which a tape records; return the list of compiled calls, with their number of
    operations."""
    calls: list[int] = []

    def compile_graph(graph: torch.fx.GraphModule, inputs: Any) -> Callable[[list[Any]], Any]:
        def call(arguments: list[Any]) -> Any:
            calls.append(sum(node.op == "call_function" for node in graph.graph.nodes))
            return graph.forward(*arguments)

        call._boxed_call = True  # type: ignore[attr-defined]
        return call

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", aot_autograd(fw_compiler=compile_graph))
    yield calls
    torch._dynamo.reset()


def step_of(model: iw.models.VAE, recorder: TapeRecorder | None = None, **options: Any) -> iw.CapturedStep:
    objective = iw.Objective(iw.bounds.IWAE(), "dreg", 4)
    return iw.CapturedStep(
        objective, model, iw.optim.Adam(model.parameters(), lr=1e-2), seed=5, recorder=recorder, **options
    )


def batches(*sizes: int) -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.rand(size, 16).round() for size in sizes]


@pytest.mark.parametrize(
    ("build", "calls", "sizes"),
    [
        pytest.param(convolutional, 2, (5, 5, 3, 5, 3, 5, 3, 5), id="batches of two sizes"),
        # The upper encoder is called a second time, with its parameters held fixed, as DReG needs it.
        pytest.param(two_layers, 5, (5, 5, 5, 5), id="two layers"),
    ],
)
def test_compiled_steps_are_recorded(
    build: Callable[[], iw.models.VAE], calls: int, sizes: tuple[int, ...], ran: list[int]
) -> None:
    kinds, recorder = len(set(sizes)), TapeRecorder()
    step, plain = step_of(build(), recorder, compile=True), step_of(build(), TapeRecorder())
    losses = []
    for x in batches(*sizes):
        losses.append(step(x))
        torch.testing.assert_close(losses[-1], plain(x))
    assert step.reason is None
    assert (recorder.rehearsed, recorder.recorded, recorder.replayed) == (2 * kinds, kinds, len(sizes) - 2 * kinds)
    # Two rehearsals and a recording for each shape, forward and backward; a replay calls no compiled code.
    assert len(ran) == 3 * kinds * 2 * calls
    assert min(ran) > 1
    torch.testing.assert_close(step.model.state_dict(), plain.model.state_dict())
    assert len({loss.item() for loss in losses}) == len(losses)


def test_nothing_is_compiled_outside_of_the_step(ran: list[int]) -> None:
    model, untouched = convolutional(), convolutional()
    (x,) = batches(5)
    step = step_of(model, compile=True)
    step(x)
    assert len(ran) == 4
    assert list(model.state_dict()) == list(untouched.state_dict())
    assert all(vars(module).get("_compiled_call_impl") is None for module in model.modules())
    model.encode(x)
    iw.Objective(iw.bounds.IWAE(), num_samples=2)(model, x)
    assert len(ran) == 4


def test_a_compiled_run_goes_on_without_the_compiler(ran: list[int]) -> None:
    data = batches(*[5] * 7)
    whole, first, second = (step_of(convolutional(), TapeRecorder(), compile=on) for on in (True, True, False))
    for x in data[:4]:
        whole(x), first(x)
    for name in ("model", "optimizer"):
        getattr(second, name).load_state_dict(getattr(first, name).state_dict())
    second.load_state_dict(first.state_dict())
    for x in data[4:]:
        torch.testing.assert_close(second(x), whole(x))


def test_models_of_one_structure_share_what_is_compiled(ran: list[int]) -> None:
    torch._dynamo.utils.counters.clear()
    (x,) = batches(5)
    for _ in range(5):
        step_of(convolutional(), compile=True)(x)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_networks_that_were_compiled_stay_so(ran: list[int]) -> None:
    model = convolutional()
    model.encoder.compile(backend="eager")
    own = model.encoder._compiled_call_impl
    step_of(model, compile=True)(batches(5)[0])
    assert model.encoder._compiled_call_impl is own
    assert len(ran) == 2  # of the decoder


def test_distributions_are_validated_as_before(ran: list[int]) -> None:
    torch._dynamo.eval_frame.TorchPatcher.patch.cache_clear()
    before = Distribution._validate_args
    try:
        for setting in (True, False):
            Distribution.set_default_validate_args(setting)
            step_of(convolutional(), compile=True)(batches(5)[0])
            assert Distribution._validate_args is setting
    finally:
        Distribution.set_default_validate_args(before)


def test_what_torch_compile_cannot_serve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = iw.models.RandomWeightsVAE(16, 2, (4,))
    with pytest.raises(ValueError, match="compile must be False: .* RandomWeightsVAE draws the weights"):
        step_of(model, compile=True)
    with pytest.raises(TypeError, match="compile must be True or False, got 'max-autotune'"):
        step_of(convolutional(), compile="max-autotune")
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    assert compiled.refusal(convolutional(), torch.device("cuda")) == "on cuda it needs Triton, which is not installed"
    assert compiled.refusal(convolutional(), torch.device("cpu")) is None
    assert "the model is on meta" in str(compiled.refusal(convolutional(), torch.device("meta")))


def test_an_error_of_the_compiler_names_the_way_out(ran: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        raise ZeroDivisionError("no such kernel")

    monkeypatch.setattr(compiled, "BACKEND", failing)
    model = convolutional()
    step = step_of(model, compile=True)
    with pytest.raises(RuntimeError, match=r"torch.compile failed .* of VAE: .*compile=False .*ZeroDivisionError: no"):
        step(batches(5)[0])
    assert model.encoder._compiled_call_impl is None


def test_errors_of_the_observations_stay_theirs(ran: list[int]) -> None:
    step = step_of(two_layers(), compile=True)
    with pytest.raises(ValueError, match=r"x must have 16 features per observation, got shape \(5, 15\)"):
        step(torch.zeros(5, 15))


@pytest.mark.slow
def test_the_compiler_itself() -> None:
    """Compile to machine code, which takes half a minute."""
    torch._dynamo.reset()
    step, plain = step_of(convolutional(), compile=True), step_of(convolutional())
    for x in batches(5, 5, 3):
        torch.testing.assert_close(step(x), plain(x))
    torch.testing.assert_close(step.model.state_dict(), plain.model.state_dict())
