"""Pictures of `experiments.bench.wallclock`: accuracy over seconds, costs."""

import collections
import statistics
from collections.abc import Iterable, Sequence

from matplotlib import lines
from matplotlib.figure import Figure

from experiments import style
from experiments.bench import gradients, wallclock_runs
from experiments.tasks import TASKS

MARKERS = "osD^vPX<>ph"


def kind_of(method: str) -> str:
    """Returns the algorithm whose look a method has."""
    return "synchronous" if method == gradients.NAME else method.split(":")[0]


def name_of(method: str) -> str:
    """Returns what pictures call a method.

    Example:
      >>> name_of("local_sgd:interval=32"), name_of("sketch")
      ('Local SGD, H = 32', 'SketchFDA')
      >>> name_of("linear:theta=auto:check_every=16")
      'LinearFDA, auto, check every 16'
    """
    name = style.LOOKS[kind_of(method)].name
    if method == gradients.NAME:
        return f"{name}, gradients"
    words = [name]
    for word in method.split(":")[1:]:
        key, _, value = word.partition("=")
        if key == "theta":
            value = value if value == "auto" else style.theta(float(value))
        words.append(
            {"theta": value, "interval": f"H = {value}"}.get(
                key, f"{key.replace('_', ' ')} "
                f"{value}",
            )
        )  # fmt: skip
    return ", ".join(words)


def draw(runs: Iterable[dict], prefix: str) -> list[str]:
    """Draws a picture for each task; returns their paths."""
    by_task = collections.defaultdict(list)
    for run in runs:
        by_task[run["task"]].append(run)
    paths = []
    for task, found in by_task.items():
        with style.drawing():
            drawn = figure(found, TASKS[task].title)
            paths.append(f"{prefix}-{task}.png")
            drawn.savefig(paths[-1])
    return paths


def figure(runs: Sequence[dict], title: str) -> Figure:
    """Returns accuracy against seconds, and seconds to the target, by rate."""
    rates = sorted({run["mbit"] for run in runs})
    methods = [m for m in wallclock_runs.METHODS if any(_of(runs, method=m))]
    methods += sorted({run["method"] for run in runs} - set(methods))
    drawn = style.figure(3.4 * len(rates) + 2.0, 7.2)
    panels = drawn.subplots(2, len(rates), squeeze=False, sharey="row")
    hosts, target = runs[0]["hosts"], runs[0]["target"]
    seconds = wallclock_runs.step_seconds(runs)
    drawn.suptitle(
        f"{title}, {hosts} hosts: wall clock to {target:g} test accuracy",
        x=0.01, ha="left", fontweight="bold", fontsize=11,
    )  # fmt: skip
    for i, mbit in enumerate(rates):
        found = list(_of(runs, mbit=mbit))
        _curves(panels[0, i], found, methods, f"{mbit:g} mbit")
        _seconds(panels[1, i], found, methods, seconds)
    panels[0, 0].set_ylabel("test accuracy")
    panels[1, 0].set_yticks(range(len(methods)), map(name_of, methods))
    panels[1, 0].set_ylim(len(methods) - 0.4, -0.6)
    drawn.legend(
        handles=_keys(methods), ncols=len(rates) + 1, handlelength=3.5,
        loc="outside lower center", frameon=False, fontsize=8,
    )  # fmt: skip
    return drawn


def _of(runs, **wanted):
    for run in runs:
        if all(run[name] == value for name, value in wanted.items()):
            yield run


def _look(method, methods):
    """Returns the line and the marker of a method: its kind's colour."""
    kind = kind_of(method)
    colour = style.LOOKS[kind].colour
    alike = [m for m in methods if kind_of(m) == kind]
    return {
        "color": colour,
        "linestyle": style.dashes(alike.index(method)),
        "marker": MARKERS[methods.index(method) % len(MARKERS)],
    }


def _curves(axes, runs, methods, title):
    target = runs[0]["target"]
    floor, seconds = target - 4 * (1 - target), []
    for run in runs:
        look = _look(run["method"], methods)
        marker = look.pop("marker")
        _, taken, accuracy = zip(*run["curve"], strict=True)
        thin = 1.5 if run["seed"] == 0 else 0.6
        axes.plot(taken, accuracy, linewidth=thin, **look)
        if run["reached"]:
            axes.plot(taken[-1], accuracy[-1], marker, color=look["color"])
        seconds += [s for _, s, a in run["curve"] if a > floor]
    if seconds:
        style.log_axis(axes.xaxis, seconds)
    axes.axhline(
        target, color=style.MUTED, linestyle=(0, (4, 3)), linewidth=0.9
    )
    axes.set_ylim(floor, target + 0.4 * (1 - target))
    axes.set_title(title)
    axes.set_xlabel("seconds of training (log scale)")


def _seconds(axes, runs, methods, seconds):
    """Draws seconds to the target: measured, and with a core for each host."""
    shown = []
    for place, method in enumerate(methods):
        reached = list(_of(runs, method=method, reached=True))
        if not reached:
            continue
        each = [wallclock_runs.costs(run, seconds) for run in reached]
        look = _look(method, methods) | {"linestyle": "none"}
        measured = [cost["s"] for cost in each]
        alone = statistics.median(cost["s, a core each"] for cost in each)
        axes.plot(
            [min(measured), max(measured)], [place, place], color=look["color"]
        )
        axes.plot(statistics.median(measured), place, **look)
        axes.plot(alone, place, markerfacecolor=style.PAPER, **look)
        shown += [*measured, alone]
    if shown:
        style.log_axis(axes.xaxis, shown)
    axes.set_xlabel("seconds to the target (log scale)")


def _keys(methods):
    keys = [
        lines.Line2D([], [], label=name_of(m), **_look(m, methods))
        for m in methods
    ]
    for label, face in (
        ("measured: the hosts share the cores", style.INK),
        ("modelled: a core for each host", style.PAPER),
    ):
        keys.append(
            lines.Line2D(
                [], [], color=style.INK, linestyle="none", marker="o",
                markerfacecolor=face, label=label,
            )
        )  # fmt: skip
    return keys
