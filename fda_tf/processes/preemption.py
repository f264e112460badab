"""SIGTERM: the machine is wanted for something else."""

import atexit
import contextlib
import functools
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from absl import logging

# Exit codes after SIGTERM. 143 is what a shell shows of any program that
# SIGTERM ends; a batch system may take 0 for "finished". NOT_SAVED is above
# 192 = 128 + 64, the highest code that a shell gives to a signal.
SAVED = 128 + signal.SIGTERM
NOT_SAVED = 128 + os.EX_IOERR  # 202


class Preempted(SystemExit):
    """The end of a worker that got SIGTERM; that of all, as they agreed."""


class Preemption:
    """Remembers SIGTERM while it watches, in place of ending the process.

    Only the main thread can watch; elsewhere nothing is changed. Nor is it in
    a child process that is forked meanwhile, such as those of
    `multiprocessing.Pool`: SIGTERM ends it, and this process does not hear.

    Args:
      tell: called when it comes, in a thread of its own, since the main one
        may be in a compiled call of many steps.

    Example:
      >>> preemption = Preemption()
      >>> with preemption.watch():
      ...     signal.raise_signal(signal.SIGTERM)
      >>> preemption.came
      True
    """

    def __init__(self, tell: Callable[[], None] = lambda: None):
        self.came = False
        self._tell = tell

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Makes the context in which SIGTERM is remembered."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with self._listening() as ear, _handler(self._remember, ear):
            yield

    @staticmethod
    def end(step: int, saved: int | None, chief: bool) -> None:
        """Ends the process, when all workers have tried to save their state.

        Args:
          step: that they are at.
          saved: the step of the last checkpoint; None if there is none.
          chief: whether to say so.

        Raises:
          Preempted: with `SAVED` if the step is saved, else with `NOT_SAVED`.
        """
        if saved == step:
            message = f"all workers have saved step {step}, and end. Started "
            message += "again, they go on from there."
        else:
            then = "begin anew" if saved is None else f"go on from step {saved}"
            message = f"all workers end, but step {step} could not be saved; "
            message += f"their output says why. Started again, they {then}."
        if chief:
            logging.warning("SIGTERM: %s", message)
        # Registered last, it is called before multiprocessing waits for them.
        atexit.register(_kill_children)
        raise Preempted(SAVED if saved == step else NOT_SAVED)

    def _remember(self, *_) -> None:
        self.came = True

    @contextlib.contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        """Hears of signals at once, whatever the main thread is doing.

        Gives the socket to which Python is to write their numbers.
        """
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        thread = threading.Thread(
            target=self._listen, args=(reading,), daemon=True
        )
        with reading, writing:
            thread.start()
            try:
                yield writing
            finally:
                # It ends the thread, though a child may still hold the socket;
                # in a child it is closed, and the parent's goes on.
                with contextlib.suppress(OSError):
                    writing.shutdown(socket.SHUT_WR)
                thread.join()

    def _listen(self, reading: socket.socket) -> None:
        while heard := reading.recv(1):
            if heard[0] == signal.SIGTERM:
                self.came = True
                self._tell()


@contextlib.contextmanager
def _handler(function: Callable, ear: socket.socket) -> Iterator[None]:
    """Handles SIGTERM by a function, and writes signals to a socket."""
    # None: what was there was set in C, and cannot be put back.
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    fd = signal.set_wakeup_fd(ear.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, function)

    def restore() -> None:
        signal.set_wakeup_fd(fd)
        signal.signal(signal.SIGTERM, before)

    with _in_children(lambda: (restore(), ear.close())):
        try:
            yield
        finally:
            restore()


def _kill_children() -> None:
    """Ends the children for which multiprocessing would wait.

    Daemons, such as a pool's, it ends itself: one that is killed may leave a
    lock behind on which the pool then waits for ever.
    """
    for child in multiprocessing.active_children():
        if not child.daemon:
            child.kill()


_undo: list[Callable[[], Any]] = []
_mask = threading.local()


@contextlib.contextmanager
def _in_children(undo: Callable[[], Any]) -> Iterator[None]:
    """Makes a context; a child that is forked in it begins with undo()."""
    _prepare_forks()
    _undo.append(undo)
    try:
        yield
    finally:
        if undo in _undo:  # not in such a child
            _undo.remove(undo)


@functools.cache
def _prepare_forks() -> None:
    os.register_at_fork(
        before=_hold_sigterm,
        after_in_parent=_release_sigterm,
        after_in_child=_begin_child,
    )


def _hold_sigterm() -> None:
    # Between the fork and `undo` the child would write to the parent's socket.
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _release_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _begin_child() -> None:
    while _undo:  # the last first
        _undo.pop()()
    _release_sigterm()
