"""`train`: this process's worker, with those of the other processes."""

from typing import Any

import keras

from fda_tf.data import sources
from fda_tf.processes import agreement
from fda_tf.processes.process_group import current_process_group
from fda_tf.run import history
from fda_tf.run.plan import Plan, takes_plan
from fda_tf.workers import description
from fda_tf.workers.distributed import Cluster
from fda_tf.workers.local_model import Worker


@takes_plan
def train(
    model: keras.Model,
    shard: Any,
    *,
    steps: int,
    process_group: Any = None,
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
      shard: this worker's (x,), (x, y) or (x, y, sample_weight) of arrays,
        as `fit` takes them, or a batched `tf.data.Dataset`.
      steps: in-parallel steps: every worker does one each.
      process_group: what `fda_tf.connect()` returned.
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
    process_group = process_group or current_process_group()
    with process_group.lost_worker_in_words():
        try:
            plan = Plan(steps=steps, **options)
            source = sources.source(
                [shard], batch_size, sampling, seed, process_group.index
            )
            worker = Worker(model, source.spec())
            settings = description.describe(
                worker,
                run_eagerly=worker.eager,
                steps=plan.steps,
                sync=plan.sync,
                server=plan.server,
                statistics=plan.statistics,
                compression=plan.compression,
                guard=plan.guard,
                weighting=plan.weighting,
                evaluate_every=plan.evaluate_every,
                checkpoint=plan.checkpoint and [plan.checkpoint.every],
                validation=plan.validation_data is not None,
                shard=type(source).__name__,
                batch_size=batch_size,
                sampling=sampling,
                seed=seed,
            )
        except Exception as error:  # the other workers must hear of it
            agreement.tell(process_group, error)
            raise
        agreement.agree_on(process_group, settings)
        samples = process_group.gather(source.samples or 0)
        total = int(samples.sum()) if samples.all() else None
        shares = None
        if plan.weighting == "samples":
            shares = sources.shares(samples)
        home = Cluster(worker, source, process_group, shares)
        return history.run(home, plan, total)
