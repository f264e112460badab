"""Stands for `experiments.run` where no training is needed.

  python sweep_job.py --run_id=NAME --does=WHAT ... --results_dir=DIR

WHAT is "finish", "fail", "fail once", or "meet": wait for a second one. It
writes one line to DIR/begun and, before it ends, another to DIR/ended.
"""

import json
import pathlib
import sys
import time

from experiments import results


def note(home, run_id, file):
    """Writes when something was, in a line of its own."""
    with open(home / file, "a") as out:
        out.write(f"{run_id} {time.time()}\n")


def main(words):
    """Does what is asked for."""
    given = dict(word[2:].partition("=")[::2] for word in words)
    home, run_id = pathlib.Path(given["results_dir"]), given["run_id"]
    note(home, run_id, "begun")
    time.sleep(0.3)
    until = time.monotonic() + 20 * (given["does"] == "meet")
    while time.monotonic() < until:
        if len((home / "begun").read_text().splitlines()) > 1:
            break
        time.sleep(0.05)
    tries = (home / "begun").read_text().count(f"{run_id} ")
    note(home, run_id, "ended")
    if given["does"] == "fail" or given["does"] == "fail once" and tries == 1:
        sys.exit("Error: no such luck")
    folder = home / run_id
    (folder / "config.json").write_text(json.dumps({"task": "t"}))
    values = dict.fromkeys(results.SUMMARY, 1)
    (folder / "summary.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main(sys.argv[1:])
