"""What a user writes, for a type checker; see tests/test_types.py."""

# ruff: noqa: F841

import keras
import numpy as np

import fda_tf
from fda_tf import Algorithm, Every, VarianceThreshold

x = np.zeros((8, 2), np.float32)


def build() -> keras.Model:
    """Returns a compiled model."""
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def use() -> None:
    """Is only read: what a user's script has at its top."""
    algorithm = Algorithm(
        VarianceThreshold("auto", "linear", max_interval=9, check_every=4),
        compression="int8",
        guard=fda_tf.OutlierGuard(3.0, "clip"),
        statistics="local",
    )
    group = fda_tf.connect(start_timeout=60)
    history = fda_tf.simulate(build, [(x, x), (x, x)], Every(steps=2), steps=4)
    steps: list[int] = [row.step for row in history.syncs]
    causes: list[str] = [row.cause for row in history.syncs]
    saved = fda_tf.Checkpoint("folder", every=5)
    fda = fda_tf.FDA(1.5, "sketch", checkpoint=saved, process_group=group)
    averaging = fda_tf.Averaging(algorithm)
    trainer = fda_tf.Trainer(build(), (x, x), algorithm, process_group=group)
    with trainer.averaged() as model:
        model.summary()
    fda_tf.train(build(), (x, x), algorithm, steps=3, checkpoint=saved)
    monitor: fda_tf.monitors.Monitor = fda_tf.monitors.LinearMonitor()
    config: dict[str, object] = algorithm.get_config()
    chief: bool = group.is_chief
