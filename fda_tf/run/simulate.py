"""`simulate`: K workers in this process."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from fda_tf.data import sources
from fda_tf.run import history
from fda_tf.run.plan import Plan, takes_plan
from fda_tf.workers.participation import Round
from fda_tf.workers.simulated import Simulation


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
    clients_per_round: int | None = None,
    straggler_rate: float = 0.0,
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
      shards: one (x,), (x, y) or (x, y, sample_weight) of arrays a worker,
        as `fit` takes them, or one batched `tf.data.Dataset` a worker.
      steps: in-parallel steps: every worker does one each.
      workers: K; if given, the number of shards must be the same.
      batch_size: samples of a worker's batch, for shards of arrays.
      sampling: "passes" or "independent", for shards of arrays.
      seed: of the order of the samples, and of who takes part.
      clients_per_round: C of the K workers, drawn anew for each round; means and
        bytes are over these. A worker keeps its optimizer's slots and its
        place in its data until it is drawn again. None: all, always. A model
        with BatchNorm or the like needs statistics="average" then.
      straggler_rate: the chance with which a worker misses a synchronisation: it goes
        on with its own weights, and counts its drift from the new w_0. Bytes
        are counted as if all had sent. Everyone is there at the end.
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
    if not callable(build) or isinstance(build, keras.Layer):
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
    source = sources.source(shards, batch_size, sampling, seed)
    if clients_per_round is not None and not isinstance(
        source, sources.ArraySource
    ):
        raise ValueError(
            "clients_per_round= needs shards of arrays, where each worker has its "
            "own place; tf.data.Datasets are dealt in turn to all."
        )
    home = Simulation(
        build,
        source,
        len(shards),
        rounds=Round(len(shards), clients_per_round, straggler_rate, seed),
        shares=sources.shares(source.sizes)
        if plan.weighting == "samples"
        else None,
    )
    local = plan.statistics == "local" and home.has_statistics
    if clients_per_round is not None and local:
        raise ValueError(
            'clients_per_round= with statistics="local": when a round ends, the '
            "average would take the BatchNorm statistics of those drawn for "
            "the next one, who may not have trained. Give "
            'statistics="average".'
        )
    return history.run(home, plan, source.samples)
