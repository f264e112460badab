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

PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>


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
