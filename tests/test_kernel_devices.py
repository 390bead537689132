"""Several devices, and half precision: the results are those of one device."""

import json
import os
import signal
import subprocess
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from tests.kernel_runs import TINY, command, result_of, rows_of
from tests.ports import free_port
from tests.project import PROJECT

TWO_DEVICES = """
import sys
sys.path.insert(0, {kernel!r})
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import pix2pix
pix2pix.main()
"""
FLAGS = ("--batch-size", 2, "--steps", 5, "--dropout", 0, "--jitter", 256)
SMALL = ("--preset", "best", "--width", 8, "--patch", 8, "--depth", 2, "--blocks", 1)
SMALL += ("--warmup", 0, "--learning-rate", 1e-3)


@pytest.fixture
def run_on_two(python, sample):
    """Run the kernel in a process whose processor counts as two devices."""

    def run(out, *flags):
        code = TWO_DEVICES.format(kernel=str(PROJECT / "kernel"))
        words = [python, "-c", code, "--data", sample, "--out", out, "--distribute", "mirrored"]
        words += [*TINY, *flags]
        return subprocess.run([str(word) for word in words], capture_output=True, text=True)

    return run


@pytest.fixture
def run_on_one(python, sample):
    """Run the kernel in a process of its own, as ``run_on_two`` does."""

    def run(out, *flags):
        words = command(python, sample, out, *flags)
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize(
    "preset",
    [
        ("--preset", "report", "--lambda-l1", 10, "--lambda-disc", 2),
        SMALL,
        (*SMALL, "--xla", "on"),
    ],
)
def test_two_devices_give_the_losses_of_one(run_on_two, run_on_one, tmp_path, preset):
    done = run_on_two(tmp_path / "two", *preset, *FLAGS, "--steps-per-call", 3, "--log-every", 2)
    assert done.returncode == 0, done.stderr
    assert ("XLA compiles the gradients and the update" in done.stdout) is ("--xla" in preset)
    assert "devices sharing a step: 2" in done.stdout
    assert "devices sharing a step: 1" in run_on_one(tmp_path / "one", *preset, *FLAGS)
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


ON_GPUS = """
from tensorflow.python.distribute import mirrored_run, mirrored_strategy
mirrored_run._is_gpu_device = mirrored_strategy._is_gpu_device = lambda device: True
pix2pix.gpus = lambda: [{{}}, {{}}]
model = model_of(xla="on", precision={precision!r})
photo = tf.zeros([1, 256, 256, 3])
tf.function(model._train_step).get_concrete_function(photo, photo[..., :1], photo)
print(model.compiled)
"""
OVERFLOW = """
import numpy as np
for clip in (0.0, 1.0):
    for bad in (float("inf"), float("nan")):
        model = model_of(precision="float16", clip_norm=clip, warmup=0)
        optimizer = model.optimizers["generator"]
        variables = model.generator.trainable_variables
        def gradients(*batch):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            wrong = tf.where(tf.equal(replica, 1), bad, 1.0)
            return tf.zeros([5]), {"generator": [wrong * tf.ones(v.shape) for v in variables]}
        model._replica_gradients = gradients
        before = [v.numpy() for v in variables]
        scale = float(optimizer.dynamic_scale.numpy())
        tf.function(lambda: model.strategy.run(model._train_replica, (0, 0, 0)))()
        for old, variable in zip(before, variables):
            assert np.array_equal(old, variable.numpy()), (clip, bad, variable.path)
        assert float(optimizer.dynamic_scale.numpy()) == scale / 2
print("skipped")
"""
MODEL = """
def model_of(**settings):
    small = dict(preset="best", width=8, patch=32, depth=1, blocks=1, batch_size=2)
    config = pix2pix.make_config(small | settings)
    return pix2pix.Pix2Pix(config, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
"""


def on_two(python, code):
    """Run code in a process whose processor counts as two devices."""
    begin = TWO_DEVICES.format(kernel=str(PROJECT / "kernel")).replace("pix2pix.main()", "")
    done = subprocess.run([python, "-c", begin + MODEL + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_compiled_step_is_traced_as_on_two_gpus(python, precision):
    compiled = " ".join(on_two(python, ON_GPUS.format(precision=precision)))
    assert compiled == "the gradients and the update"


def test_an_overflow_on_one_of_two_devices_is_skipped_on_both(python):
    assert on_two(python, OVERFLOW) == ["skipped"]


def test_a_run_on_two_devices_goes_on_where_it_stopped(run_on_two, tmp_path):
    flags = ("--preset", "best", "--width", 8, "--patch", 8, "--depth", 1, "--blocks", 1)
    flags += ("--ensemble", 1)
    for steps in (2, 4):
        done = run_on_two(tmp_path, *flags, "--batch-size", 2, "--steps", steps)
        assert done.returncode == 0, done.stderr
    assert "resumed at step 2" in done.stdout
    assert [int(row["step"]) for row in rows_of(tmp_path)] == [1, 2, 3, 4]


# A cluster


@pytest.fixture
def start_cluster(python, sample, tmp_path):
    """Start two worker processes that share a training; each one's output goes to its log."""
    started = []

    def start(outs, *flags, data=(sample, sample)):
        addresses = [f"127.0.0.1:{port}" for port in (free_port(), free_port())]
        processes = []
        for index, out in enumerate(outs):
            task = {"type": "worker", "index": index}
            spec = json.dumps({"cluster": {"worker": addresses}, "task": task})
            log = tmp_path / f"worker{index}.log"
            process = subprocess.Popen(
                command(python, data[index], out, *flags),
                env=os.environ | {"TF_CONFIG": spec},
                stdout=log.open("w"),
                stderr=subprocess.STDOUT,
            )
            processes.append((process, log))
        started.extend(process for process, _ in processes)
        return processes

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(process, log, reached):
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_two_workers_give_the_losses_of_one_and_one_of_them_writes(
    start_cluster, run_on_one, tmp_path
):
    (first, log1), (second, log2) = start_cluster([tmp_path / "two"] * 2, *SMALL, *FLAGS)
    assert first.wait(300) == 0, log1.read_text()
    assert second.wait(60) == 0, log2.read_text()
    assert "devices sharing a step: 2" in log1.read_text()
    assert "complete" in log1.read_text() and "complete" not in log2.read_text()
    run_on_one(tmp_path / "one", *SMALL, *FLAGS)
    two, one = (
        np.array([[float(row[kind]) for kind in ("gen", "l2")] for row in rows_of(tmp_path / name)])
        for name in ("two", "one")
    )
    assert two.shape == (5, 2)
    assert np.abs(two / one - 1).max() < 1e-4
    scores = [
        result_of(tmp_path / name)["metrics"]["hole_rmse"]["model"] for name in ("two", "one")
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_workers_end_a_training_in_hours_together(start_cluster, tmp_path):
    flags = (*SMALL, "--batch-size", 2, "--hours", 0.003, "--log-every", 3, "--ensemble", 1)
    (first, log), (second, other) = start_cluster([tmp_path / "run"] * 2, *flags)
    assert first.wait(120) == 0, log.read_text()
    assert second.wait(60) == 0, other.read_text()
    assert result_of(tmp_path / "run")["status"] == "complete"


def test_when_a_worker_is_killed_the_other_says_so_and_a_restart_goes_on(start_cluster, tmp_path):
    flags = (*SMALL, "--batch-size", 2, "--checkpoint-every", 2, "--ensemble", 1)
    outs = [tmp_path / "run"] * 2
    (first, log), (second, _) = start_cluster(outs, *flags, "--steps", 100_000)
    wait_for(first, log, (tmp_path / "run" / "checkpoint.npz").exists)
    second.kill()
    assert first.wait(60) == 1
    last = log.read_text().splitlines()[-1]
    assert last.startswith("error: a worker of the cluster is gone")
    assert "start all of them again" in last
    with np.load(tmp_path / "run" / "checkpoint.npz") as arrays:
        reached = json.loads(arrays["about"].tobytes())["step"]
    (first, log), (second, _) = start_cluster(outs, *flags, "--steps", reached + 2)
    assert first.wait(300) == 0, log.read_text()
    assert second.wait(60) == 0
    assert f"resumed at step {reached}" in log.read_text()
    assert [int(row["step"]) for row in rows_of(tmp_path / "run")] == list(range(1, reached + 3))


def test_workers_that_share_no_folder_are_told_so(start_cluster, run_kernel, sample, tmp_path):
    flags = (*SMALL, "--batch-size", 2, "--ensemble", 1)
    there = tmp_path / "there"
    run_kernel("--data", sample, "--out", there, *TINY, *flags, "--steps", 1)
    (first, log), _ = start_cluster([there, tmp_path / "elsewhere"], *flags, "--steps", 2)
    assert first.wait(300) == 1
    assert f"different checkpoints: let them share --out {there}" in log.read_text()


def test_workers_that_find_different_photos_are_told_so(start_cluster, sample, dataset, tmp_path):
    for photo in list((dataset / "Training_Data/Cat/Unmasked_Train").glob("*.jpg"))[:3]:
        photo.write_bytes(b"no picture")  # at least one of them is not held out
    flags = (*SMALL, "--batch-size", 2, "--steps", 2, "--max-bad-fraction", 0.5)
    (first, log), _ = start_cluster([tmp_path / "run"] * 2, *flags, data=(sample, dataset))
    assert first.wait(300) == 1
    assert "the workers find different numbers of photos" in log.read_text()


def test_a_signal_to_one_worker_stops_both_with_everything_written(start_cluster, tmp_path):
    flags = (*SMALL, "--batch-size", 2, "--steps", 100_000, "--ensemble", 1)
    (first, log), (second, other) = start_cluster([tmp_path / "run"] * 2, *flags)
    wait_for(first, log, lambda: "step 2/" in log.read_text())
    second.send_signal(signal.SIGTERM)
    assert first.wait(120) == 0, log.read_text()
    assert second.wait(60) == 0, other.read_text()
    assert "by another worker" in log.read_text()
    assert result_of(tmp_path / "run")["status"] == "stopped"


TWO_WORKERS = '{"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}}'
TASK_0 = TWO_WORKERS[:-1] + ', "task": {"type": "worker", "index": 0}}'


@pytest.mark.parametrize(
    ("config", "flags", "reason"),
    [
        ("{", (), "TF_CONFIG is no JSON object"),
        ("[]", (), "TF_CONFIG is no JSON object"),
        ("{}", ("--distribute", "multiworker"), "TF_CONFIG names no other worker"),
        (TWO_WORKERS, (), "a task that is one of them"),
        (TWO_WORKERS[:-1] + ', "task": {"type": "worker", "index": 2}}', (), "a task that is one"),
        (TASK_0, ("--distribute", "none"), "TF_CONFIG names 2 workers, who would all write"),
        (TASK_0, ("--predictor", "harmonic"), "predictor = 'harmonic' takes one machine"),
    ],
)
def test_a_cluster_that_is_none_is_one_line(python, sample, tmp_path, config, flags, reason):
    done = subprocess.run(
        command(python, sample, tmp_path / "out", *flags),
        env=os.environ | {"TF_CONFIG": config},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert reason in done.stderr and done.stderr.count("\n") == 1


def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(run_on_two, tmp_path):
    done = run_on_two(tmp_path, "--batch-size", 3)
    assert done.returncode == 1
    assert "batch_size = 3 does not divide by 2 devices" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_and_saves_networks_that_predict_the_same(
    run_kernel, pix2pix, sample, tmp_path, precision
):
    code, out, error = run_kernel(
        *("--data", sample, "--out", tmp_path, *TINY, *SMALL, "--batch-size", 2, "--steps", 4),
        *("--precision", precision, "--ensemble", 1),
    )
    assert (code, error) == (0, "")
    assert f"precision: mixed_{precision}" in out
    result = result_of(tmp_path)
    assert 0.9 < result["metrics"]["ratio_to_harmonic"]["model"] < 1.1
    losses = [float(row["l2"]) for row in rows_of(tmp_path)]
    assert np.isfinite(losses).all()

    config = pix2pix.make_config(result["config"])
    model, test = pix2pix.Pix2Pix(config), pix2pix.load_dataset(config).test
    pix2pix.restore(tmp_path / "best.npz", model.variables(model.predicting))
    images = tf.constant(test.masked, tf.float32) / 255
    seen, mask = pix2pix.network_input(config, images, test.boxes)
    expected = model.forward(images, test.boxes).numpy()
    change = np.abs(expected - seen).max()  # untrained, the network leaves its input as it is
    assert change > 0.005
    for name in ("generator.h5", "generator.keras"):
        generator = keras.models.load_model(tmp_path / name, compile=False)
        output = generator([seen, mask], training=False).numpy()
        assert np.abs(output - expected).max() < change / 10


def test_xla_gives_the_same_losses(run_kernel, sample, tmp_path):
    for xla in ("on", "off"):
        code, _, error = run_kernel(
            *("--data", sample, "--out", tmp_path / xla, *TINY, *SMALL, "--batch-size", 2),
            *("--steps", 4, "--xla", xla, "--ensemble", 1),
        )
        assert (code, error) == (0, "")
    on, off = ([float(row["l2"]) for row in rows_of(tmp_path / name)] for name in ("on", "off"))
    assert np.allclose(on, off, rtol=1e-4)


@pytest.mark.parametrize(("first", "then"), [("float32", "float16"), ("float16", "float32")])
def test_a_run_goes_on_in_another_precision(run_kernel, sample, tmp_path, first, then):
    for steps, precision in ((2, first), (4, then)):
        code, out, error = run_kernel(
            *("--data", sample, "--out", tmp_path, *TINY, *SMALL, "--batch-size", 2),
            *("--steps", steps, "--precision", precision, "--ensemble", 1),
        )
        assert (code, error) == (0, "")
    assert "resumed at step 2" in out
    assert [int(row["step"]) for row in rows_of(tmp_path)] == [1, 2, 3, 4]


def has_gpu_kernel(operation):
    """Whether TensorFlow's build has a kernel for an operation of these types on a GPU."""
    types = operation.node_def.attr
    return any(
        kernel.device_type in ("GPU", "DEFAULT")
        and all(
            types[limit.name].type in limit.allowed_values.list.type
            for limit in kernel.constraint
            if limit.name in types and limit.allowed_values.list.type
        )
        for kernel in kernels.get_registered_kernels_for_op(operation.type).kernel
    )


@pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason="this build registers no GPU kernels")
@pytest.mark.parametrize("preset", ["report", "best"])
def test_every_operation_that_makes_an_example_has_a_kernel_on_a_gpu(pix2pix, sample, preset):
    config = pix2pix.make_config({"preset": preset, "data": str(sample)})
    photos = pix2pix.load_dataset(config).training
    drawn = next(iter(pix2pix.training_batches(config, photos, 0, 1)))
    one = {name: tf.TensorSpec([None, *x.shape[2:]], x.dtype) for name, x in drawn.items()}
    made = tf.function(lambda drawn: pix2pix.training_example(config, drawn))
    graph = made.get_concrete_function(one).graph
    branches = [graph._get_function(name).graph for name in graph._functions]
    found = [operation for each in (graph, *branches) for operation in each.get_operations()]
    assert len(found) > 100
    calls = {"Placeholder", "If", "StatelessIf", "While", "StatelessWhile"}
    missing = {op.type for op in found if op.type not in calls and not has_gpu_kernel(op)}
    assert missing == set()


def test_a_failure_of_xla_says_what_to_do_about_it(pix2pix):
    failure = tf.errors.InternalError(None, None, "libdevice not found at ./libdevice.10.bc")
    assert "--xla off" in pix2pix.in_one_line(failure)
