"""The launcher's command line, and what it shows of the workers' output."""

import io
import os
import pathlib
import subprocess
import sys

import keras
import launched
import pytest

from fda_tf import launch
from fda_tf.launch import __main__ as command_line
from fda_tf.launch import _output

PYTHON = [sys.executable, "-u"]

# --- The command line


@pytest.mark.parametrize(
    "words, expected",
    [
        ("train.py --workers=9 -h", [*PYTHON, "train.py", "--workers=9", "-h"]),
        ("-m a.b --grace=1 -m", [*PYTHON, "-m", "a.b", "--grace=1", "-m"]),
        ("prog -x -- y", ["prog", "-x", "--", "y"]),
        ("-- prog --max_restarts=7", ["prog", "--max_restarts=7"]),
        ("prog.py.sh", ["prog.py.sh"]),
    ],
)
def test_what_follows_the_script_is_its_own(words, expected, monkeypatch):
    calls = []

    def called(*given, **more):
        calls.append((given, more))
        return 5

    monkeypatch.setattr(launch, "launch", called)
    flags = ["--workers=4", "--max_restarts", "2", "--grace=1.5", "--quiet"]
    flags += ["--log_dir=a"]
    assert command_line.main([*flags, *words.split()]) == 5
    given = {"max_restarts": 2, "grace": 1.5, "quiet": True, "log_dir": "a"}
    assert calls == [((expected, 4), given)]
    assert command_line.main(["--workers=3", *words.split()]) == 5
    given = {"max_restarts": 0, "grace": 30, "quiet": False, "log_dir": None}
    assert calls[1] == ((expected, 3), given)


@pytest.mark.parametrize(
    "words, message",
    [
        ("train.py", "required: --workers"),
        ("--workers=2", "nothing to run: give a script"),
        ("--workers=2 -m", "nothing to run: give a script"),
        ("--workers=2 --work=3 train.py", "unrecognized arguments: --work=3"),
        ("--workers=two train.py", "invalid int value: 'two'"),
        ("--workers=0 train.py", "workers=0: expected a whole number"),
        (
            "--workers=2 --max_restarts=-1 x",
            "max_restarts=-1: expected a whole",
        ),
        ("--workers=2 --grace=nan x", "grace=nan: expected seconds"),
    ],
)
def test_wrong_words_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(words.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_each_flag(capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    names = "--workers --max_restarts --grace --quiet --log_dir -m"
    assert set(names.split()) <= set(out.split())
    assert max(map(len, out.split("Starts one")[1].splitlines())) <= 80


def test_ctrl_c_is_130(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "launch", interrupted)
    assert command_line.main(["--workers=2", "train.py"]) == 130


def test_a_module_is_launched_from_a_shell(tmp_path):
    words = launched.command(tmp_path, "print(k, sys.argv)\nsys.exit(3 * k)\n")
    root = str(pathlib.Path(launch.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "fda_tf.launch", "--workers=2", *words[1:]]
        + ["--help", "--workers=7"],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
    )
    own = [*words[1:], "--help", "--workers=7"]
    assert f"[worker 1] 1 {own}\n" in done.stdout
    assert f"0 {own}\n" in done.stdout
    assert done.returncode == 3 and "exit code 3; the others" in done.stderr
    assert "RuntimeWarning" not in done.stderr  # of a module imported twice


# --- The output


def read(data, capsys):
    """What is shown of a worker's output."""
    _output.Reader(io.BufferedReader(io.BytesIO(data)), "[worker 1] ").run()
    return capsys.readouterr().out


class Drops(io.BytesIO):
    """A stream that comes byte by byte."""

    def read1(self, _):
        return super().read1(1)


@pytest.mark.parametrize(
    "data, expected",
    [
        ("", []),
        ("a\n\nb", ["a", "", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("1/2\r2/2\nend\n", ["2/2", "end"]),
        ("\b\r1/2\b\b\b\r2/2\n", ["2/2"]),
        ("1/2\r2/2\r", ["2/2"]),
        ("\u00fc\n\ud7ff\n", ["\u00fc", "\ud7ff"]),
    ],
)
def test_a_line_is_shown_in_its_last_state(data, expected, capsys):
    lines = "".join(f"[worker 1] {line}\n" for line in expected)
    assert read(data.encode(), capsys) == lines
    _output.Reader(Drops(data.encode()), "[worker 1] ").run()
    assert capsys.readouterr().out == lines


def test_what_is_no_utf_8_is_shown_too(capsys):
    assert read(b"a\xffb\n", capsys) == "[worker 1] a\ufffdb\n"


def test_of_keras_s_progress_bar_the_end_is_shown(capsys):
    bar = keras.utils.Progbar(300, interval=0)
    for step in range(300):
        bar.update(step + 1, [("loss", 0.5)])
    drawn = capsys.readouterr().out.encode()
    assert len(drawn) > 10_000 and drawn.count(b"\r") == 300
    out = read(drawn, capsys)
    assert out.startswith("[worker 1] ") and out.count("\n") == 1
    assert "300/300" in out and "loss: 0.5" in out
    assert "299/300" not in out and not set("\r\b") & set(out)


def test_a_bar_that_never_ends_its_line_takes_no_memory(capsys, monkeypatch):
    longest = []
    undrawn = _output._undrawn

    def measured(rest):
        longest.append(len(undrawn(rest)))
        return undrawn(rest)

    monkeypatch.setattr(_output, "_undrawn", measured)
    out = read(b"".join(b"\r%6d/100000" % i for i in range(100_000)), capsys)
    assert out == "[worker 1]  99999/100000\n" and max(longest) <= 14


def test_a_line_without_an_end_is_shown_in_pieces(capsys):
    length = 3 * _output.CHUNK_BYTES
    out = read(b"x" * length, capsys)
    assert out.count("x") == length
    assert max(map(len, out.split("\n"))) <= 2 * _output.CHUNK_BYTES + 20


def test_output_is_read_though_nobody_listens(monkeypatch):
    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    stream = io.BufferedReader(io.BytesIO(b"a\n" * 100_000))
    _output.Reader(stream, "").run()
    assert stream.closed


# --- Quiet, and in files


def test_quiet_shows_worker_0_and_the_end_of_what_fails(capfd, tmp_path):
    words = launched.command(
        tmp_path,
        "print(k, 'starts', flush=True)\n"
        "print('\\n' * _output_lines, end='')\n".replace(
            "_output_lines", str(2 * _output.LAST_LINES)
        )
        + "time.sleep(k == 2)\n"
        "if k == 1: raise KeyError('the cause')\n"
        "time.sleep(30)\n",
    )
    assert launch.launch(words, workers=3, quiet=True) == 1
    out = capfd.readouterr().out
    assert "0 starts" in out and "1 starts" not in out
    assert "[worker 1] KeyError: 'the cause'\n" in out
    assert "[worker 2]" not in out
    assert out.count("[worker 1] ") == _output.LAST_LINES


def test_each_worker_has_a_file_of_its_own(capfd, tmp_path):
    text = "\\r1/2\\b\\r2/2 \u00fc\\n"
    words = launched.command(
        tmp_path,
        f"print(k, start, flush=True)\nprint('{text}', end='')\n"
        "sys.stdout.flush()\nprint('err', file=sys.stderr)\n"
        "time.sleep(0.5)\nexit(1 - start if k == 0 else 0)\n",
    )
    for quiet, starts in ((False, 1), (True, 2)):
        code = launch.launch(
            words, 2, max_restarts=1, quiet=quiet, log_dir=tmp_path / "a" / "b"
        )
        assert code == 0
        out = capfd.readouterr().out
        assert "0 1\n\r1/2\b\r2/2 \u00fc\nerr\n" in out
        assert ("[worker 1] 2/2 \u00fc\n[worker 1] err" in out) != quiet
        for k in range(2):
            path = tmp_path / "a" / "b" / f"worker-{k}.log"
            expected = "".join(
                f"{k} {start}\n\r1/2\b\r2/2 \u00fc\nerr\n" for start in (0, 1)
            )
            assert path.read_bytes().decode() == expected * starts
