"""The sweep: variants at equal budget, one table, one plot, and interruption survived."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.project import PROJECT
from tools import sweep
from tools.errors import UserError

QUICK = ("--set", "blocks=1", "--set", "depth=1", "--set", "batch_size=2", "--set", "ensemble=1")


@pytest.fixture
def workplace(tmp_path):
    """A project of its own."""
    for name in ("kernel/pix2pix.py", "kernel-metadata.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def command(python, sample, *arguments):
    words = (python, "-m", "tools", "sweep", "--local", "--data", sample, *QUICK, *arguments)
    return [str(word) for word in words]


def test_settings_are_combined_in_order():
    assert sweep.variants(["width=8,16", "ema=0,0.9"]) == [
        {"width": "8", "ema": "0"},
        {"width": "8", "ema": "0.9"},
        {"width": "16", "ema": "0"},
        {"width": "16", "ema": "0.9"},
    ]
    assert sweep.variants([]) == [{}]


def test_a_change_is_made_to_the_first_variant_alone_and_names_only_what_differs():
    base = {"width": "8", "prefill": "true"}
    others = sweep.changed(base, ["prefill=false", "preset=report width=4"])
    assert others == [
        {"width": "8", "prefill": "false"},
        {"width": "4", "prefill": "true", "preset": "report"},
    ]
    assert sweep.shared([base, others[0]]) == {"width": "8"}
    assert sweep.shared([base, *others]) == {}
    assert sweep.shared([base]) == {}


@pytest.mark.parametrize("text", ["", "prefill", "prefill=", "a=1 b"])
def test_a_change_of_another_form_is_refused(text):
    with pytest.raises(UserError, match="name=value"):
        sweep.changed({}, [text])


@pytest.mark.parametrize("text", ["width", "width=", "width=8,", "wi dth=3"])
def test_a_setting_of_another_form_is_refused(text):
    with pytest.raises(UserError, match="name=a,b"):
        sweep.variants([text])


def test_a_setting_that_is_named_twice_is_refused():
    with pytest.raises(UserError, match="--set names width twice"):
        sweep.variants(["width=8", "ema=0", "width=16,32"])
    with pytest.raises(UserError, match="--change 'a=1 a=2' names a twice"):
        sweep.changed({"a": "0"}, ["a=1 a=2"])


@pytest.mark.parametrize(
    ("variant", "option"),
    [
        ({"seed": "1"}, "--seeds"),
        ({"width": "8", "steps": "9"}, "--budget"),
        ({"predictor": "harmonic"}, "harmonic fill"),
    ],
)
def test_what_the_sweep_sets_itself_is_refused(variant, option):
    with pytest.raises(UserError, match=option):
        sweep.refuse_own([{}, variant])


def test_a_budget_is_steps_or_minutes():
    assert sweep.Budget.parse("2000") == sweep.Budget(steps=2000)
    assert sweep.Budget.parse("1.5m") == sweep.Budget(minutes=1.5)
    for text in ("0", "10s", "-5", "0m", "m"):
        with pytest.raises(UserError, match="steps"):
            sweep.Budget.parse(text)


def test_other_data_limits_budgets_and_seeds_have_folders_of_their_own(tmp_path):
    given = ({"width": "8"}, 0, tmp_path, 0, "10")
    others = [
        ({"width": "9"}, 0, tmp_path, 0, "10"),
        ({"width": "8"}, 1, tmp_path, 0, "10"),
        ({"width": "8"}, 0, tmp_path / "other", 0, "10"),
        ({"width": "8"}, 0, tmp_path, 3, "10"),
        ({"width": "8"}, 0, tmp_path, 0, "10m"),
        ({"width": "8", "name": "x" * 200}, 0, tmp_path, 0, "10"),
        ({"width": "8", "name": "x" * 201}, 0, tmp_path, 0, "10"),
    ]
    assert len({sweep.folder_of(*each) for each in (given, *others)}) == 8
    assert sweep.folder_of(*given) == sweep.folder_of(*given)


def test_it_tables_every_variant_over_its_seeds_and_runs_nothing_twice(python, sample, workplace):
    change = ("--change", "residual=false width=16")
    words = command(
        python, sample, "--set", "width=8", *change, "--seeds", 2, "--budget", 3, "--json"
    )
    first = subprocess.run(words, capture_output=True, text=True, cwd=workplace)
    assert first.returncode == 0, first.stderr
    table = json.loads(first.stdout)
    row, other = table["rows"]
    assert (row["variant"], other["variant"]) == ("width=8", "width=16 residual=false")
    assert table["settings"]["depth"] == "1"
    assert other["ratio"] > 1.01 and other["parameters"] > row["parameters"]
    assert (row["images"], row["seeds"]) == (6, 2)
    assert 0.9 < row["ratio"] < 1.1 and row["deviation"] > 0 and row["parameters"] > 1000
    assert row["difference"] == row["difference_error"] == 0
    assert other["difference"] == other["ratio"] - row["ratio"] and other["difference_error"] > 0
    base = workplace / "runs" / "sweep" / "latest"
    assert (base / "sweep.png").stat().st_size > 10_000
    records = {path: path.stat().st_mtime_ns for path in base.glob("*/run.json")}
    assert len(records) == 4
    second = subprocess.run(words, capture_output=True, text=True, cwd=workplace)
    assert json.loads(second.stdout)["rows"] == table["rows"]
    assert {path: path.stat().st_mtime_ns for path in base.glob("*/run.json")} == records
    assert "another version" not in second.stderr
    with (workplace / "kernel" / "pix2pix.py").open("a") as script:
        script.write("# changed\n")
    other = [*words[: words.index("--change")], "--budget", "2", "--json"]
    third = subprocess.run(other, capture_output=True, text=True, cwd=workplace)
    assert json.loads(third.stdout)["rows"][0]["images"] == 4
    assert "another version" not in third.stderr
    changed = subprocess.run(words, capture_output=True, text=True, cwd=workplace)
    assert "4 of the runs were made by another version of " in changed.stderr
    assert {p: p.stat().st_mtime_ns for p in base.glob("*/run.json")}.items() > records.items()


PROBED = """
import json, pathlib, sys
out = pathlib.Path(dict(word.split("=", 1) for word in sys.argv[1:])["--out"])
out.mkdir()
(out / "training_log.csv").write_text("step,images_per_second\\n20,7.5\\n")
(out / "run.json").write_text(json.dumps({"config": {"batch_size": 2}}))
"""


def test_measuring_the_speed_leaves_the_runs_own_log_alone(project):
    (project / "kernel" / "pix2pix.py").write_text(PROBED)
    log = project / "width=8.log"
    log.write_text("step 1/9")
    assert sweep.steps_for(sweep.Budget(minutes=2), {}, project / "width=8") == 450
    assert log.read_text() == "step 1/9"
    assert (project / "width=8.probe.log").is_file()


def test_a_plot_that_cannot_be_written_is_an_error_and_leaves_nothing_behind(tmp_path):
    taken = tmp_path / "sweep.png"
    taken.mkdir()
    with pytest.raises(UserError, match=r"sweep\.png cannot be written"):
        sweep.draw({"width=8": [[(2, 1.1), (4, 0.9)]]}, taken)
    assert list(tmp_path.iterdir()) == [taken]


@pytest.fixture
def folder_with_errors(tmp_path):
    """Write what a run says of each picture, as a kernel does, and return its folder."""

    def folder(name, ours, theirs, names=None):
        out = tmp_path / name
        out.mkdir()
        names = names or [f"{i}.jpg" for i in range(len(ours))]
        lines = [f"{n},Cat,{a:.6f},{b:.6f}" for n, a, b in zip(names, ours, theirs, strict=True)]
        text = "image,class,rmse,harmonic_rmse\n" + "\n".join(lines) + "\n"
        (out / "errors.csv").write_text(text)
        return out

    return folder


def test_the_error_of_a_difference_is_that_of_pictures_drawn_anew(folder_with_errors):
    draw = np.random.default_rng(0)
    theirs = draw.uniform(0.05, 0.3, 300)
    first = theirs * draw.uniform(0.8, 1, 300)
    seeds = [first * draw.uniform(0.95, 1.03, 300) for _ in range(2)]
    folders = [folder_with_errors(f"seed{i}", each, theirs) for i, each in enumerate(seeds)]
    error = sweep.difference_error([folder_with_errors("first", first, theirs)], folders)

    chosen = draw.integers(300, size=(4000, 300))
    squares = [np.mean([each**2], 0)[chosen].mean(1) for each in (first, theirs)]
    other = np.mean([each**2 for each in seeds], 0)[chosen].mean(1)
    differences = np.sqrt(other / squares[1]) - np.sqrt(squares[0] / squares[1])
    assert error == pytest.approx(differences.std(), rel=0.1)


def test_other_pictures_have_no_error_of_their_difference(folder_with_errors):
    some = folder_with_errors("some", [0.1, 0.2], [0.2, 0.2])
    renamed = folder_with_errors("renamed", [0.1, 0.2], [0.2, 0.2], ["0.jpg", "2.jpg"])
    single = folder_with_errors("single", [0.1], [0.2])
    assert sweep.difference_error([some], [some]) == 0
    assert sweep.difference_error([some], [renamed]) is None
    assert sweep.difference_error([single], [single]) is None


def test_an_interrupted_sweep_goes_on(python, sample, workplace):
    words = command(python, sample, "--set", "width=8", "--budget", 30)
    log_of = lambda: next((workplace / "runs" / "sweep" / "latest").glob("*.log"), None)  # noqa: E731
    with subprocess.Popen(words, cwd=workplace, start_new_session=True) as running:
        deadline = time.monotonic() + 120
        while not ((log := log_of()) and "validation at step 6:" in log.read_text()):
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"][0]["images"] == 60
    assert "resumed at step " in log_of().read_text()


def test_a_budget_in_minutes_is_measured_once(python, sample, workplace):
    words = command(python, sample, "--set", "width=8", "--budget", "0.02m", "--json")
    done = subprocess.run(words, capture_output=True, text=True, cwd=workplace)
    assert done.returncode == 0, done.stderr
    [plan] = (workplace / "runs" / "sweep" / "latest").glob("*.0.02m.json")
    planned = json.loads(plan.read_text())
    assert planned["steps"] == max(1, round(1.2 * planned["images_per_second"] / 2))
    assert json.loads(done.stdout)["rows"][0]["images"] == planned["steps"] * 2
