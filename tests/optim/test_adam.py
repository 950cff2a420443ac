"""Tests of iw.optim: the updates of torch's Adam and AdamW on every backend, and states that either can load."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from devices import ALL, COMPILED, device_of, place
from host_recorder import TapeRecorder
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

import iwae_fast as iw
from iwae_fast.backends import ENVIRONMENT, MISSING, NATIVE
from iwae_fast.ops import adam as ops

SHAPES = ((3, 5), (2050,), (1,), (0,), (), (4, 3, 2))
"""Whole and partial vectors and chunks, a number, and none."""

PAIRS = {"Adam": (iw.optim.Adam, torch.optim.Adam), "AdamW": (iw.optim.AdamW, torch.optim.AdamW)}


@pytest.fixture(params=ALL)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(ENVIRONMENT, request.param)
    return request.param


@pytest.fixture(params=COMPILED)
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(ENVIRONMENT, request.param)
    return request.param


def parameters(device: str, dtype: torch.dtype = torch.float64, shapes: Any = SHAPES) -> list[nn.Parameter]:
    torch.manual_seed(3)
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64).to(device, dtype)) for shape in shapes]


def copies(given: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach().clone()) for p in given]


def give_gradients(step: int, *lists: list[nn.Parameter], size: float = 1.0) -> None:
    """Set the same gradients in each list, a function of the step."""
    for index, together in enumerate(zip(*lists, strict=True)):
        generator = torch.Generator().manual_seed(1000 * step + index)
        gradient = size * torch.randn(together[0].shape, generator=generator, dtype=torch.float64)
        for parameter in together:
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


def agree(ours: list[nn.Parameter], theirs: list[nn.Parameter], tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def states_agree(ours: Any, theirs: Any, tolerance: float) -> None:
    one, other = ours.state_dict(), theirs.state_dict()
    assert one["state"].keys() == other["state"].keys()
    for index, state in one["state"].items():
        for name, tensor in state.items():
            found, expected = tensor.cpu(), other["state"][index][name].cpu()
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("Adam", {}),
    "weight decay": ("Adam", {"weight_decay": 0.1}),
    "AdamW": ("AdamW", {}),
    "strong AdamW": ("AdamW", {"weight_decay": 3.0, "betas": (0.0, 0.5), "eps": 1e-3}),
    "decoupled": ("Adam", {"weight_decay": 0.3, "decoupled_weight_decay": True}),
    "maximize": ("Adam", {"maximize": True, "weight_decay": 0.1, "betas": (0.5, 0.99)}),
    "rate as a tensor": ("Adam", {"lr": torch.tensor(0.03, dtype=torch.float64)}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_updates_are_torchs(backend: str, name: str) -> None:
    kind, options = SETTINGS[name]
    options = {"lr": 0.01, **options}
    ours = parameters(device_of(backend))
    theirs = copies(ours)
    optimizers = [make(params, **options) for make, params in zip(PAIRS[kind], (ours, theirs), strict=True)]
    for step in range(12):
        give_gradients(step, ours, theirs)
        for optimizer in optimizers:
            optimizer.step()
    agree(ours, theirs, 1e-12)
    states_agree(*optimizers, 1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 4e-6), (torch.bfloat16, 2e-2)]
)
def test_a_thousand_steps(compiled: str, dtype: torch.dtype, tolerance: float) -> None:
    ours = parameters(device_of(compiled), dtype, ((7, 3), (5,)))
    theirs = copies(ours)
    optimizers = iw.optim.Adam(ours, 0.01), torch.optim.Adam(theirs, 0.01, fused=True)
    for step in range(1000):
        give_gradients(step, ours, theirs)
        for optimizer in optimizers:
            optimizer.step()
    agree(ours, theirs, tolerance)
    states_agree(*optimizers, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(backend: str, dtype: torch.dtype) -> None:
    """Compare with float64 from the same start: the state is stored in the dtype of the parameter, as in torch."""
    ours = parameters(device_of(backend), dtype)
    theirs = copies(ours)
    optimizers = iw.optim.AdamW(ours, 0.01), torch.optim.AdamW(theirs, 0.01, fused=True)
    for step in range(4):
        give_gradients(step, ours, theirs)
        for optimizer in optimizers:
            optimizer.step()
    rounding = torch.finfo(dtype).eps
    agree(ours, theirs, 2 * rounding)
    states_agree(*optimizers, 2 * rounding)
    assert optimizers[0].state[ours[0]]["exp_avg"].dtype == dtype


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e6])
def test_gradients_are_clipped_together(backend: str, max_norm: float) -> None:
    ours = parameters(device_of(backend))
    theirs = copies(ours)
    optimizers = iw.optim.Adam(ours, 0.01, eps=0.1, max_norm=max_norm), torch.optim.Adam(theirs, 0.01, eps=0.1)
    for step in range(5):
        give_gradients(step, ours, theirs, size=0.1 + step)
        before = [p.grad.clone() for p in ours]
        optimizers[0].step()
        assert all(torch.equal(p.grad, old) for p, old in zip(ours, before, strict=True))
        torch.nn.utils.clip_grad_norm_(theirs, max_norm)
        optimizers[1].step()
    agree(ours, theirs, 1e-12)


def test_groups_of_several_dtypes_are_clipped_together(compiled: str) -> None:
    device = device_of(compiled)
    ours = [*parameters(device), *parameters(device, torch.float32, ((4,), (2050,)))]
    theirs = copies(ours)
    optimizers = [
        make([{"params": params[:2], "lr": 0.1}, {"params": params[2:], "betas": (0.5, 0.6)}], 0.01, **options)
        for make, params, options in (
            (iw.optim.Adam, ours, {"max_norm": 1.0}),
            (torch.optim.Adam, theirs, {}),
        )
    ]
    for step in range(3):
        give_gradients(step, ours, theirs)
        optimizers[0].step()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0, foreach=False)
        optimizers[1].step()
    agree(ours, theirs, 1e-6)


def test_a_norm_that_is_not_finite_spreads_as_in_torch(compiled: str) -> None:
    ours = parameters(device_of(compiled), shapes=((3,), (2,)))
    theirs = copies(ours)
    give_gradients(0, ours, theirs)
    for params in (ours, theirs):
        params[0].grad[1] = torch.inf
    iw.optim.Adam(ours, max_norm=1.0).step()
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    torch.optim.Adam(theirs).step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_sums_do_not_depend_on_threads(threads: int) -> None:
    gradients = [torch.randn(30000, generator=torch.Generator().manual_seed(1))]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = ops.sum_squares(gradients, "cpu") if MISSING["cpu"] is None else None
    finally:
        torch.set_num_threads(before)
    if found is None:
        pytest.skip(str(MISSING["cpu"]))
    assert len(found) == 15
    torch.testing.assert_close(found.sum(), gradients[0].double().square().sum(), rtol=1e-6, atol=0)
    expected = [chunk.double().square().sum() for chunk in gradients[0].split(2048)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize(
    "options", [{}, {"fused": True}, {"fused": True, "capturable": True}, {"foreach": True}], ids=str
)
def test_states_are_interchangeable(compiled: str, kind: str, options: dict[str, Any]) -> None:
    """Change the optimizer in the middle, both ways, and compare with torch's alone."""
    ours, theirs = PAIRS[kind]
    device = device_of(compiled)
    for makers in ((ours, theirs), (theirs, ours)):
        mixed = parameters(device)
        alone = copies(mixed)
        reference = theirs(alone, 0.01, weight_decay=0.1)

        def build(make: Any, params: Any = mixed) -> Any:
            return make(params, 0.01, weight_decay=0.1, **(options if make is theirs else {}))

        optimizer = build(makers[0])
        for step in range(8):
            if step == 4:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = build(makers[1])
                optimizer.load_state_dict(saved)
            give_gradients(step, mixed, alone)
            optimizer.step()
            reference.step()
        agree(mixed, alone, 1e-12)
        states_agree(optimizer, reference, 1e-12)


def test_a_loaded_state_is_not_shared() -> None:
    ours = parameters("cpu", shapes=((3,), (2,)))
    first = iw.optim.Adam(ours)
    give_gradients(0, ours)
    first.step()
    state = first.state_dict()
    shared = torch.tensor(5.0)
    for entry in state["state"].values():
        entry["step"] = shared
    second = iw.optim.Adam(ours, 0.5, max_norm=2.0)
    second.load_state_dict(state)
    second.step()
    assert shared == 5.0
    assert [second.state[p]["step"].item() for p in ours] == [6.0, 6.0]
    assert (second.max_norm, second.param_groups[0]["lr"]) == (2.0, 1e-3)


def test_pickles_and_copies() -> None:
    ours = parameters("cpu", shapes=((3,),))
    optimizer = iw.optim.Adam(ours, max_norm=0.1)
    give_gradients(0, ours)
    optimizer.step()
    for other in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        (parameter,) = other.param_groups[0]["params"]
        parameter.grad = ours[0].grad.clone()
        other.step()
        assert other.max_norm == 0.1
        assert other.state[parameter]["step"] == 2.0
    assert optimizer.state[ours[0]]["step"] == 1.0


@pytest.mark.parametrize("rate", [0.05, torch.tensor(0.05)], ids=["number", "tensor"])
@pytest.mark.parametrize(
    "schedule",
    [lambda o: CosineAnnealingLR(o, 8), lambda o: OneCycleLR(o, 0.1, total_steps=9)],
    ids=["cosine", "one cycle"],
)
def test_schedulers(compiled: str, rate: Any, schedule: Callable[[Any], Any]) -> None:
    device = device_of(compiled)
    ours = parameters(device)
    theirs = copies(ours)
    rates = [rate.clone().to(device) if isinstance(rate, Tensor) else rate for _ in range(2)]
    optimizers = iw.optim.Adam(ours, rates[0]), torch.optim.Adam(theirs, rates[1], fused=True)
    schedulers = [schedule(optimizer) for optimizer in optimizers]
    for step in range(8):
        give_gradients(step, ours, theirs)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
    agree(ours, theirs, 1e-8 if isinstance(rate, Tensor) else 1e-12)  # torch reads a tensor as float32
    assert optimizers[0].param_groups[0]["lr"] == optimizers[1].param_groups[0]["lr"]


def layouts(device: str) -> list[nn.Parameter]:
    torch.manual_seed(5)
    draw = partial(torch.randn, dtype=torch.float64)
    tensors = (
        draw(6, 8).t(),
        draw(6, 8)[:, ::3],
        draw(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        draw(30)[1:],  # not aligned to 16 bytes
        draw(1, 8).expand(4, 8).clone(memory_format=torch.preserve_format),
    )
    return [nn.Parameter(place(tensor, device)) for tensor in tensors]


def test_layouts_of_parameters_and_gradients(backend: str) -> None:
    ours = layouts(device_of(backend))
    theirs = [nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format)) for p in ours]
    optimizers = iw.optim.Adam(ours, 0.01, max_norm=3.0), torch.optim.Adam(theirs, 0.01)
    for step in range(4):
        give_gradients(step, ours, theirs)
        if step == 2:  # gradients of another layout than their parameters
            for parameter in ours:
                parameter.grad = parameter.grad.contiguous()
        optimizers[0].step()
        torch.nn.utils.clip_grad_norm_(theirs, 3.0)
        optimizers[1].step()
    agree(ours, theirs, 1e-12)


def test_a_state_of_another_layout_is_followed() -> None:
    ours = [nn.Parameter(torch.randn(3, 4).t())]
    theirs = [nn.Parameter(ours[0].detach().contiguous())]
    optimizers = iw.optim.Adam(ours), torch.optim.Adam(theirs)
    for step in range(4):
        if step == 2:
            optimizers[0].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
        give_gradients(step, ours, theirs)
        for optimizer in optimizers:
            optimizer.step()
    agree(ours, theirs, 1e-6)
    states_agree(*optimizers, 1e-6)


def test_views_of_one_tensor_are_parameters(compiled: str) -> None:
    """Update parts of a flat tensor that are parameters, without writing between them."""
    flat = torch.ones(20, device=device_of(compiled))
    ours = [nn.Parameter(flat[1:4]), nn.Parameter(flat[5:11].view(2, 3))]
    give_gradients(0, ours)
    iw.optim.Adam(ours, 0.1).step()
    changed = (flat != 1.0).nonzero().flatten().tolist()
    assert changed == [1, 2, 3, *range(5, 11)]


def test_parameters_without_gradients_are_left_alone(backend: str) -> None:
    ours = parameters(device_of(backend))
    theirs = copies(ours)
    optimizers = iw.optim.Adam(ours, 0.01, weight_decay=0.1), torch.optim.Adam(theirs, 0.01, weight_decay=0.1)
    optimizers[0].step()  # without any gradient
    for step in range(6):
        give_gradients(step, ours, theirs)
        for params in (ours, theirs):
            params[step % 3].grad = None
        for optimizer in optimizers:
            optimizer.step()
    agree(ours, theirs, 1e-12)
    states_agree(*optimizers, 1e-12)


def test_more_parameters_than_a_launch_takes(backend: str) -> None:
    ours = parameters(device_of(backend), shapes=[(1 + index % 5,) for index in range(150)])
    theirs = copies(ours)
    optimizers = iw.optim.Adam(ours, 0.01, max_norm=1.0), torch.optim.Adam(theirs, 0.01)
    for step in range(3):
        give_gradients(step, ours, theirs)
        optimizers[0].step()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        optimizers[1].step()
    agree(ours, theirs, 1e-12)
    states_agree(*optimizers, 1e-12)


@pytest.mark.parametrize("found", [0.0, 1.0])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_scaled_gradients_as_in_torchs_fused_adam(backend: str, found: float, max_norm: float | None) -> None:
    """Step as a GradScaler does: with its scale, and with a flag that skips the step."""
    device = device_of(backend)
    ours = parameters(device, torch.float32, ((2050,), (3,)))
    theirs = copies(ours)
    options = {"lr": 0.01, "eps": 0.1}
    optimizers = iw.optim.Adam(ours, max_norm=max_norm, **options), torch.optim.Adam(theirs, fused=True, **options)
    for step in range(3):
        give_gradients(step, ours, theirs)
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs, max_norm)
        for params in (ours, theirs):
            for parameter in params:
                parameter.grad *= 512.0
        for optimizer in optimizers:
            optimizer.grad_scale = torch.tensor(512.0, device=device)
            optimizer.found_inf = torch.tensor(found if step == 1 else 0.0, device=device)
            optimizer.step()
        if max_norm is None and not (found and step == 1):  # otherwise torch leaves the gradients as they are
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one.grad, other.grad)
    agree(ours, theirs, 1e-6)
    assert optimizers[0].state[ours[0]]["step"] == 3.0 - found


def test_grad_scaler() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    ours = parameters("cpu", torch.float32, ((3,),))
    optimizer = iw.optim.Adam(ours, 0.1)
    start = ours[0].detach().clone()
    for power in (1.0, torch.inf):
        optimizer.zero_grad()
        scaler.scale((ours[0] * power).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(ours[0].detach(), start - 0.1)
    assert scaler.get_scale() == 512.0
    assert optimizer.state[ours[0]]["step"] == 1.0


def test_autograd_notices_the_update() -> None:
    (parameter,) = ours = parameters("cpu", shapes=((3,),))
    loss = parameter.square().sum()
    loss.backward(retain_graph=True)
    iw.optim.Adam(ours).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_closure_and_groups_that_are_added_later() -> None:
    ours = parameters("cpu", shapes=((3,), (2,)))
    optimizer = iw.optim.Adam(ours[:1])
    optimizer.add_param_group({"params": ours[1:], "lr": 0.5})

    def closure() -> Tensor:
        loss = sum(p.sum() for p in ours)
        loss.backward()
        return loss

    before = [p.detach().clone() for p in ours]
    assert optimizer.step(closure) == sum(p.sum() for p in before)
    for parameter, old, rate in zip(ours, before, (1e-3, 0.5), strict=True):
        torch.testing.assert_close(parameter.detach(), old - rate)


def test_steps_are_recorded_on_a_tape(compiled: str) -> None:
    """Replay the operations of a step without its Python code, as a CUDA graph does."""
    if device_of(compiled) != "cpu":
        pytest.skip("a tape records operations on the CPU")
    ours = parameters("cpu")
    theirs = copies(ours)
    rate = torch.tensor(0.01)
    optimizer, other = iw.optim.Adam(ours, rate, max_norm=1.0), iw.optim.Adam(theirs, 0.01, max_norm=1.0)
    give_gradients(0, ours, theirs)
    optimizer.step()
    other.step()
    recording = TapeRecorder().record(optimizer.step)
    for _ in range(3):
        recording.replay()
        other.step()
    agree(ours, theirs, 1e-7)
    rate.fill_(0.5)
    recording.replay()
    other.param_groups[0]["lr"] = 0.5
    other.step()
    agree(ours, theirs, 1e-7)
    assert optimizer.state[ours[0]]["step"] == 5.0


def test_the_compiler_sees_one_op() -> None:
    if MISSING["cpu"] is not None:
        pytest.skip(str(MISSING["cpu"]))
    ours = parameters("cpu", shapes=((3,), (2,)))
    theirs = copies(ours)
    optimizers = iw.optim.Adam(ours, 0.01), iw.optim.Adam(theirs, 0.01)
    compiled_step = torch.compile(optimizers[0].step, backend="aot_eager")
    for step in range(3):
        give_gradients(step, ours, theirs)
        compiled_step()
        optimizers[1].step()
    agree(ours, theirs, 0.0)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "amsgrad": ({"amsgrad": True}, ValueError, "amsgrad must be False, got True"),
    "foreach": ({"foreach": True}, ValueError, "foreach must be None or False, got True"),
    "fused": ({"fused": False}, ValueError, "fused must be None or True, got False"),
    "differentiable": ({"differentiable": True}, ValueError, "differentiable must be False, got True"),
    "lr": ({"lr": -1.0}, ValueError, "lr must be at least 0, got -1.0"),
    "rates": ({"lr": torch.ones(2)}, ValueError, r"lr must be a number or a tensor of one element, got .*\(2,\)"),
    "betas": ({"betas": (0.9, 1.0)}, ValueError, r"betas must be in \[0, 1\), got \(0.9, 1.0\)"),
    "beta": ({"betas": 0.9}, TypeError, "betas must be two numbers, got 0.9"),
    "eps": ({"eps": -1e-8}, ValueError, "eps must be at least 0 and finite, got -1e-08"),
    "decay": ({"weight_decay": torch.inf}, ValueError, "weight_decay must be at least 0 and finite, got inf"),
    "norm": ({"max_norm": -1.0}, ValueError, "max_norm must be None or at least 0, got -1.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_are_refused(name: str) -> None:
    options, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        iw.optim.Adam([nn.Parameter(torch.ones(2))], **options)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, dtype=torch.complex64), "parameter 1 must be float32, float64 or bfloat16, got torch.complex64"),
        (torch.ones(2, dtype=torch.float16), "parameter 1 must be float32, float64 or bfloat16, got torch.float16"),
        (torch.eye(2).to_sparse(), "parameter 1 must be a dense tensor, got one that is torch.sparse_coo"),
    ],
    ids=["complex", "half", "sparse"],
)
def test_parameters_that_are_refused(tensor: Tensor, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        iw.optim.Adam([nn.Parameter(torch.ones(2)), nn.Parameter(tensor)])


def test_more_that_is_refused() -> None:
    ours = parameters("cpu", torch.float32, ((3, 2),))
    optimizer = iw.optim.AdamW(ours)
    ours[0].grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(TypeError, match="gradients must be dense tensors, got one that is torch.sparse_coo"):
        optimizer.step()
    with pytest.raises(TypeError, match="AdamW does not take decoupled_weight_decay"):
        iw.optim.AdamW(ours, decoupled_weight_decay=False)
    with pytest.raises(ValueError, match="amsgrad must be False, got True"):
        optimizer.load_state_dict(torch.optim.Adam(ours, amsgrad=True).state_dict())
    with pytest.raises(ValueError, match="foreach must be None or False, got True"):
        optimizer.add_param_group({"params": [], "foreach": True})


def test_parameters_are_served_where_there_are_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    number = torch.ones(1)
    for name in ("cpu", "cuda"):
        if NATIVE[name].unavailable() is None:
            monkeypatch.setenv(ENVIRONMENT, name)
            assert ops.serving(number.to(device_of(name))) == name
    monkeypatch.setenv(ENVIRONMENT, "reference")
    assert ops.serving(number) == "reference"
    monkeypatch.delenv(ENVIRONMENT)
    assert ops.serving(number.to("meta")) == ops.serving(number.half()) == "reference"
