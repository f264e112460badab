"""Where a result comes from: versions, commit, machine, memory."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import resource
import subprocess
import sys


def peak_rss_bytes() -> int:
    """The most memory that this process has held since it began, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions(*packages: str) -> dict[str, str | None]:
    """Of Python and of packages; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def about() -> dict[str, object]:
    """What config.json says of the software: versions, git commit, time."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    packages = versions("tensorflow", "keras", "numpy", "fda_tf")
    return {"versions": packages, "git_commit": _commit(), "started": now}


def machine() -> dict[str, object]:
    """What figures were measured on."""
    name = platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        models = [line for line in lines if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    cores = len(os.sched_getaffinity(0))
    own = versions("tensorflow", "keras")
    return {"processor": name, "cores": cores} | own


def _commit() -> str | None:
    """Commit of these sources, "-dirty" if files differ; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40",
               "--exclude=*"]  # fmt: skip
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
