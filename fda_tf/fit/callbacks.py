"""`model.fit` on a cluster, by one callback."""

import keras
import numpy as np
import tensorflow as tf

from fda_tf import tf_internals
from fda_tf.algorithm import algorithm as algorithms
from fda_tf.algorithm import thetas
from fda_tf.algorithm.algorithm import Algorithm
from fda_tf.algorithm.compression import Compression
from fda_tf.algorithm.guard import OutlierGuard
from fda_tf.algorithm.monitors import Monitor
from fda_tf.algorithm.policies import (
    AdaptiveChecks,
    Every,
    Policy,
    Schedule,
    VarianceThreshold,
)
from fda_tf.checkpoint.directory import Checkpoint
from fda_tf.fit.compiled_steps import CompiledRun
from fda_tf.fit.keras_hooks import FitCallback
from fda_tf.fit.session import Fit
from fda_tf.fit.validation import VALIDATIONS
from fda_tf.processes.process_group import ProcessGroup, current_process_group
from fda_tf.run.recorder import check_checkpoint
from fda_tf.run.sync_log import Synchronisation


class Averaging(FitCallback):
    """Trains with the other workers inside `model.fit`, by any policy.

    Every worker's process calls `fit` with a model of its own that has equal
    shapes, its own shard of the data and the same settings. Alone it trains
    as ever, as K = 1. Its place in `callbacks=` does not matter.

    At an epoch's end all workers see the average of the models and the same
    numbers: metrics are reduced over the workers. The next epoch goes on with
    each worker's own model, unless a callback has put something else in its
    place: then with what that is on worker 0, which counts as a
    synchronisation. What a validation moves is put back. `fit` ends with a
    synchronisation: all hold the same model.

    Averaged are the weights that the model's `train_step` updates, and its
    other float variables that it updates (statistics). What it does not update
    stays where it is; variables of the model that a callback moves, such as a
    teacher that is a moving average, are averaged at each epoch's end and at
    the end, where they differ between workers. That counts, too.

    The logs have besides `variance` (the last check's estimate), `theta`,
    `syncs` and `mb_sent` (10^6 bytes, as the paper counts them), all as they
    are since the model was compiled. Callbacks that write (ModelCheckpoint,
    TensorBoard, CSVLogger) do so on worker 0 alone; `on_chief` makes it so
    for one's own. Beside what TensorBoard writes are then the points
    `fda/variance`, `fda/theta` and `fda/synchronisation`, by steps.

    An epoch is as long as the shortest shard. A worker that has no data any
    more, or whose callback stops training, ends the epoch on all of them at
    the next exchange; one that fails ends `fit` on all, with its error.

    Args:
      algorithm: a `fda_tf.Algorithm`, or a policy, which stands for the
        algorithm with this policy and defaults for all else.
      checkpoint: a `fda_tf.Checkpoint`: the next `fit` in its directory goes
        on where this one was stopped, and SIGTERM stops it in good order.
      validation: "shared": validation data that are the same on all workers
        are shared out, and each evaluates 1 / K of the batches; or "whole":
        each evaluates all of them. Data that differ are each worker's own,
        whole in both cases, and count together.
      process_group: what `fda_tf.connect()` returned.

    Attributes:
      algorithm: the `Algorithm`.
      syncs: a `Synchronisation` for each: step, interval, cause, estimate.
        When `fit` is called again, this list and `variance` go on,
        unless the model was compiled anew, its epochs became of another length,
        or a callback of the same settings has trained it in between.
      variance: the estimate after each step, floats; empty without a monitor.
        From a sketch's cascade, here as in the logs, an upper bound of the
        estimate while that is below theta.

    Raises:
      ValueError: for parts that make no algorithm; from `fit` on every
        worker, for models, settings or callbacks that cannot work together.
      RuntimeError: if there is a job and `connect()` was not called; from
        `fit`, when another worker failed or was lost.
      FloatingPointError: from `fit` on every worker, when one's drift is not
        finite.

    Example:
      >>> import keras
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
      >>> model.compile("sgd", "mse")
      >>> x = np.random.default_rng(0).normal(size=(40, 2))
      >>> local_sgd = Averaging(Every(steps=8))
      >>> history = model.fit(x, x[:, :1], verbose=0, callbacks=[local_sgd])
      >>> sorted(history.history)
      ['loss', 'mb_sent', 'syncs']
    """

    def __init__(
        self,
        algorithm: Algorithm | Policy,
        *,
        checkpoint: Checkpoint | None = None,
        validation: str = "shared",
        process_group: ProcessGroup | None = None,
    ):
        super().__init__()
        self.process_group = (
            current_process_group() if process_group is None else process_group
        )
        self.algorithm = algorithms.get(algorithm)
        check_checkpoint(checkpoint)
        self.checkpoint = checkpoint
        if validation not in VALIDATIONS:
            raise ValueError(
                f"validation={validation!r}. Known: {', '.join(VALIDATIONS)}."
            )
        self.validation = validation
        self.syncs: list[Synchronisation] = []
        self.variance: list[float] = []
        self.made: CompiledRun | None = None
        self._fit: Fit | None = None
        _shuffle_apart(self.process_group)

    def averaged_weights(self) -> list[np.ndarray]:
        """Returns the average as `model.set_weights` takes it.

        All workers must ask, in `fit` at the same step, or this raises when
        the exchange has timed out.

        Raises:
          RuntimeError: before the first step, and when others do not ask.
        """
        if self.made is None:
            raise RuntimeError(
                "averaged_weights() needs a step of training first: call "
                "model.fit with this callback."
            )
        if self._fit is not None:
            self._fit.average_frozen()
        return self.made.trainer.averaged_weights()

    # What Keras calls. Ours is the first place in its list of callbacks; what
    # has to follow all the others is done by the one that Fit puts last.

    def on_train_begin(self, logs=None):
        if self._fit is not None:
            self._fit.leave()  # an exception may have ended the one before
        self._fit = Fit(self)
        self._fit.begin()

    def on_epoch_begin(self, epoch, logs=None):
        self._fit.begin_epoch(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._fit.see_logs(logs or {})

    def on_train_batch_end(self, batch, logs=None):
        """Nothing: with it, Keras calls the others' in turn, not in threads."""

    def on_test_batch_begin(self, batch, logs=None):
        if self._fit is not None:
            self._fit.validation.begin_batch()

    def on_test_batch_end(self, batch, logs=None):
        """Nothing, for the same."""

    def on_train_end(self, logs=None):
        self._fit.before_end()

    def __getstate__(self):
        # A copy has the settings, and nothing of a fit: keras-tuner copies
        # callbacks, and a model or a compiled step cannot be copied so.
        of_a_fit = {"made": None, "_fit": None, "_model": None, "in_list": None}
        return self.__dict__ | of_a_fit

    def fit_ended(self, fit: Fit) -> None:
        """Forgets a fit: what it used may be large."""
        if self._fit is fit:
            self._fit = None


_ONE_EPOCH = Every(epochs=1)


class FDA(Averaging):
    """Federated Dynamic Averaging inside `model.fit`.

    Shorthand for `Averaging(Algorithm(VarianceThreshold(theta, ...), ...))`.

    Args:
      theta: of the variance, at least 0, in squared units of the weights; or
        what sets it: "auto", or as in `VarianceThreshold`.
      monitor: "linear", "sketch", "naive", "exact", "max", or a
        `fda_tf.monitors.Monitor`.
      max_interval: the longest interval without a synchronisation: steps, or
        an `Every`; by default one epoch, and none for "auto" and other goals
        of `fda_tf.thetas`, which have a limit of their own. None for no limit.
      check_every: from one check to the next: steps, an `Every`, or
        `fda_tf.policies.AdaptiveChecks`.
      overlap: whether a state travels while the next step computes.
      server_optimizer: as in `Algorithm`.
      compression: as in `Algorithm`.
      guard: as in `Algorithm`.
      statistics: as in `Algorithm`.
      checkpoint: as in `Averaging`.
      validation: as in `Averaging`.
      process_group: as in `Averaging`.

    Example:
      >>> import keras
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
      >>> model.compile("sgd", "mse")
      >>> x = np.random.default_rng(0).normal(size=(40, 2))
      >>> history = model.fit(
      ...     x, x[:, :1], verbose=0, callbacks=[FDA(theta=1.5)])
      >>> sorted(history.history)
      ['loss', 'mb_sent', 'syncs', 'theta', 'variance']

    Source: Theologitis et al., Federated Dynamic Averaging, EDBT 2025.
    """

    def __init__(
        self,
        theta: float | str | Schedule | thetas.ThetaSchedule = 1.5,
        monitor: str | Monitor = "sketch",
        *,
        max_interval: int | Every | None = _ONE_EPOCH,
        check_every: int | Every | AdaptiveChecks = 1,
        overlap: bool = False,
        server_optimizer: keras.optimizers.Optimizer | None = None,
        compression: str | Compression | None = None,
        guard: OutlierGuard | None = None,
        statistics: str = "average",
        checkpoint: Checkpoint | None = None,
        validation: str = "shared",
        process_group: ProcessGroup | None = None,
    ):
        if max_interval is _ONE_EPOCH and thetas.get(theta).measures:
            max_interval = None  # it was not given, and would end all rounds
        sync = VarianceThreshold(
            theta, monitor, max_interval, check_every, overlap
        )
        algorithm = Algorithm(
            sync,
            server_optimizer=server_optimizer,
            compression=compression,
            guard=guard,
            statistics=statistics,
        )
        super().__init__(
            algorithm,
            checkpoint=checkpoint,
            validation=validation,
            process_group=process_group,
        )


def _shuffle_apart(process_group: ProcessGroup) -> None:
    """Gives each worker its own global seed, if the script has set one.

    Keras' shuffles of arrays come from it, before any callback is called.
    """
    seed = tf_internals.global_seed()
    if process_group.index and seed is not None:
        tf.random.set_seed((seed + process_group.index * 0x9E3779B1) % 2**31)
