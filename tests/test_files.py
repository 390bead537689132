import os
import subprocess
from stat import S_IMODE, S_ISDIR

import pytest

from tools.errors import UserError, VerificationError
from tools.files import LONGEST, Names, inside, parse_json, write_whole


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_whole(path, "one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "a.json", "old")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="a.json cannot be written: No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_is_as_open_to_others_as_the_person_has_chosen(python, tmp_path):
    code = "import sys, pathlib, tools.files as f; f.write_whole(pathlib.Path(sys.argv[1]), 'one')"
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        path = tmp_path / f"{umask:o}"
        subprocess.run([python, "-c", code, path], umask=umask, check=True)
        assert S_IMODE(path.stat().st_mode) == mode


def test_a_disk_without_modes_is_written_to(tmp_path, monkeypatch):
    def refused(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refused)
    assert write_whole(tmp_path / "a.json", "one").read_text() == "one"


def test_the_file_and_then_its_name_outlast_a_power_cut(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        true = getattr(os, name)

        def noted(*arguments, name=name, true=true):
            what = "folder" if name == "fsync" and S_ISDIR(os.fstat(*arguments).st_mode) else "file"
            done.append((name, what))
            return true(*arguments)

        monkeypatch.setattr(os, name, noted)
    write_whole(tmp_path / "a.json", "one")
    assert done == [("fsync", "file"), ("replace", "file"), ("fsync", "folder")]


def test_half_a_character_is_written_as_a_question_mark(tmp_path):
    assert write_whole(tmp_path / "a.txt", "zwölf \ud83d").read_text() == "zwölf ?"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[1", "9" * 5000])
def test_what_is_no_json_that_can_be_read_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize("name", ["a.txt", "a/b/c.txt", "löß.png", ".hidden", "x" * LONGEST])
def test_ordinary_names_stay_below_the_folder(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "\udc80.txt",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "a/./b",
        "C:\\x",
        "a\\..\\x",
        "a:stream",
        "a\nb",
        "a\x1b[2J",
        "a\x00b",
        "nul",
        "aux.txt",
        "a.",
        "a/ ",
        "\u202egnp.exe",
        "x" * (LONGEST + 1),
        "ü" * (LONGEST // 2 + 1),
        "/".join(["ü" * 100] * 6),
    ],
)
def test_hostile_names_are_refused(tmp_path, name):
    with pytest.raises(VerificationError, match="not safe"):
        inside(tmp_path, name)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with pytest.raises(VerificationError):
        inside(tmp_path / "out", "link/x")
    with pytest.raises(VerificationError):
        inside(tmp_path / "out", "link")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.txt", "a.txt"),
        ("A.TXT", "a.txt"),
        ("é.txt", "e\u0301.txt"),
        ("a", "a/b"),
        ("a/b/c", "a/b"),
        ("a/b/c", "A"),
        ("a", "A/b/c"),
    ],
)
def test_a_name_that_cannot_stand_beside_an_earlier_one_is_not_taken_in(first, second):
    names = Names()
    assert names.add(first) is None
    assert names.add(second) == first
    assert names.add("another") is None


def test_a_name_of_ones_own_may_be_a_file_and_is_no_folder():
    names = Names("run.json")
    assert names.add("run.json/x") == "run.json"
    assert names.add("run.json") is None
