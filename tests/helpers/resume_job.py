"""One worker of a cluster whose runs are stopped, and go on.

python resume_job.py FOLDER NAME...; every NAME is a run or a kind of runs.
"""

import json
import pathlib
import sys
import time


def outcome(run):
    """Returns what a run did, or how it ended."""
    try:
        return run()
    except SystemExit as end:
        return {"exit": end.code}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def thrice(run, directory, stopping, alone=None):
    """Returns what a run did alone, when stopped, and when it went on.

    Args:
      run: takes where its checkpoints are, and how it is stopped.
      directory: for the checkpoints.
      stopping: how it is stopped.
      alone: what it did alone, if that is known.
    """
    import fda_tf

    result = {"lone": alone or outcome(lambda: run(None, None))}
    result["stopped"] = outcome(lambda: run(directory, stopping))
    result["steps"] = fda_tf.Checkpoint(directory).steps()
    result["again"] = outcome(lambda: run(directory, None))
    return result


def fits(process_group, folder):
    """Returns name -> what to do, for fits."""
    import resume_cases

    alone = {}  # what cases have in common is run alone once

    def job(name, case):
        def run(directory, stopping):
            epochs = resume_cases.EPOCHS
            if directory and not directory.exists():
                epochs = case.begun
            return resume_cases.fit(
                case, process_group, directory, stopping, epochs
            )

        kind = repr([case.build, case.data, case.callbacks, case.sync])
        result = thrice(run, folder / name, case.stop, alone.get(kind))
        alone[kind] = result["lone"]
        return result

    return {
        name: lambda name=name, case=case: job(name, case)
        for name, case in resume_cases.cases().items()
    }


def trains(process_group, folder):
    """Returns name -> what to do, for `train` and loops of one's own."""
    import resume_more

    def job(name, stopping, every, build, options):
        return thrice(
            lambda directory, stopping: resume_more.train(
                build, options, process_group, directory, every, stopping
            ),
            folder / name,
            stopping,
        )

    def own_loop():
        return thrice(
            lambda directory, stop_at: resume_more.own_loop(
                process_group, directory, stop_at=stop_at
            ),
            folder / "own loop",
            17,
        )

    def of(name, settings):
        return name, lambda: job(name, *settings[:2], *settings[3:])

    jobs = dict(of(*item) for item in resume_more.trains().items())
    return jobs | {"own loop": own_loop}


def rest(process_group, folder):
    """Returns name -> what to do, for all else."""
    import resume_cases
    import resume_more

    def other_workers():
        case = {4: resume_cases.FOUR, 2: resume_cases.TWO}.get(
            process_group.count, resume_cases.THREE
        )
        stop_at = {4: (17, "error"), 2: (30, "error")}.get(process_group.count)
        opened = (folder / "fit").exists() and outcome(
            lambda: resume_more.opened(process_group, folder / "fit")
        )
        stopping, every, _, build, options = resume_more.trains()["train"]
        return {
            "opened": opened,
            "fit": outcome(
                lambda: resume_cases.fit(
                    case, process_group, folder / "fit", case.stop
                )
            ),
            "train": outcome(
                lambda: resume_more.train(
                    build,
                    options,
                    process_group,
                    folder / "train",
                    every,
                    stop_at,
                )
            ),
        }

    def refusals():
        runs = resume_more.refusals(process_group, folder / "refused")
        return {name: outcome(run) for name, run in runs.items()}

    def kill():
        case = resume_cases.cases()["second epoch"]
        stopping = ("on_train_batch_end", 14, "SIGKILL")
        return resume_cases.fit(case, process_group, folder / "kill", stopping)

    def full_disk():
        return thrice(
            lambda directory, stopping: resume_more.full_disk(
                process_group, directory, stopping
            ),
            folder / "full disk",
            (14, 25),
        )

    return {
        "other workers": other_workers,
        "refusals": refusals,
        "kill": kill,
        "own step": lambda: resume_more.own_step(process_group),
        "one and two": lambda: resume_more.one_and_two(
            process_group, folder / "one and two"
        ),
        "full disk": full_disk,
    }


def main(folder, *names):
    """Runs everything as the worker that TF_CONFIG says this is."""
    import fda_tf

    process_group = fda_tf.connect(start_timeout=60, timeout=60)
    folder = pathlib.Path(folder)
    jobs = {}
    for some in (fits, trains, rest):
        jobs |= some(process_group, folder)
    report, start = {}, time.monotonic()
    for name in names:
        report[name] = jobs[name]()
        print(name, round(time.monotonic() - start, 1), flush=True)
    path = folder / f"{process_group.count}-{process_group.index}.json"
    path.write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
