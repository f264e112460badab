"""FDA beside its rivals at equal bytes, and what compressions cost.

LeNet-5 on MNIST, K workers in simulation, each with Adam and batches of 32;
the first 60 % of the set is dealt sorted by label. FDA with the sketch goes
first. H is the mean interval between its synchronisations; every rival is
given that, so that all send about as many bytes in as many steps.

  python -m experiments.bench.methods --data_dir=DIR --output=methods.jsonl
  python -m experiments.bench.methods --data_dir=DIR --group=compressions

Each finished run is one line of the output; those that are there are not run
again. Without --data_dir it takes the 5,000 images that ship with the project.
"""

import json
import statistics

from experiments import config, provenance, results, store, training
from experiments.bench import measured

TASK = "lenet5_mnist"
EVALUATE_EVERY = 25
COLUMNS = ("megabytes", "accuracy", "steps_to_target", "megabytes_to_target")
_NESTEROV = "server=nesterov:server_learning_rate=0.7"
_MOMENTUM = "server=momentum:server_learning_rate=1.0:server_momentum=0.5"
# Name -> its text, of theta, H and the steps of a run.
GROUPS = {
    "rivals": {
        "FDA, sketch": "sketch:theta={theta}",
        "local SGD, H": "local_sgd:interval={H}",
        "QSR": "qsr:interval={H}",  # at a constant rate: H alone
        # Longer first rounds, shorter ones later.
        "AdaComm": "adacomm:interval={H2}:change_every={quarter}",
        # Half of its bytes go to the first steps.
        "post-local SGD": "post_local:interval={H2}:synchronous_steps={half}",
        "DiLoCo": "diloco:interval={H}",
        "FedAvgM, H": f"local_sgd:interval={{H}}:{_MOMENTUM}",
        "FedAdam, H": "local_sgd:interval={H}:server=adam:"
        "server_learning_rate=0.01",
        "FedYogi, H": "local_sgd:interval={H}:server=yogi:"
        "server_learning_rate=0.01",
        "FedAdagrad, H": "local_sgd:interval={H}:server=adagrad:"
        "server_learning_rate=0.03",
        "FDA, Nesterov (dynamic DiLoCo)": f"sketch:theta={{theta}}:{_NESTEROV}",
        "FDA, FedAvgM": f"sketch:theta={{theta}}:{_MOMENTUM}",
        "FedProx, H": "local_sgd:interval={H}:mu=0.1",
    },
    "compressions": {
        name: "sketch:theta={theta}" + (f":compression={text}" if text else "")
        for name, text in {
            "float32": "",
            "bfloat16": "bfloat16",
            "int8, stochastic": "int8",
            "int8, feedback": "int8:feedback",
            "top 10 %": "topk:0.1",
            "top 1 %": "topk:0.01",
        }.items()
    },
}


def run(text: str, seed: int, data: training.Data, options) -> dict:
    """Trains once; returns what came of it."""
    settings = config.settings(
        text,
        **{"task": TASK, "seed": seed, "workers": options.workers},
        steps=options.steps,
    )
    history = training.simulate(settings, data, evaluate_every=EVALUATE_EVERY)
    first = results.first_above(history.rows, options.target)
    last = history.rows[-1]
    tail = [row["val_accuracy"] for row in history.rows[-4:]]
    return {
        "seed": seed,
        "syncs": last["syncs"],
        "megabytes": results.sent_bytes(last) / 1e6,
        "wire_megabytes": last["wire_bytes"] / 1e6,
        "accuracy": statistics.mean(tail),
        "steps_to_target": first and first["step"],
        "megabytes_to_target": first and results.sent_bytes(first) / 1e6,
    }


def main(options) -> None:
    """Runs what is not there yet; prints a line for each, a table, JSON."""
    training.one_thread()
    name = "mnist" if options.data_dir else "mnist5000"
    data = training.load(
        TASK, options.workers, 0, "sorted:0.6", options.data_dir, name
    )
    asked = ("theta", "workers", "steps", "target")
    about = {n: getattr(options, n) for n in asked} | {"data": name}
    kept = store.Store(options.output, "method", "seed", *about)
    rows = []
    for seed in map(int, options.seeds):
        interval = 1
        for method, text in GROUPS[options.group].items():
            key = {"method": method, "seed": seed} | about
            if key not in kept:
                filled = text.format(
                    theta=options.theta, H=interval, H2=2 * interval,
                    quarter=options.steps // 4,
                    half=max(1, options.steps // interval // 2),
                )  # fmt: skip
                row = run(filled, seed, data, options)
                kept.add(row | key | {"H": interval, "algorithm": filled})
                print(json.dumps(kept[key]), flush=True)
            rows.append(kept[key])
            if method == "FDA, sketch":
                interval = round(options.steps / kept[key]["syncs"])
    print("| method | " + " | ".join(COLUMNS) + " |")
    for method in GROUPS[options.group]:
        own = [row for row in rows if row["method"] == method]
        cells = [_spread([row[column] for row in own]) for column in COLUMNS]
        print(f"| {method} | " + " | ".join(cells) + " |")
    print(json.dumps({"rows": rows, **about, "machine": provenance.machine()}))


def _spread(values: list) -> str:
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return f"{len(known)} of {len(values)} reached it"
    return f"{statistics.median(known):.4g} ({min(known):.4g}-{max(known):.4g})"


if __name__ == "__main__":
    measured.command(
        main,
        group=("rivals", "What to run.", GROUPS),
        theta=(3.0, "Of FDA."),
        seeds=(["0", "1", "2"], "Of weights and batches."),
        workers=(10, "K."),
        steps=(1500, "In-parallel steps of a run."),
        target=(0.97, "Test accuracy to reach."),
        data_dir=(str, "Folder with mnist.npz."),
        output=(str, "File of JSON lines, to append to."),
    )
