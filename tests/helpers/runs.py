"""Runs of the small problem, in simulation and alone."""

import numpy as np
import small
import tensorflow as tf

import fda_tf
from fda_tf.core import loop
from fda_tf.data import sources
from fda_tf.workers import simulated

WORKERS, STEPS, BATCH = 4, 60, 8


def simulate(sync, build=small.linear_model, workers=WORKERS, **options):
    """Runs the small problem; returns its history."""
    settings = {"steps": STEPS, "batch_size": BATCH, "sync": sync} | options
    return fda_tf.simulate(
        build, small.shards(workers), **small.in_parts(settings)
    )


def run_home(build, workers, steps=20):
    """Returns the home after steps with no synchronisation at all."""
    source = sources.ArraySource(small.shards(workers), BATCH)
    home = simulated.Simulation(build, source, workers)
    trainer = loop.Loop(home, fda_tf.VarianceThreshold(np.inf, "naive"), None)
    trainer.run(steps)
    assert int(trainer.syncs) == 0
    return home


def lone_weights(build, worker, steps=20):
    """Returns the weights of a plain Keras run of one worker."""
    model = build()
    source = sources.ArraySource(small.shards(WORKERS), BATCH)
    x, y = source.batch(worker, 0)
    model._symbolic_build(data_batch=(x, y, None))
    for variable in model.non_trainable_variables:
        if "seed" in variable.path:
            shift = [(worker * 0x9E3779B1) % 2**31, 0]
            state = (variable.numpy().astype(np.int64) + shift) % 2**31
            variable.assign(state.astype(np.uint32))
    step = tf.function(model.train_step)
    for t in range(steps):
        step(source.batch(worker, t))
    return small.flat(model)
