"""A small student learns from a teacher, which nobody has frozen."""

import keras
import tensorflow as tf

import fda_tf
from experiments.scripts import common

layers = keras.layers


class Distiller(keras.Model):
    """A student whose targets are the labels and the teacher's answers."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher

    def compile(self, optimizer, metrics, student_loss, distillation_loss):
        super().compile(optimizer=optimizer, metrics=metrics)
        self.student_loss = student_loss
        self.distillation_loss = distillation_loss
        self.alpha, self.temperature = 0.1, 5.0

    def train_step(self, data):
        x, y = data
        teacher = self.teacher(x, training=False)
        with tf.GradientTape() as tape:
            student = self.student(x, training=True)
            student_loss = self.student_loss(y, student)
            distillation_loss = self.distillation_loss(
                tf.nn.softmax(teacher / self.temperature, axis=1),
                tf.nn.softmax(student / self.temperature, axis=1),
            )
            loss = self.alpha * student_loss
            loss += (1 - self.alpha) * self.temperature**2 * distillation_loss
        weights = self.student.trainable_variables
        grads = tape.gradient(loss, weights)
        self.optimizer.apply(grads, weights)
        self.update_metrics(y, student)
        return {m.name: m.result() for m in self.metrics} | {
            "student_loss": student_loss,
            "distillation_loss": distillation_loss,
        }

    def test_step(self, data):
        x, y = data
        student = self.student(x, training=False)
        self.update_metrics(y, student)
        return {m.name: m.result() for m in self.metrics}

    def update_metrics(self, y, student):
        """Updates what compile() was given."""
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(self.student_loss(y, student))
            else:
                metric.update_state(y, student)


def network(width, name):
    """Returns a small convolutional network."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(width, 3, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Conv2D(2 * width, 3, strides=2, padding="same"),
            layers.Flatten(),
            layers.Dense(10),
        ],
        name=name,
    )


def build_teacher():
    """Returns the compiled teacher."""
    teacher = network(16, "teacher")
    teacher.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["sparse_categorical_accuracy"],
    )
    return teacher


def build(teacher):
    """Returns the compiled distiller of a teacher that is trained."""
    distiller = Distiller(network(4, "student"), teacher)
    distiller.compile(
        keras.optimizers.Adam(1e-3),
        [keras.metrics.SparseCategoricalAccuracy()],
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.KLDivergence(),
    )
    return distiller


if __name__ == "__main__":
    process_group = fda_tf.connect()
    keras.utils.set_random_seed(0)
    (x, y), test = common.digits()

    fda = fda_tf.FDA(theta="auto")
    data = fda_tf.shard((x, y), batch_size=40 // process_group.count)
    teacher = build_teacher()
    teacher.fit(data, epochs=4, callbacks=[fda])

    data = fda_tf.shard((x, y), batch_size=40 // process_group.count, seed=1)
    model = build(teacher)
    history = model.fit(data, epochs=8, validation_data=test, callbacks=[fda])

    logits = model.student.predict(test[0], verbose=0)
    score = float((logits.argmax(1) == test[1]).mean())
    print("the student's test accuracy:", score)
