"""Runs that simulation and cluster must do alike."""

import keras
import small

import fda_tf

STEPS, BATCH = 200, 8
FEW = ("linear", "sketch", "every epoch", "rich")  # for larger clusters


def cases():
    """Returns name -> (build(seed), options of simulate and train)."""
    threshold = fda_tf.VarianceThreshold

    def linear(seed):
        return small.linear_model(small.start(seed))

    def rich(seed):
        return small.rich_model(seed)

    def run(build, **options):
        return build, {"steps": STEPS, "batch_size": BATCH} | options

    return {
        "naive": run(linear, sync=threshold(0.5, "naive")),
        "linear": run(linear, sync=threshold(0.2, "linear")),
        "sketch": run(linear, sync=threshold(0.2, "sketch")),
        "exact": run(linear, sync=threshold(0.2, "exact")),
        "max": run(linear, sync=threshold(0.6, "max")),
        "every step": run(linear, sync=fda_tf.EveryStep()),
        "every epoch": run(linear, sync=fda_tf.Every(epochs=1)),
        "independent": run(
            linear, sync=threshold(0.2, "linear"), sampling="independent"
        ),
        "server": run(
            linear,
            sync=threshold(0.2, "linear"),
            server=fda_tf.ServerOptimizer(keras.optimizers.Adam(0.05)),
        ),
        "rich": run(
            rich,
            sync=threshold(0.05, "linear"),
            validation_data=small.data(seed=5),
            evaluate_every=50,
        ),
    }
