"""The same loop with one worker in each process of a cluster."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fda_tf import agreement, data, history
from fda_tf import replicas as replicas_lib
from fda_tf.plan import Plan, takes_plan
from fda_tf.worker import Group, Worker
from fda_tf.workers import Workers


class Cluster(Workers):
    """K workers, one of which is in this process.

    All start from the chief's weights, statistics, optimizer and random
    states; only the seeds of the random states are then a worker's own.

    Args:
      worker: ours.
      source: gives its batches.
      replicas: the processes of the job.
    """

    def __init__(self, worker: Worker, source: Any, replicas: Any):
        super().__init__(replicas.count, worker, source)
        self.replicas = replicas
        # A float on each exchange tells of a worker's call; heard by all.
        self._heard = tf.Variable(False, trainable=False, name="heard")
        self.take_chiefs(
            [worker.weights, worker.statistics, *worker.rest, *worker.frozen]
        )
        self.take_seeds(replicas.index)

    def take_seeds(self, worker: int) -> None:
        """Moves the random states as those of worker number k."""
        own_seeds = self.worker.own_seeds(worker)
        for group, vector in zip(self.worker.rest, own_seeds, strict=True):
            if vector is not None:
                group.assign(vector)

    def take_chiefs(self, groups: Sequence[Group]) -> None:
        """Puts the chief's values into groups of the model's variables."""
        for group in groups:
            group.assign(self.replicas.broadcast(group.pack()))

    def step(self, step):
        self.worker.step(self.source.batch(self.replicas.index, step))

    def mean(self, of, kind):
        return self._exchange(list(of(self.worker.snapshot())), kind)

    def each(self, of):
        return of(self.worker.snapshot())[None]

    def mean_of(self, rows, kind):
        return self._exchange([rows[0]], kind)[0]

    def _exchange(self, tensors, kind):
        self.count_exchange(kind, tensors)
        if kind == "eval" or self.count == 1:
            return self.replicas.mean(tensors)
        last = tensors[-1]
        call = tf.reshape(self.call, [1])
        tensors[-1] = tf.concat([last, call], 0)
        *means, mean = self.replicas.mean(tensors)
        self._heard.assign(mean[-1] > 0)
        return [*means, tf.ensure_shape(mean[:-1], last.shape)]

    def called(self):
        if self.count == 1:
            return super().called()
        return self._heard.read_value()

    def end_meeting(self):
        super().end_meeting()
        self._heard.assign(False)

    def variables(self):
        worker = self.worker
        groups = {f"rest_{i}": g for i, g in enumerate(worker.rest)}
        groups |= {"weights": worker.weights, "statistics": worker.statistics}
        return {name: list(g.variables) for name, g in groups.items()}

    def assign(self, snapshot):
        self.worker.assign(snapshot)

    def snapshot(self):
        return self.worker.snapshot()

    def gather(self, of):
        return self.replicas.gather(of(self.worker.snapshot()))

    def agree(self, stop, error=None):
        flags = self.replicas.gather(np.int32([stop, error is not None]))
        if error is not None:
            raise error
        for k in np.flatnonzero(flags[:, 1]):
            raise RuntimeError(
                f"Worker {k} failed in its on_evaluation; all workers stop. "
                "Its own output says why."
            )
        return bool(flags[:, 0].any())


@takes_plan
def train(
    model: keras.Model,
    shard: Any,
    *,
    steps: int,
    replicas: Any = None,
    batch_size: int = 32,
    sampling: str = "passes",
    seed: int = 0,
    **options: Any,
) -> history.History:
    """Trains this process's worker together with those of the other processes.

    Every process calls it, with a model of its own that has equal shapes,
    and the same settings; only the shard is its own. Alone it trains as K = 1.

    Args:
      model: compiled, and made outside any `strategy.scope()`.
      shard: this worker's (x, y) or (x, y, sample_weight) of arrays, or a
        batched `tf.data.Dataset`.
      steps: in-parallel steps: every worker does one each.
      replicas: what `fda_tf.connect()` returned.
      batch_size: samples of a batch, for a shard of arrays.
      sampling: "passes" or "independent", for a shard of arrays.
      seed: of the order of the samples.
      **options: the other fields of `fda_tf.Plan`: sync, server,
        statistics, validation_data, evaluate_every, on_evaluation, ...

    Returns:
      A `fda_tf.History`, whose `model` has the final average.

    Raises:
      ValueError: on every worker, before training, for settings, models or
        data that cannot work together.
      FloatingPointError: on every worker, when one's drift is not finite.

    Example:
      >>> import numpy as np
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
      >>> model.compile("sgd", "mse")
      >>> x = np.random.default_rng(0).normal(size=(40, 2))
      >>> train(model, (x, x[:, :1]), steps=5).model is model
      True
    """
    replicas = replicas or replicas_lib.current()
    with replicas.lost_worker_in_words():
        try:
            plan = Plan(steps=steps, **options)
            source = data.source(
                [shard], batch_size, sampling, seed, replicas.index
            )
            worker = Worker(model, source.example(), source.spec())
            settings = agreement.describe(
                worker,
                steps=plan.steps,
                sync=plan.sync,
                server=plan.server,
                statistics=plan.statistics,
                evaluate_every=plan.evaluate_every,
                checkpoint=plan.checkpoint and plan.checkpoint.every,
                validation=plan.validation_data is not None,
                shard=type(source).__name__,
                batch_size=batch_size,
                sampling=sampling,
                seed=seed,
            )
        except Exception as error:  # the other workers must hear of it
            agreement.tell(replicas, error)
            raise
        agreement.agree_on(replicas, settings)
        samples = replicas.gather(source.samples or 0)
        total = int(samples.sum()) if samples.all() else None
        return history.run(Cluster(worker, source, replicas), plan, total)
