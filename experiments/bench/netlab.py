"""A lab of hosts on one machine: network namespaces on a rate-limited switch.

  with Hosts(4, rate="100mbit") as hosts:
      subprocess.run(hosts.command(0, ["python", "worker.py"]))

Needs root and Debian's iproute2. The rate is a token bucket at both ends of
every cable, so each host sends and receives at most that much. No delay is
added. Nothing outside the namespaces is touched.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
from typing import Any

from experiments import processes

NEEDS = "network namespaces need root and iproute2 (apt install iproute2)"
BURST, QUEUE = "64kb", "50ms"


def rate_of(text: str) -> float:
    """Returns the bytes a second of a rate as `tc` writes it.

    Example:
      >>> rate_of("10mbit"), rate_of("1gbit")
      (1250000.0, 125000000.0)
    """
    units = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
    for unit, size in units.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * size / 8
    raise ValueError(
        f"--rate: received {text!r}. Expected a number and one of "
        f"{', '.join(units)}, such as 10mbit."
    )


def can_be() -> bool:
    """Returns whether this machine can have such hosts."""
    return os.geteuid() == 0 and all(map(shutil.which, ("ip", "tc")))


def counters() -> dict[str, int]:
    """Returns what the host that this process is on has sent until now."""
    lines = pathlib.Path("/proc/net/dev").read_text().splitlines()
    cards = dict(line.split(":") for line in lines if ":" in line)
    cards = {name.strip(): numbers.split() for name, numbers in cards.items()}
    if "eth0" not in cards:
        raise RuntimeError(
            f"This process sees {', '.join(cards)} and expected eth0, a host's "
            "card: start it by Hosts(...).command(k, ...)."
        )
    return {"bytes": int(cards["eth0"][8]), "packets": int(cards["eth0"][9])}


class Hosts:
    """Some hosts that see each other and nothing else.

    Attributes:
      addresses: an IP address of each.
    """

    def __init__(self, count: int, rate: str | None = None):
        if not can_be():
            raise RuntimeError(f"No hosts here: {NEEDS}.")
        self._rate = rate
        # One process may have one lab; others may have theirs.
        self._name = f"fda{os.getpid()}"
        self.addresses = [f"10.78.0.{k + 1}" for k in range(count)]

    def __enter__(self):
        self._undo = contextlib.ExitStack()
        # Ended by a signal, it still takes the hosts away.
        self._undo.enter_context(processes.ended_by_sigterm())
        try:
            self._make(self._name)
            _ip("-n", self._name, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._name, "link", "set", "br0", "up")
            for k, address in enumerate(self.addresses):
                self._plug_in(k, address)
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *_):
        self._undo.close()

    def command(self, k: int, words: list[str]) -> list[str]:
        """Returns what runs a command on host k, under the same pid."""
        return ["ip", "netns", "exec", self._host(k), *words]

    def cut(self, k: int) -> None:
        """Pulls the cable of host k out of the switch."""
        _ip("-n", self._name, "link", "set", f"port{k}", "down")

    def mend(self, k: int) -> None:
        """Plugs it in again."""
        _ip("-n", self._name, "link", "set", f"port{k}", "up")

    def _plug_in(self, k, address):
        host = self._host(k)
        self._make(host)
        _ip(
            *("-n", host, "link", "add", "eth0", "type", "veth"),
            *("peer", "name", f"port{k}", "netns", self._name),
        )
        _ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", host, "link", "set", "lo", "up")
        _ip("-n", host, "link", "set", "eth0", "up")
        _ip("-n", self._name, "link", "set", f"port{k}", "master", "br0")
        self.mend(k)
        if self._rate:
            self._limit(host, "eth0")
            self._limit(self._name, f"port{k}")

    def _limit(self, name, device):
        words = f"qdisc add dev {device} root tbf rate {self._rate}"
        words += f" burst {BURST} latency {QUEUE}"
        _run("tc", "-n", name, *words.split())

    def _make(self, name):
        _ip("netns", "add", name)
        self._undo.callback(_ip, "netns", "del", name)

    def _host(self, k):
        return f"{self._name}h{k}"


def hosts_or_not(count: int, rate: str | None) -> Any:
    """Returns a context: hosts with cables of a rate, or without one None.

    Raises:
      ValueError: for a rate that is none.
    """
    rate_of(rate or "1mbit")
    return Hosts(count, rate) if rate else contextlib.nullcontext()


def _ip(*words):
    return _run("ip", *words)


def _run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
