"""The simulation beside Flower's: worker-steps a second, and memory.

The same Keras model, data, batches of 32 and local steps a round, in turn: a
block of rounds by Flower, the same number by ours, again and again. Flower's
is FedAvg with all clients in each round, by `fit`, as fast as its settings
allow; README.md of this folder lists them. Ours is local SGD with the same
rounds, and LinearFDA with a check in every step. The clock runs over rounds,
not over Ray's start or warm-up.

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

from experiments import algorithms, config, processes, training
from experiments.bench import measured

FLOWER = "flwr[simulation]==1.41.*"
BATCH = 32
OURS = {  # name -> an algorithm's text
    "local SGD": "local_sgd:interval={local_steps}",
    "LinearFDA": "linear",
}
COLUMNS = (
    "workers", "ours", "steps/s", "Flower's", "times Flower", "interval", "MB",
    "Flower's MB",
)  # fmt: skip
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}


def serve(
    kind: str, task: str, workers: int, local_steps: int, data_dir: str | None
) -> None:
    """Is one of ours: answers each number of rounds with their seconds."""
    import tensorflow as tf

    training.one_thread()
    from experiments.bench import homes

    settings = config.settings(
        OURS[kind].format(local_steps=local_steps), task=task
    )
    data = training.load(task, 1, data_dir=data_dir).shards[0]
    shards = homes.shards(*data, workers, BATCH)
    home = homes.simulation(training.builder(settings), shards, BATCH)
    loop = homes.Loop(home, algorithms.of(settings))
    while line := sys.stdin.readline().strip():
        start = time.perf_counter()
        loop.run(tf.constant(int(line) * local_steps)).cause.numpy()
        seconds = time.perf_counter() - start
        print("@@" + json.dumps({"seconds": seconds}), flush=True)


class Child:
    """A process that does rounds when it is told to.

    Args:
      command: what to run; it reads numbers of rounds, and answers.
      timeout: seconds of a block, at most.
    """

    def __init__(self, command: list[str], timeout: float):
        self._errors = tempfile.TemporaryFile("w+")
        self._timeout = timeout
        self.process = processes.start(
            command, _QUIET, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, text=True, process_group=0,
        )  # fmt: skip

    def seconds(self, rounds: int) -> float:
        """Does rounds; returns the seconds that they took."""
        self.process.stdin.write(f"{rounds}\n")
        self.process.stdin.flush()
        late = threading.Event()

        def kill():
            late.set()
            os.killpg(self.process.pid, signal.SIGKILL)

        alarm = threading.Timer(self._timeout, kill)
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
                    rollup = (process / "smaps_rollup").read_text()
                    lines = map(str.split, rollup.splitlines())
                    sizes = [w[1] for w in lines if w[0] == "Pss:"]
                    total += 1024 * sum(map(int, sizes))
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


def flower_command(python: Path, workers: int, options) -> list[str]:
    """Returns the command of Flower's server."""
    client = {
        "task": options.task,
        "samples": options.local_steps * BATCH,
        "batch_size": BATCH,
        "at_once": options.at_once or options.local_steps,
        "data_dir": options.data_dir or "",
    }
    settings = {"task": options.task, "workers": workers, "client": client}
    module = "experiments.bench.flower_server"
    return [str(python), "-m", module, json.dumps(settings)]


def flower_python(folder: Path) -> Path:
    """Returns Python of Flower's environment, made if there is none."""
    python, made = folder / "bin" / "python", folder / "made"
    if not made.exists():
        print(f"Making {folder} for Flower.", flush=True)
        ours = [f"{n}=={metadata.version(n)}" for n in ("tensorflow", "keras")]
        install = [str(python), "-m", "pip", "install", "-q", FLOWER, *ours]
        for command in ([sys.executable, "-m", "venv", str(folder)], install):
            subprocess.run(command, check=True, timeout=900)
        made.touch()
    return python


def measure(python: Path, workers: int, options) -> list[dict]:
    """Returns a row for each of ours, with this number of workers."""
    given = options.task, workers, options.local_steps, options.data_dir
    ours = options.ours or list(OURS)
    commands = {"Flower": flower_command(python, workers, options)}
    commands |= {k: processes.call_command(serve, k, *given) for k in ours}
    peaks, children = {}, {}
    try:
        for name, command in commands.items():
            # Each by itself: what two map, a library, would count by halves.
            children[name] = Child(command, options.timeout)
            peaks[name] = children[name].peak_bytes(1)  # data, tracing, too
            children.pop(name).end()
        for name, command in commands.items():
            children[name] = Child(command, options.timeout)
            children[name].seconds(1)
        steps = workers * options.local_steps
        once = children["Flower"].seconds(1)
        rounds = max(1, round(options.block_seconds / once))
        blocks = {
            name: lambda c=child: rounds * steps / c.seconds(rounds)
            for name, child in children.items()
        }
        pairs = measured.in_turn(blocks, "Flower", options.pairs)
    finally:
        for child in children.values():
            child.end()
    about = {"workers": workers, "rounds": rounds}
    about["Flower's MB"] = round(peaks["Flower"] / 1e6)
    return [about | _row(kind, pairs[kind], peaks[kind]) for kind in ours]


def _row(kind, pairs, peak) -> dict:
    ours, theirs = zip(*pairs, strict=True)
    figure = measured.ratio(pairs)
    return {
        "ours": kind,
        "steps/s": statistics.median(ours),
        "Flower's": statistics.median(theirs),
        "times Flower": figure["ratio"],
        "interval": figure["interval"],
        "MB": round(peak / 1e6),
        "pairs": pairs,
    }


def main(options) -> None:
    """Measures each number of workers, then prints all."""
    measured.chosen("ours", options.ours, OURS)
    numbers = list(map(int, options.workers))
    python = flower_python(Path(options.flower_env))
    rows = []
    for workers in numbers:
        with processes.ended_by_sigterm():
            found = measure(python, workers, options)
        for row in found:
            print({n: row[n] for n in COLUMNS}, file=sys.stderr, flush=True)
        rows += found
    measured.show(rows, COLUMNS, options, flower=FLOWER)


if __name__ == "__main__":
    measured.command(
        main,
        workers=(["5", "10", "30", "60"], "Numbers of workers K."),
        task=("lenet5_mnist", "A task of images."),
        data_dir=(str, "Folder with the task's .npz."),
        local_steps=(32, "Of a worker in a round."),
        pairs=(5, "Of blocks, for each of ours."),
        block_seconds=(3.0, "Of Flower's blocks, at least a round."),
        ours=((), f"Which: {', '.join(OURS)}; by default both."),
        timeout=(600.0, "Seconds of a block, at most."),
        at_once=(0, "Flower's steps_per_execution; 0: all."),
        flower_env=(
            os.path.join(tempfile.gettempdir(), "fda_tf_flower"),
            "Folder of Flower's virtual environment.",
        ),
    )
