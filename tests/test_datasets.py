"""make-dataset: the competition's layout, from any photos."""

import csv
import json
import subprocess

import numpy as np
import pytest
from PIL import ExifTags, Image

from tools.datasets import make_dataset
from tools.errors import UserError


def tools(python, *arguments, **options):
    command = [python, "-m", "tools", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("Cat", "Dog"):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for i in range(5):
            Image.fromarray(rng.integers(0, 255, (90, 300, 3), np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def read_rows(path):
    with open(path, encoding="utf-8") as stream:
        return list(csv.reader(stream))


def test_the_layout_is_the_competitions_with_the_truth_apart(python, photos, tmp_path):
    out = tmp_path / "out"
    done = tools(python, "make-dataset", photos, out, "--test-per-class", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classes"] == {
        label: {"training": 3, "test": 2} for label in ("Cat", "Dog")
    }
    test = read_rows(out / "Testing_Data" / "masked_info.csv")
    assert test[0] == ["", "filename", "y1", "x1", "y2", "x2"]
    assert [row[0] for row in test[1:]] == ["0", "1", "2", "3"]
    names = {row[1] for row in test[1:]}
    assert names == {p.name for p in (out / "Testing_Data").glob("*.jpg")}
    assert names == {p.name for p in (out / "Testing_Truth").glob("*.jpg")}
    for label in ("Cat", "Dog"):
        folder = out / "Training_Data" / label
        rows = read_rows(folder / "Masked_Train" / "masked_info.csv")
        assert {row[1] for row in rows[1:]} == {
            p.name for p in (folder / "Unmasked_Train").glob("*.jpg")
        }
        for _, name, *numbers in rows[1:]:
            y1, x1, y2, x2 = map(int, numbers)
            assert all(0 <= value <= 181 for value in (y1, x1, y2, x2))
            masked = np.asarray(Image.open(folder / "Masked_Train" / name), int)
            clean = np.asarray(Image.open(folder / "Unmasked_Train" / name), int)
            assert masked.shape == clean.shape == (256, 256, 3)
            inside = np.zeros((256, 256), bool)
            for y, x in ((y1, x1), (y2, x2)):
                inside[y : y + 75, x : x + 75] = True
                assert masked[y + 16 : y + 59, x + 16 : x + 59].max() == 0
            far = ~np.asarray(Image.fromarray(inside).resize((256, 256)), bool)
            assert np.abs(masked - clean)[far].mean() < 30 < np.abs(masked - clean)[inside].mean()


def test_the_command_to_try_it_can_be_pasted_into_a_shell(python, photos, tmp_path):
    out = tmp_path / "Ada's $HOME"
    done = tools(python, "make-dataset", photos, out, "--test-per-class", 2)
    command = done.stderr.splitlines()[-1].removeprefix("Try it: tools")
    shell = subprocess.run(["sh", "-c", f"echo {command}"], capture_output=True, text=True)
    assert shell.stdout.strip() == f"dry-run --data {out}"


def test_the_same_seed_gives_the_same_files_and_another_one_others(python, photos, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        command = ("make-dataset", photos, tmp_path / name, "--test-per-class", 1, "--seed", seed)
        assert tools(python, *command).returncode == 0
    contents = {
        name: {
            p.relative_to(tmp_path / name): p.read_bytes()
            for p in (tmp_path / name).rglob("*")
            if p.is_file()
        }
        for name in "abc"
    }
    assert contents["a"] == contents["b"] != contents["c"]


def test_the_central_square_is_taken(photos, tmp_path):
    from tools.datasets import central_square

    stripes = np.zeros((100, 300, 3), np.uint8)
    stripes[:, 100:200] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    pixels = np.asarray(central_square(tmp_path / "stripes.png"))
    assert pixels.shape == (256, 256, 3) and pixels.min() > 240


def test_a_photo_that_was_taken_with_the_camera_turned_comes_out_upright(tmp_path):
    from tools.datasets import central_square

    turned = np.zeros((90, 90, 3), np.uint8)
    turned[:, :45] = 255  # what is stored as the left is shown as the top
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(turned).save(tmp_path / "turned.jpg", exif=exif)
    pixels = np.asarray(central_square(tmp_path / "turned.jpg"))
    assert pixels[:110].min() > 200 and pixels[146:].max() < 50


@pytest.mark.parametrize("label", ["cats, small", "Tom's", ".hidden"])
def test_a_class_whose_pictures_the_kernel_would_refuse_is_an_error(tmp_path, label):
    with pytest.raises(UserError, match="cannot begin a picture's name"):
        make_dataset({label: []}, tmp_path / "out", test_per_class=1, seed=0)


def test_unreadable_files_are_listed_with_the_reason_and_left_out(python, photos, tmp_path):
    (photos / "Cat" / "broken.jpg").write_text("no picture")
    done = tools(python, "make-dataset", photos, tmp_path / "out", "--test-per-class", 2)
    assert done.returncode == 0
    assert "broken.jpg" in done.stderr and "UnidentifiedImageError" in done.stderr
    assert len(list((tmp_path / "out").rglob("cat_*.jpg"))) == 10


def test_a_class_with_too_few_photos_is_an_error_before_anything_is_written(
    python, photos, tmp_path
):
    for broken in ("0.png", "1.png"):
        (photos / "Dog" / broken).write_text("no picture")
    done = tools(python, "make-dataset", photos, tmp_path / "out", "--test-per-class", 2)
    assert done.returncode == 1
    assert "Class Dog has 3 readable photos" in done.stderr and done.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_classes_that_differ_in_capitals_alone_are_refused(python, photos, tmp_path):
    (photos / "Dog").rename(photos / "cat")
    done = tools(python, "make-dataset", photos, tmp_path / "out", "--test-per-class", 2)
    assert done.returncode == 1
    assert "differ in capitals alone" in done.stderr and not (tmp_path / "out").exists()


def test_the_current_folder_is_no_traceback(python, photos):
    done = tools(python, "make-dataset", photos, ".", "--test-per-class", 2)
    assert done.returncode == 1
    assert "is there already" in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_that_is_there_is_never_overwritten(python, photos, tmp_path):
    done = tools(python, "make-dataset", photos, photos)
    assert done.returncode == 1 and "is there already" in done.stderr
    assert len(list(photos.rglob("*.png"))) == 10


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "Missing argument"),
        (("one",), 2, "PHOTOS and OUT"),
        (("nowhere", "out"), 1, "There is no folder nowhere."),
        (("empty", "out"), 1, "has no subfolders"),
    ],
)
def test_wrong_usage_says_what_is_right(python, tmp_path, arguments, code, words):
    (tmp_path / "empty").mkdir()
    done = tools(python, "make-dataset", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert words in done.stderr


def test_the_sample_has_four_classes_of_real_photographs(python, tmp_path):
    done = tools(python, "make-dataset", "--sample", tmp_path / "sample", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["classes"]) == {"Cat", "Dog", "Elephant", "Tiger"}
    pixels = np.asarray(Image.open(next((tmp_path / "sample" / "Testing_Truth").glob("*.jpg"))))
    assert pixels.shape == (256, 256, 3) and pixels.std() > 10


def test_commands_that_begin_together_make_the_projects_sample_once(python, project):
    command = [python, "-c", "from tools import datasets; print(datasets.sample_folder())"]
    begun = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    done = [(*each.communicate(), each.returncode) for each in begun]
    assert [code for *_, code in done] == [0, 0, 0], done
    assert {out.strip() for out, *_ in done} == {str(project / "runs" / "sample")}
    assert len(list((project / "runs" / "sample" / "Testing_Truth").glob("*.jpg"))) == 16
