import contextlib
import hashlib
import json
import os
import pty
import signal
import subprocess

import pytest

from tests.peers.kaggle import Drop, Hang, Hold, Lost, Reply
from tools import runs

SLUG = "pix2pix-inpainting"
KERNEL = f"ada/{SLUG}"


@pytest.fixture
def ledger(project):
    """The files of the ledger, relative to its folder."""

    def files():
        found = (project / "runs").rglob("*")
        found = [f.relative_to(project / "runs") for f in found if f.is_file()]
        return sorted(str(f) for f in found if f.suffix != ".lock")

    return files


def test_a_push_sends_the_script_and_enters_it_in_the_ledger(tools, server, project, ledger):
    done = tools("push-kernel", "--set", "steps=20", "--set", "note=a b")
    assert (done.code, done.out) == (0, f"{KERNEL}/v1\n"), done.err
    body = server.called("SaveKernel")[0]
    text = body.pop("text")
    line = next(line for line in text.splitlines() if line.startswith("OVERRIDES"))
    assert eval(line.partition(" = ")[2]) == {
        "preset": "best",
        "channel_order": "bgr",
        "value_scale": "unit",
        "require_gpu": True,
        "steps": 20,
        "note": "a b",
        "time_budget": 8.75,
    }
    assert body == {
        "slug": KERNEL,
        "newTitle": "Pix2Pix inpainting",
        "language": "python",
        "kernelType": "script",
        "isPrivate": True,
        "enableGpu": True,
        "enableTpu": False,
        "enableInternet": False,
        "sessionTimeoutSeconds": 32400,
        "machineShape": "NvidiaTeslaT4",
        "competitionDataSources": ["photo-reconstruction"],
    }
    run = runs.find()
    assert (run.kernel, run.version, run.push["accelerator"]) == (KERNEL, 1, "NvidiaTeslaT4")
    assert run.push["config"]["steps"] == 20
    assert run.push["script_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert (run.folder / "kernel.py").read_text() == text
    assert ledger() == [f"{SLUG}/v1/kernel.py", f"{SLUG}/v1/push.json"]


def test_json_is_all_that_stands_on_stdout(tools, server, project):
    done = tools("push-kernel", "--json")
    assert done.json["kernel"] == KERNEL
    assert done.json["version"] == 1


def test_a_version_that_was_only_saved_is_told_to_stand_before_what_ran(tools, server, project):
    assert tools("push-kernel").code == 0
    server.kernels[KERNEL][0].states = ["COMPLETE"]
    assert tools("push-kernel", "--no-run").code == 0
    done = tools("push-kernel", "--resume")
    assert done.code == 1
    assert f"nothing to resume from: {KERNEL} v2 did not run" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "stesp=20"], "stesp = 20 is not a setting"),
        (["--set", "steps"], "'steps' is not a setting. Write it as --set name=value."),
        (["--accelerator", "NvidiaTeslaP100"], "NvidiaTeslaP100 is retired"),
        (["--set", "time_budget=9.5"], "time_budget = 9.5 should be hours, fewer than the 9"),
        (["--set", "out=elsewhere"], "out is not for --set"),
        (["--set", "preset=report"], "preset is not for --set. Name it with --preset."),
        (["--set", "data=data"], "data = 'data' is no folder that Kaggle sees. Name what it"),
        (["--set", "members=/kaggle/input/a,b"], "give --set members=/kaggle/input."),
        (["--resume"], "has never run"),
    ],
)
def test_a_mistake_exits_1_and_nothing_is_pushed(
    tools, server, project, ledger, arguments, message
):
    done = tools("push-kernel", *arguments)
    assert done.code == 1
    assert message in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert server.called("SaveKernel") == []
    assert "--resume" in arguments or server.calls == []
    assert ledger() == []


def test_a_terminal_sees_that_the_kernel_checks_the_settings(server, project, python):
    here, there = pty.openpty()
    command = [python, "-m", "tools", "push-kernel", "--set", "stesp=20"]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(command, stderr=there, env=environment) as process:
        os.close(there)
        seen = b""
        with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
            while read := os.read(here, 65536):
                seen += read
    os.close(here)
    assert process.returncode == 1
    before, _, after = seen.partition(b"stesp = 20 is not a setting")
    assert b"checking the settings with the kernel" in before
    assert b"checking" not in after


def test_metadata_of_somebody_else_is_a_mistake(tools, server, project):
    path = project / "kernel-metadata.json"
    path.write_text(path.read_text().replace('"id": "', '"id": "eve/'))
    done = tools("push-kernel")
    assert (done.code, server.called("SaveKernel")) == (1, [])
    assert "kernel-metadata.json is eve's, but you are ada" in done.err


def test_a_refused_push_exits_3_and_writes_no_ledger_entry(tools, server, project, ledger):
    error = "Maximum batch GPU session count of 2 reached."
    server.save_extra = {"error": error, "versionNumber": 0}
    done = tools("push-kernel")
    assert done.code == 3
    assert f"Kaggle refused {KERNEL}: {error}" in done.err
    assert "Wait for one of your running sessions" in done.err
    assert ledger() == []


@pytest.mark.parametrize("kind", ["Dataset", "Competition", "Kernel", "Model"])
def test_a_source_that_was_not_attached_exits_3_and_says_that_the_run_goes_on(
    tools, server, project, kind
):
    server.save_extra = {f"invalid{kind}Sources": ["photo-reconstruction"]}
    done = tools("push-kernel")
    assert done.code == 3
    assert f"{KERNEL} v1 runs without {kind.lower()} photo-reconstruction" in done.err
    assert f"stop the run at https://www.kaggle.com/code/{KERNEL}" in done.err
    assert runs.find().status["failure"] == f"without {kind.lower()} photo-reconstruction"


def test_an_unknown_keyword_is_only_noted(tools, server, project):
    server.save_extra = {"invalidTags": ["gans"]}
    done = tools("push-kernel")
    assert done.code == 0
    assert "does not know the keywords gans" in done.err


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING", "CANCEL_REQUESTED", "SOMETHING_NEW"])
def test_a_push_is_refused_while_a_version_runs(tools, server, project, state):
    server.add_version(KERNEL, states=[state])
    done = tools("push-kernel")
    assert done.code == 1
    assert f"{KERNEL} v1 is still {state}. Stop it at https://" in done.err
    assert tools("push-kernel", "--force").out == f"{KERNEL}/v2\n"


@pytest.mark.parametrize("state", ["COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED", "NEW_SCRIPT"])
def test_a_push_goes_on_after_a_version_has_ended(tools, server, project, state):
    server.add_version(KERNEL, states=[state])
    assert tools("push-kernel").code == 0


def test_a_version_that_kaggle_does_not_show_yet_counts_as_running(tools, server, project):
    runs.record_push(KERNEL, 1)
    done = tools("push-kernel")
    assert (done.code, server.called("SaveKernel")) == (1, [])
    assert "v1 is still QUEUED. Wait for it (tools wait pix2pix-inpainting/v1), stop" in done.err


def test_a_version_saved_meanwhile_does_not_hide_the_one_that_runs(tools, server, project):
    server.on_push = lambda version: setattr(version, "states", ["RUNNING"])
    assert tools("push-kernel").code == 0
    server.on_push = lambda version: setattr(version, "states", ["NEW_SCRIPT"])
    saved = tools("push-kernel", "--no-run")
    assert (saved.code, "tools wait" in saved.err) == (0, False)
    done = tools("push-kernel")
    assert (done.code, len(server.kernels[KERNEL])) == (1, 2)
    assert "v1 is still RUNNING" in done.err
    done = tools("push-kernel", "--no-run", "--wait")
    assert (done.code, len(server.kernels[KERNEL])) == (1, 2)
    assert "--no-run leaves nothing to wait for" in done.err


def test_no_gpu_time_exits_3_and_is_forced(tools, server, project, ledger):
    server.quota = {"timeUsed": "107900s", "totalTimeAllowed": "108000s"}
    done = tools("push-kernel")
    assert done.code == 3
    assert "No GPU time is left this week (30.0 of 30 h are used). It is renewed on" in done.err
    assert ledger() == []
    assert tools("push-kernel", "--force").code == 0


def test_training_ends_before_the_quota_does(tools, server, project):
    server.quota = {"timeUsed": "97200s", "totalTimeAllowed": "108000s"}
    done = tools("push-kernel")
    assert "3.0 h of GPU time are left this week" in done.err
    assert runs.find().push["overrides"]["time_budget"] == 2.75


def test_a_processor_run_needs_no_gpu_and_no_quota(tools, server, project):
    server.quota = {"timeUsed": "108000s", "totalTimeAllowed": "108000s"}
    assert tools("push-kernel", "--accelerator", "cpu").code == 0
    body = server.called("SaveKernel")[0]
    assert body["enableGpu"] is False
    assert "machineShape" not in body
    assert runs.find().push["overrides"]["require_gpu"] is False


def test_a_project_without_a_competition_attaches_its_dataset_alone(tools, server, project):
    (project / "tools.toml").write_text('competition = ""\n')
    path = project / "kernel-metadata.json"
    path.write_text(
        path.read_text().replace('"dataset_sources": []', '"dataset_sources": ["a/b-c"]')
    )
    assert tools("push-kernel").code == 0
    body = server.called("SaveKernel")[0]
    assert "competitionDataSources" not in body
    assert body["datasetDataSources"] == ["a/b-c"]


def test_a_script_that_is_no_text_is_a_mistake(tools, server, project):
    (project / "kernel" / "pix2pix.py").write_bytes(b"\xff\xfe")
    done = tools("push-kernel")
    assert done.code == 1
    assert "pix2pix.py cannot be read" in done.err


def test_a_save_without_a_run_says_so_to_kaggle(tools, server, project):
    assert tools("push-kernel", "--no-run").code == 0
    assert server.called("SaveKernel")[0]["kernelExecutionType"] == "QUICK_SAVE"
    done = tools("wait")
    assert done.code == 1
    assert "was saved without running" in done.err


def test_a_notebook_is_a_kernel_of_its_own(tools, server, project):
    assert tools("push-kernel", "--notebook").out == f"{KERNEL}-notebook/v1\n"
    body = server.called("SaveKernel")[0]
    assert (body["kernelType"], body["newTitle"]) == ("notebook", "Pix2Pix inpainting notebook")
    assert json.loads(body["text"])["nbformat"] == 4
    assert (runs.find().folder / "kernel.ipynb").read_text() == body["text"]


def test_a_training_goes_back_and_forth_between_two_kernels(tools, server, project):
    server.on_push = ended
    server.add_version(KERNEL, states=["COMPLETE"], outputs={"checkpoint.npz": b"PK\x03\x04"})
    for version, (origin, to) in enumerate([("", "-resumed"), ("-resumed", ""), ("", "-resumed")]):
        done = tools("push-kernel", "--resume")
        assert (done.code, done.out) == (0, f"{KERNEL}{to}/v{1 + (version + 1) // 2}\n"), done.err
        body = server.called("SaveKernel")[-1]
        assert body["kernelDataSources"] == [KERNEL + origin]
        assert body["newTitle"] == "Pix2Pix inpainting" + to.replace("-", " ")
        run = runs.find()
        assert run.push["overrides"]["resume_from"] == "/kaggle/input"
        assert run.push["resumed_from"] == f"{KERNEL}{origin}/v{1 + version // 2}"


def test_resuming_a_notebook_goes_on_with_the_notebook(tools, server, project):
    server.on_push = ended
    assert tools("push-kernel", "--notebook").code == 0
    assert tools("push-kernel", "--notebook", "--resume").out == f"{KERNEL}-notebook-resumed/v1\n"
    body = server.called("SaveKernel")[-1]
    assert body["kernelDataSources"] == [f"{KERNEL}-notebook"]
    assert body["newTitle"] == "Pix2Pix inpainting notebook resumed"


@pytest.mark.parametrize(
    ("state", "left", "why"),
    [
        # The kernel has copied the checkpoint that it goes on from, before anything can fail.
        ("ERROR", ["checkpoint.npz"], "failed, and Kaggle attaches only what a completed"),
        ("CANCEL_ACKNOWLEDGED", [], "failed, and Kaggle attaches only what a completed"),
        ("COMPLETE", [], "left no checkpoint.npz"),
    ],
)
def test_a_resumption_that_came_to_nothing_is_tried_again(tools, server, project, state, left, why):
    server.on_push = ended
    assert tools("push-kernel", "--set", "steps=777").code == 0

    def fail(version):
        version.states, version.outputs = [state], dict.fromkeys(left, b"PK\x03\x04")

    server.on_push = fail
    assert tools("push-kernel", "--resume").code == 0
    server.on_push = ended
    done = tools("push-kernel", "--resume")
    assert (done.code, done.out) == (0, f"{KERNEL}-resumed/v2\n")
    assert f"{KERNEL}-resumed v1 {why}" in done.err
    assert f"It went on from {KERNEL} v1.\nGoing on from {KERNEL} v1." in done.err
    assert server.called("SaveKernel")[-1]["kernelDataSources"] == [KERNEL]
    assert runs.find().push["overrides"]["steps"] == 777


def test_a_resumption_that_still_runs_is_not_doubled(tools, server, project):
    server.on_push = ended
    assert tools("push-kernel").code == 0
    server.on_push = lambda version: setattr(version, "states", ["RUNNING"])
    assert tools("push-kernel", "--resume").code == 0
    done = tools("push-kernel", "--resume")
    told = f"{KERNEL}-resumed v1 has not ended. Wait for it: tools wait {SLUG}-resumed/v1"
    assert (done.code, told in done.err) == (1, True)
    done = tools("push-kernel")
    assert (done.code, f"{KERNEL}-resumed v1 is still RUNNING" in done.err) == (1, True)
    assert len(server.called("SaveKernel")) == 2


def test_what_still_runs_and_was_pushed_elsewhere_is_waited_for_on_its_page(tools, server, project):
    server.add_version(KERNEL, states=["RUNNING"])
    done = tools("push-kernel", "--resume")
    page = f"https://www.kaggle.com/code/{KERNEL}"
    told = f"{KERNEL} v1 has not ended. Wait for it: {page}"
    assert (done.code, told in done.err) == (1, True)


def test_a_resumption_on_another_machine_is_seen_to_run(tools, server, project):
    server.add_version(KERNEL, states=["COMPLETE"])
    server.add_version(f"{KERNEL}-resumed", states=["RUNNING"])
    done = tools("push-kernel")
    assert (done.code, f"{KERNEL}-resumed v1 is still RUNNING. Stop it" in done.err) == (1, True)


def test_which_training_is_newer_is_not_guessed(tools, server, project):
    for name in (KERNEL, f"{KERNEL}-resumed"):
        server.add_version(name, states=["COMPLETE"], outputs={"checkpoint.npz": b"PK"})
    done = tools("push-kernel", "--resume")
    assert (done.code, server.called("SaveKernel")) == (1, [])
    assert f"does not tell which was pushed last, {KERNEL} v1 or {KERNEL}-resumed v1" in done.err
    runs.record_push(f"{KERNEL}-resumed", 1, resumed_from=f"{KERNEL}/v1")
    assert tools("push-kernel", "--resume").out == f"{KERNEL}/v2\n"


def test_a_version_that_was_only_saved_does_not_hide_the_last_training(tools, server, project):
    server.on_push = ended
    assert tools("push-kernel").code == 0
    assert tools("push-kernel", "--resume").code == 0
    assert tools("push-kernel", "--no-run").out == f"{KERNEL}/v2\n"
    assert tools("push-kernel", "--resume").out == f"{KERNEL}/v3\n"
    assert server.called("SaveKernel")[-1]["kernelDataSources"] == [f"{KERNEL}-resumed"]


def test_what_a_refused_first_resumption_left_does_not_keep_from_the_next(tools, server, project):
    server.on_push = ended
    assert tools("push-kernel").code == 0
    server.faults["GetKernel"] = [None, Reply(500)]
    done = tools("push-kernel", "--resume")
    assert (done.code, done.out) == (0, f"{KERNEL}-resumed/v1\n"), done.err
    assert len(server.called("GetKernel")) == 4


def test_a_resumption_that_kaggle_named_otherwise_is_gone_on_with(tools, server, project):
    server.on_push = ended
    assert tools("push-kernel").code == 0
    server.save_extra = {"url": f"https://www.kaggle.com/code/{KERNEL}-resumed-jcg6h"}
    assert tools("push-kernel", "--resume").out == f"{KERNEL}-resumed-jcg6h/v1\n"
    server.kernels[f"{KERNEL}-resumed-jcg6h"] = server.kernels.pop(f"{KERNEL}-resumed")
    server.save_extra = {}
    assert tools("push-kernel", "--resume").out == f"{KERNEL}/v2\n"
    assert server.called("SaveKernel")[-1]["kernelDataSources"] == [f"{KERNEL}-resumed-jcg6h"]
    assert tools("push-kernel", "--resume").out == f"{KERNEL}-resumed-jcg6h/v2\n"
    assert server.called("SaveKernel")[-1]["newTitle"] == "Pix2Pix inpainting resumed jcg6h"


def test_what_a_failed_version_left_is_not_attached(tools, server, project):
    server.add_version(KERNEL, states=["ERROR"], outputs={"checkpoint.npz": b"PK\x03\x04"})
    done = tools("push-kernel", "--resume")
    assert (done.code, server.called("SaveKernel")) == (1, [])
    assert "v1 failed, and Kaggle attaches only what a completed version left" in done.err
    assert "make a dataset of it" in done.err


def test_resuming_keeps_the_settings_that_training_began_with(tools, server, project):
    server.on_push = ended
    first = ("--preset", "report", "--set", "steps=777", "--set", "note=a", "--timeout", "5")
    assert tools("push-kernel", *first).code == 0
    assert tools("push-kernel", "--resume", "--set", "note=b").code == 0
    overrides = runs.find().push["overrides"]
    assert (overrides["preset"], overrides["steps"], overrides["note"]) == ("report", 777, "b")
    assert overrides["time_budget"] == 8.75
    runs.record_push("bob/pix2pix-inpainting", 9, set={"steps": 5})
    assert tools("push-kernel", "--resume", "--set", "channel_order=rgb").code == 0
    assert tools("push-kernel", "--resume").code == 0
    overrides = runs.find(f"{KERNEL}-resumed/v2").push["overrides"]
    assert (overrides["steps"], overrides["note"]) == (777, "b")
    assert overrides["channel_order"] == "rgb"
    assert tools("push-kernel").code == 0
    assert "steps" not in runs.find(f"{KERNEL}/v3").push["overrides"]


def test_resuming_with_what_makes_another_run_is_told_before_the_push(tools, server, project):
    server.on_push = ended
    assert tools("push-kernel", "--set", "predictor=model").code == 0
    done = tools("push-kernel", "--resume", "--set", "predictor=mean")
    assert done.code == 1
    assert f"predictor = 'mean': {KERNEL} v1 began with 'model'" in done.err
    assert "without --resume" in done.err
    assert len(server.called("SaveKernel")) == 1


def test_another_preset_begins_a_training_with_the_network_of_the_last_version(
    tools, server, project
):
    server.on_push = ended
    assert tools("push-kernel", "--set", "width=96", "--set", "steps=777").code == 0
    runs.record_outputs(runs.find(), ended="complete", steps=777)
    done = tools("push-kernel", "--resume", "--preset", "perceptual", "--set", "note=sharp")
    assert (done.code, done.out) == (0, f"{KERNEL}-resumed/v1\n"), done.err
    told = f"Preset perceptual begins with the network of {KERNEL} v1, set as there: width=96."
    assert told in done.err
    assert server.called("SaveKernel")[-1]["kernelDataSources"] == [KERNEL]
    overrides = runs.find().push["overrides"]
    assert (overrides["start_from"], overrides["width"]) == ("/kaggle/input", 96)
    assert {"resume_from", "steps"}.isdisjoint(overrides)

    done = tools("push-kernel", "--resume", "--set", "steps=2000")
    assert (done.code, done.out) == (0, f"{KERNEL}/v2\n"), done.err
    overrides = runs.find().push["overrides"]
    assert (overrides["preset"], overrides["note"]) == ("perceptual", "sharp")
    assert overrides["resume_from"] == overrides["start_from"] == "/kaggle/input"


def test_resuming_what_has_done_all_its_steps_takes_more_of_them(tools, server, project):
    server.add_version(KERNEL, states=["COMPLETE"], outputs={"checkpoint.npz": b"PK\x03\x04"})
    runs.record_outputs(runs.record_push(KERNEL, 1), ended="complete", steps=10)
    done = tools("push-kernel", "--resume")
    assert done.code == 1
    assert f"{KERNEL} v1 has done all its 10 steps. Go on with more: --set steps" in done.err
    assert server.called("SaveKernel") == []
    assert tools("push-kernel", "--resume", "--set", "steps=20").code == 0


def test_a_training_planned_in_hours_goes_on_for_the_steps_that_are_asked_for(
    tools, server, project
):
    server.add_version(KERNEL, states=["COMPLETE"], outputs={"checkpoint.npz": b"PK\x03\x04"})
    first = runs.record_push(KERNEL, 1, set={"hours": 8.0, "note": "b"})
    runs.record_outputs(first, ended="complete", steps=10)
    assert tools("push-kernel", "--resume", "--set", "steps=20").code == 0
    overrides = runs.find().push["overrides"]
    assert (overrides["steps"], overrides["note"]) == (20, "b") and "hours" not in overrides


def test_hours_that_take_several_sessions_are_told_how_they_go_on(tools, server, project):
    done = tools("push-kernel", "--set", "hours=9.0")
    assert done.code == 0 and "hours = 9, of 8.75 a session: go on with --resume." in done.err


def test_resuming_without_a_checkpoint_is_a_mistake(tools, server, project):
    server.add_version(KERNEL, states=["COMPLETE"], outputs={"training_log.csv": b"1"})
    done = tools("push-kernel", "--resume")
    assert done.code == 1
    assert f"{KERNEL} v1 left no checkpoint.npz" in done.err


def test_an_answer_that_was_lost_is_made_up_for_by_looking(tools, server, project):
    server.add_version(KERNEL, states=["COMPLETE"])
    server.faults["SaveKernel"] = [Lost()]
    done = tools("push-kernel")
    assert (done.code, done.out) == (0, f"{KERNEL}/v2\n"), done.err
    assert len(server.kernels[KERNEL]) == 2
    assert runs.find().version == 2


def test_a_version_that_was_there_before_is_not_taken_for_what_was_pushed(
    tools, server, project, monkeypatch
):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0")
    assert tools("push-kernel").code == 0
    server.kernels[KERNEL][0].states = ["COMPLETE"]
    (project / "runs").rename(project / "lost")  # the ledger knows of none
    server.faults["GetKernel"] = [Reply(503)] * 2
    server.faults["SaveKernel"] = [Drop()]
    done = tools("push-kernel")
    assert done.code == 6, done.out
    assert "It is not known whether Kaggle took it" in done.err.splitlines()[-1]


def test_an_answer_that_was_lost_stays_unknown_where_looking_fails_too(tools, server, project):
    server.faults["SaveKernel"] = [Lost()]
    server.faults["GetKernel"] = [None, None, *[Reply(503)] * 99]
    code, _, err = tools("push-kernel")
    assert (code, len(server.kernels[KERNEL])) == (6, 1)
    assert "It is not known whether Kaggle took it" in err.splitlines()[-1]
    server.faults.clear()
    assert f"tools runs --add {KERNEL}/v1" in err
    [row] = tools("runs", "--add", f"{KERNEL}/v1", "--json").json
    assert row["run"] == f"{SLUG}/v1"


def test_ctrl_c_during_a_push_leaves_no_run_that_the_ledger_does_not_know(server, project, python):
    server.faults["SaveKernel"] = [Lost(Hang())]
    process = subprocess.Popen([python, "-m", "tools", "push-kernel"], stderr=subprocess.PIPE)
    server.wait_for("SaveKernel")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    assert f"Pushed {KERNEL} v1" in said and "Traceback" not in said
    assert runs.find().version == 1


def test_a_push_that_did_not_arrive_exits_6_and_is_not_repeated(tools, server, project, ledger):
    server.faults["SaveKernel"] = [Drop()]
    done = tools("push-kernel")
    assert done.code == 6
    assert "It is not known whether Kaggle took it" in done.err
    assert len(server.called("SaveKernel")) == 1
    assert ledger() == []


def ended(version):
    version.states, version.outputs = ["COMPLETE"], {"checkpoint.npz": b"PK\x03\x04"}


def test_an_equal_version_from_before_is_not_taken_for_the_push_that_was_lost(
    tools, server, project
):
    server.on_push = ended
    assert tools("push-kernel").code == 0
    server.faults["SaveKernel"] = [Drop()]
    done = tools("push-kernel")
    assert done.code == 6
    assert "It is not known whether Kaggle took it" in done.err


def test_another_version_meanwhile_is_not_taken_for_the_push_that_was_lost(tools, server, project):
    server.add_version(KERNEL, states=["COMPLETE"])
    server.add_version(KERNEL, states=["COMPLETE"], pushed={"slug": KERNEL, "text": "another"})
    before = {"metadata": {"currentVersionNumber": 1}, "blob": {"source": ""}}
    server.faults["GetKernel"] = [Reply(200, before)]
    server.faults["SaveKernel"] = [Drop()]
    done = tools("push-kernel")
    assert done.code == 6
    assert "It is not known whether Kaggle took it" in done.err
    named = [body["kernelSlug"] for body in server.called("GetKernel")]
    assert named == [SLUG, f"{SLUG}-resumed", SLUG]


def test_the_projects_channel_order_and_scale_are_pushed(tools, server, project):
    (project / "tools.toml").write_text('channel_order = "rgb"\nvalue_scale = "minmax"\n')
    assert tools("push-kernel").code == 0
    overrides = runs.find().push["overrides"]
    assert (overrides["channel_order"], overrides["value_scale"]) == ("rgb", "minmax")
    assert f"OVERRIDES: dict[str, object] = {overrides!r}" in server.called("SaveKernel")[0]["text"]


def test_resuming_a_version_that_the_ledger_does_not_know_takes_no_other_ones_settings(
    tools, server, project
):
    server.on_push = ended
    assert tools("push-kernel", "--set", "steps=777").code == 0
    server.add_version(KERNEL, states=["COMPLETE"], outputs={"checkpoint.npz": b"PK\x03\x04"})
    done = tools("push-kernel", "--resume")
    assert "The ledger has no settings of v2: give them with --set." in done.err
    assert "steps" not in runs.find().push["overrides"]


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (Reply(401, {"code": 401, "message": "no"}), 7, "did not accept the credentials"),
        (Reply(403, {"code": 403, "message": "Phone verification"}), 3, "Phone verification"),
        (Reply(404, {"code": 404, "message": "Notebook not found"}), 3, "Notebook not found"),
        (Reply(409, {"code": 409, "message": "The title is taken"}), 3, "The title is taken"),
        (Reply(200, b"<html>"), 6, "no JSON"),
        (Reply(200, {"versionNumber": 0}), 3, "gave no version number"),
        (Reply(200, [1]), 3, "gave no version number"),
        (Reply(200, {"versionNumber": "../../x"}), 3, "gave no version number"),
        (Reply(200, {"versionNumber": -1}), 3, "gave no version number"),
        (Reply(200, {"code": "x", "message": 1}), 6, "makes no sense"),
    ],
    ids=str,
)
def test_every_refusal_has_its_exit_code_and_one_line(
    tools, server, project, ledger, fault, code, message
):
    server.faults["SaveKernel"] = [fault]
    done = tools("push-kernel")
    assert done.code == code, done.err
    assert message in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert server.key not in done.err
    assert ledger() == []


def test_without_credentials_a_push_exits_7(tools, server, project, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    done = tools("push-kernel")
    assert done.code == 7
    assert "There are no Kaggle credentials. Make a token at https://www.kaggle.com/set" in done.err


def test_a_source_of_500_for_an_empty_kernel_does_not_keep_from_pushing(
    tools, server, project, monkeypatch
):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0.1")
    server.faults["GetKernel"] = [Reply(500)] * 50
    done = tools("push-kernel")
    assert (done.code, done.out) == (0, f"{KERNEL}/v1\n")
    assert "could not be reached while looking for" in done.err


def test_what_helps_against_a_refusal_is_said(tools, server, project):
    server.faults["SaveKernel"] = [Reply(403, b"")]
    done = tools("push-kernel")
    assert (done.code, "Is the account's phone number verified" in done.err) == (3, True)
    server.save_extra = {"error": "Notebook not found", "versionNumber": 0}
    done = tools("push-kernel")
    assert (done.code, "left an empty notebook: delete it at https://www" in done.err) == (3, True)


@pytest.mark.parametrize("fault", [Reply(403), Reply(404), Reply(500), Drop()])
def test_a_quota_that_is_not_told_does_not_keep_from_pushing(tools, server, project, fault):
    server.faults["GetAcceleratorQuotaStatistics"] = [fault]
    done = tools("push-kernel")
    assert (done.code, "did not say how much GPU time is left" in done.err) == (0, True)
    assert len(server.called("GetAcceleratorQuotaStatistics")) == 1


def test_hours_that_others_have_reserved_do_not_shorten_the_training(tools, server, project):
    server.on_push = ended
    server.quota = {"timeUsed": "36000s", "timeReserved": "64800s", "totalTimeAllowed": "108000s"}
    assert tools("push-kernel").code == 0
    assert runs.find().push["overrides"]["time_budget"] == 8.75
    server.quota = server.quota | {"timeReserved": "72000s"}
    done = tools("push-kernel", "--accelerator", "NvidiaL4")
    assert (done.code, "(10.0 of 30 h are used, 20.0 reserved by what runs)" in done.err) == (3, 1)
    assert tools("push-kernel", "--force").code == 0
    assert runs.find().push["overrides"]["time_budget"] == 8.75


@pytest.mark.parametrize(
    ("url", "kernel"),
    [
        ("https://www.kaggle.com/code/ada/pix2pix-inpainting-jcg6h", f"{KERNEL}-jcg6h"),
        ("https://www.kaggle.com/ada/pix2pix-inpainting-jcg6h", f"{KERNEL}-jcg6h"),
        ("https://www.kaggle.com/code/eve/pix2pix-inpainting", KERNEL),
        ("https://www.kaggle.com/code/ada/../../x", KERNEL),
        ("javascript:alert(1)", KERNEL),
    ],
)
def test_the_kernel_that_kaggle_made_is_the_one_in_the_ledger(tools, server, project, url, kernel):
    server.save_extra = {"url": url}
    done = tools("push-kernel")
    assert (done.code, done.out) == (0, f"{kernel}/v1\n")
    assert ("the next push goes there as well" in done.err) == (kernel != KERNEL)
    assert runs.find().url == f"https://www.kaggle.com/code/{kernel}"


def test_a_title_that_grows_too_long_is_a_mistake(tools, server, project):
    path = project / "kernel-metadata.json"
    title = "Pix2Pix inpainting of forty-five characters xx"
    metadata = json.loads(path.read_text()) | {
        "title": title,
        "id": title.lower().replace(" ", "-"),
    }
    path.write_text(json.dumps(metadata))
    done = tools("push-kernel", "--notebook")
    assert (done.code, server.called("SaveKernel")) == (1, [])
    assert "is longer than Kaggle's 50 characters. Shorten title and id" in done.err
    done = tools("push-kernel")
    assert (done.code, "leaves no room for --resume, which adds '-resumed'" in done.err) == (0, 1)


@pytest.mark.parametrize("slug", ["pix2pix-resumed", "pix2pix-notebook"])
def test_an_id_that_resuming_would_make_is_a_mistake(tools, server, project, slug):
    path = project / "kernel-metadata.json"
    metadata = json.loads(path.read_text()) | {"title": slug.replace("-", " "), "id": slug}
    path.write_text(json.dumps(metadata))
    done = tools("push-kernel")
    assert (done.code, "ends as those do that --resume and --notebook make" in done.err) == (1, 1)


def test_two_pushes_at_once_run_one_session(server, project, python):
    hold = Hold()
    server.faults["SaveKernel"] = [hold]
    command = [python, "-m", "tools", "push-kernel"]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    server.wait_for("SaveKernel")
    second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert "another `tools push-kernel` goes on" in second.stderr.readline()
    hold.let_go.set()
    assert first.communicate(timeout=60)[1].startswith(f"Pushed {KERNEL} v1")
    assert f"{KERNEL} v1 is still QUEUED" in second.communicate(timeout=60)[1]
    assert (first.returncode, second.returncode, len(server.kernels[KERNEL])) == (0, 1, 1)


def test_push_and_wait_in_one_command(tools, server, project):
    done = tools("push-kernel", "--wait")
    assert (done.code, done.out) == (0, f"{KERNEL} v1 COMPLETE\n")
    server.on_push = lambda version: version.states.__setitem__(slice(None), ["ERROR"])
    assert tools("push-kernel", "--wait").code == 4
