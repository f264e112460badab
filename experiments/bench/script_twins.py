"""The scripts of experiments/scripts with two simulated workers.

A twin takes what the script has defined, and the data that it has loaded: the
same models, the same samples in the same order on each worker. What it ends
with has to be what two processes end with, bit for bit.
"""

import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import fda_tf

WORKERS = 2

Ran = dict[str, Any]  # what a script has when it is through, by name


class Twin:
    """Simulates the fits of one script, one after the other.

    Args:
      ran: what the script has when it is through.
      seed: added to the seed of each shard.

    Attributes:
      syncs: the synchronisations of the last fit.
    """

    def __init__(self, ran: Ran, seed: int):
        self.seed, self.syncs = seed, 0
        self._sync = ran["fda"].algorithm if "fda" in ran else ran["sync"]
        keras.utils.set_random_seed(seed)  # the scripts give it 0

    def fit(
        self,
        build: Callable[[], keras.Model],
        data: Any,
        epochs: int,
        batch_size: int = 40 // WORKERS,
        seed: int = 0,
    ) -> keras.Model:
        """Returns the average after a fit that is simulated.

        Args:
          build: returns a compiled model. It is called for each lane; what is
            drawn later is as if it had been called once.
          data: all workers' arrays, or a batched dataset for each.
          epochs: how many.
          batch_size: samples of one worker.
          seed: that the script gives to `shard`.
        """
        after = []

        def build_once():
            model = build()
            after.append(random.getstate())
            return model

        options = {"batch_size": batch_size, "seed": seed + self.seed}
        shards, steps = data, len(data[0])
        if not isinstance(data, list):
            shards = dealt(data, options["seed"])
            steps = -(-len(shards[0][-1]) // batch_size)
        history = fda_tf.simulate(
            build_once, shards, self._sync, steps=epochs * steps, **options
        )
        random.setstate(after[0])
        self.syncs = len(history.syncs)
        return history.model


def dealt(data: tuple, seed: int) -> list[tuple]:
    """Returns each worker's arrays, as `fda_tf.shard` says it deals them."""
    n = len(data[-1])
    order = np.random.default_rng(seed).permutation(n)[: n - n % WORKERS]
    pieces = [np.sort(p) for p in np.array_split(order, WORKERS)]
    return [
        tf.nest.map_structure(lambda array, p=piece: array[p], data)
        for piece in pieces
    ]


def simulate(name: str, ran: Ran, seed: int) -> tuple[list[np.ndarray], int]:
    """Returns the weights at the end, and the last fit's synchronisations."""
    twin = Twin(ran, seed)
    model = TWINS[name](twin, ran)
    return model.get_weights(), twin.syncs


def _of(*names: str, **options: Any) -> Callable:
    """Returns the twin of one fit of the script's arrays of these names."""

    def run(twin, ran):
        data = tuple(ran[name] for name in names)
        return twin.fit(ran["build"], data, **options)

    return run


def _distillation(twin, ran):
    data = ran["x"], ran["y"]
    teacher = twin.fit(ran["build_teacher"], data, epochs=4)
    drawn = random.getstate()

    def build():
        own = _with(ran["build_teacher"](), teacher.get_weights())
        random.setstate(drawn)
        return ran["build"](own)

    return twin.fit(build, data, epochs=8, seed=1)


def _siamese(twin, ran):
    (left, right), same = ran["train"]
    return twin.fit(ran["build"], ((left, right), same), epochs=8)


def _metric_learning(twin, ran):
    def dataset(k):
        pairs = ran["AnchorPositivePairs"](
            ran["x"], ran["y"], 200 // WORKERS, seed=k
        )
        batches = np.stack([pairs[i] for i in range(len(pairs))])
        return tf.data.Dataset.from_tensor_slices((batches,))

    return twin.fit(ran["build"], [dataset(k) for k in range(WORKERS)], 5)


def _feature_space(twin, ran):
    columns, bought = ran["columns"], ran["bought"]
    encoded = ran["space"](columns).numpy()
    return twin.fit(
        lambda: ran["build"](ran["space"]), (encoded, bought), epochs=10
    )


def _imbalanced(twin, ran):
    x, y = ran["x"], ran["y"]
    of_class = ran["class_weight"](y)
    weights = np.float32([of_class[label] for label in y[:, 0]])
    return twin.fit(ran["build"], (x, y, weights), 10, batch_size=50)


def _fine_tuning(twin, ran):
    base, freeze = {}, ran["freeze"]

    def build_old():
        base["made"], model = ran["build"]()
        return model

    old = twin.fit(build_old, ran["old"], epochs=4)
    drawn, kept = random.getstate(), old.layers[1].get_weights()

    def build_frozen():
        made, _ = ran["build"]()
        made.set_weights(kept)
        random.setstate(drawn)
        base["made"] = made
        return freeze(made)

    frozen = twin.fit(build_frozen, ran["new"], epochs=4, seed=1)

    def build_whole():
        model = _with(build_frozen(), frozen.get_weights())
        return ran["unfreeze"](base["made"], model)

    return twin.fit(build_whole, ran["new"], epochs=4, seed=2)


def _lora(twin, ran):
    old = twin.fit(ran["build"], ran["old"], epochs=4)
    drawn = random.getstate()

    def build():
        model = _with(ran["build"](), old.get_weights())
        random.setstate(drawn)
        return ran["enable_lora"](model)

    return twin.fit(build, ran["new"], epochs=6, seed=1)


def _with(model, weights):
    """Returns the model with weights put in."""
    model.set_weights(weights)
    return model


TWINS = {
    "vae": _of("x", epochs=8),
    "dcgan": _of("x", epochs=8),
    "distillation": _distillation,
    "siamese": _siamese,
    "metric_learning": _metric_learning,
    "feature_space": _feature_space,
    "imbalanced": _imbalanced,
    "text_transformer": _of("x", "labels", epochs=5, batch_size=40),
    "fine_tuning": _fine_tuning,
    "nested_logs": _of("x", "y", epochs=6),
    "own_loop": _of("x", "y", epochs=6),
    "lora": _lora,
}
