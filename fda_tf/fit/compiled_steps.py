"""The compiled steps of a fit, which all workers do in step with each other.

TensorFlow matches an exchange by the call that it is in and its place in the
loop there. So a worker that has no data any more, or that has failed, makes
the calls that the others make, with nothing for a batch.
"""

import dataclasses
import weakref
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule as Schedule

from fda_tf.algorithm.policies import Policy
from fda_tf.data import specs
from fda_tf.data.digests import digest
from fda_tf.fit.metrics import Metrics
from fda_tf.fit.progress import ENDLESS
from fda_tf.processes.agreement import Barrier
from fda_tf.run.trainer import Trainer
from fda_tf.workers.local_model import Worker
from fda_tf.workers.variable_groups import Group

PLAIN = (bool, int, float, str, Fraction, type(None))


def settings(*parts: Any) -> Any:
    """Returns what parts of an algorithm are set to, to be compared by `==`.

    Parts are equal if they are of one class of ours, set alike, and not built
    yet. What a class of the user's holds nobody knows, and variables, such as
    a server optimizer's rate, are set from outside: they are equal to nothing.

    Example:
      >>> from fda_tf.algorithm.monitors import LinearMonitor
      >>> from fda_tf.algorithm.policies import VarianceThreshold
      >>> settings(VarianceThreshold(1.5, LinearMonitor())) == settings(
      ...     VarianceThreshold(1.5, LinearMonitor()))
      True
      >>> settings(VarianceThreshold(1.5, LinearMonitor())) == settings(
      ...     VarianceThreshold(1.5, LinearMonitor(seed=1)))
      False
      >>> settings(object()) == settings(object())
      False
    """
    return [_settings(part) for part in parts]


def _settings(part: Any) -> Any:
    kind = type(part)
    package = kind.__module__.split(".")[0]
    if kind in PLAIN:
        return kind, part
    if kind in (list, tuple):
        return kind, settings(*part)
    if package == "keras" and isinstance(part, Schedule):
        return kind, repr(part.get_config())
    if package == "fda_tf" and hasattr(part, "__dict__"):
        names, values = vars(part).keys(), vars(part).values()
        return kind, list(names), settings(*values)
    return object()


_MADE = "_fda_tf_made"  # the model's attribute that keeps what was compiled


@dataclasses.dataclass(eq=False)
class CompiledRun:
    """What one fit made, and a later one of the same model uses if it can.

    Attributes:
      made_for: what was traced and must be the same then: Keras' train
        function, which is another one when the model is compiled anew, the
        specs of the batches and the steps of an epoch.
      settings: of the algorithm.
      spec: of the batches.
      max_epochs: the longest interval, which fit keeps itself where the
        length of an epoch is unknown; else None.
      trainer: this process's worker.
      compiled: its steps.
      metrics: of all workers; None alone, where there is nothing to reduce.
      samples: of this epoch here, and of the last step.
      owner: the callback whose run its variables hold, a weak reference.
    """

    made_for: tuple
    settings: Any
    spec: Any
    max_epochs: float | None
    trainer: Trainer
    compiled: Callable
    metrics: Metrics | None
    samples: tf.Variable
    owner: weakref.ref


def make(
    callback: Any,
    train_function: Any,
    spec: Any,
    steps: int | None,
    barrier: Barrier,
) -> CompiledRun:
    """Returns what to train with; all workers must ask.

    A callback goes on with its own run. A new one begins a run of its own, in
    the variables and with the compiled steps of another's if they are alike.

    Args:
      callback: the `Averaging` whose settings count.
      train_function: Keras' own.
      spec: of the batches.
      steps: of an epoch, if all workers know.
      barrier: of this fit.
    """
    made, made_for = callback.made, (train_function, spec, steps)
    own = made is not None and made.owner() is callback
    if own and made.made_for == made_for:
        barrier.gather("another fit")
        made.trainer.workers.lower_stop_flag()  # which an error has kept open
        take_chiefs(made.trainer)
        return made
    callback.made = _begin_run(callback, made_for, barrier)
    callback.syncs.clear()
    callback.variance.clear()
    return callback.made


def _begin_run(callback: Any, made_for: tuple, barrier: Barrier) -> CompiledRun:
    """Returns what a new run trains with; the model keeps it."""
    kept = _kept(callback, made_for)
    ours = settings(callback.algorithm, callback.checkpoint)
    _, spec, steps = made_for
    every = _epochs_to_count(callback.algorithm.sync, steps)
    barrier.settled = True  # the trainer tells of errors by itself
    trainer = _trainer(
        callback, spec, steps, every, kept and kept.trainer.worker
    )
    barrier.settled = False
    owner = weakref.ref(callback)
    if kept and (kept.made_for, kept.settings) == (made_for, ours):
        kept.trainer.begin_as(trainer)
        kept.owner = owner
        return kept
    samples = tf.Variable(tf.zeros([2]), trainable=False, name="samples")
    compiled = compile_steps(trainer, samples)
    metrics = None
    if callback.process_group.count > 1:
        logs = trainer.worker.logs
        metrics = Metrics(callback.model, spec, logs, callback.process_group)
    made = CompiledRun(
        *(made_for, ours, spec, every, trainer, compiled, metrics, samples),
        owner,
    )
    # Not by setattr: Keras would track the variables of what it is given.
    vars(callback.model)[_MADE] = made
    return made


def _kept(callback: Any, made_for: tuple) -> CompiledRun | None:
    """Returns what the model keeps, if its step was traced for such a fit."""
    kept: CompiledRun | None = vars(callback.model).get(_MADE)
    if kept is None or kept.made_for[:2] != made_for[:2]:
        return None
    trainer = kept.trainer
    # One that needs the loss has given the worker a variable of its own.
    if trainer.loop.sync.needs_loss or callback.algorithm.sync.needs_loss:
        return None
    if trainer.model is not callback.model:
        return None  # but one that it is a copy of
    same_job = (
        trainer.process_group.addresses == callback.process_group.addresses
    )
    return kept if same_job else None


def take_chiefs(trainer: Trainer) -> list[Group]:
    """Begins a new round from the chief's model; all workers must.

    Returns:
      What was sent.
    """
    worker, workers = trainer.worker, trainer.workers
    unlike = workers.unlike(worker.frozen)
    sent = [worker.weights, worker.statistics, *unlike]
    workers.take_chiefs(sent)
    trainer.loop.restart()
    return sent


def _epochs_to_count(sync: Policy, steps: int | None) -> float | None:
    """Returns the longest interval in epochs, if the loop cannot count them."""
    longest = getattr(sync, "max_interval", None)
    return longest.epochs if steps is None and longest else None


def _trainer(
    callback: Any,
    spec: Any,
    steps: int | None,
    max_epochs: float | None,
    worker: Worker | None,
) -> Trainer:
    algorithm, checkpoint = callback.algorithm, callback.checkpoint
    if max_epochs:  # fit itself keeps it
        sync = dataclasses.replace(algorithm.sync, max_interval=None)
        algorithm = dataclasses.replace(algorithm, sync=sync)
    return Trainer(
        callback.model,
        spec,
        algorithm,
        steps_per_epoch=steps,
        process_group=callback.process_group,
        worker=worker,
        max_epochs=max_epochs,
        checkpoint=checkpoint and checkpoint.every,
    )


class Call(NamedTuple):
    """A call of the compiled steps, as it was begun."""

    numbering: Any  # of its exchanges
    step: int  # that it began after
    steps: int  # that it was to do


class ExecutionResult(NamedTuple):
    """What a call did, in NumPy."""

    logs: dict[str, tf.Tensor] | None  # None if no step had data
    estimates: np.ndarray  # [steps]: of the variance; NaN if there was none
    thetas: np.ndarray  # [steps]
    causes: np.ndarray  # [steps]: places in CAUSES
    finite: bool
    called: bool  # whether a stop flag is raised
    sent: tuple[int, int]  # synchronisations and bytes, in all
    theta: float  # as it is now


class Execution:
    """The steps of one fit, over the batches of Keras' own iterators.

    Args:
      trainer: this process's worker.
      compiled: what `compile_steps` made of it.

    Attributes:
      step: steps that are done, in all fits.
      most: steps of a call: eager ones make each its exchanges' numbers.
    """

    def __init__(self, trainer: Trainer, compiled: Callable):
        self._trainer, self._compiled = trainer, compiled
        self._given = self._iterator = None  # Keras' iterator, and ours
        self._batch: Any = None  # the next step's, an Optional
        self._failed: Call | None = None
        self.step = int(trainer.loop.step)
        self.most = 1 if trainer.worker.eager else ENDLESS

    def begin_epoch(self, iterator: Any, ours: Any = None) -> bool:
        """Takes an epoch's batches; returns whether there is one.

        Args:
          iterator: Keras', which may be that of the epoch before.
          ours: to be used in its place, until Keras makes a new one.
        """
        if iterator is not self._given:
            self._given = self._iterator = iterator
            self._batch = None
        if ours is not None:
            self._iterator, self._batch = ours, None
        if self._batch is None:
            self._batch = self._iterator.get_next_as_optional()
        return bool(self._batch.has_value())

    @property
    def out_of_data(self) -> bool:
        """Whether the next step has no batch."""
        return self._batch is not None and not self._batch.has_value()

    @property
    def is_cut_off(self) -> bool:
        """Whether a call failed amid an exchange, which cannot be repeated."""
        check = self._trainer.loop.check
        if self._trainer.worker.eager or not (self._failed and check):
            return False  # an eager step ends before any exchange begins
        return check.is_cut_off

    def digest(self) -> str:
        """Returns a digest of the next step's batch, which must be there."""
        return digest(specs.without_optionals(self._batch.get_value()))

    def run(self, steps: int, more: bool) -> ExecutionResult:
        """Does some steps.

        Args:
          steps: how many, at most.
          more: whether the epoch goes on after them.
        """
        done, batch = self._call(steps, self._batch, more)
        self._batch = batch if more else None
        return done

    def idle(self, steps: int) -> ExecutionResult:
        """Does some steps without data; those of a call that failed first."""
        nothing = tf.experimental.Optional.empty(self._iterator.element_spec)
        return self._call(steps, nothing, False)[0]

    def _call(
        self, steps: int, batch: Any, more: bool
    ) -> tuple[ExecutionResult, Any]:
        """Returns what was done, and the batch that is next."""
        process_group, first = self._trainer.process_group, 0
        if self._failed:  # the others are still in that call
            call, self._failed = self._failed, None
            process_group.number_from(call.numbering)
            first = int(self._trainer.loop.step) - call.step
            steps = call.steps
        else:
            self._failed = Call(process_group.numbering(), self.step, steps)
        logs, batch, trace, did, *now = self._trainer.loop.call(
            self._compiled,
            self._iterator,
            batch,
            tf.constant(steps),
            tf.constant(first),
            tf.constant(more),
        )
        step, called, syncs, sent, theta = now
        self._failed, self.step = None, int(step)
        estimates = trace.estimate.numpy()
        estimates[:first] = np.nan  # what they were was lost with that call
        if not self._trainer.worker.eager:
            logs = specs.with_tensors(self._trainer.worker.logs, logs)
        done = ExecutionResult(
            logs if did else None,
            estimates,
            trace.theta.numpy(),
            trace.cause.numpy(),
            bool(trace.finite),
            bool(called),
            (int(syncs), int(sent)),
            float(theta),
        )
        return done, batch


def compile_steps(trainer: Trainer, samples: tf.Variable) -> Callable:
    """Returns the compiled loop over Keras' batches.

    It takes the iterator, the batch of the first step (an Optional), the
    number of steps, that of the first one to be done, and whether the epoch
    goes on. The batch of the next step is drawn before the exchange of this
    one, which so tells all workers when there is none.

    Args:
      trainer: this process's worker.
      samples: float32 [2]: how many steps have had, and the last one had.
    """
    loop, worker, call = trainer.loop, trainer.worker, trainer.workers.stop_flag

    def compiled(iterator, batch, steps, first, more):
        nothing = tf.experimental.Optional.empty(iterator.element_spec)
        did, eager = batch.has_value(), []

        def step(batch):
            batch = specs.without_optionals(batch)
            logs, size = worker.step(batch), specs.size(batch)
            samples.assign([samples[0] + size, size])
            if not worker.eager:
                return specs.tensors(logs)
            eager[:] = [logs]  # of which no loop of tensors knows the form
            return []

        def draw():
            drawn = iterator.get_next_as_optional()
            call.assign(tf.where(drawn.has_value(), call.read_value(), 1.0))
            return drawn

        def local_step(carry):
            done, batch, logs = carry

            def train():
                logs = step(batch.get_value())
                goes_on = more | (done + 1 < steps)
                return tf.cond(goes_on, draw, lambda: nothing), logs

            had = batch.has_value()
            return done + 1, *tf.cond(had, train, lambda: (batch, logs))

        logs = (
            []
            if worker.eager
            else list(map(_zeros, specs.tensors(worker.logs)))
        )
        start = (tf.constant(0), batch, logs)
        (_, batch, logs), trace = loop.run_steps(
            steps, start, local_step, first
        )
        if eager:
            logs = tf.experimental.Optional.from_value(eager[0]).get_value()
        now = (
            loop.step.read_value(),
            trainer.workers.stop_flag_is_raised(),
            *loop.sent(),
        )
        return logs, batch, trace, did, *now, loop.theta.read_value()

    return worker.compile(compiled, reduce_retracing=True)


def _zeros(like: tf.Tensor) -> tf.Tensor:
    """Returns zeros whose shape is as far unknown as that of `like`."""
    zeros = tf.zeros([n or 0 for n in like.shape], like.dtype)
    return tf.compat.v1.placeholder_with_default(zeros, like.shape)
