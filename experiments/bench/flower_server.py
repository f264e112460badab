"""Flower's server of the benchmark `flower`; runs in Flower's environment.

Each line on its standard input is a number of rounds to do; it answers with
their seconds. Ray, the actors and Flower's threads go on between the blocks.
"""

import json
import os
import sys
import time

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from experiments.bench import flower_client


class Blocks(FedAvg):
    """FedAvg whose rounds are done block by block, as the parent asks."""

    def __init__(self):
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0)
        self._left, self._begun = 0, 0.0

    def configure_train(self, server_round, arrays, config, grid):
        """Waits for the next block when one is done."""
        if not self._left:
            if self._begun:
                say({"seconds": time.perf_counter() - self._begun})
            line = sys.stdin.readline()
            if not line.strip():
                raise SystemExit  # of this thread: Flower then ends Ray
            self._left, self._begun = int(line), time.perf_counter()
        self._left -= 1
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        """Averages the models, all of which must have come."""
        replies = list(replies)
        for reply in replies:
            if reply.has_error():
                say({"error": str(reply.error)})
        return super().aggregate_train(server_round, replies)


def say(answer: dict) -> None:
    """Tells the parent."""
    print("@@" + json.dumps(answer), flush=True)


def main(settings: dict) -> None:
    """Simulates until the parent wants no more."""
    server = ServerApp()

    @server.main()
    def run(grid, context):
        grid.pull_interval = 0.01  # its default is 0.1 s
        model, _ = flower_client.built(settings["task"], 1)
        Blocks().start(
            grid=grid,
            initial_arrays=ArrayRecord(model.get_weights()),
            num_rounds=10**6,
            train_config=ConfigRecord(settings["client"]),
        )

    cpus = len(os.sched_getaffinity(0))
    run_simulation(
        server_app=server,
        client_app=flower_client.app,
        num_supernodes=settings["workers"],
        backend_config={
            "init_args": {"num_cpus": cpus},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
