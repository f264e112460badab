"""All workers meet before TensorFlow starts, or say who is missing.

While TensorFlow waits for a peer, it does so for ever, in C++, and with
Python's lock held: no exception, signal or thread gets through. So the
workers meet first, over a plain socket on the chief's own port: each says who
it is, and when all have come the chief lets them go. What is missing by the
deadline is an ordinary exception on every worker that came.
"""

import errno
import json
import socket
import time
from collections.abc import Sequence

from fda_tf.processes import environment

RETRY_SECONDS = 0.2
BACKLOG = 128  # workers that may ring at the same moment
GREETING_SECONDS = 5  # for one who rings to say who it is
LONGEST = 65536  # bytes of a message: the numbers of some thousand workers


def meet(addresses: Sequence[str], index: int, timeout: float) -> None:
    """Waits until every worker of the job is here.

    Args:
      addresses: host:port of each worker, the chief's first.
      index: which of them this is.
      timeout: seconds.

    Raises:
      TimeoutError: if some did not come in time; names them.
      ValueError: if the chief's port is in use.

    Example:
      >>> meet(["localhost:0"], index=0, timeout=1.0)
    """
    deadline = time.monotonic() + timeout
    if index == 0:
        missing = _receive(addresses, deadline)
    else:
        missing = _report(addresses[0], index, deadline)
    if missing:
        who = ", ".join(f"worker {k} ({addresses[k]})" for k in missing)
        raise TimeoutError(
            f"Worker {index} waited {timeout:g} s for the job to start; not "
            f"there: {who}. Start all workers, mend the addresses or the "
            "firewall, or give connect() a longer start_timeout."
        )


def listen(address: str) -> socket.socket:
    """Returns a socket that listens on an address of this machine.

    Raises:
      ValueError: if another process listens there.
    """
    host, port = environment.split_address(address)
    try:
        return _listen(host, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ValueError(
            f"Port {port} of this worker's own address {address} is in use "
            "by another process. End that process, or give another port: in "
            "every worker's TF_CONFIG, or under SLURM by connect(port=)."
        ) from error


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        # Debian's /etc/hosts has the machine's own name as 127.0.1.1, where
        # no other machine would find us.
        if environment.is_local(host) or not environment.is_local(place[0]):
            return socket.create_server(place, family=family, backlog=BACKLOG)
    except OSError as error:
        # A name that has no address yet, as Kubernetes' have at first, or
        # that stands for this host but is none of its addresses.
        unknown = isinstance(error, socket.gaierror)
        if not unknown and error.errno != errno.EADDRNOTAVAIL:
            raise
    both = socket.has_dualstack_ipv6()
    return socket.create_server(
        ("", port),
        family=socket.AF_INET6 if both else socket.AF_INET,
        dualstack_ipv6=both,
        backlog=BACKLOG,
    )


def _receive(addresses: Sequence[str], deadline: float) -> list[int]:
    """The chief's part; returns who did not come."""
    here: dict[int, socket.socket] = {}
    with listen(addresses[0]) as listener:
        while len(here) < len(addresses) - 1:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                break
            # A stranger who says nothing must not keep the others waiting.
            patience = time.monotonic() + GREETING_SECONDS
            index = _read(connection, "worker", min(deadline, patience))
            if index in range(1, len(addresses)):
                here[index] = connection  # one that came again counts anew
            else:
                connection.close()  # not one of us
    missing = [k for k in range(1, len(addresses)) if k not in here]
    for connection in here.values():
        _write(connection, {"missing": missing})
        connection.close()
    return missing


def _report(chief: str, index: int, deadline: float) -> list[int]:
    """Another worker's part; returns who did not come."""
    place = environment.split_address(chief)
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(place, left) as chief_:
                _write(chief_, {"worker": index})
                # The chief answers at its own deadline, maybe after ours.
                missing = _read(chief_, "missing", deadline + 10)
                if missing is not None:
                    return missing
        except OSError:
            pass  # not there yet
        time.sleep(RETRY_SECONDS)
    return [0]


def _write(connection: socket.socket, message: dict) -> None:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # it has gone; the one who waits for it will say so


def _read(connection: socket.socket, key: str, deadline: float):
    """Returns the value of a message's only key; None if it is no such."""
    line = b""
    try:
        while b"\n" not in line and len(line) < LONGEST:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            piece = connection.recv(LONGEST)
            line += piece
            if not piece or time.monotonic() > deadline:
                break
        return json.loads(line).get(key)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
