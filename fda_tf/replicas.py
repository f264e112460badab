"""Where the workers are, on a cluster: the only file that knows tf.distribute.

One process is one worker. `connect()` finds the others through TF_CONFIG or
SLURM, or finds that there are none. What a `Replicas` offers is small: the
mean of tensors over the processes, and a few eager conveniences made of it.
"""

import contextlib
import faulthandler
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from fda_tf import environment, rendezvous

HEARTBEAT_SECONDS = 30  # a process silent for longer is taken for dead


class Replicas:
    """The processes of a job, each of which is one worker.

    Args:
      index: this process's number, from 0; number 0 is the chief.
      addresses: host:port of each process, in order.
      strategy: the `tf.distribute` strategy that joins them; None alone.
      timeout: seconds that a collective waits for the others.
    """

    def __init__(
        self,
        index: int = 0,
        addresses: Sequence[str] = ("",),
        strategy: tf.distribute.Strategy | None = None,
        timeout: float = 600.0,
    ):
        self.index, self.addresses = index, tuple(addresses)
        self.count, self.is_chief = len(self.addresses), index == 0
        self.timeout = timeout
        self._strategy = strategy
        self._sums: dict[Any, Any] = {}  # a compiled sum for each signature

    def mean(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the mean of each tensor over the processes, bit-equal on all.

        One all-reduce a tensor: give few and large ones. For use in graphs.
        """
        return self._reduce(tensors, tf.distribute.ReduceOp.MEAN)

    def sum(self, tensor: Any) -> np.ndarray:
        """Returns the sum of a tensor over the processes; eager."""
        return self._sum([tf.convert_to_tensor(tensor)])[0].numpy()

    def gather(self, tensor: Any) -> np.ndarray:
        """Returns every process's tensor, [count, ...]; eager."""
        own = np.asarray(tensor)
        rows = np.zeros((self.count, *own.shape), own.dtype)
        rows[self.index] = own
        return self.sum(rows)

    def broadcast(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the chief's tensors, bit for bit; eager."""
        wide = [
            t if t.dtype.is_floating else tf.cast(t, tf.int64) for t in tensors
        ]
        own = wide if self.is_chief else [tf.zeros_like(t) for t in wide]
        return [
            tf.cast(total, tensor.dtype)
            for total, tensor in zip(self._sum(own), tensors, strict=True)
        ]

    def gather_json(self, value: Any) -> list[Any]:
        """Returns every process's value, by way of JSON; eager."""
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = self.gather(np.int32(len(text)))
        row = np.zeros(sizes.max(), np.int32)
        row[: len(text)] = text
        rows = self.gather(row).astype(np.uint8)
        return [
            json.loads(r[:n].tobytes())
            for r, n in zip(rows, sizes, strict=True)
        ]

    @contextlib.contextmanager
    def lost_worker_in_words(self) -> Iterator[None]:
        """Says in words what TensorFlow says of a worker that is gone.

        Raises:
          RuntimeError: when another worker does not take part any more.
        """
        lost = (
            tf.errors.UnavailableError,
            tf.errors.DeadlineExceededError,
            tf.errors.AbortedError,
        )
        try:
            yield
        except lost as error:
            raise RuntimeError(
                f"Worker {self.index} lost another worker: it was killed, cut "
                f"off, failed, or was silent for {self.timeout:g} s (see its "
                "own output). All processes must be started again. TensorFlow "
                f"says: {str(error).splitlines()[0][:200]}"
            ) from error

    def _sum(self, tensors):
        key = tuple((t.dtype, tuple(t.shape)) for t in tensors)
        if key not in self._sums:
            self._sums[key] = tf.function(
                lambda values: self._reduce(values, tf.distribute.ReduceOp.SUM)
            )
        return self._sums[key](list(tensors))

    def _reduce(self, tensors, op):
        if self._strategy is None:
            return list(tensors)
        options = tf.distribute.experimental.CommunicationOptions(
            timeout_seconds=self.timeout
        )

        def all_reduce(*values):
            context = tf.distribute.get_replica_context()
            return [
                context.all_reduce(op, tf.identity(v), options=options)
                for v in values
            ]

        return self._strategy.run(all_reduce, args=tuple(tensors))


_connected: list[Replicas] = []


def connect(
    start_timeout: float = 300.0, timeout: float = 600.0, port: int = 0
) -> Replicas:
    """Joins the job that the environment describes; alone if none.

    Call it first in the script, before anything else uses TensorFlow; called
    again, it returns the same. It reads TF_CONFIG (TensorFlow, Kubernetes),
    else SLURM's variables inside a step of several tasks (`srun`), else there
    is one worker, this one.

    Args:
      start_timeout: seconds to wait for all processes to be there;
        TensorFlow itself would wait for ever.
      timeout: seconds that a later exchange waits for the slowest worker.
      port: the first port of a node's tasks under SLURM; by default made of
        the job's number.

    Returns:
      The processes of the job.

    Raises:
      TimeoutError: if some do not come; names them.
      ValueError: if TF_CONFIG is no JSON, lists no such task, or names a port
        in use.
      RuntimeError: if TensorFlow was used before.

    Example:
      >>> replicas = connect()
      >>> replicas.count, replicas.index, replicas.is_chief
      (1, 0, True)
    """
    if _connected:
        return _connected[0]
    if os.environ.get("TF_CONFIG"):
        config = os.environ["TF_CONFIG"]
        cluster, job, task = environment.read_tf_config(config)
    elif environment.slurm_tasks() > 1:
        cluster, job, task = read_slurm(port)
    else:
        cluster, job, task = {"worker": [""]}, "worker", 0
    addresses = cluster.get("chief", []) + cluster["worker"]
    index = task + (len(cluster.get("chief", [])) if job == "worker" else 0)
    if len(addresses) == 1:
        replicas = Replicas()
    else:
        _check_unused()
        rendezvous.listen(addresses[index]).close()  # is our port free?
        rendezvous.meet(addresses, index, start_timeout)
        _configure_heartbeat(cluster)
        # Should a worker die just now, only this still ends the others.
        faulthandler.dump_traceback_later(start_timeout, exit=True)
        strategy = _strategy(cluster, job, task)
        replicas = Replicas(index, addresses, strategy, timeout)
        replicas.sum(1)  # everyone is there
        faulthandler.cancel_dump_traceback_later()
        local = all(a.startswith(("127.", "localhost:")) for a in addresses)
        if replicas.is_chief and not local:
            logging.warning(
                "TensorFlow's cluster protocol neither authenticates nor "
                "encrypts: run it inside a private network or a tunnel."
            )
    _connected.append(replicas)
    return replicas


def current() -> Replicas:
    """Returns what `connect()` joined; alone if there is no job to join.

    Raises:
      RuntimeError: if the environment describes a job that was not joined.
    """
    if _connected:
        return _connected[0]
    if environment.describes_job():
        raise RuntimeError(
            "This process is one of a job's (TF_CONFIG or SLURM), but "
            "fda_tf.connect() was not called: every process would train "
            "alone. Call it first in the script."
        )
    return Replicas()


def read_slurm(port: int = 0) -> tuple[dict[str, list[str]], str, int]:
    """Returns (cluster, job, task index) of the SLURM step we are in."""
    tasks = environment.slurm_tasks()
    job = int(os.environ.get("SLURM_JOB_ID", 0))
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=port or 12000 + job * 64 % 20000,
        gpus_per_node=tasks,  # with none, the resolver divides by zero
        gpus_per_task=1,
        auto_set_gpu=False,
    )
    cluster = resolver.cluster_spec().as_dict()
    kind, task = resolver.get_task_info()
    return cluster, kind, task


def _strategy(cluster, job, task) -> tf.distribute.Strategy:
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({j: t for j, t in cluster.items() if t}),
        task_type=job,
        task_id=task,
        rpc_layer="grpc",
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    processes = sum(map(len, cluster.values()))
    if strategy.num_replicas_in_sync != processes:
        raise ValueError(
            f"{strategy.num_replicas_in_sync} replicas in {processes} "
            "processes: this process sees several GPUs, and one process is "
            "one worker with one GPU. Set CUDA_VISIBLE_DEVICES for each."
        )
    return strategy


def _check_unused() -> None:
    """Raises RuntimeError if TensorFlow has been used in this process."""
    from tensorflow.python.eager import context

    # TensorFlow has no public way to ask.
    if getattr(context.context(), "_initialized", False):
        raise RuntimeError(
            "fda_tf.connect() must come first in the script: TensorFlow has "
            "been used already (a tensor, a model), and can no longer join "
            "a cluster. Move the call up."
        )


def _configure_heartbeat(cluster: dict[str, list[str]]) -> None:
    """Lets a process be silent for a while before it is taken for dead.

    TensorFlow's default is 10 s, and has no public setting.
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
