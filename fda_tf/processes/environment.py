"""What the environment says of the job that this process belongs to."""

import ipaddress
import json
import os
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": '
    '{"type": "worker", "index": 0}}'
)


def describes_job() -> bool:
    """Returns whether this process is one of a job's: TF_CONFIG or SLURM.

    Raises:
      ValueError: if SLURM's number of tasks is no number.
    """
    return bool(os.environ.get("TF_CONFIG")) or slurm_tasks() > 1


def slurm_tasks(environ: Mapping[str, str] = os.environ) -> int:
    """Returns how many tasks the SLURM step has that we are in; 1 outside.

    Raises:
      ValueError: if SLURM_STEP_NUM_TASKS is no number.

    Example:
      >>> slurm_tasks()
      1
    """
    return slurm_number("SLURM_STEP_NUM_TASKS", environ, "1")


def slurm_number(name: str, environ: Mapping[str, str], unset: str) -> int:
    """Returns a variable of SLURM's that is a whole number.

    Args:
      name: of the variable.
      environ: the process's environment.
      unset: what it stands for where it is not set.

    Raises:
      ValueError: if it is no such number.
    """
    text = environ.get(name) or unset
    if not (text.isascii() and text.isdigit()):
        raise ValueError(
            f"{name} is {text!r}; expected a whole number, as srun sets it. "
            "Unset it to train outside of SLURM."
        )
    return int(text)


def own_gpu(
    addresses: Sequence[str],
    index: int,
    gpus: int,
    environ: Mapping[str, str],
) -> int:
    """Returns which of this machine's GPUs is this process's own.

    The GPU of its number among the workers of this machine: the one that
    SLURM gives it, or how many workers before it have the same host. With
    more workers than GPUs, they are dealt in turn.

    Args:
      addresses: host:port of each worker.
      index: which of them this is.
      gpus: of this machine, at least 1.
      environ: the process's environment.

    Raises:
      ValueError: if SLURM_LOCALID is no number.

    Example:
      >>> job = ["a:1", "b:1", "a:2", "b:2"]
      >>> [own_gpu(job, k, 4, {}) for k in range(4)]
      [0, 0, 1, 1]
    """
    place = neighbours(addresses, index).index(index)
    # All workers that one SLURM task launches have the number of that task;
    # they have a TF_CONFIG.
    if not environ.get("TF_CONFIG") and slurm_tasks(environ) > 1:
        place = slurm_number("SLURM_LOCALID", environ, str(place))
    return place % gpus


def neighbours(addresses: Sequence[str], index: int) -> list[int]:
    """Returns the numbers of the workers that have this worker's host.

    Example:
      >>> neighbours(["a:1", "b:1", "a:2"], 2)
      [0, 2]
    """
    hosts = [split_address(address)[0] for address in addresses]
    return [k for k, host in enumerate(hosts) if host == hosts[index]]


def is_local(host: str) -> bool:
    """Returns whether only this machine itself knows a host by this name.

    Example:
      >>> [is_local(h) for h in ("localhost", "127.0.0.2", "::1", "host0")]
      [True, True, True, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name


def bypass_proxy(
    addresses: Sequence[str], environ: MutableMapping[str, str]
) -> None:
    """Lets gRPC reach the workers directly, whatever proxy the shell names.

    It takes http_proxy for all hosts but those of no_grpc_proxy or, where that
    is not set, no_proxy.

    Args:
      addresses: host:port of each worker.
      environ: the process's environment, which is changed.

    Example:
      >>> environ = {"http_proxy": "http://proxy:8080", "no_proxy": "a"}
      >>> bypass_proxy(["b:1", "b:2", "[::1]:3"], environ)
      >>> environ["no_grpc_proxy"]
      'a,b,::1'
    """
    before = environ.get("no_grpc_proxy") or environ.get("no_proxy") or ""
    hosts = [split_address(address)[0] for address in addresses]
    names = filter(None, [*before.split(","), *hosts])
    environ["no_grpc_proxy"] = ",".join(dict.fromkeys(names))


def split_address(address: str, found: str = "Received") -> tuple[str, int]:
    """Returns (host, port) of host:port; an IPv6 host is in brackets.

    Args:
      address: of a worker.
      found: how an error begins: who has this address.

    Raises:
      ValueError: if it is no such address.

    Example:
      >>> split_address("host0:2222"), split_address("[::1]:2222")
      (('host0', 2222), ('::1', 2222))
    """
    host, _, port = str(address).rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not host or not (port.isascii() and port.isdigit()):
        raise ValueError(
            f"{found} the address {address!r}; expected host:port."
        )
    if any(map(str.isspace, host)):
        raise ValueError(
            f"{found} the address {address!r}; expected host:port without "
            "blanks."
        )
    if ":" in host and not bracketed:
        raise ValueError(
            f"{found} the address {address!r}; expected an IPv6 host in "
            "brackets, such as [::1]:2222."
        )
    return host, int(port)


def read_tf_config(text: str) -> tuple[dict[str, list[str]], str, int]:
    """Returns (cluster, job, task index) of a TF_CONFIG.

    Raises:
      ValueError: for anything that describes no worker of a cluster.

    Example:
      >>> read_tf_config('{"cluster": {"worker": ["a:1", "b:1"]},'
      ...                ' "task": {"type": "worker", "index": 1}}')
      ({'worker': ['a:1', 'b:1']}, 'worker', 1)
    """
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"TF_CONFIG is not JSON ({error}): {text[:200]!r}. Expected "
            f"something like {_EXAMPLE}."
        ) from error
    try:
        cluster = dict(config["cluster"].items())
        job, task = config["task"]["type"], config["task"]["index"]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"TF_CONFIG lacks a cluster or a task: {text[:200]!r}. Expected "
            f"something like {_EXAMPLE}."
        ) from error
    _check_jobs(cluster)
    cluster = {name: tasks for name, tasks in cluster.items() if tasks}
    _check_addresses(cluster)
    return {"worker": []} | cluster, job, _task(cluster, job, task)


def _check_jobs(cluster: Mapping[str, Any]) -> None:
    for job, tasks in cluster.items():
        if not isinstance(tasks, list):
            raise ValueError(
                f"TF_CONFIG has {tasks!r} for the job {job!r}; expected a list "
                f"of addresses, as in {_EXAMPLE}."
            )
    counts = {job: len(tasks) for job, tasks in cluster.items()}
    used = {job for job, count in counts.items() if count}
    known = used and used <= {"chief", "worker"}
    if not known or counts.get("chief", 0) > 1:
        raise ValueError(
            f"TF_CONFIG has this many tasks of each job: {counts}; expected "
            "'worker', and at most one 'chief' besides."
        )


def _check_addresses(cluster: Mapping[str, list[Any]]) -> None:
    addresses = [a for tasks in cluster.values() for a in tasks]
    for address in addresses:
        if not isinstance(address, str):
            raise ValueError(
                f"TF_CONFIG has the address {address!r}; expected a text, "
                "host:port."
            )
        _, port = split_address(address, "TF_CONFIG has")
        if not 1 <= port <= 65535:
            raise ValueError(
                f"TF_CONFIG has the address {address!r}; expected a port of 1 "
                "to 65535."
            )
        if addresses.count(address) > 1:
            raise ValueError(
                f"TF_CONFIG has the address {address!r} more than once; "
                "expected another host or port for each task."
            )


def _task(cluster: Mapping[str, list[str]], job: Any, task: Any) -> int:
    """Returns the index, a number or, as TensorFlow allows, its digits."""
    if isinstance(task, str) and task.isascii() and task.isdigit():
        task = int(task)
    if type(task) is not int:  # True is an int, too
        raise ValueError(
            f"TF_CONFIG has the task index {task!r}; expected a whole number, "
            f"as in {_EXAMPLE}."
        )
    counts = {name: len(tasks) for name, tasks in cluster.items()}
    if not (isinstance(job, str) and 0 <= task < counts.get(job, 0)):
        raise ValueError(
            f"TF_CONFIG says that this is task {job}:{task}, but its cluster "
            f"lists this many tasks: {counts}."
        )
    return task
