"""What a fit trains with: made before its first step, then used again."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from fda_tf.groups import Group
from fda_tf.keras_fit.execution import compile_steps
from fda_tf.keras_fit.meetings import Meetings
from fda_tf.keras_fit.metric_reduction import Metrics
from fda_tf.sync import VarianceThreshold
from fda_tf.trainer import Trainer


class Made(NamedTuple):
    """What one fit made, and the next one uses again if it can."""

    made_for: tuple  # what has to be the same then
    spec: Any  # of the batches
    cap: float | None  # in epochs, if the loop knows no epoch's length
    trainer: Trainer
    compiled: Callable
    metrics: Metrics | None  # alone there is nothing to reduce
    samples: tf.Variable  # of this epoch here, and of the last step


def make(
    callback: Any,
    train_function: Any,
    spec: Any,
    steps: int | None,
    meetings: Meetings,
) -> Made:
    """Returns what to train with; all workers must ask.

    Args:
      callback: the `Averaging` whose settings count, and who keeps it.
      train_function: Keras' own, which makes another one when the model is
        compiled anew.
      spec: of the batches.
      steps: of an epoch, if all workers know.
      meetings: of this fit.
    """
    made, made_for = callback.made, (train_function, spec, steps)
    if made is not None and made.made_for == made_for:
        meetings.meet("another fit")
        made.trainer.home.end_meeting()  # which an error has kept open
        take_chiefs(made.trainer)
        return made
    cap = _own_cap(callback.sync, steps)
    meetings.settled = True  # the trainer tells of errors by itself
    trainer = _trainer(callback, spec, steps, cap)
    meetings.settled = False
    samples = tf.Variable(tf.zeros([2]), trainable=False, name="samples")
    compiled = compile_steps(trainer, samples)
    metrics = None
    if callback.replicas.count > 1:
        logs = trainer.worker.logs
        metrics = Metrics(callback.model, spec, logs, callback.replicas)
    made = Made(made_for, spec, cap, trainer, compiled, metrics, samples)
    callback.syncs.clear()
    callback.variance.clear()
    callback.made = made
    return made


def take_chiefs(trainer: Trainer) -> list[Group]:
    """Begins a new round from the chief's model; all workers must.

    Returns:
      What was sent.
    """
    worker, home = trainer.worker, trainer.home
    unlike = home.unlike(worker.frozen)
    sent = [worker.weights, worker.statistics, *unlike]
    home.take_chiefs(sent)
    trainer.loop.restart()
    return sent


def _own_cap(sync: Any, steps: int | None) -> float | None:
    if steps is None and isinstance(sync, VarianceThreshold) and sync.cap:
        return sync.cap.epochs
    return None


def _trainer(
    callback: Any, spec: Any, steps: int | None, cap: float | None
) -> Trainer:
    sync, checkpoint = callback.sync, callback.checkpoint
    return Trainer(
        callback.model,
        spec,
        # A cap that fit itself looks after is left out.
        sync=dataclasses.replace(sync, cap=None) if cap else sync,
        server=callback.server,
        statistics=callback.statistics,
        payload=callback.payload,
        guard=callback.guard,
        epoch_steps=steps,
        replicas=callback.replicas,
        cap_in_epochs=cap,
        checkpoint=checkpoint and checkpoint.every,
    )
