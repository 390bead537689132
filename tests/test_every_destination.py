"""What a folder, Cloud Storage and Drive promise alike; each one's own tests are elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tools.destinations import check, connect, deliver, ready, upload
from tools.errors import ToolsError, UserError, VerificationError
from tools.remote import Origin

ORIGIN = Origin("ada/pix2pix", 3)
FILES = {
    **{"generator.h5": 700_001, "training_log.csv": 90, "run.json": 200},
    **{"tensorboard/ev ü'1": 10, "tensorboard/b": 5, "empty.log": 0},
}


@dataclass
class Folder:
    """What a test sees of a destination, behind its back, and may do to it."""

    root: Path

    @property
    def address(self) -> str:
        return str(self.root)

    def tree(self) -> list[tuple[str, bytes]]:
        files = (path for path in self.root.rglob("*") if path.is_file())
        return sorted((str(path.relative_to(self.root)), path.read_bytes()) for path in files)

    def add(self, name: str, data: bytes) -> str:
        self.root.mkdir(exist_ok=True)
        (self.root / name).write_bytes(data)
        return str(self.root / name)

    def take_away(self, name: str) -> None:
        (self.root / name).unlink()


@dataclass
class CloudStorage:
    bucket: Any

    @property
    def address(self) -> str:
        return f"gs://{self.bucket.name}/kept"

    def tree(self) -> list[tuple[str, bytes]]:
        blobs = self.bucket.list_blobs(prefix="kept/")
        return sorted((blob.name.removeprefix("kept/"), blob.download_as_bytes()) for blob in blobs)

    def add(self, name: str, data: bytes) -> str:
        self.bucket.blob(f"kept/{name}").upload_from_string(data)
        return f"{self.address}/{name}"

    def take_away(self, name: str) -> None:
        self.bucket.delete_blob(f"kept/{name}")


@dataclass
class Drive:
    server: Any
    folder: str

    @property
    def address(self) -> str:
        return f"drive:{self.folder}"

    def tree(self) -> list[tuple[str, bytes]]:
        return self.server.tree(self.folder)

    def add(self, name: str, data: bytes) -> str:
        return self.server.add_file(name, data, self.folder)

    def take_away(self, name: str) -> None:
        for file in self.server.files.values():
            file.trashed = file.trashed or file.name == name


@pytest.fixture(params=["a folder", "Cloud Storage", "Drive"])
def there(request, tmp_path):
    if request.param == "Cloud Storage":
        return CloudStorage(request.getfixturevalue("bucket"))
    if request.param == "Drive":
        server = request.getfixturevalue("drive")
        return Drive(server, server.add_folder("team"))
    return Folder(tmp_path / "kept")


def content(files, prefix=""):
    return sorted((prefix + file.name, file.path.read_bytes()) for file in files)


def test_every_file_arrives_once_and_the_record_last(there, make):
    files = make(FILES)
    goals = ready([there.address + "/{slug}/v{version}"], ORIGIN)
    deliveries = upload(files, ORIGIN, goals)
    assert there.tree() == content(files, "pix2pix/v3/")
    assert {d.name: (d.size, d.sha256, d.sent) for d in deliveries} == {
        file.name: (file.size, file.sha256, True) for file in files
    }
    assert deliveries[-1].name == "run.json"


def test_a_second_upload_sends_only_what_is_missing(there, make):
    files = make(FILES)
    upload(files, ORIGIN, ready([there.address], ORIGIN))
    there.take_away("training_log.csv")
    sent = {d.name: d.sent for d in upload(files, ORIGIN, ready([there.address], ORIGIN))}
    assert sent == {name: name == "training_log.csv" for name in FILES}
    assert there.tree() == content(files)


def test_another_file_of_that_name_stays_until_it_may_be_replaced(there, make):
    (file,) = make({"training_log.csv": 90})
    theirs = there.add("training_log.csv", b"someone's own")
    with pytest.raises(UserError) as failure:
        deliver(file, ORIGIN, connect(there.address))
    assert theirs in failure.value.message and str(file.path) in failure.value.message
    assert "--overwrite" in failure.value.remedy
    assert there.tree() == [("training_log.csv", b"someone's own")]
    goal = connect(there.address, overwrite=True)
    assert deliver(file, ORIGIN, goal, overwrite=True).sent
    assert there.tree() == content([file])


def test_what_appears_during_the_upload_is_not_lost(there, make):
    """Drive allows two files of one name; the others refuse."""
    (file,) = make({"training_log.csv": 90})
    goal = connect(there.address)
    assert goal.find(file.name) is None
    there.add(file.name, b"someone was faster")
    try:
        goal.put(file, ORIGIN, None, lambda _: None)
    except ToolsError as failure:
        assert "was changed by somebody else during the upload" in failure.message
        assert failure.exit_code == UserError.exit_code
        assert there.tree() == [(file.name, b"someone was faster")]
    assert (file.name, b"someone was faster") in there.tree()


def test_a_file_that_changed_since_it_was_fetched_is_not_sent(there, make):
    (file,) = make({"training_log.csv": 90})
    file.path.write_bytes(b"x" * 90)
    with pytest.raises(VerificationError, match="not the file that the kernel recorded"):
        deliver(file, ORIGIN, connect(there.address))
    assert there.tree() == []


def test_what_was_stored_can_be_taken_away_and_taking_it_twice_is_no_error(there, make):
    (file,) = make({"training_log.csv": 90})
    goal = connect(there.address)
    stored = goal.put(file, ORIGIN, None, lambda _: None)
    assert stored.holds(file) and goal.find(file.name).holds(file)
    goal.remove(stored)
    goal.remove(stored)
    assert there.tree() == [] and goal.find(file.name) is None


def test_the_bytes_sent_so_far_are_told_up_to_the_last(there, make):
    (file,) = make({"generator.h5": 700_001})
    told = []
    deliver(file, ORIGIN, connect(there.address), moved=told.append)
    assert max(told) == told[-1] == file.size


def test_a_check_leaves_nothing(there):
    assert check(f"{there.address}/some/where").startswith(f"{there.address}/some/where: can ")
    assert there.tree() == []


def test_the_same_place_in_two_spellings_is_one_destination(there):
    goals = ready([there.address + "/pix2pix", there.address + "/{slug}/"], ORIGIN)
    assert len(goals) == 1
