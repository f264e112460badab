"""Federated Dynamic Averaging for Keras: many workers that rarely talk."""

import sys

from fda_tf import launch

# The launcher's own process needs nothing else: no TensorFlow, which takes two
# seconds and 400 MB, and says much. Everywhere else all is loaded at once: a
# saved model finds an optimizer of ours only then.
if "fda_tf.launch" not in sys.orig_argv:
    from fda_tf import partition, payloads, thetas
    from fda_tf.callback import FDA, Averaging
    from fda_tf.cluster import train
    from fda_tf.fedprox import FedProx
    from fda_tf.guard import Guard
    from fda_tf.history import History
    from fda_tf.keras_fit.callback_list import on_chief
    from fda_tf.keras_fit.sharding import Shard, shard
    from fda_tf.monitors import (
        MONITORS,
        ExactMonitor,
        LinearMonitor,
        MaxMonitor,
        Monitor,
        NaiveMonitor,
        SketchMonitor,
    )
    from fda_tf.payloads import PAYLOADS
    from fda_tf.plan import Plan
    from fda_tf.replicas import Replicas, connect
    from fda_tf.rivals import AdaComm, PostLocal, QuadraticRule
    from fda_tf.saving.checkpoint import Checkpoint
    from fda_tf.saving.on_chief import save_on_chief
    from fda_tf.server import Average, ServerOptimizer, Yogi
    from fda_tf.simulation import simulate
    from fda_tf.sync import (
        CheckEvery,
        CheckWhenPossible,
        Every,
        EveryStep,
        VarianceThreshold,
    )
    from fda_tf.trainer import Trainer

__all__ = [
    "FDA",
    "MONITORS",
    "PAYLOADS",
    "AdaComm",
    "Average",
    "Averaging",
    "CheckEvery",
    "CheckWhenPossible",
    "Checkpoint",
    "Every",
    "EveryStep",
    "ExactMonitor",
    "FedProx",
    "Guard",
    "History",
    "LinearMonitor",
    "MaxMonitor",
    "Monitor",
    "NaiveMonitor",
    "Plan",
    "PostLocal",
    "QuadraticRule",
    "Replicas",
    "ServerOptimizer",
    "Shard",
    "SketchMonitor",
    "Trainer",
    "VarianceThreshold",
    "Yogi",
    "connect",
    "launch",
    "on_chief",
    "partition",
    "payloads",
    "save_on_chief",
    "shard",
    "simulate",
    "thetas",
    "train",
]

__version__ = "0.1.0"
