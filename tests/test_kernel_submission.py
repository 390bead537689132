"""The submission, against a slow one that is written out value by value."""

import csv
import gzip
import io

import numpy as np
import pytest

BOXES = np.array([[(0, 181), (99, 7)], [(100, 100), (120, 90)]], np.int32)
NAMES = ["cat_1.jpg", "a tiger 22.jpg"]


@pytest.fixture
def pictures(pix2pix):
    photos = [
        pix2pix.Photo(name, "Cat", None, None, tuple(boxes.ravel()))
        for name, boxes in zip(NAMES, BOXES, strict=True)
    ]
    return pix2pix.Pictures.of(photos, None, None)


COMPOSITES = np.random.default_rng(1).random((2, 256, 256, 3)).astype(np.float32)
COMPOSITES[0, 0, 181] = (0.0, 1.0, 0.5)


def slow_lines(channel_order, value_scale):
    yield "filename_box_pixel,value"
    for name, boxes, picture in zip(NAMES, BOXES, COMPOSITES, strict=True):
        for number, (top, left) in enumerate(boxes, start=1):
            for row in range(top, top + 75):
                for column in range(left, left + 75):
                    for channel in range(3):
                        source = 2 - channel if channel_order == "bgr" else channel
                        value = picture[row, column, source]
                        if value_scale == "minmax":
                            plane = picture[..., source]
                            value = (value - plane.min()) / (plane.max() - plane.min())
                        yield f"{name}_box{number}_{row}_{column}_{channel},{value:.6f}"


@pytest.mark.parametrize("channel_order", ["bgr", "rgb"])
@pytest.mark.parametrize("value_scale", ["unit", "minmax"])
def test_the_fast_submission_is_the_slow_one(
    pix2pix, pictures, tmp_path, channel_order, value_scale
):
    settings = {"channel_order": channel_order, "value_scale": value_scale}
    config, path = pix2pix.make_config(settings), tmp_path / "submission.csv.gz"
    parts = [(slice(0, 1), COMPOSITES[:1]), (slice(1, 2), COMPOSITES[1:])]
    count = pix2pix.write_submission(config, path, pictures, parts)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    expected = list(slow_lines(channel_order, value_scale))
    assert count == len(lines) - 1 == 2 * 33_750
    ids = [line.rpartition(",")[0] for line in lines]
    assert ids == [line.rpartition(",")[0] for line in expected]
    got, wanted = (
        np.array([float(line.rpartition(",")[2]) for line in some[1:]])
        for some in (lines, expected)
    )
    assert np.abs(got - wanted).max() < 1.5e-6
    assert got.min() >= 0 and got.max() <= 1


def test_a_full_disk_leaves_the_earlier_submission_whole(pix2pix, pictures, tmp_path):
    path = tmp_path / "submission.csv.gz"
    path.write_text("earlier")

    def cut_short():
        yield slice(0, 1), COMPOSITES[:1]
        raise OSError(28, "No space left on device")

    with pytest.raises(pix2pix.UserError, match="No space left on device"):
        pix2pix.write_submission(pix2pix.make_config({}), path, pictures, cut_short())
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["submission.csv.gz"]


def test_a_harmonic_run_writes_a_submission_without_training(run_kernel, sample, tmp_path):
    code, _, error = run_kernel("--data", sample, "--out", tmp_path, "--predictor", "harmonic")
    assert (code, error) == (0, "")
    with gzip.open(tmp_path / "submission.csv.gz", "rt") as stream:
        rows = list(csv.reader(io.StringIO(stream.read())))
    assert len(rows) == 1 + 4 * 33_750
    assert len({row[0] for row in rows}) == len(rows)
    assert all(0 <= float(value) <= 1 for _, value in rows[1:])
