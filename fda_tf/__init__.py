"""Federated Dynamic Averaging for Keras: many workers that rarely talk.

`import fda_tf` loads neither TensorFlow nor Keras: each name is loaded when it
is first used.
"""

import importlib
from typing import TYPE_CHECKING

from fda_tf.version import __version__ as __version__

if TYPE_CHECKING:  # for editors and type checkers
    from fda_tf.algorithm import compression as compression
    from fda_tf.algorithm import monitors as monitors
    from fda_tf.algorithm import optimizers as optimizers
    from fda_tf.algorithm import policies as policies
    from fda_tf.algorithm import thetas as thetas
    from fda_tf.algorithm.algorithm import Algorithm as Algorithm
    from fda_tf.algorithm.guard import OutlierGuard as OutlierGuard
    from fda_tf.algorithm.policies import Every as Every
    from fda_tf.algorithm.policies import VarianceThreshold as VarianceThreshold
    from fda_tf.checkpoint.directory import Checkpoint as Checkpoint
    from fda_tf.data import partition as partition
    from fda_tf.data.sharding import shard as shard
    from fda_tf.fit.callbacks import FDA as FDA
    from fda_tf.fit.callbacks import Averaging as Averaging
    from fda_tf.fit.keras_hooks import on_chief as on_chief
    from fda_tf.processes.process_group import connect as connect
    from fda_tf.run.save_on_chief import save_on_chief as save_on_chief
    from fda_tf.run.simulate import simulate as simulate
    from fda_tf.run.train import train as train
    from fda_tf.run.trainer import Trainer as Trainer

__all__ = [
    "FDA",
    "Algorithm",
    "Averaging",
    "Checkpoint",
    "Every",
    "OutlierGuard",
    "Trainer",
    "VarianceThreshold",
    "compression",
    "connect",
    "monitors",
    "on_chief",
    "optimizers",
    "partition",
    "policies",
    "save_on_chief",
    "shard",
    "simulate",
    "thetas",
    "train",
]

_HOMES = {  # the module that each name is in
    "FDA": "fit.callbacks",
    "Algorithm": "algorithm.algorithm",
    "Averaging": "fit.callbacks",
    "Checkpoint": "checkpoint.directory",
    "Every": "algorithm.policies",
    "OutlierGuard": "algorithm.guard",
    "Trainer": "run.trainer",
    "VarianceThreshold": "algorithm.policies",
    "compression": "algorithm",
    "connect": "processes.process_group",
    "monitors": "algorithm",
    "on_chief": "fit.keras_hooks",
    "optimizers": "algorithm",
    "partition": "data",
    "policies": "algorithm",
    "save_on_chief": "run.save_on_chief",
    "shard": "data.sharding",
    "simulate": "run.simulate",
    "thetas": "algorithm",
    "train": "run.train",
}


if not TYPE_CHECKING:  # for whom there are no other names

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'fda_tf' has no attribute {name!r}")
        if (
            name == "connect"
        ):  # it warns of every fit that has no callback of ours
            importlib.import_module("fda_tf.fit.setup_warnings")
        home = f"fda_tf.{_HOMES[name]}"
        if _HOMES[name] in ("algorithm", "data"):  # a module of theirs
            value = importlib.import_module(f"{home}.{name}")
        else:
            value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
