"""A complete training step as a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import checks
from ..backends.serving import launched_by_a_graph
from ..deprecation import context_of
from ..models import LatentVariableModel
from ..objectives import Objective
from ..objectives.ranks import ONE_PROCESS, MeshRanks, Ranks
from ..objectives.record import StepRecord
from .compiled import CompiledNetworks
from .obstacles import obstacle, settings
from .program import Program
from .rates import Rates
from .recorder import CudaGraphs, Recorder, unavailable
from .resumable import Resumable

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

MOST_GRAPHS = 16
"""The most graphs of one step, one per kind of batch; further kinds run without a graph."""


class CapturedStep(Resumable):
    """A training step (noise, objective, backward pass, optimizer), captured as a CUDA graph: ``loss = step(x)``.

        model = iw.models.DenseVAE(784).cuda()
        objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=50)
        optimizer = iw.optim.Adam(model.parameters(), lr=1e-3)
        step = iw.CapturedStep(objective, model, optimizer, seed=0)
        for x in batches:          # on the model's device
            loss = step(x)         # detached, on the device; no host-device synchronization
        print(step.reason)         # None, or the reason why steps are not captured

    A call performs ``optimizer.zero_grad()``, ``objective(model, x, seed=step.seed)``, ``backward()`` and
    ``optimizer.step()``, and increments the seed: the same updates as a loop over these. For each kind of batch
    (shapes, dtypes, with or without a mask, autocast, training mode, which parameters are trained) the first two calls
    run this way. The third captures a graph, in a memory pool shared by all graphs; from then on, calls copy the batch
    into the graph's memory and replay it. After 16 kinds of batches, further kinds run without a graph.

    Changes of the learning rates take effect, in float32: set ``optimizer.param_groups[i]["lr"]`` or use a scheduler.
    All other Python code runs only in the first calls of each kind. Hooks of the optimizer must therefore work on
    tensors only (as ``clip_grad_norm_`` in ``optimizer.register_step_pre_hook`` does; ``iw.optim.Adam`` clips by itself
    with ``max_norm``), and a ``GradScaler`` cannot be used: train half precision in bfloat16. Gradients
    of a step stay available until the next one, in the graph's memory.

    Steps that cannot be captured run without a graph, with a warning and the same results: see :attr:`reason`. Detected
    at construction are a model that is not on a CUDA device, a tolerance, SUMO, a schedule of kl_weight, hooks of
    modules and parameters, and optimizers that are not ``capturable``; SGD requires ``fused=True``. Operations that
    force a device synchronization, as posteriors that are torch.distributions objects do, are detected in the second
    call.

    With ``compile`` the networks run through torch.compile inside of the step, captured or not: the same updates to
    rounding, with fewer and faster kernels where the networks are not the package's own, such as convolutions. The
    first calls of each kind compile, which takes seconds to minutes. Outside of the step the networks are as they were,
    and ``state_dict()`` and saved models do not differ. The decoder is then compiled as a whole, so the last layer of a
    :class:`iwae_fast.models.linear_output.LinearOutput` is not fused with the likelihood.

    On a ``mesh`` every rank makes the step of its own observations and samples, as with :meth:`Objective.bind`, and one
    all-reduce averages all gradients before the update; with NCCL these exchanges are part of the graph. The step
    begins with the parameters, buffers and the seed of the first rank. Do not wrap the model in
    DistributedDataParallel.

    To resume a run later, save ``step.state_dict()`` together with those of the model and the optimizer.

    Args:
        objective: an :class:`iwae_fast.Objective` with reduction "mean" or "sum".
        model: the model passed to the objective. Move it to its device before creating the optimizer and this step.
        optimizer: an optimizer of the model's parameters. Loading a state into it later discards the graphs.
        seed: an int in [0, 2^63) that determines the noise of all steps; drawn from torch's generator if None.
        mesh: a torch DeviceMesh, as in :meth:`Objective.bind`; None for one process.
        compile: True to run the networks through torch.compile.
        recorder: the capture mechanism; CUDA graphs if None. For tests.

    Raises:
        TypeError, ValueError: an argument is invalid, or torch.compile cannot serve the model; the message names it.
        RuntimeError: in a call, torch.compile failed; the message has its reason.
    """

    def __init__(
        self,
        objective: Objective,
        model: LatentVariableModel,
        optimizer: Optimizer,
        *,
        seed: int | Tensor | None = None,
        mesh: DeviceMesh | None = None,
        compile: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        if not isinstance(objective, Objective):
            raise TypeError(f"objective must be an iwae_fast.Objective, got {type(objective).__name__}")
        objective.check_model(model)
        if objective.reduction == "none":
            raise ValueError("objective must have reduction 'mean' or 'sum': 'none' does not produce a scalar loss")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if not isinstance(compile, bool):
            raise TypeError(f"compile must be True or False, got {compile!r}")
        self.objective: Objective = objective
        self.model: LatentVariableModel = model
        self.optimizer: Optimizer = optimizer
        self._parameters = tuple(model.parameters())
        if not self._parameters:
            raise ValueError("model has no parameters")
        self.device: torch.device = self._parameters[0].device
        super().__init__(seed, self.device)
        self.ranks: Ranks = ONE_PROCESS if mesh is None else MeshRanks(mesh)
        """The processes that take steps together."""
        self.ranks.copy_from_first((*self._parameters, *model.buffers(), self.seed))
        self.reason: str | None = None
        """The reason why steps are not captured, or None if they are."""
        self._networks = CompiledNetworks(model) if compile else nullcontext()
        self._recorder = recorder
        self._rates = Rates(optimizer, self.device)
        self._kinds: dict[Any, _Kind] = {}
        self._settings = settings(optimizer)
        optimizer.register_load_state_dict_post_hook(self._forget)
        reason = (unavailable(self.device, self.ranks) if recorder is None else None) or obstacle(
            objective, model, optimizer
        )
        if reason is not None:
            self._give_up(reason)
        elif recorder is None:
            self._recorder = CudaGraphs(self.device)

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """The stream on which steps are captured; None if they are not captured as CUDA graphs."""
        return self._recorder.stream if isinstance(self._recorder, CudaGraphs) else None

    @property
    def meshed(self) -> bool:
        """True if several processes take the steps together."""
        return self.ranks is not ONE_PROCESS

    def __call__(
        self,
        x: Tensor,
        *positional: Tensor,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        observation_offset: int | None = None,
    ) -> Tensor:
        """Take a training step, without a device synchronization.

        Args:
            x, context, mask: as for :class:`iwae_fast.Objective`, on the model's device; on a mesh, those of this
                rank.
            observation_offset: index of x[0] in the batch. A graph has it baked in. If None on a mesh, ranks exchange
                their numbers of observations before the step, which forces a device synchronization.

        Returns:
            The loss before the update, a detached scalar on the device.
        """
        context = context_of(positional, context)
        self.model.check_batch(x, context)
        offset = self.ranks.first_observation(observation_offset, x.shape[0], self.device)
        batch = _Batch(x, context, mask, offset)
        batch.check(self.device)
        self.model.check_first_observations(x, mask)  # here, since it synchronizes, which a rehearsal must not do
        self.calls += 1
        if self.reason is None and self._settings != settings(self.optimizer):
            self._give_up("a setting of the optimizer other than its learning rate changed, which graphs cannot follow")
        if self.reason is not None:
            return self._run(batch).loss
        self._rates.sync()
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

    def _kind(self, batch: _Batch) -> _Kind | None:
        """Return the kind of a batch, or None if the limit of graphs is reached."""
        signature = (*batch.signature(), *self._circumstances())
        kind = self._kinds.get(signature)
        if kind is None and len(self._kinds) < MOST_GRAPHS:
            own = batch.like()
            kind = self._kinds[signature] = _Kind(own, Program(lambda: self._run_at_device_rates(own), self._recorder))
        return kind

    def _circumstances(self) -> tuple[Any, ...]:
        """Return the settings besides the batch's signature that a graph has baked in."""
        device = self.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return autocast, self.model.training, *((p.data_ptr(), p.requires_grad) for p in self._parameters)

    def _run_at_device_rates(self, batch: _Batch) -> _Result:
        with self._rates:
            return self._run(batch)

    def _run(self, batch: _Batch) -> _Result:
        device = self.device.type
        self.optimizer.zero_grad()
        with torch.enable_grad(), launched_by_a_graph(), self._networks:
            # Without autocast's cache: weights cast before the capture would be the old weights in every replay.
            with torch.autocast(
                device,
                dtype=torch.get_autocast_dtype(device),
                enabled=torch.is_autocast_enabled(device),
                cache_enabled=False,
            ):
                loss = self.objective(
                    self.model,
                    batch.x,
                    context=batch.context,
                    mask=batch.mask,
                    seed=self.seed,
                    observation_offset=batch.observation_offset,
                    step=self.calls - 1,
                    ranks=self.ranks,
                )
            loss.backward()
        self.ranks.average_gradients(self._parameters)
        self.optimizer.step()
        self.seed.add_(1)
        return _Result(loss.detach(), cast(StepRecord, self.objective.record), tuple(p.grad for p in self._parameters))

    def _forget(self, *_: object) -> None:
        """Discard the graphs, which refer to the optimizer's earlier state."""
        self._kinds.clear()
        if self._recorder is not None:
            self._recorder.forget()
        self._settings = settings(self.optimizer)

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self._kinds.clear()
        warnings.warn(f"training steps are run one by one, not captured: {reason}", stacklevel=3)


class _Batch(NamedTuple):
    """The inputs of a step."""

    x: Tensor
    context: tuple[Tensor, ...]
    mask: Tensor | None
    observation_offset: int

    def _tensors(self) -> tuple[Tensor, ...]:
        return (self.x, *self.context) if self.mask is None else (self.x, *self.context, self.mask)

    def check(self, device: torch.device) -> None:
        if self.mask is not None:
            checks.mask(self.mask, tuple(self.x.shape), self.x.device)
        for tensor in self._tensors():
            if tensor.device != device:
                raise ValueError(f"x, context and mask must be on the model's device {device}, got {tensor.device}")

    def signature(self) -> tuple[Any, ...]:
        return self.mask is None, self.observation_offset, *((t.shape, t.stride(), t.dtype) for t in self._tensors())

    def like(self) -> _Batch:
        """Allocate an uninitialized batch of the same shapes and dtypes."""
        mask = None if self.mask is None else torch.empty_like(self.mask)
        context = tuple(map(torch.empty_like, self.context))
        return _Batch(torch.empty_like(self.x), context, mask, self.observation_offset)

    @torch.no_grad()
    def copy_(self, other: _Batch) -> None:
        for own, given in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(given)


class _Result(NamedTuple):
    """The results of a step."""

    loss: Tensor
    record: StepRecord
    gradients: tuple[Tensor | None, ...]


class _Kind(NamedTuple):
    """The memory and the program for batches with the same signature."""

    batch: _Batch
    """The memory from which the steps read."""
    program: Program
