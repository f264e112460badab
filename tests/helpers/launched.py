"""Small jobs to be launched; they need no TensorFlow, so they start at once."""

import pathlib
import sys
import time

HEAD = (
    "import json, os, pathlib, signal, sys, time\n"
    "config = json.loads(os.environ['TF_CONFIG'])\n"
    "k, start = config['task']['index'], int(os.environ['FDA_TF_RESTART'])\n"
    "folder = pathlib.Path(sys.argv[1])\n"
)


def command(tmp_path, body):
    """A worker's command that runs the body; k is its number."""
    script = tmp_path / "job.py"
    script.write_text(HEAD + body)
    return [sys.executable, str(script), str(tmp_path)]


def runs(pid):
    """Whether a process is there and no zombie."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state.rpartition(")")[2].split()[0] not in "ZX"


def eventually(condition, seconds=20):
    """Whether it holds before long."""
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held
