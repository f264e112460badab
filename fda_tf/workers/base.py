"""Abstract base of the simulated and the distributed backend."""

import abc
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fda_tf.workers.byte_meter import Meter
from fda_tf.workers.local_model import Snapshot, Worker


class Workers(abc.ABC):
    """K workers, wherever they are; the loop knows nothing else of them.

    All that a backend has to give: a local step on every worker, the mean of a
    small or large tensor over the workers, and a way to set every worker's
    model. `step`, `mean` and `assign` run inside the compiled loop.

    Args:
      count: K.
      worker: a worker resident in this process, for shapes and evaluation.
      source: gives the batches of the workers here.
      shares: what each client counts for in a mean; None if all count alike.

    Attributes:
      here: how many of them are in this process.
      clients: how many there are in all; above K if K of them take part in a
        round.
      apart: whether models may differ just after a synchronisation.
    """

    here = 1
    apart = False

    def __init__(
        self,
        count: int,
        worker: Worker,
        source: Any,
        shares: Sequence[float] | None = None,
    ):
        self.count = self.clients = count
        self._shares = None if shares is None else tf.constant(shares)
        self.worker = worker
        self.source = source
        self.meter = Meter(count)
        # Above 0 when this worker wants all to leave the loop and meet.
        self.stop_flag = tf.Variable(0.0, trainable=False, name="stop_flag")

    @abc.abstractmethod
    def step(self, step: tf.Tensor) -> None:
        """Does local step number `step` (from 0) on every worker."""

    @abc.abstractmethod
    def mean(
        self,
        of: Callable[[Snapshot], Sequence[tf.Tensor]],
        kind: str,
        shares: tf.Tensor | None = None,
    ) -> list[tf.Tensor]:
        """Returns the mean over all K workers of `of(their snapshot)`.

        Args:
          of: what travels, from one worker's snapshot.
          kind: what for, one of `fda_tf.workers.byte_meter.KINDS`.
          shares: what each worker counts for, [K]; 0 is left out even if it
            is NaN. None: all alike.
        """

    @abc.abstractmethod
    def mean_sent(
        self,
        send: Callable[[Any, Snapshot], Any],
        read: Callable[[Any], list[tf.Tensor]],
        shares: tf.Tensor | None,
        summable: bool,
        kind: str = "model",
    ) -> list[tf.Tensor]:
        """Returns the mean over all workers of what they send, as it is read.

        Args:
          send: from a worker's place and snapshot, an `averaging.Sent`.
          read: from its `parts`, float32 tensors.
          shares: what each worker counts for, [K], or None.
          summable: whether the sum of the parts reads as the sum.
          kind: what for, one of `fda_tf.workers.byte_meter.KINDS`.
        """

    @abc.abstractmethod
    def all_of(
        self, of: Callable[[Snapshot], tf.Tensor], kind: str
    ) -> tf.Tensor:
        """Returns `of(snapshot)`, a scalar, of all K workers, [K]."""

    def all_shares(self, shares: tf.Tensor | None = None) -> tf.Tensor | None:
        """Returns what each of K workers counts for, [K]; None if all alike.

        Args:
          shares: what they count for besides, or None.
        """
        if self._shares is None or shares is None:
            return self._shares if shares is None else shares
        return self._shares * shares

    def choose_participants(self, step: tf.Tensor, everyone: bool) -> None:
        """Settles who takes part in a synchronisation: all, but in simulation.

        Args:
          step: steps done, int64.
          everyone: whether nobody may miss it.
        """
        del step, everyone

    def waiting(self, step: tf.Variable) -> contextlib.AbstractContextManager:
        """Makes the context of calls in which other processes are waited for.

        Args:
          step: steps done, which count up as long as all is well.
        """
        del step
        return contextlib.nullcontext()

    def number(self, place: int) -> int:
        """Returns the number of the worker in a place of this round; eager."""
        return place

    @abc.abstractmethod
    def keep_residuals(self) -> None:
        """Gives each worker a residual, at first 0."""

    @abc.abstractmethod
    def each(self, of: Callable[[Snapshot], tf.Tensor]) -> tf.Tensor:
        """Returns `of(snapshot)` of each worker here, [here, ...]."""

    @abc.abstractmethod
    def rows(self, of: Callable[[Snapshot], tf.Tensor], kind: str) -> tf.Tensor:
        """Returns `of(snapshot)`, a vector, of all K workers, [K, n].

        Args:
          of: what travels, from one worker's snapshot.
          kind: what for, one of `fda_tf.workers.byte_meter.KINDS`.
        """

    @abc.abstractmethod
    def mean_of(self, rows: tf.Tensor, kind: str) -> tf.Tensor:
        """Returns the mean over all K workers of what `each` returned."""

    @abc.abstractmethod
    def assign(self, snapshot: Snapshot) -> None:
        """Puts a snapshot into every worker's model.

        Statistics may be empty: then every worker keeps its own.
        """

    @abc.abstractmethod
    def snapshot(self) -> Snapshot:
        """Returns the snapshot of one worker of this process."""

    @abc.abstractmethod
    def gather(self, of: Callable[[Snapshot], tf.Tensor]) -> np.ndarray:
        """Returns `of(their snapshot)` of all K workers, stacked; eager."""

    def stop_flag_is_raised(self) -> tf.Tensor:
        """Returns whether any worker has raised the stop flag; in graphs."""
        return self.stop_flag > 0

    @property
    def resident(self) -> Sequence[Worker]:
        """The models that take steps in this process."""
        return [self.worker]

    def watch_losses(self) -> None:
        """Begins to keep what `mean_loss` is made of."""
        for worker in self.resident:
            worker.watch_losses()

    def loss_variables(self) -> list[tf.Variable]:
        """Returns what `mean_loss` is made of: for checkpoints."""
        losses = [worker.losses for worker in self.resident]
        return [each for each in losses if each is not None]

    def mean_loss(self) -> tf.Tensor:
        """Returns the mean training loss since last asked, of all workers."""
        losses = self.loss_variables()
        mean = self.mean_here(tf.add_n([each.read_value() for each in losses]))
        for each in losses:
            each.assign(tf.zeros([2]))
        return mean[0] / mean[1]

    @abc.abstractmethod
    def mean_here(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the mean, over processes, of what each one has."""

    @property
    def has_statistics(self) -> bool:
        """Whether the models have any."""
        return bool(self.worker.statistics.variables)

    def raise_stop_flag(self) -> None:
        """Lets all workers leave the loop at the next exchange."""
        self.stop_flag.assign(1.0)

    def lower_stop_flag(self) -> None:
        """Lowers the stop flag; every worker does, at the barrier."""
        self.stop_flag.assign(0.0)

    def variables(self) -> dict[str, list[tf.Variable]]:
        """Returns what the workers here keep, by name: for checkpoints.

        What no step changes is kept, too: a new process may draw other values.
        """
        worker = self.worker
        kinds = {"frozen": worker.frozen, "read_only": worker.read_only}
        return {
            f"{kind}_{i}": list(group.variables)
            for kind, groups in kinds.items()
            for i, group in enumerate(groups)
        }

    def settings(self) -> dict[str, Any]:
        """Returns what a run that goes on with these workers must be set to."""
        equal = self._shares is None
        return {"weighting": "equal" if equal else "samples"}

    def share_frozen(self) -> None:
        """Gives all models of this process what no step changes, as one is."""
        firsts = _unchanged(self.worker)
        for worker in self.resident:
            both = zip(_unchanged(worker), firsts, strict=True)
            for variable, first in both:
                if variable is not first:
                    variable.assign(first.read_value())

    def average_frozen(self) -> bool:
        """Averages what no step changes of the models, where it is unlike.

        Something else has moved it there, such as a callback that keeps a
        moving average of the weights in a teacher. All workers must ask.

        Returns:
          Whether something was sent.
        """
        self.share_frozen()
        return False

    def count_exchange(self, kind: str, tensors: Sequence[tf.Tensor]) -> None:
        """Counts an all-reduce, and the stop flag on it, one float."""
        self.meter.all_reduce(kind, tensors)
        if kind != "eval":
            self.meter.all_reduce("call", [tf.zeros([])])

    def agree(self, stop: bool, error: Exception | None = None) -> bool:
        """Returns whether any worker wants to stop; raises if one failed."""
        if error is not None:
            raise error
        return stop

    def evaluate(self, snapshot: Snapshot, data: Any, batch_size: int) -> dict:
        """Returns the model's metrics on data, with the snapshot's weights."""
        with self.worker.left_as_it_is():
            self.worker.assign(snapshot)
            return evaluate(self.worker.model, data, batch_size)


def _unchanged(worker: Worker) -> list[tf.Variable]:
    """Returns what no step changes."""
    groups = [*worker.frozen, *worker.read_only]
    return [variable for group in groups for variable in group.variables]


def evaluate(model: keras.Model, data: Any, batch_size: int) -> dict[str, Any]:
    """Returns a model's metrics on data, by name.

    Args:
      model: compiled.
      data: (x, y), (x, y, sample_weight), or a batched `tf.data.Dataset`.
      batch_size: samples, for arrays.
    """
    if isinstance(data, tf.data.Dataset):
        logs = model.evaluate(data, verbose=0, return_dict=True)
    else:
        x, y, weight = (*data, None, None)[:3]
        logs = model.evaluate(
            x,
            y,
            sample_weight=weight,
            batch_size=batch_size,
            verbose=0,
            return_dict=True,
        )
    return {name: np.asarray(v).tolist() for name, v in logs.items()}


def shared(share: tf.Tensor, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns share x tensor of each; 0 if the share is, even of NaN.

    The product is float32's: rounded to bfloat16, the share would be another.
    Where all shares are 0, what each one's is of their sum is 0 / 0: NaN, and
    so is the mean of nobody.

    Example:
      >>> [float(t) for t in shared(2.0, [tf.constant(3.0)])]
      [6.0]
      >>> [float(t) for t in shared(0.0, [tf.constant(float("nan"))])]
      [0.0]
      >>> [float(t) for t in shared(float("nan"), [tf.constant(3.0)])]
      [nan]
    """
    return [
        tf.where(
            share == 0,
            tf.zeros_like(t),
            tf.cast(share * tf.cast(t, tf.float32), t.dtype),
        )
        for t in tensors
    ]
