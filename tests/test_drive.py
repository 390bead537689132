import sys

import pytest

from tests.peers.cutting_proxy import CuttingProxy
from tests.peers.drive import Fault
from tools import drive as drive_module
from tools import remote
from tools.destinations import check, connect, deliver, ready, upload
from tools.errors import NetworkError, RefusedError, SignInError, UserError, VerificationError
from tools.remote import Origin

ORIGIN = Origin("ada/pix2pix", 3)
FILES = {"generator.h5": 700_001, "training_log.csv": 90, "tensorboard/ev ü'1": 10, "empty.log": 0}


def bytes_of(files, prefix=""):
    return sorted((prefix + file.name, file.path.read_bytes()) for file in files)


def test_every_file_arrives_once_with_its_origin_below_folders_made_once(drive, make):
    team = drive.add_folder("team")
    files = make(FILES | {"tensorboard/b": 5, "tensorboard/c": 6, "run.json": 200})
    address = f"drive:{team}/{{slug}}/v{{version}}"
    deliveries = upload(files, ORIGIN, ready([address], ORIGIN))
    assert drive.tree(team) == bytes_of(files, "pix2pix/v3/")
    folders = [file.name for file in drive.files.values() if file.content is None]
    assert sorted(folders) == ["My Drive", "pix2pix", "team", "tensorboard", "v3"]
    stored = next(file for file in drive.files.values() if file.name == "generator.h5")
    assert stored.mime == "application/x-hdf5"
    assert stored.properties == {
        "kernel": "ada/pix2pix",
        "version": "3",
        "sha256": files[0].sha256,
    }
    assert deliveries[0].where == f"https://drive.google.com/file/d/{stored.id}"


def test_a_second_run_sends_only_what_is_missing(drive, make):
    files = make(FILES)
    upload(files, ORIGIN, ready(["drive:root"], ORIGIN))
    log = next(file for file in drive.files.values() if file.name == "training_log.csv")
    log.trashed = True
    drive.requests.clear()
    sent = {d.name: d.sent for d in upload(files, ORIGIN, ready(["drive:root"], ORIGIN))}
    assert sent == {name: name == "training_log.csv" for name in FILES}
    assert sum("/upload/" in request for request in drive.requests) == 2  # a session and its bytes
    assert drive.tree() == bytes_of(files)


def test_a_shared_drive_is_seen_and_written(drive, make):
    shared = drive.add_folder("Shared", parent="", drive="0AShared")
    files = make(FILES)
    for _ in range(2):
        upload(files, ORIGIN, ready([f"drive:{shared}/kept"], ORIGIN))
    assert drive.tree(shared) == bytes_of(files, "kept/")


def test_the_address_in_the_browser_does_as_well(drive):
    team = drive.add_folder("team")
    url = f"drive:https://drive.google.com/drive/u/0/folders/{team}?usp=sharing"
    assert check(url) == f'drive:{team}: can add to "team" as ada@example.org'


def test_overwriting_keeps_the_id_so_that_links_stay_right(drive, make):
    (file,) = make({"training_log.csv": 90})
    own = drive.add_file("training_log.csv", b"someone's own")
    delivery = deliver(file, ORIGIN, connect("drive:root"), overwrite=True)
    assert delivery.where.endswith(own)
    assert drive.tree() == bytes_of([file])


def test_two_files_of_one_name_are_an_error_that_names_both(drive, make):
    (file,) = make({"training_log.csv": 90})
    both = [drive.add_file("training_log.csv", b"1"), drive.add_file("training_log.csv", b"2")]
    with pytest.raises(UserError) as failure:
        deliver(file, ORIGIN, connect("drive:root"), overwrite=True)
    assert all(key in failure.value.message for key in both)


def test_two_folders_of_one_name_are_an_error_that_names_both(drive, make):
    team = drive.add_folder("team")
    both = [drive.add_folder("v3", team) for _ in range(2)]
    [file] = make({"a.h5": 10})
    with pytest.raises(UserError, match="more than one folder named v3") as failure:
        deliver(file, ORIGIN, connect(f"drive:{team}/v3"))
    assert all(key in str(failure.value) for key in both)


def test_what_a_crash_left_is_found_and_replaced_without_being_asked(drive, make):
    (file,) = make({"training_log.csv": 90})
    half = drive.add_file("training_log.csv", b"half", properties={"sha256": file.sha256})
    delivery = deliver(file, ORIGIN, connect("drive:root"))
    assert delivery.sent and delivery.where.endswith(half)
    assert drive.tree() == bytes_of([file])


@pytest.mark.parametrize(("flips", "arrives"), [(1, True), (99, False)])
def test_bytes_that_change_on_the_way_are_removed_and_sent_once_more(
    drive, make, monkeypatch, flips, arrives
):
    (file,) = make({"generator.h5": b"\0" * 300_000 + b"easy to find" + b"\0" * 300_000})
    with CuttingProxy(drive.port) as proxy:
        drive.public_url = proxy.url
        monkeypatch.setenv("DRIVE_EMULATOR_HOST", proxy.url)
        proxy.flip, proxy.flips_left = b"easy", flips
        if arrives:
            assert deliver(file, ORIGIN, connect("drive:root")).sent
        else:
            with pytest.raises(VerificationError, match="arrived with other bytes"):
                deliver(file, ORIGIN, connect("drive:root"))
            assert proxy.flips_left == 97
    assert drive.tree() == (bytes_of([file]) if arrives else [])


FAULTS = {
    "busy twice": Fault("PUT", "/upload/", status=503, times=2),
    "too fast": Fault("PUT", "/upload/", status=403, reason="userRateLimitExceeded"),
    "no session at first": Fault("POST", "/upload/", status=500),
    "answer to a chunk lost": Fault("PUT", "/upload/", drop=True, times=2),
    "answer to the session lost": Fault("POST", "/upload/", drop=True),
    "session lost": Fault("PUT", "/upload/", forget=True),
    "session expired": Fault("PUT", "/upload/", status=410),
    "id not given": Fault("GET", "generateIds", status=503),
    "answer to a folder lost": Fault("POST", "/drive/v3/files", drop=True),
    "listing refused once": Fault(
        "GET", "/drive/v3/files?", status=429, reason="rateLimitExceeded"
    ),
}


@pytest.mark.parametrize("fault", FAULTS, ids=list(FAULTS))
@pytest.mark.parametrize("size", [0, 90, 700_001])
def test_a_passing_fault_leaves_one_whole_file(drive, make, fault, size):
    drive.faults = [Fault(**vars(FAULTS[fault]))]
    (file,) = make({"a/generator.h5": size})
    assert deliver(file, ORIGIN, connect("drive:root")).sent
    assert drive.faults[0].times == 0
    assert drive.tree() == bytes_of([file])
    assert sum(file.name == "a" for file in drive.files.values()) == 1


REFUSALS = {
    "storageQuotaExceeded": "is full",
    "insufficientFilePermissions": "share it as Editor",
    "accessNotConfigured": "Enable it: https://console.cloud.google.com",
    "teamDriveFileLimitExceeded": "as many files as it may",
    "dailyLimitExceeded": "Try tomorrow",
    "somethingNew": "somethingNew",
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_refusal_says_what_to_do_by_its_reason(drive, make, reason):
    drive.faults = [Fault("POST", "/upload/", status=403, reason=reason)]
    (file,) = make({"generator.h5": 90})
    with pytest.raises(RefusedError) as failure:
        deliver(file, ORIGIN, connect("drive:root"))
    assert failure.value.exit_code == 3
    assert REFUSALS[reason] in str(failure.value)
    assert drive.tree() == []


def test_a_service_account_without_storage_is_told_to_use_a_shared_drive(
    drive, make, monkeypatch, tmp_path
):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(drive.key_file(tmp_path)))
    drive.token = "token-of-the-test"
    drive.faults = [Fault("POST", "/upload/", status=403, reason="storageQuotaExceeded")]
    (file,) = make({"generator.h5": 90})
    with pytest.raises(RefusedError) as failure:
        deliver(file, ORIGIN, connect("drive:root"))
    assert "robot@project.iam.gserviceaccount.com is a service account" in failure.value.message
    assert "shared drive" in failure.value.remedy


def test_a_key_that_is_no_longer_accepted_is_a_sign_in_error(drive, monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(drive.key_file(tmp_path)))
    drive.refresh_error = "invalid_grant"
    with pytest.raises(SignInError, match="robot@project") as failure:
        check("drive:root")
    assert "Renew the key file" in failure.value.remedy


def test_without_its_extra_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "googleapiclient.discovery", None)
    monkeypatch.delitem(sys.modules, "tools.drive")
    with pytest.raises(UserError) as failure:
        connect("drive:root")
    assert failure.value.exit_code == 1
    assert "pip install '.[drive]'" in failure.value.remedy


def test_a_check_moves_no_byte_and_makes_no_folder(drive):
    team = drive.add_folder("team")
    found = check(f"drive:{team}/{{slug}}/v{{version}}")
    assert found == f'drive:{team}/slug/v1: can add to "team" as ada@example.org'
    assert not [request for request in drive.requests if not request.startswith("GET")]


def test_a_check_finds_a_folder_that_is_missing_or_not_shared(drive):
    with pytest.raises(RefusedError, match="no folder drive:1AbCdEf, or it is not shared"):
        check("drive:1AbCdEf")


def test_a_check_finds_a_folder_that_one_may_only_read(drive):
    team = drive.add_folder("team", writable=False)
    with pytest.raises(RefusedError, match="may look but not add"):
        check(f"drive:{team}")


def test_a_check_finds_a_folder_in_the_bin_and_a_file_in_its_place(drive):
    team = drive.add_folder("team", trashed=True)
    with pytest.raises(UserError, match="in the bin"):
        check(f"drive:{team}")
    with pytest.raises(UserError, match="a file, not a folder"):
        check(f"drive:{drive.add_file('x', b'')}")


def test_a_check_finds_a_full_drive_but_not_where_a_shared_one_pays(drive):
    drive.quota = {"limit": "1000", "usage": "1000"}
    with pytest.raises(RefusedError, match="is full"):
        check("drive:root")
    check(f"drive:{drive.add_folder('Shared', parent='', drive='0AShared')}")


@pytest.mark.parametrize("address", ["drive:", "drive:a b", "drive:id/../x", "drive:id//x"])
def test_an_address_that_is_none_is_refused(drive, address):
    with pytest.raises(UserError, match="names no Drive folder"):
        connect(address)


def test_a_server_elsewhere_gets_no_credentials(monkeypatch):
    monkeypatch.setenv("DRIVE_EMULATOR_HOST", "http://example.org")
    with pytest.raises(UserError, match="not on this machine"):
        connect("drive:root")


def test_without_a_sign_in_both_remedies_are_named():
    with pytest.raises(SignInError) as failure:
        connect("drive:root")
    assert "tools drive-login" in failure.value.remedy
    assert "GOOGLE_APPLICATION_CREDENTIALS" in failure.value.remedy


def test_a_network_that_stays_away_is_a_network_error_that_shows_no_session(
    drive, make, monkeypatch
):
    monkeypatch.setattr(drive_module, "SEND", drive_module.SEND.with_timeout(0.1))
    drive.faults = [Fault("PUT", "/upload/", drop=True, times=10_000)]
    (file,) = make({"generator.h5": 700_001})
    with pytest.raises(NetworkError) as failure:
        deliver(file, ORIGIN, connect("drive:root"))
    assert failure.value.exit_code == 6
    assert "upload_id" not in str(failure.value) and "http" not in str(failure.value)


def test_a_line_of_35_kilobytes_a_second_is_fast_enough_for_a_chunk():
    assert drive_module.TIMEOUT * 35_000 >= remote.CHUNK


def test_an_answer_that_is_no_text_is_asked_for_again(drive, make, monkeypatch):
    handler = drive._http.RequestHandlerClass
    whole, garbled = handler._json, [b'{"id": "\xff\xfe'] * 2

    def answer(data, status=200):
        status, headers, body = whole(data, status)
        return status, headers, garbled.pop() if garbled else body

    monkeypatch.setattr(handler, "_json", staticmethod(answer))
    (file,) = make({"a/generator.h5": 90})
    assert deliver(file, ORIGIN, connect("drive:root")).sent
    assert not garbled
    assert drive.tree() == bytes_of([file])


def test_a_name_in_other_letters_is_another_file(drive, make):
    theirs, ours = make({"Generator.h5": 80, "generator.h5": 90})
    assert deliver(theirs, ORIGIN, connect("drive:root")).sent
    drive.page_size = 1
    for sent in (True, False):
        assert deliver(ours, ORIGIN, connect("drive:root"), overwrite=True).sent is sent
    assert drive.tree() == bytes_of([theirs, ours])


def test_folders_that_two_destinations_share_are_made_once(drive, make):
    files = make(FILES)
    addresses = ["drive:root/runs/latest", "drive:root/runs/v3"]
    upload(files, ORIGIN, ready(addresses, ORIGIN))
    folders = [file.name for file in drive.files.values() if file.content is None]
    assert folders.count("runs") == 1
