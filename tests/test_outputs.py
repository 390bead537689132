import functools
import hashlib
import subprocess

import pytest

from tests.peers.kaggle import Cut, Drop, Hang, Hold, Reply
from tests.run_record import KERNEL, hdf5, record
from tools import kept, outputs, runs
from tools.errors import UserError, VerificationError
from tools.files import LONGEST

FILES = {
    "generator.h5": hdf5(),
    "training_log.csv": b"step,loss\n1,2\n",
    "tensorboard/events.out.tfevents.1": b"\x00" * 100,
    "loss_curve.png": b"\x89PNG\r\n\x1a\n...",
}


@pytest.fixture
def version(server, project):
    """A version that has ended, with all that the kernel leaves."""
    version = server.add_version(KERNEL, states=["COMPLETE"])
    version.outputs = {**FILES, "run.json": record(FILES)}
    version.say("step 1/2 | gen 1.0")
    runs.record_push(KERNEL, 1)
    return version


@pytest.fixture
def there(project):
    """The names of the files in a folder, by default the run's outputs in the ledger."""

    def names(folder="runs/pix2pix-inpainting/v1/outputs"):
        found = (project / folder).rglob("*")
        return sorted(str(f.relative_to(project / folder)) for f in found if f.is_file())

    return names


WHOLE = sorted([*FILES, "run.json", "pix2pix-inpainting.log"])


def test_everything_is_fetched_verified_and_noted(tools, version, server, project, there):
    server.page_size = 2
    done = tools("fetch-outputs")
    assert done.code == 0, done.err
    assert there() == WHOLE
    run = runs.find()
    for name, content in version.outputs.items():
        assert (run.folder / "outputs" / name).read_bytes() == content
    assert (run.folder / "outputs" / "pix2pix-inpainting.log").read_text() == "step 1/2 | gen 1.0\n"
    assert run.outputs["complete"] is True
    assert run.outputs["metrics"]["ratio_to_harmonic"]["model"] == 0.9
    listing = server.called("ListKernelSessionOutput")[0]
    assert listing == {
        "userName": "ada",
        "kernelSlug": "pix2pix-inpainting",
        "versionLabel": "v1",
        "pageSize": 200,
        "pageToken": "",
    }
    downloads = [call for call in server.calls if call.name == "download"]
    assert all("Authorization" not in call.headers for call in downloads)


def test_a_second_run_downloads_only_what_is_missing_or_differs(tools, version, server, project):
    tools("fetch-outputs")
    folder = runs.find().folder / "outputs"
    (folder / "loss_curve.png").unlink()
    (folder / "training_log.csv").write_bytes(b"step,loss\n1,3\n")
    server.calls.clear()
    assert tools("fetch-outputs").code == 0
    paths = [call.body["path"].rsplit("/")[-1] for call in server.calls if call.name == "download"]
    assert sorted(paths) == ["loss_curve.png", "training_log.csv"]
    entries = runs.find().outputs["files"]
    assert [e["name"] for e in entries if not e["verified"]] == ["pix2pix-inpainting.log"]
    assert (folder / "training_log.csv").read_bytes() == FILES["training_log.csv"]


def test_files_go_to_a_folder_of_ones_own(tools, version, there):
    done = tools("fetch-outputs", "--to", "models", "--json")
    assert there("models") == WHOLE
    assert done.json["complete"] is True
    assert {file["name"]: file["verified"] for file in done.json["files"]} == {
        name: name != "pix2pix-inpainting.log" for name in WHOLE
    }


@pytest.mark.parametrize("name", ["generator.h5", "run.json", "pix2pix-inpainting.log"])
def test_a_file_that_a_person_has_there_is_not_replaced(tools, version, project, there, name):
    (project / "models").mkdir()
    (project / "models" / name).write_bytes(b"mine")
    done = tools("fetch-outputs", "--to", "models")
    assert done.code == 1
    assert f"{name} is another file than this run's. Choose another folder" in done.err
    assert (project / "models" / name).read_bytes() == b"mine"
    assert there("models") == [name]
    assert tools("fetch-outputs", "--to", "models", "--overwrite").code == 0
    assert (project / "models" / name).read_bytes() != b"mine"


@pytest.mark.parametrize("name", ["generator.h5", "run.json", "pix2pix-inpainting.log"])
def test_a_file_that_was_changed_since_it_was_fetched_is_not_replaced(
    tools, version, project, name
):
    assert tools("fetch-outputs", "--to", "models").code == 0
    (project / "models" / name).write_bytes(b"mine")
    done = tools("fetch-outputs", "--to", "models")
    assert done.code == 1
    assert f"{name} is another file than this run's. Choose another folder" in done.err
    assert (project / "models" / name).read_bytes() == b"mine"
    assert tools("fetch-outputs", "--to", "models", "--overwrite").code == 0
    assert (project / "models" / name).read_bytes() != b"mine"


def test_what_another_version_put_in_the_place_is_not_replaced(tools, version, server, project):
    assert tools("fetch-outputs", "v1", "--to", "models").code == 0
    second = server.add_version(KERNEL, states=["COMPLETE"])
    files = {**FILES, "generator.h5": hdf5(seed=2)}
    second.outputs = {**files, "run.json": record(files)}
    runs.record_push(KERNEL, 2)
    assert tools("fetch-outputs", "v2", "--to", "models", "--overwrite").code == 0
    done = tools("fetch-outputs", "v1", "--to", "models")
    assert (done.code, "is another file than this run's" in done.err) == (1, True)
    assert (project / "models" / "generator.h5").read_bytes() == files["generator.h5"]


def test_what_is_missing_of_a_folder_of_ones_own_is_fetched_and_a_longer_log_kept(
    tools, version, server, project, there
):
    assert tools("fetch-outputs", "--to", "models").code == 0
    (project / "models" / "generator.h5").unlink()
    version.say("step 2/2 | gen 0.9")
    server.calls.clear()
    done = tools("fetch-outputs", "--to", "models")
    assert done.code == 0, done.err
    assert there("models") == WHOLE
    log = (project / "models" / "pix2pix-inpainting.log").read_text()
    assert log == "step 1/2 | gen 1.0\nstep 2/2 | gen 0.9\n"
    assert len([call for call in server.calls if call.name == "download"]) == 1


def test_a_project_that_was_moved_fetches_nothing_again(
    tools, version, server, project, monkeypatch
):
    assert tools("fetch-outputs").code == 0
    moved = project.rename(project.with_name("moved"))
    monkeypatch.chdir(moved)
    here = moved / "runs" / "pix2pix-inpainting" / "v1" / "outputs"
    assert {here / name for name in WHOLE} == {f.path for f in kept.verified_files(runs.find())}
    server.calls.clear()
    assert tools("fetch-outputs", "--json").json["complete"] is True
    assert not [call for call in server.calls if call.name == "download"]


def test_the_ledger_notes_of_the_record_what_commands_ask_it_for(tools, version):
    submission, more = {"channel_order": "bgr"}, {"config": {"width": 2}, "versions": {"keras": 3}}
    version.outputs["run.json"] = record(
        FILES, step=9, steps=10, seconds=3.5, device="T4", submission=submission, **more
    )
    assert tools("fetch-outputs").code == 0
    noted = runs.find().outputs
    assert (noted["ended"], noted["steps"], noted["submission"]) == ("complete", 10, submission)
    assert noted["metrics"]["hole_rmse"] == {"model": 0.14}
    assert not noted.keys() & {"step", "seconds", "device", "config", "versions"}


@pytest.mark.parametrize(("state", "code"), [("COMPLETE", 0), ("ERROR", 1)])
def test_a_persons_own_partial_txt_stays_what_it_is(tools, version, project, state, code):
    version.states = [state]
    (project / "models").mkdir()
    (project / "models" / "PARTIAL.txt").write_text("mine")
    assert tools("fetch-outputs", "--to", "models").code == code
    assert (project / "models" / "PARTIAL.txt").read_text() == "mine"


@pytest.mark.parametrize("state", ["COMPLETE", "ERROR"])
def test_a_fetch_into_a_folder_that_broke_off_is_gone_on_with(
    tools, version, server, project, there, monkeypatch, state
):
    version.states = [state]
    if state == "ERROR":
        del version.outputs["run.json"]
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0.1")
    server.faults["download"] = [None, None, *[Drop()] * 20]
    assert tools("fetch-outputs", "--to", "models").code == 6
    server.faults["download"].clear()
    done = tools("fetch-outputs", "--to", "models")
    assert done.code == (0 if state == "COMPLETE" else 4), done.err
    assert set(version.outputs) <= set(there("models"))


def test_only_what_matches_is_fetched(tools, version, there):
    assert tools("fetch-outputs", "--include", "*.h5", "--include", "tensorboard/*").code == 0
    assert there() == [
        "generator.h5",
        "pix2pix-inpainting.log",
        "tensorboard/events.out.tfevents.1",
    ]
    assert runs.find().outputs["complete"] is False
    assert tools("fetch-outputs").code == 0
    assert runs.find().outputs["complete"] is True


def test_the_logs_alone_are_fetched(tools, version, there):
    assert tools("fetch-outputs", "--logs-only").code == 0
    assert there() == ["pix2pix-inpainting.log", "run.json", "training_log.csv"]


def test_the_listing_shows_names_and_sizes_and_fetches_nothing(tools, version, server, there):
    version.outputs["../evil"] = b"x"
    done = tools("fetch-outputs", "--list", "--json")
    sizes = {file["name"]: file["size"] for file in done.json["files"]}
    assert sizes == {n: len(content) for n, content in version.outputs.items() if n != "../evil"}
    assert "Not safe to write: '../evil'" in done.err
    assert there() == []
    assert not [call for call in server.calls if call.name == "download"]


def test_a_folder_may_be_named_after_the_run_and_a_listing_be_filtered(tools, version, there):
    done = tools("fetch-outputs", "--to", "models/{slug}/v{version}", "--include", "*.h5")
    assert done.code == 0, done.err
    assert "generator.h5" in there("models/pix2pix-inpainting/v1")
    listed = tools("fetch-outputs", "--list", "--include", "*.h5", "--json").json
    assert [file["name"] for file in listed["files"]] == ["generator.h5"]
    done = tools("fetch-outputs", "--include", "*.h6")
    assert done.code == 1
    assert "matches *.h6" in done.err


def test_a_part_elsewhere_does_not_make_the_ledger_forget_the_whole(tools, version, there):
    assert tools("fetch-outputs").code == 0
    done = tools("fetch-outputs", "--include", "*.h5", "--to", "models", "--json")
    assert {file["name"] for file in done.json["files"]} >= {"generator.h5"}
    assert done.json["complete"] is False
    assert tools("fetch-outputs", "--include", "*.h5", "--to", "models").code == 0
    assert "generator.h5" in there("models")
    assert runs.find().outputs["complete"] is True
    assert {file.name for file in kept.verified_files(runs.find())} == set(WHOLE)


def test_a_part_goes_to_a_destination_without_the_record_that_means_the_whole(tools, version):
    assert tools("fetch-outputs", "--logs-only").code == 0
    run = runs.find()
    folder, entries = run.folder / "outputs", run.outputs["files"]
    going = kept.matching(run, folder, entries, outputs.LOGS)
    assert {file.name for file in going} == {"training_log.csv", "pix2pix-inpainting.log"}


def test_of_two_fetches_at_once_the_second_waits_and_fetches_nothing_again(
    version, server, python, there
):
    hold = Hold()
    server.faults["ListKernelSessionOutput"] = [hold]

    def start():
        words = [python, "-m", "tools", "fetch-outputs"]
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)

    with start() as first:
        server.wait_for("ListKernelSessionOutput")
        with start() as second:
            waits = any("waiting until it has ended" in line for line in second.stderr)
            hold.let_go.set()
            said = [each.communicate()[1] for each in (first, second)]
    assert waits
    assert [first.returncode, second.returncode] == [0, 0], said
    assert there() == WHOLE
    downloads = [call for call in server.calls if call.name == "download"]
    assert len(downloads) == len(version.outputs)


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING", "CANCEL_REQUESTED", "WEIRD"])
def test_nothing_is_fetched_before_the_pinned_version_has_ended(
    tools, server, version, there, state
):
    server.add_version(KERNEL, states=["COMPLETE"])
    version.states = [state]
    done = tools("fetch-outputs", "v1")
    assert done.code == 5
    assert f"{KERNEL} v1 is still {state}; nothing was fetched. Wait for it: tools wait" in done.err
    assert there() == []


@pytest.mark.parametrize(
    "faults",
    [
        [Cut(70_000), Cut(70_000)],
        [Drop(), Reply(503)],
        [Hang()],
        [Reply(403, b"<Error>ExpiredToken</Error>")],
        [Reply(200, b"<html>come back later</html>")],
        [Reply(200, FILES["generator.h5"][:-5])],
        [Reply(200, hdf5(seed=1))],
    ],
    ids=["cut", "dropped", "silent", "expired", "error page", "truncated", "other bytes"],
)
def test_a_fault_of_the_storage_is_mended(tools, version, server, there, monkeypatch, faults):
    monkeypatch.setenv("TOOLS_TIMEOUT", "2")
    server.faults["download"] = [None, *faults]
    done = tools("fetch-outputs")
    assert done.code == 0, done.err
    assert there() == WHOLE
    assert (runs.find().folder / "outputs/generator.h5").read_bytes() == FILES["generator.h5"]


def test_all_addresses_expired_and_all_are_asked_for_anew(tools, version, server, there):
    listed = server.ListKernelSessionOutput

    def expiring(body):
        answer = listed(body)
        if len(server.called("ListKernelSessionOutput")) == 1:
            server.storage.expire()
        return answer

    server.ListKernelSessionOutput = expiring
    assert tools("fetch-outputs").code == 0
    assert there() == WHOLE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>error</html>", "generator.h5 has 18 bytes instead of"),
        (FILES["generator.h5"][:-5], "generator.h5 has"),
        (hdf5(seed=1), "generator.h5 has the SHA-256"),
    ],
    ids=["error page", "truncated", "other bytes"],
)
def test_a_wrong_model_exits_8_and_is_not_kept(tools, version, there, content, message):
    version.outputs["generator.h5"] = content
    done = tools("fetch-outputs")
    assert done.code == 8
    assert message in done.err.splitlines()[-1]
    assert there() == [name for name in WHOLE if name != "generator.h5"]
    assert runs.find().outputs["complete"] is False


def test_a_good_model_from_before_stays_when_a_wrong_one_comes(tools, version, there):
    tools("fetch-outputs")
    folder = runs.find().folder
    (folder / "outputs" / "generator.h5").write_bytes(b"touched by somebody")
    version.outputs["generator.h5"] = b"<html>"
    assert tools("fetch-outputs").code == 8
    assert (folder / "outputs" / "generator.h5").read_bytes() == b"touched by somebody"


@pytest.mark.parametrize(
    "name",
    [
        *("../evil.h5", "/etc/evil", "a/../../evil", "GENERATOR.H5", "a\\b"),
        *("generator.h5/evil", "Generator.h5/a/evil", "tensorboard", "evil" * 60),
        *("pix2pix-inpainting.log/evil", "PARTIAL.txt/evil", "run.json/evil"),
    ],
)
def test_a_hostile_name_exits_8_and_everything_else_is_fetched(
    tools, version, project, there, name
):
    version.outputs[name] = hdf5()
    done = tools("fetch-outputs")
    assert done.code == 8
    assert ascii(name) in done.err
    assert there() == WHOLE
    assert not list(project.parent.rglob("evil*"))


def test_a_name_as_long_as_any_disk_takes_is_fetched(tools, version, there):
    files = {**FILES, "x" * LONGEST: b"long"}
    version.outputs = {**files, "run.json": record(files)}
    assert tools("fetch-outputs").code == 0
    assert "x" * LONGEST in there()


def test_a_log_that_is_nested_too_deeply_does_not_keep_the_files_away(tools, version, there):
    version.log = "[" * 100_000
    done = tools("fetch-outputs")
    assert done.code == 0, done.err
    assert there() == WHOLE
    assert "[[[" in tools("logs").out


def test_a_link_in_the_folder_is_not_followed(tools, version, project, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (project / "models").mkdir()
    (project / "models" / "tensorboard").symlink_to(tmp_path / "elsewhere")
    done = tools("fetch-outputs", "--to", "models")
    assert done.code == 8
    assert "models/tensorboard is a link, and links are not followed. Put" in done.err
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("state", ["ERROR", "CANCEL_ACKNOWLEDGED"])
def test_what_a_failed_run_left_is_fetched_and_marked(tools, version, there, state):
    version.states, version.failure = [state], "out of memory"
    del version.outputs["run.json"]
    done = tools("fetch-outputs", "--json")
    assert done.code == 4
    assert "what it left is in" in done.err
    assert done.json["complete"] is False
    assert there() == sorted({*WHOLE, "PARTIAL.txt"} - {"run.json"})
    folder = runs.find().folder
    assert (folder / "outputs/PARTIAL.txt").read_text() == f"{KERNEL} v1: {state} out of memory\n"
    assert (folder / "log.txt").read_text() == "step 1/2 | gen 1.0\n"
    with pytest.raises(UserError, match="are not here as a whole"):
        kept.verified_files(runs.find())
    assert tools("fetch-outputs", "--include", "*.h6").code == 4
    version.states, version.outputs["run.json"] = ["COMPLETE"], record(FILES)
    assert tools("fetch-outputs").code == 0
    assert there() == WHOLE


def test_a_run_without_a_record_exits_8(tools, version, there):
    del version.outputs["run.json"]
    done = tools("fetch-outputs")
    assert done.code == 8
    assert "left no run.json; its files are not verified" in done.err
    assert "generator.h5" in there()
    assert runs.find().outputs["complete"] is False


def test_a_run_without_any_output_exits_8(tools, version, there):
    version.outputs, version.events = {}, []
    done = tools("fetch-outputs")
    assert done.code == 8
    assert there() == []


def test_a_run_that_is_here_stays_whole_when_kaggle_lists_nothing(tools, version):
    assert tools("fetch-outputs").code == 0
    version.outputs = {}
    assert tools("fetch-outputs").code == 0
    assert runs.find().outputs["complete"] is True
    (runs.find().folder / "outputs" / "generator.h5").write_bytes(b"changed")
    done = tools("fetch-outputs")
    assert (done.code, "does not list generator.h5, which the run wrote" in done.err) == (8, True)
    assert runs.find().outputs["complete"] is False


def test_a_file_that_the_record_names_but_kaggle_does_not_list_exits_8(tools, version):
    del version.outputs["generator.h5"]
    done = tools("fetch-outputs")
    assert done.code == 8
    assert "Kaggle does not list generator.h5, which the run wrote" in done.err


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"[]",
        record(FILES, schema=2),
        record(FILES, files=[{"name": "../x", "size": 1, "sha256": "0" * 64}]),
        record(FILES, files=[{"name": "x", "size": -1, "sha256": "0" * 64}]),
        record(FILES, files=[{"name": "x", "size": 1, "sha256": "short"}]),
        record(FILES, files=7),
        record(FILES, metrics=[1]),
        record(FILES, submission="s.csv"),
        record(FILES, config=None),
        record(FILES, versions=7),
        record(FILES, device=functools.reduce(lambda inner, _: [inner], range(300))),
        b"[" * 100_000,
    ],
)
def test_a_record_that_is_none_exits_8_before_anything_is_fetched(tools, version, there, content):
    version.outputs["run.json"] = content
    done = tools("fetch-outputs")
    assert done.code == 8
    assert "run.json is not the record of a run" in done.err
    assert there() == []


def test_training_that_was_stopped_early_is_told(tools, version):
    version.outputs["run.json"] = record(FILES, status="stopped")
    done = tools("fetch-outputs")
    assert done.code == 0
    assert "go on with it: tools push-kernel --resume" in done.err
    assert runs.find().outputs["ended"] == "stopped"
    runs.record_push(KERNEL, 2)
    assert "--resume" not in tools("fetch-outputs", "v1").err


def test_a_network_that_stays_away_exits_6_and_what_came_is_gone_on_with(
    tools, version, server, there, monkeypatch
):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0.1")
    server.faults["download"] = [None, Cut(70_000)] + [Drop()] * 20
    done = tools("fetch-outputs")
    assert done.code == 6
    assert "generator.h5 did not arrive: the connection broke off. What did is kept" in done.err
    assert [name.startswith(".generator.h5.") for name in there()] == [True]
    server.faults["download"].clear()
    server.calls.clear()
    assert tools("fetch-outputs").code == 0
    assert there() == WHOLE
    first = next(call for call in server.calls if call.name == "download")
    assert first.headers["Range"] == "bytes=65536-"


def test_verified_files_are_checked_once_more(tools, version):
    tools("fetch-outputs")
    found = kept.verified_files(runs.find())
    assert [file.name for file in found][-1] == "run.json"
    assert {file.name for file in found} == set(WHOLE)
    model = next(file for file in found if file.name == "generator.h5")
    assert model.sha256 == hashlib.sha256(FILES["generator.h5"]).hexdigest()
    model.path.write_bytes(b"changed")
    with pytest.raises(VerificationError, match="generator.h5 has 7 bytes instead of"):
        kept.verified_files(runs.find())


def test_a_part_of_another_file_whose_name_begins_alike_is_left_alone(tools, version, server):
    beside = runs.find().folder / "outputs" / ".loss_curve.png.old.0123456789ab.part"
    beside.parent.mkdir()
    beside.write_bytes(b"half")
    assert tools("fetch-outputs").code == 0
    assert beside.read_bytes() == b"half"
