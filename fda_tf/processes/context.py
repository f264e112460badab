"""What is set before TensorFlow starts, and has no public way to set."""

import os
from collections.abc import Mapping, Sequence

import tensorflow as tf
from absl import logging

from fda_tf.processes import environment

HEARTBEAT_SECONDS = 30  # a process silent for longer is taken for dead


def check_unused() -> None:
    """Raises RuntimeError if TensorFlow has been used in this process."""
    from tensorflow.python.eager import context

    # TensorFlow has no public way to ask.
    if getattr(context.context(), "_initialized", False):
        raise RuntimeError(
            "fda_tf.connect() must come first in the script: TensorFlow has "
            "been used already (a tensor, a model, a tf.distribute strategy), "
            "and can no longer join a cluster. Move the call up, and make no "
            "strategy: connect() makes the one that there is."
        )


def take_own_gpu(addresses: Sequence[str], index: int) -> None:
    """Hides all GPUs but this process's own, if it sees several.

    Args:
      addresses: of the job's processes.
      index: which of them this is.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if len(gpus) < 2:
        return
    own = environment.own_gpu(addresses, index, len(gpus), os.environ)
    tf.config.set_visible_devices(gpus[own], "GPU")
    neighbours = environment.neighbours(addresses, index)
    logging.info("Worker %d has GPU %d of %d.", index, own, len(gpus))
    if len(neighbours) > len(gpus):
        logging.warning(
            "%d workers of this machine share %d GPUs: TensorFlow takes a "
            "GPU's whole memory unless TF_FORCE_GPU_ALLOW_GROWTH=true. Start "
            "one worker for each GPU.",
            len(neighbours),
            len(gpus),
        )


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
