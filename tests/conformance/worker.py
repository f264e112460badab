"""One process that runs Keras' tests, with our callback in every `fit`.

    python worker.py MODE TESTS RESULTS [WANTED]

MODE is "stock" (no callback), "alone", or "two" (under `fda_tf.launch`). A
line of JSON for each test goes into RESULTS; those that are there already are
passed over, so that a run can be stopped, and go on.
"""

import functools
import importlib.util
import inspect
import json
import pathlib
import sys
import time
from unittest import mock

import archive
import pytest

OURS = ("mb_sent", "syncs", "theta", "variance")


class InEveryFit:
    """A pytest plugin.

    Args:
      mode: "stock", "alone" or "two".
      results: of this process; those of worker 0 say what is done.
      wanted: the ids of the tests to run; all if None.
    """

    def __init__(self, mode: str, results: pathlib.Path, wanted: set | None):
        self.mode, self.wanted, self.fits = mode, wanted, 0
        lines = results.read_text().splitlines() if results.exists() else []
        self.done = {json.loads(line)["id"] for line in lines}
        self.process_group = None
        if mode == "two":
            import fda_tf

            self.process_group = fda_tf.connect(start_timeout=120, timeout=90)
            _stay_in_the_job()
            if not self.process_group.is_chief:
                results = results.with_suffix(".1.jsonl")
        self.file = results.open("a")
        self._put_into_every_fit()

    def _put_into_every_fit(self):
        import keras

        import fda_tf

        trainer = next(c for c in keras.Model.__mro__ if "fit" in vars(c))
        fit, plugin = trainer.fit, self
        signature = inspect.signature(fit)

        @functools.wraps(fit)
        def with_callback(*args, **kwargs):
            plugin.fits += 1
            if plugin.mode == "stock":
                return fit(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            given = bound.arguments.get("callbacks")
            fda = fda_tf.FDA()
            if isinstance(given, keras.callbacks.CallbackList):
                fda.set_model(args[0])
                given.append(fda)
            else:
                given = [given] if callable(given) else list(given or [])
                bound.arguments["callbacks"] = [*given, fda]
            history = fit(*bound.args, **bound.kwargs)
            for name in OURS:
                history.history.pop(name, None)
            return history

        trainer.fit = with_callback

    def pytest_collection_modifyitems(self, items):
        items[:] = [
            item
            for item in items
            if item.nodeid not in self.done
            and (self.wanted is None or item.nodeid in self.wanted)
        ]

    def pytest_runtest_protocol(self, item):
        self.fits, self.start = 0, time.monotonic()
        self.failed, self.outcome = None, "passed"
        if self.process_group is None:
            return
        try:  # so that both are at the same test
            place = f"the test {item.nodeid}"
            both = self.process_group.gather_json({"place": place})
        except Exception as error:
            pytest.exit(f"Out of step: {error}", 3)
        if both[0] != both[1]:
            pytest.exit(f"Out of step: {both}", 3)

    def pytest_runtest_logreport(self, report):
        if report.failed and self.failed is None:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.failed = str(crash.message if crash else report.longrepr)
            self.outcome = "failed"
        elif report.skipped and self.failed is None:
            self.outcome = "skipped"
        if report.when == "teardown":
            self.write(report.nodeid)

    def write(self, nodeid):
        """Writes down how a test ended."""
        line = {
            "id": nodeid,
            "outcome": self.outcome,
            "fits": self.fits,
            "seconds": round(time.monotonic() - self.start, 2),
            "message": self.failed and self.failed[:600],
        }
        print(json.dumps(line), file=self.file, flush=True)


def _stay_in_the_job():
    """Makes it an error to reset TensorFlow, for which one test asks.

    No exchange would be possible in any test after it.
    """
    from tensorflow.python.eager import context

    def refuse():
        raise RuntimeError("The test would take this process out of its job.")

    context._reset_context = refuse


def main(mode, tests, results, wanted=None):
    """Runs the tests; returns pytest's exit code."""
    if importlib.util.find_spec("jax") is None:
        # Imported by tests that another backend would need it for.
        sys.modules["jax"] = mock.MagicMock()
    results = pathlib.Path(results)
    files = [f"keras/src/{part}" for part in archive.PARTS]
    if wanted is not None:
        wanted = json.loads(pathlib.Path(wanted).read_text())
        files = list(dict.fromkeys(name.split("::")[0] for name in wanted))
    plugin = InEveryFit(mode, results, wanted and set(wanted))
    arguments = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    arguments += ["-p", "no:xdist", "-c", f"{tests}/pytest.ini", "--tb=short"]
    arguments += [f"--rootdir={tests}", "--no-header", "--no-summary"]
    arguments += ["--continue-on-collection-errors"]
    return pytest.main(
        [*arguments, *(f"{tests}/{file}" for file in files)], plugins=[plugin]
    )


if __name__ == "__main__":
    sys.exit(int(main(*sys.argv[1:])))
