"""Where a fit is, counted alike on all workers."""

import dataclasses

ENDLESS = 2**31 - 1  # steps, where only a barrier ends an epoch


@dataclasses.dataclass
class Progress:
    """The epoch, and its steps.

    Attributes:
      steps: of an epoch, if all workers know it: the least of theirs.
      batches: of the data, if an epoch takes only some of them and all
        workers know it: Keras goes on with the rest in the next epoch.
      taken: of those, by the epochs before.
      at_once: steps of an execution: Keras' `steps_per_execution`.
      bound: steps after which Keras ends an epoch whose length not all know;
        known after the first.
      epoch: its number, from 0.
      start: the data's step of its first.
      done: its steps that are done.
      resumed_at: those of them that a checkpoint had done.
      over: whether all workers are done with it.
      begun: whether it has begun, and its end is not settled yet.
      executions: that were begun in it.
      left: steps that are left of the execution.
      ends_on_nan: whether TerminateOnNaN ends training, without an error.
      diverged: whether it has, as a drift is not finite.
    """

    steps: int | None = None
    batches: int | None = None
    taken: int = 0
    at_once: int = 1
    bound: int | None = None
    epoch: int = 0
    start: int = 0
    done: int = 0
    resumed_at: int = 0
    over: bool = False
    begun: bool = False
    executions: int = 0
    left: int = 0
    ends_on_nan: bool = False
    diverged: bool = False

    def begin_epoch(self, epoch: int) -> None:
        """Begins an epoch."""
        self.epoch, self.done, self.resumed_at = epoch, 0, 0
        self.over, self.begun = False, True
        self.executions = self.left = 0

    def end_epoch(self) -> None:
        """Ends an epoch; the next one is still to begin."""
        self.taken += self.done
        if self.batches and self.taken >= self.batches:
            self.taken = 0
        self.start, self.done = self.start + self.done, 0
        self.epoch += 1
        self.over = self.begun = False

    @property
    def in_steps(self) -> bool:
        """Whether the workers are at an epoch's steps."""
        return self.begun and not self.over

    def begin_execution(self) -> None:
        """Begins an execution; what a checkpoint has done is passed over.

        So Keras counts an epoch that goes on as long as any other.
        """
        before = self.executions * self.at_once
        passed = min(self.at_once, max(0, self.resumed_at - before))
        self.executions += 1
        self.left = self.at_once - passed

    def advance(self, steps: int) -> None:
        """Counts steps of this epoch."""
        self.done += steps
        self.over = not self.to_end()

    def to_end(self) -> int:
        """Returns the steps that are left of the epoch, as far as is known.

        Example:
          >>> progress = Progress(steps=11)
          >>> progress.advance(9)
          >>> progress.to_end(), progress.over
          (2, False)
        """
        steps = self.bound if self.steps is None else self.steps
        if steps and self.batches:
            steps = min(steps, self.batches - self.taken)
        return ENDLESS if steps is None else max(0, steps - self.done)
