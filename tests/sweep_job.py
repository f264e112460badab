"""Stands for `experiments.run` where no training is needed.

  python sweep_job.py --run_id=NAME --does=WHAT ... --results_dir=DIR

WHAT is "finish", "fail", "fail once", or "meet": wait for a second one. It
writes one line to DIR/begun and, before it ends, another to DIR/ended.
"""

import json
import pathlib
import sys
import time

given = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
home = pathlib.Path(given["results_dir"])
folder = home / given["run_id"]


def note(file):
    with open(home / file, "a") as out:
        out.write(f"{given['run_id']} {time.time()}\n")


note("begun")
time.sleep(0.3)
until = time.monotonic() + 20 * (given["does"] == "meet")
while time.monotonic() < until:
    if len((home / "begun").read_text().splitlines()) > 1:
        break
    time.sleep(0.05)
tries = (home / "begun").read_text().count(f"{given['run_id']} ")
note("ended")
if given["does"] == "fail" or given["does"] == "fail once" and tries == 1:
    sys.exit("Error: no such luck")
(folder / "config.json").write_text(json.dumps({"task": "t"}))
(folder / "summary.json").write_text(json.dumps({"steps": 1}))
