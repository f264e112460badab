"""Where a result comes from: versions, commit, and what it took of memory."""

import datetime
import importlib.metadata
import pathlib
import platform
import resource
import subprocess
import sys


def peak_rss_bytes() -> int:
    """The most memory that this process has held since it began, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def about() -> dict[str, object]:
    """What config.json says of the software: versions, git commit, time."""
    packages = ("tensorflow", "keras", "numpy", "fda_tf")
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"versions": versions, "git_commit": _commit(), "started": now}


def _commit() -> str | None:
    """Commit of these sources, "-dirty" if files differ; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40",
               "--exclude=*"]  # fmt: skip
    try:
        done = subprocess.run(
            command,
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
