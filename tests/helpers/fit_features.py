"""What `fit` can do on a cluster besides what the simulation can.

Most runs are of softmax regression on the same eleven batches a worker, by
the naive monitor: the NumPy twin knows what comes of it.
"""

import csv
import importlib.util

import keras
import numpy as np
import small
import tensorflow as tf

import fda_tf

BATCH, BATCHES, THETA = 8, 11, 0.5
EPOCHS = 2
FEW = (  # for the larger clusters
    "arrays",
    "shards of 11 and 9",
    "error in on_train_batch_end",
    "after all that",
)


def part(worker, workers, batches=BATCHES):
    """Returns a worker's (x, y), so many full batches."""
    x, y = small.shards(workers, 120 * workers)[worker]
    return x[: batches * BATCH], y[: batches * BATCH]


def batched(data):
    options = tf.data.Options()
    options.autotune.enabled = False  # ending, its thread may wait for long
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(BATCH)
    return dataset.with_options(options)


def unknown(dataset):
    """Returns a dataset that cannot tell its length."""
    return dataset.filter(lambda *_: True)


class Course:
    """A model and its callback, used for fit after fit: compiled once."""

    def __init__(self, worker, steps_per_execution=1, sync=None):
        self.worker = worker
        self.model = small.linear_model()
        self.model.compile(
            keras.optimizers.SGD(small.RATE),
            self.model.loss,
            metrics=["accuracy"],
            jit_compile=False,
            steps_per_execution=steps_per_execution,
        )
        self.fda = fda_tf.Averaging(
            sync or fda_tf.VarianceThreshold(THETA, "naive")
        )

    def begin(self):
        """Begins anew; all workers take worker 0's weights."""
        w = small.start(1 + self.worker)
        self.model.set_weights([w[:-1], w[-1]])
        self.model.optimizer.learning_rate = small.RATE

    def fit(self, *data, callbacks=(), anew=True, **options):
        """Fits; returns what it did, as JSON can hold it."""
        if anew:
            self.begin()
        made, lists = self.fda.made, (self.fda.syncs, self.fda.variance)
        before = [len(a) for a in lists]
        step = int(made.trainer.loop.step) if made else 0
        settings = {"epochs": EPOCHS, "shuffle": False}
        if isinstance(data[0], np.ndarray):
            settings["batch_size"] = BATCH
        history = self.model.fit(
            *data,
            verbose=0,
            callbacks=[*callbacks, self.fda],
            **settings | options,
        )
        if self.fda.made is not made:  # the lists begin anew
            before, step = [0, 0], 0
        syncs, variance = (a[n:] for a, n in zip(lists, before, strict=True))
        return {
            "syncs": [[s.step - step, s.cause] for s in syncs],
            "variance": variance,
            "before": step,
            "steps": int(self.fda.made.trainer.loop.step) - step,
            "weights": small.flat(self.model).tolist(),
            "history": history.history,
            "epochs": len(history.epoch),
        }


class Batches(keras.utils.PyDataset):
    """A worker's batches, one of which may be an error."""

    def __init__(self, data, bad=None):
        super().__init__()
        self.data, self.bad = data, bad

    def __len__(self):
        return len(self.data[1]) // BATCH

    def __getitem__(self, index):
        if index == self.bad:
            raise KeyError("mine")
        here = slice(BATCH * index, BATCH * index + BATCH)
        return self.data[0][here], self.data[1][here]


def broken(dataset, batches):
    """Returns data of which the batch after so many is an error."""

    def check(i, batch):
        x = batch[0] / tf.cast(i != batches, tf.float32)
        return tf.debugging.check_numerics(x, "broken"), batch[1]

    return dataset.enumerate().map(check)


def failing(hook, error=None):
    """Returns a callback that raises in one of its methods."""

    def fail(*_, **__):
        raise error or KeyError("mine")

    callback = keras.callbacks.Callback()
    setattr(callback, hook, fail)
    return callback


class Stop(keras.callbacks.Callback):
    """Stops after some batches of an epoch."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            self.model.stop_training = True


def inputs(course, data):
    """Returns name -> fits that all do the same."""
    return {
        "arrays": lambda: course().fit(*data),
        "finite": lambda: course().fit(batched(data)),
        "PyDataset": lambda: course().fit(Batches(data)),
        "repeated": lambda: course(BATCHES).fit(
            batched(data).repeat(), steps_per_epoch=BATCHES
        ),
        "unknown length": lambda: course(4).fit(unknown(batched(data))),
    }


def endings(course, data, odd, process_group):
    """Returns name -> fits that one worker ends, or goes on with, for all."""
    nine = part(process_group.index, process_group.count, 9)
    short, long = batched(nine), batched(data)
    uneven = short if odd else long
    empty = long.take(0)
    nan = (np.full_like(data[0], np.nan), data[1])
    bad_labels = (data[0], np.where(np.arange(88) == 44, 7, data[1]))

    def on_odd(*callbacks):
        return callbacks if odd else ()

    def stop():
        return on_odd(Stop(3))

    def bad(name, **options):
        return lambda: course().fit(
            long,
            validation_data=nine,
            callbacks=on_odd(failing(name)),
            **options,
        )

    every = fda_tf.Every(steps=4)
    hooks = [
        "on_train_begin",
        "on_epoch_begin",
        "on_train_batch_begin",
        "on_train_batch_end",
        "on_test_begin",
        "on_test_batch_end",
        "on_epoch_end",
        "on_train_end",
    ]
    return {
        "shards of 11 and 9": lambda: course().fit(uneven),
        "shards of 11 and 9, unknown": lambda: course().fit(unknown(uneven)),
        "shards of 11 and 9, one unknown": lambda: course().fit(
            unknown(short) if odd else long, epochs=3
        ),
        "shards of 11 and 9, every 4": lambda: course(1, every).fit(
            unknown(uneven), epochs=3
        ),
        "stop": lambda: course().fit(long, callbacks=stop()),
        "stop, every 4": lambda: course(1, every).fit(long, callbacks=stop()),
        "stop, executions of 4": lambda: course(4).fit(long, callbacks=stop()),
        "NaN": lambda: course().fit(batched(nan) if odd else long),
        "NaN, every 4": lambda: course(1, every).fit(
            batched(nan) if odd else long
        ),
        **{f"error in {hook}": bad(hook) for hook in hooks},
        "error in the data": lambda: course().fit(
            broken(long, 5) if odd else long
        ),
        "error in the first batch": lambda: course().fit(
            broken(long, 0) if odd else long
        ),
        "error in the data, executions of 4": lambda: course(4).fit(
            broken(long, 6) if odd else long
        ),
        "error in a PyDataset": lambda: course(4).fit(
            Batches(data, bad=7 if odd else None)
        ),
        "error in a step": lambda: course(4).fit(
            batched(bad_labels) if odd else long
        ),
        "error in the validation data": lambda: course().fit(
            long, validation_data=broken(long, 3) if odd else long
        ),
        "other epochs": lambda: course().fit(long, epochs=2 + odd),
        "other first epoch": lambda: course().fit(
            long, epochs=3, initial_epoch=int(odd)
        ),
        "other executions": lambda: course(4 if odd else 1).fit(long),
        "validation on one": lambda: course().fit(
            long, validation_data=nine if odd else None
        ),
        "no batch": lambda: course().fit(empty if odd else long),
        "no batch, unknown": lambda: course().fit(
            unknown(empty) if odd else unknown(long)
        ),
    }


def differing(data, odd):
    """Returns name -> fits of workers that are unlike each other."""

    def fit(model, theta=1.0, monitor="naive"):
        fda = fda_tf.FDA(theta, monitor)
        model.fit(batched(data), verbose=0, callbacks=[fda])

    def linear():
        return small.linear_model()

    def in_a_scope():
        with tf.distribute.OneDeviceStrategy("CPU:0").scope():
            return linear()

    return {
        "model in a scope": lambda: fit(in_a_scope() if odd else linear()),
        "other theta": lambda: fit(linear(), 2.0 if odd else 1.0),
        "other monitor": lambda: fit(linear(), 1.0, "exact" if odd else "max"),
        "other model": lambda: fit(small.rich_model() if odd else linear()),
    }


def again(course, data, validation):
    """Fits, goes on, and goes on once more; all from the last average."""
    first = course.fit(batched(data))
    options = {"anew": False, "epochs": 6, "initial_epoch": 5}
    second = course.fit(batched(data), validation_data=validation, **options)
    return {"first": first, "second": second}


class Looks(keras.callbacks.Callback):
    """Notes what a callback sees; on all workers."""

    def __init__(self, fda):
        super().__init__()
        self.fda, self.rates, self.seen, self.averages = fda, [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            own = small.flat(self.model).tolist()
            average = self.fda.averaged_weights()
            flat = np.concatenate([np.ravel(w) for w in average]).tolist()
            self.averages.append([own, flat])

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([small.flat(self.model).tolist(), dict(logs)])


def with_callbacks(course, data, validation, folder, process_group):
    """Fits with all that looks at an epoch's end, or writes."""
    own = folder / f"worker {process_group.index}"
    own.mkdir()
    saved, table, board = own / "best.keras", own / "log.csv", own / "board"
    looks, chiefs = Looks(course.fda), Looks(course.fda)
    chiefs.on_train_batch_end = lambda batch, logs=None: None
    callbacks = [
        looks,
        fda_tf.on_chief(chiefs),
        # The loss rises here, so the first epoch is the best, or the last.
        keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=2),
        keras.callbacks.ModelCheckpoint(saved, mode="max", save_best_only=True),
        keras.callbacks.CSVLogger(table),
    ]
    if importlib.util.find_spec("tensorboard"):
        callbacks.append(keras.callbacks.TensorBoard(board, write_graph=False))
    result = course.fit(
        batched(data), validation_data=validation, callbacks=callbacks, epochs=9
    )
    files = sorted(p.name for p in own.rglob("*") if p.is_file())
    if process_group.is_chief:
        best = keras.models.load_model(saved)
        with table.open() as file:
            rows = list(csv.DictReader(file))
        result |= {"saved": small.flat(best).tolist(), "rows": rows}
        result["points"] = points(board / "train") if board.exists() else None
    return result | {
        "files": [name.split(".")[0] for name in files],
        "rates": looks.rates,
        "seen": looks.seen,
        "averages": looks.averages,
        "chiefs": len(chiefs.seen),
    }


def points(folder):
    """Returns tag -> [(step, value)] of what TensorBoard would show."""
    from tensorflow.core.util import event_pb2

    tags = {}
    for path in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                number = tf.make_ndarray(value.tensor)
                if number.dtype == np.float32 and not number.shape:
                    point = [event.step, float(number)]
                    tags.setdefault(value.tag, []).append(point)
    return tags


class Halves(keras.callbacks.Callback):
    """Changes the model at the end of the first epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            weights = self.model.get_weights()
            self.model.set_weights([w / 2 for w in weights])


class Evaluates(keras.callbacks.Callback):
    """Evaluates by itself, at a step and at an epoch's end."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def on_train_batch_end(self, batch, logs=None):
        if batch in (2, 6):
            self.model.evaluate(*self.data, verbose=0)

    def on_epoch_end(self, epoch, logs=None):
        self.model.evaluate(*self.data, verbose=0)


class Watched(keras.Model):
    """Its logs tell which samples it saw, and which it dropped."""

    def __init__(self):
        super().__init__()
        self.dropout = keras.layers.Dropout(0.5)
        self.dense = keras.layers.Dense(1)

    def call(self, x, training=False):
        return self.dense(self.dropout(x, training=training))

    def train_step(self, data):
        logs = super().train_step(data)
        kept = self.dropout(tf.ones([1, 16]), training=True)
        places = 2.0 ** tf.range(16.0)
        return {
            **logs,
            "samples": tf.reduce_sum(data[0]),
            "mask": tf.reduce_sum(places * tf.sign(kept)),
        }


def shuffled():
    """Fits arrays that are the same on all workers, after the same seed."""
    keras.utils.set_random_seed(0)
    fda = fda_tf.Averaging(fda_tf.Every(steps=3))
    model = Watched()
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    seen = []
    log = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            [logs["samples"], logs["mask"]]
        )
    )
    x = 2.0 ** np.arange(16, dtype=np.float32)[:, None]
    history = model.fit(
        x, x, batch_size=2, epochs=2, verbose=0, callbacks=[fda, log]
    )
    return {"seen": seen, "history": history.history}


def pooled(course, data, odd):
    """Fits at a rate of 0, with a last batch of 8 on one worker, 5 on one."""
    x, y = (a[: len(a) - 3 * odd] for a in data)
    course.begin()
    course.model.optimizer.learning_rate = 0.0
    return course.fit(batched((x, y)), anew=False, epochs=1)


def own_loop(data, process_group):
    """Trains by a loop of one's own, on the same batches."""
    model = small.linear_model(small.start(1 + process_group.index))
    batches = list(batched(data))
    trainer = fda_tf.Trainer(
        model, batches[0], fda_tf.VarianceThreshold(THETA, "naive")
    )
    syncs, counts = [], 0
    for step in range(EPOCHS * BATCHES):
        trainer.step(batches[step % BATCHES])
        if trainer.counters()["syncs"] > counts:
            syncs.append(step + 1)
            counts += 1
    trainer.finish()
    return {"syncs": syncs, "weights": small.flat(model).tolist()}


def class_weights(process_group):
    """Fits a `fda_tf.shard` with weights of the classes."""
    model = small.linear_model(small.start(1 + process_group.index))
    fda = fda_tf.FDA(0.2, "linear", max_interval=None)
    shard = small.shards(process_group.count)[process_group.index]
    history = model.fit(
        fda_tf.shard(shard, BATCH, mine=True),
        class_weight={0: 2.0, 1: 0.5, 2: 0.5},
        epochs=EPOCHS,
        verbose=0,
        callbacks=[fda],
    )
    return {
        "syncs": [s.step for s in fda.syncs if s.cause != "end"],
        "weights": small.flat(model).tolist(),
        "history": history.history,
    }


def features(process_group, folder):
    """Returns name -> run; each leaves a cluster on which the next works."""
    k, odd = process_group.index, process_group.index == 1
    data = part(k, process_group.count)
    validation = tuple(a[: 40 - 15 * k] for a in small.data(40, seed=5))
    courses = {}

    def course(at_once=1, sync=None):
        key = at_once, str(sync)
        if key not in courses:
            courses[key] = Course(k, at_once, sync)
        return courses[key]

    capped = fda_tf.VarianceThreshold(THETA, "naive", fda_tf.Every(epochs=1))
    runs = {
        **inputs(course, data),
        "a cap": lambda: course(1, capped).fit(batched(data)),
        "a cap, unknown length": lambda: course(1, capped).fit(
            unknown(batched(data))
        ),
        "class weights": lambda: class_weights(process_group),
        "own loop": lambda: own_loop(data, process_group),
        "again": lambda: again(course(), data, validation),
        "callbacks": lambda: with_callbacks(
            course(), data, validation, folder, process_group
        ),
        "evaluation on one": lambda: course().fit(
            batched(data), callbacks=[Evaluates(validation)] if odd else []
        ),
        "model changed": lambda: course().fit(
            batched(data), callbacks=[Halves()]
        ),
        "shuffles": shuffled,
        "pooled": lambda: pooled(course(), data, odd),
        **endings(course, data, odd, process_group),
        **differing(data, odd),
        "after all that": lambda: course().fit(batched(data)),
    }
    few = process_group.count > 2
    return {n: run for n, run in runs.items() if n in FEW or not few}
