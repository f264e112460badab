"""The checkpoints of a fit: what it leaves, and what it goes on from."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from fda_tf.keras_fit import callback_list, callback_state, specs, sync_table
from fda_tf.keras_fit.making import Made
from fda_tf.keras_fit.progress import ENDLESS, Progress
from fda_tf.keras_fit.record import Record
from fda_tf.saving import saved
from fda_tf.saving.checkpoint import Checkpoint
from fda_tf.saving.preemption import Preemption
from fda_tf.trainer import Trainer

SYNCS = slice(1, 4)  # where the synchronisations are, in a part's history


class Resuming:
    """Saves a fit's state, and puts it back into the next one.

    Without a checkpoint, there is nothing to save and nothing is found.

    Args:
      checkpoint: the callback's, or None.
      replicas: the processes of the job.
      progress: of the fit.
      record: of the fit.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        replicas: Any,
        progress: Progress,
        record: Record,
    ):
        self.checkpoint, self._replicas = checkpoint, replicas
        self._progress, self._record = progress, record
        self._preemption = Preemption(self._call_meeting)
        self._trainer: Trainer | None = None
        self._stopped = False
        self._saved_at: int | None = None  # the step of the last checkpoint
        self.found: saved.Saved | None = None  # not gone on from yet
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

    def end(self, made: Made) -> None:
        """Saves, and ends the process: a worker has got SIGTERM."""
        self.save(made)
        step = int(made.trainer.loop.step)
        self._preemption.end(step, self._saved_at, self._replicas.is_chief)

    def _call_meeting(self) -> None:
        if self._trainer is not None:
            self._trainer.home.call_meeting()

    # Going on.

    def find(self) -> None:
        """Looks for what to go on from; all workers must."""
        if self.checkpoint:
            self.found = saved.newest(self.checkpoint, self._replicas)
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
            callback_state.give_back(
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
        if self._replicas.is_chief:
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
            self._record.syncs[:] = sync_table.from_arrays(history[SYNCS])
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
        epochs = callback_list.epoch_iterator()
        if epochs is None or not epochs.steps_per_epoch:
            return 0  # there is a new one for each epoch
        if before and now and before != now:  # of another number of workers
            drawn = drawn // before * now
            drawn %= epochs.data_adapter.num_batches or drawn + 1
        epochs._steps_seen += drawn
        return drawn

    # Saving.

    def to_next(self, step: int) -> int:
        """Returns the steps until the next checkpoint within an epoch."""
        every = self.checkpoint and self.checkpoint.every
        return every - step % every if every else ENDLESS

    def is_due(self, step: int, epochs_end: bool = False) -> bool:
        """Returns whether a checkpoint is to be written after this step."""
        if self.checkpoint is None:
            return False
        every = self.checkpoint.every
        return step % every == 0 if every else epochs_end

    def stop(self, stopped: bool) -> None:
        """Says whether training was stopped, and is not to go on."""
        self._stopped = stopped

    def save(self, made: Made, error: Exception | None = None) -> None:
        """Writes a checkpoint; all workers must.

        Args:
          made: what trains.
          error: that has ended the training here: then none is written.
        """
        memory, arrays = callback_state.collect(self.callbacks)
        syncs = sync_table.to_arrays(self._record.syncs)
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
        epochs, progress = callback_list.epoch_iterator(), self._progress
        if epochs is None or not epochs.steps_per_epoch:
            return 0
        if epochs._current_iterator is None:
            return 0  # they were all
        this_epoch = progress.executions * progress.at_once
        return epochs._steps_seen - (this_epoch if progress.begun else 0)
