"""What happens around and inside one call of `model.fit`.

Keras calls `model.train_function` for each execution; while `fit` runs, ours
is in its place: the same loop as everywhere, over the batches of Keras' own
iterator. What the workers have to agree on besides (how long an epoch is, an
end, an error) they settle at meetings, to which all of them come. Who needs
one within an epoch says so by the float that rides on each exchange, and goes
on with its model as it is, without data, until all have heard.

    fit begins     begin, all_have_begun
    an epoch       begin_epoch, execute for each execution
    its end        result, validation, after_epoch
    fit ends       before_end, after_training
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from fda_tf import specs
from fda_tf.execution import Done, Execution, compile_steps
from fda_tf.lent import Lent
from fda_tf.lost import GONE
from fda_tf.meetings import Meetings
from fda_tf.progress import Progress
from fda_tf.record import Record
from fda_tf.replaced import Replaced
from fda_tf.resuming import Resuming
from fda_tf.sync import VarianceThreshold
from fda_tf.trainer import Trainer
from fda_tf.worker import check


class Made(NamedTuple):
    """What a fit made, and the next one uses again if it can."""

    made_for: tuple
    trainer: Trainer
    compiled: Callable


class Fit:
    """One call of `model.fit` on this worker.

    Args:
      callback: the `Averaging` whose settings count.
    """

    def __init__(self, callback: Any):
        self.callback, self.model = callback, callback.model
        self.replicas = callback.replicas
        self.in_callback = False
        self._validating = False
        self._meetings = Meetings(self.replicas)
        self._progress = Progress()
        self._record = Record(callback)
        self._resuming = Resuming(
            callback.checkpoint, self.replicas, self._progress, self._record
        )
        self._keras: Replaced | None = None
        # Made when the form of the data is known, before the first step.
        self._spec: Any = None
        self._trainer: Trainer | None = None
        self._execution: Execution | None = None
        self._lent: Lent | None = None
        self._logs: dict[str, Any] = {}  # of the last step with data
        self._asked = 0  # executions of the epoch that Keras asked for

    # fit begins.

    def begin(self) -> None:
        """Takes the place of Keras' train function, when all can start."""
        progress, params = self._progress, self.callback.params
        with self.telling():
            check(self.model)
            self._keras = Replaced(self)
            self._keras.until_the_end(self._resuming.watch())
            self._resuming.callbacks = self._keras.callbacks
            board = self._keras.find(keras.callbacks.TensorBoard)
            self._record.open(board)
            progress.at_once = int(self.model.steps_per_execution)
            checkpoint = self._resuming.checkpoint
            everyone = self._meetings.meet_alike(
                "the start",
                {
                    "epochs": int(params["epochs"]),
                    "steps_per_execution": progress.at_once,
                    "checkpoint": checkpoint and [checkpoint.every],
                },
                steps=None if params["steps"] is None else int(params["steps"]),
            )
            progress.steps = self._least(everyone)
            self._resuming.find()
            self._keras.begin_at(self._resuming.first_epoch(params["epochs"]))

    def all_have_begun(self) -> None:
        """Gives the other callbacks back what they knew."""
        with self.telling():
            self._resuming.restore_callbacks()

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
        if None in steps:
            return None
        if not min(steps):
            self._meetings.settled = True
            raise self._no_batch(steps.index(0))
        return min(steps)

    def _no_batch(self, worker: int) -> ValueError:
        return ValueError(
            f"The data of worker {worker} have no batch for epoch "
            f"{self._progress.epoch + 1}. Give every worker at least one; "
            "repeat() data of which an epoch takes only a part."
        )

    def _build(self, spec: Any) -> None:
        """Makes the trainer, or takes that of the fit before."""
        self._meetings.meet("the first step")
        callback, steps = self.callback, self._progress.steps
        self._spec = spec = specs.without_optionals(spec)
        # Keras makes another train function when the model is compiled anew.
        made_for = (self._keras.train_function, spec, steps)
        if callback.made is None or callback.made.made_for != made_for:
            self._meetings.settled = True  # the trainer tells by itself
            trainer = self._make_trainer(spec)
            self._meetings.settled = False
            callback.made = Made(made_for, trainer, compile_steps(trainer))
            callback.syncs.clear()
            callback.variance.clear()
        else:
            trainer = callback.made.trainer
            self._meetings.meet("another fit")
            trainer.home.end_meeting()  # which an error has kept open
            _take_chiefs(trainer)
        self._record.loop = trainer.loop
        self._resuming.restore(trainer)
        self._refuse_names(trainer)
        self._meetings.meet("the first step")
        self._trainer, self._lent = trainer, Lent(trainer)
        self._execution = Execution(trainer, callback.made.compiled)

    def _make_trainer(self, spec: Any) -> Trainer:
        callback, sync = self.callback, self.callback.sync
        cap, checkpoint = self._cap(), callback.checkpoint
        return Trainer(
            self.model,
            spec,
            # A cap that we look after ourselves is left out.
            sync=dataclasses.replace(sync, cap=None) if cap else sync,
            server=callback.server,
            statistics=callback.statistics,
            epoch_steps=self._progress.steps,
            replicas=self.replicas,
            cap_in_epochs=cap,
            checkpoint=checkpoint and checkpoint.every,
        )

    def _cap(self) -> float | None:
        """Returns E of a cap in epochs, where no epoch's length is known."""
        sync = self.callback.sync
        if self._progress.steps is None and isinstance(sync, VarianceThreshold):
            return sync.cap.epochs if sync.cap else None
        return None

    def _refuse_names(self, trainer: Trainer) -> None:
        both = sorted(self._record.names() & set(trainer.worker.logs))
        if both:
            raise ValueError(
                f"The model's train_step returns {', '.join(both)}, and so do "
                f"the logs of {type(self.callback).__name__}. Give the model's "
                "another name."
            )

    # An epoch.

    def begin_epoch(self, epoch: int) -> None:
        """Begins an epoch, before Keras makes its iterator."""
        self._progress.begin_epoch(epoch)
        self._asked, self._logs = 0, {}
        if self._lent is not None:
            self._lent.take_back()

    def execute(self, iterator: Any) -> Any:
        """Does one execution: up to `steps_per_execution` steps; for Keras."""
        if not isinstance(iterator, tf.data.Iterator):  # train_on_batch
            return self._keras.train_function(iterator)
        with self.telling():
            self._asked += 1
            if self._asked == 1:
                self._begin_data(iterator)
            self._progress.begin_execution()
            no_more = self._progress.over and self._progress.left
            extra = self._do_execution(self._run)
        if no_more:
            self._keras.do_not_warn()
            raise StopIteration
        return {**self._logs, **extra}

    def _begin_data(self, iterator: Any) -> None:
        progress = self._progress
        if self._trainer is None:  # only now is the form of the data known
            self._build(iterator.element_spec)
        ours = None
        if self._resuming.found:
            ours = self._resuming.go_to_step(iterator)
            if not progress.done:
                self.model.reset_metrics()
            self._logs = self._known_logs()
        elif (shard := getattr(iterator, "shard", None)) is not None:
            progress.start = shard.position
        if not progress.over and not self._execution.begin_epoch(
            iterator, ours
        ):
            raise self._no_batch(self.replicas.index)

    def _known_logs(self) -> dict[str, Any]:
        """Returns the logs of what a checkpoint has done of the epoch."""
        unknown = dict.fromkeys(self._trainer.worker.logs, np.nan)
        known = self.model.get_metrics_result()
        return unknown | {k: v for k, v in known.items() if k in unknown}

    def _do_execution(
        self, do: Callable[[int], Done], error: Exception | None = None
    ) -> dict[str, Any]:
        """Does what is left of an execution; returns what is ours in logs."""
        progress, loop = self._progress, self._trainer.loop
        sent = None
        while progress.left > 0 and not progress.over:
            some = min(
                progress.left,
                progress.to_end(),
                self._resuming.to_next(int(loop.step)),
            )
            done = do(some)
            progress.left -= some
            sent = done.sent
            self._note(done, error)
            if progress.in_steps and self._resuming.is_due(int(loop.step)):
                self._resuming.save(self._trainer, self._spec)
        return self._record.logs_of(*sent) if sent else self._record.logs()

    def _run(self, steps: int) -> Done:
        if self._resuming.preempted:
            self._trainer.home.call_meeting()
        done = self._execution.run(steps, steps < self._progress.to_end())
        self._logs = self._logs if done.logs is None else done.logs
        return done

    def _note(self, done: Done, error: Exception | None) -> None:
        """Writes down what some steps did, and meets if one has called."""
        self._progress.advance(len(done.causes))
        if not done.finite:
            self._raise_bad_drift()
        if error is None:  # such as a full disk, on which nothing can be kept
            self._record.steps(int(self._trainer.loop.step), done)
        if bool(self._trainer.home.called()):
            self._meet_in_epoch(error)

    def _raise_bad_drift(self) -> None:
        self._meetings.settled = True  # all workers see it
        self._trainer.loop.raise_bad_drift()

    def _idle(self, error: Exception | None = None) -> None:
        """Goes on without data until all have met, or the epoch is over."""
        self._trainer.home.call_meeting()
        while not self._progress.over:
            if not self._progress.left:
                self._progress.begin_execution()
            self._do_execution(self._execution.idle, error)

    def _meet_in_epoch(self, error: Exception | None) -> None:
        """Ends the epoch on all workers, and learns what for."""
        self._progress.over = True
        if error is not None:
            self._meetings.tell(error)
            return
        everyone = self._meetings.meet(
            f"a step of epoch {self._progress.epoch + 1}",
            stop=bool(self.model.stop_training),
            preempted=self._resuming.preempted,
            out_of_data=self._execution.out_of_data,
        )
        self._trainer.home.end_meeting()
        if any(news["preempted"] for news in everyone):
            self._progress.over = any(n["out_of_data"] for n in everyone)
            self._resuming.save(self._trainer, self._spec)
            raise SystemExit(0)
        if any(news["stop"] for news in everyone):
            self.model.stop_training = True

    # An epoch's end.

    def result(self, logs: Any) -> Any:
        """Takes the place of Keras' own step from metrics to logs."""
        if self.in_callback:  # it evaluates something by itself
            return self._keras.logs(logs)
        with self.telling():
            if self._validating:
                epoch = self._progress.epoch + 1
                self._meetings.meet(f"the validation of epoch {epoch}")
                return self._reduce(logs)
            return self._end_epoch()

    def _end_epoch(self) -> dict:
        """Returns the logs of the epoch; the model then holds the average."""
        progress = self._progress
        if not progress.over:  # a callback here has stopped the training
            self._idle()
        everyone = self._meetings.meet(
            f"the end of epoch {progress.epoch + 1}", steps=self._keras_steps()
        )
        self._trainer.home.end_meeting()
        if progress.steps is None:
            progress.bound = min(news["steps"] for news in everyone)
            self._synchronise_if_due()
        extra = self._record.logs()
        logs = self._reduce(self._logs or self._known_logs())
        if not self._lent.place():
            self._raise_bad_drift()
        return {**logs, **extra}

    def _keras_steps(self) -> int:
        """Returns the steps of an epoch, as Keras here now knows them."""
        known = self.callback.params["steps"]
        return int(known or self._asked * self._progress.at_once)

    def _synchronise_if_due(self) -> None:
        """Keeps the cap in epochs, where their length is not known."""
        every, loop = self._cap(), self._trainer.loop
        due = every and (self._progress.epoch + 1) % max(1, round(every)) == 0
        if due and int(loop.interval) and not loop.nothing_to_average:
            if not bool(loop.synchronise()):
                self._raise_bad_drift()
            self._record.synchronised(loop.step, "interval")

    def _reduce(self, logs: dict) -> dict:
        """Returns the logs of all workers together, equal on all of them."""
        if self.replicas.count == 1:
            return self._keras.logs(logs)
        self._trainer.worker.reduce_metrics(self.replicas)
        result = self._keras.logs(logs)
        if result is not logs:
            return result
        # A train_step of the user's may return what no metric keeps.
        own = np.array([float(logs[name]) for name in sorted(logs)])
        means = self.replicas.gather(own).mean(0)
        return dict(zip(sorted(logs), means.tolist(), strict=True))

    def begin_validation(self) -> None:
        """Knows that it is fit itself which is evaluating."""
        self._validating = True
        self._keras.begin_validation()

    def end_validation(self) -> None:
        """Knows that it is not any more."""
        self._validating = False
        self._keras.end_validation()

    def after_epoch(self, epoch: int) -> None:
        """Settles how to go on, when all callbacks have had their turn."""
        with self.telling():
            everyone = self._meetings.meet(
                f"what follows epoch {epoch + 1}",
                stop=bool(self.model.stop_training),
                preempted=self._resuming.preempted,
            )
            stopped = any(news["stop"] for news in everyone)
            preempted = any(news["preempted"] for news in everyone)
            self.model.stop_training = stopped
            self._resuming.stop(stopped)
            self._progress.end_epoch()
            last = stopped or epoch + 1 >= self.callback.params["epochs"]
            step = int(self._trainer.loop.step)
            due = self._resuming.is_due(step, epochs_end=True) and not last
            if preempted or due:
                with self._lent.taken_back():
                    self._resuming.save(self._trainer, self._spec)
            if preempted:
                raise SystemExit(0)

    # fit ends.

    def before_end(self) -> None:
        """Saves, before others change the model for the end; again, for all.

        So what is kept is a run that more epochs may follow, and not the best
        weights that EarlyStopping restores.
        """
        resuming = self._resuming
        if resuming.checkpoint is None:
            return
        with self.telling():
            if not resuming.found:
                with self._lent.taken_back():
                    resuming.save(self._trainer, self._spec)
            elif self._trainer is None:  # nothing was left to do
                self._build(resuming.spec())
                self._lent.place()

    def after_training(self) -> None:
        """Ends with a synchronisation, after all others' last changes."""
        with self.telling():
            # Such as the best weights, which EarlyStopping has restored.
            changed = self._lent is not None and self._lent.changed()
            everyone = self._meetings.meet("the end", changed=changed)
            if self._trainer is not None:
                self._end(any(news["changed"] for news in everyone))
        self.leave()

    def _end(self, changed: bool) -> None:
        trainer = self._trainer
        if changed:
            _take_chiefs(trainer)
            self._lent.forget()
        else:
            self._lent.take_back()
        if trainer.loop.finish():
            self._record.synchronised(trainer.loop.step, "end")
        trainer.worker.assign(trainer.loop.averaged())

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
            with self.replicas.lost_worker_in_words():
                try:
                    yield
                except Exception as error:
                    if not (self._meetings.settled or isinstance(error, GONE)):
                        self._tell(error)
                    raise
        except BaseException:  # such as Ctrl-C, too
            self.leave()
            raise

    def _tell(self, error: Exception) -> None:
        if self.replicas.count == 1:
            return
        if self._trainer is not None and self._progress.in_steps:
            # What else goes wrong is not to hide what did first.
            with contextlib.suppress(Exception):
                self._idle(error)
        if not self._meetings.settled:
            self._meetings.tell(error)


def _take_chiefs(trainer: Trainer) -> None:
    """Begins a new round from the chief's model."""
    worker = trainer.worker
    trainer.home.take_chiefs([worker.weights, worker.statistics])
    trainer.loop.restart()
