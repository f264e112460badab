"""Fits on a cluster that are stopped, and go on."""

import dataclasses
import os
import signal
from collections.abc import Callable
from typing import Any

import fit_cases
import keras
import numpy as np
import small
import tensorflow as tf

import fda_tf

BATCH, SAMPLES, EPOCHS = 8, 160, 3  # of two workers: 10 steps an epoch
threshold = fda_tf.VarianceThreshold


class Stop(Exception):
    """What stops a run, wherever it is."""


def stop(how):
    """Stops as is said: by an error, or by a signal."""
    if how == "error":
        raise Stop
    if how != "SIGKILL" or os.environ["FDA_TF_RESTART"] == "0":
        os.kill(os.getpid(), getattr(signal, how))


class Stopper(keras.callbacks.Callback):
    """Stops a fit at the n-th call of a method."""

    def __init__(self, method, number, how):
        super().__init__()
        self._number, self._how = number, how
        setattr(self, method, self._called)

    def _called(self, *_, **__):
        self._number -= 1
        if not self._number:
            stop(self._how)


# The data: what fit takes, and how.


def shard(own):
    """Data of which every batch is a function of its step."""
    return fda_tf.shard(own, BATCH, mine=True), {}


def weighed(own):
    """The same, with class weights."""
    return shard(own)[0], {"class_weight": {0: 2.0, 1: 1.0, 2: 0.5}}


def arrays(own):
    """Arrays in their own order."""
    return own[0], {"y": own[1], "batch_size": BATCH, "shuffle": False}


def finite(own):
    """A dataset of 10 batches, which is read again for each epoch."""
    return tf.data.Dataset.from_tensor_slices(own).batch(BATCH), {}


def unknown(own):
    """The same, but nobody knows how many batches there are."""
    return finite(own)[0].filter(lambda x, y: True), {}


def unlike(own):
    """The same; the worker with the last labels has 8 batches alone."""
    return unknown(own)[0].take(8 if own[1][0] else 10), {}


def repeated(own):
    """An endless dataset, of which an epoch takes 7 of 10 batches."""
    return finite(own)[0].repeat(), {"steps_per_epoch": 7}


def halves(own):
    """10 batches, of which an epoch takes 5: the third begins anew."""
    return finite(own)[0], {"steps_per_epoch": 5}


def parts(own):
    """10 batches; nobody knows how many, and epochs take 7, 3, and 7."""
    return unknown(own)[0], {"steps_per_epoch": 7}


# Keras' callbacks that remember something.


def watching():
    """They halve the rate after each epoch but the first."""
    callbacks = keras.callbacks
    return [
        callbacks.EarlyStopping(patience=9, restore_best_weights=True),
        callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.5),
    ]


def impatient():
    """They end the training after the second epoch, with the first's model."""
    stopping = keras.callbacks.EarlyStopping
    return [stopping(patience=1, min_delta=9.0, restore_best_weights=True)]


@dataclasses.dataclass(frozen=True)
class Case:
    """A fit that is stopped on the last worker.

    Attributes:
      stop: at the n-th call of which method of a callback, and how; None if
        it is not.
      every: of the checkpoints.
      steps: of the checkpoints that are then there.
      begun: the epochs of the fit that is stopped.
    """

    stop: tuple[str, int, str] | None
    every: int | None
    steps: list[int]
    build: Callable = small.rich_model
    data: Callable = shard
    callbacks: Callable = list
    sync: Any = threshold(0.05, "linear", fda_tf.Every(epochs=1))
    begun: int = EPOCHS


BATCHES, EPOCH, VALIDATION = (
    "on_train_batch_end", "on_epoch_end", "on_test_batch_end",
)  # fmt: skip


# With another number of workers: after 8 steps of four, 5 of them an epoch,
# and after 18 of what are then two, who count the epoch's first 6 again.
FOUR = Case((BATCHES, 8, "error"), 4, [8, 4])
TWO = Case((BATCHES, 16, "error"), 4, [16, 12])
THREE = Case(None, 4, [])


def cases():
    """Returns name -> Case."""
    linear, error = fit_cases._linear(), "error"
    fours = fit_cases._linear(steps_per_execution=4)
    wide = threshold(0.2, "linear", fda_tf.Every(epochs=1))

    def watched(*arguments):
        return Case(*arguments, callbacks=watching)

    def plain(*arguments, build=linear):
        stopped, (data,) = arguments[:3], arguments[3:]
        return Case(*stopped, build=build, data=data, sync=wide)

    return {
        "first epoch": watched((BATCHES, 6, error), 4, [4]),
        "epoch's end": watched((EPOCH, 1, error), 5, [5]),
        "second epoch": watched((BATCHES, 17, error), 4, [16, 12, 8]),
        "whole epochs": watched((BATCHES, 27, error), None, [20, 10]),
        "SIGTERM": watched((BATCHES, 13, "SIGTERM"), 100, [14]),
        "SIGTERM, epoch's last step": watched(
            (BATCHES, 9, "SIGTERM"), 100, [10]
        ),
        # Each worker has one of the two batches of a validation.
        "SIGTERM, validation": watched((VALIDATION, 2, "SIGTERM"), 100, [20]),
        "executions of 4": plain(
            (BATCHES, 5, error), 3, [18, 15, 12], weighed, build=fours
        ),
        # The others hear of it at step 9, after the checkpoint of step 8.
        "between rounds": Case(
            (BATCHES, 5, error), 4, [4], linear, sync=fda_tf.Every(steps=9)
        ),
        "own train_step": plain(
            (BATCHES, 17, error), 4, [16, 12, 8], shard,
            build=fit_cases._own_step,
        ),
        "arrays": plain((BATCHES, 17, error), 4, [16, 12, 8], arrays),
        "arrays, whole epochs": plain(
            (BATCHES, 17, error), None, [10], arrays
        ),
        "finite": plain((BATCHES, 17, error), 4, [16, 12, 8], finite),
        "unknown length": plain((BATCHES, 6, error), 4, [4], unknown),
        "unknown length, executions of 4": plain(
            (BATCHES, 5, error), 3, [18, 15, 12], unknown, build=fours
        ),
        "unlike lengths": plain((BATCHES, 12, error), 3, [12, 9, 6], unlike),
        "unlike lengths, SIGTERM": plain(
            (BATCHES, 7, "SIGTERM"), 100, [8], unlike
        ),
        "repeated": plain((BATCHES, 12, error), None, [7], repeated),
        "halves": plain((BATCHES, 7, error), 3, [6, 3], halves),
        "halves, whole epochs": plain((BATCHES, 7, error), None, [5], halves),
        "parts": plain((BATCHES, 9, error), 4, [8, 4], parts),
        "parts, third epoch": plain((BATCHES, 13, error), 4, [12, 8, 4], parts),
        "over": Case(None, 4, [30, 28, 24], callbacks=watching),
        "over, more epochs": Case(None, 4, [10, 8, 4], begun=1),
        "ended early": Case(None, 4, [20, 16, 12], callbacks=impatient),
    }  # fmt: skip


def fit(
    case, process_group, folder=None, stop=None, epochs=EPOCHS, stopper=Stopper
):
    """Runs a case; returns what it did, as JSON can hold it."""
    own = small.shards(process_group.count, SAMPLES)[process_group.index]
    model = case.build(1 + process_group.index)  # all start from worker 0's
    saved = folder and fda_tf.Checkpoint(folder, every=case.every)
    fda = fda_tf.Averaging(case.sync, checkpoint=saved)
    callbacks = [*case.callbacks(), fda]
    if stop and process_group.index == process_group.count - 1:
        callbacks.append(stopper(*stop))
    x, options = case.data(own)
    if case.callbacks is not list:  # they look at the loss there
        options["validation_data"] = small.data(40, seed=5)
    history = model.fit(
        x, epochs=epochs, verbose=0, callbacks=callbacks,
        validation_batch_size=20, **small.in_parts(options),
    )  # fmt: skip
    logs = history.history.items()
    return {
        "weights": [v.tolist() for v in small.kept(model)],
        "optimizer": [v.numpy().tolist() for v in model.optimizer.variables],
        "syncs": fda.syncs,
        "variance": fda.variance,
        "epochs": history.epoch,
        "history": {name: np.asarray(v).tolist() for name, v in logs},
        "position": getattr(x, "position", None),
    }
