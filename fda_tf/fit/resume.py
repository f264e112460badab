"""The checkpoints of a fit: what it leaves, and what it goes on from."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from absl import logging

from fda_tf import keras_internals
from fda_tf.checkpoint import latest
from fda_tf.checkpoint.directory import Checkpoint
from fda_tf.data import specs
from fda_tf.fit import keras_hooks
from fda_tf.fit.compiled_steps import CompiledRun
from fda_tf.fit.logs import Record
from fda_tf.fit.progress import ENDLESS, Progress
from fda_tf.processes.preemption import Preemption
from fda_tf.run.trainer import Trainer

KEPT = {
    keras.callbacks.EarlyStopping: (
        "wait", "stopped_epoch", "best", "best_epoch",
    ),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: ("best",),
}  # fmt: skip


def collect(
    callbacks: Sequence[Any],
) -> tuple[dict[str, dict[str, Any]], list[np.ndarray]]:
    """Returns what callbacks remember: facts for JSON, and arrays.

    Example:
      >>> early = keras.callbacks.EarlyStopping(restore_best_weights=True)
      >>> early.wait, early.best = 2, np.float32(0.5)
      >>> early.best_weights = [np.ones(3)]
      >>> facts, arrays = collect([early])
      >>> facts["EarlyStopping 0"]["wait"], len(arrays)
      (2, 1)
      >>> fresh = keras.callbacks.EarlyStopping()
      >>> restore_callbacks_state([fresh], facts, arrays)
      >>> fresh.wait, fresh.best, fresh.best_weights
      (2, 0.5, [array([1., 1., 1.])])
    """
    facts, arrays = {}, []
    for name, callback, attributes in _known(callbacks):
        facts[name] = {
            attribute: _number(getattr(callback, attribute, None))
            for attribute in attributes
        }
        best = getattr(callback, "best_weights", None)
        if best is not None:
            facts[name]["best_weights"] = [len(arrays), len(best)]
            arrays += map(np.asarray, best)
    return facts, arrays


def restore_callbacks_state(
    callbacks: Sequence[Any],
    facts: dict[str, dict[str, Any]],
    arrays: Sequence[np.ndarray],
) -> None:
    """Gives back what `collect` returned to callbacks of the same types."""
    for name, callback, attributes in _known(callbacks):
        kept = facts.get(name, {})
        for attribute in attributes:
            if attribute in kept:
                setattr(callback, attribute, kept[attribute])
        if "best_weights" in kept:
            first, count = kept["best_weights"]
            callback.best_weights = list(arrays[first : first + count])


def _known(callbacks: Sequence[Any]):
    """Yields (name, callback, attributes) of those whose memory is known."""
    seen: dict[type, int] = {}
    for callback in callbacks:
        for kind, attributes in KEPT.items():
            if isinstance(callback, kind):
                number = seen[kind] = seen.get(kind, -1) + 1
                yield f"{kind.__name__} {number}", callback, attributes


def _number(value: Any) -> Any:
    """Returns a plain number for one of NumPy's or a tensor; None for None."""
    return None if value is None else np.asarray(value).item()


SYNCS = slice(1, 4)  # where the synchronisations are, in a part's history


class FitCheckpoints:
    """Saves a fit's state, and puts it back into the next one.

    Without a checkpoint, there is nothing to save and nothing is found.

    Args:
      checkpoint: the callback's, or None.
      process_group: the processes of the job.
      progress: of the fit.
      record: of the fit.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        process_group: Any,
        progress: Progress,
        record: Record,
    ):
        self.checkpoint, self._process_group = checkpoint, process_group
        self._progress, self._record = progress, record
        self._preemption = Preemption(self._call_meeting)
        self._trainer: Trainer | None = None
        self._stopped = False
        self._saved_at: int | None = None  # the step of the last checkpoint
        self.found: latest.SavedPart | None = None  # not gone on from yet
        self.callbacks: Sequence[Any] = ()  # whose memory is kept

    def watch(self) -> contextlib.AbstractContextManager:
        """Makes the context in which SIGTERM only is remembered."""
        if self.checkpoint is None:
            return contextlib.nullcontext()
        self.checkpoint.prepare()
        return self._preemption.watch()

    @property
    def preempted(self) -> bool:
        """Whether this worker has got SIGTERM."""
        return self._preemption.came

    def end(self, made: CompiledRun) -> None:
        """Saves, and ends the process: a worker has got SIGTERM."""
        self.save(made)
        step = int(made.trainer.loop.step)
        self._preemption.end(step, self._saved_at, self._process_group.is_chief)

    def _call_meeting(self) -> None:
        if self._trainer is not None:
            self._trainer.workers.raise_stop_flag()

    # Going on.

    def find(self) -> None:
        """Looks for what to go on from; all workers must."""
        if self.checkpoint:
            self.found = latest.newest(self.checkpoint, self._process_group)
            self._saved_at = self.found and self.found.step

    def first_epoch(self, epochs: int) -> int:
        """Returns the epoch that Keras is to begin with; 0 for its own."""
        if not self.found:
            return 0
        facts = self.found.facts
        self._stopped = facts["stopped"]
        return min(epochs if self._stopped else facts["epoch"], epochs)

    def restore_callbacks(self) -> None:
        """Gives the other callbacks back what they knew."""
        if self.found:
            restore_callbacks_state(
                self.callbacks,
                self.found.facts["callbacks"],
                self.found.history()[SYNCS.stop :],
            )

    def spec(self) -> Any:
        """Returns the specs of the batches, as they were."""
        return specs.from_json(self.found.facts["spec"])

    def say_that_all_is_done(self) -> None:
        """Says, on the chief, that this fit has no step left to do."""
        how, mend = "has ended already", "Give more epochs, or"
        if self._stopped:
            how = "was stopped early, such as by EarlyStopping"
            mend = "More epochs change nothing: to train on from it, give"
        if self._process_group.is_chief:
            logging.warning(
                "The run in %s %s, at step %d: the model is as it was then, "
                "and no step is done. %s another directory.",
                self.checkpoint.directory,
                how,
                self.found.step,
                mend,
            )

    def restore(self, trainer: Trainer) -> None:
        """Puts the model and the record back."""
        self._trainer = trainer
        if self.found:
            history = self.found.history()
            self._record.variance[:] = history[0].tolist()
            self._record.syncs.restore(history[SYNCS])
            trainer.restore(self.found)

    def go_to_step(self, iterator: Any) -> Any:
        """Goes to the step of the epoch at which the checkpoint was.

        Returns:
          What to draw the rest of the epoch's batches from.
        """
        facts, self.found = self.found.facts, None
        progress, before = self._progress, facts["steps"]
        progress.done, progress.start = facts["done"], facts["start"]
        progress.taken = facts["taken"]
        now = progress.steps
        if before and now and before != now:  # of another number of workers
            progress.done = progress.done * now // before
            progress.start = progress.start // before * now
        progress.resumed_at = progress.done
        progress.over = facts["over"] or not progress.to_end()
        drawn = self._let_keras_count(facts["drawn"], before, now)
        shard = getattr(iterator, "shard", None)
        if shard is not None:
            shard.position = progress.start + progress.done
            return iter(shard)
        for _ in range(drawn + progress.done):
            iterator.get_next_as_optional()
        return iterator

    def _let_keras_count(
        self, drawn: int, before: int | None, now: int | None
    ) -> int:
        """Lets Keras know what earlier epochs drew of its iterator.

        It makes a new one when all batches are drawn, not at each epoch's
        beginning, if `steps_per_epoch` is less than all.

        Args:
          drawn: how many batches, of the run that was saved.
          before: its steps of an epoch.
          now: ours.

        Returns:
          How many batches, of ours.
        """
        epochs = keras_hooks.epoch_iterator()
        if epochs is None or not epochs.steps_per_epoch:
            return 0  # there is a new one for each epoch
        if before and now and before != now:  # of another number of workers
            drawn = drawn // before * now
            drawn %= epochs.data_adapter.num_batches or drawn + 1
        keras_internals.count_drawn(epochs, drawn)
        return drawn

    # Saving.

    def to_next(self, step: int) -> int:
        """Returns the steps until the next checkpoint within an epoch."""
        checkpoint = self.checkpoint
        return (checkpoint and checkpoint.steps_to_next(step)) or ENDLESS

    def is_due(self, step: int, epochs_end: bool = False) -> bool:
        """Returns whether a checkpoint is to be written after this step."""
        checkpoint = self.checkpoint
        return checkpoint is not None and checkpoint.is_due(step, epochs_end)

    def stop(self, stopped: bool) -> None:
        """Says whether training was stopped, and is not to go on."""
        self._stopped = stopped

    def save(self, made: CompiledRun, error: Exception | None = None) -> None:
        """Writes a checkpoint; all workers must.

        Args:
          made: what trains.
          error: that has ended the training here: then none is written.
        """
        memory, arrays = collect(self.callbacks)
        syncs = self._record.syncs.to_arrays()
        progress = self._progress
        all_have = made.trainer.save(
            self.checkpoint,
            history=[np.float32(self._record.variance), *syncs, *arrays],
            error=error,
            callbacks=memory,
            epoch=progress.epoch,
            done=progress.done,
            over=progress.over,
            steps=progress.steps,
            start=progress.start,
            taken=progress.taken,
            drawn=self._drawn_before(),
            stopped=self._stopped,
            spec=specs.to_json(made.spec),
        )
        if all_have:
            self._saved_at = int(made.trainer.loop.step)

    def _drawn_before(self) -> int:
        """Returns how many batches of Keras' iterator earlier epochs drew."""
        epochs, progress = keras_hooks.epoch_iterator(), self._progress
        if epochs is None or not epochs.steps_per_epoch:
            return 0
        this_epoch = progress.executions * progress.at_once
        drawn = keras_internals.drawn(epochs)
        return max(0, drawn - (this_epoch if progress.begun else 0))
