import io
import json
import subprocess
import sys
import zipfile

import pytest

from tests.failures import failed
from tests.peers.kaggle import Cut, Drop, Hang, KaggleServer, Reply
from tests.testset import SPOTS
from tools import archive, settings

INFO = "Dataset/Testing_Data/masked_info.csv"
TABLE = "".join(
    f"{index},{','.join(map(str, spot))}\r\n" for index, spot in enumerate(SPOTS)
).encode()
FILES = {
    INFO: b",filename,y1,x1,y2,x2\r\n" + TABLE,
    **{f"Dataset/Training_Data/Cat/{i}.jpg": bytes([i]) * (90_000 + i) for i in range(6)},
}
# Requests before the first for the members: the redirect's, the beginning, the directory's.
OPENED = [None] * 5


@pytest.fixture
def server(server, monkeypatch):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "20")
    server.competition.files = FILES
    server.competition.archive = packed(FILES)
    return server


@pytest.fixture
def fetch(project, server, monkeypatch, tools):
    monkeypatch.setattr(archive, "_CHUNK", 1 << 14)  # the archive of a test is small
    return lambda *arguments: tools("fetch-data", *arguments)


def packed(files):
    """An archive whose members are stored as they are, as photographs nearly are."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue()


def on_disk(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def downloads(server):
    return [call.headers.get("Range") for call in server.calls if call.name == "download"]


def test_a_program_fetches_the_data_to_where_submit_looks_for_it(project, server):
    command = [sys.executable, "-m", "tools", "fetch-data"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"7 files, 0.5 MB, in {project}/data: 7 new\n"
    assert done.stderr == ""
    assert on_disk(project / "data") == FILES
    assert settings.load(project).data == "data"


def test_a_second_run_fetches_only_what_is_missing_or_differs(fetch, project, server):
    assert fetch().code == 0
    first = project / "data" / "Dataset" / "Training_Data" / "Cat"
    (first / "3.jpg").unlink()
    (first / "5.jpg").write_bytes(bytes(90_005))
    code, out, _ = fetch("--json")
    assert code == 0
    size = sum(map(len, FILES.values()))
    expected = {"folder": str(project / "data"), "files": 7, "written": 2, "size": size}
    assert json.loads(out) == expected
    assert on_disk(project / "data") == FILES
    assert "nothing was missing" in fetch().out


def test_another_folder_is_remembered_in_the_settings(fetch, project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "photos"
    assert fetch("--to", elsewhere).code == 0
    assert on_disk(elsewhere) == FILES
    assert settings.load(project).data == str(elsewhere)
    assert "nothing was missing" in fetch().out


def test_a_folder_of_the_project_is_remembered_as_such(fetch, project):
    assert fetch("--to", project / "photos" / "new").code == 0
    assert settings.load(project).data == "photos/new"


def test_the_home_folder_is_meant_by_its_sign(fetch, project, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert fetch("--to", "~/photos").code == 0
    assert on_disk(tmp_path / "home" / "photos") == FILES


def test_a_connection_that_breaks_off_is_continued_where_it_broke(fetch, project, server):
    server.faults["download"] = [*OPENED, Cut(100_000), Cut(0), Drop(), Cut(200_000)]
    assert fetch().code == 0
    assert on_disk(project / "data") == FILES
    assert downloads(server)[5:] == ["bytes=0-", *["bytes=100000-"] * 3, "bytes=300000-"]


def test_a_storage_that_hangs_is_asked_again(fetch, project, server, monkeypatch):
    monkeypatch.setenv("TOOLS_TIMEOUT", "1")
    server.faults["download"] = [*OPENED, Hang()]
    assert fetch().code == 0
    assert on_disk(project / "data") == FILES


def test_an_address_that_expired_is_asked_for_anew(fetch, project, server):
    expired = Reply(403, b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code></Error>")
    server.faults["download"] = [*OPENED[:2], expired, *OPENED[2:], None, Cut(100_000), expired]
    assert fetch().code == 0
    assert on_disk(project / "data") == FILES
    assert len(server.called("DownloadDataFiles")) == 3


def test_an_address_that_never_works_exits_6(fetch, project, server):
    server.faults["download"] = [None, Reply(403)] * 20
    failed(6, fetch(), "did not arrive: the storage answered 403")
    assert on_disk(project / "data") == {}


def test_a_redirect_to_an_unsafe_place_is_not_followed_for_its_bytes(fetch, project, server):
    with KaggleServer() as other:
        content = server.competition.archive
        elsewhere = other.storage.sign("x.zip", content).replace("127.0.0.1", "localhost")
        server.faults["download"] = [None, Reply(302, headers={"Location": elsewhere})]
        failed(8, fetch(), "not HTTPS")
    assert on_disk(project / "data") == {}


def test_a_busy_storage_is_asked_again_when_it_says(fetch, project, server):
    busy = Reply(429, b"", {"Retry-After": "0"})
    server.faults["download"] = [None, busy, Reply(503, b"", {"Retry-After": "0"})]
    server.faults["DownloadDataFiles"] = [busy]
    assert fetch().code == 0
    assert on_disk(project / "data") == FILES


def test_a_storage_that_is_gone_exits_6_and_the_next_run_goes_on(
    fetch, project, server, monkeypatch
):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "0")
    server.faults["download"] = [*OPENED, Cut(250_000), Drop()]
    failed(6, fetch(), "did not arrive: the connection broke off", "goes on from there")
    there = on_disk(project / "data")
    assert there.items() < FILES.items()
    assert len(there) >= 2
    code, out, _ = fetch("--json")
    assert code == 0
    assert json.loads(out)["written"] == len(FILES) - len(there)
    assert on_disk(project / "data") == FILES


def test_a_storage_without_byte_ranges_is_read_as_a_whole(fetch, project, server):
    whole = Reply(200, server.competition.archive, {"Content-Type": "application/zip"})
    server.faults["download"] = [None, whole, None, whole]
    assert fetch().code == 0
    assert on_disk(project / "data") == FILES


def test_rules_that_are_not_accepted_exit_3_and_say_what_to_click(fetch, project, server):
    server.competition.accepted_rules = False
    failed(3, fetch(), "https://www.kaggle.com/competitions/photo-reconstruction/rules")
    assert not (project / "data").exists()


def test_an_unknown_competition_exits_3(fetch, monkeypatch):
    monkeypatch.setenv("TOOLS_COMPETITION", "photo-recon")
    failed(3, fetch(), "'photo-recon'", "tools.toml")


def test_a_sign_in_page_instead_of_the_archive_exits_8(fetch, project, server):
    page = Reply(200, b"<html>Please sign in</html>" * 9, {"Content-Type": "text/html"})
    server.faults["download"] = [page, page, page, page]
    failed(8, fetch(), "The archive cannot be read")
    assert on_disk(project / "data") == {}


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "C:\\evil"])
def test_a_hostile_name_exits_8_and_nothing_is_written(fetch, project, server, name):
    server.competition.archive = packed(FILES | {name: b"evil"})
    failed(8, fetch(), "is not safe", "Nothing was unpacked")
    assert not (project / "data").exists()
    assert not (project.parent / "evil").exists()


def test_a_bomb_exits_8_and_nothing_is_written(fetch, project, server):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("zeros.jpg", bytes(40 << 20))
    server.competition.archive = target.getvalue()
    failed(8, fetch(), "'zeros.jpg' would unpack to 41,943,040 bytes")
    assert not (project / "data").exists()


def test_a_truncated_archive_exits_8(fetch, project, server):
    server.competition.archive = server.competition.archive[:-2000]
    failed(8, fetch(), "The archive cannot be read")
    assert not (project / "data").exists()


def test_a_damaged_member_exits_8_and_is_not_written(fetch, project, server):
    content = bytearray(server.competition.archive)
    content[content.index(bytes([4]) * 1000)] ^= 255
    server.competition.archive = bytes(content)
    failed(8, fetch(), "Cat/4.jpg is damaged in the archive")
    assert "Dataset/Training_Data/Cat/4.jpg" not in on_disk(project / "data")


def test_an_archive_that_is_replaced_meanwhile_exits_8(fetch, project, server):
    size = len(server.competition.archive)
    span = f"bytes 0-{size - 1}/{size}"
    other = Reply(206, bytes(size), {"Content-Range": span, "ETag": '"other"'})
    server.faults["download"] = [*OPENED, other]
    failed(8, fetch(), "changed while it was being read")


def test_an_archive_that_is_replaced_meanwhile_is_known_by_its_date_too(fetch, project, server):
    get, size = server.storage.get, len(server.competition.archive)

    def dated(token, headers):
        status, answer, body = get(token, headers)
        return status, answer | {"ETag": "", "Last-Modified": "Sun, 22 Nov 2026 06:30:00 GMT"}, body

    server.storage.get = dated
    later = {
        "Content-Range": f"bytes 0-{size - 1}/{size}",
        "ETag": "",
        "Last-Modified": "Mon, 23 Nov 2026 06:30:00 GMT",
    }
    server.faults["download"] = [*OPENED, Reply(206, bytes(size), later)]
    failed(8, fetch(), "changed while it was being read")


def test_data_of_another_competition_is_fetched_with_a_note(fetch, project, server):
    server.competition.archive = packed({"train.csv": b"id,label\n"})
    code, _, err = fetch()
    assert code == 0
    assert err.splitlines() == [
        "This is not the competition's usual data: "
        f"{project}/data holds no Testing_Data/masked_info.csv."
    ]


def test_a_folder_that_cannot_be_written_exits_1(fetch, project):
    (project / "data").write_text("a file")
    failed(1, fetch(), f"{project}/data")


def test_a_file_in_the_place_of_the_folder_is_left_alone(tools, project, server):
    (project / "mine.csv").write_text("mine")
    done = tools("fetch-data", "--to", "mine.csv")
    assert done.code == 1
    assert "mine.csv is a file. Name a folder with --to." in done.err
    assert (project / "mine.csv").read_text() == "mine"
    assert "--to is empty." in tools("fetch-data", "--to", "").err
    assert server.calls == []
