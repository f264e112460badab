"""One worker of the tests' cluster whose models hold more than variables."""

import json
import pathlib
import sys

import tensorflow as tf


def job(process_group, folder):
    """Yields (name, what to run)."""
    import copy

    import held_cases
    import keras
    import numpy as np
    import small

    import fda_tf

    me = process_group.index
    shard = small.shards(2)[me]

    def fit(model, callbacks=(), epochs=1, data=shard, **options):
        fda = fda_tf.FDA(0.1, "linear")
        if not isinstance(data, tf.data.Dataset):
            data = fda_tf.shard(data, 8, mine=True)
        history = model.fit(
            data,
            epochs=epochs,
            verbose=0,
            callbacks=[fda, *callbacks],
            **options,
        )
        weights = [w.tolist() for w in model.get_weights()]
        return {"weights": weights, "history": history.history}

    for name, build in held_cases.UNLIKE.items():
        data = held_cases.words(shard) if name in held_cases.OF_WORDS else shard
        yield name, lambda build=build, data=data: fit(build(data), data=data)
    yield (
        "adapted alike",
        lambda: fit(held_cases.normalized(small.data()), epochs=2),
    )

    def saving_often():
        path = str(folder / f"{me}.keras")
        often = keras.callbacks.ModelCheckpoint(path, save_freq=3)
        return fit(small.linear_model(), [often])

    yield "save_freq", saving_often
    yield (
        "compiled within",
        lambda: fit(held_cases.two_layers(), [held_cases.Unfreeze(1)], 3),
    )

    def in_two_fits():
        model, data = held_cases.two_layers(), fda_tf.shard(shard, 8, mine=True)
        fit(model, data=data)
        held_cases.unfreeze(model)
        return fit(model, epochs=3, data=data, initial_epoch=1)

    yield "compiled between", in_two_fits
    yield (
        "compiled by one",
        lambda: fit(
            held_cases.two_layers(), [held_cases.Unfreeze(1)] if me else [], 2
        ),
    )
    yield (
        "compiled within an epoch",
        lambda: fit(held_cases.two_layers(), [held_cases.Unfreeze(0, True)]),
    )

    def copied():
        fda = copy.deepcopy(fda_tf.FDA(0.1, "linear"))
        fit(small.linear_model(), epochs=1)
        history = small.linear_model().fit(
            fda_tf.shard(shard, 8, mine=True), verbose=0, callbacks=[fda]
        )
        again = copy.deepcopy(fda)
        assert again.made is None and again.process_group is process_group
        return {"syncs": history.history["syncs"]}

    yield "copied", copied
    yield (
        "own evaluate",
        lambda: fit(held_cases.OwnEvaluate.made(), validation_data=shard),
    )

    def saved():
        model = small.linear_model()
        fda_tf.save_on_chief(model, folder / "one.keras")
        loaded = keras.models.load_model(folder / "one.keras")
        np.testing.assert_array_equal(small.flat(model), small.flat(loaded))
        return {"files": sorted(p.name for p in folder.glob("*.keras"))}

    yield "saved", saved
    yield (
        "cannot be saved",
        lambda: fda_tf.save_on_chief(small.linear_model(), folder / "a.doc"),
    )


def main(folder):
    """Runs everything as the worker that TF_CONFIG says this is."""
    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    from fit_job import outcome

    folder = pathlib.Path(folder)
    result = {name: outcome(run) for name, run in job(process_group, folder)}
    (folder / f"{process_group.index}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
