"""Where the workers are, on a cluster: the only file that knows tf.distribute.

One process is one worker. `connect()` finds the others through TF_CONFIG or
SLURM, or finds that there are none. What a `ProcessGroup` offers is small: the
mean of tensors over the processes, and a few eager conveniences made of it.
"""

import atexit
import contextlib
import copy
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from fda_tf import tf_internals
from fda_tf.processes import (
    environment,
    error_messages,
    exits,
    own_address,
    rendezvous,
    slurm,
)
from fda_tf.processes.preemption import Preempted
from fda_tf.processes.timeouts import Patience


class ProcessGroup:
    """The processes of a job, each of which is one worker.

    Args:
      index: this process's number, from 0; number 0 is the chief.
      addresses: host:port of each process, in order.
      strategy: the `tf.distribute` strategy that joins them; None alone.
      timeout: seconds to wait for the others; as in `connect`.

    Attributes:
      count: K.
      is_chief: whether this is number 0.
      used: whether a model was trained with the others.
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
        self.used = False  # to train with
        self._strategy = strategy
        self._sums: dict[Any, Any] = {}  # a compiled sum for each signature
        self._alone = False  # no exchange is possible any more
        self._pid = os.getpid()
        self._patience = Patience(timeout, self._lose_patience)

    def __deepcopy__(self, memo: dict) -> "ProcessGroup":
        """Returns itself: a process is in its job once."""
        return self

    def mean(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the mean of each tensor over the processes, bit-equal on all.

        One all-reduce a tensor: give few and large ones. For use in graphs.
        """
        return self._reduce(tensors, tf.distribute.ReduceOp.MEAN)

    def all_gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns every process's tensor, [count, ...]; for use in graphs."""
        if self._strategy is None:
            return tensor[None]

        @tf.autograph.experimental.do_not_convert
        def gather(value):
            replica = tf.distribute.get_replica_context()
            return replica.all_gather(value[None], axis=0)

        rows = self._strategy.run(gather, args=(tensor,))
        return tf.ensure_shape(rows, [self.count, *tensor.shape])

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
        # A power of two, as each new size is another sum to be compiled.
        row = np.zeros(1 << int(sizes.max()).bit_length(), np.int32)
        row[: len(text)] = text
        rows = self.gather(row).astype(np.uint8)
        return [
            json.loads(r[:n].tobytes())
            for r, n in zip(rows, sizes, strict=True)
        ]

    @contextlib.contextmanager
    def lost_worker_in_words(self) -> Iterator[None]:
        """Says in words what TensorFlow says of a worker that is gone.

        A sys.exit with a code, and Ctrl-C, end all others, too.

        Raises:
          RuntimeError: when another worker does not take part any more, or
            takes part in something else.
        """
        try:
            yield
        except tf.errors.OpError as error:
            words = self._in_words(error)
            if words is None:
                raise
            told = RuntimeError(words)
            if error_messages.is_others(error):
                error_messages.known(told, error_messages.NOBODY)
            if error_messages.is_late(error):  # they are there, and hear it
                self.give_up(told)
            self._alone = True
            raise told from error
        except Preempted:
            raise  # all end so, as they have agreed
        except (SystemExit, KeyboardInterrupt) as error:
            if (
                getattr(error, "code", 1)
                and error_messages.shown_by(error) is None
            ):
                self.give_up(error)
            raise

    def give_up(self, error: BaseException, shown: bool = False) -> None:
        """Ends all other workers, by what they learn wherever they wait.

        For an error that they cannot hear of at an exchange, after which no
        exchange is possible any more.

        Args:
          error: what ends this worker; they say it, too.
          shown: whether this worker has shown it already.
        """
        if self.count == 1 or self._alone or self.is_forked:
            return
        self._alone = True
        # Of an error that all raise, some may yet have to hear.
        time.sleep(LAST_WORDS_SECONDS)
        # Where the chief is cut off, TensorFlow tries for ever.
        with exits.exit_after(TELLING_SECONDS, quiet=shown):
            tf_internals.tell_all(error_messages.last_words(self.index, error))

    def sums(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the sum of each tensor over the processes; eager."""
        key = tuple((t.dtype, tuple(t.shape)) for t in tensors)
        if key not in self._sums:
            total = tf.function(
                lambda values: self._reduce(values, tf.distribute.ReduceOp.SUM),
                autograph=False,
            )
            self._sums[key] = total.get_concrete_function(
                [tf.TensorSpec(t.shape, t.dtype) for t in tensors]
            )
        with self.waiting():
            return self._sums[key](list(tensors))

    def waiting(
        self, progress: Callable[[], int] | None = None
    ) -> contextlib.AbstractContextManager:
        """Makes the context of what may wait for other workers, not for ever.

        Args:
          progress: returns a number; as long as it changes, all is well.
        """
        if self.count == 1:
            return contextlib.nullcontext()
        if self.is_forked:
            raise RuntimeError(
                f"Process {os.getpid()} was forked from worker {self.index} "
                "and cannot exchange anything with the others. Train in the "
                "process that called fda_tf.connect()."
            )
        return self._patience.waiting(progress)

    @property
    def is_forked(self) -> bool:
        """Whether this process is a child of the one that joined the job."""
        return os.getpid() != self._pid

    def _lose_patience(self) -> None:
        tf_internals.abort_exchanges(error_messages.waited(self.timeout))

    def numbering(self) -> Any:
        """Returns what `number_from` takes, as it is now."""
        return copy.deepcopy(self._numbers())

    def number_from(self, numbering: Any) -> None:
        """Numbers the next exchanges as they were numbered from there on.

        TensorFlow gives each exchange of a call a number when the call is
        made. Of one that failed here, other workers still wait for them.
        """
        for group, numbers in numbering.items():
            self._numbers()[group].update(numbers)

    def _numbers(self) -> dict[int, dict[str, int]]:
        if self._strategy is None:
            return {}
        return tf_internals.exchange_numbers(self._strategy)

    def _in_words(self, error: tf.errors.OpError) -> str | None:
        if self.count == 1:
            return None  # alone nobody can be lost
        chiefs = 0
        if self._strategy is not None:
            cluster = self._strategy.cluster_resolver.cluster_spec()
            chiefs = len(cluster.as_dict().get("chief", []))
        return error_messages.in_words(
            error, self.index, self.addresses, chiefs
        )

    def _reduce(self, tensors, op):
        if self._strategy is None:
            return list(tensors)

        @tf.autograph.experimental.do_not_convert
        def all_reduce(*values):
            replica = tf.distribute.get_replica_context()
            return [replica.all_reduce(op, tf.identity(v)) for v in values]

        return self._strategy.run(all_reduce, args=tuple(tensors))


LAST_WORDS_SECONDS = 0.5
TELLING_SECONDS = 5.0

_connected: list[ProcessGroup] = []
_when_connected: list[Callable[[ProcessGroup], None]] = []


def when_connected(call: Callable[[ProcessGroup], None]) -> None:
    """Calls a function with the processes of the job when they have joined."""
    _when_connected.append(call)


def connect(
    start_timeout: float = 300.0, timeout: float = 600.0, port: int = 0
) -> ProcessGroup:
    """Joins the job that the environment describes; alone if none.

    Call it first in the script, before anything else uses TensorFlow; called
    again, it returns the same. It reads TF_CONFIG (TensorFlow, Kubernetes),
    else SLURM's variables inside a step of several tasks (`srun`), else there
    is one worker, this one.

    Args:
      start_timeout: seconds to wait for all processes to be there;
        TensorFlow itself would wait for ever.
      timeout: seconds that a worker later waits for the others, from one step
        that is done to the next. Its own tracing, compilation and local step
        count, too: give more than the first compilation and a step take.
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
      >>> process_group = connect()
      >>> process_group.count, process_group.index, process_group.is_chief
      (1, 0, True)
    """
    if _connected:
        return _connected[0]
    cluster, job, task = _find_job(port)
    chiefs = cluster.get("chief", [])
    addresses = chiefs + cluster["worker"]
    index = task + (len(chiefs) if job == "worker" else 0)
    process_group = ProcessGroup()
    if len(addresses) > 1:
        _check_unused()
        with rendezvous.listen(addresses[index]) as listener:  # is it free?
            host, own_port = listener.getsockname()[:2]
        environment.bypass_proxy(addresses, os.environ)
        # What can fail here comes first: from the rendezvous on others wait.
        tf_internals.configure_heartbeat(cluster)
        _take_own_gpu(addresses, index)
        rendezvous.meet(addresses, index, start_timeout)
        with exits.exit_after(start_timeout):
            strategy = _strategy(cluster, job, task)
            _take_back_sigterm()
            _refuse_other_strategies()
            closed = own_address.close_others(host, own_port)
            process_group = ProcessGroup(index, addresses, strategy, timeout)
            process_group.sum(1)  # everyone is there
        _warn_of_strangers(process_group, closed)
        atexit.register(exits.tell_at_exit, process_group)
        for call in _when_connected:
            call(process_group)
        sys.excepthook = exits.show_once(process_group, sys.excepthook)
    _connected.append(process_group)
    return process_group


def current_process_group() -> ProcessGroup:
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
    return ProcessGroup()


def _check_unused() -> None:
    """Raises RuntimeError if TensorFlow has been used in this process."""
    if tf_internals.is_initialized():
        raise RuntimeError(
            "fda_tf.connect() must come first in the script: TensorFlow has "
            "been used already (a tensor, a model, a tf.distribute strategy), "
            "and can no longer join a cluster. Move the call up, and make no "
            "strategy: connect() makes the one that there is."
        )


def _take_own_gpu(addresses: Sequence[str], index: int) -> None:
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


def _find_job(port: int) -> tuple[dict[str, list[str]], str, int]:
    """Returns (cluster, job, task index) that the environment tells of."""
    if os.environ.get("TF_CONFIG"):
        return environment.read_tf_config(os.environ["TF_CONFIG"])
    if environment.slurm_tasks() > 1:
        job = environment.slurm_number("SLURM_JOB_ID", os.environ, "0")
        return slurm.read(os.environ, port or 12000 + job * 64 % 20000)
    return {"worker": [""]}, "worker", 0


def _warn_of_strangers(process_group: ProcessGroup, closed: bool) -> None:
    """Warns once, on the chief, that the port is unauthenticated."""
    where = "the address given" if closed else "all addresses of the machine"
    hosts = [environment.split_address(a)[0] for a in process_group.addresses]
    if process_group.is_chief and not all(map(environment.is_local, hosts)):
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


def _take_back_sigterm() -> None:
    """Lets SIGTERM do again what it did before TensorFlow joined the job.

    TensorFlow's own handler ignores it, in every child process, too.
    """
    if threading.current_thread() is threading.main_thread():
        before = signal.getsignal(signal.SIGTERM)  # as Python knows it
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _refuse_other_strategies() -> None:
    """Makes it an error in words to make another strategy of this kind.

    In the scope of one, as in TensorFlow's guides, Keras' `fit` fails before
    it calls any callback.
    """

    def refuse(self, *args, **kwargs):
        raise RuntimeError(
            "fda_tf.connect() has joined the workers already; expected no "
            f"{type(self).__name__} besides. Make and compile the model "
            "without strategy.scope(), and make no strategy."
        )

    # MirroredStrategy would end the process by a signal, without a word.
    for strategy in ("MultiWorkerMirroredStrategy", "MirroredStrategy"):
        getattr(tf.distribute, strategy).__init__ = refuse
