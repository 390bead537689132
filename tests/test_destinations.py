import os
import time

import pytest

from tools.destinations import LocalFolder, deliver, expand, ready, split, upload
from tools.errors import UserError
from tools.files import LONGEST
from tools.remote import Origin, OutputFile, Stored

ORIGIN = Origin("ada/pix2pix", 3)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_slug_and_version_may_stand_in_a_destination():
    assert expand("gs://team/{slug}/v{version}", ORIGIN) == "gs://team/pix2pix/v3"


@pytest.mark.parametrize("word", ["{user}", "{}", "{version!r}", "{slug.upper}"])
def test_any_other_word_in_braces_is_an_error_that_lists_the_two(word):
    with pytest.raises(UserError, match=r"\{slug\} and \{version\}"):
        expand(f"gs://team/{word}", ORIGIN)


def test_one_folder_is_told_from_the_destinations_elsewhere():
    folder, elsewhere = split(["gs://team/a", "models", "drive:1AbC"])
    assert str(folder) == "models"
    assert elsewhere == ["gs://team/a", "drive:1AbC"]
    with pytest.raises(UserError, match="2 folders: models, other"):
        split(["models", "other"])


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/x", "ftp://host", "gdrive:abc", "GS://bucket/x", "Drive:x", r"C:\models", ""],
)
def test_an_unknown_kind_of_destination_is_refused(address):
    assert split([address]) == (None, [address])
    with pytest.raises(UserError, match="gs://bucket/prefix, drive:FOLDER_ID and folders"):
        ready([address], ORIGIN)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a//b", "a/./b", "", "a\nb", "a\\b", "C:x", "a/\u202eb", "nul"]
)
def test_a_name_that_could_leave_the_destination_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot be stored"):
        OutputFile(tmp_path, name, 0, "")


def test_a_folder_gets_every_file_once_and_the_manifest_last(tmp_path, make):
    files = make({"run.json": 10, "generator.h5": 3_000_000, "tensorboard/events": 70, "empty": 0})
    there = tmp_path / "kept" / "pix2pix"
    address = str(tmp_path / "kept" / "{slug}")
    first = upload(files, ORIGIN, ready([address], ORIGIN))
    assert contents(there) == {file.name: file.path.read_bytes() for file in files}
    assert [d.sent for d in first] == [True] * 4
    assert first[-1].name == "run.json"
    (tmp_path / "ordinary").touch()
    ordinary = (tmp_path / "ordinary").stat().st_mode
    assert (there / "run.json").stat().st_mode == ordinary
    stamps = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    again = upload(files, ORIGIN, ready([address], ORIGIN))
    assert [d.sent for d in again] == [False] * 4
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == stamps


def test_the_same_destination_twice_is_one(tmp_path, make, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("kept")
    written = ["kept", "kept/", "./kept", "link", str(tmp_path / "kept"), "{slug}/../kept"]
    goals = ready(written, ORIGIN)
    assert [goal.address for goal in goals] == ["kept"]
    upload(make({"generator.h5": 100}), ORIGIN, goals)


@pytest.fixture(params=["with hard links and modes", "without them"])
def kept(tmp_path, monkeypatch, request):
    """A folder on a disk of either kind."""

    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    if request.param == "without them":
        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(os, "chmod", refuse)
    return tmp_path / "kept"


def test_a_file_that_appears_during_the_upload_is_never_replaced(make, kept):
    (file,) = make({"generator.h5": 100})
    there = kept / "generator.h5"
    for overwrite in (False, True):
        with pytest.raises(UserError, match="generator.h5 was changed by somebody else"):
            deliver(
                file,
                ORIGIN,
                LocalFolder(str(kept)),
                overwrite,
                moved=lambda _: there.write_bytes(b"someone was faster"),
            )
        assert contents(kept) == {"generator.h5": b"someone was faster"}
        there.write_bytes(b"someone's own")


def test_the_same_file_may_come_from_two_uploads_at_once(make, kept):
    (file,) = make({"generator.h5": 100})
    others = []

    def another(_):
        if not others:
            others.append(None)
            others[0] = deliver(file, ORIGIN, LocalFolder(str(kept)))

    assert deliver(file, ORIGIN, LocalFolder(str(kept)), moved=another).sent
    assert others[0].sent
    assert contents(kept) == {"generator.h5": file.path.read_bytes()}


def test_a_file_that_vanishes_during_the_upload_is_replaced_all_the_same(make, kept):
    (file,) = make({"generator.h5": 100})
    kept.mkdir()
    there = kept / "generator.h5"
    there.write_bytes(b"someone's own")
    folder = LocalFolder(str(kept))
    before = folder.find("generator.h5")
    folder.put(file, ORIGIN, before, lambda _: there.unlink(missing_ok=True))
    assert contents(kept) == {"generator.h5": file.path.read_bytes()}


def test_what_a_killed_upload_left_is_removed_a_day_later(make, kept):
    (file,) = make({"generator.h5": 100})
    deliver(file, ORIGIN, LocalFolder(str(kept)))
    for age, name in ((25, "left"), (1, "going"), (25, "another")):
        part = kept / f".{'0' * 16 if name == 'another' else file.sha256[:16]}.{name}.part"
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age * 3600,) * 2)
    (kept / "generator.h5").unlink()
    deliver(file, ORIGIN, LocalFolder(str(kept)))
    assert sorted(path.name.split(".")[2] for path in kept.glob(".*.part")) == ["another", "going"]


def test_only_what_was_stored_is_removed(make, kept):
    (file,) = make({"generator.h5": 100})
    folder = LocalFolder(str(kept))
    stored = folder.put(file, ORIGIN, None, lambda _: None)
    (kept / "generator.h5").write_bytes(b"someone's own")
    folder.remove(stored)
    assert contents(kept) == {"generator.h5": b"someone's own"}
    (kept / "generator.h5").write_bytes(file.path.read_bytes())
    folder.remove(stored)
    folder.remove(stored)
    assert contents(kept) == {}


def test_a_name_as_long_as_any_disk_takes_is_stored(make, kept):
    (file,) = make({"x" * LONGEST: 100})
    assert deliver(file, ORIGIN, LocalFolder(str(kept))).sent


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_is_found_before_anything_moves(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="written"):
        ready([str(tmp_path / "kept")], ORIGIN)


def test_a_file_in_the_place_of_the_folder_is_found_before_anything_moves(tmp_path):
    (tmp_path / "kept").write_text("")
    with pytest.raises(UserError, match="kept is no folder"):
        ready([str(tmp_path / "kept")], ORIGIN)


def test_every_checksum_that_is_given_has_to_agree_and_one_has_to_be_given(make):
    (file,) = make({"generator.h5": 100})
    good = file.digests
    assert Stored("x", 100, {"md5": good["md5"]}).holds(file)
    assert Stored("x", 100, {"md5": good["md5"], "sha256": ""}).holds(file)
    assert not Stored("x", 100, {"md5": good["md5"], "crc32c": "00000000"}).holds(file)
    assert not Stored("x", 99, {"md5": good["md5"]}).holds(file)
    assert not Stored("x", 100, {}).holds(file)


def test_a_destination_that_fails_does_not_keep_the_others_from_getting_everything(
    tmp_path, make, capsys
):
    files = make({"generator.h5": 1000, "training_log.csv": 10, "run.json": 5})
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "training_log.csv").write_text("another")
    goals = ready([str(tmp_path / "kept"), str(tmp_path / "other")], ORIGIN)
    with pytest.raises(UserError, match="training_log.csv"):
        upload(files, ORIGIN, goals)
    assert sorted(contents(tmp_path / "other")) == [file.name for file in sorted_by_name(files)]
    assert "run.json" not in contents(tmp_path / "kept")


def test_several_failures_are_all_told_and_the_first_decides_the_exit_code(tmp_path, make, capsys):
    files = make({"generator.h5": 100})
    for name in ("kept", "attic"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "generator.h5").write_text("another")
    goals = ready([str(tmp_path / "kept"), str(tmp_path / "attic")], ORIGIN)
    with pytest.raises(UserError, match="2 of 2 destinations failed"):
        upload(files, ORIGIN, goals)
    assert str(tmp_path / "attic" / "generator.h5") in capsys.readouterr().err


def sorted_by_name(files):
    return sorted(files, key=lambda file: file.name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("generator.h5", "application/x-hdf5"),
        ("submission.csv.gz", "application/gzip"),
        ("loss_curve.png", "image/png"),
        ("run.json", "application/json"),
        ("events.out.tfevents.1", "application/octet-stream"),
    ],
)
def test_content_types_are_those_of_the_file_as_it_is(tmp_path, name, kind):
    assert OutputFile(tmp_path, name, 0, "").content_type == kind


def test_a_missing_local_file_is_named(tmp_path):
    file = OutputFile(tmp_path / "gone.h5", "gone.h5", 1, "00")
    with pytest.raises(UserError, match="gone.h5 cannot be read"):
        deliver(file, ORIGIN, LocalFolder(str(tmp_path / "kept")))


def test_a_home_of_nobody_is_a_mistake(tools, project):
    done = tools("upload", "--check", "--to", "~nobody-at-all/x")
    assert done.code == 1
    assert done.err.startswith("error: ~nobody-at-all/x") and done.err.count("\n") == 1
