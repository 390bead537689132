import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.peers.kaggle import Drop, Hold, Lost, Reply
from tests.peers.scoring import scorer
from tests.project import PROJECT
from tests.testset import SPOTS, rows, write_submission, write_test_set
from tools import runs, settings, submission_file
from tools.holes import find_masked_info, read_holes

SCORES = {"bgr-unit": "0.205", "bgr-minmax": "0.204", "rgb-unit": "0.165", "rgb-minmax": "0.16"}


@pytest.fixture
def project(project):
    (project / "tools.toml").write_text("# mine\nchannel_order = 'bgr'\n")
    shutil.copy(PROJECT / "kernel" / "pix2pix.py", project / "kernel")
    write_test_set(project / "data")
    return project


@pytest.fixture(autouse=True)
def impatient(server, monkeypatch):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0")


@pytest.fixture(scope="session")
def fills(tmp_path_factory):
    """The four files, as an earlier call has written them."""
    folder = tmp_path_factory.mktemp("fills")
    for number, way in enumerate(SCORES):
        (folder / way).mkdir()
        write_submission(folder / way / "submission.csv.gz", rows(value=f"0.{number}"))
    return folder


@pytest.fixture
def written(project, server, fills):
    """A project whose fills are written, and a Kaggle that scores them."""
    shutil.copytree(fills, project / "runs" / "probe")
    names = {path.read_bytes(): path.parent.name for path in fills.glob("*/*.gz")}
    server.competition.score = lambda content: SCORES[names[content]]
    return project


@pytest.fixture
def probe(tools):
    return lambda *arguments: tools("probe", *arguments)


def descriptions(server):
    return [submission["description"] for submission in server.competition.submissions]


def test_all_four_are_submitted_and_the_best_becomes_the_projects_setting(probe, written, server):
    code, out, err = probe("--yes")
    assert code == 0
    assert descriptions(server) == [
        "harmonic fill, bgr, unit",
        "harmonic fill, bgr, minmax",
        "harmonic fill, rgb, unit",
        "harmonic fill, rgb, minmax",
    ]
    best = next(line for line in out.splitlines() if "0.16000" in line)
    assert best.split()[1::2] == ["rgb", "minmax", "50000003", "0.16000", "1.000"]
    assert err.splitlines()[-1].startswith(
        "channel_order = rgb and value_scale = minmax are set in "
    )
    chosen = settings.load(written)
    assert (chosen.channel_order, chosen.value_scale) == ("rgb", "minmax")
    assert (written / "tools.toml").read_text().startswith("# mine\n")


def test_a_second_call_submits_nothing_and_says_the_same(probe, written, server):
    first = probe("--yes", "--json").json
    assert first["best"] == {"channel_order": "rgb", "value_scale": "minmax"}
    second = probe("--json").json
    assert second["best"] == first["best"]
    assert [entry["ref"] for entry in second["submissions"]] == [50_000_000 + i for i in range(4)]
    assert len(server.competition.submissions) == 4


def test_the_daily_limit_stops_it_and_the_next_day_goes_on(probe, written, server):
    server.competition.allowed_today = 3
    code, out, err = probe("--yes")
    assert (code, out) == (3, "")
    assert err.splitlines()[-1] == (
        "error: 3 of 4 fills are scored, and no submission is left today. "
        "The same command goes on with the others after 0:00 UTC."
    )
    assert settings.load(written).channel_order == "bgr"
    code, _, err = probe("--yes")
    assert code == 3
    assert "No submission to photo-reconstruction is left" in err
    server.competition.allowed_today = 6
    assert probe("--yes").code == 0
    assert len(server.competition.submissions) == 4
    assert settings.load(written).channel_order == "rgb"


def test_one_that_was_not_scored_in_time_is_waited_for_by_the_next_call(probe, written, server):
    server.competition.states = ["PENDING", "PENDING", "COMPLETE"]
    code, _, err = probe("--yes", "--timeout", "0")
    assert code == 5
    assert "submission 50000000" in err
    assert "tools probe" in err
    server.competition.states = ["COMPLETE"]
    assert probe("--yes").code == 0
    assert len(server.competition.submissions) == 4


def test_a_lost_answer_submits_nothing_twice(probe, written, server):
    server.faults["GetSubmission"] = [None, None, Drop()]
    assert probe("--yes").code == 6
    assert probe("--yes").code == 0
    assert len(server.competition.submissions) == 4


def test_a_submission_whose_answer_was_lost_is_found_by_the_next_call(probe, written, server):
    server.faults["CreateSubmission"] = [Lost()]
    server.faults["ListSubmissions"] = [None, Drop(), None]
    assert probe("--yes").code == 6
    assert probe("--yes").code == 0
    assert len(server.competition.submissions) == 4


@pytest.mark.parametrize("late", [1, 2])
def test_a_submission_that_kaggle_lists_late_is_not_sent_again(probe, written, server, late):
    server.faults["CreateSubmission"] = [Lost()]
    unlisted = Reply(200, {"submissions": []})
    server.faults["ListSubmissions"] = [None, unlisted, *[unlisted] * late]
    assert probe("--yes").code == 6
    assert probe("--yes").code == 0
    assert len(server.competition.submissions) == 4


def test_nothing_is_sent_while_kaggle_may_list_a_submission_yet(
    probe, written, server, monkeypatch
):
    monkeypatch.setattr("tools.submitter.LOOKING", 0.1)
    monkeypatch.setattr("tools.submitter.DOUBT", 300.0)
    server.faults["CreateSubmission"] = [Lost()]
    server.faults["ListSubmissions"] = [None, *[Reply(200, {"submissions": []})] * 1000]
    assert probe("--yes").code == 6
    code, _, err = probe("--yes")
    assert (code, len(server.called("CreateSubmission"))) == (6, 1)
    assert "Nothing was sent" in err and "--again" not in err
    server.faults["ListSubmissions"].clear()
    assert probe("--yes").code == 0
    assert len(server.competition.submissions) == 4
    assert not (runs.root() / "submitting.json").exists()


def test_one_that_kaggle_could_not_score_exits_3_and_is_sent_again_by_the_next_call(
    probe, written, server
):
    server.competition.states = ["ERROR"]
    server.competition.error = "Scoring failed"
    code, _, err = probe("--yes")
    assert code == 3
    assert err.splitlines()[-1].endswith("Scoring failed. The same command submits it once more.")
    server.competition.states = ["COMPLETE"]
    server.competition.allowed_today = 9
    assert probe("--yes").code == 0
    assert len(server.competition.submissions) == 5


def test_hidden_scores_exit_3_and_leave_the_settings_alone(probe, written, server):
    server.competition.score = lambda content: ""
    code, _, err = probe("--yes")
    assert code == 3
    assert "Set channel_order and value_scale in tools.toml by hand" in err
    assert (written / "tools.toml").read_text() == "# mine\nchannel_order = 'bgr'\n"


def test_without_anybody_to_ask_nothing_is_submitted(probe, written, server, monkeypatch):
    monkeypatch.setattr(sys, "stdin", open(os.devnull))
    code, _, err = probe()
    assert code == 1
    assert err.splitlines()[-1] == (
        "error: There is nobody to ask whether to submit. Add --yes to submit 4 files to "
        "photo-reconstruction today."
    )
    assert server.competition.submissions == []


@pytest.mark.parametrize(("answer", "submitted", "code"), [(b"n\n", 0, 1), (b"y\n", 4, 0)])
def test_a_person_is_asked_first(written, server, answer, submitted, code):
    ours, theirs = os.openpty()
    os.write(ours, answer)
    command = [sys.executable, "-m", "tools", "probe"]
    done = subprocess.run(command, stdin=theirs, capture_output=True, text=True)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == code, done.stderr
    assert "Submit 4 files to photo-reconstruction today?" in done.stderr
    assert len(server.competition.submissions) == submitted


def test_a_question_holds_up_nobody_and_what_was_sent_meanwhile_is_not_sent_again(
    probe, written, server
):
    server.competition.allowed_today = 8
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "tools", "probe"]
    asked = subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = ""
    while "Submit 4 files" not in said and (letter := asked.stderr.read(1)):
        said += letter
    first = probe("--yes")
    os.write(ours, b"y\n")
    out, err = asked.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert (first.code, asked.returncode) == (0, 0), said + err
    assert first.out in out
    assert len(server.competition.submissions) == 4


@pytest.fixture
def in_two_terminals(server, monkeypatch):
    """Run a command while another one's submission is on its way; what was seen in between."""
    monkeypatch.setenv("TOOLS_TIMEOUT", "60")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

    def run(*commands):
        hold = Hold()
        server.faults["CreateSubmission"] = [hold]
        first, second = ([sys.executable, "-m", "tools", *command] for command in commands)
        sending = subprocess.Popen(first, **pipes)
        server.wait_for("CreateSubmission")
        waiting = subprocess.Popen(second, **pipes)
        line = next((line for line in waiting.stderr if "waiting until it has" in line), "")
        listed = len(server.called("ListSubmissions"))
        hold.let_go.set()
        said = [program.communicate(timeout=120) for program in (sending, waiting)]
        assert [sending.returncode, waiting.returncode] == [0, 0], said
        return line.strip(), listed

    return run


def test_two_terminals_submit_four_fills(in_two_terminals, written, server):
    server.competition.allowed_today = 8
    line, _ = in_two_terminals(["probe", "--yes"], ["probe", "--yes"])
    assert line == "another `tools probe` goes on: waiting until it has ended"
    assert len(server.competition.submissions) == 4


def test_what_another_terminal_is_submitting_is_left_to_it(in_two_terminals, written, server):
    file = "runs/probe/bgr-unit/submission.csv.gz"
    line, listed = in_two_terminals(["submit", "-m", "mine", file], ["probe", "--yes"])
    assert line == "another `tools submit` is sending: waiting until it has"
    assert listed == 1  # by the one that sends
    assert descriptions(server)[0] == "mine"
    assert len(server.competition.submissions) == 5
    assert len(runs.submissions(runs.root())) == 5


def test_rules_that_are_not_accepted_exit_3_before_anything_is_written(probe, project, server):
    server.competition.accepted_rules = False
    code, _, err = probe("--yes")
    assert code == 3
    assert "competitions/photo-reconstruction/rules" in err
    assert not (project / "runs" / "probe").exists()


def test_the_kernel_writes_the_four_ways_and_true_scores_tell_the_right_one(project, server):
    test = project / "data" / "Dataset" / "Testing_Data"
    for number, (name, *_) in enumerate(SPOTS):
        gray = Image.linear_gradient("L").rotate(90 * number).point(lambda value: 50 + value // 2)
        # Three colours that differ, and none of them from end to end: the four ways differ too.
        colours = [gray, gray.transpose(Image.Transpose.ROTATE_180), gray.point(lambda v: v // 2)]
        Image.merge("RGB", colours).save(test / name)
    server.competition.score = scorer(test, channel_order="rgb")
    command = [sys.executable, "-m", "tools", "probe", "--yes"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    chosen = settings.load(project)
    assert (chosen.channel_order, chosen.value_scale) == ("rgb", "unit")
    assert len(set(server.competition.contents)) == 4
    holes = read_holes(find_masked_info(project / "data"))
    for way, content in zip(SCORES, server.competition.contents, strict=True):
        written = runs.root() / "probe" / way / "submission.csv.gz"
        assert written.read_bytes() == content
        assert submission_file.check(written, holes).rows == 101_250
        run = json.loads((written.parent / "run.json").read_text())
        assert run["config"]["predictor"] == "harmonic"
        wrote = run["submission"]
        assert f"{wrote['channel_order']}-{wrote['value_scale']}" == way


def test_a_mistake_that_the_kernel_names_is_told_in_its_words(probe, project, server):
    code, _, err = probe("--yes")
    assert code == 1
    assert "error: " in err and "Traceback" not in err
    assert "cat_1.jpg is in masked_info.csv but not there" in err
    assert server.competition.submissions == []
