"""What happens around and inside one call of `model.fit`.

Keras calls `model.train_function` for each execution; while `fit` runs, ours
is in its place: the same loop as everywhere, over the batches of Keras' own
iterator. What the workers have to agree on besides (how long an epoch is, an
end, an error) they settle at barriers, where all of them come. Who needs
one within an epoch says so by the float that rides on each exchange, and goes
on with its model as it is, without data, until all have heard.

    fit begins     begin, all_have_begun
    an epoch       begin_epoch, execute for each execution
    its end        result, evaluate and result again, after_epoch
    fit ends       before_end, after_training
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fda_tf.data import specs
from fda_tf.fit import keras_hooks
from fda_tf.fit import logs as log_reduction
from fda_tf.fit.compiled_steps import CompiledRun, make, take_chiefs
from fda_tf.fit.epoch import Steps, no_batch
from fda_tf.fit.keras_hooks import KerasHooks
from fda_tf.fit.logs import Record
from fda_tf.fit.metrics import Share
from fda_tf.fit.progress import Progress
from fda_tf.fit.resume import FitCheckpoints
from fda_tf.fit.setup_warnings import arrays_digest, warn_if_whole
from fda_tf.fit.validation import Validation
from fda_tf.processes.agreement import Barrier, text
from fda_tf.processes.error_messages import GONE, known
from fda_tf.processes.preemption import Preempted
from fda_tf.run.average_swap import AverageSwap
from fda_tf.workers.model_requirements import check_model


class Fit:
    """One call of `model.fit` on this worker.

    Args:
      callback: the `Averaging` whose settings count.

    Attributes:
      in_callback: whether another callback is being called.
      validation: how this fit evaluates.
    """

    def __init__(self, callback: Any):
        self.callback, self.model = callback, callback.model
        self.process_group = callback.process_group
        self.in_callback = False
        self._barrier = Barrier(self.process_group)
        self.validation = Validation(callback.validation, self._barrier)
        self._progress = Progress()
        self._record = Record(callback)
        self._checkpoints = FitCheckpoints(
            callback.checkpoint,
            self.process_group,
            self._progress,
            self._record,
        )
        self._keras: KerasHooks | None = None
        # Made when the form of the data is known, before the first step.
        self._made: CompiledRun | None = None
        self._steps: Steps | None = None
        self._swap: AverageSwap | None = None
        self._asked = 0  # executions of this epoch that Keras asked for
        self._logs: dict[str, str] = {}  # of the epoch

    # fit begins.

    def begin(self) -> None:
        """Takes the place of Keras' train function, when all can start."""
        progress = self._progress
        with self.telling():
            check_model(self.model)
            self._keras = KerasHooks(self)
            self._keras.refuse_own_loop()
            self._keras.until_the_end(self._checkpoints.watch())
            self._checkpoints.callbacks = self._keras.callbacks
            board = self._keras.find(keras.callbacks.TensorBoard)
            self._record.open(board)
            params = self.callback.params
            epochs, steps = int(params["epochs"]), params["steps"]
            progress.at_once = int(self.model.steps_per_execution)
            steps, batches = keras_hooks.epoch_length(steps, progress.at_once)
            checkpoint = self._checkpoints.checkpoint
            everyone = self._barrier.gather_equal(
                "the start",
                {
                    "epochs": epochs,
                    "steps_per_execution": progress.at_once,
                    "checkpoint": checkpoint and [checkpoint.every],
                    "validation": self.callback.validation,
                },
                steps=steps,
                batches=batches,
                ends_on_nan=self._keras.ends_on_nan(),
            )
            progress.ends_on_nan = any(n["ends_on_nan"] for n in everyone)
            progress.steps = self._least(everyone)
            known = [news["batches"] for news in everyone if news["batches"]]
            progress.batches = min(known, default=None)
            self._checkpoints.find()
            self._keras.begin_at(self._checkpoints.first_epoch(epochs))
            shown = self.process_group.is_chief and params.get("verbose")
            if shown and self.process_group.count > 1:
                self._record.announce(self.process_group.count)

    def all_have_begun(self) -> None:
        """Gives the other callbacks back what they knew."""
        with self.telling():
            self._checkpoints.restore_callbacks()

    def leave(self) -> None:
        """Gives back to Keras all that is Keras'; again, does nothing."""
        if self._keras:
            self._keras.restore()
        self._keras = None
        self._record.close()
        self.callback.fit_ended(self)

    def _least(self, everyone: list[dict]) -> int | None:
        """Returns the steps of the shortest epoch; None if not all know."""
        steps = [news["steps"] for news in everyone]
        if 0 in steps:
            self._barrier.settled = True
            raise known(no_batch(steps.index(0), 0), steps.index(0))
        return None if None in steps else min(steps)

    def _build(self, spec: Any) -> None:
        """Makes what to train with, or takes that of the fit before."""
        spec = specs.without_optionals(spec)
        everyone = self._barrier.gather("the first step", form=str(spec))
        if any(news["form"] != everyone[0]["form"] for news in everyone):
            # Keras weighs by the size of batches where it is known: on all.
            spec = specs.of_any_size(spec)
        made = make(
            self.callback,
            self._keras.train_function,
            spec,
            self._progress.steps,
            self._barrier,
        )
        self._checkpoints.restore(made.trainer)
        self._record.begin(made.trainer)
        own = arrays_digest(self.process_group)
        everyone = self._barrier.gather("the first step", data=own)
        warn_if_whole(self.process_group, [news["data"] for news in everyone])
        self._made, self._swap = made, AverageSwap(made.trainer)
        self._steps = Steps(
            self.model,
            made,
            self._barrier,
            self._progress,
            self._record,
            self._checkpoints,
        )

    # An epoch.

    def begin_epoch(self, epoch: int) -> None:
        """Begins an epoch, before Keras makes its iterator."""
        self._progress.begin_epoch(epoch)
        self._asked = 0
        if self._swap is not None:
            self._swap.begin_epoch()

    def epoch_has_begun(self) -> None:
        """Makes all anew from the average, if callbacks compiled the model."""
        with self.telling():
            self._barrier.gather_equal(
                f"the start of epoch {self._progress.epoch + 1}",
                {"whether a callback compiled it anew": self._keras.compiled},
            )
            if not self._keras.compiled:
                return
            self._keras.compiled = False
            if self._made is not None:
                self._finish()
            self._made = self._steps = self._swap = None

    @property
    def within_epoch(self) -> bool:
        """Whether an epoch's steps have begun, and its end is not settled."""
        return self._asked > 0

    def execute(self, iterator: Any) -> Any:
        """Does one execution: up to `steps_per_execution` steps; for Keras."""
        if not isinstance(iterator, tf.data.Iterator):  # train_on_batch
            return self._keras.train_function(iterator)
        with self.telling():
            if self._made is None:  # only now is the form of the data known
                self._build(iterator.element_spec)
            if not self._asked:
                self._steps.begin_epoch(iterator)
            self._asked += 1
            done = self._steps.execute()
        if not done:
            self._keras.do_not_warn()
            raise StopIteration
        return {**self._steps.logs, **self._record.logs()}

    # An epoch's end.

    def result(self, logs: Any) -> Any:
        """Takes the place of Keras' own step from metrics to logs."""
        if self.in_callback:  # it evaluates something by itself
            return self._keras.logs(logs)
        with self.telling():
            if not self.validation.running:
                return self._end_epoch()
            self.validation.end()
            return self._reduce(logs, *self.validation.counting)

    def _end_epoch(self) -> dict:
        """Returns the logs of the epoch; the model then holds the average."""
        progress, trainer = self._progress, self._made.trainer
        if not progress.over:  # a callback here has stopped the training
            self._steps.idle()
        everyone = self._barrier.gather(
            f"the end of epoch {progress.epoch + 1}",
            steps=self._keras_steps(),
            data=self._steps.first_batch,
        )
        warn_if_whole(self.process_group, [news["data"] for news in everyone])
        trainer.workers.lower_stop_flag()
        if progress.steps is None:
            progress.bound = min(news["steps"] for news in everyone)
            self._steps.keep_max_interval()
        self.average_frozen()
        extra = self._record.logs()
        # There are none if the epoch was over when a checkpoint was written.
        unknown = tf.nest.map_structure(lambda _: np.nan, trainer.worker.logs)
        share = Share(True, *self._made.samples.numpy().tolist())
        logs = self._reduce(self._steps.logs or unknown, share)
        if not self._swap.place():
            self._steps.end_diverged()
        self._asked = 0
        return {**logs, **extra}

    def average_frozen(self) -> None:
        """Averages what callbacks have moved apart of what no step changes."""
        if self._made is not None and self._made.trainer.loop.average_frozen():
            self._record.synchronised("callback")

    def _keras_steps(self) -> int:
        """Returns the steps of an epoch, as Keras here now knows them."""
        known = self.callback.params["steps"]
        return int(known or self._asked * self._progress.at_once)

    def _reduce(
        self, logs: Any, share: Share, origins: list | None = None
    ) -> Any:
        """Returns the logs of all workers together, equal on all of them."""
        if self.process_group.count == 1:
            return self._keras.logs(logs)
        metrics = self._made.metrics
        metrics.reduce(share)
        result = self._keras.logs(logs)
        if result is not logs:  # all are of metrics
            return result
        origins = metrics.training.origins if origins is None else origins
        return log_reduction.reduce(
            logs, origins, metrics, share, self.process_group
        )

    def evaluate(self, *args: Any, **data: Any) -> Any:
        """Takes the place of `model.evaluate`, by which fit validates."""
        if self.in_callback:  # it evaluates something by itself
            return self._keras.evaluate(*args, **data)
        epoch = self._progress.epoch + 1
        validating = self.validation.of(
            self.model, self._made.metrics, epoch, data
        )
        with self.telling(), validating as own, self._swap.validated():
            return self._keras.evaluate(*args, **own)

    def see_logs(self, logs: dict[str, Any]) -> None:
        """Keeps an epoch's logs as Keras has them, to compare."""
        self._logs = {f"the log {n!r}": text(v) for n, v in logs.items()}

    def after_epoch(self, epoch: int) -> None:
        """Settles how to go on, when all callbacks have had their turn."""
        with self.telling():
            everyone = self._barrier.gather_equal(
                f"what follows epoch {epoch + 1}",
                self._logs,
                stop=bool(self.model.stop_training),
                preempted=self._checkpoints.preempted,
                changed=self._changed(),
            )
            stopped = any(news["stop"] for news in everyone)
            preempted = any(news["preempted"] for news in everyone)
            self.model.stop_training = stopped
            self._checkpoints.stop(stopped)
            self._progress.end_epoch()
            if any(news["changed"] for news in everyone):
                self._begin_round()
            last = stopped or epoch + 1 >= self.callback.params["epochs"]
            step = int(self._made.trainer.loop.step)
            due = self._checkpoints.is_due(step, epochs_end=True) and not last
            if preempted or due:
                save = (
                    self._checkpoints.end
                    if preempted
                    else self._checkpoints.save
                )
                with self._swap.own_restored():
                    save(self._made)

    # fit ends.

    def before_end(self) -> None:
        """Saves, before others change the model for the end; again, for all.

        So what is kept is a run that more epochs may follow, and not the best
        weights that EarlyStopping restores.
        """
        checkpoints = self._checkpoints
        if checkpoints.checkpoint is None:
            return
        with self.telling():
            if self._progress.diverged:
                return  # what was saved before is of use
            if not checkpoints.found:
                with self._swap.own_restored():
                    checkpoints.save(self._made)
            elif self._made is None:  # nothing was left to do
                checkpoints.say_that_all_is_done()
                self._build(checkpoints.spec())
                self._swap.place()

    def after_training(self) -> None:
        """Ends with a synchronisation, after all others' last changes."""
        with self.telling():
            # Such as the best weights, which EarlyStopping has restored.
            everyone = self._barrier.gather("the end", changed=self._changed())
            if any(news["changed"] for news in everyone):
                self._begin_round()
            if self._made is not None and not self._progress.diverged:
                self._finish()
        self.leave()

    def _changed(self) -> bool:
        """Returns whether a callback has put something into the model."""
        if self._swap is None or self._progress.diverged:
            return False
        return self._swap.changed()

    def _finish(self) -> None:
        """Synchronises; all workers then hold the same model."""
        self._swap.restore_own()
        trainer = self._made.trainer
        if trainer.loop.finish():
            self._record.synchronised("end")
        trainer.worker.assign(trainer.loop.averaged())

    def _begin_round(self) -> None:
        """Begins a round from what a callback has put into the model."""
        sent = take_chiefs(self._made.trainer)
        self._made.trainer.loop.count_takeover(sent)
        self._record.synchronised("callback")
        self._swap.forget()

    # Errors.

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """Makes the context in which another callback is called."""
        self.in_callback = True
        try:
            with self.telling():
                yield
        finally:
            self.in_callback = False

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tells the other workers of an exception, where they will hear it."""
        try:
            with self.process_group.lost_worker_in_words():
                try:
                    yield
                except (Exception, SystemExit) as error:
                    if not isinstance(error, (*GONE, Preempted)):
                        self._tell(error)
                    raise
        except BaseException:  # such as Ctrl-C, too
            self.leave()
            raise

    def _tell(self, error: Exception | SystemExit) -> None:
        well = isinstance(error, SystemExit) and not error.code
        if well or self._barrier.settled:
            return
        if self.process_group.count == 1 or self.process_group.is_forked:
            return
        if self._steps is not None and self._steps.are_cut_off:
            self._barrier.settled = True
            self.process_group.give_up(error)
            return
        if self._steps is not None and self._progress.in_steps:
            # What else goes wrong is not to hide what did first.
            with contextlib.suppress(Exception):
                self._steps.idle(error)
        if not self._barrier.settled:
            self._barrier.tell(error)
