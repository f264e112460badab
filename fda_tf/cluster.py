"""The same loop with one worker in each process of a cluster."""

import hashlib
import json
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fda_tf import data, history
from fda_tf import replicas as replicas_lib
from fda_tf.plan import Plan, takes_plan
from fda_tf.worker import Worker
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
        for group in (
            worker.weights,
            worker.statistics,
            *worker.rest,
            *worker.frozen,
        ):
            group.assign(replicas.broadcast(group.pack()))
        own_seeds = worker.own_seeds(replicas.index)
        for group, vector in zip(worker.rest, own_seeds, strict=True):
            if vector is not None:
                group.assign(vector)

    def step(self, step):
        self.worker.step(self.source.batch(self.replicas.index, step))

    def mean(self, of, kind):
        tensors = list(of(self.worker.snapshot()))
        self.meter.all_reduce(kind, tensors)
        return self.replicas.mean(tensors)

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
    shared = {"batch_size": batch_size, "sampling": sampling, "seed": seed}
    try:
        plan = Plan(steps=steps, **options)
        source = data.source(
            [shard], batch_size, sampling, seed, replicas.index
        )
        worker = Worker(model, source.example(), source.spec())
        settings = describe(plan, worker, source) | shared
    except Exception as error:  # the other workers must hear of it
        agree_on(replicas, {"error": f"{type(error).__name__}: {error}"})
        raise
    agree_on(replicas, settings)
    samples = replicas.gather(source.samples or 0)
    total = int(samples.sum()) if samples.all() else None
    with replicas.lost_worker_in_words():
        return history.run(Cluster(worker, source, replicas), plan, total)


def describe(plan: Plan, worker: Worker, source: Any) -> dict[str, Any]:
    """Returns what must be the same on every worker, by name."""
    import fda_tf

    model = worker.model
    shapes = {
        f"the {what} (number {i})": list(shape)
        for what, all_of_it in worker.shapes().items()
        for i, shape in enumerate(all_of_it)
    }
    layers = {
        f"layer {i} ({type(layer).__name__})": _digest(layer)
        for i, layer in enumerate(model._flatten_layers())
        if layer is not model
    }
    return (
        {
            "fda_tf": fda_tf.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "steps": plan.steps,
            "sync": repr(plan.sync),
            "server": repr(plan.server),
            "statistics": plan.statistics,
            "evaluate_every": plan.evaluate_every,
            "validation": plan.validation_data is not None,
            "shard": type(source).__name__,
            "optimizer": _config(model.optimizer),
            "loss": _config(model.loss),
        }
        | shapes
        | layers
    )


def _config(thing: Any) -> str:
    """Returns the settings of an optimizer or a loss, without its name."""
    if not hasattr(thing, "get_config"):
        return getattr(thing, "__name__", None) or repr(thing)
    config = {k: v for k, v in thing.get_config().items() if k != "name"}
    text = json.dumps(config, sort_keys=True, default=str)
    return f"{type(thing).__name__} {text}"


def _digest(layer: Any) -> str:
    """Returns a short digest of a layer's settings, as far as it has them."""
    try:
        text = _config(layer)
    except (NotImplementedError, TypeError):
        text = type(layer).__name__
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def agree_on(replicas: Any, settings: dict[str, Any]) -> None:
    """Raises ValueError on every worker unless all have equal settings."""
    everyone = replicas.gather_json(settings)
    errors = {k: s["error"] for k, s in enumerate(everyone) if "error" in s}
    if errors and replicas.index not in errors:
        k = min(errors)
        raise ValueError(f"Worker {k} cannot start: {errors[k]}")
    if errors:
        return  # our own error is raised as it was
    for k, other in enumerate(everyone):
        for name in {**everyone[0], **other}:
            ours, theirs = everyone[0].get(name), other.get(name)
            if ours != theirs:
                raise ValueError(
                    f"Worker {k} differs from worker 0 in {name}: {theirs} "
                    f"against {ours}. Give every worker the same model and "
                    "settings; only their data differ."
                )
