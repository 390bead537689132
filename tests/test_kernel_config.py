import json
import subprocess

import pytest

from tests.project import PROJECT


def test_settings_come_from_the_preset_then_overrides_then_the_command_line(run_kernel):
    overrides = {"preset": "report", "steps": 5, "width": 32}
    code, out, _ = run_kernel("--print-config", "--width", "16", overrides=overrides)
    shown = json.loads(out)
    assert code == 0
    assert shown["session"]["steps"] == 5
    assert (shown["run"]["width"], shown["run"]["batch_size"]) == (16, 1)


def test_every_setting_is_a_flag_with_its_doc_and_its_value(pix2pix, run_kernel):
    code, out, _ = run_kernel("--help")
    words = " ".join(out.split())
    assert code == 0
    for field in pix2pix.fields(pix2pix.Config):
        assert "--" + field.name.replace("_", "-") in words
        assert field.metadata["doc"].split(";")[0][:25] in words
    assert "(report: 1000.0, best: 0.0, perceptual: 1.0)" in words
    assert "(0.01; may change when a run goes on)" in words


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"lambda_L1": 1.0}, ["'lambda_L1'", "'lambda_l1'"]),
        ({"width": "64"}, ["width = '64'", "int"]),
        ({"width": True}, ["width = True", "int"]),
        ({"preset": "best", "width": 20}, ["width = 20", "patches of 4 px", "multiple of 8"]),
        ({"preset": "best", "width": 24, "patch": 2}, ["width = 24", "multiple of 16"]),
        ({"preset": "best", "jitter": 286}, ["jitter = 286", "with jpeg", "give jitter 256"]),
        ({"preset": "best", "jitter": 286, "jpeg": False}, ["jitter = 286", "hole_pairs 1"]),
        ({"preset": "best", "jitter": 286, "hole_pairs": 1}, ["jitter = 286", "no jpeg"]),
        ({"flip": 1}, ["flip = 1", "bool"]),
        ({"holes": "some"}, ["holes = 'some'", "csv, random"]),
        ({"depth": 11}, ["depth = 11", "at most 10"]),
        ({"batch_size": 0}, ["batch_size = 0", "at least 1"]),
        ({"learning_rate": float("nan")}, ["learning_rate = nan", "finite"]),
        ({"preset": "bets"}, ["preset = 'bets'", "report"]),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it_and_the_right_one(run_kernel, overrides, parts):
    code, out, error = run_kernel(overrides=overrides)
    assert code == 1
    assert error.startswith("error: ") and "\n" not in error.strip()
    assert all(part in error for part in parts), error
    assert out == ""


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--lambda_l1", "3"], ["--lambda_l1", "--lambda-l1"]),
        (["--stepz", "3"], ["--stepz", "--steps"]),
        (["--steps", "many"], ["--steps", "many"]),
        (["--holes", "some"], ["--holes", "random"]),
    ],
)
def test_a_wrong_flag_exits_2_with_one_line(run_kernel, flags, parts):
    code, _, error = run_kernel(*flags)
    assert code == 2
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(part in error for part in parts), error


def test_a_whole_number_does_for_a_real_one(pix2pix):
    assert pix2pix.make_config({"lambda_l1": 100}).lambda_l1 == 100.0


def test_there_is_exactly_one_line_to_render():
    lines = (PROJECT / "kernel" / "pix2pix.py").read_text().splitlines()
    assert [line for line in lines if line.startswith("OVERRIDES")] == [
        "OVERRIDES: dict[str, object] = {}"
    ]


def test_as_a_program_a_mistake_is_one_line_on_stderr_without_a_traceback(python, tmp_path):
    command = [python, PROJECT / "kernel" / "pix2pix.py", "--data", tmp_path / "none"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "out"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: no dataset under ")
