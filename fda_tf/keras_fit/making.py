"""What a fit trains with: made before its first step, then used again."""

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from fda_tf.groups import Group
from fda_tf.keras_fit.alike import settings
from fda_tf.keras_fit.execution import compile_steps
from fda_tf.keras_fit.meetings import Meetings
from fda_tf.keras_fit.metric_reduction import Metrics
from fda_tf.sync import VarianceThreshold
from fda_tf.trainer import Trainer
from fda_tf.worker import Worker

_MADE = "_fda_tf_made"  # the model's attribute that keeps what was compiled


@dataclasses.dataclass(eq=False)
class Made:
    """What one fit made, and a later one of the same model uses if it can.

    Attributes:
      made_for: what was traced and must be the same then: Keras' train
        function, which is another one when the model is compiled anew, the
        specs of the batches and the steps of an epoch.
      settings: of the algorithm.
      spec: of the batches.
      cap: in epochs, if the loop knows no epoch's length.
      trainer: this process's worker.
      compiled: its steps.
      metrics: of all workers; None alone, where there is nothing to reduce.
      samples: of this epoch here, and of the last step.
      owner: the callback whose run its variables hold, a weak reference.
    """

    made_for: tuple
    settings: Any
    spec: Any
    cap: float | None
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
    meetings: Meetings,
) -> Made:
    """Returns what to train with; all workers must ask.

    A callback goes on with its own run. A new one begins a run of its own, in
    the variables and with the compiled steps of another's if they are alike.

    Args:
      callback: the `Averaging` whose settings count.
      train_function: Keras' own.
      spec: of the batches.
      steps: of an epoch, if all workers know.
      meetings: of this fit.
    """
    made, made_for = callback.made, (train_function, spec, steps)
    own = made is not None and made.owner() is callback
    if own and made.made_for == made_for:
        meetings.meet("another fit")
        made.trainer.home.end_meeting()  # which an error has kept open
        take_chiefs(made.trainer)
        return made
    callback.made = _begin_run(callback, made_for, meetings)
    callback.syncs.clear()
    callback.variance.clear()
    return callback.made


def _begin_run(callback: Any, made_for: tuple, meetings: Meetings) -> Made:
    """Returns what a new run trains with; the model keeps it."""
    kept = _kept(callback, made_for)
    ours = settings(
        *(callback.sync, callback.server, callback.statistics),
        *(callback.payload, callback.guard, callback.checkpoint),
    )
    _, spec, steps = made_for
    cap = _own_cap(callback.sync, steps)
    meetings.settled = True  # the trainer tells of errors by itself
    trainer = _trainer(callback, spec, steps, cap, kept and kept.trainer.worker)
    meetings.settled = False
    owner = weakref.ref(callback)
    if kept and (kept.made_for, kept.settings) == (made_for, ours):
        kept.trainer.begin_as(trainer)
        kept.owner = owner
        return kept
    samples = tf.Variable(tf.zeros([2]), trainable=False, name="samples")
    compiled = compile_steps(trainer, samples)
    metrics = None
    if callback.replicas.count > 1:
        logs = trainer.worker.logs
        metrics = Metrics(callback.model, spec, logs, callback.replicas)
    made = Made(
        *(made_for, ours, spec, cap, trainer, compiled, metrics, samples),
        owner,
    )
    # Not by setattr: Keras would track the variables of what it is given.
    vars(callback.model)[_MADE] = made
    return made


def _kept(callback: Any, made_for: tuple) -> Made | None:
    """Returns what the model keeps, if its step was traced for such a fit."""
    kept: Made | None = vars(callback.model).get(_MADE)
    if kept is None or kept.made_for[:2] != made_for[:2]:
        return None
    trainer = kept.trainer
    # One that needs the loss has given the worker a variable of its own.
    if trainer.loop.sync.needs_loss or callback.sync.needs_loss:
        return None
    if trainer.model is not callback.model:
        return None  # but one that it is a copy of
    same_job = trainer.replicas.addresses == callback.replicas.addresses
    return kept if same_job else None


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
    callback: Any,
    spec: Any,
    steps: int | None,
    cap: float | None,
    worker: Worker | None,
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
        worker=worker,
        cap_in_epochs=cap,
        checkpoint=checkpoint and checkpoint.every,
    )
