"""The workers of a SLURM step, in the order of its tasks."""

import itertools
import re
from collections.abc import Iterator, Mapping

from fda_tf.processes.environment import slurm_number, slurm_tasks

_ITEM = re.compile(r"(?:\[[^\[\]]*\]|[^\[\],\s])+")  # commas in brackets stay
_PARTS = re.compile(r"\[([^\[\]]*)\]|([^\[\]]+)")
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_TASKS = re.compile(r"([0-9]+)(?:\(x([0-9]+)\))?")


def read(
    environ: Mapping[str, str], port: int
) -> tuple[dict[str, list[str]], str, int]:
    """Returns (cluster, job, task index) of the step that we are a task of.

    Worker k is task k, SLURM_PROCID. The tasks of a node listen on as many
    ports in a row.

    Args:
      environ: the process's environment, as srun makes it.
      port: the first of each node.

    Raises:
      ValueError: for variables that are missing, or do not fit together.

    Example:
      >>> read({"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "2",
      ...       "SLURM_STEP_NODELIST": "n[8-9]",
      ...       "SLURM_STEP_TASKS_PER_NODE": "2,1"}, 12000)
      ({'worker': ['n8:12000', 'n8:12001', 'n9:12000']}, 'worker', 2)
    """
    hosts = expand_hosts(_variable("SLURM_STEP_NODELIST", environ))
    counts = expand_counts(_variable("SLURM_STEP_TASKS_PER_NODE", environ))
    tasks = slurm_tasks(environ)
    if len(hosts) != len(counts) or sum(counts) != tasks:
        raise ValueError(
            f"SLURM's variables do not fit together: {len(hosts)} nodes in "
            f"SLURM_STEP_NODELIST, {len(counts)} in SLURM_STEP_TASKS_PER_NODE "
            f"with {sum(counts)} tasks, and SLURM_STEP_NUM_TASKS is {tasks}."
        )
    _variable("SLURM_PROCID", environ)
    task = slurm_number("SLURM_PROCID", environ, "0")
    if task >= tasks:
        raise ValueError(
            f"SLURM_PROCID is {task}, but the step has {tasks} tasks, from 0: "
            "is it of another step? Start every task by the same srun."
        )
    places = _places(counts, _run_length(environ))
    _check_place(places[task], environ)
    addresses = [f"{hosts[node]}:{port + k}" for node, k in places]
    return {"worker": addresses}, "worker", task


def expand_hosts(text: str) -> list[str]:
    """Returns the hosts of a SLURM node list, in its own order.

    Args:
      text: names with commas between them. Brackets hold numbers and ranges;
        with several, the last one counts fastest.

    Raises:
      ValueError: if it is no such list.

    Example:
      >>> expand_hosts("n[8-10],r[1-2]c[01,3]-ib")
      ['n8', 'n9', 'n10', 'r1c01-ib', 'r1c3-ib', 'r2c01-ib', 'r2c3-ib']
    """
    items = _ITEM.findall(text)
    if not items or ",".join(items) != text:
        raise _unreadable("node list", text, "n[1-4,07],gpu-3")
    hosts: list[str] = []
    for item in items:
        choices = [
            [name] if name else [*_numbers(numbers, text)]
            for numbers, name in _PARTS.findall(item)
        ]
        hosts += map("".join, itertools.product(*choices))
    return hosts


def expand_counts(text: str) -> list[int]:
    """Returns the tasks of each node.

    Raises:
      ValueError: if it is no such list.

    Example:
      >>> expand_counts("2(x3),1")
      [2, 2, 2, 1]
    """
    counts: list[int] = []
    for item in text.split(","):
        found = _TASKS.fullmatch(item)
        if not found:
            raise _unreadable("tasks per node", text, "2(x3),1")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _numbers(text: str, whole: str) -> Iterator[str]:
    """Yields the numbers of a bracket, each as wide as its range begins."""
    for item in text.split(","):
        found = _RANGE.fullmatch(item)
        if not found:
            raise _unreadable("node list", whole, "n[1-4,07],gpu-3")
        first, last = found[1], found[2] or found[1]
        for number in range(int(first), int(last) + 1):
            yield f"{number:0{len(first)}}"


def _run_length(environ: Mapping[str, str]) -> int | None:
    """Returns how many tasks in a row a node gets; None for all of its own."""
    how = environ.get("SLURM_DISTRIBUTION", "").partition(":")[0]
    if how == "cyclic":
        return 1
    if how == "plane":
        return slurm_number("SLURM_DIST_PLANESIZE", environ, "1")
    return None  # block, which is the default


def _places(counts: list[int], run: int | None) -> list[tuple[int, int]]:
    """Returns each task's node, and its number there.

    Args:
      counts: the tasks of each node.
      run: how many tasks in a row a node gets, until it has all; None for all.
    """
    places = []
    run = max(1, run or max(counts))
    for first in range(0, max(counts), run):
        for node, count in enumerate(counts):
            last = min(first + run, count)
            places += [(node, k) for k in range(first, last)]
    return places


def _check_place(place: tuple[int, int], environ: Mapping[str, str]) -> None:
    """Sees that SLURM says the same: it has other distributions, too."""
    said = tuple(
        slurm_number(name, environ, str(number))
        for name, number in zip(
            ("SLURM_NODEID", "SLURM_LOCALID"), place, strict=True
        )
    )
    if said != place:
        raise ValueError(
            "SLURM has dealt the tasks to the nodes in a way that fda_tf "
            f"cannot tell: this is task {said[1]} of node {said[0]}, expected "
            f"task {place[1]} of node {place[0]}. Give srun "
            "--distribution=block, or every task a TF_CONFIG."
        )


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if not environ.get(name):
        raise ValueError(
            f"SLURM_STEP_NUM_TASKS says that this is a step of several tasks, "
            f"but {name} is not set. Start the tasks by srun, or unset "
            "SLURM_STEP_NUM_TASKS to train outside of SLURM."
        )
    return environ[name]


def _unreadable(what: str, text: str, example: str) -> ValueError:
    return ValueError(
        f"SLURM gives the {what} {text!r}; expected something like {example}."
    )
