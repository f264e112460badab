"""The samples of docs/deploy: SLURM's script, Kubernetes' manifest."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import launched
import processes
import pytest
import yaml

from fda_tf.processes import environment

HERE = pathlib.Path(__file__).parent
DOCS = HERE.parent / "docs"
SBATCH = DOCS / "deploy" / "train.sbatch"

# --- SLURM


class Slurm:
    """Runs the batch script as SLURM would, but for the tasks' machine."""

    def __init__(self, folder):
        self.folder, self.pids = folder, folder / "pids"
        self.requeued = folder / "requeued"
        python = f'exec "{sys.executable}"'
        self._program(
            "srun", f'{python} "{processes.HERE / "fake_srun.py"}" "$@"'
        )
        self._program("python", f'{python} "$@"')
        self._program("scontrol", f'echo "$@" > "{self.requeued}"')

    def _program(self, name, line):
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def start(self, train, *arguments, tasks=2, restarts=0):
        """Starts the script with this train.py."""
        (self.folder / "train.py").write_text(train)
        variables = processes.environment(
            PATH=f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            FAKE_SRUN_PIDS=str(self.pids),
            SLURM_JOB_ID=str(job_with_free_ports(tasks)),
            SLURM_NTASKS=str(tasks),
            SLURM_CPUS_PER_TASK="1",
        )
        if restarts:
            variables["SLURM_RESTART_COUNT"] = str(restarts)
        self.job = variables["SLURM_JOB_ID"]
        variables.pop("TF_CONFIG", None)
        return subprocess.Popen(
            ["bash", str(SBATCH), *arguments],
            cwd=self.folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments, **more):
        """Returns the script's exit code and output."""
        return self.finish(self.start(*arguments, **more))

    @staticmethod
    def finish(process):
        """Waits for the script, which srun's time limit ends."""
        try:
            output, _ = process.communicate(timeout=100)
        finally:
            process.kill()
        return process.returncode, output


def job_with_free_ports(tasks):
    """A job's number whose ports, which are made of it, are free here."""
    for job in range(os.getpid(), os.getpid() + 300):
        first = 12000 + job * 64 % 20000
        try:
            for port in range(first, first + tasks):
                socket.create_server(("", port)).close()
        except OSError:
            continue
        return job
    raise RuntimeError("300 jobs have no free port.")


@pytest.fixture
def slurm(tmp_path):
    return Slurm(tmp_path)


def test_the_tasks_of_the_script_join(slurm):
    code, output = slurm.run(
        "import fda_tf, sys\n"
        "process_group = fda_tf.connect(start_timeout=60)\n"
        "total = process_group.sum(10 + process_group.index)\n"
        "count = process_group.count\n"
        "print(f'sum {total} of {count} {sys.argv[1:]}\\n', end='')\n",
        "--rate=1",
        "two words",
    )
    assert code == 0, output[-2000:]
    assert output.count("sum 21 of 2 ['--rate=1', 'two words']") == 2
    assert not slurm.requeued.exists()


def test_a_job_that_is_told_to_end_saves_and_is_queued_again(slurm):
    process = slurm.start(
        "import os, pathlib, signal, sys, time\n"
        "k = int(os.environ['SLURM_PROCID'])\n"
        "def save(*_):\n"
        "    time.sleep(0.5 * k)\n"  # one is done while the other still saves
        "    pathlib.Path(f'saved{k}').touch()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path(f'ready{k}').touch()\n"
        "time.sleep(60)\n"
    )
    ready = [slurm.folder / f"ready{k}" for k in range(2)]
    assert launched.eventually(
        lambda: all(path.exists() for path in [*ready, slurm.pids])
    )
    for pid in slurm.pids.read_text().split():
        os.kill(int(pid), signal.SIGTERM)  # as --signal=TERM@120 does
    code, output = slurm.finish(process)
    assert code == 0, output
    assert slurm.requeued.read_text() == f"requeue {slurm.job}\n"
    assert all((slurm.folder / f"saved{k}").exists() for k in range(2))


@pytest.mark.parametrize(
    "ends, restarts, code, requeued",
    [
        ("sys.exit(0)", 0, 0, False),
        ("sys.exit(1)", 0, 1, False),
        ("os.kill(os.getpid(), 9)", 0, 137, False),
        ("sys.exit(143)", 3, 0, True),
        ("sys.exit(143)", 50, 143, False),
    ],
)
def test_only_what_is_unfinished_is_queued_again(
    ends, restarts, code, requeued, slurm
):
    train = f"import os, sys\nif os.environ['SLURM_PROCID'] == '1': {ends}\n"
    assert slurm.run(train, restarts=restarts)[0] == code
    assert slurm.requeued.exists() == requeued


def test_sbatch_reads_all_its_options():
    lines = SBATCH.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    first_command = next(
        i for i, line in enumerate(lines) if line and line[0] != "#"
    )
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert options and max(options) < first_command
    assert "#SBATCH --signal=TERM@120" in lines  # to the tasks: no "B:"
    assert "#SBATCH --requeue" in lines


# --- Kubernetes


def tf_config(job, replica_type, index):
    """What the Training Operator sets: its rules, of pkg/controller.v1."""
    name = job["metadata"]["name"]
    cluster = {}
    for kind, spec in job["spec"]["tfReplicaSpecs"].items():
        (container,) = containers(spec)
        (port,) = [
            p["containerPort"]
            for p in container["ports"]
            if p["name"] == "tfjob-port"
        ]
        cluster[kind.lower()] = [
            f"{name}-{kind.lower()}-{i}.research.svc:{port}"
            for i in range(spec["replicas"])
        ]
    task = {"type": replica_type.lower(), "index": index}
    return json.dumps(
        {"cluster": cluster, "task": task, "environment": "cloud"}
    )


def containers(spec):
    """The containers that get a TF_CONFIG."""
    every = spec["template"]["spec"]["containers"]
    return [c for c in every if c["name"] == "tensorflow"]


@pytest.fixture
def manifest():
    """What the sample describes, by kind."""
    text = (DOCS / "deploy" / "tfjob.yaml").read_text()
    return {thing["kind"]: thing for thing in yaml.safe_load_all(text)}


def test_each_pod_finds_its_place(manifest):
    for k in range(4):
        text = tf_config(manifest["TFJob"], "Worker", k)
        cluster, job, task = environment.read_tf_config(text)
        assert (job, task) == ("worker", k)
        assert cluster == {
            "worker": [
                "fda-train-worker-0.research.svc:2222",
                "fda-train-worker-1.research.svc:2222",
                "fda-train-worker-2.research.svc:2222",
                "fda-train-worker-3.research.svc:2222",
            ]
        }


def test_a_chief_may_be_added(manifest):
    specs = manifest["TFJob"]["spec"]["tfReplicaSpecs"]
    specs["Chief"] = specs["Worker"] | {"replicas": 1}
    text = tf_config(manifest["TFJob"], "Chief", 0)
    cluster, job, task = environment.read_tf_config(text)
    assert (job, task) == ("chief", 0) and len(cluster["worker"]) == 4
    assert cluster["chief"] == ["fda-train-chief-0.research.svc:2222"]


def test_the_processes_may_save_and_start_again(manifest):
    for spec in manifest["TFJob"]["spec"]["tfReplicaSpecs"].values():
        assert spec["restartPolicy"] == "OnFailure"
        pod = spec["template"]["spec"]
        assert "restartPolicy" not in pod  # the operator overrides it
        assert pod["terminationGracePeriodSeconds"] >= 60
        (container,) = containers(spec)
        assert container["command"][0] == "python"  # no shell: PID 1 is ours
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_only_the_job_s_pods_reach_its_port(manifest):
    policy = manifest["NetworkPolicy"]["spec"]
    job = manifest["TFJob"]["spec"]["tfReplicaSpecs"]["Worker"]["template"]
    assert policy["policyTypes"] == ["Ingress"]
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert peer == {"podSelector": policy["podSelector"]}
    labels = policy["podSelector"]["matchLabels"]
    assert labels and labels.items() <= job["metadata"]["labels"].items()
    assert rule["ports"] == [{"protocol": "TCP", "port": 2222}]


# --- Both


def test_the_code_in_the_page_is_code():
    page = (DOCS / "deploy.md").read_text()
    blocks = re.findall(r"^ *```(\w+)\n(.*?)```", page, re.DOTALL | re.M)
    assert blocks
    for language, code in blocks:
        assert language == "sh"
        subprocess.run(["bash", "-n"], input=code, text=True, check=True)
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)


def test_the_page_s_samples_are_there():
    page = (DOCS / "deploy.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert sorted(links) == ["deploy/tfjob.yaml", "deploy/train.sbatch"]
    assert all((DOCS / link).exists() for link in links)
