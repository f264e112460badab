"""Sweeps as the tests call them."""

import signal

from absl import flags
from absl.testing import flagsaver

from experiments import grid, run, sweep


def runs(*arguments, grids=None, **axes):
    """The runs of one grid, or of several, with these flags given."""
    with flagsaver.flagsaver():
        flags.FLAGS(["sweep", *arguments])
        return grid.runs(grids or [axes], run.own_flags())


def command(*arguments):
    """Runs the sweep's command line in this process; returns its exit code."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with flagsaver.flagsaver():
            flags.FLAGS(["sweep", *arguments])
            return sweep.main(["sweep"])
    finally:
        signal.signal(signal.SIGTERM, before)
