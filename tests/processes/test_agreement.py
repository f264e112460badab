"""What must be the same on every worker: what is compared, and what is not."""

import json

import keras
import numpy as np
import pytest
import small
import tensorflow as tf

import fda_tf
from fda_tf.data import sources
from fda_tf.processes import agreement
from fda_tf.processes.error_messages import shown_by
from fda_tf.processes.process_group import ProcessGroup
from fda_tf.workers import description
from fda_tf.workers.local_model import Worker

layers, losses = keras.layers, keras.losses
SGD = keras.optimizers.SGD
Scaled = keras.optimizers.LossScaleOptimizer


class Untold(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule of a user, with no get_config."""

    def __call__(self, step):
        return 0.1


class UntoldLoss(losses.Loss):
    """A loss of a user, with a get_config that fails."""

    def call(self, y, prediction):
        return losses.sparse_categorical_crossentropy(
            y, prediction, from_logits=True
        )

    def get_config(self):
        raise KeyError("no config")


class UntoldLayer(layers.Layer):
    """A layer of a user, with an argument and no get_config."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return self.factor * x


def functional():
    """A small model as a function of its input."""
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(2)(x))


def squared(y, prediction):
    """A loss that is a function."""
    return (y - prediction) ** 2


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        ("mse", '"mse"'),
        (None, "null"),
        (squared, '"squared"'),
        ([squared, "mse"], '["squared", "mse"]'),
        ({"b": squared, "a": np.float32(0.5)}, '{"a": 0.5, "b": "squared"}'),
        ({"name": "mse"}, '{"name": "mse"}'),  # an output of that name
        ((np.arange(2), True), "[[0, 1], true]"),
        (object(), '"object"'),
        (losses.Huber, '"Huber"'),
        (UntoldLoss(), '{"UntoldLoss": null}'),
        (SGD(Untold()), '{"SGD": null}'),
        (functional(), '"Functional"'),
        (layers.Activation(squared), '{"Activation": {"activation": {"class_n'),
    ],
)
def test_text_by_hand(thing, expected):
    assert agreement.text(thing).startswith(expected)


ALIKE = {
    "functions": lambda: [lambda y, p: p - y, {"a": squared}],
    "losses": lambda: {"a": losses.MeanSquaredError(), "b": [losses.Huber()]},
    "nested model": lambda: keras.Sequential([layers.Dense(2)]),
    "two ways": lambda: layers.Bidirectional(layers.LSTM(2)),
    "model in a layer": lambda: layers.TimeDistributed(functional()),
    "layer in a layer": lambda: layers.TimeDistributed(layers.Dense(2)),
    "cell": lambda: layers.RNN(layers.LSTMCell(2)),
    "pipeline": lambda: layers.Pipeline([layers.RandomFlip()]),
    "a seed of its own": lambda: layers.RandomCrop(2, 2),
    "seed generator": lambda: layers.Dense(
        2, kernel_initializer=keras.initializers.RandomNormal(seed=seed())
    ),
    "lambda": lambda: layers.Lambda(eval(compile_("lambda x: 2 * x"))),
    "regularizer": lambda: layers.Dense(2, kernel_regularizer=lambda w: 0.0),
    "no config": lambda: UntoldLayer(2.0),
    "optimizer": lambda: Scaled(SGD(0.1)),
    "rate": lambda: SGD(lambda: 0.1),
    "schedule": lambda: SGD(Untold()),
}


def seed():
    """A generator whose name is numbered."""
    return keras.random.SeedGenerator(1)


def compile_(code):
    """Code as from another file at each call."""
    compile_.calls = getattr(compile_, "calls", 0) + 1
    return compile(code, f"/home/{compile_.calls}/job.py", "eval")


def test_a_quadratic_rule_tells_its_schedule():
    def rule(rate):
        return fda_tf.policies.QuadraticRule(rate, 0.2, least=4)

    decay = keras.optimizers.schedules.ExponentialDecay

    def config(rate):
        return fda_tf.Algorithm(rule(rate)).get_config()

    assert config(decay(0.1, 10, 0.5)) == config(decay(0.1, 10, 0.5))
    assert config(decay(0.1, 10, 0.5)) != config(decay(0.1, 10, 0.6))
    assert str(rule(0.1)) == "QuadraticRule(rate=0.1, growth=0.2, least=4)"
    untold = "QuadraticRule(rate=Untold(), growth=0.2, least=4)"
    assert str(rule(Untold())) == untold


@pytest.mark.parametrize("name", ALIKE)
def test_equal_things_have_equal_text(name, recwarn):
    first, second = ALIKE[name](), ALIKE[name]()
    assert agreement.text(first) == agreement.text(second)
    assert not recwarn.list  # Keras warns of lambdas that are to be saved


UNLIKE = {
    "activation": lambda odd: layers.Dense(2, ["relu", "tanh"][odd]),
    "inside": lambda odd: layers.TimeDistributed(layers.Dense(2 + odd)),
    "policy": lambda odd: layers.Dense(
        2, dtype=["float32", "mixed_bfloat16"][odd]
    ),
    "rate": lambda odd: SGD(0.1 + odd),
    "rate inside": lambda odd: Scaled(SGD(0.1 + odd)),
    "loss": lambda odd: [losses.BinaryCrossentropy(from_logits=bool(odd))],
    "function": lambda odd: {"a": [squared, losses.mean_squared_error][odd]},
    "untold": lambda odd: [UntoldLayer(2.0), UntoldLoss()][odd],
}


@pytest.mark.parametrize("name", UNLIKE)
def test_unlike_things_have_unlike_text(name):
    first, second = UNLIKE[name](0), UNLIKE[name](1)
    assert agreement.text(first) != agreement.text(second)


def nested_worker(optimizer=None, units=4):
    """A worker whose model has models and layers inside."""
    inner = keras.Sequential([layers.Dense(units), layers.Dropout(0.1)])
    model = keras.Sequential(
        [
            keras.Input((small.INPUTS,)),
            inner,
            layers.Reshape((2, units // 2)),
            layers.Bidirectional(layers.LSTM(2)),
            layers.Dense(small.CLASSES),
        ]
    )
    small.compile_model(model, optimizer)
    source = sources.ArraySource([small.data()], 8)
    return Worker(model, source.spec())


def test_models_alike_are_described_alike():
    first = description.describe(nested_worker(), seed=0)
    layers.Dense(2)  # one more name is taken
    assert description.describe(nested_worker(), seed=0) == first
    assert json.loads(json.dumps(first)) == first
    other = description.describe(nested_worker(units=6), seed=0)
    assert other["layer 2 (Sequential)"] == first["layer 2 (Sequential)"]
    unlike = {name for name in first if first[name] != other[name]}
    assert {n for n in unlike if "Dense" in n} == {"layer 4 (Dense)"}


def test_settings_are_described():
    worker = nested_worker()
    told = description.describe(
        worker,
        fda_tf.Algorithm(fda_tf.Every(steps=np.int32(4))),
        batch_size=np.int64(8),
        rate=np.float32(0.5),
        last=None,
        sampling="passes",
    )
    assert description.describe_model(worker).items() < told.items()
    assert json.loads(json.dumps(told)) == told
    assert (told["batch_size"], told["rate"], told["last"]) == (8, 0.5, None)
    assert (told["sync"], told["sync.steps"]) == ("Every", 4)
    assert (told["compression"], told["guard"]) == (None, None)


class Pair(ProcessGroup):
    """Two workers, of whom the other says what it is told to."""

    def __init__(self, other=None, error=None, index=1):
        super().__init__(index, ("a:1", "b:1"))
        self.other, self.error = other, error

    def gather_json(self, value):
        if self.error is not None:
            raise self.error
        both = [self.other, value]
        return both if self.index else both[::-1]


def test_agreement_is_told_or_refused_in_words():
    agreement.agree_on(Pair({"theta": 1}), {"theta": 1})
    for index, words in ((1, "2 against 1"), (0, "1 against 2")):
        message = f"Worker 1 differs from worker 0 in theta: {words}. Give"
        with pytest.raises(ValueError, match=message):
            agreement.agree_on(Pair({"theta": 1}, index=index), {"theta": 2})
    with pytest.raises(ValueError, match="in new: 1 against None"):
        agreement.agree_on(Pair({}), {"new": 1})
    with pytest.raises(ValueError, match="Worker 0 cannot start: KeyError: 'x"):
        agreement.agree_on(Pair({"error": "KeyError: 'x'"}), {"theta": 1})


def lost(kind=tf.errors.UnavailableError, words="gone"):
    """What TensorFlow raises when another worker is gone."""
    return kind(None, None, words)


def test_an_own_error_is_told_whatever_becomes_of_the_others():
    agreement.tell(Pair({"theta": 1}), KeyError("mine"))
    agreement.tell(Pair({"error": "theirs"}), KeyError("mine"))
    agreement.tell(Pair(error=lost()), KeyError("mine"))
    for theirs, first in (({"error": "KeyError: 'mine'"}, 0), ({"a": 1}, 1)):
        error = KeyError("mine")
        agreement.tell(Pair(theirs), error)
        assert shown_by(error) == first
    with pytest.raises(ValueError, match="is not compiled"):
        fda_tf.train(
            keras.Sequential([layers.Dense(1)]),
            small.data(),
            steps=1,
            process_group=Pair(error=lost(tf.errors.InternalError)),
        )


ABORTED = "Collective ops is aborted by: Collective instance 101 expected ..."


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (lost(), "Worker 1 lost another worker: .* TensorFlow says: gone"),
        (lost(tf.errors.InternalError, ABORTED), "another tf.distribute strat"),
    ],
)
def test_a_worker_lost_before_training_is_told_in_words(error, message):
    def train():
        fda_tf.train(
            small.linear_model(),
            small.data(),
            steps=1,
            process_group=Pair(error=error),
        )

    with pytest.raises(RuntimeError, match=message):
        train()


def test_other_errors_stay_what_they_are():
    for process_group, error in (
        (Pair(), lost(tf.errors.InternalError, "out of luck")),
        (
            ProcessGroup(),
            lost(),
        ),  # alone nobody can be lost
    ):
        with pytest.raises(type(error)), process_group.lost_worker_in_words():
            raise error


def test_what_does_not_tell_its_settings_trains_on_a_cluster():
    model = keras.Sequential(
        [
            keras.Input((small.INPUTS,)),
            UntoldLayer(0.5),
            layers.Dense(small.CLASSES),
        ]
    )
    model.compile(SGD(Untold()), UntoldLoss(), jit_compile=False)
    server = SGD(Untold())
    before = small.flat(model)
    run = fda_tf.train(
        model, small.data(), fda_tf.Algorithm(server_optimizer=server), steps=3
    )
    assert run.rows[-1]["step"] == 3
    assert not np.array_equal(small.flat(model), before)


def test_numpy_settings_train_as_numbers():
    one, other = small.linear_model(), small.linear_model()
    fda_tf.train(one, small.data(), steps=3, batch_size=8, seed=1)
    fda_tf.train(
        other,
        small.data(),
        steps=np.int64(3),
        batch_size=np.int64(8),
        seed=np.uint32(1),
    )
    np.testing.assert_array_equal(small.flat(one), small.flat(other))
