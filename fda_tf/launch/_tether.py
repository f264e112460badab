"""Becomes a worker's command, tied to the process that launched it.

The launcher runs this file, not the command itself: what it asks of the system
holds for the command too, and unlike subprocess's `preexec_fn` it is safe when
the launcher has threads. TensorFlow is not imported here.

  python _tether.py LAUNCHER_PID PROGRAM [ARGUMENT...]
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>


def tethered(command: Sequence[str]) -> list[str]:
    """Returns a command whose process ends when this one does.

    On Linux the system then kills it, however this process ends. It does not
    hear Ctrl-C: who starts it ends it.

    Args:
      command: the program and its arguments, to be run as a child.

    Example:
      >>> import subprocess
      >>> subprocess.run(tethered(["true"])).returncode
      0
    """
    # Isolated and without site: it starts in 20 ms, whatever is installed.
    tether = [sys.executable, "-I", "-S", __file__]
    return [*tether, str(os.getpid()), *command]


def main(launcher: int, command: list[str]) -> None:
    """Becomes the command; exits with 127 if there is no such program."""
    # The terminal sends Ctrl-C to all; the launcher hears it and ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # However the launcher ends, the system then ends this process.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        sys.exit("The launcher has ended already.")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)  # as shells say it


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
