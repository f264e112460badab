"""What the runs of `experiments.bench.wallclock` took."""

import collections
import statistics
from collections.abc import Iterable, Mapping

# Test accuracies, set before the first run here. The second is passed in 1,500
# steps by synchronous training in simulation, and in 1,600 by FDA at theta = 2.
# The third is a small task to try this out, with what ships with the project.
TARGETS = {"lenet5_mnist": 0.98, "cnn_fashion": 0.86, "lenet5_mnist5000": 0.9}
METHODS = (
    "synchronous", *(f"local_sgd:interval={h}" for h in (8, 32, 128)), "fedavg",
    "linear", "linear:check_every=16", "linear:theta=auto",
    "linear:theta=auto:check_every=16", "sketch", "sketch:theta=auto",
)  # fmt: skip
KEY = ("task", "method", "mbit", "seed", "hosts", "target", "every")


def is_done(job: dict, run: dict | None, others: float = 1.0) -> bool:
    """Returns whether more would not come of running a job again."""
    if run is None or run["others"] > others:
        return False
    limits = ("steps", "seconds")
    return run["reached"] or all(job[limit] <= run[limit] for limit in limits)


def step_seconds(runs: Iterable[dict]) -> dict[tuple, tuple[float, float]]:
    """Returns what a local step takes, by (task, hosts).

    With all hosts at once, and one host alone: the medians over the runs, since
    in each they were measured for some seconds only. Of those that were alone
    on the machine, if any was.
    """
    groups = collections.defaultdict(list)
    for run in runs:
        groups[run["task"], run["hosts"]].append(run)
    found = {}
    for key, group in groups.items():
        group = [run for run in group if run["others"] < 0.1] or group
        found[key] = tuple(
            statistics.median(run[name] for run in group) / 1e3
            for name in ("local_step_ms", "alone_step_ms")
        )
    return found


def costs(run: Mapping, seconds: Mapping[tuple, tuple[float, float]]) -> dict:
    """Returns a run's figures, as the table names them.

    `compute s` is what the steps would take if nothing were ever sent, `waiting
    s` the rest. `cable s` is the time that a cable needs for the bytes of one
    host.
    `explained` is what the meter counts, and the frames that go with it, over
    what the cards have sent without the headers of the packets.
    """
    together, alone = seconds[run["task"], run["hosts"]]
    compute = run["steps_taken"] * together
    waiting = run["seconds_taken"] - compute
    # Each block ends with an exchange of one number, a piece's way round.
    frames = run["messages"] + run["blocks"] * 2 * (run["hosts"] - 1)
    told = run["wire_bytes"] + frames * run["frame_bytes"]
    told += run["seconds_taken"] * run["idle_bytes_per_second"]
    return {
        "steps": run["steps_taken"],
        "syncs": run["syncs"],
        "s": run["seconds_taken"],
        "compute s": compute,
        "waiting s": waiting,
        "cable s": run["sent_bytes"] * 8e-6 / run["hosts"] / run["mbit"],
        "s, a core each": run["steps_taken"] * alone + waiting,
        "MB sent": run["sent_bytes"] / 1e6,
        "MB of headers": (run["sent_bytes"] - run["sent_content"]) / 1e6,
        "MB of frames": (run["sent_content"] - run["wire_bytes"]) / 1e6,
        "MB by the meter": run["wire_bytes"] / 1e6,
        "explained": told / run["sent_content"],
        "others": run["others"],
    }


def table(runs: Iterable[dict]) -> list[dict]:
    """Returns a row for each task, rate and method: medians over the seeds.

    Of those that reached the target, if any did. Runs with other numbers of
    hosts, or other targets, have rows of their own.
    """
    groups = collections.defaultdict(list)
    for run in runs:
        groups[tuple(run[name] for name in KEY if name != "seed")].append(run)
    order = {name: i for i, name in enumerate((*TARGETS, *METHODS))}

    def place(group):
        task, method, mbit, *rest = group
        return order.get(task, 99), mbit, *rest, order.get(method, 99), method

    rows = []
    seconds = step_seconds(run for group in groups.values() for run in group)
    for group in sorted(groups, key=place):
        task, method, mbit, hosts, *_ = group
        found = groups[group]
        reached = [run for run in found if run["reached"]]
        each = [costs(run, seconds) for run in reached or found]
        middle = {n: statistics.median(c[n] for c in each) for n in each[0]}
        rows.append(
            {"task": task, "mbit": mbit, "method": method, "hosts": hosts}
            | {"runs": len(found), "reached": len(reached)}
            | middle
            | {"seconds of each": sorted(c["s"] for c in each)}
        )
    return rows
