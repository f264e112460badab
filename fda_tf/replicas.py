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

from fda_tf import context, environment, own_address, rendezvous


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
        return self.sums([tf.convert_to_tensor(tensor)])[0].numpy()

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
            for total, tensor in zip(self.sums(own), tensors, strict=True)
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
          RuntimeError: when another worker does not take part any more, or
            takes part in something else.
        """
        lost = (
            tf.errors.UnavailableError,
            tf.errors.DeadlineExceededError,
            tf.errors.AbortedError,
        )
        try:
            yield
        except (*lost, tf.errors.InternalError) as error:
            strange = isinstance(error, tf.errors.InternalError)
            if self.count == 1 or (strange and _ABORTED not in str(error)):
                raise
            what = _OTHERWISE if strange else _LOST.format(self.timeout)
            raise RuntimeError(
                f"Worker {self.index} {what} All processes must be started "
                f"again. TensorFlow says: {str(error).splitlines()[0][:200]}"
            ) from error

    def sums(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the sum of each tensor over the processes; eager."""
        key = tuple((t.dtype, tuple(t.shape)) for t in tensors)
        if key not in self._sums:
            total = tf.function(
                lambda values: self._reduce(values, tf.distribute.ReduceOp.SUM)
            )
            self._sums[key] = total.get_concrete_function(
                [tf.TensorSpec(t.shape, t.dtype) for t in tensors]
            )
        return self._sums[key](list(tensors))

    def _reduce(self, tensors, op):
        if self._strategy is None:
            return list(tensors)
        options = tf.distribute.experimental.CommunicationOptions(
            timeout_seconds=self.timeout
        )

        def all_reduce(*values):
            replica = tf.distribute.get_replica_context()
            return [
                replica.all_reduce(op, tf.identity(v), options=options)
                for v in values
            ]

        return self._strategy.run(all_reduce, args=tuple(tensors))


_LOST = (
    "lost another worker: it was killed, cut off, failed, or was silent for "
    "{:g} s (see its own output)."
)
_OTHERWISE = (
    "exchanged something else than the others: another tf.distribute strategy "
    "was used after fda_tf.connect(), or the workers run different scripts. "
    "Make no strategy."
)
_ABORTED = "Collective ops is aborted"

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
    cluster, job, task = _find_job(port)
    chiefs = cluster.get("chief", [])
    addresses = chiefs + cluster["worker"]
    index = task + (len(chiefs) if job == "worker" else 0)
    replicas = Replicas()
    if len(addresses) > 1:
        context.check_unused()
        with rendezvous.listen(addresses[index]) as listener:  # is it free?
            host, own_port = listener.getsockname()[:2]
        rendezvous.meet(addresses, index, start_timeout)
        context.configure_heartbeat(cluster)
        context.take_own_gpu(addresses, index)
        with _exit_after(start_timeout):
            strategy = _strategy(cluster, job, task)
            closed = own_address.close_others(host, own_port)
            replicas = Replicas(index, addresses, strategy, timeout)
            replicas.sum(1)  # everyone is there
        _warn_of_strangers(replicas, closed)
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


def _find_job(port: int) -> tuple[dict[str, list[str]], str, int]:
    """Returns (cluster, job, task index) that the environment tells of."""
    if os.environ.get("TF_CONFIG"):
        return environment.read_tf_config(os.environ["TF_CONFIG"])
    if environment.slurm_tasks() > 1:
        return read_slurm(port)
    return {"worker": [""]}, "worker", 0


@contextlib.contextmanager
def _exit_after(seconds: float) -> Iterator[None]:
    """Ends the process, unless what is inside ends in time.

    Should a worker die while the others join it, only this still ends them.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _warn_of_strangers(replicas: Replicas, closed: bool) -> None:
    """Says once, on the chief, that anyone who gets in is obeyed."""
    where = "the address given" if closed else "all addresses of the machine"
    hosts = [environment.split_address(a)[0] for a in replicas.addresses]
    if replicas.is_chief and not all(map(environment.is_local, hosts)):
        logging.warning(
            "TensorFlow's cluster protocol neither authenticates nor "
            "encrypts. Its port is open on %s: run it inside a private network "
            "or a tunnel, behind a firewall.",
            where,
        )


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
