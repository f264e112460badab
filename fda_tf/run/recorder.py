"""Drives a loop to the end of a run, and writes down what happens."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import tensorflow as tf

from fda_tf import validate
from fda_tf.algorithm.algorithm import Algorithm
from fda_tf.checkpoint.directory import Checkpoint
from fda_tf.checkpoint.run_state import State
from fda_tf.core.loop import CAUSES, Loop
from fda_tf.processes.preemption import Preemption
from fda_tf.run.history import History
from fda_tf.run.sync_log import Synchronisation, SyncLog
from fda_tf.tensors import vectors
from fda_tf.workers.base import Workers

STEPS_PER_CALL = 32  # of the compiled loop; also how often progress is told
WEIGHTINGS = ("equal", "samples")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run does besides its algorithm; checked when made.

    Attributes: as of `fda_tf.simulate`.
    """

    steps: int
    weighting: str
    validation_data: Any
    validation_batch_size: int
    evaluate_every: int | None
    on_evaluation: Callable[[dict], Any] | None
    on_progress: Callable[[dict], Any] | None
    on_synchronisation: Callable[[Synchronisation], Any] | None
    checkpoint: Checkpoint | None

    def __post_init__(self):
        self._set("steps", validate.count("steps", self.steps, "steps"))
        if self.evaluate_every is not None:
            every = validate.count(
                "evaluate_every", self.evaluate_every, "steps"
            )
            self._set("evaluate_every", every)
        data = self.validation_data
        if not (
            data is None
            or isinstance(data, tf.data.Dataset)
            or (isinstance(data, (tuple, list)) and len(data) in (2, 3))
        ):
            raise ValueError(
                f"validation_data of type {type(data).__name__}: expected "
                "(x, y), (x, y, sample_weight) or a batched tf.data.Dataset."
            )
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"weighting={self.weighting!r}. Known: {', '.join(WEIGHTINGS)}."
            )
        check_checkpoint(self.checkpoint)
        if self.checkpoint:
            self.checkpoint.prepare()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def next_evaluation(self, step: int, epoch: Fraction | None) -> int:
        """Returns the first step after `step` with an evaluation.

        Args:
          step: steps done.
          epoch: steps in a global epoch, if known.
        """
        every = self.evaluate_every or epoch
        if every is None:
            return self.steps
        following = math.ceil((math.floor(step / every) + 1) * every)
        return min(self.steps, following)


def check_checkpoint(checkpoint: Any) -> None:
    """Raises ValueError unless it is a `Checkpoint` or None."""
    if not (checkpoint is None or isinstance(checkpoint, Checkpoint)):
        raise ValueError(
            f"checkpoint={checkpoint!r}: expected fda_tf.Checkpoint(directory)."
        )


class Recorder:
    """Drives a loop to the end and writes down what happens."""

    def __init__(self, loop: Loop, settings: Settings):
        self.loop, self.settings = loop, settings
        self.history = History(loop.workers.worker.model)
        self._variance: list[np.ndarray] = []
        self._theta: list[np.ndarray] = []
        self._estimate = math.nan  # of the last check
        self._syncs, self._stopped = SyncLog(self.history.syncs), False
        self._preemption = Preemption(loop.workers.raise_stop_flag)
        self._state: State | None = None
        self._saved_at: int | None = None  # the step of the last checkpoint
        self._calls = self._timed_steps = 0
        self._timed_seconds = 0.0
        self._start = time.perf_counter()

    def run(self) -> History:
        """Trains to the end of the run; ends with a synchronisation."""
        with contextlib.ExitStack() as until_the_end:
            if self.settings.checkpoint:
                until_the_end.enter_context(self._preemption.watch())
                self._restore_latest()
            self._train()
            if self.settings.checkpoint:
                self._save()  # more steps may follow some day
                if self.loop.workers.agree(self._preemption.came):
                    self._end()
        self._finish()
        return self.history

    def _train(self) -> None:
        loop, settings = self.loop, self.settings
        per_call = max(1, min(STEPS_PER_CALL, 320 // loop.workers.count))
        step = int(loop.step)
        while step < settings.steps and not self._stopped:
            pause = settings.next_evaluation(step, loop.epoch)
            while step < pause:
                self._call(min(per_call, pause - step, self._to_checkpoint()))
                step = int(loop.step)
                if step < pause and self._checkpoint_is_due():
                    self._save()
            self._stopped = self._evaluate()
            if self._checkpoint_is_due(evaluated=True):
                self._save()

    def _to_checkpoint(self) -> int:
        checkpoint, step = self.settings.checkpoint, int(self.loop.step)
        return (checkpoint and checkpoint.steps_to_next(step)) or STEPS_PER_CALL

    def _checkpoint_is_due(self, evaluated: bool = False) -> bool:
        checkpoint, step = self.settings.checkpoint, int(self.loop.step)
        return checkpoint is not None and checkpoint.is_due(step, evaluated)

    def _save(self) -> None:
        step = int(self.loop.step)
        if step == self._saved_at:
            return
        facts = {
            "rows": self.history.rows,
            "stopped": self._stopped,
            "seconds": time.perf_counter() - self._start,
        }
        arrays = [
            np.concatenate(parts or [np.zeros(0, np.float32)])
            for parts in (self._variance, self._theta)
        ]
        arrays += self._syncs.to_arrays()
        if self._state.save(self.settings.checkpoint, facts, arrays):
            self._saved_at = step

    def _restore_latest(self) -> None:
        """Goes on from the newest checkpoint, if there is one."""
        loop = self.loop
        self._state = State(loop, loop.workers.variables() | loop.variables())
        found = self._state.restore_latest(self.settings.checkpoint)
        if found is None:
            return
        variance, theta, *syncs = found.history()
        self._theta = [theta]
        self._note_estimates(variance)
        self._syncs.restore(syncs)
        self.history.rows[:] = found.facts["rows"]
        self._stopped = found.facts["stopped"]
        self._start -= found.facts["seconds"]
        self._saved_at = found.step
        loop.workers.source.skip(found.step)

    def _end_if_preempted(self) -> None:
        """Saves, and ends the process, when a worker has got SIGTERM."""
        if self.settings.checkpoint and bool(
            self.loop.workers.stop_flag_is_raised()
        ):
            self.loop.workers.lower_stop_flag()
            self._save()
            self._end()

    def _end(self) -> None:
        process_group = self.loop.workers.process_group
        step = int(self.loop.step)
        self._preemption.end(step, self._saved_at, process_group.is_chief)

    def _call(self, steps: int) -> None:
        start = time.perf_counter()
        first = int(self.loop.step) + 1
        if self._preemption.came:
            self.loop.workers.raise_stop_flag()
        trace = self.loop.run(steps)
        causes = trace.cause.numpy()  # waits for the steps
        if self._calls:  # the first call compiles
            self._timed_seconds += time.perf_counter() - start
            self._timed_steps += len(causes)
        self._calls += 1
        estimates = trace.estimate.numpy()
        self._note_estimates(estimates)
        self._theta.append(trace.theta.numpy())
        if not bool(trace.finite):
            self.loop.raise_bad_drift()
        for i in np.flatnonzero(causes):
            self._synchronised(first + i, CAUSES[causes[i]], estimates[i])
        if self.settings.on_progress:
            self.settings.on_progress(self._row())
        self._end_if_preempted()

    def _evaluate(self) -> bool:
        loop, settings = self.loop, self.settings
        row = self._row()
        if settings.validation_data is not None or loop.workers.count == 1:
            average = loop.averaged()
            if not np.isfinite(vectors.squared_norm_alike(average.weights)):
                loop.raise_bad_drift()
            row["eval_bytes"] = loop.counters()["eval_bytes"]
        if settings.validation_data is not None:
            logs = loop.workers.evaluate(
                average,
                settings.validation_data,
                settings.validation_batch_size,
            )
            row |= {f"val_{name}": value for name, value in logs.items()}
        self.history.rows.append(row)
        stop, error = False, None
        try:
            stop = bool(settings.on_evaluation and settings.on_evaluation(row))
        except Exception as raised:  # the other workers must hear of it
            error = raised
        stop = loop.workers.agree(stop, error)
        if loop.average_frozen():
            self._synchronised(int(loop.step), "callback", math.nan)
        return stop

    def _finish(self) -> None:
        loop, history = self.loop, self.history
        if loop.finish():
            self._synchronised(int(loop.step), "end", math.nan)
        loop.workers.worker.assign(loop.averaged())
        history.variance = np.concatenate(self._variance or [history.variance])
        history.theta = np.concatenate(self._theta or [history.theta])
        history.seconds = time.perf_counter() - self._start
        if self._timed_seconds:
            history.worker_steps_per_second = (
                self._timed_steps * loop.workers.count / self._timed_seconds
            )

    def _synchronised(self, step: int, cause: str, estimate: float) -> None:
        row = self._syncs.add(step, cause, estimate)
        if self.settings.on_synchronisation:
            self.settings.on_synchronisation(row)

    def _note_estimates(self, estimates: np.ndarray) -> None:
        self._variance.append(estimates)
        checked = estimates[~np.isnan(estimates)]
        if len(checked):
            self._estimate = float(checked[-1])

    def _row(self) -> dict:
        return self.loop.counters() | {
            "variance": self._estimate,
            "theta": float(self.loop.theta),
            "seconds": time.perf_counter() - self._start,
        }


def run(
    workers: Workers,
    algorithm: Algorithm,
    settings: Settings,
    samples: int | None,
) -> History:
    """Trains the workers to the end of the run.

    Args:
      workers: ready to start.
      algorithm: what the method is.
      settings: what else the run does.
      samples: of all workers together, if known: sets a global epoch.

    Returns:
      The history, whose `model` holds the final average.

    Raises:
      FloatingPointError: when a worker's drift is NaN or infinite.
    """
    epoch = workers.source.epoch_steps(samples, workers.clients)
    return Recorder(Loop(workers, algorithm, epoch), settings).run()
