import pytest

from tests.failures import failed
from tests.testset import write_submission, write_test_set
from tools import console, runs

KERNEL = "ada/pix2pix-inpainting"


@pytest.fixture
def project(project):
    write_test_set(project / "data")
    write_submission(project / "fill.csv")
    return project


def list_of(server, count, **facts):
    server.competition.submissions = [
        {
            "ref": 50_000_000 + index,
            "date": f"2026-11-{index % 28 + 1:02}T06:30:00Z",
            "description": f"my {index}",
            "fileName": "by hand.csv",
            "teamName": "ada",
            "states": ["COMPLETE"],
            **facts,
        }
        for index in range(count)
    ]
    server.competition.contents = [str(index).encode() for index in range(count)]


def test_kaggles_list_is_shown_newest_first_with_what_made_each(tools, project, server):
    list_of(server, 4)
    scores = {b"0": "0.20000", b"1": "0.16000", b"2": "0.16000", b"3": ""}
    server.competition.score = scores.get
    probe = {"ref": 50_000_000, "file": str(project / "runs/p.csv.gz"), "probe": {}, "score": 0.2}
    runs.record_submission(runs.root(), probe | {"competition": "photo-reconstruction"})
    run = runs.record_push(KERNEL, 3)
    runs.record_submission(run.folder, {"ref": 50_000_002, "file": "runs/x/submission.csv.gz"})
    server.competition.submissions[3]["states"] = ["PENDING"]

    waiting, trained, by_hand, fill = tools("submissions", "--json").json
    assert (waiting["status"], waiting["score"], waiting["ratio_to_report"]) == (
        "PENDING",
        None,
        None,
    )
    assert trained == {
        "ref": 50_000_002,
        "date": "2026-11-03T06:30:00Z",
        "status": "COMPLETE",
        "score": 0.16,
        "private_score": None,
        "ratio_to_report": 0.16 / 0.16737,
        "ratio_to_harmonic": 0.16 / 0.2,
        "made_by": "pix2pix-inpainting/v3",
        "message": "my 2",
        "error": "",
    }
    assert (by_hand["made_by"], fill["made_by"]) == ("by hand.csv", "runs/p.csv.gz")

    head, *lines = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")]
        for line in tools("submissions").out.splitlines()
        if "│" in line or "┃" in line
    ]
    assert head == ["submission", "made", "public", "/ harm.", "/ report", "what"]
    made = console.moment("2026-11-04T06:30:00Z")
    assert lines[0] == ["50000003", made, "", "", "", "PENDING; by hand.csv; my 3"]
    assert lines[1][2:] == ["0.16000", "0.800", "0.956", "pix2pix-inpainting/v3; my 2"]


def test_private_scores_and_reasons_are_shown_where_kaggle_tells_them(tools, project, server):
    server.competition.private_score = "0.17000"
    list_of(server, 1)
    assert " 0.17000 " in tools("submissions").out
    server.competition.error = "Columns\nare [wrong"
    list_of(server, 1, states=["ERROR"])
    assert "ERROR Columns are [wrong; by hand.csv; my 0" in tools("submissions").out


def test_every_page_is_listed(tools, project, server):
    list_of(server, 201)
    assert len(tools("submissions", "--json").json) == 201


def test_none_and_no_access_are_told_apart(tools, project, server):
    done = tools("submissions")
    assert (done.code, done.out) == (0, "")
    assert "tools submit" in done.err
    assert tools("submissions", "--json").json == []
    server.competition.accepted_rules = False
    failed(3, tools("submissions"), "Were the rules accepted")


def test_what_kaggle_tells_later_is_entered_in_the_ledger(tools, project, server):
    server.competition.states = ["PENDING"]
    assert tools("submit", "-m", "a fill", "fill.csv", "--timeout", "0").code == 5
    [submission] = server.competition.submissions
    submission["states"] = ["COMPLETE"]
    tools("submissions")
    assert tools("submit", "-m", "a fill", "fill.csv").err.endswith("add --again\n")
    server.competition.private_score = "0.17"
    tools("submissions")
    server.competition.private_score = ""  # what is not told any more is not forgotten
    tools("submissions")
    [entry] = runs.submissions(runs.root())
    assert (entry["score"], entry["private_score"], entry["file"]) == (0.16, 0.17, "fill.csv")
    written = (runs.root() / "submissions.jsonl").read_bytes()
    tools("submissions")
    assert (runs.root() / "submissions.jsonl").read_bytes() == written


def test_an_odd_answer_is_one_line(tools, project, server):
    list_of(server, 1, date=None)
    assert [row["date"] for row in tools("submissions", "--json").json] == [""]
    list_of(server, 1, date="yesterday")
    failed(3, tools("submissions"), "makes no sense while listing the submissions")


def test_a_submission_is_listed_with_its_score(tools, project, server):
    assert tools("submit", "-m", "a fill", "fill.csv").code == 0
    [row] = tools("submissions", "--json").json
    assert (row["made_by"], row["message"], row["score"]) == ("fill.csv", "a fill", 0.16)
