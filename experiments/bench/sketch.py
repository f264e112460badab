"""Time, memory and spread of the AMS sketch, against the squared norm.

    python -m experiments.bench.sketch

The norm is an XLA-compiled reduce_sum(v * v) on the same threads. The two are
timed in alternating blocks of one run, and the ratio is the median over pairs
of neighbouring blocks: what else the machine does hits both. The scatter
formulation (hashes precomputed, `tensor_scatter_nd_add`) is timed beside them.

peak_bytes_per_param is by how much the resident memory of a new process grew,
at most, over making tables and sketching twice; the vector was there before.
It measures the library's `AMSSketch` itself.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from experiments import processes
from experiments.bench import measured, resident
from fda_tf.algorithm.sketch import AMSSketch

# A dozen vectors, or 60 bytes a parameter, and more do not fit.
_LARGEST_SPREAD = _LARGEST_SCATTER = 20_000_000
_PRIME = 2**31 - 1
COLUMNS = (
    "d", "form", "ns_per_param", "ratio_to_norm", "ratio_quartiles",
    "bytes_per_param", "peak_bytes_per_param", "max_row_sd",
    "max_median_misses",
)  # fmt: skip
_METHOD = (
    "Median over pairs of neighbouring blocks of calls, sketch and norm in "
    "turn, of the ratio of a call's mean time in each; ns_per_param is the "
    "median block. row_sd: root mean square over seeds and rows of (sum of "
    "squares / ||v||^2 - 1), in units of sqrt(2 / width)."
)


def named_vectors(
    size: int, width: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Returns vectors that are good and bad for a sketch, by name."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    def spikes(period):
        return (np.arange(size) % period == period // 3).astype(np.float32)

    columns = int(np.ceil(np.sqrt(size)))
    layer = np.zeros(size, np.float32)
    layer[size // 3 : size // 3 + max(1, size // 20)] = 1.0
    period, square = min(width, size), min(width**2, size)
    return {
        "gaussian": normal(size),
        "one_hot": spikes(size),
        "constant": np.ones(size, np.float32),
        "period_w": np.resize(normal(period), size),
        "period_w2": np.resize(normal(square), size),
        "spikes_w": spikes(period),
        "spikes_w2": spikes(square),
        "spikes_diagonal": spikes(min(width - 1, size)),
        "one_layer": layer * normal(size),
        "rank_one": np.outer(normal(columns), normal(columns)).ravel()[:size],
        "heavy_tailed": normal(size) ** 3,
        "drift": sgd_drift(size, rng),
    }


def sgd_drift(size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns what ten SGD steps change in a perceptron with one hidden layer.

    The data are 10 classes of 64 correlated inputs; the hidden layer is as wide
    as `size` weights need, and the drift is cut to `size`.
    """
    inputs, classes, batch = 64, 10, 32
    hidden = -(-size // (inputs + 1 + classes))
    rate = 5 / (hidden + 50)  # a wider layer bears a smaller one

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    mixing, centres = normal(inputs, inputs) / 8, normal(classes, inputs)
    first = normal(inputs, hidden) / np.sqrt(inputs, dtype=np.float32)
    bias = np.zeros(hidden, np.float32)
    second = normal(hidden, classes) / np.sqrt(hidden, dtype=np.float32)
    start = [first.copy(), bias.copy(), second.copy()]
    for _ in range(10):
        labels = rng.integers(0, classes, batch)
        x = (centres[labels] + normal(batch, inputs)) @ mixing
        active = np.maximum(x @ first + bias, 0)
        scores = active @ second
        scores = np.exp(scores - scores.max(1, keepdims=True))
        error = scores / scores.sum(1, keepdims=True)
        error[np.arange(batch), labels] -= 1
        error *= rate / batch
        back = (error @ second.T) * (active > 0)
        second -= active.T @ error
        first -= x.T @ back
        bias -= back.sum(0)
    ends = [first, bias, second]
    changes = [end - begin for end, begin in zip(ends, start, strict=True)]
    return np.concatenate([change.ravel() for change in changes])[:size]


def row_errors(
    vectors: dict[str, np.ndarray], seeds: int, depth: int = 5, width: int = 250
) -> dict[str, np.ndarray]:
    """Returns the rows' relative errors of ||v||^2: [seeds, depth] by name."""
    tensors = {name: tf.constant(v) for name, v in vectors.items()}
    norms = {n: np.sum(np.square(v, dtype=float)) for n, v in vectors.items()}
    errors = {name: np.zeros([seeds, depth]) for name in vectors}
    size = next(iter(vectors.values())).size
    for seed in range(seeds):
        ams = AMSSketch(size, depth, width, seed)
        for name, vector in tensors.items():
            cells = ams.sketch(vector).numpy().astype(float)
            errors[name][seed] = (cells**2).sum(axis=1) / norms[name] - 1
    return errors


def scatter_sketch(
    size: int, depth: int = 5, width: int = 250, seed: int = 0
) -> tuple[Callable[[tf.Tensor], tf.Tensor], int]:
    """Returns the usual sketch, by 4-wise hashes and a scatter, and its bytes.

    Each row hashes every coordinate by two random cubic polynomials modulo a
    prime, before training, to a cell and a sign (the form of the FDA authors).
    """
    rng = np.random.default_rng(seed)
    places = np.arange(size, dtype=np.uint64)

    def cubic():
        value = np.zeros(size, np.uint64)
        for coefficient in rng.integers(1, _PRIME, 4, dtype=np.uint64):
            value = (value * places + coefficient) % np.uint64(_PRIME)
        return value

    cells = np.empty([depth, size, 2], np.int32)
    signs = np.empty([depth, size], np.float32)
    for row in range(depth):
        cells[row, :, 0] = row
        cells[row, :, 1] = cubic() % np.uint64(width)
        signs[row] = (cubic() & np.uint64(1)).astype(np.float32) * 2 - 1
    indices, weights = tf.constant(cells), tf.constant(signs)

    def sketch(vector):
        zeros = tf.zeros([depth, width])
        return tf.tensor_scatter_nd_add(zeros, indices, weights * vector)

    return tf.function(sketch), cells.nbytes + signs.nbytes


def time_pairs(
    ours: Callable[[], tf.Tensor],
    theirs: Callable[[], tf.Tensor],
    repeats: int,
    seconds: float = 0.02,
) -> tuple[np.ndarray, np.ndarray]:
    """Times two functions in alternating blocks of about `seconds` each."""

    def block(function, calls):
        begin = time.perf_counter()
        for _ in range(calls):
            function().numpy()
        return (time.perf_counter() - begin) / calls

    both = (ours, theirs)
    for function in both:  # compile, and touch the memory
        block(function, 2)
    calls = [max(1, int(seconds / block(f, 2))) for f in both]
    blocks = {
        name: lambda f=f, n=n: block(f, n)
        for name, f, n in zip(("ours", "theirs"), both, calls, strict=True)
    }
    pairs = np.array(measured.in_turn(blocks, "theirs", repeats)["ours"])
    return pairs[:, 0], pairs[:, 1]


def _timing(function, norm, size, repeats):
    """Returns the figures of a sketch's time and of its ratio to the norm's."""
    ours, theirs = time_pairs(function, norm, repeats)
    low, ratio, high = np.percentile(ours / theirs, [25, 50, 75])
    return {
        "ns_per_param": float(np.median(ours)) / size * 1e9,
        "norm_ns_per_param": float(np.median(theirs)) / size * 1e9,
        "ratio_to_norm": float(ratio),
        "ratio_quartiles": [float(low), float(high)],
    }


def measure(size: int, repeats: int, seeds: int) -> dict:
    """Returns the row of figures for one size."""
    depth, width = 5, 250
    vector = tf.random.stateless_normal([size], [0, 0])
    ams = AMSSketch(size, depth, width)
    sketch = tf.function(ams.sketch)
    norm = tf.function(lambda v: tf.reduce_sum(v * v), jit_compile=True)
    row = {"d": size, "depth": depth, "width": width}
    row |= _timing(lambda: sketch(vector), lambda: norm(vector), size, repeats)
    row["bytes_per_param"] = ams.table_bytes / size
    if size <= _LARGEST_SPREAD:
        row |= _spread(size, seeds, depth, width)
    if size <= _LARGEST_SCATTER:
        scatter, table_bytes = scatter_sketch(size, depth, width)
        few = max(3, repeats // 6)
        row["scatter"] = _timing(
            lambda: scatter(vector), lambda: norm(vector), size, few
        )
        row["scatter"]["bytes_per_param"] = table_bytes / size
    return row


def _spread(size, seeds, depth, width):
    """Returns how far the rows and their median are from the truth."""
    errors = row_errors(named_vectors(size, width), seeds, depth, width)
    unit = np.sqrt(2 / width)
    row_sd = {
        name: float(np.sqrt(np.mean(error**2)) / unit)
        for name, error in errors.items()
    }
    misses = [
        float(np.mean(np.abs(np.median(error, axis=1)) > 3 / np.sqrt(width)))
        for error in errors.values()
    ]
    return {
        "row_sd": row_sd,
        "max_row_sd": max(row_sd.values()),
        "max_median_misses": max(misses),
    }


def peak_bytes(size: int) -> int:
    """Returns by how much sketching twice let this new process grow."""
    vector = tf.random.stateless_normal([size], [0, 0])
    tf.function(lambda v: tf.reduce_sum(v * v), jit_compile=True)(vector[:9])
    before = resident.begin()
    sketch = tf.function(AMSSketch(size).sketch)
    for _ in range(2):
        sketch(vector).numpy()
    return resident.peak() - before


def flat(row: dict) -> list[dict]:
    """Returns the table's rows of one size: ours, and the scatter form."""
    if "scatter" not in row:
        return [row | {"form": "sketch"}]
    scatter = {"d": row["d"], "form": "scatter"} | row["scatter"]
    return [row | {"form": "sketch"}, scatter]


def main(options) -> None:
    """Measures each size; prints a table, then all as JSON."""
    if options.threads:
        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    rows = []
    for size in map(int, map(float, options.sizes)):
        row = measure(size, options.repeats, options.seeds)
        grown = processes.call(peak_bytes, size, env=processes.NO_POOL)[0]
        rows += flat(row | {"peak_bytes_per_param": grown / size})
        print(rows[-1], file=sys.stderr, flush=True)
    measured.show(rows, COLUMNS, options, method=_METHOD)


if __name__ == "__main__":
    measured.command(
        main,
        sizes=(["1e4", "61706", "1e6", "2e7", "2e8"], "Coordinates."),
        repeats=(60, "Pairs of blocks timed."),
        seeds=(400, "Sketches for the spread."),
        threads=(0, "Threads of one operation; 0: TensorFlow's default."),
    )
