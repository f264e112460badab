"""What a process does to a directory of checkpoints; TensorFlow stays out.

python checkpoint_job.py JOB DIRECTORY [ARGUMENT...]
"""

import os
import pathlib
import sys
import types

import numpy as np

FILES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}


def state(step, worker, size):
    """Arrays and facts of which every byte is known."""
    arrays = {
        "weights": np.arange(size, dtype=np.float32) + 1000 * step + worker,
        "step": np.array(step),
    }
    return arrays, {"step": step, "worker": worker}


def light():
    """Imports fda_tf.checkpoint.directory alone, in a tenth of a second."""
    package = types.ModuleType("fda_tf")
    package.__path__ = [str(pathlib.Path(__file__).parents[2] / "fda_tf")]
    sys.modules["fda_tf"] = package
    from fda_tf.checkpoint import directory as checkpoint

    assert "tensorflow" not in sys.modules
    return checkpoint


def restore_latest(saved, worker, workers, steps, size):
    """Goes on from the newest checkpoint for so many steps; tells of each."""
    worker, workers, steps, size = map(int, (worker, workers, steps, size))
    first, _ = next(saved.found(worker, workers), (0, workers))
    for step in range(first + 1, first + steps + 1):
        saved.write(step, worker, workers, *state(step, worker, size))
        print(step, flush=True)
        saved.prune(worker, workers)


def crash(saved, step):
    """Writes a step again and again, killed before its 1st, 2nd, ... act."""
    for action in range(1, 100):
        child = os.fork()
        if child == 0:
            left = action

            def kill(event, _):
                nonlocal left
                left -= event in FILES
                if not left:
                    os._exit(1)

            sys.addaudithook(kill)
            saved.write(int(step), 0, 1, *state(int(step), 0, 2000))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        steps = [step for step, _ in saved.found(0, 1)]
        contents = [saved.read(step, 0, 1)[1]["step"] for step in steps]
        print(action, code, *steps)
        assert contents == steps
        if code == 0:
            return


def refused(saved):
    """Tries to write where only others may."""
    saved.write(1, 0, 1, *state(1, 0, 10))
    for folder in (saved.directory, saved.directory / "step-000000001"):
        folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)  # the system lets root write anywhere
    for attempt in (
        saved.prepare,
        lambda: saved.write(1, 0, 1, *state(1, 0, 20)),
        lambda: saved.write(2, 0, 1, *state(2, 0, 20)),
    ):
        try:
            attempt()
        except (OSError, ValueError) as error:
            print(type(error).__name__, error)
    print(list(saved.found(0, 1)))


if __name__ == "__main__":
    checkpoint = light()
    job = {"go_on": restore_latest, "crash": crash, "refused": refused}[
        sys.argv[1]
    ]
    job(checkpoint.Checkpoint(sys.argv[2]), *sys.argv[3:])
