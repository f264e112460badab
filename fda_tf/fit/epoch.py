"""The steps of a fit's epochs, done together with the other workers."""

from collections.abc import Callable
from typing import Any

import keras
from absl import logging

from fda_tf.fit.compiled_steps import CompiledRun, Execution, ExecutionResult
from fda_tf.fit.logs import Record
from fda_tf.fit.progress import Progress
from fda_tf.fit.resume import FitCheckpoints
from fda_tf.processes.agreement import Barrier


class Steps:
    """Runs training executions; without data it takes part in collectives only.

    Args:
      model: whose `stop_training` counts.
      made: what to train with.
      barrier: of the fit.
      progress: of the fit.
      record: of the fit.
      resuming: of the fit.

    Attributes:
      logs: what the last step with data returned.
      first_batch: a digest of the fit's first batch, None for a `Shard`'s.
    """

    def __init__(
        self,
        model: keras.Model,
        made: CompiledRun,
        barrier: Barrier,
        progress: Progress,
        record: Record,
        checkpoints: FitCheckpoints,
    ):
        self._model, self._made, self._barrier = model, made, barrier
        self._progress, self._record = progress, record
        self._checkpoints = checkpoints
        self._loop, self._home = made.trainer.loop, made.trainer.workers
        self._execution = Execution(made.trainer, made.compiled)
        self.logs: dict[str, Any] = {}
        self.first_batch: str | None = None

    def begin_epoch(self, iterator: Any) -> None:
        """Takes an epoch's batches from Keras' iterator.

        Raises:
          ValueError: if there is none.
        """
        self.logs, ours = {}, None
        shard = getattr(iterator, "shard", None)
        progress, checkpoints = self._progress, self._checkpoints
        if checkpoints.found:
            ours = checkpoints.go_to_step(iterator)
            if not progress.done:
                self._model.reset_metrics()
        elif shard is not None:
            progress.start = shard.position
        if progress.over:
            return
        self._made.samples.assign([0.0, 0.0])
        if self._made.metrics:
            self._made.metrics.begin(within=progress.done > 0)
        if not self._execution.begin_epoch(iterator, ours):
            worker = self._barrier.process_group.index
            raise no_batch(worker, progress.epoch)
        if self._barrier.process_group.count > 1 and shard is None:
            self.first_batch = self.first_batch or self._execution.digest()

    def execute(self) -> bool:
        """Does one execution; returns whether there still was one to do."""
        self._progress.begin_execution()
        if self._progress.over and self._progress.left:
            return False
        self._do(self._run)
        return True

    @property
    def are_cut_off(self) -> bool:
        """Whether the others cannot be met any more, after an error here."""
        return self._execution.is_cut_off

    def idle(self, error: Exception | None = None) -> None:
        """Goes on without data until all have met, or the epoch is over.

        Args:
          error: what to tell the others of.
        """
        self._home.raise_stop_flag()
        while not self._progress.over:
            if not self._progress.left:
                self._progress.begin_execution()
            self._do(self._execution.idle, error)

    def keep_max_interval(self) -> None:
        """Keeps the longest interval, where the length of epochs is unknown."""
        every, loop = self._made.max_epochs, self._loop
        due = every and (self._progress.epoch + 1) % max(1, round(every)) == 0
        if self._progress.diverged or not due:
            return
        if int(loop.interval) and not loop.nothing_to_average:
            if bool(loop.synchronise()):
                self._record.synchronised("interval")
            else:
                self.end_diverged()

    def end_diverged(self) -> None:
        """Ends training, as a drift is not finite; all workers must.

        Raises:
          FloatingPointError: unless TerminateOnNaN ends it.
        """
        progress = self._progress
        if not progress.ends_on_nan:
            self._barrier.settled = True
            self._loop.raise_bad_drift()
        if not progress.diverged:
            try:
                self._loop.raise_bad_drift()
            except FloatingPointError as error:
                if self._barrier.process_group.is_chief:
                    logging.warning("TerminateOnNaN: %s", error)
        progress.diverged = progress.over = self._model.stop_training = True

    def _do(
        self,
        do: Callable[[int], ExecutionResult],
        error: Exception | None = None,
    ) -> None:
        """Does what is left of an execution."""
        progress, checkpoints = self._progress, self._checkpoints
        while progress.left and not progress.over:
            some = min(
                progress.left,
                progress.to_end(),
                checkpoints.to_next(self._execution.step),
                self._execution.most,
            )
            done = do(some)
            progress.left -= some
            progress.advance(len(done.causes))
            self._note(done, error)
            if progress.in_steps and checkpoints.is_due(self._execution.step):
                checkpoints.save(self._made, error)

    def _run(self, steps: int) -> ExecutionResult:
        if self._checkpoints.preempted:
            self._home.raise_stop_flag()
        done = self._execution.run(steps, steps < self._progress.to_end())
        self.logs = self.logs if done.logs is None else done.logs
        return done

    def _note(self, done: ExecutionResult, error: Exception | None) -> None:
        """Writes down what some steps did, and meets if one has called."""
        if not done.finite:
            self.end_diverged()
        if error is None:  # such as a full disk, on which nothing can be kept
            self._record.steps(self._execution.step, done)
        if done.called and not (self._progress.diverged and error is None):
            self._progress.over = True
            if error is None:
                self._meet()
            else:
                self._barrier.tell(error)

    def _meet(self) -> None:
        """Learns what ends the epoch on all workers."""
        everyone = self._barrier.gather(
            f"a step of epoch {self._progress.epoch + 1}",
            stop=bool(self._model.stop_training),
            preempted=self._checkpoints.preempted,
            out_of_data=self._execution.out_of_data,
        )
        self._home.lower_stop_flag()
        if any(news["preempted"] for news in everyone):
            self._progress.over = any(n["out_of_data"] for n in everyone)
            self._checkpoints.end(self._made)
        if any(news["stop"] for news in everyone):
            self._model.stop_training = True


def no_batch(worker: int, epoch: int) -> ValueError:
    """Returns the error of data without a batch."""
    return ValueError(
        f"The data of worker {worker} have no batch for epoch {epoch + 1}. "
        "Give every worker at least one; repeat() data of which an epoch takes "
        "only a part."
    )
