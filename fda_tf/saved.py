"""The whole state of a run, to a checkpoint and back.

A checkpoint is the values of variables, by what they are, and a few facts.
All workers write at the same step and go on from the same one: the newest of
which every worker's part is sound.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from fda_tf.checkpoint import Checkpoint
from fda_tf.training import Loop

ENDLESS = 2**62  # above all steps

Variables = Mapping[str, Sequence[tf.Variable]]


class Saved(NamedTuple):
    """One worker's part of a checkpoint."""

    step: int
    workers: int  # that there were
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def save(
    checkpoint: Checkpoint,
    loop: Loop,
    variables: Variables,
    facts: Mapping[str, Any],
) -> bool:
    """Writes a checkpoint; all workers must. A full disk ends no training.

    Args:
      checkpoint: where to.
      loop: that was running.
      variables: name -> what to keep, variables or arrays, in an order that
        stays.
      facts: what JSON can hold.

    Returns:
      Whether every worker could write its part; else none of it stays.
    """
    arrays = {
        f"{name}/{i}": np.asarray(variable)
        for name, group in variables.items()
        for i, variable in enumerate(group)
    }
    facts = {**facts, "average_statistics": loop.average_statistics}
    replicas, step, written = loop.workers.replicas, int(loop.step), True
    me, count = replicas.index, replicas.count
    try:
        checkpoint.write(step, me, count, arrays, facts)
    except OSError as error:
        written = False
        logging.warning(
            "Worker %d cannot write its part of the checkpoint of step %d to "
            "%s: %s. Training goes on, and the last good checkpoint stays.",
            me,
            step,
            checkpoint.directory,
            error,
        )
    all_have = bool(replicas.gather(np.int32(written)).all())
    if all_have:
        checkpoint.prune(me, count)
    else:
        checkpoint.discard(step, me, count)
    return all_have


def newest(checkpoint: Checkpoint, replicas: Any) -> Saved | None:
    """Returns our part of the newest checkpoint that all have; all must ask.

    When the newest is of another number of workers, the part is made of
    theirs: the mean of the models, and the rest of one of them.

    Raises:
      ValueError: when a file that is needed is missing or damaged.
    """
    me, count = replicas.index, replicas.count
    step = _newest_sound(checkpoint, replicas)
    other, workers = _newest_of_others(checkpoint, replicas)
    if other > step:
        return _all_or_none(
            replicas, lambda: _merged(checkpoint, other, workers, me)
        )
    if not step:
        return None
    checkpoint.rewind(step, me, count)
    read = _all_or_none(replicas, lambda: checkpoint.read(step, me, count))
    return Saved(step, count, *read)


def go_on(
    checkpoint: Checkpoint, loop: Loop, variables: Variables
) -> Saved | None:
    """Puts the newest checkpoint of all workers back; all must ask.

    Returns:
      What was found, without what was put back; None if nothing was.

    Raises:
      ValueError: on every worker, for what is damaged or of another model.
    """
    replicas = loop.workers.replicas
    found = newest(checkpoint, replicas)
    if found is None:
        return None
    rest = {
        name: found.arrays.pop(name)
        for name in list(found.arrays)
        if name.startswith("history/")
    }
    _all_or_none(replicas, lambda: put_back(loop, variables, found))
    return found._replace(arrays=rest)


def put_back(loop: Loop, variables: Variables, saved: Saved) -> None:
    """Puts a checkpoint's values into the variables of a loop and its model.

    When it is of another number of workers, a new round begins.

    Raises:
      ValueError: unless they are the very ones that were saved, by name,
        shape and type.
    """
    _restore(variables, saved)
    home, replicas = loop.workers, loop.workers.replicas
    if saved.workers == replicas.count:
        return
    old = tuple(bucket.read_value() for bucket in loop.w0)
    loop.restart()
    if loop.monitor is not None:
        loop.monitor.synchronised(tuple(loop.w0), old)
    like = replicas.index % saved.workers
    # A worker that was not there has random states of its own, too.
    home.take_seeds(replicas.index - like)
    logging.info(
        "Worker %d: the checkpoint of step %d is of %d workers; there are %d. "
        "All begin a new round from the average of those models; optimizer "
        "and random states are like those of worker %d.",
        replicas.index,
        saved.step,
        saved.workers,
        replicas.count,
        like,
    )


def _restore(variables: Variables, saved: Saved) -> None:
    wanted = {
        f"{name}/{i}": variable
        for name, group in variables.items()
        for i, variable in enumerate(group)
    }
    ours = {n: _form(v.shape, v.dtype.name) for n, v in wanted.items()}
    theirs = {n: _form(a.shape, a.dtype.name) for n, a in saved.arrays.items()}
    unlike = [
        f"{n} is {theirs.get(n, 'missing')}, not {ours.get(n, 'known')}"
        for n in sorted({**ours, **theirs})
        if ours.get(n) != theirs.get(n)
    ]
    if unlike:
        raise ValueError(
            f"The checkpoint of step {saved.step} is of another model or other "
            f"settings: {'; '.join(unlike[:3])} ({len(unlike)} in all). Give "
            "those that it was made with, or another checkpoint directory."
        )
    for name, variable in wanted.items():
        variable.assign(saved.arrays[name])


def _form(shape, dtype: str) -> str:
    return f"{dtype.removesuffix('_')}{[int(n) for n in shape]}"


def _newest_sound(checkpoint, replicas) -> int:
    """Returns the newest step of which all K parts are sound; 0 if none."""
    mine = checkpoint.found(replicas.index, replicas.count)
    step = ENDLESS
    while True:
        everyone = replicas.gather(np.int64(step))
        low = everyone.min()
        if low < ENDLESS and (everyone == low).all():
            return int(low)
        step = _all_or_none(
            replicas, functools.partial(_at_most, mine, step, low)
        )


def _at_most(mine, step: int, low: int) -> int:
    """Returns the first of our steps that is at most `low`; 0 if none."""
    while step > low or step == ENDLESS:
        step = next(mine, (0,))[0]
    return step


def _all_or_none(replicas, function: Callable[[], Any]) -> Any:
    """Returns what a function does; raises on all workers if on any.

    Raises:
      ValueError: what it raised here, or that it raised elsewhere.
    """
    result, error = None, None
    try:
        result = function()
    except (ValueError, OSError) as raised:
        error = raised  # the others wait: tell them first
    failed = replicas.gather(np.int32(error is not None))
    if error is not None:
        raise error
    for k in np.flatnonzero(failed):
        raise ValueError(
            f"Worker {k} cannot read its part of the checkpoint; its own "
            "output says why."
        )
    return result


def _newest_of_others(checkpoint, replicas) -> tuple[int, int]:
    """Returns (step, K) of the newest of other numbers, as the chief sees."""
    sets = [
        (step, workers)
        for step in checkpoint.steps()
        for workers in checkpoint.workers_of(step)
        if workers != replicas.count
    ]
    seen = replicas.gather(np.int64(max(sets, default=(0, 0))))[0]
    return int(seen[0]), int(seen[1])


def _merged(checkpoint, step, workers, me) -> Saved:
    """Returns a part for worker `me`, of a checkpoint of other workers."""
    arrays, facts = checkpoint.read(step, me % workers, workers)
    averaged = [
        name
        for name in arrays
        if name.startswith("weights/")
        or (name.startswith("statistics/") and facts["average_statistics"])
    ]
    sums = {name: np.zeros(arrays[name].shape, np.float64) for name in averaged}
    for k in range(workers):
        part, _ = checkpoint.read(step, k, workers)
        for name in averaged:
            sums[name] += part[name]
    for name, total in sums.items():
        arrays[name] = (total / workers).astype(arrays[name].dtype)
    return Saved(step, workers, arrays, facts)
