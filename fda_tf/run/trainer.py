"""Federated Dynamic Averaging for a training loop of one's own."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fda_tf.algorithm import algorithm as algorithms
from fda_tf.algorithm.algorithm import Algorithm
from fda_tf.algorithm.policies import Policy
from fda_tf.checkpoint import latest
from fda_tf.checkpoint.directory import Checkpoint
from fda_tf.checkpoint.run_state import State
from fda_tf.core.loop import Loop
from fda_tf.data import specs
from fda_tf.processes import agreement
from fda_tf.processes.process_group import ProcessGroup, current_process_group
from fda_tf.workers import description
from fda_tf.workers.distributed import Cluster
from fda_tf.workers.local_model import Worker


class Trainer:
    """This process's worker, for a loop of one's own; `fit` is made of it.

    Every worker makes one and calls the same methods in the same order: all
    of them may wait for the other workers. Alone it trains as K = 1.

    Averaged are the variables that the model's `train_step` updates. Others
    of the model that your loop moves are averaged by `averaged` and `finish`,
    where they differ between workers.

    Args:
      model: compiled, and made outside any `strategy.scope()`.
      example: a batch, as the model's `train_step` takes it, or the
        `tf.TypeSpec`s of all batches.
      algorithm: a `fda_tf.Algorithm`, or a policy, which stands for the
        algorithm with this policy and defaults for all else; by default
        `VarianceThreshold(theta=1.5)`.
      steps_per_epoch: for a policy that counts in epochs.
      process_group: what `fda_tf.connect()` returned.
      worker: the `worker` of another trainer of this model, as compiled now,
        and of such batches: then the model's step is not traced again.
      **settings: more that must be the same on all workers.

    Raises:
      ValueError: on every worker, for models or settings that cannot work
        together.

    Example:
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
      >>> model.compile("sgd", "mse")
      >>> batch = (np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))
      >>> trainer = Trainer(model, batch)
      >>> for _ in range(3):
      ...     logs = trainer.step(batch)
      >>> with trainer.averaged():
      ...     loss = model.evaluate(*batch, verbose=0)
      >>> trainer.finish()
      >>> trainer.counters()["step"]
      3
    """

    def __init__(
        self,
        model: keras.Model,
        example: Any,
        algorithm: Algorithm | Policy | None = None,
        *,
        steps_per_epoch: int | None = None,
        process_group: ProcessGroup | None = None,
        worker: Worker | None = None,
        **settings: Any,
    ):
        process_group = (
            current_process_group() if process_group is None else process_group
        )
        self.model, self.process_group = model, process_group
        epoch = None if steps_per_epoch is None else Fraction(steps_per_epoch)
        with process_group.lost_worker_in_words():
            try:
                self.algorithm = algorithms.get(algorithm)
                spec = tf.nest.map_structure(_spec, example)
                self.worker = worker or Worker(model, spec)
                described = description.describe(
                    self.worker,
                    self.algorithm,
                    steps_per_epoch=steps_per_epoch,
                    run_eagerly=self.worker.eager,
                    **settings,
                )
            except Exception as error:  # the other workers must hear of it
                agreement.tell(process_group, error)
                raise
            agreement.agree_on(process_group, described)
            self.workers = Cluster(self.worker, None, process_group)
        self.loop = Loop(self.workers, self.algorithm, epoch)
        self._state = State(self.loop, self._variables())
        self._step = self.worker.compile(self._one_step, reduce_retracing=True)
        self._after_step = tf.function(self.loop.after_step, autograph=False)

    def step(self, batch: Any) -> Any:
        """Runs the model's `train_step` and what follows; returns its logs.

        Raises:
          FloatingPointError: when a worker's drift is not finite.
        """
        with self.process_group.lost_worker_in_words():
            logs, finite = self.loop.call(self._step, batch)
            self._refuse_bad_drift(finite)
        return logs

    def after_step(self) -> bool:
        """Checks, and synchronises if need be, after a local step of yours.

        Returns:
          Whether there was a synchronisation.

        Raises:
          ValueError: for a policy that needs the training loss, `AdaComm`,
            which only `step` knows.
          FloatingPointError: when a worker's drift is not finite.
        """
        if self.loop.sync.needs_loss:
            raise ValueError(
                f"after_step() with {self.loop.sync}, which needs the "
                "training loss, and a step of yours does not tell it. Call "
                "Trainer.step(batch), or take another policy."
            )
        with self.process_group.lost_worker_in_words():
            _, cause, finite = self.loop.call(self._after_step)
            self._refuse_bad_drift(finite)
        return bool(cause > 0)

    def agree(self, stop: bool) -> bool:
        """Returns whether any worker wants to stop."""
        with self.process_group.lost_worker_in_words():
            return self.workers.agree(stop)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[keras.Model]:
        """Lends the model the average of all workers' models, until it ends.

        What is done to the model meanwhile is undone then.
        """
        with self.process_group.lost_worker_in_words():
            self.loop.average_frozen()
            average = self.loop.averaged()
        with self.worker.left_as_it_is():
            self.worker.assign(average)
            yield self.model

    def averaged_weights(self) -> list[np.ndarray]:
        """Returns the average as `model.set_weights` takes it."""
        with self.averaged() as model:
            return model.get_weights()

    def finish(self) -> None:
        """Ends training: the model holds the final average on all workers."""
        with self.process_group.lost_worker_in_words():
            self.loop.finish()
            self.worker.assign(self.loop.averaged())

    def counters(self) -> dict[str, float]:
        """Returns what has been done and sent, in all, until now."""
        return self.loop.counters()

    def save(
        self,
        checkpoint: Checkpoint,
        history: Any = (),
        error: Exception | None = None,
        **facts: Any,
    ) -> bool:
        """Writes a checkpoint; returns whether every worker could.

        Args:
          checkpoint: where to.
          history: arrays to keep, too.
          error: that has ended the training here: then none is written.
          **facts: what else to keep, as JSON can hold it.
        """
        with self.process_group.lost_worker_in_words():
            return self._state.save(checkpoint, facts, history, error)

    def resume(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Goes on from the newest checkpoint of all workers; call it first.

        When that was of another number of workers, all begin a new round from
        the average of its models.

        Returns:
          What was given to `save`, by name; None if there is none.

        Raises:
          ValueError: on every worker, when it is of another model, of other
            settings, or damaged, or when the directory cannot be written.
        """
        with self.process_group.lost_worker_in_words():
            found = self._state.restore_latest(checkpoint)
        if found is None:
            return None
        facts = {k: v for k, v in found.facts.items() if k != latest.OURS}
        return facts | {"history": found.history()}

    def begin_as(self, fresh: "Trainer") -> None:
        """Begins the run that another trainer is about to begin, in its place.

        Args:
          fresh: of the same worker and settings, and just made.
        """
        self._state.take(fresh._state)
        self.loop.restart()
        self.workers.lower_stop_flag()

    def restore(self, found: latest.SavedPart) -> None:
        """Puts a checkpoint in place; says so when it was of another K."""
        self._state.restore_part(found)

    def _variables(self) -> dict[str, list[tf.Variable]]:
        """Returns all that a checkpoint holds, by what it is."""
        metrics = [v for g in self.worker.metrics for v in g.variables]
        return (
            self.workers.variables()
            | self.loop.variables()
            | {"metrics": metrics}
        )

    def _one_step(self, batch):
        batch = tf.nest.map_structure(_tensor, batch, expand_composites=True)
        logs = self.worker.step(batch)
        _, _, finite = self.loop.after_step()
        return logs, finite

    def _refuse_bad_drift(self, finite) -> None:
        if not bool(finite):
            self.loop.raise_bad_drift()


def _tensor(leaf: Any) -> tf.Tensor | None:
    """Returns an array as a tensor, which a step that runs eagerly expects."""
    return leaf if leaf is None else tf.convert_to_tensor(leaf)


def _spec(leaf: Any) -> tf.TypeSpec | None:
    """Returns a spec as it is; of a tensor, that of batches of any size."""
    return leaf if isinstance(leaf, tf.TypeSpec) else specs.of_any_size(leaf)
