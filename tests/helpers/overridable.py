"""What Keras lets a model override on `fit`'s way, and what becomes of it.

`PLACES` has every public name of Keras' trainers and models: "works", which
`Everything` overrides; "refused", which has an example in `REFUSED`; or
"beside", which `fit` does not call.
"""

import keras
import small
import tensorflow as tf

WORKS = (
    "build call compile compute_loss compute_metrics evaluate fit "
    "get_config get_metrics_result losses make_test_function metrics "
    "metrics_variables optimizer reset_metrics test_step train_step "
    "trainable_variables trainable_weights"
)
# Stock's own parts may be called in an override; another train function not.
REFUSED = "make_train_function train_function"
KINDS = "run_eagerly"  # works, too: tried in test_kinds.py
BESIDE = (
    "add_loss add_metric add_variable add_weight build_from_config "
    "compile_from_config compiled_loss compiled_metrics "
    "compute_dtype compute_mask compute_output_shape compute_output_spec "
    "count_params distribute_reduction_method distribute_strategy dtype "
    "dtype_policy export from_config get_build_config get_compile_config "
    "get_layer get_quantization_layer_structure get_state_tree get_weights "
    "input_dtype input_spec jit_compile layers load_own_variables load_weights "
    "loss "
    "make_predict_function metrics_names non_trainable_variables "
    "non_trainable_weights path predict predict_on_batch predict_step quantize "
    "quantization_mode quantized_build quantized_call rematerialized_call save "
    "save_own_variables save_weights set_state_tree set_weights "
    "stateless_call stateless_compute_loss summary supports_masking "
    "symbolic_call test_on_batch to_json train_on_batch trainable "
    "variable_dtype variables weights"
)
PLACES = {
    name: kind
    for kind, names in (
        ("works", WORKS),
        ("works", KINDS),
        ("refused", REFUSED),
        ("beside", BESIDE),
    )
    for name in names.split()
}


def public_names():
    """Returns what Keras' own classes of a model have, layers' included."""
    return {
        name
        for kind in keras.Model.__mro__
        if kind.__name__ in ("Model", "TensorFlowTrainer", "Trainer", "Layer")
        for name in vars(kind)
        if not name.startswith("_")
    }


class Called:
    """The names of what was called; no set, which Keras would change."""

    def __init__(self):
        self.names = set()

    def add(self, name):
        self.names.add(name)


class Everything(keras.Model):
    """Overrides all that works, each with an effect on what comes out."""

    def __init__(self):
        super().__init__()
        self.called = Called()
        self.last = keras.layers.Dense(small.CLASSES)
        self.own = keras.metrics.Mean(name="own")

    def build(self, shape):
        self.called.add("build")
        self.last.build(shape)
        self.built = True

    def call(self, x, training=False):
        self.called.add("call")
        self.add_loss(0.01 * tf.reduce_mean(x**2))
        return self.last(x * (1.0 if training else 0.5))

    def compile(self, optimizer, *args, **kwargs):
        self.called.add("compile")
        super().compile(keras.optimizers.SGD(0.2), *args, **kwargs)

    def train_step(self, data):
        self.called.add("train_step")
        self.own.update_state(tf.reduce_max(data[0]))
        return {**super().train_step(data), "most": self.own.result()}

    def test_step(self, data):
        self.called.add("test_step")
        return {**super().test_step(data), "twice": 2.0}

    def compute_loss(self, *args, **kwargs):
        self.called.add("compute_loss")
        decay = 0.01 * tf.reduce_sum(self.last.kernel**2)
        return super().compute_loss(*args, **kwargs) + decay

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.called.add("compute_metrics")
        self.own.update_state(tf.reduce_mean(y_pred))
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_metrics_result(self):
        self.called.add("get_metrics_result")
        return {**super().get_metrics_result(), "half": self.own.result() / 2}

    def reset_metrics(self):
        self.called.add("reset_metrics")
        super().reset_metrics()

    @property
    def metrics(self):
        self.called.add("metrics")
        return [*super().metrics][::-1]

    @property
    def metrics_variables(self):
        self.called.add("metrics_variables")
        return super().metrics_variables

    @property
    def losses(self):
        self.called.add("losses")
        return [2 * loss for loss in super().losses]

    @property
    def trainable_weights(self):
        self.called.add("trainable_weights")
        return [v for v in super().trainable_weights if "bias" not in v.path]

    @property
    def trainable_variables(self):
        self.called.add("trainable_variables")
        return [v for v in super().trainable_variables if "bias" not in v.path]

    def make_test_function(self, force=False):
        self.called.add("make_test_function")
        return super().make_test_function(force)

    def fit(self, *args, **kwargs):
        self.called.add("fit")
        return super().fit(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        self.called.add("evaluate")
        logs = super().evaluate(*args, **kwargs)
        return {**logs, "evaluated": 1.0}

    def get_config(self):
        self.called.add("get_config")
        return {}

    @property
    def optimizer(self):
        return self._chosen

    @optimizer.setter
    def optimizer(self, optimizer):
        self.called.add("optimizer")
        self._chosen = optimizer


def everything():
    """Returns a compiled model that overrides all that works."""
    keras.utils.set_random_seed(4)
    return small.compile_model(Everything())


class OwnTrainFunction(keras.Model):
    """Makes a train function of its own."""

    def make_train_function(self, force=False):
        super().make_train_function(force)
        made = self.train_function

        def twice(iterator):
            made(iterator)
            return made(iterator)

        self.train_function = twice


class SameTrainFunction(keras.Model):
    """Overrides it, and makes Keras' own."""

    def make_train_function(self, force=False):
        self.made = True
        return super().make_train_function(force)


def of(kind):
    """Returns a compiled model of a class."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((small.INPUTS,))
    outputs = keras.layers.Dense(small.CLASSES)(inputs)
    return small.compile_model(kind(inputs, outputs))


def given_by_hand():
    """Returns a model that was given a train function."""
    model = of(keras.Model)
    model.train_function = lambda iterator: {"loss": 0.0}
    return model


# Of every callback that Keras ships.
CALLBACKS = {
    "BackupAndRestore": "refused",
    "CSVLogger": "on the chief",
    "EarlyStopping": "works",
    "History": "works",
    "LambdaCallback": "works",
    "LearningRateScheduler": "works",
    "ModelCheckpoint": "on the chief",
    "OrbaxCheckpoint": "on the chief",
    "ProgbarLogger": "on the chief",
    "ReduceLROnPlateau": "works",
    "RemoteMonitor": "on the chief",
    "SwapEMAWeights": "refused",
    "TensorBoard": "on the chief",
    "TerminateOnNaN": "works",
}
