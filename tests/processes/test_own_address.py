"""Ports that are open on one address only."""

import socket
import sys

import processes
import pytest
from address_job import answers

from fda_tf import launch
from fda_tf.processes import own_address

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="socket filters are Linux's"
)
HERE = ("127.0.0.1", "127.0.0.3", "::1")


@pytest.fixture
def listener():
    """A socket that listens on all addresses, as TensorFlow's does."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.create_server(
        ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True
    ) as server:
        yield server


@linux
@pytest.mark.parametrize("own", HERE)
def test_only_the_own_address_answers(listener, own):
    port = listener.getsockname()[1]
    assert all(answers(host, port) for host in HERE)
    assert own_address.close_others(own, port)
    assert [host for host in HERE if answers(host, port)] == [own]


@linux
def test_accepted_connections_carry_all_bytes(listener):
    port, sent = listener.getsockname()[1], bytes(range(256)) * 4000
    own_address.close_others("127.0.0.1", port)
    with socket.create_connection(("127.0.0.1", port), 5) as one:
        other = listener.accept()[0]
        with other, other.makefile("rb") as lines:
            one.sendall(sent[:100_000])
            assert lines.read(100_000) == sent[:100_000]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_all_addresses_stay_open_when_all_are_meant(listener, host):
    port = listener.getsockname()[1]
    assert not own_address.close_others(host, port)
    assert all(answers(host, port) for host in HERE)


def test_a_port_of_nobody_has_no_filter():
    (port,) = launch.free_ports(1)
    assert not own_address.close_others("127.0.0.1", port)


@linux
def test_tensorflow_answers_on_the_address_given_only():
    configs = [{"TF_CONFIG": config} for config in launch.tf_configs(2)]
    results = processes.run_workers("address_job.py", [], configs, seconds=90)
    for code, output in results:
        assert code == 0, output[-2000:]
        assert "127.0.0.1 True, 127.0.0.3 False, sum 3" in output
