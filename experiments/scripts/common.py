"""Data that the scripts share: they ship with the project, or are made."""

import os

import numpy as np

from experiments import datasets

WORDS = 400


def digits(labels=range(10)):
    """Returns (x, y), (x_test, y_test) of MNIST's 4,000 and 1,000 images.

    Args:
      labels: which digits; y counts from 0 up within them.

    Returns:
      Images float32 [n, 28, 28, 1] of 0 to 1, and labels int64 [n].
    """
    data = datasets.load("mnist5000")

    def part(x, y):
        keep = np.isin(y, list(labels))
        images = np.float32(x[keep])[..., None] / 255
        return images, np.searchsorted(list(labels), y[keep])

    train = part(data.x_train, data.y_train)
    return train, part(data.x_test, data.y_test)


def messages():
    """Returns 4,400 texts and whether each is spam; and others, for a test.

    They are the SMS Spam Collection if FDA_TF_DATA_DIR has it; else made.
    """
    folder = os.environ.get("FDA_TF_DATA_DIR")
    if folder and os.path.exists(os.path.join(folder, "sms_spam.npz")):
        data = datasets.load("sms_spam", folder)
        train = data.x_train[:4400], data.y_train[:4400]
        return train, (data.x_test, data.y_test)
    return _made_messages(4400, seed=0), _made_messages(1000, seed=1)


def people(n, seed):
    """Returns n persons as columns, some of strings, and whether each bought.

    Args:
      n: how many.
      seed: of the draw.
    """
    random = np.random.default_rng(seed)
    columns = {
        "age": random.integers(18, 80, n).astype("float32"),
        "hours": random.gamma(4, 10, n).astype("float32"),
        "city": random.choice(["Athens", "Patras", "Volos", "Chania"], n),
        "work": random.choice(["office", "field", "home"], n),
    }
    city = np.where(columns["city"] == "Athens", 1.5, -0.5)
    work = np.where(columns["work"] == "home", 1.0, 0.0)
    score = (columns["age"] - 45) / 12 + (columns["hours"] - 40) / 15
    noise = random.logistic(0, 1, n)
    return columns, (score * (1 - 2 * work) + city + noise > 0).astype("int64")


def payments(n, seed):
    """Returns n payments float32 [n, 12], and the few that are fraud [n, 1].

    Args:
      n: how many.
      seed: of the draw.
    """
    random = np.random.default_rng(seed)
    fraud = random.random(n) < 0.04
    x = random.normal(size=(n, 12))
    x[fraud, :4] += 1.2
    x[fraud, 4:8] *= 1.6
    return x.astype("float32"), fraud.astype("int64")[:, None]


def _made_messages(n, seed):
    """Returns n texts of words, and whether a pair of words is in each."""
    random = np.random.default_rng(seed)
    words = np.array([f"word{i}" for i in range(WORDS)])
    labels = random.random(n) < 0.3
    texts = []
    for label in labels:
        text = random.choice(words[20:], random.integers(8, 30))
        text[:3] = random.choice(words[:20] if label else words[10:30], 3)
        texts.append(" ".join(random.permutation(text)))
    return np.array(texts), labels.astype("int64")
