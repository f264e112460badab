"""The simulation beside Flower's: worker-steps a second, and memory.

The same Keras model, data, batches of 32 and local steps a round, in turn: a
block of rounds by Flower, the same number by ours, again and again. Flower's
is FedAvg with all clients in each round, by `fit`, as fast as its settings
allow: a client on each core, one thread in an operation, the model built once
in each of Ray's processes (which run at their usual priority, not at 15), all
steps of a round in one execution of `fit`, no telemetry, replies looked for
every 10 ms. Ours is local SGD with the same rounds, and LinearFDA with a check
in every step. The clock runs over rounds, not over Ray's start or warm-up.

  python -m experiments.bench.flower --data_dir=DIR --workers=5,10,30,60

Without --data_dir a task's data must be at hand otherwise. Flower has a virtual
environment of its own, with our versions of TensorFlow and Keras: it is made in
--flower_env (with pip, 2 minutes) unless there is one. Memory is the greatest
sum, of looks 20 times a second from the start to the end of the first round,
of what all processes hold (proportional set size). While one is on the clock,
the processes of the others stand by.

To check the drift after every step, as FDA does, Flower would need a round for
each step: --local_steps=1 says what that costs.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

from absl import app, flags

from experiments.bench import measured, processes

FLAGS = flags.FLAGS
flags.DEFINE_list("workers", ["5", "10", "30", "60"], "Numbers of workers K.")
flags.DEFINE_string("task", "lenet5_mnist", "A task of images.")
flags.DEFINE_string("data_dir", None, "Folder with the task's .npz.")
flags.DEFINE_integer("local_steps", 32, "Of a worker in a round.")
flags.DEFINE_integer("pairs", 5, "Of blocks, for each of ours.")
flags.DEFINE_float(
    "block_seconds", 3.0, "Of Flower's blocks, at least a round."
)
flags.DEFINE_multi_enum(
    "ours", ["local SGD", "LinearFDA"], ["local SGD", "LinearFDA"], "Which."
)
flags.DEFINE_float("timeout", 600.0, "Seconds of a block, at most.")
flags.DEFINE_integer("at_once", 0, "Flower's steps_per_execution; 0: all.")
flags.DEFINE_string(
    "flower_env",
    os.path.join(tempfile.gettempdir(), "fda_tf_flower"),
    "Folder of Flower's virtual environment.",
)
flags.DEFINE_string("child", None, "Internal: be one of ours.")

FLOWER = "flwr[simulation]==1.41.*"
BATCH = 32
COLUMNS = (
    "workers",
    "ours",
    "steps/s",
    "Flower's",
    "times Flower",
    "interval",
    "MB",
    "Flower's MB",
)


def serve(kind: str) -> None:
    """Is one of ours: answers each number of rounds with their seconds."""
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    import fda_tf
    from experiments import datasets
    from experiments.tasks import TASKS
    from fda_tf.core import loop as training
    from fda_tf.data import sources
    from fda_tf.workers import simulated

    task, workers = TASKS[FLAGS.task], int(FLAGS.workers[0])
    loaded = datasets.load(task.dataset, FLAGS.data_dir)
    x, y = task.scaled(loaded.x_train), loaded.y_train
    size = len(x) // workers
    pieces = [
        np.resize(np.arange(k * size, (k + 1) * size), max(size, BATCH))
        for k in range(workers)
    ]
    source = sources.ArraySource([(x[i], y[i]) for i in pieces], BATCH)
    home = simulated.Simulation(lambda: task.build(seed=0), source, workers)
    sync = {
        "local SGD": fda_tf.Every(steps=FLAGS.local_steps),
        "LinearFDA": fda_tf.VarianceThreshold(task.theta, "linear"),
    }[kind]
    loop = training.Loop(home, sync, None)
    while line := sys.stdin.readline().strip():
        start = time.perf_counter()
        loop.run(tf.constant(int(line) * FLAGS.local_steps)).cause.numpy()
        seconds = time.perf_counter() - start
        print("@@" + json.dumps({"seconds": seconds}), flush=True)


class Child:
    """A process that does rounds when it is told to.

    Args:
      command: what to run; it reads numbers of rounds, and answers.
    """

    def __init__(self, command: list[str]):
        quiet = {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        self._errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | quiet,
            process_group=0,
        )

    def seconds(self, rounds: int) -> float:
        """Does rounds; returns the seconds that they took."""
        self.process.stdin.write(f"{rounds}\n")
        self.process.stdin.flush()
        late = threading.Event()

        def end():
            late.set()
            os.killpg(self.process.pid, signal.SIGKILL)

        alarm = threading.Timer(FLAGS.timeout, end)
        alarm.start()
        try:
            for line in self.process.stdout:
                if line.startswith("@@"):
                    answer = json.loads(line[2:])
                    if "seconds" in answer:
                        return answer["seconds"]
                    sys.exit(f"A client of Flower failed: {answer['error']}")
        finally:
            alarm.cancel()
        self._errors.seek(0)
        how = "took too long (--timeout)" if late.is_set() else "ended"
        sys.exit(f"{self.process.args} {how}:\n{self._errors.read()[-3000:]}")

    def peak_bytes(self, rounds: int) -> int:
        """Does rounds; returns the most that all its processes held."""
        most, over = [self._bytes()], threading.Event()

        def watch():
            while not over.wait(0.05):
                most.append(self._bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self.seconds(rounds)
        finally:
            over.set()
            watcher.join()
        return max(most)

    def _bytes(self) -> int:
        total = 0
        for process in Path("/proc").glob("[0-9]*"):
            # Processes come and go.
            with contextlib.suppress(OSError):
                if os.getpgid(int(process.name)) == self.process.pid:
                    total += _proportional(process / "smaps_rollup")
        return total

    def end(self) -> None:
        """Ends it, and all that it has started."""
        with contextlib.suppress(OSError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _proportional(rollup: Path) -> int:
    for line in rollup.read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0


def flower_command(python: Path, workers: int) -> list[str]:
    """Returns the command of Flower's server."""
    client = {
        "task": FLAGS.task,
        "samples": FLAGS.local_steps * BATCH,
        "batch_size": BATCH,
        "at_once": FLAGS.at_once or FLAGS.local_steps,
        "data_dir": FLAGS.data_dir or "",
    }
    settings = {"task": FLAGS.task, "workers": workers, "client": client}
    module = "experiments.bench.flower_server"
    return [str(python), "-m", module, json.dumps(settings)]


def flower_python() -> Path:
    """Returns Python of Flower's environment, made if there is none."""
    folder = Path(FLAGS.flower_env)
    python, made = folder / "bin" / "python", folder / "made"
    if not made.exists():
        print(f"Making {folder} for Flower.", flush=True)
        ours = [f"{n}=={metadata.version(n)}" for n in ("tensorflow", "keras")]
        install = [str(python), "-m", "pip", "install", "-q", FLOWER, *ours]
        for command in ([sys.executable, "-m", "venv", str(folder)], install):
            subprocess.run(command, check=True, timeout=900)
        made.touch()
    return python


def measure(python: Path, workers: int) -> list[dict]:
    """Returns a row for each of ours, with this number of workers."""
    own = [sys.executable, "-m", "experiments.bench.flower"]
    own += [f"--{n}={FLAGS[n].value}" for n in ("task", "local_steps")]
    own += [f"--data_dir={FLAGS.data_dir}"] if FLAGS.data_dir else []
    own += [f"--workers={workers}"]
    commands = {"Flower": flower_command(python, workers)}
    commands |= {kind: [*own, f"--child={kind}"] for kind in FLAGS.ours}
    peaks, children = {}, {}
    try:
        for name, command in commands.items():
            # Each by itself: what two map, a library, would count by halves.
            children[name] = Child(command)
            peaks[name] = children[name].peak_bytes(1)  # data, tracing, too
            children.pop(name).end()
        for name, command in commands.items():
            children[name] = Child(command)
            children[name].seconds(1)
        steps = workers * FLAGS.local_steps
        once = children["Flower"].seconds(1)
        rounds = max(1, round(FLAGS.block_seconds / once))
        pairs = measured.in_turn(
            {
                name: lambda c=child: rounds * steps / c.seconds(rounds)
                for name, child in children.items()
            },
            "Flower",
            FLAGS.pairs,
        )
    finally:
        for child in children.values():
            child.end()
    return [
        _row(workers, kind, pairs[kind], peaks, rounds) for kind in FLAGS.ours
    ]


def _row(workers, kind, pairs, peaks, rounds) -> dict:
    ours, theirs = zip(*pairs, strict=True)
    figure = measured.ratio(pairs)
    return {
        "workers": workers,
        "ours": kind,
        "steps/s": statistics.median(ours),
        "Flower's": statistics.median(theirs),
        "times Flower": figure["ratio"],
        "interval": figure["interval"],
        "MB": round(peaks[kind] / 1e6),
        "Flower's MB": round(peaks["Flower"] / 1e6),
        "rounds": rounds,
        "pairs": pairs,
    }


def main(_) -> None:
    """Measures each number of workers, then prints all."""
    if FLAGS.child:
        serve(FLAGS.child)
        return
    numbers = list(map(int, FLAGS.workers))
    python = flower_python()
    rows = []
    for workers in numbers:
        with processes.ended_by_sigterm():
            rows += measure(python, workers)
        for row in rows[-len(FLAGS.ours) :]:
            print({n: row[n] for n in COLUMNS}, file=sys.stderr, flush=True)
    names = ("task", "local_steps", "pairs", "block_seconds", "at_once")
    about = {name: FLAGS[name].value for name in names} | {"flower": FLOWER}
    measured.show(rows, COLUMNS, about)


if __name__ == "__main__":
    app.run(main)
