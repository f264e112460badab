"""Stands for SLURM's srun: starts the tasks of a step, all on this machine.

It sets what srun sets, writes the tasks' process ids to FAKE_SRUN_PIDS, and
ends with the highest of their exit codes. It ends them itself after 80 s.
"""

import os
import pathlib
import subprocess
import sys
import time

SECONDS = 80


def main(words: list[str]) -> int:
    """Runs the command after srun's own options, once for each task."""
    while words[0].startswith("--"):
        words = words[1:]
    count = int(os.environ["SLURM_NTASKS"])
    step = {
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": str(count),
        "SLURM_NODEID": "0",
        "SLURM_DISTRIBUTION": "block",
    }
    tasks = [
        subprocess.Popen(
            words,
            env=os.environ
            | step
            | {"SLURM_PROCID": str(k), "SLURM_LOCALID": str(k)},
        )
        for k in range(count)
    ]
    pids = " ".join(str(task.pid) for task in tasks)
    pathlib.Path(os.environ["FAKE_SRUN_PIDS"]).write_text(pids)
    deadline = time.monotonic() + SECONDS
    try:
        for task in tasks:
            task.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for task in tasks:
            task.kill()
    codes = [task.wait() for task in tasks]
    return max(code if code >= 0 else 128 - code for code in codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
