"""Columns of numbers and strings, by keras.utils.FeatureSpace."""

import keras
import tensorflow as tf

import fda_tf
from experiments.scripts import common


def adapt(columns):
    """Returns the feature space of all workers' data."""
    space = keras.utils.FeatureSpace(
        features={
            "age": keras.utils.FeatureSpace.float_discretized(num_bins=8),
            "hours": keras.utils.FeatureSpace.float_normalized(),
            "city": keras.utils.FeatureSpace.string_categorical(
                num_oov_indices=0
            ),
            "work": keras.utils.FeatureSpace.string_categorical(
                num_oov_indices=0
            ),
        },
        crosses=[("city", "work")],
        crossing_dim=8,
        output_mode="concat",
    )
    space.adapt(tf.data.Dataset.from_tensor_slices(columns).batch(64))
    return space


def build(space):
    """Returns the compiled model of encoded features."""
    encoded = space.get_encoded_features()
    x = keras.layers.Dense(16, activation="relu")(encoded)
    x = keras.layers.Dropout(0.3)(x)
    model = keras.Model(encoded, keras.layers.Dense(1, "sigmoid")(x))
    model.compile(
        keras.optimizers.Adam(2e-3), "binary_crossentropy", metrics=["accuracy"]
    )
    return model


if __name__ == "__main__":
    process_group = fda_tf.connect()
    keras.utils.set_random_seed(0)
    columns, bought = common.people(4000, seed=0)
    test = common.people(2000, seed=1)

    space = adapt(columns)
    model = build(space)
    fda = fda_tf.FDA(theta="auto")
    data = fda_tf.shard((columns, bought), batch_size=40 // process_group.count)
    validation = tf.data.Dataset.from_tensor_slices(test).batch(100)
    history = model.fit(
        data.map(lambda x, y: (space(x), y)),
        epochs=10,
        validation_data=validation.map(lambda x, y: (space(x), y)),
        callbacks=[fda],
    )

    will_buy = model.predict(space(test[0]), verbose=0)[:, 0] > 0.5
    score = float((will_buy == test[1]).mean())
    print("test accuracy:", score)
