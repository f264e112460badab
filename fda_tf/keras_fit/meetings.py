"""Where the workers of a fit come together, outside the compiled steps."""

import contextlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from fda_tf.processes.lost import GONE, in_brief


class Meetings:
    """What workers tell each other; all of them come to each meeting.

    Args:
      replicas: the processes of the job.

    Attributes:
      settled: whether all workers know of the error that ends this one.
    """

    def __init__(self, replicas: Any):
        self.replicas = replicas
        self.settled = False

    def meet(self, place: str, **news: Any) -> list[dict[str, Any]]:
        """Returns what every worker has to say.

        Args:
          place: where in `fit` the workers meet.
          **news: ours, as JSON can hold it.

        Raises:
          RuntimeError: on all other workers, when one came with an error; on
            all, when they came to different meetings.
        """
        everyone = self.replicas.gather_json({"place": place} | news)
        places = [other.get("place") for other in everyone]
        for k, other in enumerate(everyone):
            if "error" in other:
                self.settled = True
                raise RuntimeError(
                    f"Worker {k} failed; all workers stop: {other['error']}"
                )
            if places[k] != places[0]:
                self.settled = True
                raise RuntimeError(
                    f"Worker {k} is at {places[k]}, worker 0 at {places[0]}. "
                    "Call fit in the same way on every worker, with "
                    "validation_data on all or none."
                )
        return everyone

    def meet_alike(
        self, place: str, settings: Mapping[str, Any], **news: Any
    ) -> list[dict[str, Any]]:
        """Meets; what the settings are must be the same on all workers.

        Raises:
          ValueError: on every worker, for a setting that differs.
        """
        everyone = self.meet(place, settings=dict(settings), **news)
        for k, other in enumerate(everyone):
            first, theirs = everyone[0]["settings"], other["settings"]
            for name in {**first, **theirs}:
                if theirs.get(name) != first.get(name):
                    self.settled = True
                    raise ValueError(
                        f"Worker {k} differs from worker 0 in {name}: "
                        f"{theirs.get(name)} against {first.get(name)}. Call "
                        "fit in the same way on every worker; only their data "
                        "differ."
                    )
        return everyone

    def tell(self, error: Exception) -> None:
        """Comes to the others' next meeting with an error, which ends them."""
        self.settled = True
        # Where the exchange fails too, our own error says more than its.
        with contextlib.suppress(*GONE, tf.errors.InternalError):
            self.replicas.gather_json({"error": in_brief(error)})
