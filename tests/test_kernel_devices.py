"""Several devices, and half precision: the results are those of one device."""

import subprocess

import numpy as np
import pytest
from conftest import PROJECT
from test_kernel_training import TINY, result_of, rows_of

TWO_DEVICES = """
import sys
sys.path.insert(0, {kernel!r})
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import pix2pix
pix2pix.main()
"""
FLAGS = ("--batch-size", 2, "--steps", 5, "--dropout", 0, "--jitter", 256, "--learning-rate", 1e-3)


@pytest.fixture
def run_on_two(python, sample):
    """Run the kernel in a process whose processor counts as two devices."""

    def run(out, *flags):
        code = TWO_DEVICES.format(kernel=str(PROJECT / "kernel"))
        words = [python, "-c", code, "--data", sample, "--out", out, "--distribute", "mirrored"]
        words += [*TINY, *flags]
        return subprocess.run([str(word) for word in words], capture_output=True, text=True)

    return run


@pytest.mark.parametrize(
    "preset",
    [
        ("--preset", "report", "--lambda-l1", 10, "--lambda-disc", 2),
        ("--preset", "best", "--width", 8, "--depth", 2, "--blocks", 1, "--warmup", 0),
    ],
)
def test_two_devices_give_the_losses_of_one(run_on_two, run_kernel, sample, tmp_path, preset):
    done = run_on_two(tmp_path / "two", *preset, *FLAGS, "--steps-per-call", 3, "--log-every", 2)
    assert done.returncode == 0, done.stderr
    assert "devices sharing a step: 2" in done.stdout
    code, out, error = run_kernel(
        "--data", sample, "--out", tmp_path / "one", *TINY, *preset, *FLAGS
    )
    assert (code, error) == (0, "")
    assert "devices sharing a step: 1" in out
    losses = [
        np.array([[float(row[kind]) for kind in ("gen", "l1", "l2")] for row in rows_of(folder)])
        for folder in (tmp_path / "two", tmp_path / "one")
    ]
    losses[1] = np.array([rows.mean(0) for rows in np.split(losses[1], [2, 4])])
    assert losses[0].shape == (3, 3)
    assert np.abs(losses[0] / np.maximum(losses[1], 1e-9) - 1).max() < 1e-4
    scores = [
        result_of(tmp_path / name)["metrics"]["hole_rmse"]["model"] for name in ("two", "one")
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_a_run_on_two_devices_goes_on_where_it_stopped(run_on_two, tmp_path):
    flags = ("--preset", "best", "--width", 8, "--depth", 1, "--blocks", 1, "--ensemble", 1)
    for steps in (2, 4):
        done = run_on_two(tmp_path, *flags, "--batch-size", 2, "--steps", steps)
        assert done.returncode == 0, done.stderr
    assert "resumed at step 2" in done.stdout
    assert [int(row["step"]) for row in rows_of(tmp_path)] == [1, 2, 3, 4]


def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(run_on_two, tmp_path):
    done = run_on_two(tmp_path, "--batch-size", 3)
    assert done.returncode == 1
    assert "batch_size = 3 does not divide by 2 devices" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_and_saves_networks_that_predict_the_same(
    run_kernel, pix2pix, sample, tmp_path, precision
):
    flags = ("--preset", "best", "--width", 8, "--depth", 2, "--blocks", 1, "--warmup", 0)
    code, out, error = run_kernel(
        *("--data", sample, "--out", tmp_path, *TINY, *flags, "--batch-size", 2, "--steps", 4),
        *("--precision", precision, "--ensemble", 1),
    )
    assert (code, error) == (0, "")
    assert f"precision: mixed_{precision}" in out
    result = result_of(tmp_path)
    assert 0.9 < result["metrics"]["ratio_to_harmonic"]["model"] < 1.1
    losses = [float(row["l2"]) for row in rows_of(tmp_path)]
    assert np.isfinite(losses).all()


def test_xla_gives_the_same_losses(run_kernel, sample, tmp_path):
    flags = ("--preset", "best", "--width", 8, "--depth", 2, "--blocks", 1, "--warmup", 0)
    for xla in ("on", "off"):
        code, _, error = run_kernel(
            *("--data", sample, "--out", tmp_path / xla, *TINY, *flags, "--batch-size", 2),
            *("--steps", 4, "--xla", xla, "--ensemble", 1),
        )
        assert (code, error) == (0, "")
    on, off = ([float(row["l2"]) for row in rows_of(tmp_path / name)] for name in ("on", "off"))
    assert np.allclose(on, off, rtol=1e-4)
