"""The compiled steps of a fit, which all workers do in step with each other.

TensorFlow matches an exchange by the call that it is in and its place in the
loop there. So a worker that has no data any more, or that has failed, makes
the calls that the others make, with nothing for a batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from fda_tf.digest import digest
from fda_tf.keras_fit import specs
from fda_tf.keras_fit.progress import ENDLESS
from fda_tf.trainer import Trainer


class Call(NamedTuple):
    """A call of the compiled steps, as it was begun."""

    numbering: Any  # of its exchanges
    step: int  # that it began after
    steps: int  # that it was to do


class Done(NamedTuple):
    """What a call did, in NumPy."""

    logs: dict[str, tf.Tensor] | None  # None if no step had data
    estimates: np.ndarray  # [steps]: of the variance; NaN if there was none
    thetas: np.ndarray  # [steps]
    causes: np.ndarray  # [steps]: places in CAUSES
    finite: bool
    called: bool  # whether a worker has called for a meeting
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

    def run(self, steps: int, more: bool) -> Done:
        """Does some steps.

        Args:
          steps: how many, at most.
          more: whether the epoch goes on after them.
        """
        done, batch = self._call(steps, self._batch, more)
        self._batch = batch if more else None
        return done

    def idle(self, steps: int) -> Done:
        """Does some steps without data; those of a call that failed first."""
        nothing = tf.experimental.Optional.empty(self._iterator.element_spec)
        return self._call(steps, nothing, False)[0]

    def _call(self, steps: int, batch: Any, more: bool) -> tuple[Done, Any]:
        """Returns what was done, and the batch that is next."""
        replicas, first = self._trainer.replicas, 0
        if self._failed:  # the others are still in that call
            call, self._failed = self._failed, None
            replicas.number_from(call.numbering)
            first = int(self._trainer.loop.step) - call.step
            steps = call.steps
        else:
            self._failed = Call(replicas.numbering(), self.step, steps)
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
        done = Done(
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
    loop, worker, call = trainer.loop, trainer.worker, trainer.home.call

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
        now = loop.step.read_value(), trainer.home.called(), *loop.sent()
        return logs, batch, trace, did, *now, loop.theta.read_value()

    return worker.compile(compiled, reduce_retracing=True)


def _zeros(like: tf.Tensor) -> tf.Tensor:
    """Returns zeros whose shape is as far unknown as that of `like`."""
    zeros = tf.zeros([n or 0 for n in like.shape], like.dtype)
    return tf.compat.v1.placeholder_with_default(zeros, like.shape)
