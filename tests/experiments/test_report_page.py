"""The command experiments.report: what it reads, refuses and writes."""

import http.server
import json
import pathlib
import re
import shutil
import subprocess
import threading
import urllib.parse

import numpy as np
import pytest
from command_line import npz
from matplotlib import image

from experiments import results
from experiments.report import __main__ as report
from experiments.report import loading


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the results of two real runs."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "results"))


@pytest.fixture(scope="module")
def made(finished, tmp_path_factory):
    """A report of the two real runs, beside made-up published ones."""
    out = tmp_path_factory.mktemp("made")
    published = out / "published.csv"
    published.write_text(
        "model,distribution,K,strategy,theta,target,reached,steps,"
        "syncs_completed\nLeNet-5,IID,5,linear,1.5,0.98,1,3000,49\n"
    )
    arguments = [str(finished), f"--published={published}", f"--out={out}"]
    assert report.main(arguments) == 0
    return out


def _linear(folder):
    (found,) = folder.glob("*-linear-*/")
    return found


def _change(path, **changes):
    value = json.loads(path.read_text()) | changes
    kept = {name: v for name, v in value.items() if v != "gone"}
    path.write_text(json.dumps(kept))


def test_a_run_leaves_the_course_of_its_steps(finished):
    with np.load(_linear(finished) / "course.npz") as arrays:
        variance, theta = arrays["variance"], arrays["theta"]
    assert variance.shape == theta.shape == (12,)
    assert np.isfinite(variance).all()
    assert theta.tolist() == [np.float32(0.05)] * 12


def test_real_runs_are_read(finished):
    runs, left_out = loading.load([str(finished)])
    by_name = {run.settings.algorithm: run for run in runs}
    assert set(by_name) == {"synchronous", "linear"} and not left_out
    run = by_name["linear"]
    assert run.rows[-1]["step"] == run.summary["steps"] == 12
    assert len(run.variance) == 12 and run.about["train_samples"] == 60
    (again,), _ = loading.load([str(_linear(finished))])
    assert again.settings == run.settings


def test_a_summary_is_read_too_and_a_folder_says_more(finished):
    file = str(finished / "summary.jsonl")
    runs, left_out = loading.load([file])
    assert len(runs) == 2 and not left_out
    assert {run.settings.steps for run in runs} == {12}  # the limit
    assert not any(run.rows for run in runs)
    for paths in ([file, str(finished)], [str(finished), file]):
        both, _ = loading.load(paths)
        assert len(both) == 2 and all(run.rows for run in both)


def test_a_folder_from_before_course_and_format_is_read(folder):
    run = _linear(folder)
    (run / "course.npz").unlink()
    _change(run / "config.json", format="gone")
    (read,), left_out = loading.load([str(run)])
    assert not left_out and not len(read.variance) and read.rows


def test_an_infinite_theta_is_read(folder, tmp_path):
    path = _linear(folder) / "config.json"
    theta = json.loads(path.read_text())["theta"]
    name = json.loads(path.read_text())["run_id"]
    name = name.replace(f"theta{theta}", "thetainf")
    _change(path, theta="inf", run_id=name)
    (read,), left_out = loading.load([str(_linear(folder))])
    assert read.settings.theta == np.inf and not left_out
    assert report.main([str(folder), f"--out={tmp_path / 'out'}"]) == 0


def _cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def _no_last_row(path):
    path.write_text("".join(path.read_text().splitlines(True)[:-1]))


def _short(path):
    np.savez(path, variance=np.zeros(3), theta=np.zeros(3))


DAMAGE = {
    "not finished": ("summary.json", pathlib.Path.unlink),
    "it has no config.json": ("config.json", pathlib.Path.unlink),
    "damaged, summary.json": ("summary.json", _cut),
    "config.json is no JSON object": (
        "config.json", lambda path: path.write_text("[]"),
    ),
    "metrics.csv does not end at": ("metrics.csv", _no_last_row),
    "damaged, syncs.csv": ("syncs.csv", pathlib.Path.unlink),
    "metrics.csv has no column": (
        "metrics.csv", lambda path: path.write_text("a,b\n1,2\n"),
    ),
    "damaged, course.npz": ("course.npz", _cut),
    "course.npz has 3 steps, not 12": ("course.npz", _short),
    "another version, its files have format 99": (
        "config.json", lambda path: _change(path, format=99),
    ),
    "another version, config.json has no learning_rate": (
        "config.json", lambda path: _change(path, learning_rate="gone"),
    ),
    "another version, summary.json has no checks": (
        "summary.json", lambda path: _change(path, checks="gone"),
    ),
    "another version, its algorithm is 'swarm'": (
        "config.json", lambda path: _change(path, algorithm="swarm"),
    ),
    "another version, its task is ['a']": (
        "config.json", lambda path: _change(path, task=["a"]),
    ),
    "its settings are those of": (
        "config.json", lambda path: _change(path, theta=7.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", DAMAGE)
def test_what_cannot_be_trusted_is_named_and_left_out(folder, words):
    name, harm = DAMAGE[words]
    harm(_linear(folder) / name)
    runs, (line,) = loading.load([str(folder)])
    assert [run.settings.algorithm for run in runs] == ["synchronous"]
    assert line.startswith(f"{_linear(folder)}: ") and words in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "text, words",
    [
        ("a,b\n1,2\n", "not a summary or a table that this program wrote"),
        (None, "damaged, its row"),
    ],
)
def test_a_foreign_summary_is_named_and_left_out(
    finished, tmp_path, text, words
):
    path = tmp_path / "summary.jsonl"
    good = (finished / "summary.jsonl").read_text()
    path.write_text(text or good.replace("-theta0.05-", "-theta0.07-"))
    runs, (line,) = loading.load([str(path), str(finished)])
    assert len(runs) == 2
    assert line.startswith(f"{path}: ") and words in line


def test_the_command_warns_and_the_page_says_what_was_left_out(
    folder, tmp_path, capsys
):
    (_linear(folder) / "summary.json").unlink()
    out = tmp_path / "out"
    assert report.main([str(folder), f"--out={out}"]) == 0
    said = capsys.readouterr()
    line = f"{_linear(folder)}: not finished, it has no summary.json"
    assert f"Warning: left out {line}\n" in said.err
    assert str(out / "index.html") in said.out
    assert line in (out / "index.html").read_text()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["/no/such/folder"], "/no/such/folder does not exist"),
        (["EMPTY"], "no finished run in"),
        (["RUNS", "--published=/no/such.csv"], "/no/such.csv cannot be read"),
        (["RUNS", "--published=SUMMARY"], "'model'"),
        (["RUNS", "--out=/dev/null/x"], "/dev/null/x"),
        (["split", "half"], "expected one like iid, sorted:0.6"),
        (["split", "dirichlet:0"], "finite number above 0"),
        (["split", "dirichlet:-1"], "finite number above 0"),
        (["split", "sizes:0"], "finite number above 0"),
        (["split", "iid", "--workers=21"], "21 workers and 20 samples"),
        (["split", "iid", "--workers=0"], "an integer of 1 or more"),
        (["split", "natural"], "client of each of the 20 samples"),
        (["split", "iid", "--data=nothing"], "nothing.npz"),
    ],
)
def test_bad_input_is_one_line(finished, tmp_path, capsys, arguments, words):
    (tmp_path / "empty").mkdir()
    npz(tmp_path / "mnist5000.npz")
    if arguments[0] == "split":
        arguments = [*arguments, f"--data_dir={tmp_path}"]
    places = {
        "EMPTY": str(tmp_path / "empty"), "RUNS": str(finished),
        "SUMMARY": str(finished / "summary.jsonl"),
    }  # fmt: skip
    for name, path in places.items():
        arguments = [text.replace(name, path) for text in arguments]
    if not any(text.startswith("--out") for text in arguments):
        arguments.append(f"--out={tmp_path / 'out'}")
    assert report.main(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: ") and words in last
    assert not (tmp_path / "out").exists()


def test_splits_are_drawn(tmp_path, capsys):
    npz(tmp_path / "set.npz", client_train=np.arange(20) // 3)
    arguments = [
        "split", "label:0,8", "natural", "--data=set", "--workers=4",
        f"--data_dir={tmp_path}", f"--out={tmp_path / 'out'}",
    ]  # fmt: skip
    assert report.main(arguments) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    stems = ("split-set-label0,8-K4-seed0", "split-set-natural-K4-seed0")
    assert names == [f"{s}.{end}" for s in stems for end in ("png", "svg")]
    assert f"{stems[0]}.png" in capsys.readouterr().out


# --- The page


def test_page_asks_for_nothing_from_outside(made):
    text = (made / "index.html").read_text()
    assert "http://" not in text and "https://" not in text
    assert not re.search(r"<(script|img|iframe|object|embed)\b", text)
    assert re.findall(r"<link[^>]*>", text) == [
        '<link rel="icon" href="data:,">'
    ]
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    targets = re.findall(r'href="([^"]*)"', text)
    assert all(target[0] == "#" or target == "data:," for target in targets)
    assert "default-src 'none'" in text


def test_page_has_each_picture_and_ids_once(made):
    text = (made / "index.html").read_text()
    files = {path.stem for path in (made / "figures").glob("*.svg")}
    assert files == {path.stem for path in (made / "figures").glob("*.png")}
    assert set(re.findall(r'<figure id="([^"]*)"', text)) == files
    assert "accuracy-bytes-K2" in files and "course-linear-K2" in files
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="#|url\(#)([^")]*)', text)
    assert set(used) <= set(ids)
    assert "LeNet-5 on 5,000 MNIST images, iid, to 0.05" in text


def test_only_this_format_is_written(finished):
    config = json.loads((_linear(finished) / "config.json").read_text())
    assert config["format"] == results.FORMAT


class _Proxy(http.server.BaseHTTPRequestHandler):
    """Refuses every request, and notes its host."""

    def do_GET(self):
        text = self.path if "://" in self.path else f"//{self.path}"
        self.server.hosts.add(urllib.parse.urlsplit(text).hostname)
        self.send_error(404)

    do_CONNECT = do_HEAD = do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def browse(tmp_path):
    """(page, flags) -> (its document, its console, hosts asked for)."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("needs Chromium: apt install chromium")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def open_page(page, *flags):
        server.hosts = set()
        done = subprocess.run(
            [
                program, "--headless", "--no-sandbox", "--disable-gpu",
                f"--user-data-dir={tmp_path / 'profile'}", "--no-first-run",
                "--disable-background-networking", "--disable-sync",
                "--disable-component-update", "--enable-logging=stderr",
                f"--proxy-server=127.0.0.1:{server.server_port}",
                "--proxy-bypass-list=<-loopback>", "--hide-scrollbars",
                "--virtual-time-budget=2000", *flags, page.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        console = [x for x in done.stderr.splitlines() if "CONSOLE" in x]
        # What the browser wants for itself is no matter of the page.
        own = ("google.com", "googleapis.com", "gvt1.com")
        hosts = {host for host in server.hosts if not host.endswith(own)}
        return done.stdout, console, hosts

    yield open_page
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_browser_would_tell(browse, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<img src="http://example.invalid/x.png"><script>oops()</script>'
    )
    _, console, hosts = browse(page, "--dump-dom")
    assert hosts == {"example.invalid"}
    assert "oops is not defined" in console[0]


@pytest.mark.slow
def test_page_in_a_browser(made, browse, tmp_path):
    text = (made / "index.html").read_text()
    policy = re.search(r"<meta http-equiv[^>]*>", text, re.DOTALL)[0]
    free = tmp_path / "free.html"  # nothing keeps this one from asking
    free.write_text(text.replace(policy, ""))
    for page in (made / "index.html", free):
        document, console, hosts = browse(page, "--dump-dom")
        assert document.count("<figure") == text.count("<figure") > 0
        assert not console and not hosts


@pytest.mark.slow
@pytest.mark.parametrize("scheme, paper", [(1, 255), (0, 24)])
@pytest.mark.parametrize("width", [1280, 500])
def test_page_is_seen_in_light_and_dark(
    made, browse, tmp_path, scheme, paper, width
):
    shot = tmp_path / "shot.png"
    browse(
        made / "index.html", f"--screenshot={shot}",
        f"--window-size={width},1600",
        f"--blink-settings=preferredColorScheme={scheme}",
    )  # fmt: skip
    pixels = np.rint(image.imread(shot)[..., :3] * 255).astype(int)
    assert pixels.shape[1] == width
    assert np.median(pixels[..., 0]) == paper
    blue = (pixels[..., 2] - pixels[..., 0] > 90).mean()  # LinearFDA's curves
    assert 1e-4 < blue < 0.2
