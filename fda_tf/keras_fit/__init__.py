"""The loop inside `model.fit`: what `fda_tf.FDA` puts in Keras' place."""
