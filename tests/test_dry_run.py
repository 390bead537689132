"""The dry run: the kernel as a program on a small subset."""

import json
import os
import shutil
import signal
import subprocess
import time

from tests.project import PROJECT

QUICK = ("--steps", "2", "--preset", "report", "--set", "width=2", "--set", "log_every=1")


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


def test_a_mistake_that_the_kernel_names_is_one_line_and_exit_code_1(python, sample, tmp_path):
    done = dry_run(python, "--data", sample, "--out", tmp_path / "run", "--set", "holes=some")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "holes" in done.stderr and "random" in done.stderr


def test_a_setting_without_a_value_is_refused_before_anything_runs(python, sample, tmp_path):
    done = dry_run(python, "--data", sample, "--out", tmp_path / "run", "--set", "width")
    assert done.returncode == 1 and "name=value" in done.stderr
    assert not (tmp_path / "run").exists()


def test_mistakes_leave_what_the_last_run_made(python, sample, tmp_path):
    shutil.copytree(PROJECT / "kernel", tmp_path / "kernel")
    shutil.copy(PROJECT / "kernel-metadata.json", tmp_path)
    made = tmp_path / "runs" / "dry-run" / "run" / "generator.h5"
    made.parent.mkdir(parents=True)
    made.write_text("weights")
    (made.parent / "run.json").write_text("{}")
    for wrong in ("--set widht=3", "--data nowhere", "--data nowhere", "--set widht=3"):
        flags = ("--data", sample, *wrong.split())
        assert dry_run(python, *flags, folder=tmp_path).returncode == 1
    assert (tmp_path / "runs" / "dry-run" / "earlier" / "generator.h5").read_text() == "weights"


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
