"""Where the workers are, in one process: K workers on few resident models.

The state of all workers is kept in stacked variables [K, n]. A **lane** is a
resident model: a worker's row is loaded into it, the model's own `train_step`
runs, and the row is stored back. So any model and any optimizer works as it
is, what is compiled does not grow with K, and memory is K x (weights + slots)
besides the lanes. Lanes run side by side, one for each core.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from fda_tf.data import sources
from fda_tf.processes.process_group import ProcessGroup
from fda_tf.tensors import graphs
from fda_tf.tensors.packing import to_words
from fda_tf.workers import cores
from fda_tf.workers.base import Workers, shared
from fda_tf.workers.local_model import Snapshot
from fda_tf.workers.participation import Round


class Simulation(Workers):
    """K workers in one process.

    Args:
      build: makes a compiled model, a new one at each call; called once for
        each lane. All workers start from the first one's weights.
      source: gives the batches of workers 0 .. K-1.
      workers: K.
      lanes: models resident at a time; by default one for each core.
      rounds: who takes part in each; by default all, always.
      shares: what each worker counts for in a mean; None if all count alike.
    """

    def __init__(
        self,
        build: Callable[[], keras.Model],
        source: sources.ArraySource | sources.DatasetSource,
        workers: int,
        lanes: int | None = None,
        rounds: Round | None = None,
        shares: Sequence[float] | None = None,
    ):
        self._round = rounds or Round(workers)
        count = self._round.count
        lanes = min(count, lanes or cores.count())
        self.lanes = cores.lanes_of([build() for _ in range(lanes)], source)
        super().__init__(count, self.lanes[0], source, shares)
        self.here, self.clients = count, workers
        self.apart = self._round.apart
        self.process_group = ProcessGroup()  # this process, alone
        self.share_frozen()
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
        self._residual: list[tf.Variable] = []

    def step(self, step):
        lanes = len(self.lanes)

        def take_turn(turn):
            self._step_lanes(turn * lanes, lanes, step)

        graphs.repeat(self.count // lanes, take_turn)
        if self.count % lanes:
            last = self.count - self.count % lanes
            self._step_lanes(tf.constant(last), self.count % lanes, step)

    def mean(self, of, kind, shares=None):
        first = of(self._snapshot(0))
        self.count_exchange(kind, first)
        return self._mean(
            lambda i: of(self._snapshot(i)), self._shares_for(kind, shares)
        )

    def mean_sent(self, send, read, shares, summable, kind="model"):
        shares = self._shares_for(kind, shares)

        def sent(i):
            parts, residual = send(i, self._snapshot(i))
            if residual:
                if shares is not None:
                    counts, kept = shares[i] > 0, self._snapshot(i).residual
                    residual = tuple(
                        tf.where(counts, new, old)
                        for new, old in zip(residual, kept, strict=True)
                    )
                _store(self._residual, self._round.client(i), residual)
            return parts

        form = sent(0)  # not twice: what it leaves out is kept
        flat = tf.nest.flatten(form)
        if summable:
            self.count_exchange(kind, flat)
            mean = self._mean(lambda i: tf.nest.flatten(sent(i)), shares, flat)
            return read(tf.nest.pack_sequence_as(form, mean))
        first = read(form)
        words = sum(to_words(part).shape[0] for part in flat)
        self.meter.gather(kind, [tf.zeros([words])], first)
        self.meter.gather("call", [tf.zeros([1])], [])
        return self._mean(lambda i: read(sent(i)), shares, first)

    def all_of(self, of, kind):
        values = self.each(of)
        self.count_exchange(kind, [values])
        return values

    def each(self, of):
        def write(i, states):
            return states.write(i, of(self._snapshot(i)))

        states = tf.TensorArray(tf.float32, self.here)
        return graphs.fold(0, self.here, write, states).stack()

    def rows(self, of, kind):
        rows = self.each(of)
        self.meter.gather(kind, [rows[0]], [rows])
        return rows

    def mean_of(self, rows, kind):
        self.count_exchange(kind, [rows[0]])
        (mean,) = self._mean(lambda i: [rows[i]], self._shares_for(kind))
        return mean

    @property
    def resident(self):
        return self.lanes

    def mean_here(self, value):
        self.count_exchange("state", [value])
        return value

    def keep_residuals(self):
        zeros = [tf.zeros_like(b) for b in self.lanes[0].weights.pack()]
        self._residual = _stack("residual", self.clients, zeros)

    def choose_participants(self, step, everyone):
        self._round.choose_participants(step, everyone)

    def number(self, place):
        return int(self._round.client(place))

    def assign(self, snapshot):
        self._round.begin()

        def put(i):
            k = self._round.client(i)
            _store(self._weights, k, snapshot.weights)
            if snapshot.statistics:
                _store(self._statistics, k, snapshot.statistics)

        def put_if_there(i):
            tf.cond(self._round.attends(i), lambda: put(i), lambda: None)

        graphs.repeat(self.count, put_if_there if self.apart else put)

    def snapshot(self):
        return self._snapshot(0)

    def gather(self, of):
        return tf.stack([of(self._snapshot(i)) for i in range(self.count)])

    def variables(self):
        kept = super().variables() | self._stacks()
        return kept | {"round": self._round.variables}

    def settings(self):
        return super().settings() | self._round.settings

    def _stacks(self):
        groups = {f"rest_{i}": rows for i, rows in enumerate(self._rest)}
        return groups | {
            "weights": self._weights,
            "statistics": self._statistics,
            "residual": self._residual,
        }

    def state_bytes(self) -> int:
        """Returns the bytes that the state of all workers takes."""
        return sum(
            stacked.shape.num_elements() * stacked.dtype.size
            for stack in self._stacks().values()
            for stacked in stack
        )

    def _mean(self, of, shares, first=None):
        """Returns the mean of `of(place)`, the first of which may be known."""

        def counted(i, values):
            return values if shares is None else shared(shares[i], values)

        def add(i, total):
            values = counted(i, of(i))
            return [t + v for t, v in zip(total, values, strict=True)]

        total = counted(0, list(of(0) if first is None else first))
        total = graphs.fold(1, self.count, add, total)
        if shares is None:
            return [t / self.count for t in total]
        whole = tf.reduce_sum(shares)
        return [tf.cast(tf.cast(t, tf.float32) / whole, t.dtype) for t in total]

    def _shares_for(self, kind, shares=None):
        """Returns what the workers of this round count for; None: all alike."""
        own = self.all_shares()
        if own is not None:
            own = self._round.of_clients(own)
        if kind == "model":
            shares = self._round.shares(shares)
        if own is None or shares is None:
            return own if shares is None else shares
        return own * shares

    def _step_lanes(self, first, lanes, step):
        # All loads, then all steps, then all stores: TensorFlow keeps the
        # order of what touches a variable, so only this order lets the
        # lanes' steps run at the same time.
        clients = [self._round.client(first + i) for i in range(lanes)]
        batches = [
            self.source.batch(k, self._round.step_of(k, step)) for k in clients
        ]
        for i in range(lanes):
            lane = self.lanes[i]
            lane.assign(self._snapshot(first + i))
            for group, rows in zip(lane.rest, self._rest, strict=True):
                group.assign(_load(rows, clients[i]))
        for i in range(lanes):
            self.lanes[i].step(batches[i])
        for i in range(lanes):
            lane = self.lanes[i]
            _store(self._weights, clients[i], lane.weights.pack())
            _store(self._statistics, clients[i], lane.statistics.pack())
            for group, rows in zip(lane.rest, self._rest, strict=True):
                _store(rows, clients[i], group.pack())

    def _snapshot(self, place):
        k = self._round.client(place)
        return Snapshot(
            _load(self._weights, k),
            _load(self._statistics, k),
            _load(self._residual, k),
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
