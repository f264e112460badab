"""Runs that simulation and cluster must do alike."""

import keras
import small

import fda_tf

STEPS, BATCH = 200, 8
FEW = ("linear", "sketch", "every epoch", "rich")  # for larger clusters


def shards(workers, name):
    """Returns the K shards of a case; worker 1 may have half as many."""
    whole = small.shards(workers)
    if "samples" in name:
        x, y = whole[1]
        whole[1] = (x[::2], y[::2])
    return whole


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
        "every step": run(linear, sync=fda_tf.Every(steps=1)),
        "every epoch": run(linear, sync=fda_tf.Every(epochs=1)),
        "independent": run(
            linear, sync=threshold(0.2, "linear"), sampling="independent"
        ),
        "server": run(
            linear,
            sync=threshold(0.2, "linear"),
            server_optimizer=keras.optimizers.Adam(0.05),
        ),
        "bfloat16": run(
            linear, sync=threshold(0.2, "linear"), compression="bfloat16"
        ),
        "int8": run(linear, sync=fda_tf.Every(steps=7), compression="int8"),
        "topk": run(
            linear,
            sync=threshold(0.2, "linear"),
            compression=fda_tf.compression.TopK(0.3),
            guard=fda_tf.OutlierGuard(1.2, "clip"),
        ),
        "by samples": run(
            linear, sync=threshold(0.2, "sketch"), weighting="samples"
        ),
        "guard and samples": run(
            rich,
            sync=threshold(0.05, "linear"),
            weighting="samples",
            guard=fda_tf.OutlierGuard(1.01),
            compression="int8",
            validation_data=small.data(seed=5),
            evaluate_every=STEPS - 1,
        ),
        "overlap": run(linear, sync=threshold(0.2, "sketch", overlap=True)),
        "interval": run(
            linear,
            sync=threshold(
                0.2, "linear", check_every=fda_tf.policies.AdaptiveChecks(5)
            ),
        ),
        "AdaComm": run(
            linear, sync=fda_tf.policies.AdaComm(first=12, every=20)
        ),
        "FedProx": run(
            lambda seed: small.linear_model(
                small.start(seed), fda_tf.optimizers.FedProx("sgd", mu=0.5)
            ),
            sync=threshold(0.001, "linear"),
        ),
        "rich": run(
            rich,
            sync=threshold(0.05, "linear"),
            validation_data=small.data(seed=5),
            evaluate_every=50,
        ),
    }
