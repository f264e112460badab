"""Hosts on one machine: network namespaces on a switch, with cables to cut."""

import contextlib
import os
import shutil
import subprocess

import pytest

needs_hosts = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"),
    reason="network namespaces need root and iproute2 (apt install iproute2)",
)


class Hosts:
    """Some hosts that see each other and nothing else.

    Args:
      count: how many.

    Attributes:
      addresses: an IP address of each.
    """

    def __init__(self, count):
        # One process may have one lab; others may have theirs.
        self._name = f"fda{os.getpid()}"
        self.addresses = [f"10.78.0.{k + 1}" for k in range(count)]

    def __enter__(self):
        self._undo = contextlib.ExitStack()
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

    def command(self, k, words):
        """Returns what runs a command on host k, under the same pid."""
        return ["ip", "netns", "exec", self._host(k), *words]

    def cut(self, k):
        """Pulls the cable of host k out of the switch."""
        _ip("-n", self._name, "link", "set", f"port{k}", "down")

    def mend(self, k):
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

    def _make(self, name):
        _ip("netns", "add", name)
        self._undo.callback(_ip, "netns", "del", name)

    def _host(self, k):
        return f"{self._name}h{k}"


def _ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
