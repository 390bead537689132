import io
import stat
import zipfile

import pytest

from tools import archive
from tools.errors import UserError, VerificationError


def zip_of(*entries, compression=zipfile.ZIP_DEFLATED):
    """An archive of (name or ZipInfo, content) pairs, names as they are given."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as target:
        for name, content in entries:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            info.filename = info.orig_filename
            info.compress_type = compression
            target.writestr(info, content)
    return packed.getvalue()


class Connections:
    """Streams over ``content`` that break off after so many bytes, one entry for each."""

    def __init__(self, content, breaks=()):
        self.content, self.breaks, self.opened = content, list(breaks), []

    def __call__(self, offset):
        self.opened.append(offset)
        stop = offset + self.breaks.pop(0) if self.breaks else None
        return io.BytesIO(self.content[offset:stop]), len(self.content)


def unpack(content, folder, breaks=()):
    connections = Connections(content, breaks)
    remote = archive.RemoteFile(connections, (ConnectionError,))
    opened = archive.open_archive(remote)
    wanted = archive.missing(archive.members(opened, folder))
    return [member.target.name for member in archive.unpack(opened, wanted, folder)], connections


def on_disk(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


FILES = {f"Dataset/Cat/{i}.jpg": bytes([i]) * 70_000 for i in range(8)}


def test_every_member_is_written_whole_and_nothing_else(tmp_path):
    unpack(zip_of(("Dataset/", b""), *FILES.items()), tmp_path / "data")
    assert on_disk(tmp_path) == {f"data/{name}": content for name, content in FILES.items()}


def test_a_second_run_writes_only_what_is_missing_or_differs(tmp_path):
    packed = zip_of(*FILES.items())
    unpack(packed, tmp_path)
    (tmp_path / "Dataset/Cat/2.jpg").unlink()
    (tmp_path / "Dataset/Cat/5.jpg").write_bytes(bytes(70_000))
    (tmp_path / "mine.txt").write_text("kept")
    assert unpack(packed, tmp_path)[0] == ["2.jpg", "5.jpg"]
    assert on_disk(tmp_path) == FILES | {"mine.txt": b"kept"}
    assert unpack(packed, tmp_path)[0] == []


def test_a_broken_connection_is_opened_again_where_it_broke(tmp_path):
    packed = zip_of(*FILES.items(), compression=zipfile.ZIP_STORED)
    size = len(packed)
    breaks = [0, size, size, size, 100_000, 0, 0, 150_000]
    _, connections = unpack(packed, tmp_path, breaks)
    assert on_disk(tmp_path) == FILES
    assert connections.opened[4:] == [0, 100_000, 100_000, 100_000, 250_000]


def test_members_are_read_in_order_over_one_connection(tmp_path):
    content = {name: bytes([i]) * 3_000_000 for i, name in enumerate(FILES)}
    _, connections = unpack(zip_of(*content.items(), compression=zipfile.ZIP_STORED), tmp_path)
    assert on_disk(tmp_path) == content
    assert len(connections.opened) <= 5  # for the directory at its end, and one for all members


def test_an_archive_that_changes_midway_fails_verification(tmp_path):
    packed = zip_of(*FILES.items())
    connections = Connections(packed)
    remote = archive.RemoteFile(connections, (ConnectionError,))
    connections.content += b"more"
    with pytest.raises(VerificationError, match="changed while"):
        archive.open_archive(remote)


def with_mode(mode):
    info = zipfile.ZipInfo("link.jpg")
    info.create_system = 3
    info.external_attr = mode << 16
    return info


HOSTILE = {
    "above": "../evil.txt",
    "above within": "a/../../evil.txt",
    "absolute": "/tmp/evil.txt",
    "windows": "a\\..\\evil.txt",
    "drive": "C:evil.txt",
    "terminal": "a\x1b[2J.txt",
    "empty part": "a//b.txt",
    "itself": ".",
    "long": "a" * 300,
    "deep": "/".join(["a" * 200] * 30),
    "link": with_mode(stat.S_IFLNK | 0o777),
    "device": with_mode(stat.S_IFCHR | 0o666),
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_refuses_the_whole_archive_before_anything_is_written(tmp_path, name):
    folder = tmp_path / "data"
    with pytest.raises(VerificationError, match="The archive is refused: .*Nothing was unpacked"):
        unpack(zip_of(("good.txt", b"good"), (name, b"evil")), folder)
    assert on_disk(tmp_path) == {}


@pytest.mark.parametrize(
    "names",
    [("a.jpg", "a.jpg"), ("A.jpg", "a.JPG"), ("é.jpg", "e\u0301.jpg"), ("a", "a/b.jpg")],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_cannot_stand_beside_each_other_refuse_the_archive(tmp_path, names):
    with pytest.raises(VerificationError, match="is refused: '.*' and '.*' cannot stand beside"):
        unpack(zip_of(*((name, b"") for name in names)), tmp_path)
    assert on_disk(tmp_path) == {}


def test_a_bomb_is_refused_by_its_declared_sizes(tmp_path, monkeypatch):
    with pytest.raises(VerificationError, match="'zeros' would unpack to 31,457,280 bytes"):
        unpack(zip_of(("zeros", bytes(30 << 20))), tmp_path)
    monkeypatch.setattr(archive, "MOST_BYTES", 500_000)
    with pytest.raises(VerificationError, match="would unpack to"):
        unpack(zip_of(*FILES.items()), tmp_path)
    monkeypatch.setattr(archive, "MOST_FILES", 7)
    with pytest.raises(VerificationError, match="it has 8 files, more than 7"):
        unpack(zip_of(*FILES.items()), tmp_path)
    assert on_disk(tmp_path) == {}


def test_a_directory_that_would_fill_the_memory_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "LARGEST_READ", 300)  # that of eight files has over 400 bytes
    with pytest.raises(VerificationError, match="its directory is too large"):
        unpack(zip_of(*FILES.items()), tmp_path)


def test_a_member_that_is_larger_than_it_declares_is_not_written(tmp_path):
    packed = bytearray(zip_of(("lies.jpg", bytes(range(256)) * 300)))
    directory = packed.rindex(b"PK\x01\x02")
    packed[directory + 24 : directory + 28] = (1_000).to_bytes(4, "little")
    with pytest.raises(VerificationError, match=r"lies\.jpg is damaged in the archive"):
        unpack(bytes(packed), tmp_path)
    assert on_disk(tmp_path) == {}


def test_a_damaged_member_fails_and_what_was_whole_stays(tmp_path):
    packed = bytearray(zip_of(*FILES.items(), compression=zipfile.ZIP_STORED))
    packed[packed.index(bytes([3]) * 1000)] ^= 255
    with pytest.raises(VerificationError, match=r"Dataset/Cat/3\.jpg is damaged"):
        unpack(bytes(packed), tmp_path)
    assert on_disk(tmp_path) == dict(list(FILES.items())[:3])


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_archives_of_data_do_not_have_is_refused(tmp_path, method):
    with pytest.raises(VerificationError, match=r"refused: 'a\.jpg' is compressed in a rare way"):
        unpack(zip_of(("a.jpg", b"good"), compression=method), tmp_path)
    assert on_disk(tmp_path) == {}


def test_a_damaged_name_before_a_members_bytes_fails_verification(tmp_path):
    packed = zip_of(("é.jpg", b"good"))
    damaged = packed.replace("é".encode(), b"\xff\xff", 1)  # the directory's own stays right
    with pytest.raises(VerificationError, match=r"é\.jpg is damaged in the archive"):
        unpack(damaged, tmp_path)
    assert on_disk(tmp_path) == {}


def test_a_folder_that_is_a_link_to_elsewhere_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Dataset").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VerificationError, match="data/Dataset is a link, and links are not"):
        unpack(zip_of(*FILES.items()), tmp_path / "data")
    assert on_disk(tmp_path / "elsewhere") == {}


def test_an_empty_archive_has_no_files(tmp_path):
    assert unpack(b"PK\x05\x06" + bytes(18), tmp_path)[0] == []


@pytest.mark.parametrize("content", [b"", b"<html>sign in</html>" * 100])
def test_what_is_no_archive_says_so(tmp_path, content):
    with pytest.raises(VerificationError, match="The archive cannot be read"):
        unpack(content, tmp_path)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = archive.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"0\.0 GB free, and 0\.0 GB are needed"):
        unpack(zip_of(*FILES.items()), tmp_path)
    assert on_disk(tmp_path) == {}


@pytest.mark.parametrize("name", ["Dataset/Cat/0.jpg/a", "Dataset"])
def test_a_path_that_the_disk_does_not_take_is_told(tmp_path, name):
    unpack(zip_of(*FILES.items()), tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        unpack(zip_of((name, b"more")), tmp_path)
    assert on_disk(tmp_path) == FILES
