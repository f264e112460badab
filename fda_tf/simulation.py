"""Where the workers are, in one process: K workers on few resident models.

The state of all workers is kept in stacked variables [K, n]. A **lane** is a
resident model: a worker's row is loaded into it, the model's own `train_step`
runs, and the row is stored back. So any model and any optimizer works as it
is, what is compiled does not grow with K, and memory is K x (weights + slots)
besides the lanes. Lanes run side by side, one for each core.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fda_tf import data, history
from fda_tf.plan import Plan, takes_plan
from fda_tf.replicas import Replicas
from fda_tf.worker import Snapshot, Worker, check
from fda_tf.workers import Workers


class Simulation(Workers):
    """K workers in one process.

    Args:
      build: makes a compiled model, a new one at each call; called once for
        each lane. All workers start from the first one's weights.
      source: gives the batches of workers 0 .. K-1.
      workers: K.
      lanes: models resident at a time; by default one for each core.
    """

    def __init__(
        self,
        build: Callable[[], keras.Model],
        source: data.ArraySource | data.DatasetSource,
        workers: int,
        lanes: int | None = None,
    ):
        lanes = min(workers, lanes or len(os.sched_getaffinity(0)))
        self.lanes = _lanes([build() for _ in range(lanes)], source)
        super().__init__(workers, self.lanes[0], source)
        self.here = workers
        self.replicas = Replicas()  # this process, alone
        start = self.lanes[0].snapshot()
        self._weights = _stack("weights", workers, start.weights)
        self._statistics = _stack("statistics", workers, start.statistics)
        self._rest = [
            _stack("rest", workers, group.pack())
            for group in self.lanes[0].rest
        ]
        for k in range(workers):
            seeds = self.lanes[0].own_seeds(k)
            for rows, vector in zip(self._rest, seeds, strict=True):
                if vector is not None:
                    _store(rows, k, vector)

    def step(self, step):
        lanes = len(self.lanes)
        for turn in tf.range(self.count // lanes):
            self._step_lanes(turn * lanes, lanes, step)
        if self.count % lanes:
            last = self.count - self.count % lanes
            self._step_lanes(tf.constant(last), self.count % lanes, step)

    def mean(self, of, kind):
        first = of(self._snapshot(0))
        self.count_exchange(kind, first)
        total = list(first)
        for k in tf.range(1, self.count):
            total = [
                t + v for t, v in zip(total, of(self._snapshot(k)), strict=True)
            ]
        return [t / self.count for t in total]

    def each(self, of):
        states = tf.TensorArray(tf.float32, self.here)
        for k in tf.range(self.here):
            states = states.write(k, of(self._snapshot(k)))
        return states.stack()

    def mean_of(self, rows, kind):
        self.count_exchange(kind, [rows[0]])
        total = rows[0]
        for k in range(1, self.count):  # in the order of `mean`, to the bit
            total += rows[k]
        return total / self.count

    def assign(self, snapshot):
        for k in tf.range(self.count):
            _store(self._weights, k, snapshot.weights)
            if snapshot.statistics:
                _store(self._statistics, k, snapshot.statistics)

    def snapshot(self):
        return self._snapshot(0)

    def gather(self, of):
        return tf.stack([of(self._snapshot(k)) for k in range(self.count)])

    def variables(self):
        groups = {f"rest_{i}": rows for i, rows in enumerate(self._rest)}
        return groups | {
            "weights": self._weights,
            "statistics": self._statistics,
        }

    def state_bytes(self) -> int:
        """Returns the bytes that the state of all workers takes."""
        return sum(
            stacked.shape.num_elements() * stacked.dtype.size
            for stack in self.variables().values()
            for stacked in stack
        )

    def _step_lanes(self, first, lanes, step):
        # All loads, then all steps, then all stores: TensorFlow keeps the
        # order of what touches a variable, so only this order lets the
        # lanes' steps run at the same time.
        batches = [self.source.batch(first + i, step) for i in range(lanes)]
        for i in range(lanes):
            lane = self.lanes[i]
            lane.assign(self._snapshot(first + i))
            for group, rows in zip(lane.rest, self._rest, strict=True):
                group.assign(_load(rows, first + i))
        for i in range(lanes):
            self.lanes[i].step(batches[i])
        for i in range(lanes):
            lane = self.lanes[i]
            _store(self._weights, first + i, lane.weights.pack())
            _store(self._statistics, first + i, lane.statistics.pack())
            for group, rows in zip(lane.rest, self._rest, strict=True):
                _store(rows, first + i, group.pack())

    def _snapshot(self, worker):
        return Snapshot(
            _load(self._weights, worker), _load(self._statistics, worker)
        )


@takes_plan
def simulate(
    build: Callable[[], keras.Model],
    shards: Sequence[Any],
    *,
    steps: int,
    workers: int | None = None,
    batch_size: int = 32,
    sampling: str = "passes",
    seed: int = 0,
    **options: Any,
) -> history.History:
    """Trains K simulated workers on one machine.

    On a CPU it is fastest with one thread for each operation, since each core
    has a worker of its own, and for small convolutions without XLA: call
    `tf.config.threading.set_intra_op_parallelism_threads(1)` before anything
    else, and compile the model with `jit_compile=False`.

    Args:
      build: a function with no arguments that returns a compiled model, with
        layers and an optimizer of its own at each call: there is one model
        for each core. All workers start from the first one's weights.
      shards: one (x, y) or (x, y, sample_weight) of arrays a worker, or one
        batched `tf.data.Dataset` a worker.
      steps: in-parallel steps: every worker does one each.
      workers: K; if given, the number of shards must be the same.
      batch_size: samples of a worker's batch, for shards of arrays.
      sampling: "passes" or "independent", for shards of arrays.
      seed: of the order of the samples.
      **options: the other fields of `fda_tf.Plan`: sync, server,
        statistics, validation_data, evaluate_every, on_evaluation, ...

    Returns:
      A `fda_tf.History`, whose `model` has the final average.

    Raises:
      ValueError: for settings or data that cannot work, before training.
      FloatingPointError: when a worker's drift is NaN or infinite.

    Example:
      >>> import numpy as np
      >>> def build():
      ...     model = keras.Sequential([keras.Input((2,)),
      ...                               keras.layers.Dense(1)])
      ...     model.compile("sgd", "mse")
      ...     return model
      >>> x = np.random.default_rng(0).normal(size=(40, 2))
      >>> shards = [(x[:20], x[:20, :1]), (x[20:], x[20:, :1])]
      >>> from fda_tf import VarianceThreshold
      >>> history = simulate(build, shards, steps=5, batch_size=4,
      ...                    sync=VarianceThreshold(0.0, "naive"))
      >>> [sync["step"] for sync in history.syncs]
      [1, 2, 3, 4, 5]
    """
    if not callable(build) or isinstance(build, keras.Model):
        raise ValueError(
            f"build={build!r}: expected a function with no arguments that "
            "returns a new compiled model, not a model."
        )
    shards = list(shards)
    if workers is not None and workers != len(shards):
        raise ValueError(
            f"workers={workers}, but {len(shards)} shards were given. Give "
            "one shard for each worker; fda_tf.partition.split makes them."
        )
    plan = Plan(steps=steps, **options)
    source = data.source(shards, batch_size, sampling, seed)
    home = Simulation(build, source, len(shards))
    return history.run(home, plan, source.samples)


def _lanes(models, source):
    """Returns the models as workers that share nothing they change."""
    lanes: list[Worker] = []
    owners: dict[int, str] = {}
    for model in models:
        check(model)
    for model in models:
        shared = [m for m in models if m is not model]
        if len(shared) < len(models) - 1 or any(
            m.optimizer is model.optimizer for m in shared
        ):
            raise ValueError(_SHARED.format("its optimizer or all of itself"))
        lane = Worker(model, source.example(), source.spec())
        common = owners.keys() & lane.changing().keys()
        if common:
            raise ValueError(_SHARED.format(owners[common.pop()]))
        owners |= lane.changing()
        if lane.shapes() != (lanes or [lane])[0].shapes():
            raise ValueError(
                "build() returned models of different shapes: "
                f"{lanes[0].shapes()} and {lane.shapes()}. Let it return the "
                "same architecture at each call."
            )
        for group, first in zip(
            lane.frozen, (lanes or [lane])[0].frozen, strict=True
        ):
            group.assign(first.pack())
        lanes.append(lane)
    return lanes


_SHARED = (
    "build() returned a model that shares {} with that of an earlier call. "
    "Make everything that training changes inside build(), anew at each call: "
    "simulated workers run on several models."
)


def _stack(name, count, vector):
    """Returns variables [count, n] with the vector in each row."""
    return [
        tf.Variable(tf.tile(b[None], [count, 1]), trainable=False, name=name)
        for b in vector
    ]


def _load(rows, k):
    return tuple(tf.gather(stacked, k) for stacked in rows)


def _store(rows, k, values):
    for stacked, value in zip(rows, values, strict=True):
        stacked.scatter_update(tf.IndexedSlices(value, k))
