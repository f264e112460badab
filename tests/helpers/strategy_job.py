"""A worker that makes a strategy of its own, and its model in its scope."""


def main():
    """Ends at the strategy; Keras' fit would say nothing of use."""
    import keras
    import numpy as np
    import tensorflow as tf

    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    x = np.ones((8, 2), np.float32)
    fda_tf.train(model, (x, x[:, :1]), steps=2, process_group=process_group)


if __name__ == "__main__":
    main()
