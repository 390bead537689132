"""Finding, checking and decoding the dataset, and what each fault in it leads to."""

import itertools
import json
import math
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests.peers.gcs import google_over_tls
from tests.project import PROJECT


@pytest.fixture
def check(run_kernel, dataset, tmp_path):
    """Run the harmonic fill on the dataset: all that it needs is checked, nothing is trained."""

    def run(*flags, data=dataset):
        return run_kernel(
            *("--data", data, "--out", tmp_path / "out", "--predictor", "harmonic"), *flags
        )

    return run


@pytest.fixture
def load(pix2pix, dataset, capsys):
    """Load the dataset as training does; return the error, if it is one, and what was printed."""

    def run(**settings):
        error = ""
        try:
            pix2pix.load_dataset(pix2pix.make_config({"data": str(dataset), **settings}))
        except pix2pix.UserError as failure:
            error = str(failure)
        return error, capsys.readouterr().out

    return run


def training_csv(dataset, label="Cat"):
    return dataset / "Training_Data" / label / "Masked_Train" / "masked_info.csv"


def edit(path, change):
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    "where",
    [
        "",
        "photo-reconstruction",
        "photo-reconstruction/Dataset",
        "competitions/photo-reconstruction/Dataset",
        "datasets/owner/photo-reconstruction/Dataset",
    ],
)
def test_the_dataset_is_found_at_every_depth_that_kaggle_has_used(
    pix2pix, dataset, tmp_path, where
):
    root = tmp_path / "input"
    place = root / where
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(dataset, place)
    assert pix2pix.find_dataset(root, need_training=True) == place


def test_the_dataset_is_found_from_inside_the_test_folder(pix2pix, dataset):
    assert pix2pix.find_dataset(dataset / "Testing_Data", need_training=True) == dataset


def test_without_class_folders_the_classes_are_read_from_the_names(pix2pix, dataset):
    training = dataset / "Training_Data"
    flat = {part: training / part for part in ("Masked_Train", "Unmasked_Train")}
    rows = []
    for part, folder in flat.items():
        folder.mkdir()
        for label in ("Cat", "Dog", "Elephant", "Tiger"):
            for path in (training / label / part).glob("*.jpg"):
                shutil.move(path, folder)
            if part == "Masked_Train":
                rows += training_csv(dataset, label).read_text().splitlines()[1:]
    for label in ("Cat", "Dog", "Elephant", "Tiger"):
        shutil.rmtree(training / label)
    text = "\n".join([",filename,y1,x1,y2,x2", *rows]) + "\n"
    (flat["Masked_Train"] / "masked_info.csv").write_text(text)
    photos, faults = pix2pix.list_training(dataset)
    assert len(photos) == 20 and not faults
    assert {photo.label for photo in photos} == {"Cat", "Dog", "Elephant", "Tiger"}


def test_no_dataset_says_what_is_there_instead(run_kernel, tmp_path):
    (tmp_path / "root" / "holiday" / "beach").mkdir(parents=True)
    code, _, error = run_kernel("--data", tmp_path / "root", "--out", tmp_path / "out")
    assert code == 1
    assert "holiday, holiday/beach" in error and "--data" in error


def test_a_predictor_that_learns_nothing_needs_only_the_test_set(check, dataset, tmp_path):
    shutil.rmtree(dataset / "Training_Data")
    code, out, error = check()
    assert (code, error) == (0, "")
    assert (tmp_path / "out" / "submission.csv.gz").exists()


def test_a_baseline_decodes_no_photo_to_learn_from(pix2pix, check, dataset):
    photos, _ = pix2pix.list_training(dataset)
    for photo in pix2pix.split(photos, pix2pix.make_config({"validation_per_class": 1}))[0]:
        for path in (photo.masked, photo.clean):
            path.write_bytes(b"no picture")
    code, out, error = check("--validation-per-class", "1")
    assert (code, error) == (0, "")
    assert "left out" not in out and "to train on" not in out and "  4 held out" in out


def test_the_report_counts_classes_augmentation_and_held_out_pictures(load):
    _, out = load(validation_per_class=1)
    assert "Cat 5, Dog 5, Elephant 5, Tiger 5" in out
    assert "16 to train on, in memory, x 5 = 80 with augmentation; 4 held out" in out


def test_the_split_is_by_class_and_by_its_seed(pix2pix, sample):
    photos, _ = pix2pix.list_training(sample)
    parts = {}
    for seed in (0, 1):
        config = pix2pix.make_config({"split_seed": seed, "validation_per_class": 1})
        training, validation = pix2pix.split(photos, config)
        again, _ = pix2pix.split(photos, config)
        assert training == again
        assert sorted(p.label for p in validation) == ["Cat", "Dog", "Elephant", "Tiger"]
        assert not {p.clean for p in training} & {p.clean for p in validation}
        parts[seed] = {p.name for p in validation}
    assert parts[0] != parts[1]


def test_limit_takes_that_many_images_of_each_class(pix2pix, sample):
    photos, _ = pix2pix.list_training(sample)
    training, validation = pix2pix.split(photos, pix2pix.make_config({"limit": 3}))
    assert (len(training), len(validation)) == (8, 4)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_pictures_of_every_colour_mode_become_rgb(pix2pix, tmp_path, mode):
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    Image.new("RGB", (256, 256), (255, 255, 255)).convert(mode).save(path)
    pixels = pix2pix.decode(path)
    assert pixels.shape == (256, 256, 3) and pixels.dtype == np.uint8
    assert np.all(pixels == 255)


def test_other_formats_are_not_opened_under_a_photos_name(pix2pix, tmp_path):
    path = tmp_path / "cat_1.jpg"
    Image.new("RGB", (256, 256)).save(path, "TIFF")
    with pytest.raises(ValueError, match="neither JPEG nor PNG"):
        pix2pix.decode(path)


def test_what_macos_lays_beside_photos_is_none(pix2pix, dataset):
    before = pix2pix.list_test(dataset), pix2pix.list_training(dataset)
    for picture in [*dataset.rglob("*.jpg")]:
        picture.with_name(f"._{picture.name}").write_bytes(b"\0\5\x16\7")
    assert (pix2pix.list_test(dataset), pix2pix.list_training(dataset)) == before


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def too_small(path):
    Image.new("RGB", (255, 256)).save(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_off, "can't be decoded"),
        (too_small, "is 255x256, not 256x256"),
        (lambda p: p.write_text("no picture"), "can't be decoded"),
        (lambda p: p.unlink(), "not there"),
    ],
)
def test_a_faulty_test_picture_is_always_an_error(check, dataset, damage, reason):
    picture = sorted((dataset / "Testing_Data").glob("*.jpg"))[0]
    damage(picture)
    code, _, error = check("--max-bad-fraction", "1")
    assert code == 1
    assert picture.name in error and reason in error, error


@pytest.mark.parametrize(
    ("part", "damage", "reason"),
    [
        ("Masked_Train", cut_off, "can't be decoded"),
        ("Unmasked_Train", cut_off, "can't be decoded"),
        ("Unmasked_Train", too_small, "is 255x256, not 256x256"),
        ("Masked_Train", lambda p: p.unlink(), "no masked picture"),
        ("Unmasked_Train", lambda p: p.unlink(), "no unmasked partner"),
    ],
)
def test_a_faulty_training_picture_is_left_out_and_listed(load, dataset, part, damage, reason):
    picture = dataset / "Training_Data" / "Dog" / part / "dog_3.jpg"
    damage(picture)
    error, out = load(max_bad_fraction=0.1)
    assert error == ""
    [line] = [line for line in out.splitlines() if "left out" in line]
    assert "dog_3.jpg" in line and reason in line
    error, _ = load()
    assert "1 of 20 training pictures" in error and "max_bad_fraction = 0.01" in error


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.replace("dog_3.jpg,", "dog_3.jpg,1", 1), "is outside 0 to 181"),
        (lambda t: "".join(x for x in t.splitlines(True) if "dog_3.jpg" not in x), "no row in"),
    ],
)
def test_a_training_picture_whose_box_is_wrong_is_left_out(check, dataset, change, reason):
    path = training_csv(dataset, "Dog")
    edit(path, lambda t: change(t.replace("dog_3.jpg,", "dog_3.jpg,9")))
    code, out, _ = check("--max-bad-fraction", "0.1")
    assert code == 0
    assert "dog_3.jpg" in out and reason in out


def first_row(text):
    return text.splitlines()[1]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda t: t.replace(",filename,y1", ",filename,extra,y1"), ["row 1", "7 columns, not 6"]),
        (lambda t: t.replace(",x2", ""), ["row 1", "5 columns, not 6"]),
        (lambda t: t.replace(first_row(t), first_row(t) + ",5"), ["row 2", "four whole numbers"]),
        (lambda t: t.replace(first_row(t), first_row(t)[:-1] + "x"), ["row 2", "four whole"]),
        (lambda t: t + first_row(t) + "\n", ["row 6", "twice"]),
        (lambda t: t + "9,../cat_9.jpg,1,1,1,1\n", ["row 6", "no plain file name"]),
        (lambda t: t + '9,"a,b.jpg",1,1,1,1\n', ["row 6", "no plain file name"]),
        (lambda t: t + "9,cat_9.jpg,1,1,1,1\n", ["cat_9.jpg", "not there"]),
        (lambda t: "".join(t.splitlines(True)[:-1]), ["has no row in masked_info.csv"]),
        (lambda t: t.splitlines(True)[0], ["has no row in masked_info.csv"]),
        (lambda t: "", ["row 1", "0 columns"]),
    ],
)
def test_a_faulty_test_csv_names_the_row_or_the_picture(check, dataset, change, parts):
    edit(dataset / "Testing_Data" / "masked_info.csv", change)
    code, _, error = check()
    assert code == 1
    assert error.count("\n") == 0
    assert all(part in error for part in parts), error


def test_a_test_box_beyond_the_edge_is_an_error(check, dataset):
    path = dataset / "Testing_Data" / "masked_info.csv"
    name = first_row(path.read_text()).split(",")[1]
    edit(path, lambda t: t.replace(first_row(t), f"0,{name},182,0,0,0"))
    code, _, error = check()
    assert code == 1
    assert name in error and "182 is outside 0 to 181" in error


def test_photos_in_a_file_on_disk_are_those_in_memory(pix2pix, dataset):
    paths = sorted((dataset / "Testing_Data").glob("*.jpg"))
    in_memory, _ = pix2pix.decode_all(paths, "photos", "memory")
    on_disk, _ = pix2pix.decode_all(paths, "photos", "disk")
    assert isinstance(on_disk, np.memmap) and not isinstance(in_memory, np.memmap)
    assert np.array_equal(in_memory, on_disk)


def test_a_faulty_photo_is_left_out_on_the_scratch_disk_itself(pix2pix, dataset):
    settings = {"data": str(dataset), "cache": "disk", "max_bad_fraction": 0.5}
    config = pix2pix.make_config(settings | {"validation_per_class": 1})
    whole = pix2pix.load_dataset(config).training
    name = whole.photos[3].clean
    name.write_bytes(b"no picture")
    rest = pix2pix.load_dataset(config).training
    assert isinstance(rest.clean, np.memmap)
    assert [p.clean for p in rest.photos] == [p.clean for p in whole.photos if p.clean != name]
    assert np.array_equal(rest.clean, np.delete(whole.clean, 3, 0))


@pytest.mark.parametrize(
    ("memory", "disk", "choice"), [(20, 0, "memory"), (19, 20, "disk"), (19, 19, "none")]
)
def test_the_cache_is_where_half_of_what_is_free_will_do(pix2pix, memory, disk, choice):
    free = (memory * 256 * 256 * 3, disk * 256 * 256 * 3)
    assert pix2pix.choose_cache("auto", 10, *free) == choice
    assert pix2pix.choose_cache("disk", 10, *free) == "disk"


TINY = ("--preset", "best", "--width", "8", "--patch", "8", "--depth", "2", "--blocks", "1")
TINY += ("--batch-size", "8")


def test_photos_decoded_when_used_train_the_same(run_kernel, sample, tmp_path):
    losses = []
    for cache in ("memory", "none"):
        code, out, error = run_kernel(
            *("--data", sample, "--out", tmp_path / cache, *TINY, "--cache", cache),
            *("--steps", "3", "--log-every", "1", "--ensemble", "1"),
        )
        assert (code, error) == (0, "")
        losses.append(
            [
                line.split("img/s")[0].rsplit("|", 1)[0]
                for line in out.splitlines()
                if line.startswith("step")
            ]
        )
    assert "decoded when used" in out
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_a_faulty_photo_decoded_when_used_is_replaced_and_too_many_are_an_error(
    run_kernel, dataset, tmp_path
):
    folder = dataset / "Training_Data" / "Dog" / "Unmasked_Train"
    for path in folder.glob("*.jpg"):
        cut_off(path)
    flags = ("--data", dataset, *TINY, "--cache", "none", "--steps", "3", "--ensemble", "1")
    code, out, error = run_kernel(*flags, "--out", tmp_path / "kept", "--max-bad-fraction", "0.6")
    assert (code, error) == (0, "")
    left_out = [line for line in out.splitlines() if "left out" in line]
    assert len(left_out) == len(set(left_out)) == 5
    code, _, error = run_kernel(*flags, "--out", tmp_path / "out", "--max-bad-fraction", "0.1")
    assert code == 1
    assert "training pictures can't be used, more than max_bad_fraction" in error
    assert error.count("\n") == 0


def test_without_one_sound_photo_the_search_for_another_ends(pix2pix, tmp_path):
    files = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for path in files:
        path.write_bytes(b"no picture")
    with pytest.raises(pix2pix.UserError, match="2 of 2 training pictures can't be used"):
        pix2pix.DecodedOnUse(files, most_faults=2)[[0]]


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_a_dataset_in_a_bucket_trains_as_one_in_a_folder_does(
    python, run_kernel, sample, tmp_path, cache
):
    flags = [*TINY, "--steps", "3", "--log-every", "1", "--ensemble", "1"]
    shutil.copytree(sample, tmp_path / "buckets" / "team" / "photos")
    with google_over_tls(tmp_path, tmp_path / "buckets") as environment:
        words = [python, PROJECT / "kernel" / "pix2pix.py", "--data", "gs://team/photos"]
        words += ["--out", tmp_path / "bucket", "--cache", cache, *flags]
        done = subprocess.run(
            list(map(str, words)), env=environment, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    code, _, error = run_kernel("--data", sample, "--out", tmp_path / "folder", *flags)
    assert (code, error) == (0, "")
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("bucket", "folder")]
    losses = [[json.loads(line).get("l2") for line in log.splitlines()] for log in logs]
    assert losses[0] == losses[1] and len([loss for loss in losses[0] if loss]) == 3


def test_a_bucket_that_is_not_there_is_one_line(python, sample, tmp_path):
    (tmp_path / "buckets" / "team").mkdir(parents=True)
    with google_over_tls(tmp_path, tmp_path / "buckets") as environment:
        words = [python, PROJECT / "kernel" / "pix2pix.py", "--data", "gs://other/photos"]
        done = subprocess.run(
            [*map(str, words), "--out", str(tmp_path / "out")],
            env=environment,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert "no dataset under gs://other/photos" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["s3://bucket/data", "https://example.com/data"])
def test_a_url_of_another_scheme_is_refused(run_kernel, tmp_path, url):
    code, _, error = run_kernel("--data", url, "--out", tmp_path / "out")
    assert code == 1
    assert f"data = {url}: give a folder or a gs:// URL." in error


# What a step sees


def pictures(pix2pix, count):
    rng = np.random.default_rng(0)
    clean = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((256, 256, 3), np.uint8)
    boxes = rng.integers(0, 182, (count, 2, 2)).astype(np.int32)
    photos = [pix2pix.Photo(f"{i}.jpg", "Cat", None, None, (0, 0, 0, 0)) for i in range(count)]
    return pix2pix.Pictures(photos, boxes, None, clean)


def examples(pix2pix, config, photos, first, last, replicas=1):
    """Inputs, masks and targets of every step and replica."""
    for part in pix2pix.training_batches(config, photos, first, last, replicas):
        for step in range(len(part["photo"])):
            one = {name: value[step] for name, value in part.items()}
            yield pix2pix.training_example(config, one)


def test_an_epoch_shows_each_image_under_each_symmetry_once_in_an_order_of_its_own(pix2pix):
    settings = {"jitter": 256, "noise": 0.0, "batch_size": 2}
    config = pix2pix.make_config(settings)
    seen = [
        round((float(pixel) + 1) * 127.5)
        for _, _, target in examples(pix2pix, config, pictures(pix2pix, 4), 0, 20)
        for pixel in target[:, 0, 0, 0]
    ]
    epochs = seen[:20], seen[20:]
    for epoch in epochs:
        assert sorted(epoch) == sorted([0, 1, 2, 3] * 5)
    assert epochs[0] != epochs[1]


def test_a_pipeline_that_starts_later_goes_on_with_the_same_batches(pix2pix):
    config = pix2pix.make_config({"batch_size": 3, "holes": "random"})
    several = pix2pix.make_config({"batch_size": 3, "holes": "random", "steps_per_call": 4})
    whole = list(examples(pix2pix, config, pictures(pix2pix, 4), 0, 6))
    rest = list(examples(pix2pix, several, pictures(pix2pix, 4), 4, 6))
    for expected, got in zip(whole[4:], rest, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))


@pytest.mark.parametrize(("size", "replicas"), [(6, 1), (2, 1), (6, 3)])
def test_an_example_depends_on_its_position_alone(pix2pix, size, replicas):
    """Not on the batch that it stands in, nor on the replica that gets it."""
    settings = {"noise": 0.05, "holes": "random"}
    photos = pictures(pix2pix, 4)
    whole = examples(pix2pix, pix2pix.make_config(settings | {"batch_size": 12}), photos, 0, 1)
    config = pix2pix.make_config(settings | {"batch_size": size})
    parts = list(examples(pix2pix, config, photos, 0, 12 // size, replicas))
    assert {len(part[0]) for part in parts} == {size // replicas}
    for kind, expected in enumerate(next(iter(whole))):
        assert np.allclose(np.concatenate([part[kind] for part in parts]), expected, atol=1e-5)


@pytest.mark.parametrize(("first", "last"), [(0, 40), (7, 40), (39, 40), (40, 40)])
def test_calls_cover_every_step_once_and_end_where_the_loop_looks_up(pix2pix, first, last):
    settings = {"steps_per_call": 4, "log_every": 6, "validate_every": 9, "checkpoint_every": 50}
    config = pix2pix.make_config(settings)
    calls = list(pix2pix.spans_of_calls(config, first, last))
    endless = pix2pix.spans_of_calls(config, first, math.inf)
    assert calls[:-1] == list(itertools.islice(endless, len(calls[:-1])))
    assert [step for call in calls for step in range(*call)] == list(range(first, last))
    assert all(stop - start <= 4 for start, stop in calls)
    ends = {stop for _, stop in calls}
    assert {step for step in range(first + 1, last) if step % 6 == 0 or step % 9 == 0} <= ends


def test_noise_reaches_the_input_and_never_the_target(pix2pix):
    config = pix2pix.make_config({"noise": 0.1, "jitter": 256, "flip": False})
    photo = np.full((1, 256, 256, 3), 128, np.uint8)
    boxes = np.array([[(0, 0), (181, 181)]], np.int32)
    drawn = {name: value[None] for name, value in pix2pix.draw_example(config, 0).items()}
    drawn |= {"photo": photo, "boxes": boxes, "symmetry": np.zeros((1, 3), bool)}
    seen, _, target = pix2pix.training_example(config, drawn)
    known = 1 - pix2pix.hole_mask(boxes)[0, ..., 0].numpy()
    assert np.allclose(target, 128 / 127.5 - 1, atol=1e-6)
    assert np.std(seen[0].numpy()[known == 1]) == pytest.approx(0.2, rel=0.05)
    assert np.all(seen[0].numpy()[known == 0] == -1)


def test_holes_cut_for_training_leave_what_the_masked_files_hold(pix2pix, sample):
    config = pix2pix.make_config({"data": str(sample), "validation_per_class": 1})
    held = pix2pix.load_dataset(config).validation
    saved = pix2pix.MaskedFiles([held.photos[0].masked])(held.clean, held.boxes)
    assert np.array_equal(saved, held.masked)
    beside = pix2pix.hole_mask(held.boxes).numpy()[..., 0] == 0
    assert 0.1 < np.abs(saved[beside].astype(int) - held.clean[beside]).mean() < 2


def test_files_that_keep_every_pixel_leave_all_but_the_holes(pix2pix, tmp_path):
    Image.new("RGB", (256, 256)).save(tmp_path / "masked.png")
    photo = np.full((1, 256, 256, 3), 77, np.uint8)
    cut = pix2pix.MaskedFiles([tmp_path / "masked.png"])(photo, np.array([[(0, 0), (181, 181)]]))
    assert (cut == 0).sum() == 2 * 75 * 75 * 3 and (cut == 77).sum() == cut.size - (cut == 0).sum()
    assert (photo == 77).all()


def test_of_masked_files_the_first_sound_one_counts_and_without_any_one_is_named(pix2pix, tmp_path):
    broken, sound = tmp_path / "masked.jpg", tmp_path / "sound.jpg"
    broken.write_bytes(b"no picture")
    Image.new("RGB", (256, 256)).save(sound, quality=31)
    with Image.open(sound) as image:
        assert pix2pix.MaskedFiles([broken, sound]).saved["qtables"] == image.quantization
    with pytest.raises(pix2pix.UserError, match=r"be opened \(.*masked\.jpg.*fetch them again"):
        pix2pix.MaskedFiles([broken])


def test_training_pictures_are_disturbed_around_their_holes_and_targets_are_not(pix2pix, sample):
    quiet = {"jitter": 256, "flip": False, "augmentation": "none", "noise": 0.0, "jpeg": True}
    config = pix2pix.make_config(quiet | {"data": str(sample), "validation_per_class": 1})
    photos = pix2pix.load_dataset(config).training
    seen, mask, target = next(examples(pix2pix, config, photos, 0, 1))
    pixels = np.rint((target.numpy() + 1) * 127.5)[0]
    (index,) = [i for i, clean in enumerate(photos.clean) if np.array_equal(clean, pixels)]
    file = pix2pix.decode(photos.photos[index].masked) * (1 - mask[0].numpy())
    assert np.array_equal(np.rint((seen[0].numpy() + 1) * 127.5), file)


def test_random_holes_are_new_at_every_step_and_those_of_the_csv_are_not(pix2pix):
    for holes, kinds in (("random", 6), ("csv", 1)):
        settings = {"jitter": 256, "flip": False, "augmentation": "none", "noise": 0.0}
        config = pix2pix.make_config(settings | {"holes": holes})
        photos = pictures(pix2pix, 1)
        photos.clean[:] = 200
        batches = examples(pix2pix, config, photos, 0, 6)
        shapes = {seen.numpy().tobytes() for seen, _, _ in batches}
        assert len(shapes) == kinds
