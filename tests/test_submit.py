import gzip
import hashlib
import json
import math
import os
import signal
import subprocess
import sys

import pytest

from tests.failures import failed
from tests.peers.kaggle import Cut, Drop, Hang, Hold, Lost, Reply, Version
from tests.testset import rows, write_submission, write_test_set
from tools import runs, settings
from tools.submitter import Submitter

CREATE, UPLOAD = "CreateSubmission", "upload"
BUSY = Reply(429, {"code": 429, "message": "Too many requests"}, {"Retry-After": "0"})
GATEWAY = Reply(429, {"error": {"code": 429}}, {"Retry-After": "0"})
PAGE = Reply(200, b"<html>Please sign in</html>", {"Content-Type": "text/html"})
UNNAMED = Reply(200, {"message": "Successfully submitted to photo-reconstruction"})
NOT_YET = Reply(404, {"code": 404, "message": "Submission not found"})


@pytest.fixture(scope="session")
def fill(tmp_path_factory):
    return write_submission(tmp_path_factory.mktemp("fill") / "fill.csv.gz").read_bytes()


@pytest.fixture
def project(project, fill):
    write_test_set(project / "data")
    (project / "fill.csv.gz").write_bytes(fill)
    return project


@pytest.fixture(autouse=True)
def impatient(server, monkeypatch):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0")


@pytest.fixture
def submit(tools, project, server):
    return lambda *arguments: tools("submit", "-m", "a fill", "fill.csv.gz", *arguments)


def ledger():
    return runs.submissions(runs.root())


def intent():
    return runs.root() / "submitting.json"


def test_a_program_checks_uploads_waits_and_prints_score_ratio_and_rank(project, server):
    done = subprocess.run(
        [sys.executable, "-m", "tools", "submit", "--message", "a fill", "fill.csv.gz"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "submission 50000000 to photo-reconstruction",
        "public score  0.16000",
        "ratio to the report's 0.16737  0.956",
        "rank  2 of 4",
    ]
    assert "101,250 rows, all of them right" in done.stderr
    assert server.competition.contents == [(project / "fill.csv.gz").read_bytes()]
    assert server.competition.submissions[0]["description"] == "a fill"


def test_a_message_with_a_separator_of_lines_is_submitted_once(tools, project, server):
    for _ in range(2):
        assert tools("submit", "-m", "one\u2028two", "fill.csv.gz").code == 0
    assert len(server.competition.submissions) == 1


def test_json_is_the_ledgers_entry_and_its_ratios(submit, server):
    code, out, _ = submit("--json")
    entry = json.loads(out)
    assert code == 0
    assert entry | {"sha256": "", "submitted_at": ""} == {
        "ref": 50_000_000,
        "status": "COMPLETE",
        "competition": "photo-reconstruction",
        "submitted_at": "",
        "file": "fill.csv.gz",
        "sha256": "",
        "message": "a fill",
        "score": 0.16,
        "private_score": None,
        "error": "",
        "ratio_to_harmonic": None,
        "ratio_to_report": 0.16 / 0.16737,
        "rank": 2,
        "teams": 4,
    }
    [noted] = ledger()
    assert {name for name in entry if entry[name] != noted.get(name)} == {"ratio_to_report"}
    assert not intent().exists()


def test_a_code_submissions_way_back_names_its_run(tools, project, server, fill):
    kernel, name = "ada/pix2pix-inpainting", "submission.csv.gz"
    run = runs.record_push(kernel, 1)
    run.outputs_folder.mkdir()
    (run.outputs_folder / name).write_bytes(fill)
    server.kernels[kernel] = [Version(1, {}, ["COMPLETE"], outputs={name: fill})]
    server.competition.states = ["PENDING"]
    done = tools("submit", "--code", "-m", "a fill", "--timeout", "0")
    failed(5, done, "tools submit --message 'a fill' pix2pix-inpainting/v1 --code")


def test_a_score_is_compared_with_what_the_probes_best_fill_had(submit, server):
    server.competition.private_score = "0.16100"
    for ref, score in ((1, 0.25), (2, 0.2), (3, None), (4, 10**400), (5, math.nan)):
        entry = {"ref": ref, "competition": "photo-reconstruction", "score": score}
        runs.record_submission(runs.root(), entry | {"probe": {"channel_order": "bgr"}})
    elsewhere = {"ref": 6, "competition": "another", "score": 0.1, "probe": {}}
    runs.record_submission(runs.root(), elsewhere)
    runs.record_submission(runs.root(), elsewhere | {"ref": 7, "probe": None})
    assert submit().out.splitlines()[1:4] == [
        "public score  0.16000",
        "private score  0.16100",
        "ratio to the harmonic fill's  0.800",
    ]


def test_a_wrong_file_exits_1_before_kaggle_hears_of_it(submit, project, server):
    lines = rows()
    lines[7] = lines[7].replace("0.411765", "105.0")
    write_submission(project / "fill.csv.gz", lines)
    failed(1, submit(), "fill.csv.gz, line 9: '105.0' is not a number in [0, 1]", "by 255")
    assert server.calls == []
    assert not runs.root().exists()


def test_a_damaged_file_exits_8(submit, project, server):
    whole = (project / "fill.csv.gz").read_bytes()
    (project / "fill.csv.gz").write_bytes(whole[:-100])
    failed(8, submit(), "fill.csv.gz is cut off or damaged")
    assert server.calls == []


def test_without_the_competitions_data_it_says_where_to_get_it(submit, project, tmp_path):
    (project / "data").rename(project / "elsewhere")
    failed(1, submit(), str(project / "data"), "--data DIR")
    assert submit("--data", "elsewhere").code == 0


def test_a_file_that_changes_after_it_was_checked_is_not_submitted(project, server):
    hold = Hold()
    server.faults["GetSubmissionLimits"] = [hold]
    command = [sys.executable, "-m", "tools", "submit", "--message", "a fill", "fill.csv.gz"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        server.wait_for("GetSubmissionLimits")
        write_submission(project / "fill.csv.gz", rows(value="0.5"))
        hold.let_go.set()
        said = running.stderr.read()
    assert running.returncode == 8
    assert "fill.csv.gz has changed since it was checked; nothing was submitted." in said
    assert server.competition.submissions == []


def test_the_same_file_is_never_submitted_twice_silently(submit, project, server):
    assert submit().code == 0
    (project / "fill.csv.gz").rename(project / "renamed.csv.gz")
    os.symlink("renamed.csv.gz", project / "fill.csv.gz")
    code, out, err = submit()
    assert code == 0
    assert "public score  0.16000" in out
    assert err.splitlines()[-1] == (
        "fill.csv.gz was submitted before, as 50000000: nothing was sent. "
        "To submit it once more, add --again"
    )
    assert len(server.competition.submissions) == 1
    assert submit("--again").code == 0
    assert len(server.competition.submissions) == 2
    assert [entry["ref"] for entry in ledger()] == [50_000_000, 50_000_001]


def test_another_competition_is_another_submission(submit, server, monkeypatch):
    assert submit().code == 0
    server.competition.slug = "photo-reconstruction-2"
    monkeypatch.setenv("TOOLS_COMPETITION", "photo-reconstruction-2")
    assert submit().code == 0
    assert len(server.competition.submissions) == 2


def test_no_submission_left_today_exits_3_before_anything_is_uploaded(submit, server):
    assert submit().code == 0
    server.competition.allowed_today = 1
    failed(
        3,
        submit("--again"),
        "No submission to photo-reconstruction is left: 1 were made today, 1 in all.",
        "nothing was uploaded",
    )
    assert len(server.called("StartSubmissionUpload")) == 1


def test_no_allowance_without_any_submission_points_to_the_rules(submit, server):
    server.competition.allowed_today = 0
    failed(3, submit(), "competitions/photo-reconstruction/rules")
    assert server.called("StartSubmissionUpload") == []


def test_rules_that_are_not_accepted_exit_3_and_say_where_to_accept_them(submit, server):
    server.competition.accepted_rules = False
    failed(3, submit(), "accept the competition rules", "competitions/photo-reconstruction/rules")
    assert not intent().exists()


def test_an_unknown_competition_exits_3_and_names_the_setting(submit, monkeypatch):
    monkeypatch.setenv("TOOLS_COMPETITION", "photo-recon")
    failed(3, submit(), "'photo-recon'", "`competition` in tools.toml")


def test_a_limit_that_kaggle_enforces_only_at_the_end_exits_3(submit, server):
    server.faults[CREATE] = [Reply(400, {"code": 400, "message": "Your team used its limit."})]
    failed(3, submit(), "Your team used its limit.")
    assert ledger() == []
    assert not intent().exists()


def test_a_submission_that_kaggle_accepts_without_a_reference_is_no_success(submit, server):
    server.faults[CREATE] = [Reply(200, {"message": "Could not submit to competition"})]
    failed(3, submit(), "Could not submit to competition", "does not list the submission")
    assert ledger() == []


def test_an_answer_without_a_reference_is_kept_until_kaggle_lists_the_submission(submit, server):
    server.faults[CREATE] = [Lost(UNNAMED)]
    server.faults["ListSubmissions"] = [None, Reply(200, {"submissions": []})]
    failed(3, submit(), "Successfully submitted", "does not list", "again in five minutes")
    assert intent().is_file()
    assert submit().code == 0
    assert len(server.competition.submissions) == 1
    assert not intent().exists()


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_a_storage_that_refuses_the_upload_exits_6_and_nothing_is_submitted(submit, server, status):
    server.faults[UPLOAD] = [Reply(status, b"<Error>secret</Error>")]
    failed(6, submit(), "fill.csv.gz was not uploaded", f"the storage answered {status}")
    assert server.called(CREATE) == []
    assert ledger() == []
    assert submit().code == 0
    assert len(server.competition.submissions) == 1


def test_an_upload_that_breaks_off_goes_on_where_it_stopped(submit, project, server, monkeypatch):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "30")
    server.faults[UPLOAD] = [Cut(10_000)]
    assert submit().code == 0
    assert server.competition.contents == [(project / "fill.csv.gz").read_bytes()]
    spans = [call.headers.get("Content-Range") for call in server.calls if call.name == UPLOAD]
    assert spans[0] is None
    assert len(spans) == 3


def test_a_lost_answer_is_looked_up_and_nothing_is_submitted_twice(submit, server):
    server.faults[CREATE] = [Lost()]
    code, out, err = submit()
    assert code == 0
    assert "public score  0.16000" in out
    assert "Kaggle had taken submission 50000000, though its answer was lost" in err
    assert len(server.competition.submissions) == 1
    assert not intent().exists()


def test_a_lost_answer_that_cannot_be_looked_up_is_settled_by_the_next_call(submit, server):
    server.faults[CREATE] = [Lost()]
    server.faults["ListSubmissions"] = [None, Reply(500), None]
    failed(6, submit(), "500")
    assert intent().is_file()
    assert ledger() == []
    code, _, err = submit()
    assert code == 0
    assert "Kaggle had taken submission 50000000, though its answer was lost" in err
    assert len(server.competition.submissions) == 1
    assert not intent().exists()


def test_a_lost_answer_to_again_is_settled_by_again(submit, server):
    assert submit().code == 0
    server.faults[CREATE] = [Lost()]
    server.faults["ListSubmissions"] = [None, Reply(500)]
    failed(6, submit("--again"), "500")
    code, out, err = submit("--again")
    assert code == 0
    assert "submission 50000001" in out
    assert "fill.csv.gz was submitted before, as 50000001: waiting for its score" in err
    assert len(server.competition.submissions) == 2
    assert [entry["status"] for entry in ledger()] == ["COMPLETE", "COMPLETE"]


def test_a_lost_answer_to_another_file_does_not_stand_for_this_one(submit, tools, project, server):
    server.faults[CREATE] = [Lost()]
    server.faults["ListSubmissions"] = [None, Reply(500)]
    failed(6, submit(), "500")
    write_submission(project / "other.csv.gz", rows(value="0.5"))
    code, out, err = tools("submit", "-m", "another", "other.csv.gz", "--again")
    assert code == 0
    assert "Kaggle had taken submission 50000000, though its answer was lost" in err
    assert "submission 50000001" in out
    assert [(entry["file"], entry["status"]) for entry in ledger()] == [
        ("fill.csv.gz", "PENDING"),
        ("other.csv.gz", "COMPLETE"),
    ]


@pytest.mark.parametrize("fault", [Drop(), PAGE, Reply(502, b"<html>bad gateway</html>")])
def test_a_request_that_never_arrived_is_submitted_by_the_next_call(submit, server, fault):
    server.faults[CREATE] = [fault]
    failed(6, submit(), "does not list the submission", "Run the command again in five minutes")
    assert server.competition.submissions == []
    code, _, err = submit()
    assert code == 0
    assert "Kaggle does not list what was submitted last, when its answer was lost" in err
    assert len(server.competition.submissions) == 1
    assert not intent().exists()


def test_a_team_mates_submission_meanwhile_is_not_taken_for_ours(submit, server):
    for description in ("a fill", "another"):
        upload, _ = server.storage.announce("other.csv", 0)
        body = {"blobFileTokens": upload, "competitionName": "photo-reconstruction"}
        server.CreateSubmission(body | {"submissionDescription": description})
    server.faults[CREATE] = [Drop()]
    failed(6, submit(), "does not list the submission")
    assert ledger() == []


def test_another_submission_that_came_meanwhile_is_not_taken_for_ours(submit, server):
    upload, _ = server.storage.announce("other.csv", 0)
    body = {"blobFileTokens": upload, "competitionName": "photo-reconstruction"}
    server.CreateSubmission(body | {"submissionDescription": "another"})
    server.faults["ListSubmissions"] = [Reply(200, {"submissions": []})]  # as it was before
    server.faults[CREATE] = [Drop()]
    failed(6, submit(), "does not list the submission")
    assert len(server.called("ListSubmissions")) == 2
    assert ledger() == []


def test_a_damaged_note_of_the_last_attempt_is_named_and_kept(submit, server):
    runs.root().mkdir()
    intent().write_text('{"known": [')
    failed(1, submit(), str(intent()), "delete it")
    assert intent().is_file()
    assert server.competition.submissions == []


def test_a_new_submission_that_is_not_visible_yet_is_waited_for(submit, server):
    server.faults["GetSubmission"] = [NOT_YET, NOT_YET]
    assert submit().code == 0
    assert len(server.called("GetSubmission")) == 4


@pytest.mark.parametrize("fault", [BUSY, GATEWAY])
def test_a_busy_kaggle_is_asked_again_when_it_says(submit, server, monkeypatch, fault):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "30")
    server.faults["GetSubmission"] = [fault, fault]
    server.faults["GetSubmissionLimits"] = [fault]
    server.faults[CREATE] = [fault]
    assert submit().code == 0
    assert len(server.competition.submissions) == 1


def test_a_deadline_exits_5_with_the_way_back_and_the_way_back_works(submit, server):
    server.competition.states = ["PENDING"] * 3 + ["COMPLETE"]
    failed(
        5,
        submit("--timeout", "0"),
        "Kaggle has not scored submission 50000000 in 0 minutes",
        "tools submit --message 'a fill' fill.csv.gz",
    )
    assert [entry["status"] for entry in ledger()] == ["PENDING"]
    code, out, err = submit()
    assert code == 0
    assert "public score  0.16000" in out
    assert "fill.csv.gz was submitted before, as 50000000: waiting for its score" in err
    assert len(server.competition.submissions) == 1
    assert [entry["status"] for entry in ledger()] == ["COMPLETE"]


@pytest.mark.parametrize("fault", [Drop(), Hang(), PAGE, Reply(503)])
def test_a_wait_that_loses_kaggle_exits_6_and_can_be_taken_up_again(
    submit, server, monkeypatch, fault
):
    server.faults["GetSubmission"] = [fault]
    with monkeypatch.context() as hurried:
        if isinstance(fault, Hang):
            hurried.setenv("TOOLS_TIMEOUT", "2")
        failed(6, submit(), "asking for submission 50000000")
    assert submit().code == 0
    assert len(server.competition.submissions) == 1


def test_a_score_that_comes_meanwhile_keeps_the_note_of_what_another_is_sending(submit, server):
    server.competition.states = ["PENDING", "COMPLETE"]
    failed(5, submit("--timeout", "0"), "has not scored")
    intent().write_text("{}")  # as another terminal's, whose answer is not there yet
    entry = ledger()[-1]
    config = settings.load()
    Submitter(config, 1, ["tools"]).wait_for_score(runs.root(), entry)
    assert ledger()[-1]["score"] == 0.16
    assert intent().exists()


def test_an_outage_while_it_waits_does_not_end_a_submission(submit, server, monkeypatch):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0")
    monkeypatch.setenv("TOOLS_POLL_SECONDS", "0.01")
    server.faults["GetSubmission"] = [None, Drop(), Reply(503)]
    server.competition.states = ["PENDING", "COMPLETE"]
    code, out, err = submit()
    assert code == 0
    assert "public score  0.16000" in out
    assert err.count("Asking again") == 2


def test_a_version_that_comes_again_does_not_let_a_file_be_sent_twice(tools, pushed, server):
    assert tools("submit", "-m", "v3").code == 0
    runs.record_push("ada/pix2pix", 3)
    [path] = pushed.folder.parent.glob("earlier-v3-*/outputs/submission.csv.gz")
    done = tools("submit", "-m", "again", path)
    assert (done.code, "nothing was sent" in done.err) == (0, True)
    assert len(server.competition.submissions) == 1


@pytest.mark.parametrize(
    "answer", [Reply(524, b"<html>"), Reply(200, b"[1, 2]"), Reply(200, b"{}"), UNNAMED]
)
def test_an_answer_that_tells_nothing_is_looked_up_and_nothing_sent_twice(submit, server, answer):
    server.faults[CREATE] = [Lost(answer)]
    code, out, err = submit()
    assert code == 0, err
    assert "Kaggle had taken submission 50000000" in err
    assert submit().code == 0
    assert len(server.competition.submissions) == 1


def test_ctrl_c_leaves_the_submission_alone_and_says_how_to_come_back(project, server, submit):
    server.faults["GetSubmission"] = [Hang()]
    command = [sys.executable, "-m", "tools", "submit", "-m", "a fill", "fill.csv.gz"]
    environment = {**os.environ, "TOOLS_TIMEOUT": "60"}
    program = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    server.wait_for("GetSubmission")
    program.send_signal(signal.SIGINT)
    said = program.communicate()[1]
    assert program.returncode == 130
    assert "Submission 50000000 goes on." in said
    assert "tools submit --message 'a fill' fill.csv.gz" in said
    assert "Traceback" not in said
    assert submit().code == 0
    assert len(server.competition.submissions) == 1


def test_ctrl_c_while_the_leaderboard_is_asked_loses_no_rank(project, server, submit):
    server.faults["GetLeaderboard"] = [Hang()]
    command = [sys.executable, "-m", "tools", "submit", "-m", "a fill", "fill.csv.gz"]
    environment = {**os.environ, "TOOLS_TIMEOUT": "60"}
    program = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
    server.wait_for("GetLeaderboard")
    program.send_signal(signal.SIGINT)
    program.communicate()
    assert program.returncode == 130
    assert "rank  2 of 4" in submit().out
    assert len(server.competition.submissions) == 1


def test_an_answer_that_says_nothing_waits_until_the_deadline(submit, server):
    server.faults["GetSubmission"] = [Reply(200, {})]
    failed(5, submit("--timeout", "0"), "has not scored")


def test_an_unknown_status_word_exits_3(submit, server):
    server.faults["GetSubmission"] = [Reply(200, {"ref": 50_000_000, "status": "WEIRD"})]
    failed(3, submit(), "makes no sense")


def test_a_submission_that_kaggle_could_not_score_exits_3_with_kaggles_reason(submit, server):
    server.competition.states = ["PENDING", "ERROR"]
    server.competition.error = "Submission must have\n6750000 rows \x1b[31m"
    words = "could not score submission 50000000 (fill.csv.gz): Submission must have 6750000 rows"
    failed(3, submit(), words, "--again")
    assert [entry["status"] for entry in ledger()] == ["ERROR"]
    failed(3, submit(), words)
    assert len(server.competition.submissions) == 1
    server.competition.states = ["COMPLETE"]
    assert submit("--again").code == 0


def test_a_score_that_is_not_shown_is_no_failure(submit, server):
    server.competition.score = lambda content: ""
    code, out, _ = submit()
    assert code == 0
    assert "public score  none shown" in out
    assert "ratio" not in out


def test_a_leaderboard_that_is_not_shown_costs_the_rank_alone(submit, server):
    server.faults["GetLeaderboard"] = [Reply(403, {"code": 403, "message": "hidden"})]
    code, out, err = submit("--json")
    assert code == 0
    assert json.loads(out)["score"] == 0.16
    assert "rank" not in json.loads(out)
    assert err.splitlines()[-1].startswith("The rank is not known: ")


def test_the_team_itself_does_not_count_against_its_rank(submit, server):
    server.page_size = 2
    server.competition.leaderboard = [("ada", "0.1"), ("b", "0.15"), ("c", "0.2"), ("d", "")]
    assert submit("--json").json["rank"] == 2
    assert {body.get("overridePublic") for body in server.called("GetLeaderboard")} == {True}


def test_missing_and_refused_credentials_exit_7(submit, server, monkeypatch):
    server.key = "another"
    failed(7, submit(), "did not accept")
    monkeypatch.delenv("KAGGLE_KEY")
    failed(7, submit(), "no Kaggle credentials")


def test_an_upload_to_an_address_that_is_not_safe_is_refused(submit, server):
    answer = {"token": "t", "createUrl": "http://example.com/upload"}
    server.faults["StartSubmissionUpload"] = [Reply(200, answer)]
    failed(8, submit(), "not HTTPS")
    assert server.called(CREATE) == []


@pytest.fixture
def pushed(project, server, fill):
    """A run whose outputs were fetched."""
    run = runs.record_push("ada/pix2pix", 3)
    (run.folder / "outputs").mkdir()
    path = run.folder / "outputs" / "submission.csv.gz"
    path.write_bytes(fill)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    files = [{"name": path.name, "sha256": digest, "verified": True}]
    run = runs.record_outputs(run, folder=path.parent, files=files)
    server.kernels["ada/pix2pix"] = []
    for _ in range(3):
        version = server.add_version("ada/pix2pix", states=["COMPLETE"])
    version.outputs["submission.csv.gz"] = path.read_bytes()
    return run


def test_without_a_file_the_newest_runs_submission_goes_and_is_noted_there(tools, pushed, server):
    code, out, _ = tools("submit", "-m", "v3", "--json")
    assert code == 0
    assert json.loads(out)["file"] == str(pushed.folder / "outputs" / "submission.csv.gz")
    [noted] = runs.read(pushed.folder).submissions
    assert noted["score"] == 0.16
    assert ledger() == []
    assert server.competition.submissions[0]["fileName"] == "submission.csv.gz"


def test_a_run_can_be_named(tools, pushed, server):
    runs.record_push("ada/pix2pix", 4)
    failed(1, tools("submit", "-m", "v4"), "v4/outputs/submission.csv.gz")
    assert tools("submit", "-m", "v3", "v3").code == 0
    assert tools("submit", "-m", "v3", "pix2pix/v3", "--code", "--again").code == 0
    assert server.called("CreateCodeSubmission")[0]["kernelVersion"] == 3
    assert len(runs.read(pushed.folder).submissions) == 2
    failed(1, tools("submit", "-m", "v9", "v9"), "no run 'v9' in the ledger")


@pytest.mark.parametrize("code", [(), ("--code",)])
def test_what_another_version_put_in_the_place_is_not_sent_as_the_runs(tools, pushed, server, code):
    path = pushed.folder / "outputs" / "submission.csv.gz"
    write_submission(path, rows(value="0.5"))
    done = tools("submit", "-m", "v3", "v3", *code)
    failed(8, done, f"{path} is not what ada/pix2pix v3 wrote", "tools fetch-outputs pix2pix/v3")
    assert server.competition.submissions == []
    assert tools("submit", "-m", "this one", path).code == 0
    assert runs.read(pushed.folder).submissions == []
    assert len(ledger()) == 1


def test_a_folder_with_a_runs_name_does_not_hide_the_run(tools, pushed, project):
    (project / "v3").mkdir()
    assert tools("submit", "-m", "v3", "v3").code == 0
    assert len(runs.read(pushed.folder).submissions) == 1


def test_a_run_is_submitted_after_the_project_was_moved(tools, pushed, project, monkeypatch):
    monkeypatch.chdir(project.rename(project.with_name("renamed")))
    done = tools("submit", "-m", "v3", "v3", "--json")
    assert done.code == 0, done.err
    assert done.json["file"] == str(runs.find("v3").folder / "outputs" / "submission.csv.gz")


def test_a_file_among_a_runs_outputs_is_noted_with_that_run(tools, pushed):
    assert tools("submit", "-m", "v3", "runs/pix2pix/v3/outputs/submission.csv.gz").code == 0
    assert len(runs.read(pushed.folder).submissions) == 1
    assert ledger() == []


def test_a_file_of_ones_own_below_a_runs_outputs_is_not_noted_with_that_run(tools, pushed):
    path = pushed.folder / "outputs" / "my.csv"
    path.write_bytes(gzip.decompress((path.parent / "submission.csv.gz").read_bytes()))
    assert tools("submit", "-m", "mine", path).code == 0
    assert runs.read(pushed.folder).submissions == []
    assert len(ledger()) == 1


def test_a_code_submission_names_the_pinned_version_and_uploads_nothing(tools, pushed, server):
    code, out, _ = tools("submit", "-m", "v3", "--code")
    assert code == 0
    assert "public score  0.16000" in out
    assert server.called("CreateCodeSubmission") == [
        {
            "competitionName": "photo-reconstruction",
            "kernelOwner": "ada",
            "kernelSlug": "pix2pix",
            "kernelVersion": 3,
            "fileName": "submission.csv.gz",
            "submissionDescription": "v3",
        }
    ]
    assert server.called("StartSubmissionUpload") == []
    assert len(runs.read(pushed.folder).submissions) == 1


@pytest.mark.parametrize(("fault", "code", "sent"), [(Lost(), 0, 1), (Drop(), 6, 0)])
def test_a_code_submission_whose_answer_was_lost_is_sent_once(
    tools, pushed, server, fault, code, sent
):
    server.faults["CreateCodeSubmission"] = [fault]
    assert tools("submit", "-m", "v3", "--code").code == code
    assert len(server.called("CreateCodeSubmission")) == 1
    assert len(server.competition.submissions) == sent


def test_a_code_submission_takes_no_file(tools, pushed):
    failed(1, tools("submit", "-m", "x", "--code", "fill.csv.gz"), "not fill.csv.gz. Name a run")


@pytest.mark.parametrize(
    "command", [("submit", "-m", "x", "fill.csv.gz"), ("probe", "--yes"), ("fetch-data",)]
)
def test_a_project_without_a_competition_is_told_to_name_one(
    tools, project, server, monkeypatch, command
):
    monkeypatch.setenv("TOOLS_COMPETITION", "")
    failed(1, tools(*command), "tools.toml names no competition", "`competition`")
    assert server.calls == []


def test_an_empty_message_is_refused(tools, project, server):
    failed(1, tools("submit", "-m", " ", "fill.csv.gz"), "--message")
    assert server.calls == []


def test_without_a_file_and_without_fetched_outputs_it_says_what_to_do(tools, project, server):
    failed(1, tools("submit", "-m", "x"), "There is no run in", "tools push-kernel")
    runs.record_push("ada/pix2pix", 1)
    failed(1, tools("submit", "-m", "x"), "v1/outputs/submission.csv.gz", "tools fetch-outputs")


def test_a_submission_that_the_settings_or_the_run_speak_against_goes_with_a_warning(
    tools, pushed, server, monkeypatch
):
    wrote = {"channel_order": "bgr", "value_scale": "unit"}
    runs.record_outputs(pushed, status="ERROR", submission=wrote)
    monkeypatch.setenv("TOOLS_CHANNEL_ORDER", "rgb")
    code, _, err = tools("submit", "-m", "x")
    assert code == 0
    assert err.splitlines()[2:4] == [
        "ada/pix2pix v3 did not complete: its submission may be of an unfinished model",
        "ada/pix2pix v3 wrote it with channel_order = bgr; the setting is rgb",
    ]


@pytest.mark.parametrize(
    ("wrote", "warnings"),
    [
        ("bgr", []),
        (["bgr"], []),
        (
            {"channel_order": "b\x1b[31m\nr"},
            ["ada/pix2pix v3 wrote it with channel_order = b [31m r; the setting is rgb"],
        ),
    ],
)
def test_a_damaged_run_json_does_no_harm(tools, pushed, monkeypatch, wrote, warnings):
    runs.record_outputs(pushed, files=pushed.outputs["files"], submission=wrote)
    monkeypatch.setenv("TOOLS_CHANNEL_ORDER", "rgb")
    code, _, err = tools("submit", "-m", "x")
    assert code == 0
    assert err.splitlines()[2:] == warnings


def test_two_terminals_submit_a_file_once(project, server, monkeypatch):
    monkeypatch.setenv("TOOLS_TIMEOUT", "60")
    command = [sys.executable, "-m", "tools", "submit", "--message", "a fill", "fill.csv.gz"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    hold = Hold()
    server.faults[CREATE] = [hold]
    first = subprocess.Popen(command, **pipes)
    server.wait_for(CREATE)
    second = subprocess.Popen(command, **pipes)
    waited = any("waiting until it has" in line for line in second.stderr)
    hold.let_go.set()
    said = [program.communicate(timeout=120) for program in (first, second)]
    assert waited, said
    assert [first.returncode, second.returncode] == [0, 0], said
    assert len(server.competition.submissions) == 1
    assert said[0][0] == said[1][0]
    assert "was submitted before, as 50000000" not in said[0][1]
    assert "was submitted before, as 50000000" in said[1][1]
