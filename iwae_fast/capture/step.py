"""A whole training step as a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import checks
from ..models import LatentVariableModel
from ..objectives import Objective
from ..objectives.record import StepRecord
from ..ops.samples import seed_tensor
from ..seeds import Purpose, first_seed
from .obstacles import obstacle, settings
from .program import Program
from .rates import Rates
from .recorder import CudaGraphs, Recorder, unavailable

MOST_GRAPHS = 16
"""Of one step, each for another kind of batch; further kinds are run without one."""


class CapturedStep:
    """``loss = step(x)``: a step of training (noise, objective, backward pass, optimizer) that a GPU repeats by itself.

        model = iw.models.DenseVAE(784).cuda()
        objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=50)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=True)
        step = iw.CapturedStep(objective, model, optimizer, seed=0)
        for x in batches:          # on the model's device
            loss = step(x)         # detached, on the device; nothing waits
        print(step.reason)         # None, or why steps were taken one by one

    A call is ``optimizer.zero_grad()``, ``objective(model, x, seed=step.seed)``, ``backward()``, ``optimizer.step()``,
    and one more for the seed: the same updates as a loop of these. For each kind of batch (shapes, dtypes, with or
    without a mask, autocast, training mode, which parameters are trained) the first two calls run so; the third
    captures a graph, in memory that all graphs share, and from then on calls copy the batch into the graph's own memory
    and replay it. Beyond 16 kinds, further ones go without a graph.

    Learning rates are followed, in float32: change ``optimizer.param_groups[i]["lr"]`` or let a scheduler do so.
    Everything else that Python does happens in the first calls of a kind only. So hooks of the optimizer must do their
    work with tensors (as ``clip_grad_norm_`` in ``optimizer.register_step_pre_hook`` does), and a ``GradScaler`` does
    not go with it: train half precision in bfloat16. Gradients are those of the last step until the next one, in a
    graph's memory.

    What cannot be captured is run step by step, with a warning and the same results: see :attr:`reason`. Known from the
    start are a model that is not on a CUDA device, a tolerance, SUMO, a schedule of kl_weight, hooks of modules and
    parameters, and optimizers that are not ``capturable``; SGD is captured with ``fused=True``. What waits for the
    device, as posteriors that are torch.distributions objects do, shows in the second call.

    To go on with a run later, save ``step.state_dict()`` beside those of the model and the optimizer.

    Args:
        objective: of reduction "mean" or "sum".
        model: what it is called with; on its device, and with the optimizer made, beforehand.
        optimizer: of the model's parameters. Loading a state into it later is allowed, and captures anew.
        seed: an int in [0, 2^63) that the noise of all steps follows from; from torch's generator if None.
        recorder: what captures; CUDA graphs if None. For tests of programs around it.

    Raises TypeError or ValueError for arguments that are not these.
    """

    def __init__(
        self,
        objective: Objective,
        model: LatentVariableModel,
        optimizer: Optimizer,
        *,
        seed: int | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        if not isinstance(objective, Objective):
            raise TypeError(f"objective must be an iwae_fast.Objective, got {type(objective).__name__}")
        objective.check_model(model)
        if objective.reduction == "none":
            raise ValueError("objective must have reduction 'mean' or 'sum': of 'none' there is no one loss to descend")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        self.objective, self.model, self.optimizer = objective, model, optimizer
        self._parameters = tuple(model.parameters())
        if not self._parameters:
            raise ValueError("model has no parameters")
        self.device = self._parameters[0].device
        run_seed = int(seed_tensor(seed, torch.device("cpu")))
        self.seed = seed_tensor(first_seed(run_seed, Purpose.LATENTS), self.device)
        """The seed of the next call's noise, an int64 scalar on the device; each call adds one."""
        self.calls = 0
        """The number of calls so far, by which a schedule of kl_weight is asked."""
        self.reason: str | None = None
        """Why steps are run one by one; None as long as nothing is known against capturing them."""
        self._recorder = recorder
        self._rates = Rates(optimizer, self.device)
        self._kinds: dict[Any, _Kind] = {}
        self._settings = settings(optimizer)
        optimizer.register_load_state_dict_post_hook(self._forget)
        reason = (unavailable(self.device) if recorder is None else None) or obstacle(objective, model, optimizer)
        if reason is not None:
            self._give_up(reason)
        elif recorder is None:
            self._recorder = CudaGraphs(self.device)

    def __call__(self, x: Tensor, *context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Take a step; returns the loss before it, a detached scalar on the device, without waiting for it.

        Args:
            x, context, mask: as of :class:`iwae_fast.Objective`, on the model's device.
        """
        batch = _Batch(x, context, mask)
        self.model.check_batch(x, context)
        batch.check(self.device)
        self.model.check_first_observations(x, mask)  # here, since a rehearsal must not wait for the device
        self.calls += 1
        if self.reason is None and self._settings != settings(self.optimizer):
            self._give_up("a setting of the optimizer other than its learning rate changed, which graphs hold fixed")
        if self.reason is not None:
            return self._run(batch).loss
        self._rates.follow()
        if (kind := self._kind(batch)) is None:
            return self._run_at_device_rates(batch).loss
        kind.batch.copy_(batch)
        result = kind.program()
        if kind.program.reason is not None:
            self._give_up(kind.program.reason)
        if not kind.program.recorded:
            return result.loss
        self.objective.record = result.record._replace(shares_buffers=True)
        for parameter, gradient in zip(self._parameters, result.gradients, strict=True):
            parameter.grad = gradient
        return result.loss.clone()

    def state_dict(self) -> dict[str, Any]:
        """Return what a run needs to go on, beside the states of the model and the optimizer.

        The entries are "seed", of the next step's noise, and "calls", the number of steps so far: numbers, which
        :func:`torch.save` and JSON take. Reading the seed waits for the device.
        """
        return {"seed": int(self.seed), "calls": self.calls}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; captured graphs stay valid.

        The states of the model and the optimizer are loaded by themselves. Raises TypeError or ValueError for what is
        not such a state.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be what state_dict() returned, got {type(state_dict).__name__}")
        if state_dict.keys() != {"seed", "calls"}:
            raise ValueError(f"state_dict must have 'seed' and 'calls', got {', '.join(map(repr, state_dict))}")
        seed, calls = state_dict["seed"], state_dict["calls"]
        for name, value in (("seed", seed), ("calls", calls)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"state_dict[{name!r}] must be an int, got {type(value).__name__}")
        if calls < 0:
            raise ValueError(f"state_dict['calls'] must be at least 0, got {calls}")
        self.seed.copy_(seed_tensor(seed, torch.device("cpu")))
        self.calls = calls

    def _kind(self, batch: _Batch) -> _Kind | None:
        """None for kinds beyond those that have graphs."""
        signature = (*batch.signature(), *self._circumstances())
        kind = self._kinds.get(signature)
        if kind is None and len(self._kinds) < MOST_GRAPHS:
            own = batch.like()
            kind = self._kinds[signature] = _Kind(own, Program(lambda: self._run_at_device_rates(own), self._recorder))
        return kind

    def _circumstances(self) -> tuple[Any, ...]:
        """What else a graph holds fixed."""
        device = self.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return autocast, self.model.training, *((p.data_ptr(), p.requires_grad) for p in self._parameters)

    def _run_at_device_rates(self, batch: _Batch) -> _Result:
        with self._rates:
            return self._run(batch)

    def _run(self, batch: _Batch) -> _Result:
        device = self.device.type
        self.optimizer.zero_grad()
        with torch.enable_grad():
            # Weights cast earlier would be the earlier weights in every replay.
            with torch.autocast(
                device,
                dtype=torch.get_autocast_dtype(device),
                enabled=torch.is_autocast_enabled(device),
                cache_enabled=False,
            ):
                loss = self.objective(
                    self.model, batch.x, *batch.context, mask=batch.mask, seed=self.seed, step=self.calls - 1
                )
            loss.backward()
        self.optimizer.step()
        self.seed.add_(1)
        return _Result(loss.detach(), cast(StepRecord, self.objective.record), tuple(p.grad for p in self._parameters))

    def _forget(self, *_: object) -> None:
        """Graphs that hold the optimizer's earlier state."""
        self._kinds.clear()
        if self._recorder is not None:
            self._recorder.forget()
        self._settings = settings(self.optimizer)

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._kinds.clear()
        warnings.warn(f"training steps are run one by one, not captured: {reason}", stacklevel=3)


class _Batch(NamedTuple):
    """What a step is given."""

    x: Tensor
    context: tuple[Tensor, ...]
    mask: Tensor | None

    def _tensors(self) -> tuple[Tensor, ...]:
        return (self.x, *self.context) if self.mask is None else (self.x, *self.context, self.mask)

    def check(self, device: torch.device) -> None:
        if self.mask is not None:
            checks.mask(self.mask, tuple(self.x.shape), self.x.device)
        for tensor in self._tensors():
            if tensor.device != device:
                raise ValueError(f"x, context and mask must be on the model's device {device}, got {tensor.device}")

    def signature(self) -> tuple[Any, ...]:
        return self.mask is None, *((t.shape, t.stride(), t.dtype) for t in self._tensors())

    def like(self) -> _Batch:
        """Memory for as much."""
        mask = None if self.mask is None else torch.empty_like(self.mask)
        return _Batch(torch.empty_like(self.x), tuple(map(torch.empty_like, self.context)), mask)

    @torch.no_grad()
    def copy_(self, other: _Batch) -> None:
        for own, given in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(given)


class _Result(NamedTuple):
    """What a step leaves."""

    loss: Tensor
    record: StepRecord
    gradients: tuple[Tensor | None, ...]


class _Kind(NamedTuple):
    """Batches that one graph serves."""

    batch: _Batch
    """What its steps read."""
    program: Program
