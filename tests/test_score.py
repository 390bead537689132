import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests.kernel_runs import command
from tests.peers.scoring import scorer
from tests.testset import rows, write_submission
from tools import paired
from tools.holes import read_holes

INFO = "Testing_Data/masked_info.csv"


@pytest.fixture(scope="module")
def fills(python, sample, tmp_path_factory):
    """Runs of two fills that need no training."""
    out = tmp_path_factory.mktemp("fills")
    for fill in ("harmonic", "mean"):
        subprocess.run(command(python, sample, out / fill, "--predictor", fill), check=True)
    return out


def file(fills, predictor):
    return fills / predictor / "submission.csv.gz"


def spots(dataset):
    holes = read_holes(dataset / INFO)
    return [
        (name.decode(), *corners.ravel().tolist())
        for name, corners in zip(holes.names, holes.corners, strict=True)
    ]


def truth(dataset, name, order, scale):
    with Image.open(dataset / "Testing_Truth" / name) as image:
        picture = np.asarray(image.convert("RGB"), float)
    low, high = (picture.min((0, 1)), picture.max((0, 1))) if scale == "minmax" else (0, 255)
    return ((picture - low) / (high - low))[..., :: -1 if order == "bgr" else 1]


def test_a_score_is_what_the_competition_would_give(project, tools, sample, fills):
    both = [file(fills, "harmonic"), file(fills, "mean")]
    done = tools("score", "--data", sample, *both, "--json")
    result = json.loads(done.out)
    score = scorer(sample / "Testing_Truth")
    assert result["pictures"] == 4
    for path, row in zip(both, result["submissions"], strict=True):
        assert f"{row['rmse']:.5f}" == score(path.read_bytes())
    first, second = result["submissions"]
    assert second["to_first"] == pytest.approx(second["rmse"] / first["rmse"])
    assert "to_first" not in first


@pytest.mark.parametrize("order", ["bgr", "rgb"])
@pytest.mark.parametrize("scale", ["unit", "minmax"])
def test_the_truth_scores_0_in_the_way_that_the_project_writes_values(
    project, tools, sample, tmp_path, order, scale
):
    (project / "tools.toml").write_text(f'channel_order = "{order}"\nvalue_scale = "{scale}"\n')
    lines = []
    for spot in spots(sample):
        picture = truth(sample, spot[0], order, scale)
        for line in rows([spot], ""):
            row, column, channel = map(int, line.rstrip(",").split("_")[-3:])
            lines.append(f"{line}{picture[row, column, channel]:.6f}")
    lines.reverse()  # any order will do
    path = write_submission(tmp_path / "perfect.csv", lines)
    done = tools("score", "--data", sample, path, path, "--json")
    for row in json.loads(done.out)["submissions"]:
        assert row["rmse"] < 1e-6


def test_the_table_compares_with_the_first(project, tools, sample, fills):
    done = tools("score", "--data", sample, file(fills, "mean"), file(fills, "harmonic"))
    assert done.code == 0
    assert "to the first" in done.out and done.out.count("±") == 1


def test_the_standard_error_is_that_of_pictures_drawn_anew():
    rng = np.random.default_rng(0)
    hard = rng.gamma(2, 1, 200)
    ours, theirs = hard * rng.uniform(0.6, 1, 200), hard
    ratio, influence = paired.rmse_ratio(ours, theirs)
    drawn = [
        np.sqrt(ours[k].mean() / theirs[k].mean())
        for k in (rng.integers(200, size=200) for _ in range(4000))
    ]
    assert ratio == pytest.approx(np.sqrt(ours.mean() / theirs.mean()))
    assert paired.standard_error(influence) == pytest.approx(np.std(drawn), rel=0.05)
    assert paired.standard_error(influence[:1]) is None


def test_without_the_truth_it_says_where_a_score_can_be_had(project, tools, dataset, fills):
    shutil.rmtree(dataset / "Testing_Truth")
    done = tools("score", "--data", dataset, file(fills, "mean"))
    assert done.code == 1
    assert "Testing_Truth" in done.err and "tools submit" in done.err


@pytest.mark.parametrize("damage", ["missing", "cut off", "no picture", "bad chunk", "small"])
def test_a_truth_that_cannot_be_read_is_named(project, tools, dataset, fills, damage):
    path = sorted((dataset / "Testing_Truth").iterdir())[0]
    if damage == "missing":
        path.unlink()
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "no picture":
        path.write_text("truth")
    elif damage == "bad chunk":  # SyntaxError, to Pillow
        Image.new("RGB", (256, 256)).save(path, "PNG")
        data = bytearray(path.read_bytes())
        data[data.index(b"IDAT") - 1] ^= 0xFF
        path.write_bytes(data)
    else:
        Image.new("RGB", (255, 256)).save(path)
    done = tools("score", "--data", dataset, file(fills, "mean"))
    assert done.code == 1
    assert path.name in done.err and len(done.err.splitlines()) <= 2


def test_a_faulty_submission_is_refused_as_before_submitting(project, tools, sample, tmp_path):
    path = write_submission(tmp_path / "short.csv", rows(spots(sample))[:-1])
    done = tools("score", "--data", sample, path)
    assert done.code == 1
    assert "1 of 135,000 rows are missing" in done.err
    done = tools("score", "--data", sample, tmp_path / "none.csv")
    assert done.code == 1 and "none.csv" in done.err
