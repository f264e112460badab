"""Which checkpoint all workers go on from: the newest that all of them have.

When that is one of another number of workers, each makes a part for itself of
theirs. What is in a part is `fda_tf.checkpoint.run_state`'s.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from fda_tf.checkpoint.directory import Checkpoint
from fda_tf.checkpoint.file_format import DamagedError
from fda_tf.processes.error_messages import known

NONE, ENDLESS = -1, 2**62  # below and above all steps
HISTORY = "history/"  # begins the names of arrays that are no variables
OURS = "fda_tf"  # the name of what a run was set to, among the facts


class SavedPart(NamedTuple):
    """One worker's part of a checkpoint."""

    step: int
    worker: int  # whose part it is
    workers: int  # that there were
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]

    def history(self) -> list[np.ndarray]:
        """Returns the arrays that are no variables' values."""
        names = (name for name in self.arrays if name.startswith(HISTORY))
        return [self.arrays[name] for name in names]


def newest(checkpoint: Checkpoint, process_group: Any) -> SavedPart | None:
    """Returns our part of the newest checkpoint that all have; all must ask.

    When the newest is of another number of workers, the part is made of
    theirs: the mean of the models that are finite, and the rest of one of these
    workers, in turn. What is torn or damaged is warned of, and the one before
    it taken. Later parts of ours are removed, so that they never make a set
    with new ones of the others.

    Args:
      checkpoint: where to look.
      process_group: the workers that there are now.

    Raises:
      ValueError: on every worker, when there is something, and none of it is
        a checkpoint that all workers can read; when none of the models of
        another number of workers is finite.
    """
    me, count = process_group.index, process_group.count
    step = _newest_sound(checkpoint, process_group)
    found = _newest_of_others(checkpoint, process_group, step)
    if found is None and step != NONE:
        read = all_or_none(
            process_group, lambda: checkpoint.read(step, me, count)
        )
        found = SavedPart(step, me, count, *read)
    if found is None:
        _refuse_what_is_lost(checkpoint, process_group)
    last = found.step if found else NONE
    all_or_none(process_group, lambda: checkpoint.rewind(last, me, count))
    return found


def all_or_none(process_group: Any, function: Callable[[], Any]) -> Any:
    """Returns what a function does; raises on all workers if on any.

    Raises:
      ValueError: what it raised here, or that it raised elsewhere.
    """
    result, error = None, None
    try:
        result = function()
    except (ValueError, OSError) as raised:
        error = raised  # the others wait: tell them first
    failed = process_group.gather(np.int32(error is not None))
    if not failed.any():
        return result
    everyone = process_group.gather_json(str(error))
    first = everyone.index(str(error))
    if isinstance(error, OSError):
        words = f"The checkpoint cannot be used: {error}"
        raise known(ValueError(words), shown_by=first) from error
    if error is not None:
        raise known(error, shown_by=first)
    k = int(np.flatnonzero(failed)[0])
    raise known(ValueError(f"Worker {k}: {everyone[k]}"), shown_by=k)


def _newest_sound(checkpoint: Checkpoint, process_group: Any) -> int:
    """Returns the newest step of which all K parts are sound, or NONE."""
    mine = checkpoint.found(process_group.index, process_group.count)
    step = ENDLESS
    while True:
        everyone = process_group.gather(np.int64(step))
        low = everyone.min()
        if low < ENDLESS and (everyone == low).all():
            return int(low)
        step = all_or_none(process_group, lambda: _at_most(mine, step, low))  # noqa: B023 - called at once


def _at_most(mine: Iterator[tuple[int, int]], step: int, low: int) -> int:
    """Returns the first of our steps that is at most `low`, or NONE."""
    while step > low or step == ENDLESS:
        step = next(mine, (NONE,))[0]
    return step


def _newest_of_others(
    checkpoint: Checkpoint, process_group: Any, than: int
) -> SavedPart | None:
    """Returns a part made of the newest of other numbers of workers.

    Args:
      checkpoint: where to look.
      process_group: the workers that there are now.
      than: the step that it has to be newer than.
    """

    def whole():
        return [
            (step, workers)
            for step in checkpoint.steps()
            for workers in reversed(checkpoint.workers_of(step))
            if workers != process_group.count and step > than
        ]

    chiefs = process_group.gather_json(all_or_none(process_group, whole))[0]
    for step, workers in chiefs:
        part = all_or_none(
            process_group,
            lambda: _merged(checkpoint, step, workers, process_group.index),  # noqa: B023 - called at once
        )
        if process_group.gather(np.int32(part is not None)).all():
            return part
    return None


def _merged(
    checkpoint: Checkpoint, step: int, workers: int, me: int
) -> SavedPart | None:
    """Returns a part for worker `me`; None if one of theirs is damaged.

    Raises:
      ValueError: if none of their models is finite.
    """
    finite, merged = [], {}
    try:
        for k in range(workers):
            arrays, facts = checkpoint.read(step, k, workers)
            if all(np.isfinite(arrays[n]).all() for n in _model(arrays, True)):
                finite.append(k)
                for name in _model(
                    arrays, facts[OURS]["statistics"] == "average"
                ):
                    rule = _rule(name, facts)
                    merged[name] = rule(merged.get(name), arrays[name])
        _check_finite(checkpoint, step, workers, finite, me)
        worker = finite[me % len(finite)]
        arrays, facts = checkpoint.read(step, worker, workers)
    except DamagedError as error:
        logging.warning("%s", error)
        return None
    for name, value in merged.items():
        if _rule(name, facts) is _add:
            value = value / len(finite)
        arrays[name] = value.astype(arrays[name].dtype)
    return SavedPart(step, worker, workers, arrays, facts)


def _rule(name: str, facts: dict[str, Any]) -> Callable[[Any, np.ndarray], Any]:
    """Returns how a variable's values become one, as at synchronisations."""
    kind, _, place = name.partition("/")
    marked = facts[OURS].get("marked", {}) if kind == "statistics" else {}
    return {"max": _max, "first": _first}.get(marked.get(place), _add)


def _add(total: np.ndarray | None, value: np.ndarray) -> np.ndarray:
    return np.add(0 if total is None else total, value, dtype=np.float64)


def _max(total: np.ndarray | None, value: np.ndarray) -> np.ndarray:
    return value if total is None else np.maximum(total, value)


def _first(total: np.ndarray | None, value: np.ndarray) -> np.ndarray:
    return value if total is None else total


def _model(arrays: dict[str, np.ndarray], statistics: bool) -> list[str]:
    """Returns the names of a part's weights and, if asked for, statistics."""
    kinds = ("weights/", "statistics/") if statistics else ("weights/",)
    return [name for name in arrays if name.startswith(kinds)]


def _check_finite(
    checkpoint: Checkpoint, step: int, workers: int, finite: list[int], me: int
) -> None:
    """Warns of workers whose models are not finite, which are left out.

    Raises:
      ValueError: if none is left.
    """
    if not finite:
        raise ValueError(
            f"{checkpoint.directory}: of the checkpoint of step {step} the "
            f"models of all {workers} workers are NaN or infinite; expected "
            "one at least to go on from. Remove that step's folder, to go on "
            "from an earlier one; to begin anew, give an empty folder."
        )
    bad = sorted(set(range(workers)) - set(finite))
    if bad:
        logging.log(
            logging.INFO if me else logging.WARNING,
            "In the checkpoint of step %d the model of worker %s is NaN or "
            "infinite: it is left out of the average, and nobody goes on with "
            "that optimizer.",
            step,
            ", ".join(map(str, bad)),
        )


def _refuse_what_is_lost(checkpoint: Checkpoint, process_group: Any) -> None:
    """Raises if parts exist and no whole checkpoint, rather than start afresh.

    Workers that were killed while they wrote the very first checkpoint leave
    that of some workers, and none of others: nothing is lost then.

    Raises:
      ValueError: on every worker, if there is more.
    """

    def count():
        parts = [
            part for s in checkpoint.steps() for part in checkpoint.parts(s)
        ]
        ours = sum(
            (part.worker, part.workers)
            == (process_group.index, process_group.count)
            for part in parts
        )
        others = {p.workers for p in parts if p.workers != process_group.count}
        return {"ours": ours, "others": sorted(others)}

    everyone = process_group.gather_json(all_or_none(process_group, count))
    ours = [seen["ours"] for seen in everyone]
    others = sorted({k for seen in everyone for k in seen["others"]})
    if others:
        raise ValueError(
            f"{checkpoint.directory} has parts of checkpoints of "
            f"{' and '.join(map(str, others))} workers, but no whole one that "
            f"can be read from each of the {process_group.count} workers that "
            "there are now. Put the files of all workers into one folder that "
            "every worker sees; to begin anew, give an empty one."
        )
    if max(ours) > 1 or min(ours) == 1:
        told = ", ".join(f"worker {k} {n}" for k, n in enumerate(ours))
        raise ValueError(
            f"{checkpoint.directory} has no checkpoint of which every worker's "
            f"part is there and sound (parts there: {told}). Bring the missing "
            "files back; to begin anew, give an empty folder on every worker."
        )
