"""Warnings of what a fit on several workers was not given.

Nothing is wrong with such a fit by itself, so it goes on: but its script is
started on several machines, and gets nothing from them.
"""

from collections.abc import Sequence
from typing import Any

from absl import logging

from fda_tf.data import arrays
from fda_tf.data.digests import digest
from fda_tf.fit.keras_hooks import fit_variables, when_without_ours
from fda_tf.processes.process_group import when_connected


def watch_fits(process_group: Any) -> None:
    """Warns in every fit from now on that has no callback of ours.

    Args:
      process_group: the processes of the job.
    """
    if process_group.count == 1 or not process_group.is_chief:
        return

    def warn():
        if fit_variables():  # a loop of one's own may call it, too
            logging.warning(
                "This model.fit has no callback of fda_tf's: it trains on "
                "each worker alone, and nothing is averaged. Give it "
                "callbacks=[..., fda_tf.FDA(...)] on every worker; one object "
                "may serve all fits of a model."
            )

    when_without_ours(warn)


def arrays_digest(process_group: Any) -> str | None:
    """Returns a digest of the arrays that the fit which calls us was given.

    Args:
      process_group: the processes of the job.

    Returns:
      None, if it was not given arrays, or nobody is there to compare them.
    """
    if process_group.count == 1:
        return None
    given = fit_variables()
    try:
        data = [given.get(name) for name in arrays.NAMES]
        return digest(arrays.read(data, "The data given to fit"))
    except (ValueError, TypeError):  # of what else fit takes
        return None


def warn_if_whole(process_group: Any, digests: Sequence[str | None]) -> None:
    """Warns on the chief, once, if all workers were given the same data.

    Args:
      process_group: the processes of the job.
      digests: of each worker's data; None for what needs no warning.
    """
    same = digests[0] is not None and len(set(digests)) == 1
    if same and process_group.count > 1 and process_group.is_chief:
        logging.log_first_n(
            logging.WARNING,
            "All %d workers were given the same data, and each goes through "
            "all of them: they are no faster than one. Give fit each worker's "
            "part: fda_tf.shard((x, y), batch_size=32) in the place of x, y "
            "and batch_size, or dataset.shard(process_group.count, "
            "process_group.index).",
            1,
            process_group.count,
        )


when_connected(watch_fits)
