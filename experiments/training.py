"""Data of a task, dealt to workers, and runs of them in simulation."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fda_tf
from experiments import algorithms, datasets
from experiments.config import Settings
from experiments.tasks import TASKS


class Data(NamedTuple):
    """A task's data as the model takes them."""

    shards: list[tuple[np.ndarray, np.ndarray]]  # (x, y) of each worker
    test: tuple[np.ndarray, np.ndarray]  # the test set, or a part of it
    samples: int  # of all workers
    source: str  # where they are from


def load(
    task: str,
    workers: int,
    seed: int = 0,
    split: str | None = None,
    data_dir: str | None = None,
    dataset: str | None = None,
    test_samples: int | None = None,
) -> Data:
    """Loads and deals a task's data.

    Args:
        task: of `TASKS`.
        workers: K.
        seed: of the split.
        split: as --split; None: the task's.
        data_dir: folder with NAME.npz, or None.
        dataset: its name; None: the task's.
        test_samples: at most so many, drawn at random; None: all.
    """
    row = TASKS[task]
    data = datasets.load(dataset or row.dataset, data_dir, row.classes)
    x, x_test = row.inputs(data.x_train, data.x_test)
    y, y_test = data.y_train, data.y_test
    pieces = fda_tf.partition.split(
        split or row.split, y, workers, seed, data.clients
    )
    if test_samples is not None:
        some = np.random.default_rng(0).permutation(len(x_test))[:test_samples]
        x_test, y_test = x_test[some], y_test[some]
    shards = [(x[piece], y[piece]) for piece in pieces]
    return Data(shards, (x_test, y_test), len(y), data.source)


def builder(settings: Settings) -> Callable[[], Any]:
    """() -> the compiled model of a run."""
    row = algorithms.ALGORITHMS[settings.algorithm]
    own = functools.partial(row.local_optimizer, settings)
    task = TASKS[settings.task]
    return lambda: task.build(settings.seed, own, settings.weights)


def _options(settings: Settings, data: Data, given: dict) -> dict:
    own = ("steps", "batch_size", "sampling", "seed")
    usual = {name: getattr(settings, name) for name in own}
    usual["algorithm"] = algorithms.of(settings)
    return usual | {"validation_data": data.test} | given


def simulate(settings: Settings, data: Data, **options: Any) -> Any:
    """Returns the History of a run in this process.

    Args:
        settings: of the run.
        data: of its task.
        **options: of `fda_tf.simulate`; by default those of the settings, and
            the test set to validate on.
    """
    made = _options(settings, data, options)
    return fda_tf.simulate(builder(settings), data.shards, **made)


def train(
    settings: Settings, data: Data, process_group: Any, **options: Any
) -> Any:
    """Returns the History of a run of which this is one worker's process."""
    made = _options(settings, data, options)
    shard = data.shards[process_group.index]
    return fda_tf.train(
        builder(settings)(), shard, process_group=process_group, **made
    )


def one_thread() -> None:
    """One thread in each operation: each core has a worker of its own."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
