"""Submissions whose answer was lost, to a Kaggle that lists them late: nothing is sent twice."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tests.failures import failed
from tests.peers.kaggle import Drop, Hang, Lost, Reply
from tests.testset import rows, write_submission, write_test_set
from tools import runs, submitter

CREATE, LIST = "CreateSubmission", "ListSubmissions"
UNLISTED = Reply(200, {"submissions": []})
DEEP = Reply(200, b"[" * 100_000, {"Content-Type": "application/json"})


@pytest.fixture
def project(project):
    write_test_set(project / "data")
    write_submission(project / "fill.csv.gz")
    write_submission(project / "other.csv.gz", rows(value="0.5"))
    return project


@pytest.fixture
def pauses(server, monkeypatch):
    """The pauses between two looks; no time is spent in them."""
    for name, seconds in {"LOOKING": 60.0, "DOUBT": 300.0}.items():
        monkeypatch.setattr(submitter, name, seconds)
    slept = []
    clock = SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append, time=time.time)
    monkeypatch.setattr(submitter, "time", clock)
    monkeypatch.delenv("TOOLS_POLL_SECONDS")
    return slept


@pytest.fixture
def submit(tools, project, server, monkeypatch):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0")
    return lambda *arguments: tools("submit", "-m", "a fill", *(arguments or ["fill.csv.gz"]))


def intent():
    return runs.root() / "submitting.json"


def let_minutes_pass(minutes):
    then = time.time() - 60 * minutes
    os.utime(intent(), (then, then))


def test_a_submission_that_kaggle_lists_late_is_found_by_the_same_call(submit, server, pauses):
    server.faults[CREATE] = [Lost()]
    server.faults[LIST] = [None, UNLISTED, UNLISTED, UNLISTED]
    code, out, err = submit()
    assert code == 0, err
    assert "public score  0.16000" in out
    assert "Kaggle had taken submission 50000000, though its answer was lost" in err
    assert pauses[:3] == [5, 7.5, 11.25]
    assert len(server.competition.submissions) == 1
    assert not intent().exists()


def test_it_is_looked_for_during_a_minute(submit, server, pauses):
    server.faults[CREATE] = [Drop()]
    failed(6, submit(), "does not list the submission", "Run the command again in five minutes")
    assert sum(pauses) == 60
    assert len(server.called(LIST)) == 1 + 1 + len(pauses)


def test_the_next_call_finds_what_was_listed_meanwhile(submit, server, pauses):
    server.faults[CREATE] = [Lost()]
    server.faults[LIST] = [None, *[UNLISTED] * 6, UNLISTED, UNLISTED]
    failed(6, submit(), "does not list the submission")
    assert submit().code == 0
    assert len(server.competition.submissions) == 1
    assert not intent().exists()


def test_nothing_is_sent_while_kaggle_may_list_a_submission_yet(submit, server, pauses):
    server.faults[CREATE] = [Drop()]
    failed(6, submit(), "does not list the submission")
    pauses.clear()
    failed(
        6,
        submit(),
        "Nothing was sent: the answer to fill.csv.gz was lost, and Kaggle, which may be late, "
        "does not list it yet. Run the command again in five minutes",
        "add --again",
    )
    assert sum(pauses) == 60
    assert len(server.called(CREATE)) == 1


def test_again_sends_it_all_the_same(submit, server, pauses):
    server.faults[CREATE] = [Drop()]
    failed(6, submit(), "does not list the submission")
    assert submit("fill.csv.gz", "--again").code == 0
    assert len(server.competition.submissions) == 1


def test_minutes_later_it_was_never_taken(submit, server, pauses):
    server.faults[CREATE] = [Drop()]
    failed(6, submit(), "does not list the submission")
    let_minutes_pass(4)
    failed(6, submit(), "Nothing was sent")
    let_minutes_pass(6)
    done = submit()
    assert done.code == 0, done.err
    assert "Kaggle does not list what was submitted last, when its answer was lost" in done.err
    assert len(server.competition.submissions) == 1
    assert not intent().exists()


def test_the_minutes_count_from_when_the_answer_was_lost(submit, server, monkeypatch, pauses):
    def note_long_before(path, text):
        path.write_text(text)
        let_minutes_pass(10)

    monkeypatch.setattr(submitter, "write_whole", note_long_before)
    server.faults[CREATE] = [Lost()]
    server.faults[LIST] = [None, *[UNLISTED] * 99]
    assert submit().code == 6
    failed(6, submit(), "Nothing was sent")
    assert len(server.competition.submissions) == 1


def test_a_project_may_be_moved_meanwhile(submit, server, project, monkeypatch, pauses):
    server.faults[CREATE] = [Lost()]
    server.faults[LIST] = [None, *[UNLISTED] * 9]
    assert submit().code == 6
    moved = project.rename(project.with_name("moved"))
    monkeypatch.chdir(moved)
    server.faults[LIST].clear()
    assert submit().code == 0
    assert not project.exists()
    assert submit().code == 0
    assert len(server.competition.submissions) == 1


@pytest.mark.parametrize("again", [(), ("--again",)])
def test_another_file_does_not_make_it_forgotten(submit, server, pauses, again):
    server.faults[CREATE] = [Lost()]
    server.faults[LIST] = [None, *[UNLISTED] * 20]
    failed(6, submit(), "does not list the submission")
    done = submit("other.csv.gz", *again)
    failed(6, done, "Nothing was sent: the answer to fill.csv.gz was lost")
    assert "--again" not in done.err
    server.faults[LIST].clear()
    assert submit("other.csv.gz", *again).code == 0
    assert [(entry["ref"], entry["file"]) for entry in runs.submissions(runs.root())] == [
        (50_000_000, "fill.csv.gz"),
        (50_000_001, "other.csv.gz"),
    ]


def test_a_file_that_was_scored_is_told_whatever_else_is_in_doubt(submit, server, pauses):
    assert submit("other.csv.gz").code == 0
    server.faults[CREATE] = [Drop()]
    failed(6, submit(), "does not list the submission")
    done = submit("other.csv.gz")
    assert (done.code, "public score  0.16000" in done.out) == (0, True)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Reply(401, {"code": 401, "message": "Unauthenticated"}), 7),
        (Reply(429, {"code": 429, "message": "slow"}, {"Retry-After": "60"}), 6),
        (Reply(400, {"code": 400, "message": "no"}), 3),
    ],
)
def test_what_kaggle_did_not_take_for_sure_is_in_no_doubt(submit, server, pauses, fault, code):
    server.faults[CREATE] = [fault]
    assert submit().code == code
    assert not intent().exists()
    assert submit().code == 0
    assert len(server.competition.submissions) == 1


@pytest.mark.parametrize("answer", [DEEP, Reply(200, {"message": "Well", "ref": "50000000"})])
def test_an_odd_answer_is_looked_up(submit, server, answer):
    server.faults[CREATE] = [Lost(answer)]
    done = submit()
    assert done.code == 0, done.err
    assert "Kaggle had taken submission 50000000" in done.err
    assert len(server.competition.submissions) == 1


@pytest.fixture
def interrupted(project, server, monkeypatch):
    """Press Ctrl-C in a submission once so many calls of a method arrived; what it said."""
    monkeypatch.setenv("TOOLS_TIMEOUT", "60")

    def run(name, count=1):
        command = [sys.executable, "-m", "tools", "submit", "-m", "a fill", "fill.csv.gz"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
            try:
                server.wait_for(name, count)
                program.send_signal(signal.SIGINT)
                said = program.communicate(timeout=60)[1]
            finally:
                program.kill()
        assert program.returncode == 130
        assert "Traceback" not in said
        return said

    return run


def test_ctrl_c_while_it_is_sent_says_that_kaggle_has_taken_it(interrupted, submit, server):
    server.faults[CREATE] = [Lost(Hang())]
    said = interrupted(CREATE)
    assert "Kaggle had taken submission 50000000" in said
    assert "Submission 50000000 goes on. Wait on, and upload nothing, with: tools submit" in said
    assert submit().code == 0
    assert len(server.competition.submissions) == 1


@pytest.mark.parametrize("listed", [UNLISTED, Reply(500), Reply(403)])
def test_ctrl_c_while_it_is_sent_says_that_nothing_is_known(interrupted, submit, server, listed):
    server.faults[CREATE] = [Lost(Hang())]
    server.faults[LIST] = [None, listed]
    said = interrupted(CREATE)
    assert "It is not known whether Kaggle took it. Run the command again in five minutes" in said
    assert submit().code == 0
    assert len(server.competition.submissions) == 1


def test_ctrl_c_while_it_is_looked_for_says_that_nothing_is_known(interrupted, submit, server):
    server.faults[CREATE] = [Lost()]
    server.faults[LIST] = [None, *[UNLISTED] * 3]
    said = interrupted(LIST, 2)
    assert "It is not known whether Kaggle took it. Run the command again in five minutes" in said
    server.faults[LIST].clear()
    assert submit().code == 0
    assert len(server.competition.submissions) == 1
