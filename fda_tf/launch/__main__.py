"""The command line: python -m fda_tf.launch --workers=4 train.py ARGUMENTS."""

import argparse
import sys
from collections.abc import Sequence

from fda_tf import launch

USAGE = (
    "python -m fda_tf.launch --workers=K [--max_restarts=N] [--grace=SECONDS] "
    "[--quiet] [--log_dir=DIR] (SCRIPT.py | PROGRAM | -m MODULE) [ARGUMENT ...]"
)


def parser() -> argparse.ArgumentParser:
    """Returns what knows our own flags; all after the script are its own."""
    flags = argparse.ArgumentParser(
        prog="python -m fda_tf.launch",
        usage=USAGE,
        description="Starts one process a worker on this machine, shows what "
        "they say, and ends all when one fails.",
        epilog="SIGTERM is passed on to the workers, which may save their "
        "state. FDA_TF_RESTART tells them which start this is: 0, 1, ... The "
        "exit code is 0 if all ended with 0; 143 if SIGTERM came and the "
        "workers have saved their state, of which there is no restart; else "
        "that of the first failure of the last start (202: SIGTERM came and "
        "the state could not be saved); 130 after Ctrl-C. When the workers "
        "have ended, the processes that they have started are killed.",
        allow_abbrev=False,
    )
    flags.add_argument(
        "--workers", type=int, required=True, metavar="K", help="processes"
    )
    flags.add_argument(
        "--max_restarts",
        type=int,
        default=0,
        metavar="N",
        help="start all again after a failure, N times in all (default: 0)",
    )
    flags.add_argument(
        "--grace",
        type=float,
        default=launch.PREEMPTION_SECONDS,
        metavar="SECONDS",
        help="from SIGTERM to killing what still runs (default: %(default)g)",
    )
    flags.add_argument(
        "--quiet",
        action="store_true",
        help="show only what worker 0 says, and the end of what one says that "
        "fails",
    )
    flags.add_argument(
        "--log_dir",
        metavar="DIR",
        help="keep what each worker says in DIR/worker-K.log, too",
    )
    flags.add_argument(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        help="run a module with its arguments, as python -m does",
    )
    flags.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="SCRIPT.py ...",
        help="a script for this Python, or else a program; with its arguments",
    )
    return flags


def command(module: Sequence[str] | None, words: Sequence[str]) -> list[str]:
    """Returns what each worker runs; nothing if there is nothing.

    Example:
      >>> command(None, ["prog", "--x=1"]), command(None, ["--", "prog"])
      (['prog', '--x=1'], ['prog'])
    """
    # Unbuffered: else a pipe shows what was printed when it is full.
    python = [sys.executable, "-u"]
    if module:
        return [*python, "-m", *module]
    words = list(words[1:] if words[:1] == ["--"] else words)
    if words and words[0].endswith(".py"):
        return [*python, *words]
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Launches what the words say; returns the exit code."""
    flags = parser()
    options = flags.parse_args(argv)
    words = command(options.module, options.command)
    if not words:
        flags.error(
            "there is nothing to run: give a script, -m MODULE or a program "
            "after the flags"
        )
    try:
        return launch.launch(
            words,
            options.workers,
            max_restarts=options.max_restarts,
            grace=options.grace,
            quiet=options.quiet,
            log_dir=options.log_dir,
        )
    except ValueError as error:
        flags.error(str(error))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
