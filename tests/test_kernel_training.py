"""Networks, training, stopping and going on, and the run folder."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.kernel_runs import TINY, command, result_of, rows_of, step_of_noise
from tests.killing import kill_often
from tests.project import PROJECT

# Networks


def test_the_networks_have_the_reports_parameters(pix2pix):
    config = pix2pix.make_config({})
    counts = [
        pix2pix.parameters(network)
        for network in (pix2pix.build_generator(config), pix2pix.build_discriminator(config))
    ]
    assert counts == [
        "54,414,979 trainable and 10,880 non-trainable parameters",
        "2,768,641 trainable and 1,792 non-trainable parameters",
    ]


@pytest.mark.parametrize("preset", ["report", "perceptual"])
def test_no_two_layers_begin_with_the_same_numbers(pix2pix, preset):
    config = pix2pix.make_config({"preset": preset, "width": 8})
    for build in (pix2pix.build_generator, pix2pix.build_discriminator):
        weights = build(config).trainable_weights
        kernels = [w.numpy().ravel()[:8] for w in weights if len(w.shape) == 4 and w.numpy().any()]
        assert len(kernels) > 4
        assert len(np.unique(kernels, axis=0)) == len(kernels)


@pytest.mark.parametrize("depth", range(4, 11))
def test_every_depth_of_the_report_fills_a_picture(pix2pix, depth):
    generator = pix2pix.build_generator(pix2pix.make_config({"depth": depth, "width": 2}))
    names = [layer.name for layer in generator.layers]
    assert sum(name.endswith("_relu") and name.startswith("down") for name in names) == depth
    smallest = min(layer.output.shape[1] for layer in generator.layers[1:])
    assert smallest == max(1, 256 // 2**depth)
    assert generator(np.zeros((1, 256, 256, 3))).shape == (1, 256, 256, 3)
    assert sum(isinstance(layer, keras.layers.Dropout) for layer in generator.layers) == 3


def test_the_report_takes_81_gflop_an_image(pix2pix):
    """Or 87.4, if the generator's way back took the discriminator's weights too."""
    model = pix2pix.Pix2Pix(pix2pix.make_config({}))
    way = pix2pix.forward_flops(model.discriminator)
    assert pix2pix.training_flops(model) == pytest.approx(81.05e9, rel=1e-3)
    assert pix2pix.training_flops(model) + way == pytest.approx(87.4e9, rel=1e-3)


def test_a_profile_is_written_and_listed_and_training_is_the_same(run_kernel, sample, tmp_path):
    traced, plain = tmp_path / "traced", tmp_path / "plain"
    printed = {}
    for folder, flags in ((plain, ()), (traced, ("--profile", 2))):
        code, printed[folder], error = run_kernel(
            *("--data", sample, "--out", folder, *TINY, "--steps", 14, *flags)
        )
        assert (code, error) == (0, "")
    assert f"traced: tensorboard --logdir {traced / 'tensorboard'}" in printed[traced]
    names = [file["name"] for file in result_of(traced)["files"]]
    assert any(name.endswith(".xplane.pb") for name in names)
    expected, got = (
        np.array([[float(row[k]) for k in ("step", "gen", "gan", "l1", "disc")] for row in rows])
        for rows in map(rows_of, (plain, traced))
    )
    assert expected.shape == got.shape == (14, 5)
    assert np.allclose(got, expected, rtol=1e-3)


def test_the_discriminator_gives_30_by_30_logits(pix2pix):
    network = pix2pix.build_discriminator(pix2pix.make_config({"width": 2}))
    picture = np.zeros((1, 256, 256, 3))
    assert network([picture, picture]).shape == (1, 30, 30, 1)


BOTTLENECK = {f"{layer}/{weight}" for layer in ("down8", "up1") for weight in ("kernel",)} | {
    f"{layer}_norm/{weight}" for layer in ("down8", "up1") for weight in ("gamma", "beta")
}


@pytest.mark.parametrize(("batch", "dead"), [(1, BOTTLENECK), (2, set())])
def test_at_batch_1_the_bottleneck_learns_nothing_and_everything_else_does(pix2pix, batch, dead):
    """Batch norm of one value is its bias, 0; the ReLU after ``up1`` then never opens either."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = pix2pix.Pix2Pix(pix2pix.make_config({"width": 4, "dropout": 0.0}))
    seen, mask, target = step_of_noise(batch)
    variables = model.generator.trainable_variables
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.abs(target - model.generator(seen, training=True)))
        gradients = tape.gradient(loss, variables)
        still = {v.path for v, g in zip(variables, gradients, strict=True) if not g.numpy().any()}
        assert still == dead
        model.train_step(seen, mask, target)
    before = model.state("discriminator/")
    model.train_step(seen, mask, target)
    after = model.state("discriminator/")
    assert not [name for name in before if np.array_equal(before[name], after[name])]


def test_the_losses_are_the_reports(pix2pix):
    """Against the formulas written out in NumPy."""

    keras.utils.set_random_seed(0)
    settings = {"width": 2, "dropout": 0.0, "lambda_l1": 70.0, "lambda_disc": 30.0}
    model = pix2pix.Pix2Pix(pix2pix.make_config(settings))
    seen, mask, target = step_of_noise(1)
    output = model.generator(seen, training=True)
    real = model.discriminator([seen, target], training=True).numpy().astype(np.float64)
    fake = model.discriminator([seen, output], training=True).numpy().astype(np.float64)
    gan = np.mean(np.log1p(np.exp(-fake)))
    l1 = np.mean(np.abs(target.numpy() - output.numpy()))
    disc = np.mean(np.log1p(np.exp(-real))) + 30 * np.mean(np.log1p(np.exp(fake)))
    got = dict(zip(pix2pix.LOSSES, model.train_step(seen, mask, target).numpy(), strict=True))
    assert got["gan"] == pytest.approx(gan, rel=1e-4)
    assert got["l1"] == pytest.approx(l1, rel=1e-4)
    assert got["gen"] == pytest.approx(gan + 70 * l1, rel=1e-4)
    assert got["disc"] == pytest.approx(disc, rel=1e-4)


# A run and its folder


@pytest.fixture(scope="module")
def finished(pix2pix, sample, tmp_path_factory):
    """A finished run of six steps."""
    out = tmp_path_factory.mktemp("finished") / "run"
    settings = {"width": 2, "log_every": 1, "validation_per_class": 1, "noise": 0.0, "steps": 6}
    pix2pix.run(pix2pix.make_config(settings | {"data": str(sample), "out": str(out)}))
    return out


def test_a_finished_run_folder_is_complete_and_its_record_true(finished):
    result = result_of(finished)
    names = {record["name"] for record in result["files"]}
    assert names >= {
        *("generator.h5", "generator.keras", "discriminator.h5", "checkpoint.npz", "best.npz"),
        *("training_log.csv", "metrics.jsonl", "loss_curve.png", "predictions.png"),
        *("errors.csv", "errors.png", "submission.csv.gz"),
    }
    assert any(name.startswith("tensorboard/events") for name in names)
    on_disk = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    assert on_disk == names | {"run.json"}
    for record in result["files"]:
        content = (finished / record["name"]).read_bytes()
        assert len(content) == record["size"]
        assert hashlib.sha256(content).hexdigest() == record["sha256"]
    assert (result["status"], result["step"], result["steps"]) == ("complete", 6, 6)
    assert set(result["metrics"]["hole_rmse"]) == {"zeros", "mean", "harmonic", "model"}
    assert result["metrics"]["ratio_to_harmonic"]["harmonic"] == 1
    assert result["submission"]["rows"] == 4 * 33_750
    assert result["pictures"] == {"training": 16, "validation": 4, "test": 4}


def test_every_step_is_logged_at_its_number(finished):
    assert [int(row["step"]) for row in rows_of(finished)] == [1, 2, 3, 4, 5, 6]
    lines = [json.loads(x) for x in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if "gen" in x] == [1, 2, 3, 4, 5, 6]
    assert [x["step"] for x in lines if "validation_rmse" in x] == [0, 6]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(finished / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Tensors("gen")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in board.Tensors("predictions")] == [0, 6]


def test_the_saved_generators_predict_what_the_run_predicted(pix2pix, finished, sample):
    """In the published mode, with dropout: its seeds are fixed for a prediction."""
    config = pix2pix.make_config(result_of(finished)["config"])
    test = pix2pix.load_dataset(config).test
    model = pix2pix.Pix2Pix(config)
    pix2pix.restore(finished / "best.npz", model.variables("generator/"))
    filled = {}
    for name in ("checkpoint", "generator.h5", "generator.keras"):
        if name != "checkpoint":
            model.averaged = keras.models.load_model(finished / name, compile=False)
            model.forward = model._forward
        predicted = pix2pix.predict(pix2pix.filler("model", [model]), test)
        filled[name] = np.concatenate([composites for _, composites in predicted])
    for name in ("generator.h5", "generator.keras"):
        assert np.abs(filled[name] - filled["checkpoint"]).max() < 1e-5
    import gzip

    first = gzip.open(finished / "submission.csv.gz", "rt").read().splitlines()[1]
    top, left = test.boxes[0, 0]
    assert float(first.split(",")[1]) == pytest.approx(
        filled["checkpoint"][0, top, left, 2], abs=2e-5
    )


def test_a_prediction_depends_on_the_picture_alone_and_leaves_the_model_as_it_was(
    pix2pix, finished
):
    config = pix2pix.make_config(result_of(finished)["config"])
    model, test = pix2pix.Pix2Pix(config), pix2pix.load_dataset(config).test
    before = model.state()
    images, boxes = test.masked.astype(np.float32) / 255, test.boxes
    together = pix2pix.fill_with_model(model, images, boxes).numpy()
    alone = pix2pix.fill_with_model(model, images[2:3], boxes[2:3]).numpy()
    assert np.array_equal(together[2:3], alone)
    after = model.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_known_pixels_are_copied(pix2pix, finished):
    config = pix2pix.make_config(result_of(finished)["config"])
    test = pix2pix.load_dataset(config).test
    for predictor in ("zeros", "mean", "harmonic"):
        for part, filled in pix2pix.predict(pix2pix.filler(predictor), test):
            known = pix2pix.hole_mask(test.boxes[part]).numpy() == 0
            assert np.array_equal(
                np.where(known, filled, 0), np.where(known, test.masked[part] / np.float32(255), 0)
            )


def test_the_score_is_pooled_over_the_values_of_all_holes(pix2pix, finished):
    config = pix2pix.make_config(result_of(finished)["config"])
    held_out = pix2pix.load_dataset(config).validation
    squares = []
    for boxes, clean in zip(held_out.boxes, held_out.clean, strict=True):
        squares += [(clean[y : y + 75, x : x + 75] / 255.0) ** 2 for y, x in boxes]
    score = pix2pix.evaluate(pix2pix.filler("zeros"), held_out)
    assert score.rmse == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)


def test_a_fill_outside_the_range_of_pixels_is_cut_off(pix2pix, finished):
    """As rounding may make it, on a GPU more than on a CPU."""
    config = pix2pix.make_config(result_of(finished)["config"])
    test = pix2pix.load_dataset(config).test
    for outside, cut in ((-1e-3, 0), (1.001, 1)):
        fill = lambda images, boxes: tf.fill(images.shape, outside)  # noqa: B023, E731
        for part, filled in pix2pix.predict(fill, test):
            holes = pix2pix.hole_mask(test.boxes[part]).numpy()[..., 0] == 1
            assert np.all(filled[holes] == cut)


# Going on


def test_three_and_three_steps_are_six_in_a_row(run_kernel, sample, finished, tmp_path):
    for steps in (3, 6):
        code, _, error = run_kernel(*("--data", sample, "--out", tmp_path, *TINY, "--steps", steps))
        assert (code, error) == (0, "")
    losses = [
        np.array([[float(row[k]) for k in ("gen", "gan", "l1", "disc")] for row in rows_of(folder)])
        for folder in (finished, tmp_path)
    ]
    assert losses[0].shape == losses[1].shape == (6, 4)
    assert np.allclose(*losses, rtol=1e-4)
    with (
        np.load(finished / "checkpoint.npz") as whole,
        np.load(tmp_path / "checkpoint.npz") as parts,
    ):
        assert set(whole.files) == set(parts.files)
        for name in whole.files:
            if name != "about":
                assert np.allclose(whole[name], parts[name], rtol=1e-3, atol=1e-5), name


def test_a_new_version_goes_on_from_the_last_ones_output(run_kernel, sample, finished, tmp_path):
    code, out, error = run_kernel(
        *("--data", sample, "--out", tmp_path, "--resume-from", finished.parent, *TINY),
        *("--steps", 7),
    )
    assert (code, error) == (0, "")
    assert "resumed at step 6" in out
    assert [int(row["step"]) for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]


def test_of_several_runs_also_behind_links_the_one_of_the_most_steps_is_gone_on_with(
    pix2pix, tmp_path
):
    config = pix2pix.make_config({"resume_from": str(tmp_path / "earlier")})
    for name, step in (("a", 9), ("b", 12), ("c", 2)):
        about = {"step": step, "config": config.__dict__}
        pix2pix.save_arrays(tmp_path / "mounted" / name / "checkpoint.npz", {}, about)
    (tmp_path / "earlier").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "earlier" / name).symlink_to(tmp_path / "mounted" / name)
    out = pix2pix.open_run_folder(config)
    pix2pix.begin_session(out, pix2pix.run_to_adopt(config, out))
    assert pix2pix.read_record(out / "checkpoint.npz")["step"] == 12


def test_a_run_of_these_settings_goes_before_one_of_more_steps(pix2pix, tmp_path):
    ours = pix2pix.make_config({"preset": "perceptual", "resume_from": str(tmp_path)})
    theirs = pix2pix.make_config({"preset": "best"})
    for name, config, step in (("a", ours, 3), ("b", ours, 5), ("c", theirs, 12)):
        about = {"step": step, "config": config.__dict__}
        pix2pix.save_arrays(tmp_path / name / "checkpoint.npz", {}, about)
    pix2pix.save_arrays(tmp_path / "d" / "checkpoint.npz", {}, {"step": 99, "config": [1]})
    assert pix2pix.run_to_adopt(ours, tmp_path / "out").parent.name == "b"
    assert pix2pix.newest_checkpoint("start_from", str(tmp_path)).parent.name == "d"


def test_a_checkpoint_alone_validates_anew_and_exports_its_best(
    run_kernel, sample, finished, tmp_path
):
    (tmp_path / "kept").mkdir()
    shutil.copy(finished / "checkpoint.npz", tmp_path / "kept")
    flags = ("--data", sample, "--out", tmp_path / "out", "--resume-from", tmp_path / "kept", *TINY)
    code, out, error = run_kernel(*flags, "--steps", 6)
    assert (code, error) == (0, "")
    assert "validation at step 6" in out
    assert (tmp_path / "out" / "best.npz").exists()


def test_weights_that_validated_after_the_last_checkpoint_stay_the_best(
    pix2pix, run_kernel, sample, finished, tmp_path
):
    shutil.copy(finished / "checkpoint.npz", tmp_path)
    with np.load(finished / "best.npz") as arrays:
        weights = {name: arrays[name] for name in arrays if name != "about"}
    about = {"step": 4, "seconds": 1.0, "best_rmse": 1e-3}
    pix2pix.save_arrays(tmp_path / "best.npz", weights, about)
    code, out, error = run_kernel("--data", sample, "--out", tmp_path, *TINY, "--steps", 8)
    assert (code, error) == (0, "")
    assert "validation at step 8" in out
    assert pix2pix.read_record(tmp_path / "best.npz") == about


def test_weights_of_a_session_that_saved_no_checkpoint_are_nobodys(
    run_kernel, sample, finished, tmp_path
):
    shutil.copy(finished / "best.npz", tmp_path)
    code, _, error = run_kernel("--data", sample, "--out", tmp_path, *TINY, "--steps", 0)
    assert (code, error) == (0, "")
    assert not (tmp_path / "best.npz").exists()


def test_a_damaged_checkpoint_beside_a_whole_one_is_left_out(pix2pix, tmp_path, capsys):
    for name, step in (("a", 9), ("b", 12)):
        pix2pix.save_arrays(tmp_path / name / "checkpoint.npz", {}, {"step": step})
    for name, about in (("c", [12]), ("d", {"config": {}})):
        pix2pix.save_arrays(tmp_path / name / "checkpoint.npz", {}, about)
    damaged = tmp_path / "b" / "checkpoint.npz"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    found = pix2pix.newest_checkpoint("start_from", str(tmp_path))
    assert found == tmp_path / "a" / "checkpoint.npz"
    assert capsys.readouterr().out.count("left out:") == 3
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(pix2pix.UserError, match="no whole checkpoint"):
        pix2pix.newest_checkpoint("start_from", str(tmp_path))


def test_a_run_is_found_once_whatever_links_lead_to_it(pix2pix, tmp_path):
    pix2pix.save_arrays(tmp_path / "a" / "run" / "checkpoint.npz", {}, {"step": 1})
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a" / "run")
    assert len(pix2pix.checkpoints(str(tmp_path))) == 1


def test_what_a_killed_session_left_half_written_is_removed_and_nothing_else(
    run_kernel, sample, finished, tmp_path
):
    out = shutil.copytree(finished, tmp_path / "out")
    half = [out / ".4711.checkpoint.npz", out / ".4711.run.json"]
    own = out / ".2026.notes.txt"
    for path in (*half, own):
        path.write_text("mine")
    code, _, error = run_kernel("--data", sample, "--out", out, *TINY, "--steps", 6)
    assert (code, error) == (0, "")
    assert not any(path.exists() for path in half) and own.read_text() == "mine"


def test_the_record_of_a_finished_run_outlives_a_mistake(run_kernel, finished, sample, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    code, _, error = run_kernel("--data", tmp_path / "nowhere", "--out", out, *TINY, "--steps", 6)
    assert code == 1 and "nowhere" in error
    assert result_of(out) == result_of(finished)


def test_log_lines_that_were_cut_off_are_left_out(run_kernel, sample, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    for name in ("training_log.csv", "metrics.jsonl"):
        text = (out / name).read_text()
        (out / name).write_text(text + text.splitlines()[-1][:9])
    code, _, error = run_kernel("--data", sample, "--out", out, *TINY, "--steps", 7)
    assert (code, error) == (0, "")
    assert [int(row["step"]) for row in rows_of(out)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(python, sample, tmp_path):
    script = PROJECT / "kernel" / "pix2pix.py"
    left = kill_often(python, script, sample, tmp_path, kills=3, steps=80)
    assert left.checkpoints[-1] > 0
    assert left.whole(80), left


def test_a_run_gives_the_signals_back(run_kernel, sample, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run_kernel("--data", sample, "--out", tmp_path, "--predictor", "zeros")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_sigterm_ends_a_run_with_its_outputs_complete(python, sample, tmp_path):
    with subprocess.Popen(
        command(python, sample, tmp_path, "--steps", "100000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as kernel:
        told = answered = False
        for line in kernel.stdout:
            if line.startswith("step 2/") and not told:
                kernel.send_signal(signal.SIGTERM)
                told = True
            answered |= "SIGTERM: saving and predicting; once more ends at once" in line
    assert kernel.returncode == 0 and answered
    result = result_of(tmp_path)
    assert result["status"] == "stopped" and 2 <= result["step"] < 100000
    assert (tmp_path / "submission.csv.gz").exists()
    assert int(rows_of(tmp_path)[-1]["step"]) == result["step"]


def test_ctrl_c_after_training_ends_a_run_at_once_and_it_can_be_gone_on_with(
    python, sample, tmp_path
):
    words = command(python, sample, tmp_path, "--steps", "2")
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as kernel:
        printed = []
        for line in kernel.stdout:
            printed.append(line)
            if line.startswith("predicting the test pictures"):
                kernel.send_signal(signal.SIGINT)
    assert kernel.returncode == 130
    assert not [line for line in printed if "Traceback" in line]
    assert not (tmp_path / "run.json").exists()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    assert result_of(tmp_path)["status"] == "complete"


def test_a_spent_time_budget_ends_a_run_with_its_outputs_complete(run_kernel, sample, tmp_path):
    code, out, _ = run_kernel(
        *("--data", sample, "--out", tmp_path, *TINY, "--time-budget", "0.0001")
    )
    assert code == 0 and "by time budget" in out
    result = result_of(tmp_path)
    assert result["status"] == "stopped"
    assert {"generator.h5", "submission.csv.gz"} <= {record["name"] for record in result["files"]}


def test_a_training_in_hours_ends_with_them_is_then_done_and_goes_on_with_more(
    run_kernel, sample, tmp_path
):
    hours = 0.005
    small = (*TINY, "--generator", "blocks", "--width", 8, "--depth", 2, "--blocks", 1)
    small += ("--lambda-gan", 0, "--schedule", "trapezoid", "--steps", 0)
    small += ("--log-every", 50, "--steps-per-call", 3)
    flags = ("--data", sample, "--out", tmp_path, *small)
    assert run_kernel(*flags, "--hours", hours)[0] == 0
    first = result_of(tmp_path)
    assert first["status"] == "complete"
    assert first["step"] == first["steps"] == int(rows_of(tmp_path)[-1]["step"])
    assert first["training_seconds"] > 0.9 * hours * 3600

    code, out, _ = run_kernel(*flags, "--hours", hours)
    assert code == 0 and f"resumed at step {first['step']}" in out
    assert result_of(tmp_path)["step"] == first["step"]

    assert run_kernel(*flags, "--hours", 1.5 * hours)[0] == 0
    more = result_of(tmp_path)
    assert more["status"] == "complete" and more["step"] > first["step"]


@pytest.mark.parametrize(("hours", "kept"), [(0.5, 180), (8.5, 600)])
def test_training_leaves_a_tenth_of_the_time_at_most_ten_minutes_for_the_outputs(
    pix2pix, hours, kept
):
    stop = pix2pix.Stop(pix2pix.make_config({"time_budget": hours}), time.monotonic())
    left = stop.deadline - time.monotonic()
    assert left == pytest.approx(hours * 3600 - kept, abs=10)


# What goes wrong


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(run_kernel, sample, tmp_path):
    code, _, error = run_kernel(
        *("--data", sample, "--out", tmp_path, *TINY, "--steps", 40, "--log-every", 10),
        *("--learning-rate", "1e30", "--checkpoint-every", 10),
    )
    assert code == 1
    assert "step 2 are not finite" in error or "step 3 are not finite" in error, error
    assert not (tmp_path / "checkpoint.npz").exists()


def test_weights_that_are_not_finite_are_not_saved(run_kernel, sample, tmp_path):
    code, _, error = run_kernel(
        *("--data", sample, "--out", tmp_path, *TINY, "--steps", 1, "--learning-rate", "1e39")
    )
    assert code == 1
    assert "the weights after step 1 are not finite" in error and "learning_rate" in error
    assert not (tmp_path / "checkpoint.npz").exists()


def test_a_fill_that_is_not_finite_is_not_submitted(pix2pix, sample, tmp_path):
    test = pix2pix.load_dataset(pix2pix.make_config({"data": str(sample)})).test
    filled = np.full((len(test.photos), 256, 256, 3), np.nan, np.float32)
    composites = [(slice(0, len(filled)), filled)]
    path = tmp_path / "submission.csv.gz"
    with pytest.raises(pix2pix.UserError, match=rf"fill of {test.photos[0].name} is not finite"):
        pix2pix.write_submission(pix2pix.make_config({}), path, test, composites)
    assert not list(tmp_path.iterdir())


def test_a_run_of_other_settings_is_not_gone_on_with(run_kernel, finished, sample, tmp_path):
    flags = ("--data", sample, "--out", tmp_path / "out", *TINY, "--resume-from", finished)
    code, _, error = run_kernel(*flags, "--width", 3)
    assert code == 1
    assert f"{finished / 'checkpoint.npz'} is of a run with width = 2, not 3" in error
    assert not list((tmp_path / "out").iterdir())


def test_a_run_from_before_a_setting_came_is_gone_on_with(
    pix2pix, run_kernel, finished, sample, tmp_path
):
    out = shutil.copytree(finished, tmp_path / "out")
    with np.load(out / "checkpoint.npz") as arrays:
        about = json.loads(arrays["about"].tobytes())
        del about["config"]["jpeg"], about["config"]["start_from"]
        kept = {name: arrays[name] for name in arrays.files if name != "about"}
    pix2pix.save_arrays(out / "checkpoint.npz", kept, about)
    code, printed, error = run_kernel("--data", sample, "--out", out, *TINY, "--steps", 7)
    assert (code, error) == (0, "")
    assert "resumed at step 6" in printed
    assert pix2pix.earlier_run(out / "checkpoint.npz")[0].jpeg is False


def test_a_record_of_another_program_is_named(run_kernel, sample, tmp_path):
    for text in ('{"a": 1}', "[]", "no JSON"):
        (tmp_path / "run.json").write_text(text)
        code, _, error = run_kernel("--data", sample, "--out", tmp_path, *TINY)
        assert code == 1 and "run.json is not the record of a run of this script" in error
        assert (tmp_path / "run.json").read_text() == text


def test_the_folder_of_another_run_is_refused(run_kernel, finished, sample):
    before = result_of(finished)
    code, _, error = run_kernel("--data", sample, "--out", finished, *TINY, "--width", 3)
    assert code == 1
    assert "is of a run with width = 2, not 3" in error and str(finished) in error
    assert result_of(finished) == before


def test_a_run_folder_in_a_bucket_is_refused(run_kernel, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = run_kernel("--data", sample, "--out", "gs://team/run", *TINY)
    assert code == 1 and "out = gs://team/run: give a folder" in error
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_required_and_not_there_stops_the_run(run_kernel, sample, tmp_path):
    code, _, error = run_kernel("--data", sample, "--out", tmp_path, "--require-gpu")
    assert code == 1 and "require_gpu" in error


def test_a_damaged_checkpoint_is_named(run_kernel, sample, tmp_path):
    (tmp_path / "checkpoint.npz").write_bytes(b"PK\x03\x04 cut off")
    code, _, error = run_kernel("--data", sample, "--out", tmp_path, *TINY)
    assert code == 1 and "checkpoint.npz is no whole checkpoint" in error


def test_a_checkpoint_with_a_flipped_bit_is_named(run_kernel, sample, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    data = bytearray((out / "checkpoint.npz").read_bytes())
    data[len(data) // 2] ^= 1
    for damaged in (data, b"", bytes(1000), b"<html>"):
        (out / "checkpoint.npz").write_bytes(damaged)
        code, _, error = run_kernel("--data", sample, "--out", out, *TINY, "--steps", 7)
        assert code == 1 and "checkpoint.npz is no whole checkpoint" in error


def test_a_full_disk_leaves_the_last_checkpoint_whole(python, pix2pix, sample, finished, tmp_path):
    """A limit on the size of a file stands for the disk: the kernel sees the same failed write."""
    out = shutil.copytree(finished, tmp_path / "out")
    before = (out / "checkpoint.npz").read_bytes()
    limit = len(before) // 2
    done = subprocess.run(
        command(python, sample, out, "--steps", "8"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and "could not be written" in done.stderr
    assert (out / "checkpoint.npz").read_bytes() == before
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


def test_ten_steps_have_the_losses_of_a_plain_transcription_of_the_recipe(pix2pix):
    import tensorflow as tf
    from tutorial import Tutorial

    keras.utils.set_random_seed(1)
    model = pix2pix.Pix2Pix(pix2pix.make_config({"width": 8, "dropout": 0.0}))
    plain = Tutorial(width=8, dropout=0)
    plain.generator.set_weights(model.generator.get_weights())
    plain.discriminator.set_weights(model.discriminator.get_weights())
    rng = np.random.default_rng(0)
    for step in range(10):
        target = tf.constant(rng.uniform(-1, 1, (1, 256, 256, 3)), tf.float32)
        _, mask, _ = step_of_noise(1)
        seen = target * (1 - mask) - mask
        ours = dict(zip(pix2pix.LOSSES, model.train_step(seen, mask, target).numpy(), strict=True))
        theirs = dict(
            zip(("gen", "gan", "l1", "disc"), plain.train_step(seen, target), strict=True)
        )
        for name, value in theirs.items():
            rounding = 1e-6 * 3**step  # each step enlarges what the one before has left
            assert ours[name] == pytest.approx(float(value), rel=rounding), (name, step)
