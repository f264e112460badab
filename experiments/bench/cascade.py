"""What the cascade saves, and that it changes nothing else.

LeNet-5 on MNIST, batch 32, Adam, K workers in simulation: each seed is trained
twice from the same start on the same batches, with the sketch sent whole at
every check and with the cascade. Both must synchronise at the same steps and
end with the same weights; state bytes are counted from what is sent.

  python -m experiments.bench.cascade --data_dir=DIR --theta=0.5,1.5,5

Without --data_dir it takes the 5,000 images that ship with the project.
"""

import sys

import numpy as np

from experiments import config, results, training
from experiments.bench import measured

TASK = "lenet5_mnist"
COLUMNS = (
    "theta", "seed", "syncs", "same_syncs", "same_weights", "state_bytes_plain",
    "state_bytes_cascade", "times_fewer", "state_share_plain",
    "state_share_cascade",
)  # fmt: skip


def measure(
    theta: str, seed: int, workers: int, steps: int, data: training.Data
) -> dict:
    """Returns the row of one threshold and seed."""
    plain, cascade = (
        training.simulate(
            config.settings(
                f"sketch:theta={theta}:cascade={cascade}",
                **{"task": TASK, "seed": seed, "workers": workers},
                steps=steps,
            ),
            data,
            evaluate_every=steps,
        )
        for cascade in (False, True)
    )
    a, b = plain.rows[-1], cascade.rows[-1]
    weights = zip(
        plain.model.get_weights(), cascade.model.get_weights(), strict=True
    )
    syncs = [[s.step for s in run.syncs] for run in (plain, cascade)]
    shares = [r["state_bytes"] / results.sent_bytes(r) for r in (a, b)]
    return {
        "theta": float(theta),
        "seed": seed,
        "syncs": a["syncs"],
        "same_syncs": syncs[0] == syncs[1],
        "same_weights": all(np.array_equal(u, v) for u, v in weights),
        "state_bytes_plain": a["state_bytes"],
        "state_bytes_cascade": b["state_bytes"],
        "times_fewer": round(a["state_bytes"] / b["state_bytes"], 2),
        "state_share_plain": round(shares[0], 3),
        "state_share_cascade": round(shares[1], 3),
    }


def main(options) -> None:
    """Prints a table of all runs, then all rows as JSON."""
    training.one_thread()
    name = "mnist" if options.data_dir else "mnist5000"
    data = training.load(
        TASK, options.workers, data_dir=options.data_dir, dataset=name
    )
    rows = []
    for theta in options.theta:
        for seed in map(int, options.seeds):
            rows.append(
                measure(theta, seed, options.workers, options.steps, data)
            )
            print(rows[-1], file=sys.stderr, flush=True)
    measured.show(rows, COLUMNS, options, dataset=name)


if __name__ == "__main__":
    measured.command(
        main,
        theta=(["0.5", "1.5", "5"], "Thresholds."),
        seeds=(["0", "1", "2"], "Seeds of weights and batches."),
        workers=(5, "K."),
        steps=(1500, "In-parallel steps of a run."),
        data_dir=(str, "Folder with mnist.npz."),
    )
