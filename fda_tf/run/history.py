"""The course of a training run: evaluations, synchronisations, speed."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from fda_tf.algorithm import monitors
from fda_tf.checkpoint.run_state import State
from fda_tf.core.loop import CAUSES, Loop
from fda_tf.processes.preemption import Preemption
from fda_tf.run import sync_table
from fda_tf.run.plan import Plan
from fda_tf.tensors import vectors
from fda_tf.workers.base import Workers, evaluate

STEPS_PER_CALL = 32  # of the compiled loop; also how often progress is told


@dataclasses.dataclass
class History:
    """What `simulate` and `train` return.

    Attributes:
      model: a model that holds the final average.
      rows: a dict for each evaluation: step, epoch, syncs, checks, bytes of
        each kind, variance (the last check's estimate), theta, seconds, and the
        model's metrics on the validation data with `val_` before their names.
      syncs: a dict for each synchronisation: step, interval, cause
        ("threshold", "interval", "end", or "callback" where `on_evaluation`
        has moved what no step does), estimate, exact (the variance
        itself if it is known).
      variance: the monitor's estimate after each step, float32 [steps]; NaN
        without a check, and for `max` the share of workers above theta. From
        a sketch's cascade it is an upper bound of the estimate while that is
        below theta.
      theta: theta at each step, float32 [steps].
      seconds: of the whole run.
      worker_steps_per_second: without compilation and evaluation.
    """

    model: keras.Model
    rows: list[dict] = dataclasses.field(default_factory=list)
    syncs: list[dict] = dataclasses.field(default_factory=list)
    variance: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.float32)
    )
    theta: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.float32)
    )
    seconds: float = 0.0
    worker_steps_per_second: float = math.nan

    def evaluate_each(
        self, shards: Sequence[Any], batch_size: int = 500
    ) -> list[dict[str, Any]]:
        """Returns the average model's metrics on the data of each worker.

        Args:
          shards: (x, y) or (x, y, sample_weight) a worker, or a batched
            `tf.data.Dataset` each: of all workers, also those not drawn.
          batch_size: samples.

        Example:
          >>> model = keras.Sequential([keras.Input((1,)),
          ...                           keras.layers.Dense(1)])
          >>> model.compile("sgd", "mae")
          >>> model.set_weights([np.array([[2.0]]), np.array([0.0])])
          >>> x = np.ones((4, 1), np.float32)
          >>> rows = History(model).evaluate_each([(x, 2 * x), (x, 3 * x)])
          >>> [row["loss"] for row in rows]
          [0.0, 1.0]
        """
        return [evaluate(self.model, s, batch_size) for s in shards]


class Recorder:
    """Drives a loop to the end and writes down what happens."""

    def __init__(self, loop: Loop, plan: Plan):
        self.loop, self.plan = loop, plan
        self.history = History(loop.workers.worker.model)
        self._variance: list[np.ndarray] = []
        self._theta: list[np.ndarray] = []
        self._estimate = math.nan  # of the last check
        self._last_sync, self._stopped = 0, False
        self._preemption = Preemption(loop.workers.call_meeting)
        self._state: State | None = None
        self._saved_at: int | None = None  # the step of the last checkpoint
        self._calls = self._timed_steps = 0
        self._timed_seconds = 0.0
        self._start = time.perf_counter()

    def run(self) -> History:
        """Trains to the end of the plan; ends with a synchronisation."""
        with contextlib.ExitStack() as until_the_end:
            if self.plan.checkpoint:
                until_the_end.enter_context(self._preemption.watch())
                self._go_on()
            self._train()
            if self.plan.checkpoint:
                self._save()  # more steps may follow some day
                if self.loop.workers.agree(self._preemption.came):
                    self._end()
        self._finish()
        return self.history

    def _train(self) -> None:
        loop, plan = self.loop, self.plan
        per_call = max(1, min(STEPS_PER_CALL, 320 // loop.workers.count))
        step = int(loop.step)
        while step < plan.steps and not self._stopped:
            pause = plan.next_evaluation(step, loop.epoch)
            while step < pause:
                self._call(min(per_call, pause - step, self._to_checkpoint()))
                step = int(loop.step)
                if step < pause and self._checkpoint_is_due():
                    self._save()
            self._stopped = self._evaluate()
            if self._checkpoint_is_due(evaluated=True):
                self._save()

    def _to_checkpoint(self) -> int:
        every = self.plan.checkpoint and self.plan.checkpoint.every
        return every - int(self.loop.step) % every if every else STEPS_PER_CALL

    def _checkpoint_is_due(self, evaluated: bool = False) -> bool:
        if self.plan.checkpoint is None:
            return False
        every = self.plan.checkpoint.every
        return int(self.loop.step) % every == 0 if every else evaluated

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
        arrays += sync_table.to_arrays(self.history.syncs)
        if self._state.save(self.plan.checkpoint, facts, arrays):
            self._saved_at = step

    def _go_on(self) -> None:
        """Goes on from the newest checkpoint, if there is one."""
        loop = self.loop
        self._state = State(loop, loop.workers.variables() | loop.variables())
        found = self._state.go_on(self.plan.checkpoint)
        if found is None:
            return
        variance, theta, *syncs = found.history()
        self._theta = [theta]
        self._note_estimates(variance)
        for sync in sync_table.from_arrays(syncs):
            self._note_synchronisation(**sync)
        self.history.rows[:] = found.facts["rows"]
        self._stopped = found.facts["stopped"]
        self._start -= found.facts["seconds"]
        self._saved_at = found.step
        loop.workers.source.skip(found.step)

    def _end_if_preempted(self) -> None:
        """Saves, and ends the process, when a worker has got SIGTERM."""
        if self.plan.checkpoint and bool(self.loop.workers.called()):
            self.loop.workers.end_meeting()
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
            self.loop.workers.call_meeting()
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
        if self.plan.on_progress:
            self.plan.on_progress(self._row())
        self._end_if_preempted()

    def _evaluate(self) -> bool:
        loop, plan = self.loop, self.plan
        row = self._row()
        if plan.validation_data is not None or loop.workers.count == 1:
            average = loop.averaged()
            if not np.isfinite(vectors.squared_norm_alike(average.weights)):
                loop.raise_bad_drift()
            row["eval_bytes"] = loop.counters()["eval_bytes"]
        if plan.validation_data is not None:
            logs = loop.workers.evaluate(
                average, plan.validation_data, plan.validation_batch_size
            )
            row |= {f"val_{name}": value for name, value in logs.items()}
        self.history.rows.append(row)
        stop, error = False, None
        try:
            stop = bool(plan.on_evaluation and plan.on_evaluation(row))
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
        done = self._note_synchronisation(int(step), cause, float(estimate))
        if self.plan.on_synchronisation:
            self.plan.on_synchronisation(done)

    def _note_synchronisation(
        self, step: int, cause: str, estimate: float
    ) -> dict:
        exact = isinstance(self.loop.monitor, monitors.ExactMonitor)
        done = {
            "step": step,
            "interval": step - self._last_sync,
            "cause": cause,
            "estimate": estimate,
            "exact": estimate if exact else math.nan,
        }
        self.history.syncs.append(done)
        self._last_sync = step
        return done

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


def run(workers: Workers, plan: Plan, samples: int | None) -> History:
    """Trains the workers by the plan.

    Args:
      workers: in their home, ready to start.
      plan: what to do.
      samples: of all workers together, if known: sets a global epoch.

    Returns:
      The history, whose `model` holds the final average.

    Raises:
      FloatingPointError: when a worker's drift is NaN or infinite.
    """
    epoch = workers.source.epoch_steps(samples, workers.clients)
    loop = Loop(
        workers,
        plan.sync,
        plan.server,
        epoch,
        statistics=plan.statistics,
        compression=plan.compression,
        guard=plan.guard,
    )
    return Recorder(loop, plan).run()
