r"""Will FDA pay for me? Seconds of an epoch by method, from measured constants.

  python -m experiments.bench.estimate --parameters=25e6 --step_ms=90 \
      --workers=8 --mbit=1000 --latency_ms=20

answers at once, without TensorFlow: costs.py has the formulas, constants.json
what was measured and published. It says what it assumed.
"""

import math
import sys

from experiments.bench import costs, measured

COLUMNS = (
    "method", "seconds", "times_synchronous", "steps_s", "checks_s", "syncs_s",
    "mb_sent",
)  # fmt: skip


def problems(values: dict) -> list[str]:
    """Returns what is wrong with flags, in words.

    Example:
      >>> problems({"workers": 1, "mbit": 10.0, "latency_ms": 0.0})
      ['--workers=1: expected at least 2; alone, nothing is sent.']
    """
    rules = {
        "workers": (2, "at least 2; alone, nothing is sent"),
        "latency_ms": (0, "milliseconds, 0 or more"),
        **dict.fromkeys(
            ("step_ms", "mbit", "memory_gb_s"), (1e-300, "a number above 0")
        ),
    }
    found = []
    for name, value in values.items():
        least, wanted = rules.get(name, (1, "1 or more"))
        if value is not None and not least <= value < math.inf:
            found.append(f"--{name}={value:g}: expected {wanted}.")
    return found


def rows(
    job: costs.Job,
    known: dict,
    steps: int,
    local_steps: int,
    every: int,
    lengths: dict,
) -> list[dict]:
    """Returns what an epoch takes by each method."""
    plain = costs.Job(**{**vars(job), "compression": "float32"})
    each = costs.synchronisation(plain, known)
    sync = costs.synchronisation(job, known)
    model = costs.BYTES[job.compression] * job.parameters
    weight = costs.sent(job, model, job.compression == "int8")
    bare = costs.sent(job, 4 * job.parameters)
    made = [
        ("synchronous", 1.0, each, bare, None),
        (f"local SGD, H = {local_steps}", local_steps, sync, weight, None),
        ("FedAvg, H = 1 epoch", steps, sync, weight, None),
        # What theta has crossed is seen at the next check.
        *(
            (f"FDA, {name}", max(length, every), sync, weight, name)
            for name, length in lengths.items()
        ),
    ]
    found = []
    for name, length, seconds, size, monitor in made:
        checks = costs.check(job, known, monitor) if monitor else 0.0
        length = min(float(length), steps)
        row = costs.epoch(job, steps, checks, every, length, seconds)
        states = _state_bytes(job, known, monitor) * steps / every
        row["mb_sent"] = (steps / length * size + states) / 1e6
        row |= {"check_ms": 1e3 * checks, "sync_s": seconds}
        row |= {"round_steps": length, "round_s": row["seconds"] * length}
        row["round_s"] /= steps
        found.append({"method": name} | row)
    for row in found:
        row["times_synchronous"] = row["seconds"] / found[0]["seconds"]
    return found


def _state_bytes(job, known, monitor) -> float:
    """Returns the bytes that a worker sends in a check, in the mean."""
    if monitor is None:
        return 0.0
    if monitor == "linear":
        return costs.sent(job, 4 * (costs.FLOATS["linear"] + 1))
    whole = 4 * (costs.SHORT + costs.FLOATS["sketch"] + 2)
    share = known["share_above"]
    return costs.sent(job, (1 - share) * 8 + share * whole)


def verdict(found: list[dict], every: int, more: float | None) -> str:
    """Returns the answer in a few sentences."""
    times = {row["method"]: row["seconds"] for row in found}
    synchronous, local = (list(times.values())[i] for i in (0, 1))
    best = min(
        (row for row in found if row["method"].startswith("FDA")),
        key=lambda row: row["seconds"],
    )
    gain = synchronous / best["seconds"]
    answer = "Yes" if gain / (more or 1.0) > 1.1 else "No"
    text = (
        f"{answer}: for an epoch {best['method']} takes {_of(gain)} "
        "synchronous training's seconds, and "
        f"{_of(local / best['seconds'])} those of {found[1]['method']}."
    )
    if more:
        text += (
            f" To the same accuracy the published runs took {more:.3g} times "
            f"synchronous training's steps: {_of(gain / more)} its seconds."
        )
    else:
        text += " How many more steps it takes to an accuracy is not known."
    share = best["checks_s"] / best["steps_s"]
    if share > 0.1:
        good = math.ceil(every * share / 0.1)
        text += (
            f" Its checks cost {share:.0%} of its steps: check every {good} "
            f"steps (--check_every={good}; fda_tf's check_every=) for 10 %."
        )
        if good > best["round_steps"]:
            text += (
                " That is more than its interval between synchronisations: "
                "they would come later, and theta would hardly matter."
            )
    return text


def _of(gain: float) -> str:
    """Returns how many times fewer, or more, in words.

    Example:
      >>> _of(4.0), _of(0.5)
      ('1/4 of', '2 times')
    """
    return f"1/{gain:.3g} of" if gain >= 1 else f"{1 / gain:.3g} times"


def assumptions(job: costs.Job, known: dict, steps: int, used: dict) -> str:
    """Returns what the answer rests on."""
    hops = 2 * (job.workers - 1)
    about, ring = known["machine"], known["collective"]
    lines = [
        f"{steps} steps an epoch, each worker one in parallel, by all methods "
        "alike: what an epoch is worth is not in here;",
        *(
            f"FDA, {monitor}: a synchronisation every {length:.4g} steps in "
            f"the mean ({source}), and not less than once an epoch;"
            for monitor, (length, source) in used.items()
        ),
        f"a ring: an all-reduce has {hops} hops of {1e3 * ring['hop']:.2g} ms "
        f"and {hops + 1} times the latency of {1e3 * job.latency:g} ms, and "
        "each worker sends 2(K-1)/K of the tensor; nothing overlaps with "
        "computing, or with anything else;",
        f"FDA checks after every step, or as --check_every says; the norm is "
        f"above theta in {known['share_above']:.0%} of the sketch's checks, "
        "the most of the published runs;",
        f"models travel as {job.compression}, synchronous training's as "
        "float32; "
        "mb_sent is a worker's, without the frames of messages;",
        f"what was measured on {about['cores']} cores of an "
        f"{about['processor']}, monitors on one of them (constants.json, "
        "docs/scale.md).",
    ]
    return "\n".join(["Assumed:", *(f"* {line}" for line in lines)])


def intervals(given: float | None, parameters: float, known: dict) -> dict:
    """Returns monitor -> (steps between synchronisations, where from)."""
    if given is not None:
        return dict.fromkeys(costs.FLOATS, (given, "as given"))
    found = {}
    for monitor in costs.FLOATS:
        near = costs.interval(parameters, known, monitor)
        source = (
            f"published, {near['model']}: {near['least']:.3g} to "
            f"{near['most']:.3g}"
        )
        if near["steps"]:
            source += (
                f"; to its target FDA took {near['steps']:.3g} times "
                "synchronous training's steps"
            )
        found[monitor] = near["median"], source
    return found


def main(options) -> None:
    """Prints what was assumed, the answer, a table, and JSON."""
    names = (
        "parameters", "step_ms", "workers", "mbit", "latency_ms", "samples",
        "batch", "steps_per_epoch", "local_steps", "interval", "check_every",
        "memory_gb_s",
    )  # fmt: skip
    wrong = problems({name: getattr(options, name) for name in names})
    if wrong:
        sys.exit("\n".join(wrong))
    known = costs.constants()
    job = costs.Job(
        parameters=options.parameters,
        workers=options.workers,
        step=options.step_ms / 1e3,
        rate=options.mbit * 1e6 / 8,
        latency=options.latency_ms / 1e3,
        compression=options.compression,
        memory=options.memory_gb_s and options.memory_gb_s * 1e9,
    )
    steps = options.steps_per_epoch or math.ceil(
        options.samples / (options.batch * options.workers)
    )
    used = intervals(options.interval, options.parameters, known)
    lengths = {monitor: length for monitor, (length, _) in used.items()}
    every = options.check_every
    table = rows(job, known, steps, options.local_steps, every, lengths)
    print(assumptions(job, known, steps, used))
    near = costs.interval(options.parameters, known, "sketch")
    print(f"\n{verdict(table, every, near['steps'])}\n")
    measured.show(table, COLUMNS, options, steps=steps)


if __name__ == "__main__":
    measured.command(
        main,
        parameters=(float, "d, of the model.", "needed"),
        step_ms=(float, "Milliseconds of a local step.", "needed"),
        workers=(int, "K.", "needed"),
        mbit=(float, "Mbit a second of each worker's cable.", "needed"),
        latency_ms=(0.1, "From one worker to the next, one way."),
        samples=(50_000, "Of all workers, in an epoch."),
        batch=(32, "Samples of a worker's batch."),
        steps_per_epoch=(int, "Instead of samples and batch."),
        local_steps=(32, "H of local SGD."),
        interval=(
            float,
            "FDA's mean interval between synchronisations, in steps; default: "
            "the median of the published runs of the model nearest in size.",
        ),
        check_every=(1, "Steps from one check to the next."),
        compression=("float32", "Of local SGD and FDA.", costs.BYTES),
        memory_gb_s=(
            float,
            "Memory bandwidth of a worker, for monitors; default: that "
            "measured.",
        ),
    )
