"""Many training steps in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .. import checks
from ..backends import NATIVE
from ..capture.resumable import Resumable
from ..models import DenseVAE
from ..objectives import Objective
from ..objectives.record import StepRecord
from ..ops.samples import seed_number
from ..optim import Adam
from .items import METRICS, TensorWords
from .plan import Layer, Network, Plan, TooLargeError, plan_step
from .served import BACKEND, layers_of, refusal

MOST_PROGRAM_BYTES = 32 << 10
"""The largest program, which every block keeps in its shared memory."""

MOST_PLANS = 8
"""The most plans of one step, one per batch size; a further one replaces the oldest."""

CHECKED_OBSERVATIONS = 1024
"""The first observations, which are checked against the support of the likelihood."""


class StepMetrics(NamedTuple):
    """Diagnostics of steps, (S, B) each, on the device."""

    bound: Tensor
    """The bound of each observation in nats."""
    ess: Tensor
    """Effective sample size, 1 to k."""
    max_weight: Tensor
    """Largest normalized weight, 1/k to 1."""


class FusedStep(Resumable):
    """Training steps of a dense model, many in one launch: ``losses = step(rows)``.

        model = iw.models.DenseVAE(784).cuda()
        objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=50)
        optimizer = iw.optim.Adam(model.parameters(), lr=1e-3)
        step = iw.FusedStep(objective, model, optimizer, data, seed=0)  # data (N, 784), on the model's device
        rows = torch.randperm(len(data), device="cuda")[: 100 * 20].view(100, 20)
        losses = step(rows)        # 100 steps with 20 observations each

    A call makes the updates of a loop over ``rows`` that runs ``objective(model, data[rows[i]], seed=step.seed)``,
    ``backward()`` and ``optimizer.step()``, and increments the seed after each step. They equal those of the loop, and
    those of :class:`iwae_fast.CapturedStep`, up to the rounding of float32, and either can continue a run of the other:
    the parameters and the state of Adam are updated in place, and :meth:`state_dict` has the same entries. ``.grad`` is
    not written, and Python code of modules does not run.

    One kernel stays on the GPU for all steps of a call. Its blocks exchange results through the second-level cache, and
    wait for each other between the phases of a step: docs/fused-steps.md lists them. Products of float32 are computed
    with float32 accuracy, by three products in TF32, or by one if torch's setting for matrix products is "tf32".

    Served are :class:`iwae_fast.models.DenseVAE` with one stochastic layer, N(0, I) as prior and Bernoulli pixels, in
    float32; IWAE, ELBO and VRIWAE with alpha from 0 to 0.75; every estimator that differentiates through z; a constant
    ``kl_weight``; and ``iw.optim.Adam`` and ``AdamW`` without ``max_norm``. For everything else use
    :class:`iwae_fast.CapturedStep`; :func:`iwae_fast.fused.refusal` returns the reason without raising.

    Args:
        objective: an :class:`iwae_fast.Objective` with reduction "mean" or "sum".
        model: the model, on a CUDA device that supports cooperative launches.
        optimizer: an optimizer of all parameters of the model, in one group.
        data: the observations (N, ...), contiguous, on the model's device: float32 in [0, 1], or bytes.
        seed: an int in [0, 2^63) that determines the noise of all steps; drawn from torch's generator if None.
        pixel_seed: None to train on the data as they are; an int in [0, 2^63) to draw each pixel as 0 or 1 in every
            step, with the data as probabilities.
        divisor: the number by which bytes are divided, such as 255. Must be 1 for float32.

    Raises:
        TypeError, ValueError: an argument is invalid, or the step is not served; the message says why.
    """

    def __init__(
        self,
        objective: Objective,
        model: DenseVAE,
        optimizer: Adam,
        data: Tensor,
        *,
        seed: int | Tensor | None = None,
        pixel_seed: int | None = None,
        divisor: float = 1.0,
    ) -> None:
        if not isinstance(objective, Objective):
            raise TypeError(f"objective must be an iwae_fast.Objective, got {type(objective).__name__}")
        objective.check_model(model)
        if (reason := refusal(objective, model, optimizer)) is not None:
            raise ValueError(f"these steps cannot run in one launch: {reason}; use iwae_fast.CapturedStep")
        self.objective: Objective = objective
        self.model: DenseVAE = model
        self.optimizer: Adam = optimizer
        self.layers: list[nn.Linear] = layers_of(model)
        self.device: torch.device = next(model.parameters()).device
        super().__init__(seed, self.device)
        self.data: Tensor = _checked(data, model.data_dim, self.device, divisor)
        self.divisor: float = float(divisor)
        self.pixel_seed: int | None = None if pixel_seed is None else seed_number(pixel_seed)
        first = self.data[:CHECKED_OBSERVATIONS].float() / self.divisor
        model.check_first_observations(first)
        self.metrics: StepMetrics | None = None
        """Diagnostics of the steps of the last call; None before the first one."""
        self._programs: dict[tuple[int, ...], _Program] = {}

    @property
    def how(self) -> str:
        """A phrase on how steps are taken, for output."""
        return "many in one launch"

    @torch.no_grad()
    def __call__(self, rows: Tensor, rates: Tensor | None = None) -> Tensor:
        """Take S training steps in one launch, without a device synchronization.

        Args:
            rows: int64 (S, B), on the model's device: the observations of each step. An index out of range is not an
                error, since a check would synchronize: it makes the loss NaN.
            rates: float32 (S,), on the model's device: the learning rate of each step; that of the optimizer if None.

        Returns:
            The losses before each update, float32 (S,), on the device.
        """
        steps, batch = self._check(rows, rates)
        if steps == 0 or batch == 0:
            raise ValueError(f"rows must have at least one step of one observation, got shape {tuple(rows.shape)}")
        program = self._program(batch)
        metrics = torch.empty(steps, METRICS, batch, device=self.device)
        if rates is None:
            rates = self._rates(steps)
        settings = self.optimizer._settings(self.optimizer.param_groups[0])
        backend: Any = NATIVE[BACKEND]
        chosen = rows.contiguous()
        backend.training_steps(
            self.data,
            (program.words.data_ptr(), len(program.plan.phases), 2 * len(self.layers), program.plan.tasks),
            self._numbers(batch),
            self.objective._estimator.log_q_gradient.name == "PATHWISE",
            (self.data.data_ptr(), self.data.dtype == torch.uint8, len(self.data)),
            self.divisor,
            [
                chosen.data_ptr(),
                rates.data_ptr(),
                self.seed.data_ptr(),
                program.plan.coefficients,
                metrics.data_ptr(),
                program.counter.data_ptr(),
            ],
            (self.pixel_seed or 0, self.pixel_seed is not None, self.calls % 2**32),
            [settings.beta1, settings.beta2, settings.eps, settings.weight_decay],
            (settings.decoupled, settings.maximize, settings.corrects_eps),
            steps,
            torch.backends.cuda.matmul.fp32_precision == "tf32",
        )
        self.seed.add_(steps)
        self.calls += steps
        torch.autograd.graph.increment_version(list(self.model.parameters()))
        self.metrics = StepMetrics(*metrics.unbind(1))
        self._record(program, batch)
        bounds = metrics[:, 0]
        return -bounds.mean(1) if self.objective.reduction == "mean" else -self._factor(batch) * bounds.sum(1)

    def _check(self, rows: Tensor, rates: Tensor | None) -> tuple[int, int]:
        """Return the numbers of steps and of observations; raise TypeError or ValueError for invalid arguments."""
        if not isinstance(rows, Tensor) or rows.dtype != torch.int64:
            got = rows.dtype if isinstance(rows, Tensor) else type(rows).__name__
            raise TypeError(f"rows must be an int64 tensor, got {got}")
        if rows.dim() != 2:
            raise ValueError(f"rows must be (steps, batch), got shape {tuple(rows.shape)}")
        if rows.device != self.device:
            raise ValueError(f"rows must be on the model's device {self.device}, got {rows.device}")
        if rates is not None:
            if rates.dtype != torch.float32 or rates.shape != rows.shape[:1] or not rates.is_contiguous():
                raise ValueError(
                    f"rates must be float32 ({len(rows)},), contiguous, got {rates.dtype} of shape {tuple(rates.shape)}"
                )
            if rates.device != self.device:
                raise ValueError(f"rates must be on the model's device {self.device}, got {rates.device}")
        if checks.autocast_dtype(self.device) is not None:
            raise ValueError("steps in one launch are float32: turn autocast off, or use iwae_fast.CapturedStep")
        return rows.shape[0], rows.shape[1]

    def _rates(self, steps: int) -> Tensor:
        """Return the optimizer's learning rate for each step."""
        rate = self.optimizer.param_groups[0]["lr"]
        if isinstance(rate, Tensor):
            return rate.detach().to(self.device, torch.float32).reshape(1).repeat(steps)
        return torch.full((steps,), float(rate), device=self.device)

    def _factor(self, batch: int) -> float:
        """Return the derivative of the loss by minus the bound of an observation."""
        if self.objective.reduction == "mean":
            return 1.0 / batch
        size = self.objective.dataset_size
        return 1.0 if size is None else size / batch

    def _numbers(self, batch: int) -> list[float]:
        """Return power, linear and quadratic coefficient, weight of the divergence, and factor."""
        objective, form = self.objective, self.objective.bound.power_mean
        power = 0.0 if form is None else form.power
        kl_weight = cast(float, objective.kl_weight)
        polynomial = objective._estimator.polynomial(power, kl_weight, objective.num_samples)  # type: ignore[misc]
        return [power, polynomial.linear, polynomial.quadratic, kl_weight, self._factor(batch)]

    def _record(self, program: _Program, batch: int) -> None:
        """Set the record of the objective to that of the last step."""
        samples, metrics = self.objective.num_samples, cast(StepMetrics, self.metrics)
        first = (program.plan.log_weights - program.workspace.data_ptr()) // 4
        weights = program.workspace[first : first + samples * batch].view(samples, batch)
        self.objective.record = StepRecord(
            metrics.bound[-1],
            samples,
            cast(float, self.objective.kl_weight),
            weights,
            normalized=False,
            shares_buffers=True,
        )

    def _program(self, batch: int) -> _Program:
        """Return the program for a batch size and the present memory of parameters and optimizer."""
        self.optimizer.allocate()
        tensors = [self._words_of(parameter) for layer in self.layers for parameter in (layer.weight, layer.bias)]
        key = (batch, *(word for each in tensors for word in each))
        if key not in self._programs:
            while len(self._programs) >= MOST_PLANS:
                del self._programs[next(iter(self._programs))]
            self._programs[key] = self._build(batch, tensors)
        return self._programs[key]

    def _words_of(self, parameter: Tensor) -> TensorWords:
        state = self.optimizer.state[parameter]
        for name in ("exp_avg", "exp_avg_sq"):
            if not state[name].is_contiguous() or state[name].dtype != torch.float32:
                raise ValueError(f"the optimizer's {name} must be contiguous and float32, got {state[name].dtype}")
        return TensorWords(
            parameter.data_ptr(), state["exp_avg"].data_ptr(), state["exp_avg_sq"].data_ptr(), state["step"].data_ptr()
        )

    def _build(self, batch: int, tensors: Sequence[TensorWords]) -> _Program:
        network = network_of(self.model, batch, self.objective.num_samples)
        layers = [
            Layer(layer.weight.data_ptr(), layer.bias.data_ptr(), layer.in_features, layer.out_features, 2 * index)
            for index, layer in enumerate(self.layers)
        ]
        blocks = 3  # of the emulator
        if self.device.type == "cuda":
            blocks = torch.cuda.get_device_properties(self.device).multi_processor_count
        floats = plan_step(network, layers, blocks=blocks).floats
        workspace = torch.empty(floats, device=self.device)
        made = plan_step(network, layers, workspace.data_ptr(), blocks)
        for first, count, stride in made.ones:
            workspace.as_strided((count,), (stride,), workspace.storage_offset() + first).fill_(1.0)
        words = made.words(tensors)
        if 8 * len(words) > MOST_PROGRAM_BYTES:
            raise TooLargeError(
                f"the plan of {made.tasks} tasks does not fit: use fewer layers, or iwae_fast.CapturedStep"
            )
        program = torch.tensor(words, dtype=torch.int64).to(self.device)
        return _Program(made, program, workspace, torch.zeros(1, dtype=torch.int32, device=self.device))


class _Program(NamedTuple):
    """A plan in device memory."""

    plan: Plan
    words: Tensor
    workspace: Tensor
    counter: Tensor
    """The counter of the barrier of all blocks."""


def network_of(model: DenseVAE, batch: int, samples: int) -> Network:
    """Return the sizes of a step."""
    hidden = model.hidden_dims[0]
    return Network(model.data_dim, hidden, model.latent_dims[0], hidden[::-1], batch, samples)


def _checked(data: Tensor, data_dim: int, device: torch.device, divisor: float) -> Tensor:
    """Return the data as (N, D); raise TypeError or ValueError if they cannot be trained on."""
    if not isinstance(data, Tensor) or data.dtype not in (torch.float32, torch.uint8):
        got = data.dtype if isinstance(data, Tensor) else type(data).__name__
        raise TypeError(f"data must be a float32 or uint8 tensor, got {got}")
    if data.dim() < 2 or data.shape[1:].numel() != data_dim or len(data) == 0:
        raise ValueError(f"data must be (N, {data_dim}) with N >= 1, got shape {tuple(data.shape)}")
    if data.device != device:
        raise ValueError(f"data must be on the model's device {device}, got {data.device}")
    if not data.is_contiguous():
        raise ValueError(f"data must be contiguous, got strides {data.stride()}")
    if not divisor > 0.0 or (divisor != 1.0 and data.dtype != torch.uint8):
        raise ValueError(f"divisor must be positive, and 1 for float32 data, got {divisor}")
    return data.flatten(1)
