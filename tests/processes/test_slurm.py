"""SLURM's variables: which worker a task is, and where the others are."""

import pytest

from fda_tf.processes import slurm

STEP = {
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_PROCID": "2",
}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("n1", "n1"),
        ("node[8-11]", "node8 node9 node10 node11"),  # not by the alphabet
        ("node[10,8-9]", "node10 node8 node9"),
        ("b2,a1,b1", "b2 a1 b1"),
        ("n[08-11]", "n08 n09 n10 n11"),
        ("n[8-011]", "n8 n9 n10 n11"),
        ("n[001,2]", "n001 n2"),
        ("n[99-101]", "n99 n100 n101"),
        ("n[1,3-4,9],gpu-7,x[2-3]", "n1 n3 n4 n9 gpu-7 x2 x3"),
        ("n[1-2]-ib", "n1-ib n2-ib"),
        ("n[1-2].site.org,m", "n1.site.org n2.site.org m"),
        ("r[1-2]n[1-3]", "r1n1 r1n2 r1n3 r2n1 r2n2 r2n3"),
        ("r[1,3]c[07-08]n[5]x", "r1c07n5x r1c08n5x r3c07n5x r3c08n5x"),
        ("[1-2]", "1 2"),
        ("n[1-1],n[4]", "n1 n4"),
        ("n1,n1", "n1 n1"),  # none is taken away: the counts are in this order
    ],
)
def test_node_lists(text, expected):
    assert slurm.expand_hosts(text) == expected.split()


@pytest.mark.parametrize(
    "text",
    ["n[1-2", "n1-2]", "n[]", "n[1-]", "n[a-b]", "n[1,,2]", "n[1 2]"]
    + [",n1", "n1,", "n1,,n2", "n1 n2", "n[[1]]", "n[1x2]", " "],
)
def test_what_is_no_node_list(text):
    with pytest.raises(ValueError, match="SLURM gives the node list .*; exp"):
        slurm.expand_hosts(text)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("1", [1]),
        ("2(x3),1", [2, 2, 2, 1]),
        ("1,16(x2),3(x1)", [1, 16, 16, 3]),
    ],
)
def test_tasks_per_node(text, expected):
    assert slurm.expand_counts(text) == expected


@pytest.mark.parametrize("text", ["2(3)", "x3", "2(x3", "1,", "-1", "2 (x3)"])
def test_what_are_no_tasks_per_node(text):
    with pytest.raises(ValueError, match="SLURM gives the tasks per node"):
        slurm.expand_counts(text)


@pytest.mark.parametrize(
    "how, nodes, ports",
    [
        # Five tasks on n1, n2 and n3, which have 3, 1 and 1 or 2, 2 and 1.
        ({}, "11123", "01200"),
        ({"SLURM_DISTRIBUTION": "block:cyclic"}, "11123", "01200"),
        ({"SLURM_DISTRIBUTION": "cyclic"}, "12311", "00012"),
        (
            {"SLURM_DISTRIBUTION": "plane", "SLURM_DIST_PLANESIZE": "2"},
            "11231",
            "01002",
        ),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x2),1"}, "11223", "01010"),
    ],
)
def test_where_each_task_is(how, nodes, ports):
    step = {
        "SLURM_STEP_NUM_TASKS": "5",
        "SLURM_STEP_NODELIST": "n[1-3]",
        "SLURM_STEP_TASKS_PER_NODE": "3,1(x2)",
    } | how
    expected = [f"n{n}:1200{p}" for n, p in zip(nodes, ports, strict=True)]
    for k in range(5):
        place = {
            "SLURM_PROCID": str(k),
            "SLURM_NODEID": str(int(nodes[k]) - 1),
            "SLURM_LOCALID": ports[k],
        }
        read = slurm.read(step | place, 12000)
        assert read == ({"worker": expected}, "worker", k)


def test_another_distribution_is_noticed():
    step = STEP | {"SLURM_DISTRIBUTION": "arbitrary", "SLURM_NODEID": "0"}
    words = "this is task 0 of node 0, expected task 0 of node 1. Give srun"
    with pytest.raises(ValueError, match=words):
        slurm.read(step, 12000)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST is not set. Start"),
        ({"SLURM_STEP_TASKS_PER_NODE": ""}, "PER_NODE is not set. Start the"),
        ({"SLURM_PROCID": ""}, "SLURM_PROCID is not set. Start the tasks"),
        ({"SLURM_PROCID": "3"}, "PROCID is 3, but the step has 3 tasks, from"),
        ({"SLURM_PROCID": "-1"}, "SLURM_PROCID is '-1'; expected a whole"),
        ({"SLURM_STEP_NODELIST": "n1"}, "1 nodes in .*NODELIST, 2 in .* 3"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, "with 4 tasks, and .* is 3"),
    ],
)
def test_what_does_not_fit_together(wrong, words):
    with pytest.raises(ValueError, match=words):
        slurm.read(STEP | wrong, 12000)
