"""What a step, a check and a synchronisation cost, as closed forms.

With K workers, d parameters, a cable of w bytes a second and l seconds from
one worker to the next:

    ring(n bytes)   = a + 2 (K-1) (h + l) + l + 2 (K-1)/K n (1/w + g)
    check           = m(d) + ring(4 (p + 1))         p floats of state, 1 call
    synchronisation = s d + ring(bytes of the model)

a, h, g, m and s are what `python -m experiments.bench.scaling` has measured and
written to constants.json: a bare all-reduce of one float (a + h for each of
its 2 (K-1) hops), what each byte costs gRPC, each parameter a monitor, and
packing, averaging and unpacking. A worker asks for what it receives, so the
first hop takes the latency twice. Nothing is taken to overlap.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping

CONSTANTS = pathlib.Path(__file__).with_name("constants.json")
FLOATS = {"linear": 2, "sketch": 1251}
SHORT = 6  # floats of the sketch's second stage
BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0 + 4 / 256}


@dataclasses.dataclass(frozen=True)
class Job:
    """A training job, in SI units: seconds, bytes."""

    parameters: float  # d
    workers: int  # K
    step: float  # seconds of a local step
    rate: float  # bytes a second, each way, of a worker's cable
    latency: float = 0.0  # seconds from a worker to the next
    compression: str = "float32"  # of a synchronisation
    memory: float | None = None  # bytes a second; None: as was measured


def constants() -> dict:
    """Returns what was measured."""
    return json.loads(CONSTANTS.read_text(encoding="utf-8"))


def sent(job: Job, size: float, gathered: bool = False) -> float:
    """Returns the bytes that each worker sends of a tensor of `size` bytes.

    Example:
      >>> job = Job(parameters=10, workers=4, step=1.0, rate=1.0)
      >>> sent(job, 100.0), sent(job, 100.0, gathered=True)
      (150.0, 300.0)
    """
    hops = job.workers - 1
    return hops * size if gathered else 2 * hops / job.workers * size


def collective(
    job: Job, known: Mapping, size: float, gathered: bool = False
) -> float:
    """Returns the seconds of an all-reduce, or gather, of `size` bytes."""
    hops = (1 if gathered else 2) * (job.workers - 1)
    ring = known["collective"]
    wire = sent(job, size, gathered) * (1 / job.rate + ring["byte"])
    latency = (hops + 1) * job.latency
    return ring["start"] + hops * ring["hop"] + latency + wire


def synchronisation(job: Job, known: Mapping) -> float:
    """Returns the seconds of averaging the models."""
    size = BYTES[job.compression] * job.parameters
    wire = collective(job, known, size, job.compression == "int8")
    return known["synchronisation"]["parameter"] * job.parameters + wire


def state(job: Job, known: Mapping, monitor: str) -> float:
    """Returns the seconds in which a worker makes a monitor's state."""
    fit = known["state"][monitor]
    scale = 1.0
    if job.memory is not None:
        scale = known["state"]["bytes_per_second"] / job.memory
    return fit["a"] + fit["b"] * scale * job.parameters


def check(job: Job, known: Mapping, monitor: str) -> float:
    """Returns the seconds of a check; of the sketch with its cascade, mean.

    The published runs' share of checks in which the norm exceeds theta needs
    a sketch and a second exchange; the others send the norm alone.
    """
    if monitor == "linear":
        ring = collective(job, known, 4 * (FLOATS["linear"] + 1))
        return state(job, known, "linear") + ring
    share = known["share_above"]
    norm = state(job, known, "cascade, quiet") + collective(job, known, 4 * 2)
    whole = state(job, known, "sketch, whole")
    # At worst the whole sketch follows its six numbers each time.
    more = collective(job, known, 4 * (SHORT + 1)) + collective(
        job, known, 4 * (FLOATS["sketch"] + 1)
    )
    return (1 - share) * norm + share * (2 * whole + more)


def exchange(job: Job, known: Mapping, kind: str) -> float:
    """Returns the seconds of what `experiments.bench.exchange` measures."""
    model = 4 * job.parameters
    exchanges = {
        "check, linear": ("linear", FLOATS["linear"] + 1),
        "check, sketch": ("sketch, whole", FLOATS["sketch"] + 1),
        "check, cascade": ("cascade, quiet", 2),
    }
    if kind == "synchronisation":
        return synchronisation(job, known)
    if kind == "all-reduce":
        return collective(job, known, model)
    monitor, floats = exchanges[kind]
    return state(job, known, monitor) + collective(job, known, 4 * floats)


def interval(parameters: float, known: Mapping, monitor: str) -> dict:
    """Returns the published mean intervals of the model nearest in d."""
    near = min(
        known["intervals"], key=lambda row: abs(math.log(row["d"] / parameters))
    )
    least, median, most = near[monitor]
    return {
        "model": near["model"],
        "least": least,
        "median": median,
        "most": most,
        "steps": near["steps"] and near["steps"][1],
    }


def epoch(
    job: Job,
    steps: int,
    check_seconds: float = 0.0,
    every: int = 1,
    round_steps: float = 1.0,
    sync_seconds: float = 0.0,
) -> dict:
    """Returns the seconds of an epoch and their parts.

    Example:
      >>> job = Job(parameters=10, workers=4, step=2.0, rate=1.0)
      >>> epoch(job, 100, 1.0, 4, 50.0, 10.0)["seconds"]
      245.0
    """
    parts = {
        "steps_s": steps * job.step,
        "checks_s": steps / every * check_seconds,
        "syncs_s": steps / round_steps * sync_seconds,
    }
    return {"seconds": sum(parts.values()), **parts}
