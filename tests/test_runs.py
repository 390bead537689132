import json
import re

import pytest

from tools import runs
from tools.errors import UserError


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    (tmp_path / "kernel-metadata.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_recorded_is_read_back(project):
    run = runs.record_push("ada/pix2pix-train", 3, url="https://x", config={"steps": 10})
    assert run.folder == project / "runs" / "pix2pix-train" / "v3"
    runs.record_status(run, "ERROR", "out of memory")
    runs.record_outputs(run, files=[])
    found = runs.read(run.folder)
    assert (found.kernel, found.version, str(found)) == (
        "ada/pix2pix-train",
        3,
        "ada/pix2pix-train v3",
    )
    assert found.push["config"] == {"steps": 10}
    assert found.status["failure"] == "out of memory"


def test_the_newest_run_is_meant_where_none_is_named():
    runs.record_push("ada/first-kernel", 9, pushed_at="2026-01-02T00:00:00Z")
    runs.record_push("ada/first-kernel", 10, pushed_at="2026-01-01T00:00:00Z")
    runs.record_push("ada/other-kernel", 1, pushed_at="2026-01-03T00:00:00Z")
    assert str(runs.find()) == "ada/other-kernel v1"
    assert str(runs.find("first-kernel/v9")) == "ada/first-kernel v9"
    assert str(runs.find("ada/first-kernel/10")) == "ada/first-kernel v10"
    assert str(runs.find("v1")) == "ada/other-kernel v1"
    assert [run.version for run in runs.every()] == [1, 9, 10]


def test_a_number_that_two_kernels_have_is_asked_for_in_full():
    runs.record_push("ada/first-kernel", 1)
    runs.record_push("ada/other-kernel", 1)
    runs.record_push("ada/first-kernel", 2)
    assert str(runs.find("v2")) == "ada/first-kernel v2"
    with pytest.raises(UserError, match="several runs. Name one: ") as failure:
        runs.find("v1")
    assert {"first-kernel/v1", "other-kernel/v1"} <= set(re.split("[ .]", str(failure.value)))


def test_a_run_that_is_not_there_lists_those_that_are():
    with pytest.raises(UserError, match="tools push-kernel"):
        runs.find()
    runs.record_push("ada/pix2pix-train", 3)
    with pytest.raises(UserError, match="no run 'v4' in the ledger. There are pix2pix-train/v3"):
        runs.find("v4")
    for hostile in ("../../etc/v3", "", "v3/..", "v99999999999999"):
        with pytest.raises(UserError):
            runs.find(hostile)


def test_the_last_line_of_a_submission_counts_and_a_torn_line_does_not():
    run = runs.record_push("ada/pix2pix-train", 3)
    runs.record_submission(run.folder, {"ref": 1, "status": "PENDING", "message": "first"})
    runs.record_submission(run.folder, {"ref": 2, "status": "PENDING"})
    runs.record_submission(run.folder, {"ref": 1, "status": "COMPLETE", "score": 0.16})
    with (run.folder / "submissions.jsonl").open("a") as file:
        file.write('{"ref": 2, "sta')
    with (run.folder / "submissions.jsonl").open("ab") as file:
        file.write("é".encode()[:1])
    runs.record_submission(run.folder, {"ref": 3, "status": "PENDING"})
    first, second, third = runs.read(run.folder).submissions
    assert third["ref"] == 3
    assert (first["message"], first["status"], first["score"]) == ("first", "COMPLETE", 0.16)
    assert second["status"] == "PENDING"


def test_a_run_is_called_what_commands_take_and_has_a_page():
    run = runs.record_push("ada/pix2pix-train", 3)
    assert runs.find(run.short) == run
    assert run.log_name == "pix2pix-train.log"
    assert run.url == runs.page("ada/pix2pix-train")
    elsewhere = runs.record_push("ada/pix2pix-train", 4, url="https://x")
    assert elsewhere.url == "https://x"


def test_outputs_in_the_ledger_are_found_where_the_project_was_moved_to(project, monkeypatch):
    run = runs.record_push("ada/pix2pix-train", 3)
    assert run.fetched_to == run.outputs_folder == run.folder / "outputs"
    runs.record_outputs(run, folder=run.outputs_folder, files=[])
    moved = project.rename(project.with_name("moved"))
    monkeypatch.chdir(moved)
    assert runs.find().fetched_to == moved / "runs" / "pix2pix-train" / "v3" / "outputs"


def test_outputs_elsewhere_and_those_noted_with_a_whole_path_are_found(project):
    run = runs.record_push("ada/pix2pix-train", 3)
    assert runs.record_outputs(run, folder=project / "models").fetched_to == project / "models"
    noted = {"folder": str(run.folder / "outputs")}
    (run.folder / "outputs.json").write_text(json.dumps(noted))
    assert runs.find().fetched_to == run.outputs_folder


def test_a_version_that_comes_again_takes_over_nothing_and_loses_nothing(project):
    old = runs.record_push("ada/pix2pix-train", 1)
    runs.record_outputs(old, complete=True)
    new = runs.record_push("bob/pix2pix-train", 1)
    assert (new.kernel, new.outputs, new.status) == ("bob/pix2pix-train", {}, {})
    assert [str(run) for run in runs.every()] == ["bob/pix2pix-train v1"]
    [aside] = (project / "runs" / "pix2pix-train").glob("earlier-v1-*")
    assert runs.read(aside).kernel == "ada/pix2pix-train" and runs.read(aside).outputs["complete"]


def test_an_entry_that_was_damaged_is_named(project):
    run = runs.record_push("ada/pix2pix-train", 3)
    (run.folder / "push.json").write_text(json.dumps({"kernel": "../../x/y", "version": 3}))
    with pytest.raises(UserError, match="push.json is no entry"):
        runs.read(run.folder)
    (run.folder / "push.json").write_text("{")
    with pytest.raises(UserError, match="push.json cannot be read"):
        runs.every()


@pytest.mark.parametrize(
    ("name", "entry", "anew"),
    [
        ("status.json", {"status": 5}, "tools status pix2pix-train/v3"),
        ("outputs.json", {"files": 5}, "tools fetch-outputs pix2pix-train/v3"),
        ("outputs.json", {"files": [1]}, "tools fetch-outputs pix2pix-train/v3"),
        ("outputs.json", {"files": [{"name": 1}]}, "tools fetch-outputs pix2pix-train/v3"),
        ("outputs.json", [], "tools fetch-outputs pix2pix-train/v3"),
        ("push.json", {}, "tools runs --add OWNER/pix2pix-train/v3"),
    ],
)
def test_what_makes_a_damaged_file_anew_is_told(name, entry, anew):
    run = runs.record_push("ada/pix2pix-train", 3)
    (run.folder / name).write_text(json.dumps(entry))
    with pytest.raises(UserError, match=f"{name} holds no|push.json is no entry") as failure:
        runs.every()
    assert str(failure.value).endswith(f"or delete it and make it anew: {anew}")


def test_a_submission_stays_known_without_the_entry_of_its_run():
    run = runs.record_push("ada/pix2pix-train", 3)
    runs.record_submission(run.folder, {"ref": 1, "at": 5, "status": None, "score": "0.1"})
    (run.folder / "push.json").unlink()
    [(folder, entry)] = runs.every_submission()
    assert folder == run.folder
    assert entry == {"ref": 1, "at": "", "status": "PENDING", "score": None}


DEEP = "[" * 100_000


@pytest.mark.parametrize("facts", [{"config": []}, {"overrides": "a=b"}, {"set": 5}])
def test_an_entry_whose_settings_are_no_object_is_named(facts):
    with pytest.raises(UserError, match="push.json is no entry"):
        runs.record_push("ada/pix2pix-train", 3, **facts)


def test_an_entry_that_is_nested_too_deeply_is_named_and_such_a_line_is_passed_over():
    run = runs.record_push("ada/pix2pix-train", 3)
    runs.record_submission(run.folder, {"ref": 1})
    with (run.folder / "submissions.jsonl").open("a") as file:
        file.write(f'{{"ref": {DEEP}\n')
    assert [one["ref"] for one in runs.read(run.folder).submissions] == [1]
    (run.folder / "status.json").write_text(DEEP)
    with pytest.raises(UserError, match=r"status.json cannot be read: it is nested too deeply\."):
        runs.every()


@pytest.mark.parametrize("odd", [5, None, [], {}])
def test_a_run_without_the_time_of_its_push_counts_as_the_oldest(odd):
    runs.record_push("ada/pix2pix-train", 7, pushed_at=odd)
    runs.record_push("ada/pix2pix-train", 3)
    assert [run.version for run in runs.every()] == [3, 7]
    assert not runs.find("v7").is_fresh


def test_a_message_with_half_a_character_is_recorded():
    run = runs.record_push("ada/pix2pix-train", 3)
    runs.record_submission(run.folder, {"ref": 1, "message": "half \udcff"})
    assert runs.read(run.folder).submissions[0]["message"] == "half ?"


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0c", "\r", "\n"])
def test_a_submission_is_one_line_whatever_its_message_holds(separator):
    run = runs.record_push("ada/pix2pix-train", 3)
    message = f"one{separator}two"
    runs.record_submission(run.folder, {"ref": 1, "message": message})
    assert [one["message"] for one in runs.read(run.folder).submissions] == [message]


@pytest.mark.parametrize("kernel", ["../x/y", "ada/../y", "ada", "ada/a/b", "ada/A b"])
def test_a_hostile_reference_is_not_recorded(kernel, project):
    with pytest.raises(UserError, match="no kernel reference"):
        runs.record_push(kernel, 1)
    assert not (project / "runs").exists()
