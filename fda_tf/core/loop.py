"""The one loop, in simulation and on a cluster alike.

Every step of it reads like the paper's pseudocode:

    step locally -> project the drift -> mean over workers
      -> estimate > theta? -> synchronise

Who calls whom, in one step of `run_steps`, which is compiled:

    check.begin            with overlap: the state of the last step arrives
    workers.step           a local step on each worker; in fit, Keras' own
    check.end              states, their mean, its estimate against theta
    sync.due               or is a synchronisation due by the clock?
    exchange.mean            if so: the workers' mean, compressed and guarded
    server.apply             the new w_0 of the old one and the mean
    sync, schedule           the policy and theta learn from the round
    workers.assign           every worker's model is w_0
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import tensorflow as tf

from fda_tf.algorithm import algorithm as algorithms
from fda_tf.algorithm import thetas
from fda_tf.algorithm.algorithm import Algorithm
from fda_tf.algorithm.optimizers import ServerStep
from fda_tf.algorithm.policies import Clock, Policy
from fda_tf.core import variance_check
from fda_tf.core.averaging import Exchange
from fda_tf.core.variance_check import VarianceCheck
from fda_tf.processes.error_messages import known
from fda_tf.tensors import vectors
from fda_tf.workers.base import Workers
from fda_tf.workers.local_model import Snapshot
from fda_tf.workers.variable_groups import Group

CAUSES = ("", "threshold", "interval")  # why a step ended in a synchronisation


class StepTrace(NamedTuple):
    """What happened in each step of one call of `Loop.run`."""

    estimate: tf.Tensor  # float32 [n]: of the variance; NaN without a check
    theta: tf.Tensor  # float32 [n]
    cause: tf.Tensor  # int32 [n]: a place in CAUSES
    finite: tf.Tensor  # bool: False if the last step's drift was not finite


class Loop:
    """Federated Dynamic Averaging as one compiled loop.

    `run` does local steps of the workers' own; `run_steps` does those that
    it is given, and so is the loop of `model.fit`, too.

    Args:
      workers: the K workers, simulated or distributed.
      algorithm: what the method is.
      epoch: the steps of a global epoch, if known.
    """

    def __init__(
        self,
        workers: Workers,
        algorithm: Algorithm | Policy,
        epoch: Fraction | None = None,
    ):
        algorithm = algorithms.get(algorithm)
        self.workers, self.algorithm, self.epoch = workers, algorithm, epoch
        self.sync = sync = algorithm.sync
        # Alone there is nothing to check, and nothing to average or to count.
        self.nothing_to_average = (
            workers.count == 1 and algorithm.server_optimizer is None
        )
        self.monitor = sync.monitor if workers.count > 1 else None
        group = workers.worker.weights
        self.w0 = vectors.variables(group.pack(), "w0")
        self.server = ServerStep(
            algorithm.server_optimizer, group.layout, workers.worker.names
        )
        self.check = None
        if self.monitor:
            self.check = VarianceCheck(sync, workers, self.w0, epoch)
        self.exchange = Exchange(workers, self.w0, algorithm)
        self.hold()
        sync.build()
        if sync.needs_loss:
            workers.watch_losses()
        self.step = _counter("step")
        self.interval = _counter("interval")
        self.syncs, self.checks = _counter("syncs"), _counter("checks")
        # By the paper's formulas, of all workers that there were.
        self._paper_states = _counter("paper_state_bytes")
        self._paper_models = _counter("paper_model_bytes")
        # Which stage produced a non-finite value when no drift did.
        self._state_is_finite = tf.Variable(True, trainable=False)
        self._server_is_finite = tf.Variable(True, trainable=False)
        self._schedule = thetas.get(sync.theta)
        job = thetas.Job(
            group.layout.size,
            workers.count,
            epoch,
            squared_norm=float(vectors.squared_norm_alike(self.w0)),
            matrices=sum(v.shape.rank > 1 for v in group.variables),
        )
        theta = self._schedule.start(job)
        self.theta = tf.Variable(
            theta, trainable=False, dtype=tf.float32, name="theta"
        )
        sync.due(Clock(self.step, self.interval, epoch))  # refuses now
        self._begin, self._end = self._begin_check, self._end_step
        if workers.worker.eager:  # what follows a step is compiled
            self._begin = lambda: None
            self._end = tf.function(
                lambda _: self.after_step(), autograph=False
            )
        signature = [tf.TensorSpec([], tf.int32)]
        self._run_all = workers.worker.compile(
            self._run, input_signature=signature
        )
        self._synchronise_compiled = tf.function(
            self._synchronise_all, autograph=False
        )
        self._average = tf.function(self.exchange.average, autograph=False)

    def call(self, function: Any, *args: Any) -> Any:
        """Calls a compiled function in which other workers are waited for."""
        with self.workers.waiting(self.step):
            return function(*args)

    def run(self, steps: int) -> StepTrace:
        """Does up to `steps` in-parallel steps; all workers must."""
        return self.call(self._run_all, tf.constant(steps))

    def synchronise(self) -> tf.Tensor:
        """Averages the models; all workers must.

        Returns:
          Whether all went well: not if a drift is not finite.
        """
        return self.call(self._synchronise_compiled)

    def _run(self, steps):
        def local_step(nothing):
            self.workers.step(self.step.read_value())
            return nothing

        return self.run_steps(steps, tf.constant(0), local_step)[1]

    def run_steps(self, steps, carry, local_step, first=None):
        """Runs up to `steps` in-parallel steps; for use in graphs.

        Stops after a step whose drift is not finite, and when a worker has
        raised the stop flag.

        Args:
          steps: int32 scalar.
          carry: a structure of tensors, as it is before the first step.
          local_step: does one local step; takes the carry, returns the next.
          first: int32 scalar: the steps before it, from 0, are passed over,
            since a call that failed has done them.

        Returns:
          (the last carry, a StepTrace of the steps done).
        """
        traces = [
            tf.TensorArray(dtype, size=steps, element_shape=[])
            for dtype in (tf.float32, tf.float32, tf.int32)
        ]

        def goes_on(done, finite, carry, traces):
            return (done < steps) & finite & ~self.workers.stop_flag_is_raised()

        def one_step(done, finite, carry, traces):
            theta = self.theta.read_value()
            begun = self._begin()  # it may travel while we compute
            carry = local_step(carry)
            # A step that fails must leave all that follows undone.
            with tf.control_dependencies(_tensors(carry)):
                estimate, cause, finite = self._end(begun)
            pairs = zip(traces, (estimate, theta, cause), strict=True)
            return finite, carry, [t.write(done, value) for t, value in pairs]

        def step_or_pass(done, *state):
            if first is None:
                return done + 1, *one_step(done, *state)
            state = tf.cond(
                done >= first, lambda: one_step(done, *state), lambda: state
            )
            return done + 1, *state

        start = (tf.constant(0), tf.constant(True), carry, traces)
        done, finite, carry, traces = tf.while_loop(
            goes_on, step_or_pass, start
        )
        return carry, StepTrace(*(t.stack()[:done] for t in traces), finite)

    def after_step(self):
        """Checks, and synchronises if need be, after a local step.

        Returns:
          (estimate of the variance, a place in CAUSES, whether finite).
        """
        return self._end_step(self._begin_check())

    def _begin_check(self):
        if self.check is None:
            return variance_check.none()
        return self.check.begin(self.theta.read_value())

    def _end_step(self, verdict):
        self.step.assign_add(1)
        self.interval.assign_add(1)
        step, interval = self.step.read_value(), self.interval.read_value()
        theta = self.theta.read_value()
        if self.check is not None:
            verdict = self.check.end(theta, interval, verdict)
            self._count_check(tf.cast(verdict.checked, tf.int64))
            self._state_is_finite.assign(verdict.finite)
        estimate, crossed, finite, _ = verdict
        cause = tf.where(crossed, 1, tf.where(self._due(), 2, 0))

        def end_round():
            finite = self._synchronise()
            after = self._schedule.synchronised(theta, step, interval, estimate)
            return finite, after, tf.zeros_like(interval)

        finite, theta, interval = tf.cond(
            finite & (cause > 0), end_round, lambda: (finite, theta, interval)
        )
        self.theta.assign(self._schedule.after_step(theta, step, interval))
        return estimate, cause, finite

    def _count_check(self, checks):
        """Counts a check, if there was one: 0 or 1."""
        self.checks.assign_add(checks)
        state = 4 * self.monitor.floats
        self._paper_states.assign_add(checks * self.workers.count * state)

    def _count_synchronisation(self):
        self.syncs.assign_add(1)
        if self.workers.count > 1:
            model = 4 * self.workers.worker.weights.layout.size
            self._paper_models.assign_add(2 * self.workers.count * model)

    def _due(self):
        """Returns whether a synchronisation is due by the clock."""
        if self.nothing_to_average:
            return False
        step, interval = self.step.read_value(), self.interval.read_value()
        return self.sync.due(Clock(step, interval, self.epoch))

    def _synchronise(self, everyone=False):
        """Averages the models; returns whether all went well.

        A mean, or a server's step, that is not finite is not put in place, so
        that it can be told whose it was.
        """
        self.workers.choose_participants(self.step.read_value(), everyone)
        mean = self.exchange.mean(self.step.read_value())
        norm = vectors.squared_norm_alike(mean.weights)
        return tf.cond(
            tf.math.is_finite(norm),
            lambda: self._apply(mean, norm),
            lambda: tf.constant(False),
        )

    def _apply(self, mean, norm):
        """Lets the server make the new w_0 of a mean that is finite."""
        old = tuple(b.read_value() for b in self.w0)
        new = self.server.apply(old, mean.weights)
        new = self.workers.worker.constrain(new)
        if _are(new, mean.weights):
            return self._begin_round(old, new, mean.statistics, norm)
        norm = vectors.squared_norm_alike(new)
        finite = tf.math.is_finite(norm)
        self._server_is_finite.assign(finite)
        return tf.cond(
            finite,
            lambda: self._begin_round(old, new, mean.statistics, norm),
            lambda: tf.constant(False),
        )

    def _begin_round(self, old, new, statistics, norm):
        """Begins a round at the new w_0; returns that all went well."""
        self._schedule.averaged(norm)
        if self.check is not None:
            self.monitor.synchronised(new, old)
            self.check.synchronised()
        vectors.assign(self.w0, new)
        self.hold()
        self.workers.assign(Snapshot(new, statistics))
        self._tell_policy()
        self.interval.assign(0)
        self._count_synchronisation()
        return tf.constant(True)

    def _synchronise_all(self):
        return self._synchronise(everyone=True)

    def _tell_policy(self):
        clock = Clock(
            self.step.read_value(), self.interval.read_value(), self.epoch
        )
        loss = self.workers.mean_loss() if self.sync.needs_loss else None
        self.sync.synchronised(clock, loss)

    def hold(self) -> None:
        """Tells optimizers that are held near w_0 where that is."""
        w0 = [bucket.read_value() for bucket in self.w0]
        for worker in self.workers.resident:
            worker.hold(w0)

    def count_takeover(self, groups: Sequence[Group]) -> None:
        """Counts that all workers have taken the values of one."""
        for group in groups:
            self.workers.meter.broadcast("model", group.variables)
        self._count_synchronisation()

    def restart(self) -> None:
        """Begins a new round from the models as they are, equal on all."""
        vectors.assign(self.w0, self.workers.snapshot().weights)
        self.hold()
        self.interval.assign(0)
        self._state_is_finite.assign(True)
        self._server_is_finite.assign(True)
        if self.check is not None:
            self.check.synchronised()

    def finish(self) -> bool:
        """Ends training with a synchronisation, which is not counted.

        Returns:
          Whether anything was averaged: not if all models are equal already.

        Raises:
          FloatingPointError: when a drift is not finite.
        """
        moved = self.workers.average_frozen()
        same = not int(self.interval) and not self.workers.apart
        if self.nothing_to_average or same:
            return moved
        if not bool(self.synchronise()):
            self.raise_bad_drift()
        self.syncs.assign_sub(1)
        return True

    def average_frozen(self) -> bool:
        """Averages what no step changes and something else has moved apart.

        It is counted as a synchronisation. All workers must ask.

        Returns:
          Whether there was one.
        """
        moved = self.workers.average_frozen()
        self.syncs.assign_add(int(moved))
        return moved

    def averaged(self) -> Snapshot:
        """Returns the average of the K models; all workers must ask.

        Just after a synchronisation the models are w_0, and nothing is sent.
        A guard judges them as at a synchronisation.
        """
        statistics = self.workers.has_statistics
        same = self.exchange.average_statistics or not statistics
        if not int(self.interval) and same and not self.workers.apart:
            return self.workers.snapshot()
        return self.call(self._average)

    def bad_workers(self) -> list[int]:
        """Returns the numbers of the workers whose drift is not finite."""
        norms = self.workers.gather(
            lambda s: vectors.squared_norm(vectors.subtract(s.weights, self.w0))
        )
        return [
            self.workers.number(i)
            for i, n in enumerate(norms)
            if not math.isfinite(n)
        ]

    def sent(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns (synchronisations, bytes as the paper counts them)."""
        meter = self.workers.meter
        sent = meter.paid_tensor("state") + meter.both_ways("model")
        return self.syncs.read_value(), tf.cast(sent, tf.float64)

    def raise_bad_drift(self) -> None:
        """Says whose drift is not finite; all workers must ask.

        Raises:
          FloatingPointError: always; names the workers and the step.
        """
        step, bad = int(self.step), self.bad_workers()
        looked = int(self.interval)
        since = f"one of the last {looked} steps" if looked > 1 else "this step"
        when = "" if self.monitor else f" (it was in {since})"
        words = (
            f"the drift of worker {', '.join(map(str, bad))} is NaN or "
            f"infinite{when}; all workers stop. Lower the learning rate, clip "
            "the gradients (clipnorm=), or look at that worker's data."
            if bad
            else self._what_else_is_bad()
        )
        error = FloatingPointError(f"Step {step}: {words}")
        raise known(error, shown_by=min(bad, default=0))

    def _what_else_is_bad(self) -> str:
        if not bool(self._state_is_finite):
            return (
                f"the mean state of {self.monitor} is NaN or infinite, though "
                "no worker's drift is; all workers stop. Lower the learning "
                "rate, or look at the monitor's `state`."
            )
        if not bool(self._server_is_finite):
            return (
                "the server optimizer's step, or what a weight's constraint "
                "made of the average, is NaN or infinite; all workers stop. "
                "Lower the server's learning rate, or look at the constraint."
            )
        if self.exchange.guard is not None and self.workers.apart:
            return (
                "nobody is left to average: the guard has dropped all who did "
                "not miss the synchronisation; all workers stop. Give the "
                "guard a larger factor, or action='clip', or lower "
                "straggler_rate."
            )
        return (
            "the average of the models is NaN or infinite, though no worker's "
            "drift is; all workers stop. Lower the learning rate."
        )

    def variables(self) -> dict[str, list[tf.Variable]]:
        """Returns what the loop keeps, by what it is: for checkpoints."""
        monitor = self.monitor.variables if self.monitor else []
        return {
            "w0": self.w0,
            "monitor": list(monitor),
            "server": list(self.server.variables),
            "theta": [self.theta, *self._schedule.variables],
            "check": self.check.variables if self.check else [],
            "policy": list(self.sync.variables),
            "losses": self.workers.loss_variables(),
            "counters": [self.step, self.interval, self.syncs, self.checks],
            "paper": [self._paper_states, self._paper_models],
            "meter": list(self.workers.meter.variables),
        }

    def counters(self) -> dict[str, float]:
        """Returns what has been done and sent, in all, until now."""
        meter, step = self.workers.meter, int(self.step)
        return {
            "step": step,
            "epoch": float(step / self.epoch) if self.epoch else math.nan,
            "syncs": int(self.syncs),
            "checks": int(self.checks),
            "state_bytes": meter.paid("state"),
            "model_bytes": int(meter.both_ways("model")),
            "paper_state_bytes": int(self._paper_states),
            "paper_model_bytes": int(self._paper_models),
            "eval_bytes": meter.on_wire("eval"),
            "wire_bytes": sum(map(meter.on_wire, ("state", "model", "call"))),
        }


def _counter(name: str) -> tf.Variable:
    return tf.Variable(0, dtype=tf.int64, trainable=False, name=name)


def _tensors(structure):
    return tf.nest.flatten(structure, expand_composites=True)


def _are(new, mean):
    """Whether the new buckets are the mean's own, and not made of them."""
    return all(a is b for a, b in zip(new, mean, strict=True))
