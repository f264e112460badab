"""What TensorFlow says of a worker that is gone, in words."""

import re
from collections.abc import Sequence
from typing import TypeVar

import tensorflow as tf

GONE = (  # by these errors we learn of another worker's end
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
)
LONGEST = 300  # characters of what somebody else says
NOBODY = -1

Error = TypeVar("Error", bound=BaseException)

_SIGN = "fda_tf was told: "
_TOLD = re.compile(_SIGN + "(.*)")
_TASK = re.compile(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)")
_LATE = "fda_tf has waited "
_NO_ANSWER = "Deadline Exceeded"
_ABORTED = "Collective ops is aborted"
_SHAPES = "Shape mismatch in the collective"
_WHERE = (" ", "Graph execution error", "Detected at node", "<stack traces")
_SAYS = re.compile(f"^.*{_ABORTED} by: ", re.MULTILINE | re.DOTALL)


def known(error: Error, shown_by: int) -> Error:
    """Marks an error of which all workers know: they need not be told again.

    Args:
      error: that ends this worker.
      shown_by: the worker that shows where it was raised, if no script catches
        it; the others show one line. `NOBODY` where that says nothing.

    Returns:
      The error itself.
    """
    error._fda_tf_shown_by = shown_by
    return error


def shown_by(error: BaseException) -> int | None:
    """Returns which worker shows where an error was; None if it is not known.

    Example:
      >>> shown_by(known(ValueError(), 2)), shown_by(ValueError())
      (2, None)
    """
    return getattr(error, "_fda_tf_shown_by", None)


def is_others(error: tf.errors.OpError) -> bool:
    """Returns whether it is another worker's end that an error tells of."""
    told = _TOLD.search(str(error)) is not None
    return told or (isinstance(error, GONE) and not is_late(error))


def last_words(worker: int, error: BaseException) -> str:
    """Returns what a worker tells all others when an error ends it.

    Example:
      >>> last_words(2, ValueError("too late"))
      'fda_tf was told: Worker 2 failed; all workers stop: ValueError: too late'
    """
    what = f"{type(error).__name__}: {_gist(str(error))}".removesuffix(": ")
    return f"{_SIGN}Worker {worker} failed; all workers stop: {what}"


def in_brief(error: BaseException) -> str:
    """Returns an error as others are told of it, without where in a graph.

    Example:
      >>> in_brief(ValueError("too late"))
      'ValueError: too late'
    """
    text = str(error)
    if isinstance(error, tf.errors.OpError):
        text = _gist(text)
    return f"{type(error).__name__}: {text}"


def in_words(
    error: tf.errors.OpError,
    worker: int,
    addresses: Sequence[str],
    chiefs: int,
) -> str | None:
    """Returns what an error says of other workers; None if nothing.

    Args:
      error: TensorFlow's.
      worker: who received it.
      addresses: of all workers.
      chiefs: how many of them, the first, TensorFlow calls chiefs.

    Example:
      >>> message = "Timed out at /job:worker/replica:0/task:1"
      >>> error = tf.errors.UnavailableError(None, None, message)
      >>> print(in_words(error, 0, ["a:1", "b:1"], 0)[:42])
      Worker 0 lost worker 1 (b:1): it was kille
    """
    text = str(error)
    told = _TOLD.search(text)
    if told:
        return told[1]
    says = _gist(_SAYS.sub("", text))
    if isinstance(error, GONE):
        # By now what is lost is named, but for a chief that does not answer.
        silent = {0} - {worker} if says.startswith(_NO_ANSWER) else set()
        what = _lost(_named(text, chiefs) - {worker} or silent, addresses)
        if is_late(error):
            words = text.partition(_LATE)[2].splitlines()[0]
            return f"Worker {worker} has waited {words}"
    elif isinstance(error, tf.errors.InternalError) and _ABORTED in text:
        what = _OTHERWISE
    elif _SHAPES in text:
        what = _ELSEWHERE
    else:
        return None
    return (
        f"Worker {worker} {what} All processes must be started again. "
        f"TensorFlow says: {says}"
    )


def waited(seconds: float) -> str:
    """Returns what ends the exchanges of who has waited too long."""
    return (
        f"{_LATE}{seconds:g} s for the others, of whom not all took part; see "
        "their own output. All processes must be started again. Compilation "
        "and a local step count, too: where that long is no fault, give "
        "connect() a longer timeout."
    )


def is_late(error: BaseException) -> bool:
    """Returns whether an error is of one who has waited too long."""
    return _LATE in str(error)


def _gist(text: str) -> str:
    """Returns the first line that says something, without where in a graph."""
    lines = [line for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_WHERE)]
    return next(iter(telling + lines), "")[:LONGEST]


def _named(text: str, chiefs: int) -> set[int]:
    """Returns the workers that TensorFlow names as tasks."""
    # After this word are those that are lost, before it one that says so.
    tasks = _TASK.findall(text.partition("unhealthy")[2] or text)
    return {int(k) + (chiefs if job == "worker" else 0) for job, k in tasks}


def _lost(workers: set[int], addresses: Sequence[str]) -> str:
    who = [
        f"worker {k} ({addresses[k]})"
        for k in sorted(workers)
        if k < len(addresses)
    ]
    return (
        f"lost {' and '.join(who) or 'another worker'}: it was killed, cut "
        "off or stopped, or it failed; see its own output."
    )


_ELSEWHERE = (
    "is at another place than the others, which exchange something else now. "
    "All workers must make the same calls, equally often: in a loop of your "
    "own, give all as many steps, or let Trainer.agree() end the loop."
)
_OTHERWISE = (
    "exchanged something else than the others: another tf.distribute strategy "
    "was used after fda_tf.connect(), or the workers run different scripts. "
    "Make no strategy."
)
