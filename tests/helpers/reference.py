"""The oracle: Federated Dynamic Averaging in NumPy, without our code.

The model is softmax regression, whose gradient is known in closed form; w is
[inputs + 1, classes], the last row the biases.
"""

import numpy as np


def gradient(w, x, y):
    """Returns the gradient of the mean cross-entropy."""
    x = np.hstack([x, np.ones((len(x), 1), x.dtype)])
    logits = x @ w
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return x.T @ p / len(y)


def squared_norm(buckets):
    """Returns ||v||^2 in float32: halves onto halves, then bucket by bucket."""

    def tree(x):
        x = np.pad(x, (0, (1 << (len(x) - 1).bit_length()) - len(x)))
        while len(x) > 1:
            x = x[: len(x) // 2] + x[len(x) // 2 :]
        return x[0]

    squares = [np.square(np.asarray(b, np.float32)) for b in buckets]
    return tree(np.stack([tree(x) for x in squares]))


def fda(
    w0, batch, workers, steps, rate, theta, monitor,
    xi=None, sketch=None, due=lambda step: False,
):  # fmt: skip
    """Returns (decisions [steps], estimates [steps], the K final models).

    `batch(k, t)` gives (x, y), or None for no local step; `xi` is linear's
    first direction and `sketch` maps a drift to [depth, width]; `due` says
    after which steps, from 1, to synchronise whatever the estimate is.
    """
    w0 = w0.astype(np.float64)
    models = [w0.copy() for _ in range(workers)]
    decisions, estimates = [], []
    for t in range(steps):
        for k in range(workers):
            if batch(k, t) is not None:
                models[k] -= rate * gradient(models[k], *batch(k, t))
        drifts = [(w - w0).ravel() for w in models]
        norms = np.array([u @ u for u in drifts])
        mean = np.mean(drifts, axis=0)
        if monitor == "naive":
            estimate = norms.mean()
        elif monitor == "linear":
            estimate = norms.mean() - np.mean([xi @ u for u in drifts]) ** 2
        elif monitor == "exact":
            estimate = norms.mean() - mean @ mean
        elif monitor == "max":
            estimate = np.mean(norms > theta)
        else:
            rows = np.mean([sketch(u) for u in drifts], axis=0)
            m2 = np.median((rows**2).sum(1))
            estimate = norms.mean() - m2 / (1 + rows.shape[1] ** -0.5)
        fires = estimate > (0 if monitor == "max" else theta) or due(t + 1)
        decisions.append(bool(fires))
        estimates.append(estimate)
        if fires:
            new = np.mean(models, axis=0)
            move = (new - w0).ravel()
            if move @ move > 0 and xi is not None:
                xi = move / np.sqrt(move @ move)
            w0 = new
            models = [w0.copy() for _ in range(workers)]
    return np.array(decisions), np.array(estimates), models
