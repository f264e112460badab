"""Federated Dynamic Averaging for Keras: many workers that rarely talk."""

from fda_tf import launch, partition
from fda_tf.cluster import train
from fda_tf.history import History
from fda_tf.monitors import (
    MONITORS,
    ExactMonitor,
    LinearMonitor,
    MaxMonitor,
    Monitor,
    NaiveMonitor,
    SketchMonitor,
)
from fda_tf.plan import Plan
from fda_tf.replicas import Replicas, connect
from fda_tf.server import Average, ServerOptimizer, Yogi
from fda_tf.simulation import simulate
from fda_tf.sync import Every, EveryStep, VarianceThreshold

__all__ = [
    "MONITORS",
    "Average",
    "Every",
    "EveryStep",
    "ExactMonitor",
    "History",
    "LinearMonitor",
    "MaxMonitor",
    "Monitor",
    "NaiveMonitor",
    "Plan",
    "Replicas",
    "ServerOptimizer",
    "SketchMonitor",
    "VarianceThreshold",
    "Yogi",
    "connect",
    "launch",
    "partition",
    "simulate",
    "train",
]

__version__ = "0.1.0"
