"""Federated Dynamic Averaging for Keras: many workers that rarely talk.

`import fda_tf` loads neither TensorFlow nor Keras: each name is loaded when it
is first used.
"""

import importlib
from typing import TYPE_CHECKING

from fda_tf.version import __version__ as __version__

if TYPE_CHECKING:  # for editors and type checkers
    from fda_tf import launch as launch
    from fda_tf.algorithm import compression as compression
    from fda_tf.algorithm import thetas as thetas
    from fda_tf.algorithm.compression import COMPRESSIONS as COMPRESSIONS
    from fda_tf.algorithm.guard import OutlierGuard as OutlierGuard
    from fda_tf.algorithm.monitors import MONITORS as MONITORS
    from fda_tf.algorithm.monitors import ExactMonitor as ExactMonitor
    from fda_tf.algorithm.monitors import LinearMonitor as LinearMonitor
    from fda_tf.algorithm.monitors import MaxMonitor as MaxMonitor
    from fda_tf.algorithm.monitors import Monitor as Monitor
    from fda_tf.algorithm.monitors import NaiveMonitor as NaiveMonitor
    from fda_tf.algorithm.monitors import SketchMonitor as SketchMonitor
    from fda_tf.algorithm.optimizers import Average as Average
    from fda_tf.algorithm.optimizers import FedProx as FedProx
    from fda_tf.algorithm.optimizers import ServerOptimizer as ServerOptimizer
    from fda_tf.algorithm.optimizers import Yogi as Yogi
    from fda_tf.algorithm.policies import AdaComm as AdaComm
    from fda_tf.algorithm.policies import AdaptiveChecks as AdaptiveChecks
    from fda_tf.algorithm.policies import CheckEvery as CheckEvery
    from fda_tf.algorithm.policies import Every as Every
    from fda_tf.algorithm.policies import EveryStep as EveryStep
    from fda_tf.algorithm.policies import PostLocal as PostLocal
    from fda_tf.algorithm.policies import QuadraticRule as QuadraticRule
    from fda_tf.algorithm.policies import VarianceThreshold as VarianceThreshold
    from fda_tf.checkpoint.directory import Checkpoint as Checkpoint
    from fda_tf.data import partition as partition
    from fda_tf.data.sharding import Shard as Shard
    from fda_tf.data.sharding import shard as shard
    from fda_tf.fit.callbacks import FDA as FDA
    from fda_tf.fit.callbacks import Averaging as Averaging
    from fda_tf.fit.keras_hooks import on_chief as on_chief
    from fda_tf.processes.process_group import ProcessGroup as ProcessGroup
    from fda_tf.processes.process_group import connect as connect
    from fda_tf.run.history import History as History
    from fda_tf.run.plan import Plan as Plan
    from fda_tf.run.save_on_chief import save_on_chief as save_on_chief
    from fda_tf.run.simulate import simulate as simulate
    from fda_tf.run.train import train as train
    from fda_tf.run.trainer import Trainer as Trainer

_NAMES = {  # by the module that each is in
    "fda_tf": ("launch",),
    "fda_tf.algorithm": ("compression", "thetas"),
    "fda_tf.algorithm.compression": ("COMPRESSIONS",),
    "fda_tf.algorithm.guard": ("Guard",),
    "fda_tf.algorithm.monitors": (
        "MONITORS",
        "ExactMonitor",
        "LinearMonitor",
        "MaxMonitor",
        "Monitor",
        "NaiveMonitor",
        "SketchMonitor",
    ),
    "fda_tf.algorithm.optimizers": (
        "Average",
        "FedProx",
        "ServerOptimizer",
        "Yogi",
    ),
    "fda_tf.algorithm.policies": (
        "AdaComm",
        "CheckEvery",
        "AdaptiveChecks",
        "Every",
        "EveryStep",
        "PostLocal",
        "QuadraticRule",
        "VarianceThreshold",
    ),
    "fda_tf.checkpoint.directory": ("Checkpoint",),
    "fda_tf.data": ("partition",),
    "fda_tf.data.sharding": ("Shard", "shard"),
    "fda_tf.fit.callbacks": ("FDA", "Averaging"),
    "fda_tf.fit.keras_hooks": ("on_chief",),
    "fda_tf.processes.process_group": ("ProcessGroup", "connect"),
    "fda_tf.run.history": ("History",),
    "fda_tf.run.plan": ("Plan",),
    "fda_tf.run.save_on_chief": ("save_on_chief",),
    "fda_tf.run.simulate": ("simulate",),
    "fda_tf.run.train": ("train",),
    "fda_tf.run.trainer": ("Trainer",),
}
_MODULES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)  # noqa: PLE0605


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'fda_tf' has no attribute {name!r}")
    if name == "connect":  # it warns of every fit that has no callback of ours
        importlib.import_module("fda_tf.fit.setup_warnings")
    home, full = (
        importlib.import_module(_MODULES[name]),
        f"{_MODULES[name]}.{name}",
    )
    value = getattr(home, name, None) or importlib.import_module(full)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
