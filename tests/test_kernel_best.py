"""Preset ``best``: what makes it better than the report's recipe, each part for itself."""

import csv
import json
import shutil

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.kernel_runs import step_of_noise

TINY = ("--preset", "best", "--width", 8, "--blocks", 1, "--batch-size", 2, "--log-every", 1)


def small(pix2pix, **settings):
    tiny = {"preset": "best", "width": 8, "blocks": 1, "patch": 8, "depth": 2}
    tiny |= {"batch_size": 2, "steps": 10}
    tiny["rate_batch"] = 0  # learning rates as they are given
    return pix2pix.make_config(tiny | settings)


@pytest.fixture
def validation(pix2pix, sample):
    config = pix2pix.make_config({"data": str(sample), "validation_per_class": 1})
    return pix2pix.load_dataset(config).validation


@pytest.mark.parametrize("generator", ["blocks", "pix2pix"])
def test_step_0_scores_exactly_what_the_harmonic_fill_scores(pix2pix, validation, generator):
    depth = 4 if generator == "pix2pix" else 2
    model = pix2pix.Pix2Pix(small(pix2pix, generator=generator, depth=depth))
    ours = pix2pix.evaluate(pix2pix.filler("model", [model]), validation).rmse
    harmonic = pix2pix.evaluate(pix2pix.filler("harmonic"), validation).rmse
    assert ours == pytest.approx(harmonic, rel=1e-6)


def test_a_step_changes_the_last_layer_and_later_every_layer(pix2pix):
    keras.utils.set_random_seed(0)
    model = pix2pix.Pix2Pix(small(pix2pix, warmup=0))
    before = model.state("generator/")
    for _ in range(4):
        model.train_step(*step_of_noise(2))
    after = model.state("generator/")
    assert not [name for name in before if np.array_equal(before[name], after[name])]


def test_errors_outside_the_holes_do_not_count(pix2pix):
    seen, mask, target = step_of_noise(2)
    same = target * mask + seen * (1 - mask)
    elsewhere = same + (1 - mask) * 0.3
    losses = []
    for goal in (same, elsewhere):
        model = pix2pix.Pix2Pix(small(pix2pix, hole_pairs=1))
        losses.append(model.train_step(seen, mask, goal).numpy())
    assert np.array_equal(*losses)
    wanted = np.sum(((target - seen) * mask).numpy() ** 2, dtype=np.float64) / (2 * 2 * 5625 * 3)
    assert losses[0][pix2pix.LOSSES.index("l2")] == pytest.approx(wanted, rel=1e-5)


def test_the_losses_over_two_pairs_of_holes_are_means_over_the_values_of_all_four(pix2pix):
    boxes = np.array([[(0, 0), (10, 100), (100, 5), (181, 181)]] * 2, np.int32)
    seen, _, target = step_of_noise(2)
    model = pix2pix.Pix2Pix(small(pix2pix, hole_pairs=2, holes="random"))
    got = model.train_step(seen, pix2pix.hole_mask(boxes), target).numpy()
    got = dict(zip(pix2pix.LOSSES, got, strict=True))
    difference = (target - seen).numpy().astype(np.float64)  # step 0 leaves its input as it is
    cut = [
        picture[top : top + 75, left : left + 75]
        for picture, corners in zip(difference, boxes, strict=True)
        for top, left in corners
    ]
    assert got["l1"] == pytest.approx(np.mean(np.abs(cut)), rel=1e-5)
    assert got["l2"] == pytest.approx(np.mean(np.square(cut)), rel=1e-5)


def test_a_gradient_longer_than_clip_norm_is_scaled_to_it_and_a_shorter_one_is_left(pix2pix):
    weights = []
    for clip_norm, first_norm in ((1.0, 10.0), (0.0, 1.0)):
        keras.utils.set_random_seed(0)
        settings = {"optimizer": "adam", "schedule": "constant", "warmup": 0}
        model = pix2pix.Pix2Pix(small(pix2pix, clip_norm=clip_norm, **settings))
        variables, rng = model.generator.trainable_variables, np.random.default_rng(0)
        # Adam takes no notice of the length of a first gradient, only of what follows beside it.
        for norm in (first_norm, 0.5):
            drawn = [rng.normal(size=v.shape).astype(np.float32) for v in variables]
            length = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in drawn))
            gradients = [tf.constant(g * np.float32(norm / length)) for g in drawn]
            model.optimizers["generator"].apply(gradients, variables)
        weights.append(model.generator.get_weights())
    for clipped, scaled in zip(*weights, strict=True):
        assert np.allclose(clipped, scaled, atol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0, 1, 2, 2, 2]),
        ("trapezoid", [0, 1, 2, 2, 0]),
        ("cosine", [0, 1, 2, 1, 0]),
    ],
)
def test_the_rate_rises_from_0_and_then_stays_or_falls_to_0(pix2pix, schedule, rates):
    settings = {"schedule": schedule, "warmup": 10, "steps": 50, "learning_rate": 2.0}
    optimizer = pix2pix.Pix2Pix(small(pix2pix, **settings)).optimizers["generator"]
    for step, rate in zip((0, 5, 10, 30, 50), rates, strict=True):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate)


def test_the_rate_falls_to_0_where_the_end_has_moved_to(pix2pix):
    settings = {"schedule": "trapezoid", "warmup": 0, "hours": 1.0, "learning_rate": 2.0}
    model = pix2pix.Pix2Pix(small(pix2pix, **settings))
    optimizer = model.optimizers["generator"]
    for end, step, rate in ((pix2pix.UNPLANNED, 90, 2), (100, 85, 1), (200, 85, 2), (200, 200, 0)):
        model.end.assign(end)
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate)


@pytest.fixture
def half(pix2pix):
    """A model in float16; the policy is put back."""
    yield pix2pix.Pix2Pix(small(pix2pix, precision="float16", ema=0.9))
    keras.config.set_dtype_policy("float32")


def test_a_network_that_was_trained_in_half_precision_computes_in_float32_elsewhere(
    pix2pix, half, tmp_path
):
    pix2pix.save_networks(half, tmp_path)
    assert keras.config.dtype_policy().name == "mixed_float16"
    keras.config.set_dtype_policy("float32")  # as it is where somebody loads them
    for name in ("generator.h5", "generator.keras"):
        loaded = keras.models.load_model(tmp_path / name, compile=False)
        assert {layer.compute_dtype for layer in loaded._flatten_layers()} == {"float32"}
        weights = zip(loaded.get_weights(), half.averaged.get_weights(), strict=True)
        assert all(np.array_equal(*pair) for pair in weights)


def test_averaged_weights_predict_in_float32_whatever_they_were_trained_in(
    pix2pix, half, validation
):
    images = tf.constant(validation.masked[:1], tf.float32) / 255
    boxes = tf.constant(validation.boxes[:1])
    for variable in half.generator.weights + half.averaged.weights:
        variable.assign(tf.random.stateless_normal(variable.shape, [1, 2], 0, 0.2))
    trained = half.generator.get_weights()
    filled = pix2pix.fill_with_model(half, images, boxes).numpy()
    whole = pix2pix.Pix2Pix(small(pix2pix, ema=0.9))
    whole.averaged.set_weights(trained)
    assert np.array_equal(pix2pix.fill_with_model(whole, images, boxes).numpy(), filled)
    seen = pix2pix.network_input(half.config, images, boxes)
    assert not np.array_equal(half.generator(list(seen)), half.averaged(list(seen)))


def test_what_to_do_about_a_training_that_diverged_in_float16(pix2pix, half, tmp_path):
    checkpoint = tmp_path / "checkpoint.npz"
    assert "start anew with a lower learning_rate" in str(pix2pix.diverged("x", checkpoint))
    checkpoint.touch()
    assert f"go on from {checkpoint} with --precision float32" in str(
        pix2pix.diverged("x", checkpoint)
    )


def test_an_image_without_what_xla_takes_trains_without_it(pix2pix, monkeypatch, capsys):
    assert pix2pix.xla_works()
    pix2pix.xla_works.cache_clear()

    def fail(*_, **__):
        raise tf.errors.InternalError(None, None, "libdevice not found at ./libdevice.10.bc\nmore")

    monkeypatch.setattr(tf, "function", lambda *_, **__: fail)
    assert not pix2pix.xla_works()
    pix2pix.xla_works.cache_clear()
    told = "XLA does not work here (libdevice not found at ./libdevice.10.bc): going on without it"
    assert capsys.readouterr().out.strip() == told


def test_a_prediction_does_not_depend_on_the_rest_of_its_batch(pix2pix, validation):
    model = pix2pix.Pix2Pix(small(pix2pix))
    for _ in range(3):
        model.train_step(*step_of_noise(2))
    images, boxes = validation.masked.astype(np.float32) / 255, validation.boxes
    together = pix2pix.fill_with_model(model, images, boxes).numpy()
    alone = pix2pix.fill_with_model(model, images[1:2], boxes[1:2]).numpy()
    assert np.abs(together[1:2] - alone).max() < 1e-5


@pytest.mark.parametrize("symmetry", [(1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 1)])
def test_the_ensemble_of_8_turns_its_prediction_with_the_picture(pix2pix, validation, symmetry):
    model = pix2pix.Pix2Pix(small(pix2pix, ensemble=8, ema=0.0, warmup=0, learning_rate=1e-2))
    for _ in range(5):
        model.train_step(*step_of_noise(2))
    images, boxes = validation.masked[:1].astype(np.float32) / 255, validation.boxes[:1]
    turn = np.array([symmetry], bool)
    plain = pix2pix.fill_with_model(model, images, boxes)
    turned, moved = pix2pix.apply_symmetry(images, boxes, turn)
    filled = pix2pix.fill_with_model(model, turned, moved)
    expected, _ = pix2pix.apply_symmetry(plain, boxes, turn)
    mask = pix2pix.hole_mask(moved)
    change = np.abs((plain - pix2pix.harmonic_fill(images, boxes)) * pix2pix.hole_mask(boxes))
    assert change.max() > 1e-3
    assert np.abs((filled - expected) * mask).max() < 1e-4


@pytest.mark.parametrize("symmetry", [(t, r, c) for t in (0, 1) for r in (0, 1) for c in (0, 1)])
def test_the_inverse_of_a_symmetry_undoes_it(pix2pix, symmetry):
    picture = np.arange(256 * 256 * 3, dtype=np.float32).reshape(1, 256, 256, 3)
    boxes = np.array([[(3, 90), (100, 181)]], np.int32)
    there = pix2pix.apply_symmetry(picture, boxes, np.array([symmetry], bool))
    back = np.array([pix2pix.inverse(symmetry)], bool)
    restored, moved = pix2pix.apply_symmetry(*there, back)
    assert np.array_equal(restored, picture) and np.array_equal(moved, boxes)


def test_averaged_weights_follow_and_are_what_predicts(pix2pix):
    model = pix2pix.Pix2Pix(small(pix2pix, ema=0.9, warmup=0, learning_rate=1e-2))
    assert model.state("averaged/").keys()
    weights = [model.generator.get_weights()]
    mean = [w.copy() for w in weights[0]]
    for step in range(1, 4):
        model.train_step(*step_of_noise(2))
        keep = min(0.9, (1 + step) / (10 + step))
        last = model.generator.get_weights()
        mean = [keep * m + (1 - keep) * w for m, w in zip(mean, last, strict=True)]
    for got, expected in zip(model.averaged.get_weights(), mean, strict=True):
        assert np.allclose(got, expected, atol=1e-6)
    assert model.predicting == "averaged/"


@pytest.mark.parametrize("shape", [(40, 200), (200, 40), (64, 64)])
def test_a_matrix_is_made_orthogonal_in_its_own_directions(pix2pix, shape):
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ pix2pix.orthogonal(tf.constant(matrix)).numpy() @ right.T
    values = np.diag(inside)[:-1]  # the least of a square matrix is too near 0
    assert values.min() > 0.65 and values.max() < 1.25
    assert np.abs(inside - np.diag(np.diag(inside))).max() < 0.01


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_muon_moves_a_matrix_as_keras_moves_it(pix2pix, shape):
    rng = np.random.default_rng(0)
    start = rng.normal(size=shape).astype(np.float32)
    gradients = [rng.normal(size=shape).astype(np.float32) for _ in range(6)]
    moved = []
    for optimizer in (
        pix2pix.Muon(1e-2),
        keras.optimizers.Muon(1e-2, weight_decay=None, adam_weight_decay=None),
    ):
        variable = keras.Variable(start)
        optimizer.build([variable])
        for gradient in gradients:
            optimizer.apply([tf.constant(gradient)], [variable])
        moved.append(variable.numpy())
    assert np.abs(moved[0] - moved[1]).max() < 1e-4
    assert np.abs(moved[0] - start).max() > 0.01


def test_muon_takes_a_convolution_as_a_matrix_and_leaves_pixels_and_biases_to_adam(pix2pix):
    rng = np.random.default_rng(0)
    shapes = {"inner": (3, 3, 8, 16), "pixels": (8, 8, 3, 16), "bias": (16,)}
    gradients = [rng.normal(size=shape).astype(np.float32) for shape in shapes.values()]
    moved = {}
    for kind in (pix2pix.Muon, pix2pix.FusedAdam):
        variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in shapes.values()]
        optimizer = kind(1e-2)
        optimizer.build(variables)
        optimizer.apply(list(map(tf.constant, gradients)), variables)
        moved[kind] = dict(zip(shapes, (v.numpy() for v in variables), strict=True))
        if kind is pix2pix.Muon:  # five steps of a 72 x 16 matrix; twice 2 products and a square
            assert optimizer.flops() == 5 * 2 * (2 * 16 * 16 * 72 + 16**3)
    ours, adams = moved.values()
    assert np.array_equal(ours["pixels"], adams["pixels"])
    assert np.array_equal(ours["bias"], adams["bias"])
    step = np.linalg.svd(ours["inner"].reshape(72, 16), compute_uv=False) / 1e-2
    assert np.all(np.abs(step / (0.2 * 72**0.5) - 0.95) < 0.3)


def test_the_perceptual_preset_trains_a_discriminator_on_composites(pix2pix):
    settings = {"preset": "perceptual", "width": 8, "patch": 16, "depth": 1, "blocks": 1}
    model = pix2pix.Pix2Pix(pix2pix.make_config(settings | {"steps": 3, "warmup": 0}))
    gen, gan, l1, l2, disc = model.train_step(*step_of_noise(2)).numpy()
    config = model.config
    weighted = config.lambda_gan * gan + config.lambda_l1 * l1 + config.lambda_l2 * l2
    assert gen == pytest.approx(weighted, rel=1e-5)
    assert min(gan, l1, l2, disc) > 0


def test_a_patch_that_does_not_tile_the_picture_is_refused(run_kernel):
    code, _, error = run_kernel("--preset", "best", "--patch", 7)
    assert code == 1 and "patch = 7" in error
    code, _, error = run_kernel("--preset", "best", "--patch", 32, "--depth", 5)
    assert code == 1 and "depth = 5" in error


def test_a_run_of_best_is_analysed_and_loads_again(run_kernel, pix2pix, sample, tmp_path):
    code, _, error = run_kernel(
        *("--data", sample, "--out", tmp_path, *TINY, "--steps", 3, "--warmup", 0),
        *("--validation-per-class", 1, "--ensemble", 1),
    )
    assert (code, error) == (0, "")
    result = json.loads((tmp_path / "run.json").read_text())
    names = {record["name"] for record in result["files"]}
    assert "errors.png" in names and "discriminator.h5" not in names
    analysis, ours = result["metrics"]["analysis"], result["metrics"]["hole_rmse"]["model"]
    assert list(analysis["by_distance"]) == list(pix2pix.DISTANCES)
    assert set(analysis["by_class"]) == {"Cat", "Dog", "Elephant", "Tiger"}
    assert min(analysis["by_class"].values()) <= ours <= max(analysis["by_class"].values())
    with open(tmp_path / "errors.csv", newline="") as stream:
        each = list(csv.DictReader(stream))
    assert [row["image"] for row in each] == analysis["worst"]
    assert sorted(row["class"] for row in each) == ["Cat", "Dog", "Elephant", "Tiger"]
    for column, name in (("rmse", "model"), ("harmonic_rmse", "harmonic")):
        pooled = np.mean([float(row[column]) ** 2 for row in each]) ** 0.5
        assert pooled == pytest.approx(result["metrics"]["hole_rmse"][name], rel=1e-4)
    assert result["metrics"]["ratio_to_harmonic"]["model"] < 1.05
    generator = keras.models.load_model(tmp_path / "generator.h5", compile=False)
    config = pix2pix.make_config(result["config"])
    validation = pix2pix.load_dataset(config).validation
    images = validation.masked.astype(np.float32) / 255
    seen, mask = pix2pix.network_input(config, tf.constant(images), validation.boxes)
    output = pix2pix.unscale_pixels(generator([seen, mask], training=False))
    wrong = output.numpy() - validation.clean.astype(np.float32) / 255
    error = [pix2pix.crop_holes(*one) for one in zip(wrong, validation.boxes, strict=True)]
    assert float(np.sqrt(np.mean(np.square(error)))) == pytest.approx(ours, rel=1e-5)


def test_groups_of_errors_cover_every_pixel_of_every_hole(pix2pix, validation):
    score = pix2pix.evaluate(pix2pix.filler("zeros"), validation)
    for group in pix2pix.error_groups(validation).values():
        named = np.broadcast_to(group, score.square.shape)
        parts = {name: (named == name).mean() for name in score.by(group)}
        pooled = sum(share * score.by(group)[name] ** 2 for name, share in parts.items())
        assert pooled == pytest.approx(score.rmse**2, rel=1e-5)


def test_the_distance_of_a_pixel_is_that_to_the_nearest_side_of_its_hole(pix2pix, validation):
    group = pix2pix.error_groups(validation)["distance"]
    expected = {(0, 0): "1", (0, 37): "1", (37, 74): "1", (1, 37): "2-5", (70, 70): "2-5"}
    expected |= {(37, 5): "6-10", (64, 37): "11-20", (20, 54): "21-38", (37, 37): "21-38"}
    assert {place: group[place] for place in expected} == expected


def test_more_test_pictures_than_a_batch_are_all_written(
    run_kernel, pix2pix, sample, tmp_path, monkeypatch
):
    monkeypatch.setattr(pix2pix, "PREDICTION_BATCH", 3)
    code, _, error = run_kernel("--data", sample, "--out", tmp_path, "--predictor", "mean")
    assert (code, error) == (0, "")
    assert json.loads((tmp_path / "run.json").read_text())["submission"]["rows"] == 4 * 33_750


@pytest.mark.parametrize(("batch", "rate"), [(16, 1e-3), (64, 2e-3), (4, 5e-4)])
def test_both_learning_rates_are_scaled_with_the_batch(pix2pix, batch, rate):
    settings = {"learning_rate": 1e-3, "schedule": "constant", "warmup": 0, "lambda_gan": 0.02}
    settings["discriminator_rate"] = 1e-4
    model = pix2pix.Pix2Pix(small(pix2pix, batch_size=batch, rate_batch=16, **settings))
    rates = [float(optimizer.learning_rate) for optimizer in model.optimizers.values()]
    assert rates == pytest.approx([rate, rate / 10])


# Several runs together


SMALL = ("--preset", "best", "--width", 8, "--patch", 8, "--depth", 2, "--blocks", 1)
SMALL += ("--batch-size", 2)
SMALL += ("--learning-rate", 0.01, "--warmup", 0, "--validation-per-class", 1)


def test_the_best_weights_are_what_predicts_also_after_a_resumption(run_kernel, sample, tmp_path):
    # The rate rises to one that ruins what the first steps learn, in both sessions.
    rising = ("--learning-rate", 0.3, "--warmup", 4, "--schedule", "constant", "--ema", 0)
    flags = ("--data", sample, *SMALL, *rising, "--validate-every", 1, "--ensemble", 1)
    first, second = tmp_path / "first", tmp_path / "second"
    for out, steps, more in ((first, 4, ()), (second, 6, ("--resume-from", first))):
        code, _, error = run_kernel(*flags, "--out", out, "--steps", steps, *more)
        assert (code, error) == (0, "")
        records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        scores = {r["step"]: r["validation_rmse"] for r in records if "validation_rmse" in r}
        del scores[0]  # the untrained weights are never kept
        assert list(scores) == list(range(1, steps + 1))
        best = min(scores.values())
        assert min(scores[step] for step in scores if step >= 4) > best + 1e-3
        predicted = json.loads((out / "run.json").read_text())["metrics"]["hole_rmse"]["model"]
        assert predicted == pytest.approx(best, rel=1e-5)


def test_an_average_is_the_mean_of_what_its_members_submit(run_kernel, sample, tmp_path):
    for seed in (0, 1):
        code, _, error = run_kernel(
            *("--data", sample, "--out", tmp_path / "runs" / str(seed), *SMALL),
            *("--steps", 20, "--seed", seed, "--ensemble", 2),
        )
        assert (code, error) == (0, "")
    (tmp_path / "linked").symlink_to(tmp_path / "runs" / "0")  # a run that is named twice is one
    members = f"{tmp_path / 'runs'},{tmp_path / 'linked'}"
    flags = ("--data", sample, "--predictor", "average", "--members", members)
    code, out, error = run_kernel(*flags, "--out", tmp_path / "both", "--validation-per-class", 1)
    assert (code, error) == (0, "")
    assert "averaging 2 networks" in out
    first, second, both = (
        pd.read_csv(tmp_path / name / "submission.csv.gz") for name in ("runs/0", "runs/1", "both")
    )
    assert np.abs(first["value"] - second["value"]).max() > 1e-3
    assert np.abs((first["value"] + second["value"]) / 2 - both["value"]).max() < 2e-6
    result = json.loads((tmp_path / "both" / "run.json").read_text())
    alone = [
        json.loads((tmp_path / "runs" / str(seed) / "run.json").read_text()) for seed in (0, 1)
    ]
    scores = [each["metrics"]["hole_rmse"]["model"] for each in alone]
    assert result["metrics"]["hole_rmse"]["average"] < np.mean(scores)
    assert result["parameters"] == sum(each["parameters"] for each in alone)


def test_an_average_refuses_who_has_learned_from_what_is_held_out(run_kernel, sample, tmp_path):
    run_kernel(
        *("--data", sample, "--out", tmp_path / "run", *SMALL),
        *("--steps", 1, "--split-seed", 3, "--ensemble", 1),
    )
    flags = ("--data", sample, "--predictor", "average", "--out", tmp_path / "both")
    code, _, error = run_kernel(*flags, "--validation-per-class", 1, "--members", tmp_path / "run")
    assert code == 1
    assert "which is held out here" in error and "split_seed" in error and "\n" not in error
    code, _, error = run_kernel(*flags, "--members", tmp_path / "nowhere")
    assert code == 1
    assert "no checkpoint.npz under members" in error


def test_an_earlier_network_fills_where_there_are_test_pictures_alone(
    run_kernel, sample, dataset, tmp_path
):
    run_kernel("--data", sample, "--out", tmp_path / "first", *SMALL, "--steps", 1)
    shutil.rmtree(dataset / "Training_Data")
    again = ("--data", dataset, "--out", tmp_path / "again", "--steps", 0)
    code, _, error = run_kernel(*again, *SMALL, "--start-from", tmp_path / "first")
    assert (code, error) == (0, "")
    assert (tmp_path / "again" / "run.json").exists()
    first, second = (
        pd.read_csv(tmp_path / name / "submission.csv.gz") for name in ("first", "again")
    )
    assert first.equals(second)


def test_a_run_starts_with_the_generator_of_another(run_kernel, sample, tmp_path):
    first, second = (("--data", sample, "--out", tmp_path / name) for name in ("first", "second"))
    run_kernel(*first, *SMALL, "--steps", 5, "--ensemble", 1, "--log-every", 1)
    begin = ("--preset", "perceptual", "--start-from", tmp_path / "first", "--steps", 0)
    code, out, error = run_kernel(*second, *SMALL, *begin)
    assert (code, error) == (0, "")
    assert f"starting with the generator of {tmp_path / 'first' / 'best.npz'}" in out
    scores = [
        json.loads((tmp_path / name / "run.json").read_text())["metrics"]["hole_rmse"]
        for name in ("first", "second")
    ]
    assert scores[0]["model"] != scores[0]["harmonic"]
    assert scores[0] == scores[1]


def test_a_run_starts_with_no_other_network(run_kernel, sample, tmp_path):
    first, second = (("--data", sample, "--out", tmp_path / name) for name in ("first", "second"))
    run_kernel(*first, *SMALL, "--steps", 1, "--ensemble", 1)
    begin = ("--split-seed", 3, "--start-from", tmp_path / "first")
    code, _, error = run_kernel(*second, *SMALL, *begin)
    assert (code, "which is held out here" in error) == (1, True)
    code, _, error = run_kernel(*second, *SMALL, "--width", 16, "--start-from", tmp_path / "first")
    assert code == 1
    assert "has no fitting averaged/" in error and "another configuration" in error
    code, _, error = run_kernel(*second, *SMALL, "--start-from", tmp_path / "nowhere")
    assert (code, "no checkpoint.npz under start_from" in error) == (1, True)
