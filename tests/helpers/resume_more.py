"""Runs of `train` and of loops of one's own that are stopped, and go on."""

import contextlib
import resource
import signal

import fit_cases
import keras
import numpy as np
import small
import tensorflow as tf
from resume_cases import (
    BATCH,
    BATCHES,
    SAMPLES,
    Stop,
    Stopper,
    cases,
    fit,
    stop,
)

import fda_tf
from fda_tf.processes.process_group import ProcessGroup

STEPS = 40
threshold = fda_tf.VarianceThreshold
decay = keras.optimizers.schedules.ExponentialDecay(0.4, 20, 0.5)
linear = fit_cases._linear()


def batched(own):
    return tf.data.Dataset.from_tensor_slices(own).batch(BATCH)


def trains():
    """Returns name -> (stop, every, steps saved, build, options of train).

    The stop is at the first call of on_progress after a step: "SIGTERM" on
    the last worker, or "error" on all.
    """
    rich = {"sync": threshold(0.05, "linear")}
    return {
        "train": ((17, "error"), 7, [14, 7], small.rich_model, rich),
        "train, SIGTERM": (
            (10, "SIGTERM"), 100, [11], linear,
            {"sync": threshold(0.2, "linear")},
        ),
        "train, SIGTERM between rounds": (
            (10, "SIGTERM"), 100, [18], linear,
            {"sync": fda_tf.Every(steps=9), "evaluate_every": 5},
        ),
        "train, server": (
            (17, "error"), 7, [14, 7], linear,
            {"sync": threshold(decay, "linear"),
             "server_optimizer": lambda: keras.optimizers.Adam(0.05)},
        ),
        "train, datasets": (
            (17, "error"), 7, [14, 7], linear,
            {"sync": threshold(0.2, "sketch"), "shard": batched},
        ),
        "train, independent": (
            (17, "error"), 7, [14, 7], linear,
            {"sync": fda_tf.Every(epochs=0.7), "sampling": "independent"},
        ),
    }  # fmt: skip


def train(
    build, options, process_group, folder=None, every=None, stopping=None
):
    """Runs `train`; returns what it did, as JSON can hold it."""
    options = {"evaluate_every": 10} | options
    own = small.shards(process_group.count, SAMPLES)[process_group.index]
    own = options.pop("shard", lambda data: data)(own)
    if make := options.pop("server_optimizer", None):
        options["server_optimizer"] = make()
    at, how = stopping or (None, "")
    last = process_group.index == process_group.count - 1
    came = []

    def look(row):
        if at and row["step"] >= at and not came:
            if how == "error" or last:
                came.append(True)
                stop(how)

    history = fda_tf.train(
        build(1 + process_group.index), own,
        steps=STEPS, batch_size=BATCH, process_group=process_group,
        on_progress=look,
        validation_data=small.data(40, seed=5),
        checkpoint=folder and fda_tf.Checkpoint(folder, every=every),
        **small.in_parts(options),
    )  # fmt: skip
    return {
        "weights": [v.tolist() for v in small.kept(history.model)],
        "rows": [row | {"seconds": None} for row in history.rows],
        "syncs": history.syncs,
        "variance": history.variance.tolist(),
        "theta": history.theta.tolist(),
    }


def refusals(process_group, folder):
    """Returns name -> a run that all workers refuse to go on with."""
    wide = threshold(0.2, "linear")
    own = small.shards(process_group.count, SAMPLES)[process_group.index]

    def clipped(seed):
        return fit_cases._linear(lambda: keras.optimizers.SGD(0.3, clipnorm=1))(
            seed
        )

    def refuse_fit(build=linear, sync=wide, directory=folder / "fit"):
        model = build(1)
        saved = fda_tf.Checkpoint(directory, every=4)
        fda = fda_tf.Averaging(sync, checkpoint=saved)
        data = fda_tf.shard(own, BATCH, mine=True, steps_per_epoch=4)
        model.fit(data, verbose=0, callbacks=[fda])

    def refuse_train(build=linear, sync=wide, directory=folder / "train"):
        saved = directory and fda_tf.Checkpoint(directory)
        fda_tf.train(
            build(1),
            own,
            sync,
            steps=4,
            batch_size=BATCH,
            process_group=process_group,
            checkpoint=saved,
        )

    def refuse_own_loop(directory):
        data = fda_tf.shard(own, BATCH, mine=True)
        trainer = fda_tf.Trainer(linear(1), data.element_spec)
        trainer.resume(fda_tf.Checkpoint(directory))

    refuse_fit()
    refuse_train()
    (folder / "file").touch()  # nobody makes a folder in it
    odd = folder / "file" if process_group.index == 1 else folder / "folder"
    rich = small.rich_model
    return {
        "fit, model": lambda: refuse_fit(rich),
        "fit, theta": lambda: refuse_fit(sync=threshold(0.3, "linear")),
        "fit, optimizer": lambda: refuse_fit(clipped),
        "fit, folder": lambda: refuse_fit(directory=odd / "fit"),
        "train, monitor": lambda: refuse_train(sync=threshold(0.2, "naive")),
        "train, folder": lambda: refuse_train(directory=odd / "train"),
        "train, checkpoint": lambda: refuse_train(
            directory=folder / "chiefs" if process_group.is_chief else None
        ),
        "own loop, folder": lambda: refuse_own_loop(odd / "loop"),
    }


def own_loop(process_group, folder=None, every=5, stop_at=None):
    """A loop of one's own; returns what it did."""
    own = small.shards(process_group.count, SAMPLES)[process_group.index]
    model = small.rich_model(1 + process_group.index)
    data = fda_tf.shard(own, BATCH, mine=True)
    trainer = fda_tf.Trainer(
        model,
        data.element_spec,
        threshold(0.05, "linear"),
        process_group=process_group,
    )
    saved = folder and fda_tf.Checkpoint(folder, every=every)
    losses = []
    if saved and (kept := trainer.resume(saved)):
        losses, data.position = kept["losses"], kept["position"]
    step = data.position
    while step < 25:
        for batch in data:
            logs = trainer.step(batch)
            losses.append(float(logs["loss"]))
            step += 1
            if saved and step % every == 0:
                assert trainer.save(saved, losses=losses, position=step)
            if trainer.agree(step == stop_at and not process_group.is_chief):
                raise Stop
            if step == 25:
                break
    average = trainer.averaged_weights()
    trainer.finish()
    return {
        "weights": [v.tolist() for v in small.kept(model)],
        "averages": [v.tolist() for v in average],
        "losses": losses,
        "counters": trainer.counters(),
    }


def one_and_two(process_group, folder):
    """One worker, two, and one again; returns their counters, by how many.

    The first is worker 0 alone, who has no monitor and leaves nothing out.
    """
    own = small.shards(process_group.count, SAMPLES)[process_group.index]
    data = fda_tf.shard(own, BATCH, mine=True)

    def restore_latest(process_group):
        trainer = fda_tf.Trainer(
            linear(1),
            data.element_spec,
            fda_tf.Algorithm(
                threshold(0.0, "linear"),
                compression=fda_tf.compression.TopK(0.5),
            ),
            process_group=process_group,
        )
        trainer.resume(fda_tf.Checkpoint(folder))
        for _, batch in zip(range(3), data, strict=False):
            trainer.step(batch)
        assert trainer.save(fda_tf.Checkpoint(folder))
        return trainer.counters()

    counters = {}
    for name, count in (("one", 1), ("two", 2), ("one again", 1)):
        if count == 2 or process_group.is_chief:
            among = process_group if count == 2 else ProcessGroup()
            counters[name] = restore_latest(among)
        process_group.gather(0)  # worker 1 waits for what is saved
    return counters


def own_step(process_group):
    """A loop whose local steps are its own, too; returns what it saw."""
    own = small.shards(process_group.count, SAMPLES)[process_group.index]
    model = linear(1 + process_group.index)
    data = fda_tf.shard(own, BATCH, mine=True, steps_per_epoch=30)
    trainer = fda_tf.Trainer(model, data.element_spec, threshold(0.5, "naive"))

    @tf.function
    def local_step(x, y):
        with tf.GradientTape() as tape:
            loss = model.loss(y, model(x, training=True))
        weights = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, weights), weights)

    seen = {"syncs": [], "own": [], "averages": [], "lent": [], "back": []}
    for step, batch in enumerate(data, 1):
        local_step(*batch)
        if trainer.after_step():
            seen["syncs"].append(step)
        if step in (7, 19):
            seen["own"].append(small.flat(model).tolist())
            average = trainer.averaged_weights()
            seen["averages"].append(np.concatenate(average, None).tolist())
            with contextlib.suppress(Stop), trainer.averaged() as same:
                seen["lent"].append(small.flat(same).tolist())
                raise Stop
            seen["back"].append(small.flat(model).tolist())
    odd = process_group.index == 1
    seen["agree"] = [trainer.agree(False), trainer.agree(odd)]
    trainer.finish()
    seen["final"] = small.flat(model).tolist()
    seen["counters"] = trainer.counters()
    x, y = own[0][:BATCH], own[1][:BATCH]
    try:
        trainer.step((np.full_like(x, np.nan if odd else 0.0), y))
    except FloatingPointError as error:
        seen["error"] = str(error)
    return seen


def full_disk(process_group, directory=None, fills=None):
    """A fit in which worker 1's disk is full for some steps, then stops."""
    case = cases()["second epoch"]
    disk = contextlib.ExitStack()

    class Fills(Stopper):
        def _called(self, *_, **__):
            super()._called()
            if self._number == fills[1] - fills[0]:
                disk.enter_context(small_disk())

    with disk:
        return fit(
            case, process_group, directory,
            fills and (BATCHES, fills[1], "error"),
            stopper=Fills,
        )  # fmt: skip


@contextlib.contextmanager
def small_disk(bytes_left=1000):
    """No file of this process may grow past so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def opened(process_group, folder):
    """Puts a fit's checkpoint into a trainer; returns what is then where."""
    model = small.rich_model(7 + process_group.index)
    own = small.shards(process_group.count, SAMPLES)[process_group.index]
    data = fda_tf.shard(own, BATCH, mine=True)
    trainer = fda_tf.Trainer(
        model,
        data.element_spec,
        threshold(0.05, "linear", fda_tf.Every(epochs=1)),
        process_group=process_group,
        steps_per_epoch=data.steps_per_epoch,
    )
    kept = trainer.resume(fda_tf.Checkpoint(folder))
    loop, names = trainer.loop, ("weights", "statistics")
    now = trainer.workers.variables()
    return {
        "kept": {name: kept[name] for name in ("epoch", "done", "start")},
        "model": [v.numpy().tolist() for n in names for v in now[n]],
        "slots": [v.numpy().tolist() for v in model.optimizer.variables],
        "w0": np.concatenate([b.numpy() for b in loop.w0]).tolist(),
        "interval": int(loop.interval),
        "step": int(loop.step),
        "seeds": [
            v.numpy().tolist()
            for v in model.non_trainable_variables
            if "seed_generator" in v.path
        ],
    }
