"""One worker of the tests' cluster that counts with the others."""

import json
import pathlib
import sys


def plain(value):
    """Returns logs as JSON can hold them."""
    import numpy as np

    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        return f"bytes {value.decode()}"
    if value is None or isinstance(value, (int, float, str)):
        return value
    return plain(np.asarray(value).tolist())


def outcome(run):
    """Returns what a run did, or the error that ended it."""
    try:
        return plain(run())
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


class Fits:
    """Fits a model by one callback; counts the batches of validations."""

    def __init__(self, worker, workers, model):
        import fda_tf

        self.worker, self.workers, self.model = worker, workers, model
        self.fda = fda_tf.Averaging(fda_tf.Every(steps=2))

    def fit(self, data=None, callbacks=(), part=True, **options):
        import keras
        import metric_cases as cases

        data = data or cases.train()
        x, y = data
        if part:
            x, y = cases.split(data, self.worker, self.workers)
        batches = []
        count = keras.callbacks.LambdaCallback()
        count.on_test_batch_end = lambda batch, logs=None: batches.append(batch)
        settings = {"batch_size": cases.BATCH, "epochs": 1} | options
        history = self.model.fit(
            x,
            y,
            shuffle=False,
            verbose=0,
            callbacks=[*callbacks, count, self.fda],
            **settings,
        )
        return history.history | {"tested": len(batches)}


def validations(fits, worker):
    """Returns name -> fits with validation data of every kind."""
    import metric_cases as cases
    import numpy as np
    import tensorflow as tf

    test, kept = cases.test(), {}
    own = cases.split(test, worker)

    def dataset(data=test):
        return tf.data.Dataset.from_tensor_slices(data).batch(cases.BATCH)

    def asked(kind):
        kept["batches"] = kind(test)
        history = fits.fit(validation_data=kept["batches"])
        return history | {"asked": kept["batches"].asked}

    def whole():
        fits.fda.validation = "whole"
        try:
            return fits.fit(validation_data=test)
        finally:
            fits.fda.validation = "shared"

    def fit(data, **options):
        return lambda: fits.fit(validation_data=data, **options)

    order = np.random.default_rng(worker).permutation(cases.TEST)
    some = tuple(a[: cases.BATCH] for a in test)
    three = tuple(a[: 3 * cases.BATCH - 2] for a in test)
    return {
        "arrays": fit(test, epochs=2),
        "dataset": fit(dataset()),
        "unknown length": fit(dataset().filter(lambda *_: True)),
        "PyDataset": lambda: asked(cases.Batches),
        "shuffled PyDataset": lambda: asked(cases.Shuffled),
        "steps": fit(test, validation_steps=5),
        "repeated": fit(dataset().repeat(), validation_steps=5),
        "batches of 16": fit(test, validation_batch_size=16),
        "one batch": fit(some),
        "three batches": fit(three),
        "another order": fit(tuple(a[order] for a in test)),
        "whole": whole,
        "unlike": fit(own),
        "unlike datasets": fit(dataset(own)),
        "frequency": fit(test, epochs=2, validation_freq=2),
        "a split": lambda: fits.fit(validation_split=1 / 3),
    }


def terminated(fits, worker, value):
    """Fits data with a NaN on worker 1 only, to its quiet end."""
    import keras
    import metric_cases as cases
    import numpy as np

    x, y = cases.split(cases.train(), worker)
    if worker == 1:
        x = np.where(np.arange(len(x))[:, None] == 10, value, x)
    history = fits.fit(
        (x, y),
        part=False,
        callbacks=[keras.callbacks.TerminateOnNaN()],
        epochs=3,
        validation_data=cases.test(),
    )
    return history | {
        "weights": [w.tolist() for w in fits.model.get_weights()],
        "stopped": fits.model.stop_training,
    }


def steps(fits):
    """Returns what a metric that is not reset is after each step of a fit."""
    import metric_cases as cases

    sees = cases.Sees("never")
    fits.fit(callbacks=[sees], epochs=3)
    return {"steps": sees.seen}


def runs(process_group):
    """Yields (name, run)."""
    import metric_cases as cases

    k, workers = process_group.index, process_group.count

    def fits(model):
        return Fits(k, workers, model)

    counted = [cases.K.TruePositives(), cases.K.AUC(), *cases.divisible()]
    counts = fits(cases.build(counted))
    yield from validations(counts, k).items()
    test = cases.test()
    yield (
        "must see all",
        lambda: fits(
            cases.build([*cases.whole(), cases.K.TruePositives()])
        ).fit(validation_data=test),
    )
    never = cases.build([cases.Never(name="never")])
    yield "never reset", lambda: fits(never).fit(validation_data=test, epochs=3)
    yield (
        "never reset, steps",
        lambda: steps(fits(cases.build([cases.Never(name="never")]))),
    )
    for words, metric in cases.refused().items():
        yield words, lambda metric=metric: fits(cases.build([metric])).fit()
    yield (
        "logs",
        lambda: fits(cases.build(base=cases.Logs)).fit(
            validation_data=test, epochs=2
        ),
    )
    moves = cases.build([cases.K.TruePositives()], cases.Moves)
    yield (
        "moves",
        lambda: (
            fits(moves).fit(validation_data=test)
            | {"moved": float(moves.tested)}
        ),
    )
    yield "NaN", lambda: terminated(fits(cases.build()), k, float("nan"))


def of_keras(process_group):
    """Yields (name, run) of all metrics that Keras ships."""
    import metric_cases as cases
    import tensorflow as tf

    k = process_group.index
    whole = cases.of_keras_data(cases.TRAIN, 1)
    tested = cases.of_keras_data(cases.TEST, 2)
    fits = Fits(k, process_group.count, cases.of_keras())

    def rows(data, start, stop):
        return tf.nest.map_structure(lambda array: array[start:stop], data)

    def fit(end, test):
        some = rows(whole, 24 * k, 24 if k == 0 else end)
        return fits.fit(some, part=False, validation_data=test)

    yield "of Keras", lambda: fit(48, tested)
    # The batches of one have 8 samples, those of the other end with 4.
    own = rows(tested, 40 * k, 40 + 36 * k)
    yield "uneven", lambda: fit(44, own)


def main(folder, what):
    """Runs one of these as the worker that TF_CONFIG says this is."""
    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    some = {"runs": runs, "of Keras": of_keras}[what](process_group)
    result = {name: outcome(run) for name, run in some}
    path = pathlib.Path(folder) / f"{process_group.index}.json"
    path.write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
