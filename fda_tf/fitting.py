"""What happens around and inside one call of `model.fit`.

Keras calls `model.train_function` for each execution; while `fit` runs, ours
is in its place: the same loop as everywhere, over the batches of Keras' own
iterator. What the workers have to agree on besides (how long an epoch is, an
end, an error) they settle at **meetings**, at which all of them say what they
know. Who needs one between synchronisations says so by the float that rides
on each exchange, and goes on with its model as it is, without data, until all
have heard.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from fda_tf import saved, specs, vectors
from fda_tf.callback_list import Arranged, find
from fda_tf.points import Points
from fda_tf.preemption import Preemption
from fda_tf.sync import VarianceThreshold
from fda_tf.trainer import Trainer
from fda_tf.training import CAUSES
from fda_tf.worker import Snapshot, check

ENDLESS = 2**31 - 1  # steps, where only a meeting ends an epoch
LOST = (  # by these errors we learn of another worker's end
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
)


class Fit:
    """One call of `model.fit` on this worker.

    It goes through phases, which are the same on all workers: "start",
    "building" until the first step, then for each epoch "epoch" and "between
    epochs", then "end". A worker that fails tells the others at the next
    point of its phase at which all meet.

    Args:
      callback: the `Averaging` whose settings count.
    """

    def __init__(self, callback: Any):
        self.callback, self.model = callback, callback.model
        self.replicas, self.checkpoint = callback.replicas, callback.checkpoint
        self.trainer: Trainer | None = None
        self.phase = "start"
        self.validating = False  # whether fit itself is evaluating
        self._settled = False  # whether all know of the error that ends us
        self._found: saved.Saved | None = None  # to go on from
        self._keras: _Keras | None = None
        self._points: Points | None = None
        self._preemption, self._stopped = Preemption(), False
        # Where we are: the epoch, its steps, and the data's step of its first.
        self._epoch = self._done = self._calls = self._start = 0
        self._steps: int | None = None  # of an epoch, if all workers know
        self._learnt: int | None = None  # the same, from the first epoch
        self._over = False
        self._logs: Any = {}
        self._given = self._iterator = None  # Keras' iterator, and ours
        self._ahead = self._ahead_of = None  # the next step's batch
        # The average is in the model's place from an epoch's end to the next.
        self._own: Snapshot | None = None
        self._placed: Snapshot | None = None

    # fit begins.

    def begin(self) -> None:
        """Takes the place of Keras' train function, when all can start."""
        with self._telling():
            check(self.model)
            self._keras = _Keras(self)
            if self.checkpoint:
                self.checkpoint.prepare()
                self._keras.until_the_end(self._preemption.watch())
            board = self._keras.find(keras.callbacks.TensorBoard)
            self._points = Points(board.log_dir) if board else None
            everyone = self._meet(steps=self.callback.params.get("steps"))
            steps = [news["steps"] for news in everyone]
            self._steps = None if None in steps else min(steps)
            if self.checkpoint:
                self._found = saved.newest(self.checkpoint, self.replicas)
                self._skip_epochs()
            self.phase = "building"

    def leave(self) -> None:
        """Gives back to Keras all that is Keras'; again, does nothing."""
        if self._keras:
            self._keras.restore()
        if self._points:
            self._points.close()
        self._keras = self._points = None

    def _skip_epochs(self) -> None:
        """Lets Keras begin with the epoch that the checkpoint is in."""
        if self._found:
            facts, epochs = self._found.facts, self.callback.params["epochs"]
            self._stopped = facts["stopped"]
            first = epochs if facts["stopped"] else facts["epoch"]
            self.model._initial_epoch = min(first, epochs)

    def _build(self, spec: Any) -> None:
        """Makes the trainer, or takes that of the fit before."""
        callback, model = self.callback, self.model
        self._spec = spec = specs.without_optionals(spec)
        made_for = (model, model.optimizer, spec, self._steps)
        if callback.made is None or callback.made.made_for != made_for:
            self._settled = True  # the trainer tells the others by itself
            trainer = Trainer(
                model,
                spec,
                sync=self._sync(),
                server=callback.server,
                statistics=callback.statistics,
                epoch_steps=self._steps,
                replicas=self.replicas,
                cap_in_epochs=self._cap(),
                checkpoint=self.checkpoint and self.checkpoint.every,
            )
            self._settled = False
            callback.made = Made(made_for, trainer, *_compile(trainer))
        else:
            trainer = callback.made.trainer
            self._meet(doing="another fit")
            self._take_chiefs(trainer)
        if self._found:
            self._restore(trainer)
        self._meet(doing="the first step")
        self.trainer = trainer

    def _restore(self, trainer: Trainer) -> None:
        arrays, facts = self._found.arrays, self._found.facts
        self.callback.variance[:] = arrays.pop("history/0").tolist()
        self.callback.syncs[:] = facts["syncs"]
        trainer.restore(self._found)

    def _take_chiefs(self, trainer: Trainer) -> None:
        worker = trainer.worker
        trainer.home.take_chiefs([worker.weights, worker.statistics])
        trainer.loop.restart()

    def _sync(self) -> Any:
        """Returns the policy, without a cap that we look after ourselves."""
        sync = self.callback.sync
        return dataclasses.replace(sync, cap=None) if self._cap() else sync

    def _cap(self) -> float | None:
        """Returns E of a cap in epochs, where no epoch's length is known."""
        sync = self.callback.sync
        if self._steps is None and isinstance(sync, VarianceThreshold):
            return sync.cap.epochs if sync.cap else None
        return None

    # An epoch.

    def begin_epoch(self, epoch: int) -> None:
        """Begins an epoch, before Keras makes its iterator."""
        if self.trainer is not None:
            self.phase = "epoch"
        self._epoch, self._done, self._calls = epoch, 0, 0
        self._given, self._over, self._logs = None, False, {}
        self._put_own_back()

    def execute(self, iterator: Any) -> Any:
        """Does one execution: up to `steps_per_execution` steps; for Keras."""
        logs = None
        with self.replicas.lost_worker_in_words(), self._telling():
            self._calls += 1
            if iterator is not self._given:
                self._begin_iterator(iterator)
            left = self._at_once()
            while left > 0 and not self._over:
                some = min(left, self._to_end(), self._to_checkpoint())
                logs = self._do(some)
                left -= some
                if self._checkpoint_is_due() and not self._over:
                    self._save()
        if logs is None:
            self._keras.do_not_warn()
            raise StopIteration
        self._logs = logs
        return logs

    def _begin_iterator(self, iterator: Any) -> None:
        self._given = self._iterator = iterator
        if self.trainer is None:  # only now is the form of the data known
            self._build(iterator.element_spec)
            self.phase = "epoch"
        shard = getattr(iterator, "shard", None)
        if self._found:
            self._go_to_step(shard)
        elif shard is not None:
            self._start = shard.position
        if self._ahead_of is not iterator:
            self._ahead, self._ahead_of = None, iterator
        self._over = not self._to_end()
        if self._ahead is None and not self._over:
            self._ahead = self._iterator.get_next_as_optional()
            if not bool(self._ahead.has_value()):
                raise ValueError(
                    f"The data of worker {self.replicas.index} have no batch "
                    f"for epoch {self._epoch + 1}. Give every worker at least "
                    "one; repeat() data of which an epoch takes only a part."
                )

    def _go_to_step(self, shard: Any) -> None:
        """Goes to the step of the epoch at which the checkpoint was."""
        facts, self._found = self._found.facts, None
        before, now = facts["steps"], self._steps
        self._done, self._start = facts["done"], facts["start"]
        if before and now and before != now:  # of another number of workers
            self._done = self._done * now // before
            self._start = self._start // before * now
        if not self._done:
            self.model.reset_metrics()
        if shard is not None:
            shard.position = self._start + self._done
            self._iterator = iter(shard)
        else:
            for _ in range(self._done):
                self._iterator.get_next_as_optional()

    def _to_end(self) -> int:
        """Returns the steps that are left of the epoch, as far as is known."""
        steps = self._learnt if self._steps is None else self._steps
        return ENDLESS if steps is None else max(0, steps - self._done)

    def _to_checkpoint(self) -> int:
        every = self.checkpoint and self.checkpoint.every
        return every - self._step() % every if every else ENDLESS

    def _step(self) -> int:
        return int(self.trainer.loop.step)

    def _at_once(self) -> int:
        return int(self.model.steps_per_execution)

    def _do(self, steps: int) -> dict:
        """Does so many steps with data; returns the logs of the last one."""
        if self._preemption.came:
            self.trainer.home.call_meeting()
        more = steps < self._to_end()
        logs, ahead, trace, sent = self.callback.made.execution(
            self._iterator,
            self._ahead,
            tf.constant(steps),
            tf.constant(more),
        )
        self._ahead = ahead if more else None
        self._note(trace)
        return {**logs, **self._extra(*sent)}

    def _idle(self, error: Exception | None = None) -> bool:
        """Goes on without data until all have heard, or the epoch is over.

        Returns:
          Whether all have met.
        """
        self.trainer.home.call_meeting()
        met = False
        while not (met or self._over):
            steps = tf.constant(min(self._to_end(), ENDLESS))
            met = self._note(self.callback.made.idling(steps), error)
        return met

    def _note(self, trace: Any, error: Exception | None = None) -> bool:
        """Writes down what some steps did; returns whether all have met."""
        causes, estimates = trace.cause.numpy(), trace.estimate.numpy()
        first = self._step() - len(causes) + 1
        self._done += len(causes)
        if not bool(trace.finite):
            self._raise_bad_drift()
        if self.trainer.loop.monitor is not None:
            self.callback.variance.extend(estimates.tolist())
        for i in np.flatnonzero(causes):
            self._synchronised(first + i, CAUSES[causes[i]], estimates[i])
        if self._points:
            self._points.write(first, trace)
        if bool(self.trainer.home.called()):
            self._meet_in_epoch(error)
            return True
        self._over = not self._to_end()
        return False

    def _raise_bad_drift(self) -> None:
        self._settled = True  # all workers see it
        self.trainer.loop.raise_bad_drift()

    def _synchronised(self, step: int, cause: str, estimate: float) -> None:
        self.callback.syncs.append(
            {"step": int(step), "cause": cause, "estimate": float(estimate)}
        )

    def _meet_in_epoch(self, error: Exception | None) -> None:
        """Ends the epoch on all workers, and learns what for."""
        everyone = self._meet(
            error,
            stop=bool(self.model.stop_training),
            preempted=self._preemption.came,
        )
        self.trainer.home.end_meeting()
        self._over = True
        if error is not None:
            return
        if any(news["preempted"] for news in everyone):
            self._save()
            self._exit()
        if any(news["stop"] for news in everyone):
            self.model.stop_training = True

    def _extra(self, syncs: Any, sent: Any) -> dict[str, Any]:
        """Returns what the logs have besides Keras' own."""
        extra = {"syncs": syncs, "mb_sent": sent / 1e6}
        if isinstance(self.callback.sync, VarianceThreshold):
            variance = self.callback.variance  # of one worker alone, it is 0
            extra["variance"] = variance[-1] if variance else 0.0
            extra["theta"] = self.trainer.loop.theta.read_value()
        return extra

    # An epoch's end.

    def result(self, logs: Any) -> Any:
        """Takes the place of Keras' own step from metrics to logs."""
        ends_epoch = self.phase == "epoch" and (logs is self._logs or not logs)
        if not (ends_epoch or self.validating):
            return self._keras.logs(logs)  # an evaluation by some callback
        with self.replicas.lost_worker_in_words(), self._telling():
            if self.validating:
                self._meet(doing="validation_data")
                return self._reduce(logs)
            return self._end_epoch(logs)

    def _end_epoch(self, logs: dict) -> dict:
        """Returns the logs of the epoch; the model then holds the average."""
        if not self._over:  # a callback here has stopped the training
            self._idle()
        self._meet(doing="the epoch's end")
        self.phase = "between epochs"
        if self._steps is None:
            self._after_unknown_length()
        extra = self._extra(*self.trainer.loop.sent())
        logs = self._reduce({k: v for k, v in logs.items() if k not in extra})
        self._place_average()
        return {**logs, **extra}

    def _after_unknown_length(self) -> None:
        """Keeps the cap in epochs, and the length that Keras has learnt."""
        # Keras takes what it called in the first epoch for the epoch's length.
        self._learnt = self._learnt or self._calls * self._at_once()
        loop, every = self.trainer.loop, self._cap()
        due = every and (self._epoch + 1) % max(1, round(every)) == 0
        if due and int(loop.interval) and not loop.nothing_to_average:
            if not bool(loop.synchronise()):
                self._raise_bad_drift()
            self._synchronised(self._step(), "interval", np.nan)

    def _reduce(self, logs: dict) -> dict:
        """Returns the logs of all workers together, equal on all of them."""
        if self.replicas.count == 1:
            return self._keras.logs(logs)
        self.trainer.worker.reduce_metrics(self.replicas)
        result = self._keras.logs(logs)
        if result is not logs:
            return result
        # A train_step of the user's may return what no metric keeps.
        own = np.array([float(logs[name]) for name in sorted(logs)])
        means = self.replicas.gather(own).mean(0)
        return dict(zip(sorted(logs), means.tolist(), strict=True))

    def _place_average(self) -> None:
        """Puts the average into the model until the next epoch begins."""
        loop, worker = self.trainer.loop, self.trainer.worker
        if loop.nothing_to_average:
            return
        average, self._own = loop.averaged(), worker.snapshot()
        if not np.isfinite(vectors.squared_norm(average.weights)):
            self._raise_bad_drift()
        worker.assign(average)
        self._placed = average

    def _put_own_back(self) -> None:
        if self._own is not None:
            self.trainer.worker.assign(self._own)
        self._own = self._placed = None

    def after_epoch(self, epoch: int) -> None:
        """Settles how to go on, when all callbacks have had their turn."""
        with self.replicas.lost_worker_in_words(), self._telling():
            everyone = self._meet(
                stop=bool(self.model.stop_training),
                preempted=self._preemption.came,
            )
            self.trainer.home.end_meeting()
            self._stopped = any(news["stop"] for news in everyone)
            self.model.stop_training = self._stopped
            preempted = any(news["preempted"] for news in everyone)
            last = self._stopped or epoch + 1 >= self.callback.params["epochs"]
            self._start, self._done = self._start + self._done, 0
            self._epoch, self._over = epoch + 1, False
            if preempted or (self._checkpoint_is_due(True) and not last):
                self._put_own_back()
                self._save()
            if preempted:
                self._exit()
            self.phase = "end" if last else "epoch"

    # fit ends.

    def after_training(self) -> None:
        """Ends with a synchronisation, after all others' last changes."""
        with self.replicas.lost_worker_in_words(), self._telling():
            if self.trainer is None and self._found:  # nothing was left to do
                self._build(specs.from_json(self._found.facts["spec"]))
            self.phase = "end"
            # Such as the best weights, which EarlyStopping has restored.
            changed = self._placed is not None and not _equal(
                self.trainer.worker.snapshot(), self._placed
            )
            everyone = self._meet(changed=changed)
            if self.trainer is not None:
                self._end(any(news["changed"] for news in everyone))
        self.leave()

    def _end(self, changed: bool) -> None:
        loop, worker = self.trainer.loop, self.trainer.worker
        if changed:
            self._take_chiefs(self.trainer)
            self._own = self._placed = None
        else:
            self._put_own_back()
        # Without the last synchronisation: more epochs may follow some day.
        if self.checkpoint and self._found is None:
            self._save()
        if loop.finish():
            self._synchronised(self._step(), "end", np.nan)
        worker.assign(loop.averaged())

    # Checkpoints.

    def _checkpoint_is_due(self, epochs_end: bool = False) -> bool:
        if self.checkpoint is None:
            return False
        every = self.checkpoint.every
        return self._step() % every == 0 if every else epochs_end

    def _save(self) -> None:
        self.trainer.save(
            self.checkpoint,
            history=[np.float32(self.callback.variance)],
            syncs=self.callback.syncs,
            epoch=self._epoch,
            done=self._done,
            steps=self._steps,
            start=self._start,
            stopped=self._stopped,
            spec=specs.to_json(self._spec),
        )

    def _exit(self) -> None:
        """Ends the process in good order, after SIGTERM on some worker."""
        raise SystemExit(0)

    # Meetings.

    def _meet(
        self, error: Exception | None = None, doing: str = "", **news: Any
    ) -> list[dict[str, Any]]:
        """Returns what every worker has to say; all workers must come.

        Raises:
          RuntimeError: when one came with an error, or for something else.
        """
        words = error and f"{type(error).__name__}: {error}"
        everyone = self.replicas.gather_json(
            {"error": words, "place": doing or self.phase} | news
        )
        if error is not None:
            return everyone
        first = everyone[0].get("place")
        for k, other in enumerate(everyone):
            self._settled = True
            if other.get("error"):
                raise RuntimeError(
                    f"Worker {k} failed; all workers stop: {other['error']}"
                )
            if other.get("place") != first:
                raise RuntimeError(
                    f"Worker {k} is at {other.get('place')!r}, worker 0 at "
                    f"{first!r}. Call fit in the same way on every worker, "
                    "with the same epochs, and validation_data on all or none."
                )
        self._settled = False
        return everyone

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Tells the other workers of an exception, where they will hear it."""
        try:
            yield
        except Exception as error:
            if not (self._settled or isinstance(error, LOST)):
                self._settled = True
                with contextlib.suppress(tf.errors.OpError):
                    self._tell(error)
            self.leave()
            raise
        except BaseException:  # such as Ctrl-C
            self.leave()
            raise

    def _tell(self, error: Exception) -> None:
        in_epoch = self.phase == "epoch" and not self._over
        if not (in_epoch and self._idle(error)):
            self._meet(error)


class _Keras:
    """What is Keras', while a fit has something else in its place."""

    def __init__(self, fit: Fit):
        self._model = model = fit.model
        self._arranged = Arranged(
            fit.callback, _Last(fit), fit._telling, fit.replicas.is_chief
        )
        self.logs = model._get_metrics_result_or_logs
        self._function, self._epoch = model.train_function, model._initial_epoch
        model.train_function = fit.execute
        model._get_metrics_result_or_logs = fit.result
        self._after = contextlib.ExitStack()

    def find(self, kind: type) -> Any:
        """Returns the callback of a kind that works here, or None."""
        return find(self._arranged.others, kind)

    def until_the_end(self, context: contextlib.AbstractContextManager) -> None:
        """Enters a context, which ends when everything is put back."""
        self._after.enter_context(context)

    def do_not_warn(self) -> None:
        """Keeps Keras from warning of data that end where all have agreed."""
        self.until_the_end(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Your input ran out of data")

    def restore(self) -> None:
        """Puts everything back."""
        self._arranged.restore()
        self._model.train_function = self._function
        self._model._get_metrics_result_or_logs = self.logs
        self._model._initial_epoch = self._epoch
        self._after.close()


class _Last(keras.callbacks.Callback):
    """Has the last word after all other callbacks."""

    def __init__(self, fit: Fit):
        super().__init__()
        self._fit = fit

    def on_epoch_end(self, epoch, logs=None):
        self._fit.after_epoch(epoch)

    def on_train_end(self, logs=None):
        self._fit.after_training()


class Made(NamedTuple):
    """What a fit made, and the next one uses again if it can."""

    made_for: tuple
    trainer: Trainer
    execution: Callable  # (iterator, batch, steps, more) -> ...
    idling: Callable  # (steps) -> StepTrace


def _compile(trainer: Trainer) -> tuple[Callable, Callable]:
    """Returns the compiled loop over Keras' batches, and that without data."""
    loop, worker, call = trainer.loop, trainer.worker, trainer.home.call

    def execution(iterator, batch, steps, more):
        """Does the steps; returns logs, the next batch, trace, what was sent.

        The batch of the next step is drawn before the exchange of this one,
        which so tells all workers when there is none.
        """
        nothing = tf.experimental.Optional.empty(iterator.element_spec)

        def local_step(carry):
            done, batch, logs = carry
            if batch.has_value():
                logs = worker.step(specs.without_optionals(batch.get_value()))
            if more or done + 1 < steps:
                batch = iterator.get_next_as_optional()
                if not batch.has_value():
                    call.assign(1.0)
            else:
                batch = nothing
            return done + 1, batch, logs

        logs = tf.nest.map_structure(_zeros, worker.logs)
        start = (tf.constant(0), batch, logs)
        (_, batch, logs), trace = loop.run_steps(steps, start, local_step)
        return logs, batch, trace, loop.sent()

    def idling(steps):
        return loop.run_steps(steps, tf.constant(0), lambda carry: carry)[1]

    return tf.function(execution, reduce_retracing=True), tf.function(idling)


def _zeros(like: tf.Tensor) -> tf.Tensor:
    return tf.zeros([n or 0 for n in like.shape], like.dtype)


def _equal(a: Snapshot, b: Snapshot) -> bool:
    pairs = zip(a.weights + a.statistics, b.weights + b.statistics, strict=True)
    return all(bool(tf.reduce_all(u == v)) for u, v in pairs)
