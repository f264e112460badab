"""One worker with many exchanges, and then one that another is late for."""

import os
import pathlib
import sys
import time


def threads():
    """Returns how many threads this process has."""
    return len(os.listdir("/proc/self/task"))


def main(how):
    """Runs as the worker that TF_CONFIG says this is."""
    import fda_tf

    # Tracing and compiling the first step counts as waiting.
    timeout = {"step": 15, "gather": 3}[how]
    process_group = fda_tf.connect(start_timeout=60, timeout=timeout)
    import numpy as np
    import small

    batch = small.data(8)
    trainer = how == "step" and fda_tf.Trainer(small.linear_model(), batch)

    def exchange():
        if trainer:
            trainer.step(batch)
        else:
            with process_group.lost_worker_in_words():
                process_group.gather(np.zeros(2))

    for step in range(200):
        exchange()
        if step == 20:
            before = threads()
    print("threads", threads() - before, flush=True)
    time.sleep(timeout + 1)  # but nobody waits
    exchange()
    if process_group.index:
        pathlib.Path(sys.argv[2]).write_text("late")
        time.sleep(timeout + 5)
    exchange()


if __name__ == "__main__":
    main(sys.argv[1])
