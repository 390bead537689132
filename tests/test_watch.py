import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import time

import pytest

from tests.peers.kaggle import Cut, Drop, Hang, Reply
from tools import runs, settings, watch
from tools.errors import DeadlineError, UserError
from tools.kaggle_client import Kaggle
from tools.kaggle_kernels import Kernels

KERNEL = "ada/pix2pix-inpainting"


@pytest.fixture
def version(server, project):
    """Version 2, pushed and in the ledger; version 1 has long been complete."""
    server.add_version(KERNEL, states=["COMPLETE"]).say("old")
    version = server.add_version(KERNEL)
    version.say("step 5/10 | gen 1.0 | eta 0:10", "Traceback", "ValueError: no GPU")
    runs.record_push(KERNEL, 1)
    runs.record_push(KERNEL, 2)
    return version


def test_the_status_is_that_of_the_pinned_version(tools, version):
    version.states = ["QUEUED"]
    done = tools("status")
    assert (done.code, done.out) == (0, f"{KERNEL} v2 QUEUED\n")
    assert tools("status", "v1").out == f"{KERNEL} v1 COMPLETE\n"
    assert runs.find("v1").status["status"] == "COMPLETE"


@pytest.fixture
def impatient(monkeypatch):
    """A stream that is silent for half a second has told everything."""
    monkeypatch.setenv("TOOLS_TIMEOUT", "0.5")


def test_the_status_of_a_running_run_tells_how_far_it_is(tools, version, server, impatient):
    version.states = ["RUNNING"]
    server.faults["logs"] = [Hang(1)] * 2
    assert "step 5 of 10 | gen 1.0 | eta 0:10" in tools("status").err
    assert tools("status", "--json").json["progress"]["step"] == 5


def test_a_version_that_is_not_shown_yet_is_queued(tools, server, project):
    server.add_version(KERNEL, states=["COMPLETE"])
    runs.record_push(KERNEL, 2)
    assert tools("status").out == f"{KERNEL} v2 QUEUED\n"


def test_a_version_that_is_still_unknown_after_a_while_exits_3(tools, server, project):
    server.add_version(KERNEL)
    runs.record_push(KERNEL, 2, pushed_at="2026-01-01T00:00:00Z")
    done = tools("status")
    assert done.code == 3
    assert f"Kaggle refused asking for the status of {KERNEL} v2 (404)" in done.err


@pytest.mark.parametrize("age", ["2026-01-01T00:00:00Z", None])
def test_a_version_that_may_not_be_seen_is_queued_while_it_is_new(tools, version, server, age):
    run = runs.find()
    if age:
        (run.folder / "push.json").write_text(json.dumps(run.push | {"pushed_at": age}))
    denied = Reply(403, {"code": 403, "message": "Permission 'kernels.get' was denied"})
    server.faults["GetKernelSessionStatus"] = [denied]
    done = tools("status", "v2")
    assert (done.code, done.out) == ((3, "") if age else (0, f"{KERNEL} v2 QUEUED\n"))
    assert ("The name may be wrong" in done.err) == bool(age)


def test_waiting_outlasts_a_few_refusals_in_its_midst(tools, version, server):
    run = runs.find()
    (run.folder / "push.json").write_text(json.dumps(run.push | {"pushed_at": "2026-01-01"}))
    denied = Reply(403, {"code": 403, "message": "Permission 'kernels.get' was denied"})
    server.faults["GetKernelSessionStatus"] = [None, *[denied] * 4]
    done = tools("wait", "v2")
    assert (done.code, done.out) == (0, f"{KERNEL} v2 COMPLETE\n"), done.err
    assert done.err.count("goes on all the same") == 1
    version.states = ["RUNNING"]
    server.faults["GetKernelSessionStatus"] = [None, *[denied] * 5]
    done = tools("wait", "v2")
    assert (done.code, "was denied" in done.err) == (3, True)


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (Reply(401, {"code": 401, "message": "Unauthenticated"}), 7, "did not accept the cred"),
        (Reply(409, {"code": 409, "message": "Conflict"}), 3, "(409): Conflict."),
        (Reply(429, {"code": 429, "message": "slow"}, {"Retry-After": "60"}), 6, "asks for 60 s"),
        (Reply(429, {"error": {"code": 429}}), 6, "Kaggle answered 429"),
        (Reply(500, b"oops"), 6, "Kaggle answered 500"),
        (Reply(200, b"<html>"), 6, "no JSON"),
        (Drop(), 6, "the connection broke off"),
        (Hang(), 6, "no answer in time"),
    ],
    ids=lambda value: str(getattr(value, "status", type(value).__name__)),
)
def test_every_fault_has_its_exit_code_and_one_line_and_changes_nothing(
    tools, version, server, monkeypatch, fault, code, words
):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0")
    if isinstance(fault, Hang):
        monkeypatch.setenv("TOOLS_TIMEOUT", "0.5")
    server.faults["GetKernelSessionStatus"] = [fault]
    done = tools("status")
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert runs.find().status == {}


def test_without_a_run_the_status_exits_1(tools, server, project):
    done = tools("status")
    assert done.code == 1
    assert "There is no run in" in done.err
    assert "tools push-kernel" in done.err


def test_waiting_ends_when_the_pinned_version_has_ended(tools, version, server):
    server.faults["GetKernelSessionStatus"] = [
        Reply(404, {"code": 404, "message": "not yet"}),
        Reply(200, {}),
    ]
    done = tools("wait")
    assert (done.code, done.out) == (0, f"{KERNEL} v2 COMPLETE\n")
    assert [line for line in done.err.splitlines() if "v2 " in line] == [
        f"{KERNEL} v2 QUEUED",
        f"{KERNEL} v2 RUNNING",
    ]
    labels = {body["versionLabel"] for body in server.called("GetKernelSessionStatus")}
    assert labels == {"v2"}
    assert runs.find().status["status"] == "COMPLETE"


@pytest.mark.parametrize("state", ["ERROR", "CANCEL_ACKNOWLEDGED"])
def test_a_failed_run_exits_4_and_shows_the_end_of_its_log(tools, version, state):
    version.states, version.failure = [state], "Your notebook ran out of memory."
    done = tools("wait")
    assert (done.code, done.out) == (4, "")
    assert "ValueError: no GPU" in done.err
    last = done.err.splitlines()[-1]
    assert last.startswith(f"error: {KERNEL} v2 failed: Your notebook ran out of memory. Its log: ")
    run = runs.find()
    assert run.status["failure"] == "Your notebook ran out of memory."
    assert "Traceback\nValueError: no GPU\n" in (run.folder / "log.txt").read_text()
    assert json.loads((run.folder / "log.json").read_text())[1]["data"] == "Traceback\n"


def test_json_of_a_failed_run_stands_on_stdout_with_exit_code_4(tools, version):
    version.states = ["ERROR"]
    done = tools("wait", "--json")
    assert (done.code, done.json["status"]) == (4, "ERROR")


@pytest.fixture
def overtaken(version, server):
    """Version 2 runs while version 3, with other lines and another file, is there already."""
    version.states, version.outputs = ["RUNNING"], {"log.csv": b"2"}
    newer = server.add_version(KERNEL, states=["RUNNING"], outputs={"log.csv": b"three"})
    newer.say("step 9/9 | gen 3.0 | eta 0:00", "three")
    runs.record_push(KERNEL, 3)


def labels(server):
    """The versions that all requests about the kernel named."""
    return {call.body.get("versionLabel") for call in server.calls if "kernelSlug" in call.body}


def test_the_log_that_is_followed_is_that_of_the_pinned_version(tools, overtaken, server):
    done = tools("logs", "v2", "--follow")
    assert done.out == "step 5/10 | gen 1.0 | eta 0:10\nTraceback\nValueError: no GPU\n"
    assert len(server.called("logs")) == 1 and labels(server) == {"v2"}


def test_the_progress_is_that_of_the_pinned_version(tools, overtaken, server):
    done = tools("status", "v2")
    assert (done.code, done.out) == (0, f"{KERNEL} v2 RUNNING\n")
    assert "step 5 of 10 | gen 1.0 | eta 0:10" in done.err
    assert len(server.called("logs")) == 1 and labels(server) == {"v2"}


def test_the_files_that_are_listed_are_those_of_the_pinned_version(tools, overtaken, server):
    found = tools("fetch-outputs", "v2", "--list", "--json").json
    assert (found["version"], found["files"]) == (2, [{"name": "log.csv", "size": 1}])
    assert len(server.called("ListKernelFiles")) == 1 and labels(server) == {"v2"}


@pytest.fixture
def clocked(version, server):
    """Wait with a clock of its own; returns the pauses that were made."""

    def run(hours, states):
        version.states, pauses = states, []
        kernels = Kernels(Kaggle(settings.Settings(kaggle_endpoint=server.url)))
        watch.wait(kernels, runs.find(), hours, pauses.append, lambda: sum(pauses))
        return pauses

    return run


def test_pauses_grow_to_a_minute_and_begin_anew_when_the_state_changes(clocked):
    pauses = clocked(10, ["QUEUED"] * 9 + ["RUNNING"] * 3 + ["COMPLETE"])
    assert pauses[:3] == [5, 7.5, 11.25]
    assert pauses[7:9] == [60, 60]
    assert pauses[9:] == [5, 7.5, 11.25]


def test_the_deadline_exits_5_and_says_that_the_run_goes_on(clocked, tools, version):
    with pytest.raises(DeadlineError, match="still RUNNING after 0.01 h. It goes on; come back"):
        clocked(0.01, ["QUEUED", "RUNNING"])
    version.states = ["RUNNING"]
    done = tools("wait", "--timeout", "0")
    assert (done.code, done.out) == (5, "")


def test_an_unknown_word_is_waited_for(clocked):
    with pytest.raises(DeadlineError, match="still HIBERNATING"):
        clocked(0.1, ["HIBERNATING"])


def test_a_version_that_is_saved_but_never_runs_is_given_up(clocked, monkeypatch):
    monkeypatch.setattr(runs, "FRESH_SECONDS", -1)
    with pytest.raises(UserError, match="was saved, but Kaggle does not run it"):
        clocked(10, ["NEW_SCRIPT"])


def test_a_network_that_stays_away_exits_6(tools, version, server, monkeypatch):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0")
    server.faults["GetKernelSessionStatus"] = [Drop()] * 3
    done = tools("wait")
    assert done.code == 6
    assert "Kaggle could not be reached while asking for the status" in done.err


def test_an_outage_while_it_waits_does_not_end_the_wait(tools, version, server, monkeypatch):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0")
    monkeypatch.setenv("TOOLS_POLL_SECONDS", "0.01")
    version.states = ["RUNNING"] * 2 + ["COMPLETE"]
    server.faults["GetKernelSessionStatus"] = [None, Drop(), Drop()]
    done = tools("wait")
    assert (done.code, done.out) == (0, f"{KERNEL} v2 COMPLETE\n")
    assert done.err.count("goes on all the same") == 1


def test_a_terminal_shows_a_bar_moved_by_the_kernels_lines(version, server, python, monkeypatch):
    monkeypatch.setenv("TOOLS_POLL_SECONDS", "0.05")
    monkeypatch.setenv("TERM", "xterm")
    version.states = ["RUNNING"]
    not_yet = Reply(200, b"[]", {"Content-Type": "application/json"})
    server.faults["logs"] = [not_yet, *[Hang(1)] * 50]
    terminal, theirs = pty.openpty()
    command = [python, "-m", "tools", "wait"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown, until = b"", time.monotonic() + 30
    try:
        with contextlib.suppress(OSError):  # the terminal's end
            while select.select([terminal], [], [], 30)[0] and time.monotonic() < until:
                if not (chunk := os.read(terminal, 4096)):
                    break
                shown += chunk
                if b"5/10" in shown and b"gen 1.0" in shown:
                    version.states = ["COMPLETE"]
        assert version.states == ["COMPLETE"], shown.decode()
        assert process.communicate(timeout=20)[0] == f"{KERNEL} v2 COMPLETE\n"
    finally:
        process.kill()
        os.close(terminal)
    assert f"{KERNEL} v2 RUNNING" in shown.decode()


def test_ctrl_c_leaves_the_run_alone_and_says_how_to_come_back(version, server, python):
    version.states = ["RUNNING"]
    server.faults["GetKernelSessionStatus"] = [None, Hang()]
    process = subprocess.Popen(
        [python, "-m", "tools", "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    server.wait_for("GetKernelSessionStatus", 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    hint = "goes on. Come back with: tools wait pix2pix-inpainting/v2"
    assert err.splitlines()[-1] == f"{KERNEL} v2 {hint}"
    assert "Traceback" not in err


def test_the_log_is_printed_decoded_and_kept_as_it_was(tools, version):
    version.states = ["COMPLETE"]
    done = tools("logs")
    assert done.out == "step 5/10 | gen 1.0 | eta 0:10\nTraceback\nValueError: no GPU\n"
    assert tools("logs", "v1").out == "old\n"
    assert (runs.find().folder / "log.txt").read_text() == done.out


def test_the_log_as_json_is_a_list_of_events(tools, version):
    assert tools("logs", "v1", "--json").json == [
        {"stream": "stdout", "time": 1.0, "text": "old\n"}
    ]


def test_the_log_of_a_running_run_is_what_it_has_written(tools, version, server, impatient):
    version.states = ["RUNNING"]
    server.faults["logs"] = [Hang(2)]
    assert tools("logs").out == "step 5/10 | gen 1.0 | eta 0:10\nTraceback\n"
    assert not (runs.find().folder / "log.txt").exists()


def test_a_log_that_does_not_begin_is_asked_for_once(tools, version, server, impatient):
    version.states = ["RUNNING"]
    server.faults["logs"] = [Hang()] * 9
    assert tools("logs").code == 0
    assert len(server.called("logs")) == 1


def test_an_empty_log_is_told(tools, version, server, impatient):
    server.faults["logs"] = [Hang(0)]
    version.events.clear()
    done = tools("logs")
    assert (done.code, done.out) == (0, "")
    assert "is empty; follow it live: tools logs --follow" in done.err


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_failed_run_is_told_though_its_log_cannot_be_had(
    tools, version, server, monkeypatch, status
):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0")
    version.states, version.failure = ["ERROR"], "out of memory"
    server.faults["ListKernelSessionOutput"] = [Reply(status, {"code": status, "message": "no"})]
    done = tools("wait")
    assert done.code == 4
    assert "failed: out of memory. Its log:" in done.err


def test_a_version_that_never_runs_is_not_followed(tools, version, server):
    version.states = ["NEW_SCRIPT"]
    entry = runs.find().folder / "push.json"
    entry.write_text(json.dumps(json.loads(entry.read_text()) | {"pushed_at": "2026-01-01"}))
    server.faults["logs"] = [Reply(404, {"code": 404, "message": "no log"})] * 9
    done = tools("logs", "v2", "--follow")
    assert done.code == 1
    assert "was saved, but Kaggle does not run it" in done.err


def test_a_version_that_was_only_saved_is_not_the_newest_run(tools, version, server):
    server.add_version(KERNEL, states=["NEW_SCRIPT"])
    runs.record_push(KERNEL, 3, run=False)
    assert runs.find().version == 2
    assert "It was saved without running" in tools("status", "v3").err
    done = tools("fetch-outputs", "v3")
    assert (done.code, "Push it without --no-run" in done.err) == (1, True)


def test_a_log_is_followed_until_the_run_has_ended(tools, version):
    version.states = ["RUNNING", "COMPLETE"]
    assert tools("logs", "--follow").out.splitlines()[0] == "step 5/10 | gen 1.0 | eta 0:10"
    version.states = ["RUNNING", "COMPLETE"]
    lines = tools("logs", "--follow", "--json").out.splitlines()
    assert [json.loads(line)["text"] for line in lines][1] == "Traceback\n"


def test_following_a_log_outlasts_an_outage_and_a_few_refusals(tools, version, server, monkeypatch):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0")
    run = runs.find()
    (run.folder / "push.json").write_text(json.dumps(run.push | {"pushed_at": "2026-01-01"}))
    denied = Reply(403, {"code": 403, "message": "Permission 'kernels.get' was denied"})
    missing = Reply(404, {"code": 404, "message": "not found"})
    version.states = ["RUNNING"] * 9
    server.faults["logs"] = [Cut(1), missing, Drop(), denied, Cut(2)]
    server.faults["GetKernelSessionStatus"] = [None, denied, Drop(), missing, None, denied]
    done = tools("logs", "v2", "--follow")
    assert done.code == 0, done.err
    assert done.out == "step 5/10 | gen 1.0 | eta 0:10\nTraceback\nValueError: no GPU\n"
    assert done.err.count("goes on all the same") == 2
    server.faults["logs"] = [Cut(1)] * 5
    server.faults["GetKernelSessionStatus"] = [None, *[denied] * 5]
    done = tools("logs", "v2", "--follow")
    assert (done.code, "was denied" in done.err) == (3, True)


def test_a_log_that_has_not_begun_is_followed_until_the_run_has_ended(tools, version, server):
    version.states = ["QUEUED"] * 3 + ["RUNNING"] * 2 + ["COMPLETE"]
    empty = Reply(200, b"[]", {"Content-Type": "application/json"})
    server.faults["logs"] = [empty, Reply(200, b"", {"Content-Type": "text/plain"}), empty]
    done = tools("logs", "--follow")
    assert done.code == 0
    assert done.out == "step 5/10 | gen 1.0 | eta 0:10\nTraceback\nValueError: no GPU\n"


def test_a_terminal_without_unicode_gets_the_log_all_the_same(version, server, python, monkeypatch):
    version.states = ["COMPLETE"]
    version.say("zwölf ☃")
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    done = subprocess.run([python, "-m", "tools", "logs"], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "zwölf ☃" in done.stdout.decode()
