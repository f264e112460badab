"""Scaling laws: what is made of measured rows."""

import pytest

from experiments.bench import exchange, netlab, scaling, scaling_picture


def test_processes_are_fitted_against_the_hops_of_a_ring():
    rows = [
        {
            **{"kind": "check, linear", "workers": k, "d": 9, "tensors": 1},
            **{"ms": 1 + 3 * k, "ms_interval": [1, 9], "float_ms": 2 * k},
        }
        for k in (2, 4, 8)
    ]
    found = scaling.series("workers", rows)
    assert found["check, linear"][1] == (4, 0.013, 0.001, 0.009)
    assert [p[1] for p in found["all-reduce of one float"]] == [
        pytest.approx(v) for v in (0.004, 0.008, 0.016)
    ]
    line = scaling.fit("workers", found["check, linear"])
    # 1 + 3 K = 4 + 1.5 x 2 (K - 1) milliseconds.
    assert line["a"] == pytest.approx(0.004)
    assert line["b"] == pytest.approx(0.0015)


def test_constants_are_the_slopes():
    def line(a, b):
        return {"a": a, "b": b}

    names = ("linear", "sketch, whole", "cascade, quiet")
    known = scaling.constants(
        {
            "workers": {"all-reduce of one float": line(1e-3, 2e-4)},
            "bytes": {
                "all-reduce": line(0, 4e-9),
                "synchronisation": line(0, 6e-9),
            },
            "size": {"naive": line(0, 1e-9)}
            | {name: line(1e-4, 1e-9) for name in names},
        },
        [],
    )
    assert known["collective"] == {
        **{"start": 1e-3, "hop": 2e-4, "byte": pytest.approx(1e-9)}
    }
    assert known["synchronisation"]["parameter"] == pytest.approx(2e-9)
    assert known["state"]["bytes_per_second"] == pytest.approx(8e9)
    assert known["state"]["linear"] == {"a": 1e-4, "b": 1e-9}


def test_published_intervals(tmp_path):
    file = tmp_path / "runs.csv"
    file.write_text(
        "model,K,distribution,target,strategy,d,reached,steps,"
        "syncs_completed,lr_schedule,hit_after_lr_drop\n"
        "A,5,IID,0.9,synchronous,100,1,300,300,a,0\n"
        "A,5,IID,0.9,linear,100,1,600,6,a,0\n"
        "A,5,IID,0.9,linear,100,1,300,1,a,0\n"
        "A,5,IID,0.9,sketch,100,0,900,9,a,0\n"
        "A,9,IID,0.9,sketch,100,1,800,16,a,0\n"
        # Another schedule, and a rate that has dropped: no rivals of these.
        "A,7,IID,0.9,synchronous,100,1,900,900,b,0\n"
        "A,7,IID,0.9,linear,100,1,400,2,a,0\n"
        "A,8,IID,0.9,synchronous,100,1,900,900,a,1\n"
        "A,8,IID,0.9,linear,100,1,400,2,a,0\n"
    )
    (row,) = scaling.published(str(file))
    assert row["linear"] == [100, 200, 300] and row["sketch"] == [50, 50, 50]
    assert row["steps"] == [1, 1.5, 2] and row["d"] == 100


def test_a_picture_is_drawn(tmp_path):
    points = [(1e5, 1e-3, 9e-4, 2e-3), (1e7, 1e-1, 9e-2, 2e-1)]
    path = tmp_path / "size.png"
    fit = {"a": 0.0, "b": 1e-8}
    scaling_picture.draw("size", {"naive": points}, {"naive": fit}, path)
    assert path.stat().st_size > 10_000


def test_models_and_rates_are_refused_in_words():
    assert exchange.parse("1e6x600") == (1_000_000, 600)
    assert netlab.rate_of("100mbit") == 12.5e6
    for text in ("1e6", "10x20", "1.5x1", "0x0", "nanx1"):
        with pytest.raises(ValueError, match="Expected PARAMETERSxTENSORS"):
            exchange.parse(text)
    with pytest.raises(ValueError, match="kbit, mbit, gbit"):
        netlab.rate_of("10")
