"""One worker of the tests' cluster that is given all kinds of data."""

import json
import pathlib
import sys


def refused(call):
    """Returns the words with which something is refused."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def fit(model, fda, data, **options):
    """Returns what a fit did."""
    import fit_job

    def run():
        options.update(epochs=2, verbose=0, callbacks=[fda])
        report = fit_job.report(fda, model, model.fit(data, **options))
        return report | {"variance": [*fda.variance]}  # the next fit's, too

    return fit_job.outcome(run)


def trained(model, fda, process_group):
    """Returns what fits of shards did, by name."""
    import shard_cases
    import small

    import fda_tf

    x, y = small.data(shard_cases.SAMPLES)
    part, held_out = fda_tf.shard((x, y), 4, validation_split=0.25)
    return {
        "split": fit(model, fda, part, validation_data=held_out),
        "every kind": fit(
            shard_cases.build(1 + process_group.index),
            fda_tf.Averaging(fda.algorithm),
            fda_tf.shard(shard_cases.every_kind(), shard_cases.BATCH),
        ),
    }


def refusals(odd):
    """Returns what is refused on both workers, by name."""
    import numpy as np
    import small
    import tensorflow as tf

    import fda_tf

    x, y = small.data(24)
    order = np.random.default_rng(1).permutation(24) if odd else np.arange(24)
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    twice = dataset.map(lambda x, y: (x, x) if odd else (x, y))
    last_first = np.roll(np.arange(24), 1) if odd else np.arange(24)
    return {
        "another order": refused(lambda: fda_tf.shard((x[order], y[order]))),
        "other labels": refused(lambda: fda_tf.shard((x, y[last_first]))),
        "another seed": refused(lambda: fda_tf.shard((x, y), seed=3 * odd)),
        "fewer": refused(lambda: fda_tf.shard((x[odd:], y[odd:]))),
        "labels apart": refused(
            lambda: fda_tf.shard(x, y) if odd else fda_tf.shard((x, y))
        ),
        "mine": refused(lambda: fda_tf.shard((x[:, odd:], y), mine=True)),
        "a shorter dataset": refused(lambda: fda_tf.shard(dataset.skip(odd))),
        "another dataset": refused(lambda: fda_tf.shard(twice)),
        "more": len(fda_tf.shard((x[odd:], y[odd:]), 4, mine=True)),
    }


def warnings(model, fda, process_group, said):
    """Returns what is warned of, by name."""
    import small
    import tensorflow as tf

    import fda_tf

    x, y = small.data(48)
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    options = {"verbose": 0, "callbacks": [fda]}
    mine = process_group.index * 24

    def whole():
        model.fit(x, y, batch_size=8, **options)

    def vectorized():
        add = float(process_group.index)
        fda_tf.shard(dataset.map(lambda x, y: (x + add, y)))

    calls = {
        "whole": whole,
        "whole dataset": lambda: model.fit(dataset.batch(8), **options),
        "halves": lambda: model.fit(x[mine:][:24], y[mine:][:24], **options),
        "shard": lambda: model.fit(fda_tf.shard((x, y), 8), **options),
        "forgotten": lambda: model.fit(x[:8], y[:8], verbose=0),
        "vectorizer": vectorized,
        "same dataset": lambda: fda_tf.shard(dataset),
    }
    result = {}
    for name, call in calls.items():
        said.clear()
        call()
        result[name] = list(said)
    return result


def main(folder):
    """Runs everything as the worker that TF_CONFIG says this is."""
    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    import small
    from absl import logging

    said = []
    logging.warning = lambda words, *args: said.append(words % args)
    logging.log_first_n = lambda _, words, n, *args: said.append(words % args)
    sync = fda_tf.VarianceThreshold(0.05, "linear")
    model, fda = small.linear_model(), fda_tf.Averaging(sync)
    result = trained(model, fda, process_group)
    result["refused"] = refusals(process_group.index)
    result["said"] = warnings(model, fda, process_group, said)
    path = pathlib.Path(folder) / f"{process_group.index}.json"
    path.write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
