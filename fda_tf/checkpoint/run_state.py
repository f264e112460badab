"""The whole state of a run, to a checkpoint and back.

What is kept is the values of variables, by what they are, and a few facts.
All workers write at the same step and go on from the same one.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from fda_tf.checkpoint import latest
from fda_tf.checkpoint.directory import Checkpoint
from fda_tf.checkpoint.latest import HISTORY, SavedPart
from fda_tf.core.loop import Loop
from fda_tf.processes import agreement
from fda_tf.workers import description, model_constants

VERSIONS = ("fda_tf", "tensorflow", "keras")
# So begin the names of what Keras describes, the server's optimizer too.
KERAS = ("optimizer", "server", "loss", "layer ", model_constants.CONSTANTS)
# What one worker alone does not have: with others it begins anew.
ALONE_WITHOUT = ("monitor/", "check/", "residual/")


class State:
    """What a run is; made before its first step.

    Args:
      loop: that runs.
      variables: name -> the variables to keep, in an order that stays.
    """

    def __init__(
        self, loop: Loop, variables: Mapping[str, Sequence[tf.Variable]]
    ):
        self.loop, self.process_group = loop, loop.workers.process_group
        self._variables = {
            f"{name}/{i}": variable
            for name, group in variables.items()
            for i, variable in enumerate(group)
        }
        self._settings = _settings(loop)
        self._whole: int | None = None  # the step of our last checkpoint

    def take(self, other: "State") -> None:
        """Takes the values of another state of the same model and settings."""
        for name, variable in self._variables.items():
            if variable is not other._variables[name]:
                variable.assign(other._variables[name])
        self._whole = None

    def save(
        self,
        checkpoint: Checkpoint,
        facts: Mapping[str, Any],
        history: Sequence[np.ndarray] = (),
        failed: Exception | None = None,
    ) -> bool:
        """Writes a checkpoint; all workers must. A full disk ends no training.

        Args:
          checkpoint: where to.
          facts: what JSON can hold.
          history: arrays to keep, too.
          failed: why this worker has nothing to write, which ends it soon.

        Returns:
          Whether every worker could write its part; else none of it stays.

        Raises:
          ValueError: on every worker, when one has facts that JSON cannot
            hold, or an array of Python objects.
        """
        step, process_group = int(self.loop.step), self.process_group
        me, count = process_group.index, process_group.count
        arrays = {n: np.asarray(v) for n, v in self._variables.items()}
        arrays |= {f"{HISTORY}{i}": a for i, a in enumerate(history)}
        facts = {**facts, latest.OURS: self._settings}

        def write():
            if failed is not None:
                return failed
            try:
                checkpoint.write(step, me, count, arrays, facts)
            except OSError as error:
                return error

        problem = latest.all_or_none(process_group, write)
        all_have = not process_group.gather(np.int32(problem is not None)).any()
        try:
            if all_have:
                self._whole = step
                checkpoint.prune(me, count)
            elif self._whole != step:  # else what was there before is as good
                checkpoint.discard(step, me, count)
        except OSError as error:
            problem = problem or error
        if problem is not None and problem is not failed:
            logging.warning(
                "Worker %d cannot write its part of the checkpoint of step %d "
                "to %s: %s. The last good checkpoint stays.",
                me,
                step,
                checkpoint.directory,
                problem,
            )
        return all_have

    def restore_latest(self, checkpoint: Checkpoint) -> SavedPart | None:
        """Puts the newest checkpoint of all workers back; all must ask.

        Returns:
          What was found; None if there was nothing.

        Raises:
          ValueError: on every worker, for what is damaged or of another model.
        """
        latest.all_or_none(self.process_group, checkpoint.prepare)
        found = latest.newest(checkpoint, self.process_group)
        if found is None:
            return None
        latest.all_or_none(self.process_group, lambda: self.restore_part(found))
        return found

    def restore_part(self, found: SavedPart) -> None:
        """Puts a checkpoint's values into the variables of the run.

        When it is of another number of workers, a new round begins.

        Raises:
          ValueError: unless the variables are the very ones that were saved,
            by name, shape and type, in a run of the same settings.
        """
        self._refuse_others(found)
        for name, variable in self._variables.items():
            if name in found.arrays:
                variable.assign(found.arrays[name])
        self.loop.hold()
        self.loop.workers.share_frozen()
        if found.workers == self.process_group.count:
            self._whole = found.step
            logging.log(
                logging.WARNING
                if self.process_group.is_chief
                else logging.INFO,
                "Going on from the checkpoint of step %d.",
                found.step,
            )
        else:
            self._begin_round(found)

    def _refuse_others(self, found: SavedPart) -> None:
        """Raises ValueError for a checkpoint of another model or settings."""
        ours, theirs = self._settings, found.facts[latest.OURS]
        if ours["simulated"] != theirs["simulated"]:
            raise ValueError(
                f"The checkpoint of step {found.step} is of "
                f"{_place(theirs, found.workers)}; expected one of "
                f"{_place(ours, self.process_group.count)}. A simulation goes "
                "on with the number of workers that it had: give their "
                "shards, or another checkpoint directory."
            )
        same_workers = found.workers == self.process_group.count
        unlike = _unlike_variables(self._variables, found.arrays, same_workers)
        unlike = unlike or _unlike_settings(ours, theirs, same_workers)
        if unlike:
            raise ValueError(
                f"The checkpoint of step {found.step} is of another model or "
                f"other settings: {'; '.join(unlike[:3])} ({len(unlike)} in "
                "all). Give those that it was made with, or another checkpoint "
                "directory."
            )

    def _begin_round(self, found: SavedPart) -> None:
        """Begins a round from the average of another number of workers."""
        loop, process_group = self.loop, self.process_group
        old = tuple(bucket.read_value() for bucket in loop.w0)
        average = loop.workers.snapshot()
        weights = loop.workers.worker.constrain(average.weights)
        loop.workers.assign(average._replace(weights=weights))
        loop.restart()
        if loop.monitor is not None:
            loop.monitor.synchronised(tuple(loop.w0), old)
        # A worker that was not there has random states of its own, too.
        loop.workers.take_seeds(process_group.index - found.worker)
        logging.log(
            logging.WARNING if process_group.is_chief else logging.INFO,
            "The checkpoint of step %d is of %d workers; there are %d now. All "
            "begin a new round from the average of those models. Each takes "
            "the optimizer of one of those workers, in turn, and, unless it "
            "is alone, what error feedback has left out there; what nobody "
            "takes is lost.",
            found.step,
            found.workers,
            process_group.count,
        )


def _settings(loop: Loop) -> dict[str, Any]:
    """Returns what a run must be set to, to go on with what another did."""
    workers = loop.workers
    described = description.describe(
        workers.worker,
        loop.algorithm,
        **workers.settings(),
    )
    for name in described:
        if name.startswith("optimizer"):
            optimizer = json.loads(described[name])
            described[name] = json.dumps(_without_rate(optimizer))
    source = {
        f"data's {name}": getattr(workers.source, name, None)
        for name in ("batch_size", "sampling", "seed")
    }
    alone = workers.clients == workers.process_group.count
    simulated = 0 if alone else workers.clients
    marked = {str(i): rule for i, rule in workers.worker.marked.items()}
    own = {"simulated": simulated, "marked": marked}
    return own | described | source


def _without_rate(config: Any) -> Any:
    """Leaves out rates that are numbers: callbacks change them, and they are
    among the variables."""
    if isinstance(config, list):
        return [_without_rate(part) for part in config]
    if not isinstance(config, dict):
        return config
    return {
        name: _without_rate(value)
        for name, value in config.items()
        if name != "learning_rate" or not isinstance(value, (int, float))
    }


def _place(settings: Mapping[str, Any], workers: int) -> str:
    simulated = settings["simulated"]
    if simulated:
        return f"a simulation of {simulated} workers"
    return f"{workers} processes" if workers > 1 else "one process"


def _unlike_variables(
    variables: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    same_workers: bool,
) -> list[str]:
    """Returns what differs between a run's variables and those that it was."""

    def forms(things):
        return {
            name: f"{np.dtype(thing.dtype.name)}{[int(n) for n in thing.shape]}"
            for name, thing in things.items()
            if not name.startswith(HISTORY)
            and (same_workers or not name.startswith(ALONE_WITHOUT))
        }

    ours, theirs = forms(variables), forms(arrays)
    return [
        f"{n} is {theirs.get(n, 'missing')}, not {ours.get(n, 'known')}"
        for n in sorted({**ours, **theirs})
        if ours.get(n) != theirs.get(n)
    ]


def _unlike_settings(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], same_workers: bool
) -> list[str]:
    """Returns what differs between settings, as far as it can be told."""
    left_out: tuple[str, ...] = () if same_workers else ("data's ",)
    if any(ours[name] != theirs[name] for name in VERSIONS):
        left_out += VERSIONS + KERAS
        logging.warning(
            "The checkpoint was made with %s, this is %s: not every number "
            "will be the same. What Keras describes, in each version in its "
            "own words, is not compared: optimizers, loss and layers.",
            *(
                ", ".join(f"{n} {s[n]}" for n in VERSIONS)
                for s in (theirs, ours)
            ),
        )
    return [
        f"{name} was {theirs.get(name)}, is {ours.get(name)}"
        for name in agreement.unlike(ours, theirs)
        if not name.startswith(left_out)
    ]
