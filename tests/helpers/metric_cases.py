"""Models, metrics and data on which workers have to count as one process."""

import keras
import numpy as np
import tensorflow as tf

BATCH, TRAIN, TEST = 8, 48, 76  # the last test batch has 4
EPOCHS = 2
K = keras.metrics


def data(samples, seed=0):
    """Returns (x, y): labels 0 and 1, which a fixed model half knows."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(samples, 3)).astype(np.float32)
    return x, (x[:, :1] + random.normal(size=(samples, 1)) > 0).astype("f4")


def train():
    return data(TRAIN, 1)


def test():
    return data(TEST, 2)


def split(arrays, worker, workers=2):
    """Returns a worker's rows."""
    return tuple(np.array_split(a, workers)[worker] for a in arrays)


def build(metrics=(), base=keras.Model, jit_compile=False, **compiling):
    """Returns a compiled model that never changes."""
    inputs = keras.Input((3,))
    layer = keras.layers.Dense(1, activation="sigmoid")
    model = base(inputs, layer(inputs))
    model.set_weights([np.float32([[1.0], [0.5], [-0.5]]), np.float32([0.1])])
    model.compile(
        keras.optimizers.SGD(0.0),
        "binary_crossentropy",
        metrics=list(metrics),
        jit_compile=jit_compile,
        **compiling,
    )
    return model


class Custom(K.Metric):
    """A metric with one variable, told by how two values make one."""

    def __init__(self, name, merge, start=0.0, **options):
        super().__init__(name=name)
        self.merge, self.start = merge, start
        initial = keras.initializers.Constant(start)
        self.kept = self.add_variable((), initial, name="kept", **options)

    def update_state(self, y, y_pred, sample_weight=None):
        self.kept.assign(self.merge(self.kept.value, tf.reduce_sum(y_pred)))

    def result(self):
        return self.kept + 0.0

    def reset_state(self):
        self.kept.assign(self.start)


class Never(K.Mean):
    """A mean that is not reset."""

    def update_state(self, y, y_pred, sample_weight=None):
        super().update_state(y_pred)

    def reset_state(self):
        pass


class Sees(keras.callbacks.Callback):
    """Notes a log after each step."""

    def __init__(self, log):
        super().__init__()
        self.log, self.seen = log, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(logs[self.log]))


class Plain(K.Metric):
    """Keeps a sum in TensorFlow's own variable, and a list of two."""

    def __init__(self, name="plain"):
        super().__init__(name=name)
        self.kept = [tf.Variable(0.0, trainable=False) for _ in range(2)]

    def update_state(self, y, y_pred, sample_weight=None):
        self.kept[0].assign_add(tf.reduce_sum(y_pred))
        self.kept[1].assign(tf.maximum(self.kept[1], tf.reduce_max(y_pred)))

    def result(self):
        return {
            "plain_sum": self.kept[0] + 0.0,
            "plain_max": self.kept[1] + 0.0,
        }

    def reset_state(self):
        for variable in self.kept:
            variable.assign(0.0)


class Nested(K.Metric):
    """A metric within a metric."""

    def __init__(self, name="nested"):
        super().__init__(name=name)
        self.inner = K.MeanSquaredError()

    def update_state(self, y, y_pred, sample_weight=None):
        self.inner.update_state(2 * y, y_pred)

    def result(self):
        return self.inner.result() / 2

    def reset_state(self):
        self.inner.reset_state()


class First(K.Metric):
    """Keeps what the first batch was."""

    def __init__(self, name="first"):
        super().__init__(name=name)
        self.seen = self.add_variable((), "zeros", dtype="int32")
        self.kept = self.add_variable((), "zeros")

    def update_state(self, y, y_pred, sample_weight=None):
        self.kept.assign(tf.where(self.seen > 0, self.kept, tf.reduce_sum(y)))
        self.seen.assign(1)

    def result(self):
        return self.kept + 0.0


class InNumPy(K.Metric):
    """Keeps state that is no variable."""

    def __init__(self, name="in_numpy"):
        super().__init__(name=name)
        self.kept = np.zeros(())

    def update_state(self, y, y_pred, sample_weight=None):
        self.kept = self.kept + 1.0

    def result(self):
        return tf.constant(self.kept)

    def reset_state(self):
        self.kept = np.zeros(())


def divisible():
    """Returns metrics of one's own of which batches may be apart."""
    return [
        Custom("largest", tf.maximum),
        Custom("smallest", tf.minimum, 1e9),
        Plain(),
        Nested(),
    ]


def whole():
    """Returns metrics that have to see all batches."""
    return [
        First(),
        Custom("its", tf.add, aggregation="only_first_replica"),
        Custom("mean", lambda a, b: (a + b) / 2, aggregation="mean"),
    ]


def refused():
    """Returns metrics that no kind fits, by what is said of them."""
    return {
        "its variable 'kept'": Custom("product", lambda a, b: a * b + b, 1.0),
        "state in Python or NumPy": InNumPy(),
    }


class Logs(keras.Model):
    """A train_step and a test_step with logs of every form."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tracker = K.Mean(name="tracker")
        self.other = K.Sum(name="other")

    @property
    def metrics(self):
        return [self.tracker]  # the other is not reset, then

    def both(self, batch):
        x, y = batch
        y_pred = self(x)
        self.tracker.update_state(y_pred)
        self.other.update_state(y_pred)
        mean = tf.reduce_mean(y_pred)
        return {
            "tracker": self.tracker.result(),
            "inner": {"other": self.other.result(), "deep": {"one": mean}},
            "vector": tf.stack([mean, 2 * mean]),
            "rows": y_pred[:, 0],
            "text": tf.constant("words"),
            "nothing": None,
            "number": 3,
        }

    def train_step(self, batch):
        return self.both(batch)

    def test_step(self, batch):
        return self.both(batch)


class Moves(keras.Model):
    """Counts the batches of its validations."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tested = tf.Variable(0.0, trainable=False)

    def test_step(self, batch):
        self.tested.assign_add(1.0)
        return super().test_step(batch)


class Batches(keras.utils.PyDataset):
    """The test data as a PyDataset that counts what it is asked for."""

    def __init__(self, arrays):
        super().__init__()
        self.arrays, self.asked = arrays, 0

    def __len__(self):
        return -(-len(self.arrays[0]) // BATCH)

    def __getitem__(self, i):
        self.asked += 1
        return tuple(a[i * BATCH : (i + 1) * BATCH] for a in self.arrays)


class Shuffled(Batches):
    """One that is in another order in every epoch."""

    def on_epoch_end(self):
        order = np.random.default_rng().permutation(len(self.arrays[0]))
        self.arrays = tuple(a[order] for a in self.arrays)


def of_keras():
    """Returns a model with every metric that Keras ships, by output."""
    names = (
        "AUC Accuracy BinaryAccuracy BinaryCrossentropy BinaryIoU "
        "CosineSimilarity FalseNegatives FalsePositives Hinge KLDivergence "
        "LogCoshError MeanAbsoluteError MeanAbsolutePercentageError "
        "MeanSquaredError MeanSquaredLogarithmicError Poisson Precision "
        "R2Score Recall RootMeanSquaredError SquaredHinge TrueNegatives "
        "TruePositives"
    ).split()
    one = [getattr(K, name)(name=name) for name in names]
    one += [
        K.PrecisionAtRecall(0.5, name="PrecisionAtRecall"),
        K.RecallAtPrecision(0.5, name="RecallAtPrecision"),
        K.SensitivityAtSpecificity(0.5, name="SensitivityAtSpecificity"),
        K.SpecificityAtSensitivity(0.5, name="SpecificityAtSensitivity"),
        K.AUC(curve="PR", num_thresholds=20, name="pr"),
        K.MeanMetricWrapper(lambda y, p: p, name="wrapped"),
        K.Precision(thresholds=[0.3, 0.6], name="two"),
    ]
    many = [
        K.CategoricalAccuracy(name="CategoricalAccuracy"),
        K.CategoricalCrossentropy(name="CategoricalCrossentropy"),
        K.CategoricalHinge(name="CategoricalHinge"),
        K.TopKCategoricalAccuracy(2, name="TopKCategoricalAccuracy"),
        K.F1Score("macro", name="F1Score"),
        K.FBetaScore("micro", name="FBetaScore"),
        K.OneHotIoU(3, [0, 1], name="OneHotIoU"),
        K.OneHotMeanIoU(3, name="OneHotMeanIoU"),
        K.PearsonCorrelation(name="PearsonCorrelation"),
        K.ConcordanceCorrelation(name="ConcordanceCorrelation"),
        K.AUC(multi_label=True, num_labels=3, name="multi"),
    ]
    sparse = [
        K.SparseCategoricalAccuracy(name="SparseCategoricalAccuracy"),
        K.SparseCategoricalCrossentropy(name="SparseCategoricalCrossentropy"),
        K.SparseTopKCategoricalAccuracy(
            2, name="SparseTopKCategoricalAccuracy"
        ),
        K.IoU(3, [0, 1], sparse_y_pred=False, name="IoU"),
        K.MeanIoU(3, sparse_y_pred=False, name="MeanIoU"),
    ]
    inputs = keras.Input((3,))
    w = np.float32([[1.0, -1.0, 0.2], [0.5, 0.1, 0.3], [-0.5, 0.4, 0.0]])
    outputs = {"one": keras.layers.Dense(1, activation="sigmoid", name="one")}
    for name in ("many", "sparse"):
        outputs[name] = keras.layers.Dense(3, activation="softmax", name=name)
    made = {name: layer(inputs) for name, layer in outputs.items()}
    for layer in outputs.values():
        n = layer.kernel.shape[1]
        layer.set_weights([w[:, :n], np.zeros(n, np.float32)])
    model = keras.Model(inputs, made)
    losses = {
        "one": "binary_crossentropy",
        "many": "categorical_crossentropy",
        "sparse": "sparse_categorical_crossentropy",
    }
    model.compile(
        keras.optimizers.SGD(0.0),
        losses,
        metrics={"one": one, "many": many, "sparse": sparse},
        jit_compile=False,
    )
    return model


def of_keras_data(samples, seed):
    """Returns (x, y) for it."""
    x, y = data(samples, seed)
    label = np.random.default_rng(seed).integers(0, 3, (samples, 1))
    many = np.eye(3, dtype=np.float32)[label[:, 0]]
    return x, {"one": y, "many": many, "sparse": label}
