"""One worker of the tests' cluster that trains by `model.fit`."""

import json
import pathlib
import sys


def report(fda, model, history):
    """Returns what a fit did, as JSON can hold it."""
    import numpy as np
    import small

    return {
        "syncs": [s.step for s in fda.syncs if s.cause != "end"],
        "variance": fda.variance,
        "weights": small.flat(model).tolist(),
        "statistics": [
            np.ravel(v.numpy()).tolist()
            for v in model.non_trainable_variables
            if v.dtype == "float32"
        ],
        "iterations": int(model.optimizer.iterations),
        "history": history.history,
    }


def outcome(run):
    """Returns what a run did, or the error that ended it."""
    try:
        return run()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def as_the_simulation(process_group):
    """Runs the cases that the simulation can do, too."""
    import fit_cases
    import small

    import fda_tf

    shard = small.shards(process_group.count, fit_cases.SAMPLES)[
        process_group.index
    ]
    for name, (build, options, change) in fit_cases.cases().items():
        if process_group.count > 2 and name not in fit_cases.FEW:
            continue

        def run(build=build, options=options, change=change):
            model = build(1 + process_group.index)  # all start from worker 0's
            fda = fda_tf.Averaging(**small.in_parts(options))
            data = fda_tf.shard(change(shard), fit_cases.BATCH, mine=True)
            history = model.fit(
                data, epochs=fit_cases.EPOCHS, verbose=0, callbacks=[fda]
            )
            return report(fda, model, history)

        yield name, run


def main(folder):
    """Runs everything as the worker that TF_CONFIG says this is."""
    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    import fit_features

    runs = dict(as_the_simulation(process_group))
    runs |= fit_features.features(process_group, pathlib.Path(folder))
    result = {name: outcome(run) for name, run in runs.items()}
    path = pathlib.Path(folder) / f"{process_group.index}.json"
    path.write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
