"""Training that can stop and resume at any step without changing the result."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ...capture import Recorder
from ...capture.compiled import check as check_compiles
from ...data import ImageData
from ...data.rows import Observations
from ...files import replace_file, write_json
from ...models import LatentVariableModel
from ...seeds import Purpose, derive_seed, generator
from ..config import TrainConfig, usable_device
from ..networks import build
from ..optimizers import allocate_state
from ..processes import ALONE, Processes
from ..protocols import PROTOCOLS
from ..schedules import check_warmup, learning_rates
from .checkpoint import Checkpoint, save_checkpoint
from .metrics import EpochMetrics, Means, append_metrics, drop_metrics_after
from .reporter import Live, Reporter
from .run_data import check_own
from .runs import Run, copy_matching
from .segments import Segment, extended
from .selection import Best, better, is_over
from .shared import SharedData
from .steps import Steps
from .turns import Pause, Turns, finish
from .validation import Validation

REPORT_SECONDS = 0.1
SAVE_SECONDS = 10.0
"""Least age of the last checkpoint for a new one at the end of an epoch."""
SAVE_WITHIN_EPOCH_SECONDS = 120.0
"""Least age of the last checkpoint for a new one within an epoch, between steps or graphs of steps."""

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


class TrainingError(RuntimeError):
    """Training cannot continue."""


class Trainer:
    """A run in progress: model, optimizer and position.

    The order of an epoch, and the pixels and the noise of a step, are functions of the run's seed and the position
    (:mod:`iwae_fast.seeds`), so a checkpoint of model, optimizer and position suffices for an exact continuation.

    Args:
        config, run, data: as for :func:`train`.
        recorder: records steps; CUDA graphs if None.
        processes, shared: as for :func:`train`.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        data: ImageData,
        recorder: Recorder | None = None,
        processes: Processes = ALONE,
        shared: SharedData | None = None,
    ) -> None:
        self.config = config
        self.processes = processes
        self.run = run
        self.image_shape = data.image_shape
        self.data = data
        self.device = usable_device(config.device, config.backend)
        shared = shared or SharedData()
        train, held_out = shared.split(data, config.validation)
        self.images = shared.source(train, self.device)
        self.validation = Validation(config, data, held_out, self.device)
        self.model = initial_model(config, train).to(self.device)
        self.protocol = PROTOCOLS[config.protocol]
        self.optimizer = self.protocol.optimizer(self.model.parameters(), config.learning_rate, config.max_norm)
        allocate_state(self.optimizer)
        self.steps = Steps(config, self.model, self.optimizer, self.images, data, recorder, processes)
        self.means = self.steps.means
        self.steps_per_epoch = self.steps.in_epoch
        self.step = 0
        self.seconds = 0.0
        self._origin = 0.0
        self.epoch_started = 0.0
        self.segments: tuple[Segment, ...] = (Segment.begin(0, config),)
        self.best: Best | None = None
        self._begin_epoch()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint; raises CheckpointError if it does not fit the run."""
        check_own(checkpoint, self.data, self.run.checkpoint)
        copy_matching(self.model.state_dict(), checkpoint.model)
        for entry in ADAM_STATE:
            targets = {name: state[entry] for name, state in self._adam_state().items()}
            copy_matching(
                targets, {name: state[entry] for name, state in checkpoint.optimizer.items() if entry in state}
            )
        self.step = checkpoint.step
        self.seconds = checkpoint.seconds
        self.epoch_started = checkpoint.epoch_started
        self.segments = extended(checkpoint.segments, self.step, self.config)
        # Bounds of different objectives cannot be compared: with another k, that of the same model differs.
        if self.config.keeps_best and self.segments == checkpoint.segments:
            self.best = checkpoint.best
        self._begin_epoch()
        self.means.restore(checkpoint.epoch_sums, checkpoint.epoch_count)
        if self.processes.is_first:
            drop_metrics_after(self.run.metrics, self.step // self.steps_per_epoch)
            if self.best is None:
                self.run.best.unlink(missing_ok=True)

    def fit(self, reporter: Reporter, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train to the end of the last epoch, or of the patience, or until ``stop()`` between steps; a checkpoint is
        written either way.

        Returns whether the end was reached. Raises TrainingError if the loss is not finite; the checkpoint is then the
        last one before that.
        """
        return finish(self.turns(reporter, stop))

    def turns(self, reporter: Reporter, stop: Callable[[], bool] = lambda: False) -> Turns[bool]:
        """Train as :meth:`fit` does, in turns of one step or graph of steps."""
        total_steps = self.config.epochs * self.steps_per_epoch
        first_step, first_second = self.step, self.seconds
        reporter.started(self.step, total_steps)
        self.steps.exchange.stop = stop
        self.save()
        self._origin = time.perf_counter() - self.seconds
        saved = reported = self.seconds
        told = self.device.type == "cpu"
        while self.step < total_steps and not self._is_over():
            self.take_steps()
            self._read_clock()
            if not told and self.steps.how is not None:
                reporter.decided(self.steps.how)
                told = True
            epoch_ended = self.step % self.steps_per_epoch == 0
            if epoch_ended:
                reporter.epoch_ended(self._end_epoch())
            elif self.seconds - reported > REPORT_SECONDS:
                reported = self.seconds
                rate = (self.step - first_step) / (self.seconds - first_second)
                reporter.progressed(Live(self.step, self._epoch() + 1, self._finite_means(), rate))
            age = self.seconds - saved
            stopping = self.steps.exchange.stopping()
            if stopping or self._is_best() or age > (SAVE_SECONDS if epoch_ended else SAVE_WITHIN_EPOCH_SECONDS):
                self.save()
                saved = self.seconds
            if stopping:
                return False
            yield Pause.STEP
        self.save()
        if self.best is not None and self.step < total_steps:
            reporter.stopped_early(self._epoch(), self.best)
        return True

    def take_steps(self) -> None:
        """Take one step, or the steps of one graph: fresh pixels, bound, gradient, update."""
        self.step += self.steps.take(self.step)

    def save(self) -> None:
        """Write the checkpoint, on the first process; raises TrainingError, and writes nothing, if means or parameters
        are not finite."""
        if not self.processes.is_first:
            return
        if self.means.count:
            self._finite_means()
        finite = [parameter.isfinite().all() for parameter in self.model.parameters()]
        if not torch.stack(finite).all():
            raise self._not_finite()
        save_checkpoint(
            self.run.checkpoint,
            Checkpoint(
                config=self.config,
                image_shape=self.image_shape,
                data=self.data.train_fingerprint,
                step=self.step,
                seconds=self.seconds,
                epoch_started=self.epoch_started,
                epoch_count=self.means.count,
                epoch_sums=self.means.sums,
                model=self.model.state_dict(),
                optimizer=self._adam_state(),
                how=self.steps.how,
                test_data=self.data.test_fingerprint,
                segments=self.segments,
                best=self.best,
            ),
        )
        if self._is_best():
            replace_file(self.run.best, self.run.checkpoint.read_bytes())

    def _read_clock(self) -> None:
        self.seconds = time.perf_counter() - self._origin

    def _epoch(self) -> int:
        """Return the number of complete epochs."""
        return self.step // self.steps_per_epoch

    def _is_best(self) -> bool:
        """Return whether the current state is that of the best epoch."""
        return self.best is not None and self.best.step == self.step

    def _is_over(self) -> bool:
        return is_over(self.best, self._epoch(), self.config.patience)

    def _begin_epoch(self) -> None:
        """Begin the epoch of the current step, which may be in the middle of it, with empty means."""
        order = generator(self.config.seed, Purpose.ORDER, self._epoch())
        rates = learning_rates(self.config, self._epoch(), self.steps_per_epoch)
        self.steps.seek(self.step, torch.randperm(len(self.images), generator=order), rates)
        self.means.reset()

    def _end_epoch(self) -> EpochMetrics:
        means = self._finite_means()
        self._read_clock()  # again: reading the means may have synchronized with the device
        rate = self.steps_per_epoch / (self.seconds - self.epoch_started)
        validation = self.validation.bound(self.model, self.processes.mesh)
        row = EpochMetrics(self._epoch(), self.step, *means, self.seconds, rate, validation)
        if self.processes.is_first:
            append_metrics(self.run.metrics, row)
        if self.config.keeps_best and validation is not None:
            # The first process decides for all, which must stop after the same epoch.
            found = better(self.best, row.epoch, row.step, validation)
            self.best = self.processes.from_first(lambda: found)
        self.epoch_started = self.seconds
        self._begin_epoch()
        return row

    def _finite_means(self) -> Means:
        means = self.means.means()
        if not all(torch.tensor(means).isfinite()):
            raise self._not_finite()
        return means

    def _not_finite(self) -> TrainingError:
        epoch = max(0, self.step - 1) // self.steps_per_epoch + 1  # of the step that was taken last
        return TrainingError(
            f"the loss is not finite at step {self.step} (epoch {epoch}): try a lower learning rate; "
            f"{self.run.checkpoint} holds the last finite state"
        )

    def _adam_state(self) -> dict[str, dict[str, Tensor]]:
        return {name: self.optimizer.state[parameter] for name, parameter in self.model.named_parameters()}


def check(config: TrainConfig, data: ImageData, shared: SharedData | None = None) -> None:
    """Raise ValueError if the settings do not fit the data or the model, so that a run would fail later."""
    train, held_out = (shared or SharedData()).split(data, config.validation)
    check_warmup(config, -(-len(train) // config.batch_size))
    if config.keeps_best and held_out is None and data.valid is None:
        option = "keep-best" if config.patience is None else "patience"
        raise ValueError(f"--{option} needs a validation set, which {data.name} does not have: add --validation N")
    model = build(config, data.train.shape[1])
    config.objective().check_model(model)
    if config.compile:
        check_compiles(model, torch.device(config.device))


def initial_model(config: TrainConfig, images: Observations) -> LatentVariableModel:
    """Return the untrained model of a run, on the CPU; the training images (N, D) initialize its output bias."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(config.seed, Purpose.MODEL))
        return build(config, images.shape[1], images)


def train_in_turns(
    config: TrainConfig,
    run: Run,
    data: ImageData,
    *,
    resume_from: Checkpoint | None = None,
    reporter: Reporter | None = None,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
    shared: SharedData | None = None,
) -> Turns[bool]:
    """Train or resume a run until its last epoch, or until ``stop()`` between steps, in turns.

    Args:
        config: the settings; if resuming, only those in :data:`.config.CHANGEABLE` may differ from the checkpoint's.
        run: from :func:`.runs.create_run` or :func:`.runs.open_run`.
        data: from :meth:`TrainConfig.load_data`.
        resume_from: the checkpoint to resume from.
        reporter: callbacks for progress.
        stop: called at every step or graph of steps; training stops if it returns True.
        processes: the processes that train together and all call this, each with its own ``stop``: all of them stop
            after the same step. The first one writes the files.
        shared: the data that runs of this process share.

    Returns whether the end was reached. Either way the checkpoint holds the current state.
    """
    trainer = Trainer(config, run, data, processes=processes, shared=shared)
    if resume_from is not None:
        trainer.restore(resume_from)
    if resume_from is not None and processes.is_first:
        write_json(run.config, config.to_json())  # only after all checks have passed
    return (yield from trainer.turns(reporter or Reporter(), stop))


def train(
    config: TrainConfig,
    run: Run,
    data: ImageData,
    *,
    resume_from: Checkpoint | None = None,
    reporter: Reporter | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train or resume a run as :func:`train_in_turns` does, without a pause."""
    return finish(train_in_turns(config, run, data, resume_from=resume_from, reporter=reporter, stop=stop))
