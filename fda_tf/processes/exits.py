"""How a process of a job ends, and what it shows of the error that ends it."""

import atexit
import contextlib
import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

from fda_tf.processes import error_messages

END_SECONDS = 10.0  # of a process that has failed


@contextlib.contextmanager
def exit_after(seconds: float, quiet: bool = False) -> Iterator[None]:
    """Ends the process, unless what is inside ends in time.

    Should a worker die while the others join it, only this still ends them.

    Args:
      seconds: until then.
      quiet: whether it then does not show where it was.
    """
    where = {"file": open(os.devnull, "w")} if quiet else {}
    faulthandler.dump_traceback_later(seconds, exit=True, **where)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def tell_at_exit(process_group: Any) -> None:
    """Tells the others, who may wait for us, of the error that ends us."""
    if process_group.is_forked:
        return
    error = getattr(sys, "last_value", None)  # that nobody has caught
    if error is None:
        if not process_group.used:
            logging.warning(
                "Worker %d of %d has trained with none of the others: nothing "
                "was averaged. Give model.fit the callback fda_tf.FDA(...), on "
                "every worker.",
                process_group.index,
                process_group.count,
            )
        return
    if error_messages.shown_by(error) is None:
        process_group.give_up(error, shown=True)
    # TensorFlow may take a minute to end its datasets: tf.data's threads can
    # miss that they are to end, and then sleep on. Others wait for this end.
    faulthandler.dump_traceback_later(
        END_SECONDS, exit=True, file=open(os.devnull, "w")
    )


def show_once(process_group: Any, show: Callable) -> Callable:
    """Returns a hook that shows where an error was on one worker only.

    Args:
      process_group: the processes of the job.
      show: the hook before, which shows an error that no script has caught.
    """

    def hook(kind, error, traceback):
        if error_messages.shown_by(error) in (None, process_group.index):
            show(kind, error, traceback)
        else:
            sys.stderr.write(f"{kind.__name__}: {error}\n")
        # Registered last, it is called before multiprocessing waits for what
        # the script has started.
        atexit.unregister(tell_at_exit)
        atexit.register(tell_at_exit, process_group)

    return hook
