"""One host of `experiments.bench.wallclock`: trains by a clock that can stop.

The clock, and the counters of the host's card, run while blocks of steps are
trained, and stand still while the chief evaluates. All that a host measures is
gathered, so that every host has the same numbers and takes the same decisions.
"""

import json
import math
import statistics
import sys
import time

import numpy as np
import tensorflow as tf

import fda_tf
from experiments import datasets
from experiments.bench import netlab
from experiments.tasks import TASKS
from fda_tf import cluster, comm, data, training, worker

LINE = 16  # floats: TensorFlow cuts a ring's pieces at whole 64 bytes
HEADERS = 66  # bytes of a packet: Ethernet 14, IP 20, TCP with its times 32


def policy(method: str, theta: float) -> fda_tf.sync.Policy:
    """Returns when a method synchronises.

    Args:
      method: synchronous, local:H, fedavg, or a monitor's name; after it
        :theta (a number, or auto) and after that :steps between checks.
      theta: of a monitor without one.

    Example:
      >>> policy("local:8", 1.5)
      Every(steps=8, epochs=None)
      >>> policy("linear:2:16", 1.5).check_every
      CheckEvery(steps=16)
    """
    kind, *numbers = method.split(":")
    if kind == "synchronous":
        return fda_tf.EveryStep()
    if kind == "fedavg":
        return fda_tf.Every(epochs=1)
    if kind == "local":
        return fda_tf.Every(steps=int(numbers[0]))
    first, check_every = (*numbers, *("", "1")[len(numbers) :])
    if first != "auto":
        first = float(first or theta)
    return fda_tf.VarianceThreshold(first, kind, check_every=int(check_every))


def messages(elements: int, workers: int) -> int:
    """Returns the messages of a ring all-reduce of 4-byte numbers.

    The tensor is cut into K pieces of whole 64 bytes; each piece that is not
    empty goes round twice, less two hops.

    Example:
      >>> messages(1, 4), messages(61_706, 4)
      (6, 24)
    """
    piece = math.ceil(math.ceil(elements / workers) / LINE) * LINE
    return math.ceil(elements / piece) * 2 * (workers - 1)


class Meter(comm.Meter):
    """A meter that counts the messages, too, but for evaluation."""

    def __init__(self, workers: int):
        super().__init__(workers)
        self.messages = tf.Variable(0, dtype=tf.int64, trainable=False)

    @property
    def variables(self) -> list[tf.Variable]:
        """The counts."""
        return [*super().variables, self.messages]

    def all_reduce(self, kind, tensors):
        """Counts one; a call is no message: it rides on another tensor."""
        super().all_reduce(kind, tensors)
        if kind in ("state", "model"):
            sizes = [tensor.shape.num_elements() for tensor in tensors]
            count = sum(messages(size, self.workers) for size in sizes)
            self.messages.assign_add(count)


class Spent:
    """What all hosts together have spent while the clock ran.

    Attributes:
      seconds: until the slowest host was done, block by block.
      cpu: seconds of CPU, of all hosts.
      bytes: that the hosts' cards have sent.
      packets: of which these are.
      blocks: how often the clock was stopped.
    """

    def __init__(self, replicas: fda_tf.replicas.Replicas):
        self._replicas = replicas
        self.seconds = self.cpu = 0.0
        self.bytes = self.packets = self.blocks = 0

    def on(self, work, *args) -> "Spent":
        """Does some work on the clock, which all hosts begin at once."""
        self._replicas.sum(1)
        before = netlab.counters()
        cpu, begun = time.process_time(), time.perf_counter()
        work(*args)
        ended, cpu = time.perf_counter(), time.process_time() - cpu
        self._replicas.sum(1)  # what is asked of us late has gone out by now
        after = netlab.counters()
        sent = [after[name] - before[name] for name in ("bytes", "packets")]
        own = np.array([begun, ended, cpu, *sent], np.float64)
        everyones = self._replicas.gather(own)
        # The hosts are on one machine, and have its one clock.
        self.seconds += float(everyones[:, 1].max() - everyones[:, 0].min())
        self.cpu += float(everyones[:, 2].sum())
        self.bytes += int(everyones[:, 3].sum())
        self.packets += int(everyones[:, 4].sum())
        self.blocks += 1
        return self

    @property
    def content(self) -> int:
        """Bytes without the headers of the packets."""
        return self.bytes - HEADERS * self.packets


class Trial:
    """One training on one host.

    Args:
      job: what `wallclock` asks for.
      replicas: the hosts.
    """

    def __init__(self, job: dict, replicas: fda_tf.replicas.Replicas):
        self.job, self.replicas = job, replicas
        task = TASKS[job["task"]]
        loaded = datasets.load(task.dataset, job["data_dir"], task.classes)
        x, x_test = task.inputs(loaded.x_train, loaded.x_test)
        y, self.test = loaded.y_train, (x_test, loaded.y_test)
        pieces = fda_tf.partition.split("iid", y, replicas.count, job["seed"])
        own = pieces[replicas.index]
        source = data.source(
            [(x[own], y[own])], 32, "passes", job["seed"], replicas.index
        )
        local = worker.Worker(
            task.build(job["seed"]), source.example(), source.spec()
        )
        self.home = cluster.Cluster(local, source, replicas)
        self.home.meter = self.meter = Meter(replicas.count)
        epoch = source.epoch_steps(len(y), replicas.count)
        sync = policy(job["method"], task.theta)
        self.loop = training.Loop(self.home, sync, fda_tf.Average(), epoch)

    def warm_up(self) -> None:
        """Compiles and connects all that training needs; leaves no trace."""
        kept = self.home.variables() | self.loop.variables()
        kept = [(v, v.numpy()) for group in kept.values() for v in group]
        _run(self.loop, 2)
        self.loop.theta.assign(0.0)  # so that this step synchronises
        self.loop.interval.assign(10**6)
        _run(self.loop, 1)
        _run(self.loop, 1)
        self.evaluate()
        self.loop.synchronise()
        for variable, value in kept:
            variable.assign(value)

    def evaluate(self) -> float:
        """Returns the test accuracy of the average of all models."""
        average, accuracy = self.loop.averaged(), 0.0
        if self.replicas.is_chief:
            logs = self.home.evaluate(average, self.test, 500)
            accuracy = logs["accuracy"]
        return float(self.replicas.sum(np.float64(accuracy)))

    def train(self) -> dict:
        """Trains until the target or a limit; returns what it took."""
        job, spent, curve = self.job, Spent(self.replicas), []
        while True:
            step = int(self.loop.step)
            spent.on(_run, self.loop, min(job["every"], job["steps"] - step))
            accuracy, step = self.evaluate(), int(self.loop.step)
            curve.append([step, round(spent.seconds, 3), round(accuracy, 4)])
            reached = accuracy > job["target"]
            late = spent.seconds >= job["seconds"] or step >= job["steps"]
            if reached or late:
                break
        spent.on(self.loop.finish)  # all hosts are to have the average
        counted = self.loop.counters()
        names = ("syncs", "checks", "state_bytes", "model_bytes", "wire_bytes")
        return {
            "reached": reached,
            "steps_taken": step,
            "seconds_taken": spent.seconds,
            "accuracy": accuracy,
            **{name: counted[name] for name in names},
            "last_theta": float(self.loop.theta),
            "messages": int(self.meter.messages.numpy()),
            "sent_bytes": spent.bytes,
            "sent_packets": spent.packets,
            "sent_content": spent.content,
            "blocks": spent.blocks,
            "cpu_seconds": spent.cpu,
            "curve": curve,
        }

    def framing(self) -> dict:
        """Measures what the cards send for a message besides its tensor."""
        count, size = self.replicas.count, self.home.worker.weights.layout.size
        naive = fda_tf.VarianceThreshold(math.inf, "naive")
        loop = training.Loop(self.home, naive, fda_tf.Average())

        def exchange(times):
            for _ in range(times):
                self.replicas.sum(np.zeros(size, np.float32))

        for warm_up in (lambda: _run(loop, 3), lambda: exchange(1)):
            warm_up()
        idle = Spent(self.replicas).on(time.sleep, 2.0)
        counted, messages_before = self._counted()
        small = Spent(self.replicas).on(_run, loop, 200)
        tensors, sent = self._counted()
        tensors, sent = tensors - counted, sent - messages_before
        of_small = (small.content - tensors) / (sent + messages(1, count))
        times = 5
        large = Spent(self.replicas).on(exchange, times)
        tensors = times * 2 * (count - 1) * 4 * size
        of_large = large.content - tensors - of_small * messages(1, count)
        return {
            "frame_bytes": of_small,
            "large_frame_bytes": of_large / (times * messages(size, count)),
            "idle_bytes_per_second": idle.content / idle.seconds,
            "model_exchange_ms": 1e3 * large.seconds / times,
        }

    def _counted(self):
        counters = self.loop.counters()
        return counters["wire_bytes"], int(self.meter.messages.numpy())

    def local_steps(self) -> dict:
        """Measures steps without any exchange: all hosts at once, and one."""
        never = fda_tf.Every(steps=10**9)
        loop = training.Loop(self.home, never, fda_tf.Average())
        _run(loop, 3)
        steps, together, alone = 100, [], []
        for _ in range(5):
            took = Spent(self.replicas).on(_run, loop, steps)
            together.append(1e3 * took.seconds / steps)
            own = steps if self.replicas.is_chief else 0
            took = Spent(self.replicas).on(_run, loop, own)
            alone.append(1e3 * took.seconds / steps)
        return {
            "local_step_ms": statistics.median(together),
            "alone_step_ms": statistics.median(alone),
        }


def _run(loop, steps):
    trace = loop.run(steps)
    if not bool(trace.finite):
        loop.raise_bad_drift()


def main() -> None:
    """Does the job of the command line; the chief prints what came of it."""
    job = json.loads(sys.argv[1])
    tf.config.threading.set_intra_op_parallelism_threads(1)
    replicas = fda_tf.connect(start_timeout=120)
    with replicas.lost_worker_in_words():
        trial = Trial(job, replicas)
        trial.warm_up()
        result = trial.train() | trial.framing() | trial.local_steps()
    if replicas.is_chief:
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
