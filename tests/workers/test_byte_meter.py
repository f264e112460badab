"""The meter: bytes of the tensors that were handed over."""

import pytest
import tensorflow as tf

from fda_tf.workers import byte_meter


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_counts_what_is_handed_in_and_what_a_ring_sends(workers):
    meter = byte_meter.Meter(workers)

    @tf.function
    def send(times):
        for _ in tf.range(times):
            meter.all_reduce("model", [tf.zeros(10), tf.zeros([2, 2])])

    send(3)
    meter.all_reduce("state", [tf.zeros(1, tf.bfloat16)])
    alone = workers == 1
    assert meter.paid("model") == (0 if alone else 3 * 14 * 4 * workers)
    assert meter.paid("state") == (0 if alone else 2 * workers)
    # each of K workers sends 2 (K-1)/K of its tensor
    assert meter.on_wire("model") == 3 * 14 * 4 * 2 * (workers - 1)
    assert meter.paid("eval") == 0


def test_another_number_of_workers_does_not_change_what_was_sent():
    old, new = byte_meter.Meter(4), byte_meter.Meter(8)
    old.all_reduce("model", [tf.zeros(10)])
    for variable, saved in zip(new.variables, old.variables, strict=True):
        variable.assign(saved)
    assert new.paid("model") == int(new.paid_tensor("model")) == 4 * 40
    assert int(new.both_ways("model")) == 2 * 4 * 40
    new.all_reduce("model", [tf.zeros(10)])
    assert new.paid("model") == (4 + 8) * 40
