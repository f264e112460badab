"""Starts jobs in which something goes wrong, and sees how they end."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import launched
import processes

from fda_tf import launch

START_SECONDS = 90  # until a job trains, on a busy machine
JOB = processes.HERE / "fault_job.py"


class Process(threading.Thread):
    """A process that is read to its end.

    Attributes:
      code: its return code.
      output: all that it has said.
      ended: when it ended, in seconds since 1970.
    """

    def __init__(self, command, extra):
        super().__init__(daemon=True)
        self.process = subprocess.Popen(
            command,
            env=processes.environment(**extra),
            stdout=subprocess.PIPE,  # a file would be cut where disks are full
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.code = self.output = self.ended = None
        self.start()

    def run(self):
        """Reads it, until it has ended."""
        self.output, _ = self.process.communicate()
        self.code, self.ended = self.process.returncode, time.time()


class Run:
    """A job's processes; what still runs at the end of a `with` is killed.

    Args:
      folder: of the job.
      **settings: of `fault_job`.
    """

    def __init__(self, folder, **settings):
        self.folder = folder
        self.words = [str(JOB), str(folder), json.dumps(settings)]
        self.began = time.time()
        self.all = []

    def workers(self, numbers=(0, 1), addresses=None, wrapped=None):
        """Starts workers, of whom there are two in all."""
        if addresses is None:
            ports = launch.free_ports(2)
            addresses = [f"127.0.0.1:{port}" for port in ports]
        for k in numbers:
            task = {"type": "worker", "index": k}
            config = {"cluster": {"worker": addresses}, "task": task}
            command = [sys.executable, *self.words]
            self.all.append(
                Process(
                    wrapped(k, command) if wrapped else command,
                    {"TF_CONFIG": json.dumps(config)},
                )
            )
        return self

    def launcher(self, *flags, **extra):
        """Starts both workers by the launcher, with flags and variables."""
        command = [sys.executable, "-m", "fda_tf.launch", "--workers=2", *flags]
        self.all.append(Process([*command, *self.words], extra))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pids = [self.read("pid", k) for k in range(2)]
        for process in self.all:
            process.process.kill()
            process.join(10)
        for pid in filter(None, pids):  # those of a launcher
            if launched.runs(pid) and _is_ours(pid):
                os.kill(pid, signal.SIGKILL)

    def read(self, name, k):
        """Returns what worker k keeps under a name; None before it does."""
        path = self.folder / f"{name}-{k}"
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            return None

    def steps(self, k):
        """Returns the steps that worker k has done, in order."""
        path = self.folder / f"steps-{k}"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [int(line) for line in lines]

    def wait_for(self, condition):
        """Waits for something that comes while the job trains."""
        assert launched.eventually(condition, START_SECONDS), self.said()

    def wait_for_step(self, step):
        """Waits until both workers have done it."""
        self.wait_for(
            lambda: min(max([0, *self.steps(k)]) for k in (0, 1)) >= step
        )

    def end(self, seconds=60, since=None):
        """Waits for all that was started; returns the output of each.

        They have so many seconds from the fault, or from another time.
        """
        deadline = time.time() + START_SECONDS + seconds
        for process in self.all:
            process.join(max(0.1, deadline - time.time()))
        assert None not in self.codes(), f"hangs: {self.said()}"
        faults = [self.read("fault", k) for k in (0, 1)]
        since = since or max(filter(None, faults), default=self.began)
        last = max(process.ended for process in self.all) - since
        print(f"ended {last:.1f} s after the fault with {self.codes()}")
        assert last < seconds, self.said()
        return [process.output for process in self.all]

    def codes(self):
        """Returns the exit code of each process."""
        return [process.code for process in self.all]

    def said(self):
        """Returns the end of what each process said."""
        return [
            p.code if p.output is None else p.output[-3000:] for p in self.all
        ]


def _is_ours(pid):
    """Whether a pid has not become another program's."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return JOB.name.encode() in file.read()
