"""`train`: this process's worker, with those of the other processes."""

from collections.abc import Callable
from typing import Any

import keras

from fda_tf.algorithm import algorithm as algorithms
from fda_tf.algorithm.algorithm import Algorithm
from fda_tf.algorithm.policies import Policy
from fda_tf.checkpoint.directory import Checkpoint
from fda_tf.data import sources
from fda_tf.processes import agreement
from fda_tf.processes.process_group import ProcessGroup, current_process_group
from fda_tf.run import recorder
from fda_tf.run.history import History
from fda_tf.run.recorder import Settings
from fda_tf.run.sync_log import Synchronisation
from fda_tf.workers import description
from fda_tf.workers.distributed import Cluster
from fda_tf.workers.local_model import Worker


def train(
    model: keras.Model,
    shard: Any,
    algorithm: Algorithm | Policy | None = None,
    *,
    steps: int,
    process_group: ProcessGroup | None = None,
    batch_size: int = 32,
    sampling: str = "passes",
    seed: int = 0,
    weighting: str = "equal",
    validation_data: Any = None,
    validation_batch_size: int = 500,
    evaluate_every: int | None = None,
    on_evaluation: Callable[[dict[str, Any]], Any] | None = None,
    on_progress: Callable[[dict[str, Any]], Any] | None = None,
    on_synchronisation: Callable[[Synchronisation], Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Trains this process's worker together with those of the other processes.

    Every process calls it, with a model of its own that has equal shapes,
    and the same settings; only the shard is its own. Alone it trains as K = 1.

    Args:
      model: compiled, and made outside any `strategy.scope()`.
      shard: this worker's (x,), (x, y) or (x, y, sample_weight) of arrays,
        as `fit` takes them, or a batched `tf.data.Dataset`.
      algorithm: a `fda_tf.Algorithm`, or a policy, which stands for the
        algorithm with this policy and defaults for all else; by default
        `VarianceThreshold(theta=1.5)`.
      steps: in-parallel steps: every worker does one each.
      process_group: what `fda_tf.connect()` returned.
      batch_size: samples of a batch, for a shard of arrays.
      sampling: "passes" or "independent", for a shard of arrays.
      seed: of the order of the samples.
      weighting: "equal", or "samples": workers count in proportion to their
        samples, for the variance, too.
      validation_data: (x, y), (x, y, sample_weight) or a batched dataset, on
        which the average of the models is evaluated.
      validation_batch_size: samples.
      evaluate_every: steps between evaluations; None for once a global
        epoch, after step ceil(e n / (B K)). The last step is always evaluated.
      on_evaluation: called with the row of each evaluation; training ends
        if it returns True on any worker.
      on_progress: called with such a row, without metrics, every few steps.
      on_synchronisation: called with each `Synchronisation`.
      checkpoint: a `fda_tf.Checkpoint`: a run in its directory goes on where
        the one before was stopped, and SIGTERM stops it in good order.

    Returns:
      A `History`, whose `model` has the final average.

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
    process_group = process_group or current_process_group()
    with process_group.lost_worker_in_words():
        try:
            algorithm = algorithms.get(algorithm)
            settings = Settings(
                steps=steps,
                weighting=weighting,
                validation_data=validation_data,
                validation_batch_size=validation_batch_size,
                evaluate_every=evaluate_every,
                on_evaluation=on_evaluation,
                on_progress=on_progress,
                on_synchronisation=on_synchronisation,
                checkpoint=checkpoint,
            )
            source = sources.source(
                [shard], batch_size, sampling, seed, process_group.index
            )
            worker = Worker(model, source.spec())
            described = description.describe(
                worker,
                algorithm,
                run_eagerly=worker.eager,
                steps=settings.steps,
                weighting=weighting,
                evaluate_every=settings.evaluate_every,
                checkpoint=checkpoint and [checkpoint.every],
                validation=validation_data is not None,
                shard=type(source).__name__,
                batch_size=batch_size,
                sampling=sampling,
                seed=seed,
            )
        except Exception as error:  # the other workers must hear of it
            agreement.tell(process_group, error)
            raise
        agreement.agree_on(process_group, described)
        samples = process_group.gather(source.samples or 0)
        total = int(samples.sum()) if samples.all() else None
        shares = None
        if weighting == "samples":
            shares = sources.shares(samples)
        cluster = Cluster(worker, source, process_group, shares)
        return recorder.run(cluster, algorithm, settings, total)
