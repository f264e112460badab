"""What the environment says of the job that this process belongs to."""

import json


def read_tf_config(text: str) -> tuple[dict[str, list[str]], str, int]:
    """Returns (cluster, job, task index) of a TF_CONFIG.

    Raises:
      ValueError: for anything that describes no worker of a cluster.

    Example:
      >>> read_tf_config('{"cluster": {"worker": ["a:1", "b:1"]},'
      ...                ' "task": {"type": "worker", "index": 1}}')
      ({'worker': ['a:1', 'b:1']}, 'worker', 1)
    """
    example = (
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": '
        '{"type": "worker", "index": 0}}'
    )
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"TF_CONFIG is not JSON ({error}): {text[:200]!r}. Expected "
            f"something like {example}."
        ) from error
    try:
        cluster = {job: list(tasks) for job, tasks in config["cluster"].items()}
        job, task = config["task"]["type"], int(config["task"]["index"])
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(
            f"TF_CONFIG lacks a cluster or a task: {text[:200]!r}. Expected "
            f"something like {example}."
        ) from error
    unknown = set(cluster) - {"chief", "worker"}
    if unknown or not any(cluster.values()):
        raise ValueError(
            f"TF_CONFIG has the jobs {sorted(cluster)}; expected 'worker', "
            "and at most one 'chief' besides."
        )
    counts = {name: len(tasks) for name, tasks in cluster.items()}
    if not 0 <= task < counts.get(job, 0):
        raise ValueError(
            f"TF_CONFIG says that this is task {job}:{task}, but its cluster "
            f"lists this many tasks: {counts}."
        )
    for address in sum(cluster.values(), []):
        if not str(address).rpartition(":")[2].isdigit():
            raise ValueError(
                f"TF_CONFIG has the address {address!r}; expected host:port."
            )
    return {"worker": []} | cluster, job, task
