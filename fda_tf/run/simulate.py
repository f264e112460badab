"""`simulate`: K workers in this process."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from fda_tf.algorithm import algorithm as algorithms
from fda_tf.algorithm.algorithm import Algorithm
from fda_tf.algorithm.policies import Policy
from fda_tf.checkpoint.directory import Checkpoint
from fda_tf.data import sources
from fda_tf.run import recorder
from fda_tf.run.history import History
from fda_tf.run.recorder import Settings
from fda_tf.run.sync_log import Synchronisation
from fda_tf.workers.participation import Round
from fda_tf.workers.simulated import Simulation


def simulate(
    build: Callable[[], keras.Model],
    shards: Sequence[Any],
    algorithm: Algorithm | Policy | None = None,
    *,
    steps: int,
    workers: int | None = None,
    batch_size: int = 32,
    sampling: str = "passes",
    seed: int = 0,
    clients_per_round: int | None = None,
    straggler_rate: float = 0.0,
    weighting: str = "equal",
    validation_data: Any = None,
    validation_batch_size: int = 500,
    evaluate_every: int | None = None,
    on_evaluation: Callable[[dict[str, Any]], Any] | None = None,
    on_progress: Callable[[dict[str, Any]], Any] | None = None,
    on_synchronisation: Callable[[Synchronisation], Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> History:
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
      algorithm: a `fda_tf.Algorithm`, or a policy, which stands for the
        algorithm with this policy and defaults for all else; by default
        `VarianceThreshold(theta=1.5)`.
      steps: in-parallel steps: every worker does one each.
      workers: K; if given, the number of shards must be the same.
      batch_size: samples of a worker's batch, for shards of arrays.
      sampling: "passes" or "independent", for shards of arrays.
      seed: of the order of the samples, and of who takes part.
      clients_per_round: C of the K workers, drawn anew for each round; means
        and bytes are over these. A worker keeps its optimizer's slots and its
        place in its data until it is drawn again. None: all, always. A model
        with BatchNorm or the like needs statistics="average" then.
      straggler_rate: the chance with which a worker misses a synchronisation:
        it goes on with its own weights, and counts its drift from the new w_0.
        Bytes are counted as if all had sent. Everyone is there at the end.
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
      >>> history = simulate(build, shards, VarianceThreshold(0.0, "naive"),
      ...                    steps=5, batch_size=4)
      >>> [sync.step for sync in history.syncs]
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
    source = sources.source(shards, batch_size, sampling, seed)
    if clients_per_round is not None and not isinstance(
        source, sources.ArraySource
    ):
        raise ValueError(
            "clients_per_round= needs shards of arrays, where each worker has "
            "its own place; tf.data.Datasets are dealt in turn to all."
        )
    simulated = Simulation(
        build,
        source,
        len(shards),
        rounds=Round(len(shards), clients_per_round, straggler_rate, seed),
        shares=sources.shares(source.sizes) if weighting == "samples" else None,
    )
    local = algorithm.statistics == "local" and simulated.has_statistics
    if clients_per_round is not None and local:
        raise ValueError(
            'clients_per_round= with statistics="local": when a round ends, '
            "the average would take the BatchNorm statistics of those drawn "
            "for the next one, who may not have trained. Give "
            'statistics="average".'
        )
    return recorder.run(simulated, algorithm, settings, source.samples)
