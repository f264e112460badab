"""One worker whose script starts processes of its own while it trains.

python fork_job.py FOLDER TIMES [NAME ...]
"""

import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

EPOCHS, BATCH = 2, 8
PID, LEFT = os.getpid(), 5


def square(x):
    """What the children do."""
    return x * x


def use_pool(method="fork"):
    """Starts a pool, works with it, and ends it, which is by SIGTERM."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(square, range(4)) == [0, 1, 4, 9]


def fork_and_leave():
    """Forks children that leave through the script's own frames."""
    for ends in (SystemExit(), KeyError()):
        pid = os.fork()
        if not pid:
            raise ends
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == LEFT, code


def end_at_once():
    """Ends children by SIGTERM as soon as they are there."""
    for method in ("fork", "forkserver"):
        context = multiprocessing.get_context(method)
        child = context.Process(target=time.sleep, args=(60,), daemon=True)
        child.start()
        child.terminate()
        child.join(20)
        assert child.exitcode == -signal.SIGTERM, child.exitcode


def end_program():
    """Ends another program by SIGTERM."""
    with subprocess.Popen(["sleep", "60"], preexec_fn=os.getpid) as child:
        child.terminate()
        assert child.wait(20) == -signal.SIGTERM


CHILDREN = {
    "pool": use_pool,
    "forkserver": lambda: use_pool("forkserver"),
    "spawn": lambda: use_pool("spawn"),
    "at once": end_at_once,
    "leave": fork_and_leave,
    "program": end_program,
}


def fit(process_group, checkpoint, action, multiprocess=False, epochs=EPOCHS):
    """Trains by Keras' fit; returns the steps done."""
    import keras
    import small

    import fda_tf

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            x, y = small.shards(2)[process_group.index]
            return x[i::6], y[i::6]

    several = {"workers": 2, "use_multiprocessing": True}
    model = small.linear_model()
    model.fit(
        Data(**(several if multiprocess else {})),
        epochs=epochs,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: action(),
                on_train_batch_end=lambda batch, logs: batch == 2 and action(),
            ),
            fda_tf.FDA(
                1e-3, checkpoint=checkpoint, process_group=process_group
            ),
        ],
    )
    return int(model.optimizer.iterations)


def train(process_group, checkpoint, action):
    """Trains by fda_tf's own loop; returns the steps done."""
    import small

    import fda_tf

    model = small.linear_model()
    fda_tf.train(
        model,
        small.shards(2)[process_group.index],
        fda_tf.VarianceThreshold(1e-3, "linear"),
        steps=20,
        batch_size=BATCH,
        process_group=process_group,
        checkpoint=checkpoint,
        on_progress=lambda _: action(),
    )
    return int(model.optimizer.iterations)


def simulate(process_group, checkpoint, action):
    """Simulates, on each worker for itself; returns the steps done."""
    import small

    import fda_tf

    history = fda_tf.simulate(
        small.linear_model,
        small.shards(2),
        fda_tf.VarianceThreshold(1e-3, "linear"),
        steps=20,
        batch_size=BATCH,
        checkpoint=checkpoint,
        on_progress=lambda _: action(),
    )
    return history.rows[-1]["step"]


def until_sigterm(process_group, folder):
    """Trains for ever, with children that work and one that ignores SIGTERM."""
    import fda_tf

    pool, step = multiprocessing.Pool(2), itertools.count(1)

    def action():
        assert pool.map(square, range(2)) == [0, 1]
        (folder / f"steps-{process_group.index}").write_text(str(next(step)))

    deaf = multiprocessing.Process(target=be_deaf)
    deaf.start()
    pids = [child.pid for child in multiprocessing.active_children()]
    (folder / f"pids-{process_group.index}").write_text(
        json.dumps([os.getpid(), *pids])
    )
    saved = fda_tf.Checkpoint(folder / "saved", every=10**6)
    fit(process_group, saved, action, True, 10**6)


def be_deaf():
    """What a child does that SIGTERM does not end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(120)


def cases(process_group, folder):
    """Yields (name, function without arguments)."""
    import fda_tf

    nothing = lambda: None  # noqa: E731

    def saved(name):
        private = name.startswith("simulate") * f"-{process_group.index}"
        place = folder / (name + private) / str(time.monotonic_ns())
        return fda_tf.Checkpoint(place, every=4)

    for how in (fit, train, simulate):
        for what, action in CHILDREN.items():
            name = f"{how.__name__}, {what}"
            yield name, lambda h=how, a=action: h(process_group, None, a)
            yield (
                f"{name}, checkpoint",
                lambda h=how, a=action, n=name: h(process_group, saved(n), a),
            )
    yield "dataset", lambda: fit(process_group, None, nothing, True)
    yield (
        "dataset, checkpoint",
        lambda: fit(process_group, saved("dataset"), nothing, True),
    )
    yield "until SIGTERM", lambda: until_sigterm(process_group, folder)


def ended(run):
    """Returns what a case did; only the process itself goes on from it."""
    try:
        return run()
    finally:
        if os.getpid() != PID:  # where Python ends, TensorFlow may hang
            os._exit(LEFT)


def main(folder, times, names):
    """Runs each case so many times; writes how many steps each did."""
    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    result = {}
    for name, run in cases(process_group, folder):
        if not names or name in names:
            began = time.monotonic()
            result[name] = [ended(run) for _ in range(times)]
            print(f"{name}: {time.monotonic() - began:.1f}", flush=True)
            path = folder / f"{process_group.index}.json"
            path.write_text(json.dumps(result))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
