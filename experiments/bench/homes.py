"""The library's compiled loop by itself, for benchmarks that measure it.

The other files of this folder get from here what fda_tf does not export: the
loop, the workers of a simulation or of a process, their source of batches.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from fda_tf.core.loop import Loop
from fda_tf.data.sources import ArraySource
from fda_tf.workers.distributed import Cluster
from fda_tf.workers.local_model import Worker
from fda_tf.workers.simulated import Simulation

__all__ = ["Loop", "cluster", "shards", "simulation", "timed"]


def cluster(
    process_group: Any, model: keras.Model, shard: tuple, batch: int = 32,
    seed: int = 0,
) -> Cluster:  # fmt: skip
    """Returns one worker's process: a model, and its shard of the data."""
    first = process_group.index
    source = ArraySource([shard], batch, seed=seed, first=first)
    return Cluster(Worker(model, source.spec()), source, process_group)


def simulation(
    build: Callable[[], keras.Model], data: Sequence[tuple], batch: int = 32,
    count: int | None = None,
) -> Simulation:  # fmt: skip
    """Returns the workers of this process; by default one a shard."""
    return Simulation(build, ArraySource(data, batch), count or len(data))


def shards(x: np.ndarray, y: np.ndarray, workers: int, least: int) -> list:
    """Returns equal parts in order, of samples that repeat if too few."""
    size = len(x) // workers
    starts = range(0, workers * size, max(size, 1))
    pieces = [
        np.resize(np.arange(s, s + size), max(size, least)) for s in starts
    ]
    return [(x[piece], y[piece]) for piece in pieces]


def timed(loop: Any, steps: int) -> float:
    """Trains some steps; returns the seconds of one."""
    start = time.perf_counter()
    loop.run(steps).cause.numpy()
    return (time.perf_counter() - start) / steps
