"""One host of `experiments.bench.wallclock`: trains by a clock that can stop.

The clock, and the counters of the host's card, run while blocks of steps are
trained, and stand still while the chief evaluates. All that a host measures is
gathered, so that every host has the same numbers and takes the same decisions.
"""

import math
import os
import statistics
import time

import numpy as np

import fda_tf
from experiments import algorithms, config, results, training
from experiments.bench import gradients, homes
from experiments.bench.wallclock_counts import Meter, Spent, messages


class Trial:
    """One training on one host.

    Args:
      job: what `wallclock` asks for.
      data_dir: folder with the data sets, or None.
      process_group: the hosts.
    """

    def __init__(self, job: dict, data_dir: str | None, process_group):
        self.job, self.process_group = job, process_group
        seed, count = job["seed"], process_group.count
        by_gradients = job["method"] == gradients.NAME
        settings = config.settings(
            "local_sgd:interval=1000000000" if by_gradients else job["method"],
            **{"task": job["task"], "seed": seed, "workers": count},
        )
        data = training.load(job["task"], count, seed, "iid", data_dir)
        self.test = data.test
        model, self.meter = training.builder(settings)(), Meter(count)
        if by_gradients:
            gradients.averaged(model, self._mean)
        shard = data.shards[process_group.index]
        self.home = homes.cluster(process_group, model, shard, seed=seed)
        self.home.meter = self.meter
        epoch = self.home.source.epoch_steps(data.samples, count)
        self.loop = homes.Loop(self.home, algorithms.of(settings), epoch)

    def _mean(self, gradient):
        self.meter.all_reduce("model", gradient)
        return self.process_group.mean(gradient)

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
        if self.process_group.is_chief:
            logs = self.home.evaluate(average, self.test, 500)
            accuracy = logs["accuracy"]
        return float(self.process_group.sum(np.float64(accuracy)))

    def train(self) -> dict:
        """Trains until the target or a limit; returns what it took."""
        job, spent, curve = self.job, Spent(self.process_group), []
        while True:
            step = int(self.loop.step)
            spent.on(_run, self.loop, min(job["every"], job["steps"] - step))
            accuracy, step = self.evaluate(), int(self.loop.step)
            curve.append([step, round(spent.seconds, 3), round(accuracy, 4)])
            reached = results.passes({"val_accuracy": accuracy}, job["target"])
            late = spent.seconds >= job["seconds"] or step >= job["steps"]
            if reached or late:
                break
        spent.on(self.loop.finish)  # all hosts are to have the average
        counted, theta = self.loop.counters(), float(self.loop.theta)
        if job["method"] == gradients.NAME:
            counted["syncs"] = step
        names = ("syncs", "checks", "state_bytes", "model_bytes", "wire_bytes")
        return {
            "reached": reached,
            "steps_taken": step,
            "seconds_taken": spent.seconds,
            "accuracy": accuracy,
            **{name: counted[name] for name in names},
            "last_theta": None if math.isnan(theta) else theta,
            "messages": int(self.meter.messages.numpy()),
            "sent_bytes": spent.bytes,
            "sent_packets": spent.packets,
            "sent_content": spent.content,
            "blocks": spent.blocks,
            "cores": len(os.sched_getaffinity(0)),
            "cpu_seconds": spent.cpu,
            "others": spent.others,
            "curve": curve,
        }

    def framing(self) -> dict:
        """Measures what the cards send for a message besides its tensor."""
        count = self.process_group.count
        size = self.home.worker.weights.layout.size
        loop = homes.Loop(
            self.home, fda_tf.VarianceThreshold(math.inf, "naive")
        )

        def exchange(times):
            for _ in range(times):
                self.process_group.sum(np.zeros(size, np.float32))

        for warm_up in (lambda: _run(loop, 3), lambda: exchange(1)):
            warm_up()
        idle = Spent(self.process_group).on(time.sleep, 2.0)
        counted, messages_before = self._counted()
        steps = 200
        small = Spent(self.process_group).on(_run, loop, steps)
        tensors, sent = self._counted()
        tensors, sent = tensors - counted, sent - messages_before
        of_small = (small.content - tensors) / (sent + messages(1, count))
        times = 5
        large = Spent(self.process_group).on(exchange, times)
        tensors = times * 2 * (count - 1) * 4 * size
        of_large = large.content - tensors - of_small * messages(1, count)
        return {
            "frame_bytes": of_small,
            "large_frame_bytes": of_large / (times * messages(size, count)),
            "idle_bytes_per_second": idle.content / idle.seconds,
            "checked_step_ms": 1e3 * small.seconds / steps,
            "model_exchange_ms": 1e3 * large.seconds / times,
        }

    def _counted(self):
        counters = self.loop.counters()
        return counters["wire_bytes"], int(self.meter.messages.numpy())

    def local_steps(self) -> dict:
        """Measures steps without any exchange: all hosts at once, and one.

        One host alone: by its seconds of CPU.
        """
        loop = homes.Loop(self.home, fda_tf.Every(steps=10**9))
        _run(loop, 3)
        steps, together, alone = 100, [], []
        for _ in range(5):
            took = Spent(self.process_group).on(_run, loop, steps)
            together.append(1e3 * took.seconds / steps)
        for _ in range(3):
            begun = time.process_time()
            # All call it: a call counts, for the numbers of later exchanges.
            _run(loop, steps if self.process_group.is_chief else 0)
            alone.append(1e3 * (time.process_time() - begun) / steps)
            self.process_group.sum(1)
        chiefs = self.process_group.gather(
            np.float64(statistics.median(alone))
        )[0]
        return {
            "local_step_ms": statistics.median(together),
            "alone_step_ms": float(chiefs),
        }


def _run(loop, steps):
    trace = loop.run(steps)
    if not bool(trace.finite):
        loop.raise_bad_drift()


def run(job: dict, data_dir: str | None) -> dict:
    """Does a job as one of its hosts; returns what came of it."""
    training.one_thread()
    process_group = fda_tf.connect(start_timeout=120)
    with process_group.lost_worker_in_words():
        trial = Trial(job, data_dir, process_group)
        trial.warm_up()
        result = trial.train()
        if job["method"] == gradients.NAME:  # no step is without exchange
            synchronous = job | {"method": "synchronous"}
            trial = Trial(synchronous, data_dir, process_group)
        return result | trial.framing() | trial.local_steps()
