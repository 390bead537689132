import math

import pytest

from tests.failures import failed
from tests.peers.kaggle import Version
from tools import console, runs

KERNEL = "ada/pix2pix-inpainting"


def test_an_empty_ledger_says_what_to_do(tools, project):
    done = tools("runs")
    assert (done.code, done.out) == (0, "")
    assert "tools push-kernel" in done.err
    assert tools("runs", "--json").json == []


def test_runs_stand_newest_first_with_what_they_changed_and_scored(tools, project):
    config = {"preset": "report", "predictor": "model", "steps": 10, "flip": True}
    first = runs.record_push(KERNEL, 1, config=config, set={"steps": 10})
    runs.record_status(first, "ERROR", "out of memory")
    ours = {"time_budget": 3.75, "resume_from": "/kaggle/input"}
    second = runs.record_push(KERNEL, 2, config=config | {"steps": 20} | ours)
    runs.record_status(second, "COMPLETE")
    metrics = {"hole_rmse": {"model": 0.14154}, "ratio_to_harmonic": {"model": 0.91234}}
    runs.record_outputs(
        second,
        complete=True,
        status="COMPLETE",
        files=[{"verified": True}] * 7 + [{}],
        metrics=metrics,
    )
    runs.record_submission(second.folder, {"ref": 1, "score": 0.17})
    runs.record_submission(second.folder, {"ref": 2, "score": 0.16737})

    newest, oldest = tools("runs", "--json").json
    assert newest["run"] == "pix2pix-inpainting/v2"
    assert newest["config"] == {"steps": 20}
    assert (newest["status"], newest["outputs"]) == ("COMPLETE", "7 verified")
    assert (newest["hole_rmse"], newest["ratio_to_harmonic"]) == (0.14154, 0.91234)
    assert newest["leaderboard"] == 0.16737
    assert (oldest["status"], oldest["config"]) == ("ERROR", {"preset": "report", "steps": 10})
    assert oldest["leaderboard"] is None

    table = tools("runs").out
    for cell in ("v2", "steps=20", "0.1415", "0.912", "0.16737", "7 verified", "ERROR"):
        assert cell in table


def test_in_a_narrow_terminal_every_column_stays_whole_in_several_lines(
    tools, project, monkeypatch
):
    runs.record_push(KERNEL, 3, set={"width": 96})
    monkeypatch.setattr(console.stdout, "width", 50)
    lines = [line.split("│") for line in tools("runs").out.splitlines() if "│" in line]
    columns = ["".join(cell.strip() for cell in column) for column in zip(*lines, strict=True)]
    assert columns[1] == "pix2pix-inpainting/v3" and "width=96" in columns[-2]


def test_partial_outputs_are_told_apart(tools, project):
    run = runs.record_push(KERNEL, 1)
    runs.record_outputs(run, complete=False, status="ERROR", files=[{}, {}])
    assert tools("runs", "--json").json[0]["outputs"] == "2 of a failed run"
    runs.record_outputs(run, complete=False, status="COMPLETE", files=[{}])
    assert tools("runs", "--json").json[0]["outputs"] == "1, not all"


def test_a_version_that_was_pushed_elsewhere_is_entered_and_fetched(tools, project, server):
    own = runs.record_push(KERNEL, 1)
    there = "ada/pix2pix-other"
    server.kernels[there] = [Version(1, {}), Version(2, {}, ["COMPLETE"], outputs={"a.txt": b"a"})]
    newest, added = tools("runs", "--json", "--add", f"{there}/v2").json
    assert newest["run"] == own.short
    assert (added["run"], added["status"], added["pushed_at"]) == (
        "pix2pix-other/v2",
        "COMPLETE",
        None,
    )
    assert "pix2pix-other/v2" in tools("runs").out
    assert tools("wait", "pix2pix-other/v2").code == 0
    assert tools("fetch-outputs", "pix2pix-other/v2").code == 8  # no run.json to verify it by
    assert (runs.find("pix2pix-other/v2").outputs_folder / "a.txt").read_bytes() == b"a"


def test_what_cannot_be_entered_changes_nothing(tools, project, server):
    runs.record_push(KERNEL, 1, set={"steps": 10})
    server.kernels["eve/pix2pix-inpainting"] = [Version(1, {}, ["COMPLETE"])]
    for wrong, words in (
        (f"{KERNEL}/v1", f"The ledger has {KERNEL} v1 already"),
        ("eve/pix2pix-inpainting/v1", f"The ledger has {KERNEL} v1 already"),
        ("pix2pix-inpainting/v2", "Write it as owner/slug/v3"),
        ("v2", "Write it as owner/slug/v3"),
        ("../x/v2", "Write it as owner/slug/v3"),
        ("ada/../v2", "Write it as owner/slug/v3"),
    ):
        failed(1, tools("runs", "--add", wrong), words)
    failed(3, tools("runs", "--add", f"{KERNEL}/v7"))
    [row] = tools("runs", "--json").json
    assert row["config"] == {"steps": 10}


@pytest.mark.parametrize(
    "odd",
    [10**400, -(10**400), math.inf, math.nan, True, "0.14", None],
    ids=lambda odd: str(odd)[:6],
)
def test_a_score_that_is_no_finite_number_is_left_out(tools, project, odd):
    run = runs.record_push(KERNEL, 1, config={"predictor": "model"})
    metrics = {"hole_rmse": {"model": odd}, "ratio_to_harmonic": {"model": 1}}
    runs.record_outputs(run, complete=False, files=[], metrics=metrics)
    runs.record_submission(run.folder, {"ref": 1, "score": odd})
    runs.record_submission(run.folder, {"ref": 2, "score": 0.25})
    [row] = tools("runs", "--json").json
    assert (row["hole_rmse"], row["ratio_to_harmonic"], row["leaderboard"]) == (None, 1.0, 0.25)
    done = tools("runs")
    assert done.code == 0, done.err
    assert "1.000" in done.out and "0.25000" in done.out


def test_what_a_run_wrote_is_shown_as_text_even_if_it_is_strange(tools, project):
    run = runs.record_push(KERNEL, 1, config={"preset": "[/] [red]x"})
    runs.record_outputs(run, complete=False, files=[], metrics=["no", "mapping"])
    done = tools("runs")
    assert done.code == 0
    assert "preset=[/] [red]x" in done.out
