"""The dry run: the kernel as a program on a small subset."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from tests.failures import failed
from tests.project import PROJECT
from tools.local_run import kernel_script

QUICK = ("--steps", "2", "--preset", "report", "--set", "width=2", "--set", "log_every=1")

# It says when it has begun, and goes on at a word, at the other end of its input.
PATIENT = """
import json, os, pathlib, sys
given = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
out = pathlib.Path(given["out"])
out.mkdir(parents=True, exist_ok=True)
os.write(0, b"begun")
os.read(0, 1)
(out / "run.json").write_text(json.dumps({"status": "complete", "note": given["note"]}))
"""
INTERRUPTED = """
import os, signal
os.killpg(0, signal.SIGINT)
signal.pause()
"""


def dry_run(python, *arguments, folder=PROJECT):
    command = [python, "-m", "tools", "dry-run", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_it_prints_one_table_of_scores_and_where_everything_is(python, sample, tmp_path):
    done = dry_run(python, "--data", sample, "--out", tmp_path / "run", *QUICK)
    assert done.returncode == 0, done.stderr
    lines = [line.split("│") for line in done.stdout.splitlines() if "│" in line]
    scores = {cells[1].strip(): (float(cells[2]), float(cells[3])) for cells in lines}
    assert list(scores) == ["zeros", "mean colour", "harmonic fill", "trained model"]
    assert scores["harmonic fill"][1] == 1
    result = json.loads((tmp_path / "run" / "run.json").read_text())
    assert scores["zeros"][0] == round(result["metrics"]["hole_rmse"]["zeros"], 4)
    assert "135,000 rows" in done.stderr and "predictions.png" in done.stderr
    assert "step 2/2" in (tmp_path / "run.log").read_text()


def test_limit_and_json(python, sample, tmp_path):
    out = tmp_path / "run"
    done = dry_run(python, "--data", sample, "--out", out, "--limit", 3, "--json", *QUICK)
    result = json.loads(done.stdout)
    assert result["pictures"] == {"training": 8, "validation": 4, "test": 4}
    assert result["out"] == str(out)


def test_it_runs_the_script_that_a_push_would_send(tools, project):
    (project / "kernel" / "pix2pix.py").rename(project / "kernel" / "mine.py")
    metadata = project / "kernel-metadata.json"
    failed(1, tools("dry-run"), "kernel/pix2pix.py")
    metadata.write_text(metadata.read_text().replace("pix2pix.py", "mine.py"))
    assert kernel_script() == project / "kernel" / "mine.py"


def test_a_mistake_that_the_kernel_names_is_one_line_and_exit_code_1(python, sample, tmp_path):
    done = dry_run(python, "--data", sample, "--out", tmp_path / "run", "--set", "holes=some")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "holes" in done.stderr and "random" in done.stderr


def test_a_setting_without_a_value_is_refused_before_anything_runs(python, sample, tmp_path):
    done = dry_run(python, "--data", sample, "--out", tmp_path / "run", "--set", "width")
    assert done.returncode == 1 and "name=value" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.fixture
def earlier_run(project):
    """What the last dry run of the project left in the usual folder."""
    folder = project / "runs" / "dry-run" / "run"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"status": "complete"}')
    return folder


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [("width", "name=value"), ("data=/photos", "Give --data."), ("out=/tmp/run", "Give --out.")],
)
def test_a_setting_that_is_refused_leaves_the_last_run_in_its_place(
    tools, earlier_run, setting, remedy
):
    failed(1, tools("dry-run", "--data", "photos", "--set", setting), setting.split("=")[0], remedy)
    assert [path.name for path in earlier_run.parent.iterdir()] == ["run"]
    assert [path.name for path in earlier_run.iterdir()] == ["run.json"]


@pytest.mark.parametrize("where", [(), ("--out", "kept")])
def test_a_second_run_in_the_same_folder_waits_for_the_first(python, project, where):
    (project / "kernel" / "pix2pix.py").write_text(PATIENT)
    words = [python, "-m", "tools", "dry-run", "--data", "photos", "--json", *where, "--set"]
    ours, theirs = socket.socketpair()
    with ours:
        first = subprocess.Popen([*words, "note=first"], stdin=theirs, stdout=subprocess.PIPE)
        theirs.close()
        assert ours.recv(5) == b"begun"
        second = subprocess.Popen(
            [*words, "note=second"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr
        assert "another `tools dry-run` goes on in" in second.stderr.readline()
        ours.send(b"!")
    assert json.loads(first.communicate()[0])["note"] == "first"
    assert json.loads(second.communicate()[0])["note"] == "second"
    base = project / "runs" / "dry-run"
    runs = ["kept"] if where else [base / "run", base / "earlier"]
    notes = [json.loads((project / run / "run.json").read_text())["note"] for run in runs]
    assert notes == ["second", "first"][: len(runs)]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('print("no disk"); raise SystemExit(3)', "The kernel ended with code 3: no disk."),
        ("raise SystemExit(3)", "The kernel ended with code 3: no output."),
    ],
)
def test_a_log_is_added_to_and_an_earlier_part_of_it_is_not_taken_for_this_runs(
    tools, project, script, message
):
    (project / "kernel" / "pix2pix.py").write_text(script)
    log = project / "exp1.log"
    log.write_text("error: of yesterday\n")
    failed(4, tools("dry-run", "--data", "photos", "--out", "exp1"), message)
    said = "no disk\n" if "no disk" in script else ""
    assert log.read_text() == f"error: of yesterday\n{said}"
    assert tools("dry-run", "--data", "photos", "--out", "exp1").code == 4
    assert log.read_text() == f"error: of yesterday\n{said * 2}"


def test_ctrl_c_before_the_kernel_listens_is_no_failure_of_it(python, earlier_run, project):
    (project / "kernel" / "pix2pix.py").write_text(INTERRUPTED)
    command = [python, "-m", "tools", "dry-run", "--data", "photos", "--out", earlier_run]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert done.returncode == 130, done.stderr
    assert "error" not in done.stderr and "Traceback" not in done.stderr


def test_mistakes_leave_what_the_last_run_made(python, sample, tmp_path):
    shutil.copytree(PROJECT / "kernel", tmp_path / "kernel")
    shutil.copy(PROJECT / "kernel-metadata.json", tmp_path)
    made = tmp_path / "runs" / "dry-run" / "run" / "generator.h5"
    made.parent.mkdir(parents=True)
    made.write_text("weights")
    (made.parent / "run.json").write_text("{}")
    made.parent.with_suffix(".log").write_text("what it said")
    for wrong in ("--set widht=3", "--data nowhere", "--data nowhere", "--set widht=3"):
        flags = ("--data", sample, *wrong.split())
        assert dry_run(python, *flags, folder=tmp_path).returncode == 1
    earlier = tmp_path / "runs" / "dry-run" / "earlier"
    assert (earlier / "generator.h5").read_text() == "weights"
    assert earlier.with_suffix(".log").read_text() == "what it said"


def test_the_projects_settings_hold_from_a_folder_below(python, sample, tmp_path):
    shutil.copytree(PROJECT / "kernel", tmp_path / "kernel")
    shutil.copy(PROJECT / "kernel-metadata.json", tmp_path)
    (tmp_path / "tools.toml").write_text('channel_order = "rgb"\nvalue_scale = "minmax"\n')
    done = dry_run(python, "--data", sample, *QUICK, folder=tmp_path / "kernel")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "runs" / "dry-run" / "run" / "run.json").read_text())
    wrote = record["submission"]
    assert (wrote["channel_order"], wrote["value_scale"]) == ("rgb", "minmax")


def test_ctrl_c_lets_the_kernel_save_its_state(python, sample, tmp_path):
    words = ["--data", sample, "--out", tmp_path / "run", *QUICK, "--steps", "100000"]
    command = [python, "-m", "tools", "dry-run", *map(str, words)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=PROJECT, start_new_session=True
    ) as running:
        log, deadline = tmp_path / "run.log", time.monotonic() + 120
        while not (log.exists() and "step 2/" in log.read_text()):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)
        said = running.communicate()[1]
    assert running.returncode == 130, said
    assert "the kernel saves its state" in said and "Traceback" not in said
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "stopped" and record["step"] >= 2
    assert (tmp_path / "run" / "checkpoint.npz").is_file()
