"""The course of a training run: evaluations, synchronisations, speed."""

import dataclasses
import math
import time

import keras
import numpy as np

from fda_tf import monitors, vectors
from fda_tf.plan import Plan
from fda_tf.training import CAUSES, Trainer
from fda_tf.workers import Workers

STEPS_PER_CALL = 32  # of the compiled loop; also how often progress is told


@dataclasses.dataclass
class History:
    """What `simulate` and `train` return.

    Attributes:
      model: a model that holds the final average.
      rows: a dict for each evaluation: step, epoch, syncs, checks, bytes of
        each kind, variance (the last estimate), theta, seconds, and the
        model's metrics on the validation data with `val_` before their names.
      syncs: a dict for each synchronisation: step, interval, cause
        ("threshold", "interval" or "end"), estimate, exact (the variance
        itself if it is known).
      variance: the monitor's estimate after each step, float32 [steps]; NaN
        without a check, and for `max` the share of workers above theta.
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


class Recorder:
    """Drives a trainer to the end and writes down what happens."""

    def __init__(self, trainer: Trainer, plan: Plan):
        self.trainer, self.plan = trainer, plan
        self.history = History(trainer.workers.worker.model)
        self._variance: list[np.ndarray] = []
        self._theta: list[np.ndarray] = []
        self._last_sync = 0
        self._calls = self._timed_steps = 0
        self._timed_seconds = 0.0
        self._start = time.perf_counter()

    def run(self) -> History:
        """Trains to the end of the plan; ends with a synchronisation."""
        trainer, plan = self.trainer, self.plan
        per_call = max(1, min(STEPS_PER_CALL, 320 // trainer.workers.count))
        step, stop = int(trainer.step), False
        while step < plan.steps and not stop:
            pause = plan.next_evaluation(step, trainer.epoch)
            while step < pause:
                self._call(min(per_call, pause - step))
                step = int(trainer.step)
            stop = self._evaluate()
        self._finish()
        return self.history

    def _call(self, steps: int) -> None:
        start = time.perf_counter()
        first = int(self.trainer.step) + 1
        trace = self.trainer.run(steps)
        causes = trace.cause.numpy()  # waits for the steps
        if self._calls:  # the first call compiles
            self._timed_seconds += time.perf_counter() - start
            self._timed_steps += steps
        self._calls += 1
        estimates = trace.estimate.numpy()
        self._variance.append(estimates)
        self._theta.append(trace.theta.numpy())
        if not bool(trace.finite):
            self._report_bad_drift(first + len(causes) - 1)
        for i in np.flatnonzero(causes):
            self._synchronised(first + i, CAUSES[causes[i]], estimates[i])
        if self.plan.on_progress:
            self.plan.on_progress(self._row())

    def _evaluate(self) -> bool:
        trainer, plan = self.trainer, self.plan
        row = self._row()
        if plan.validation_data is not None or trainer.workers.count == 1:
            average = trainer.averaged()
            if not np.isfinite(vectors.squared_norm(average.weights)):
                self._report_bad_drift(row["step"])
            row["eval_bytes"] = trainer.counters()["eval_bytes"]
        if plan.validation_data is not None:
            logs = trainer.workers.evaluate(
                average, plan.validation_data, plan.validation_batch_size
            )
            row |= {f"val_{name}": value for name, value in logs.items()}
        self.history.rows.append(row)
        stop, error = False, None
        try:
            stop = bool(plan.on_evaluation and plan.on_evaluation(row))
        except Exception as raised:  # the other workers must hear of it
            error = raised
        return trainer.workers.agree(stop, error)

    def _finish(self) -> None:
        trainer, history = self.trainer, self.history
        if int(trainer.interval) and not trainer.nothing_to_average:
            if not bool(trainer.synchronise()):
                self._report_bad_drift(int(trainer.step))
            trainer.syncs.assign_sub(1)  # the last one does not count
            self._synchronised(int(trainer.step), "end", math.nan)
        trainer.workers.worker.assign(trainer.averaged())
        history.variance = np.concatenate(self._variance or [history.variance])
        history.theta = np.concatenate(self._theta or [history.theta])
        history.seconds = time.perf_counter() - self._start
        if self._timed_seconds:
            history.worker_steps_per_second = (
                self._timed_steps * trainer.workers.count / self._timed_seconds
            )

    def _synchronised(self, step: int, cause: str, estimate: float) -> None:
        exact = isinstance(self.trainer.monitor, monitors.ExactMonitor)
        done = {
            "step": int(step),
            "interval": int(step) - self._last_sync,
            "cause": cause,
            "estimate": float(estimate),
            "exact": float(estimate) if exact else math.nan,
        }
        self.history.syncs.append(done)
        if self.plan.on_synchronisation:
            self.plan.on_synchronisation(done)
        self._last_sync = int(step)

    def _row(self) -> dict:
        last = self._variance[-1][-1] if self._variance else math.nan
        return self.trainer.counters() | {
            "variance": float(last),
            "theta": float(self.trainer.theta),
            "seconds": time.perf_counter() - self._start,
        }

    def _report_bad_drift(self, step: int) -> None:
        bad = self.trainer.bad_workers()
        looked = int(self.trainer.interval)
        since = f"one of the last {looked} steps" if looked > 1 else "this step"
        when = "" if self.trainer.monitor else f" (it was in {since})"
        if not bad:
            raise FloatingPointError(
                f"Step {step}: the server optimizer's step is NaN or infinite; "
                "all workers stop. Lower the server's learning rate."
            )
        raise FloatingPointError(
            f"Step {step}: the drift of worker {', '.join(map(str, bad))} is "
            f"NaN or infinite{when}; all workers stop. Lower the learning "
            "rate, clip the gradients (clipnorm=), or look at that worker's "
            "data."
        )


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
    epoch = workers.source.epoch_steps(samples, workers.count)
    trainer = Trainer(
        workers, plan.sync, plan.server, epoch, statistics=plan.statistics
    )
    return Recorder(trainer, plan).run()
