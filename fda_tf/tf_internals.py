"""Every private name of TensorFlow that fda_tf uses, each with its reason.

A version that has one no longer fails a test named here, and only that use.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

HEARTBEAT_SECONDS = 30  # a process silent for longer is taken for dead


def configure_heartbeat(cluster: Mapping[str, Sequence[str]]) -> None:
    """Lets a process be silent for a while before it is taken for dead.

    TensorFlow's default is 10 s, and has no public setting.

    Args:
      cluster: the addresses of each job.
    """
    try:
        from tensorflow.compiler.xla.tsl.protobuf import (
            coordination_config_pb2 as config,
        )
        from tensorflow.python.eager import context
    except ImportError:
        logging.warning(
            "This TensorFlow does not let fda_tf set its heartbeat: a worker "
            "silent for 10 s is taken for dead."
        )
        return
    leader = "chief" if cluster.get("chief") else "worker"
    context.context().configure_coordination_service(
        "standalone",
        service_leader=f"/job:{leader}/replica:0/task:0",
        heartbeat_timeout_in_ms=HEARTBEAT_SECONDS * 1000,
        coordinated_jobs=[
            config.CoordinatedJob(name=job, num_tasks=len(tasks))
            for job, tasks in cluster.items()
            if tasks
        ],
    )


def abort_exchanges(words: str) -> None:
    """Ends all exchanges of this process; no other is possible after it.

    Args:
      words: what the errors say that they then raise, in one line.
    """
    from tensorflow.python.eager import context

    context.context().abort_collective_ops(tf.errors.DEADLINE_EXCEEDED, words)


def tell_all(words: str) -> None:
    """Ends all exchanges on all workers, with these words.

    Args:
      words: what the errors say that they then raise, in one line.
    """
    from tensorflow.python.eager import context

    try:
        context.context().report_error_to_cluster(tf.errors.UNAVAILABLE, words)
    except (AttributeError, ValueError, tf.errors.OpError):
        pass  # they find out by the heartbeat


def is_initialized() -> bool:
    """Returns whether TensorFlow has been used in this process.

    There is no public way to ask. Guarded by
    tests/processes/test_connect.py::test_connect_must_come_first.
    """
    from tensorflow.python.eager import context

    return bool(getattr(context.context(), "_initialized", False))


def global_seed() -> int | None:
    """Returns what `tf.random.set_seed` was given, or None.

    It can be set in public, and not read. Guarded by the tests of shuffles in
    tests/fit/test_fit_cluster.py.
    """
    from tensorflow.python.eager import context

    return context.global_seed()


def exchange_numbers(strategy: Any) -> dict[int, dict[str, int]]:
    """Returns the table by which TensorFlow numbers exchanges, itself.

    A call that failed here has taken numbers for which the others still
    wait; they can be given back here alone. Guarded by the tests of a failing
    step in tests/fit/test_fit_cluster.py.
    """
    return strategy.extended._collective_keys._instance_key_table


def read_only_inputs(graph: Any) -> list[int]:
    """Returns the inputs of a graph that are variables it only reads.

    TensorFlow marks them for its own use. Guarded by
    tests/workers/test_variable_groups.py.
    """
    from tensorflow.python.framework import auto_control_deps_utils as utils

    return utils.get_read_only_resource_input_indices_graph(graph)
