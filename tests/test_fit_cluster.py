"""`model.fit` on clusters of real processes, against the simulation."""

import json

import fit_cases
import numpy as np
import processes
import pytest
import small

import fda_tf

CASES = list(fit_cases.cases())


@pytest.fixture(scope="module", params=[2, 4])
def cluster(request, tmp_path_factory):
    """What every worker of a cluster of 2 or 4 processes did, by case."""
    folder = tmp_path_factory.mktemp("fit")
    results = processes.run_cluster(
        "fit_job.py", [str(folder)], request.param, seconds=280
    )
    for code, output in results:
        assert code == 0, output[-3000:]
    return [
        json.loads((folder / f"{k}.json").read_text())
        for k in range(request.param)
    ]


@pytest.mark.parametrize("name", CASES)
def test_fit_does_as_the_simulation(cluster, name):
    if name not in cluster[0]:
        pytest.skip("two processes do all cases, four do a few")
    build, options, change = fit_cases.cases()[name]
    workers = len(cluster)
    shards = small.shards(workers, fit_cases.SAMPLES)
    steps_per_epoch = -(-fit_cases.SAMPLES // (fit_cases.BATCH * workers))
    run = fda_tf.simulate(
        lambda: build(1),
        [change(shard) for shard in shards],
        steps=fit_cases.EPOCHS * steps_per_epoch,
        batch_size=fit_cases.BATCH,
        **options,
    )
    expected = small.history_of(run)
    for worker in cluster:
        got = worker[name]
        assert "error" not in got, got
        assert got["syncs"] == expected["syncs"]
        np.testing.assert_allclose(
            got["weights"], expected["weights"], atol=1e-5
        )
        for a, b in zip(got["statistics"], expected["statistics"], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
        if got["variance"]:
            np.testing.assert_allclose(
                got["variance"], expected["variance"], rtol=1e-3, atol=1e-5
            )
        sent = expected["row"]["state_bytes"] + expected["row"]["model_bytes"]
        assert got["history"]["mb_sent"][-1] == pytest.approx(sent / 1e6)
