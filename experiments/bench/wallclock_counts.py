"""What the hosts of `experiments.bench.wallclock` spend on its clock.

Its meter is the library's own (`fda_tf.workers.byte_meter`), which it extends.
"""

import math
import os
import pathlib
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from experiments.bench import netlab
from fda_tf.workers import byte_meter

LINE = 16  # floats: TensorFlow cuts a ring's pieces at whole 64 bytes
HEADERS = 66  # bytes of a packet: Ethernet 14, IP 20, TCP with its times 32


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


class Meter(byte_meter.Meter):
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


def busy_seconds() -> float:
    """Returns the seconds that the machine's cores have worked, or been lent.

    Of /proc/stat: user, nice, system, irq, softirq, steal.
    """
    line = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0]
    ticks = list(map(int, line.split()[1:9]))
    idle, waiting = ticks[3:5]
    return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")


class Spent:
    """What all hosts together have spent while the clock ran.

    Attributes:
      seconds: until the slowest host was done, block by block.
      cpu: seconds of CPU, of all hosts.
      busy: seconds that the machine's cores have worked, for whomever.
      bytes: that the hosts' cards have sent.
      packets: of which these are.
      blocks: how often the clock was stopped.
    """

    def __init__(self, process_group):
        self._group = process_group
        self.seconds = self.cpu = self.busy = 0.0
        self.bytes = self.packets = self.blocks = 0

    def on(self, work: Callable, *args: object) -> "Spent":
        """Does some work on the clock, which all hosts begin at once."""
        self._group.sum(1)
        before = netlab.counters()
        busy, cpu = busy_seconds(), time.process_time()
        begun = time.perf_counter()
        work(*args)
        ended = time.perf_counter()
        busy, cpu = busy_seconds() - busy, time.process_time() - cpu
        self._group.sum(1)  # what is asked of us late has gone out by now
        after = netlab.counters()
        sent = [after[name] - before[name] for name in ("bytes", "packets")]
        own = np.array([begun, ended, cpu, busy, *sent], np.float64)
        everyones = self._group.gather(own)
        # The hosts are on one machine, and have its one clock.
        self.seconds += float(everyones[:, 1].max() - everyones[:, 0].min())
        self.cpu += float(everyones[:, 2].sum())
        self.busy += float(everyones[:, 3].max())
        self.bytes += int(everyones[:, 4].sum())
        self.packets += int(everyones[:, 5].sum())
        self.blocks += 1
        return self

    @property
    def others(self) -> float:
        """The share of the machine's cores that was not at the hosts' work."""
        cores = len(os.sched_getaffinity(0))
        return max(0.0, self.busy - self.cpu) / (self.seconds * cores)

    @property
    def content(self) -> int:
        """Bytes without the headers of the packets."""
        return self.bytes - HEADERS * self.packets
