"""Runs in processes of their own, as many as cores and memory allow.

A run is finished when its folder has summary.json, which is written last and
as a whole. A lock in the folder is held by whoever trains it: two sweeps of
one folder share the runs, and none is trained twice at once.
"""

import fcntl
import os
import pathlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import IO

from rich import console

from experiments import processes, store
from experiments.grid import Run
from experiments.tasks import TASKS

PROGRAM = (sys.executable, "-m", "experiments.run")
TRIES = 2
POLL_SECONDS = 0.1
GB = 10**9


def memory(run: Run) -> int:
    """Bytes that a run takes, roughly: TensorFlow, data, and the workers.

    A simulated worker holds its weights, two slots and a copy or two of them;
    a lane on each core as much again. Graphs and activations come to it: the
    run of DenseNet121 with K = 2 took 3.3 GB.
    """
    settings = run.settings
    state = 16 * TASKS[settings.task].parameters
    if settings.backend == "cluster":
        return settings.workers * (GB + 2 * state)
    return GB + min(18 * state, 4 * GB) + state * (settings.workers + 2)


def available_memory() -> int:
    """Bytes that the machine can still give, or the group of processes."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/proc/meminfo", "/sys/fs/cgroup/memory.max"):
        try:
            words = pathlib.Path(path).read_text().split()
        except OSError:
            continue
        if "MemAvailable:" in words:
            kilobytes = words[words.index("MemAvailable:") + 1]
            free = min(free, 1024 * int(kilobytes))
        elif words[0].isdigit():
            free = min(free, int(words[0]))
    return free


class Pool:
    """Trains the runs that are not finished; those that fail, once more.

    Args:
        runs: the runs of a sweep.
        results_dir: gets a folder for each, and results.jsonl.
        jobs: processes at once at most; None: one for each core.
        kept: file of rows of finished runs; gets those of this sweep.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        results_dir: str,
        jobs: int | None = None,
        kept: str | None = None,
    ):
        self.folder = pathlib.Path(results_dir)
        self.failed: list[Run] = []
        self._names = [run.settings.run_id for run in runs]
        self._kept, self._rows = kept, store.Runs(kept).by_id()
        self._todo = [run for run in runs if not self._finished(run)]
        self._running: list[_Process] = []
        self._tries: Counter = Counter()
        self._seconds: list[float] = []
        cores = sorted(os.sched_getaffinity(0))
        self._jobs = jobs = max(1, min(jobs or len(cores), len(self._todo)))
        self._cores = [cores[i::jobs] or cores for i in range(jobs)]
        self._memory = available_memory()
        self._screen = console.Console(soft_wrap=True, highlight=False)

    def train(self) -> None:
        """Returns when all runs are finished or have failed twice."""
        done = len(self._names) - len(self._todo)
        self._say(f"{len(self._names)} runs, {done} of them finished before")
        self._collect()
        try:
            with self._screen.status("") as status:
                while self._todo or self._running:
                    self._look()
                    self._start()
                    status.update(self._state())
                    time.sleep(POLL_SECONDS)
        finally:
            for process in self._running:
                processes.end(process.process)
        self._collect()

    def _finished(self, run: Run) -> bool:
        name = run.settings.run_id
        there = (self.folder / name / "summary.json").exists()
        return there or name in self._rows

    def _collect(self) -> None:
        store.collect(self.folder, self._kept, self._names)

    def _look(self) -> None:
        """Takes note of the processes that have ended."""
        for process in [p for p in self._running if p.ended()]:
            self._running.remove(process)
            self._cores.append(process.cores)
            run, name = process.run, process.run.settings.run_id
            if self._finished(run):
                self._seconds.append(process.seconds)
                self._collect()
                self._say(f"{name}: {process.seconds:.0f} s; {self._state()}")
            elif self._tries[name] < TRIES:
                self._todo.append(run)
                self._say(f"{name}: failed ({process.last_words()}); once more")
            else:
                self.failed.append(run)
                words = f"failed again ({process.last_words()})"
                self._say(f"{name}: {words}; {self._state()}")

    def _start(self) -> None:
        """Starts what cores and memory allow, and no other sweep trains."""
        for run in list(self._todo):
            free = self._memory - sum(memory(p.run) for p in self._running)
            if not self._cores or (self._running and memory(run) > free):
                return
            folder = self.folder / run.settings.run_id
            lock = _lock(folder)
            if lock is None:
                continue
            self._todo.remove(run)
            if self._finished(run):  # meanwhile, by another sweep
                lock.close()
                continue
            self._tries[run.settings.run_id] += 1
            cores = self._cores.pop(0)
            self._running.append(_Process(run, folder, lock, cores))

    def _state(self) -> str:
        left, bad = len(self._todo) + len(self._running), len(self.failed)
        known = len(self._names)
        text = f"{known - left - bad} of {known} done"
        text += f", {bad} failed" if bad else ""
        if left and self._seconds:
            mean = sum(self._seconds) / len(self._seconds)
            text += f", about {_duration(mean * left / self._jobs)} left"
        return text

    def _say(self, text: str) -> None:
        self._screen.print(text, markup=False)


class _Process:
    """A process of `experiments.run` on its cores; it holds the lock."""

    def __init__(
        self, run: Run, folder: pathlib.Path, lock: IO, cores: Sequence[int]
    ):
        self.run, self.cores, self.seconds = run, cores, 0.0
        self._log, self._began = folder / "run.log", time.monotonic()
        command = [*PROGRAM, *run.arguments]
        command += [f"--results_dir={folder.parent}", "--nopicture"]
        with lock, open(self._log, "a") as log:
            self.process = processes.start(
                command,
                cores=cores,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],
            )

    def ended(self) -> bool:
        self.seconds = time.monotonic() - self._began
        return self.process.poll() is not None

    def last_words(self) -> str:
        """How it ended: the last line of its log, and where that is."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        last = f": {lines[-1].strip()}" if lines else ""
        code = self.process.returncode
        return f"exit code {code}{last}; see {self._log}"


def _lock(folder: pathlib.Path) -> IO | None:
    """The lock of a run's folder, or None if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / ".lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _duration(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> _duration(20), _duration(600), _duration(36_000)
        ('20 s', '10 min', '10.0 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = f"{seconds / 60:.0f} min"
    return minutes if seconds < 6000 else f"{seconds / 3600:.1f} h"
