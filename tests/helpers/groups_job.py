"""One worker of the tests' cluster whose models are not all weights."""

import json
import pathlib
import sys


def floats(model):
    """Returns the floats that a model has, metrics excepted."""
    import numpy as np

    from fda_tf.workers import variable_groups

    return [
        np.ravel(v.numpy()).tolist()
        for v in variable_groups.own_of(model).values()
        if v.dtype.is_floating
    ]


def report(model, fda, history):
    """Returns what a fit did, as JSON can hold it."""
    return {
        "floats": floats(model),
        "syncs": [[s.step, s.cause] for s in fda.syncs],
        "history": history.history,
    }


def fit(model, process_group, callbacks=(), validation=None, **options):
    """Fits this worker's shard; returns what it did."""
    import groups_cases as cases
    import small

    import fda_tf

    shard = small.shards(process_group.count, cases.SAMPLES)[
        process_group.index
    ]
    fda = fda_tf.Averaging(**small.in_parts(options))
    history = model.fit(
        fda_tf.shard(shard, cases.BATCH, mine=True),
        epochs=cases.EPOCHS,
        verbose=0,
        validation_data=validation,
        callbacks=[*callbacks, fda],
    )
    return report(model, fda, history)


def moved_teacher(process_group):
    """Fits with a callback that moves a frozen teacher after each batch."""
    import groups_cases as cases
    import keras

    import fda_tf

    keras.utils.set_random_seed(1)
    model = cases.compile_model(cases.Distilled(trainable=False))
    seen = []

    def move(batch, logs):
        teacher, student = model.teacher.kernel, model.student.kernel
        teacher.assign(0.9 * teacher + 0.1 * student)
        seen.append(teacher.numpy().ravel().tolist())

    done = fit(
        model,
        process_group,
        [keras.callbacks.LambdaCallback(on_train_batch_end=move)],
        sync=fda_tf.Every(steps=10**6),
    )
    teacher = model.teacher.kernel.numpy().ravel().tolist()
    return done | {"seen": seen, "teacher": teacher}


def moved_validation(process_group):
    """Fits a model whose statistics its validation moves."""
    import groups_cases as cases
    import small

    import fda_tf

    model = cases.compiled(lambda seed: cases.AlwaysTraining())(
        1 + process_group.index
    )
    return fit(
        model,
        process_group,
        validation=small.data(40, seed=5),
        sync=fda_tf.Every(steps=10**6),
    )


def own_loop(process_group):
    """Moves a frozen teacher in a loop of one's own."""
    import groups_cases as cases
    import small

    import fda_tf

    x, y = small.shards(process_group.count, cases.SAMPLES)[process_group.index]
    model = cases.compiled(lambda seed: cases.Distilled(trainable=False))(1)
    trainer = fda_tf.Trainer(model, (x[:8], y[:8]), fda_tf.Every(steps=10**6))
    kernel = model.teacher.kernel
    trainer.step((x[:8], y[:8]))
    kernel.assign(kernel + float(process_group.index))
    with trainer.averaged():
        lent = kernel.numpy().ravel().tolist()
    kernel.assign(kernel + float(process_group.index))
    before = kernel.numpy().ravel().tolist()
    trainer.finish()
    return {
        "lent": lent,
        "before": before,
        "teacher": kernel.numpy().ravel().tolist(),
        "counters": trainer.counters(),
    }


def main(folder):
    """Runs everything as the worker that TF_CONFIG says this is."""
    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    import groups_cases
    from fit_job import outcome

    runs = {
        name: lambda build=build, options=options: fit(
            build(1 + process_group.index), process_group, **options
        )
        for name, (build, options) in groups_cases.cases().items()
    }
    runs["moved teacher"] = lambda: moved_teacher(process_group)
    runs["moved validation"] = lambda: moved_validation(process_group)
    runs["own loop"] = lambda: own_loop(process_group)
    result = {name: outcome(run) for name, run in runs.items()}
    path = pathlib.Path(folder) / f"{process_group.index}.json"
    path.write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
