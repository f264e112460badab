"""Flower's client of the benchmark `flower`; runs in Flower's environment.

A module of its own, so that Ray's actors import it once and what they keep
(the data and one built model) serves all clients that they play.
"""

import functools

import numpy as np
import tensorflow as tf
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from experiments import datasets
from experiments.tasks import TASKS

app = ClientApp()


@functools.cache
def data(task: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training samples as the model takes them, and labels."""
    loaded = datasets.load(TASKS[task].dataset, data_dir or None)
    return TASKS[task].scaled(loaded.x_train), loaded.y_train


@functools.cache
def built(task: str, at_once: int) -> tuple:
    """Returns (a compiled model, its optimizer's variables at the start)."""
    # Each core plays a client: one thread in an operation, as in ours.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    model = TASKS[task].build(seed=0)
    model.steps_per_execution = at_once
    model.optimizer.build(model.trainable_variables)
    return model, [v.numpy() for v in model.optimizer.variables]


@app.train()
def train(message, context):
    """Trains a client's model by `fit` from the weights that came."""
    config = message.content["config"]
    model, fresh = built(config["task"], config["at_once"])
    x, y = data(config["task"], config["data_dir"])
    clients = int(context.node_config["num-partitions"])
    size = len(x) // clients
    first = int(context.node_config["partition-id"]) * size
    mine = np.resize(np.arange(first, first + size), config["samples"])
    model.set_weights(message.content["arrays"].to_numpy_ndarrays())
    for variable, value in zip(model.optimizer.variables, fresh, strict=True):
        variable.assign(value)
    model.fit(x[mine], y[mine], batch_size=config["batch_size"], verbose=0)
    reply = {
        "arrays": ArrayRecord(model.get_weights()),
        "metrics": MetricRecord({"num-examples": len(mine)}),
    }
    return Message(RecordDict(reply), reply_to=message)
