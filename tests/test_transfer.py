import contextlib
import hashlib
import os
import socket
import ssl
import threading
from pathlib import Path

import pytest
import requests

from tests.peers.kaggle import Cut, Drop, KaggleServer, Keep, Reply
from tests.peers.tunnel import write_certificate
from tests.ports import free_port
from tools import patience, settings, transfer, verify
from tools.errors import NetworkError, UserError, VerificationError

BODY = os.urandom(300_000)


@pytest.fixture
def server():
    with KaggleServer() as server:
        yield server


@pytest.fixture
def fetch(server, tmp_path):
    """Download BODY to model.h5 with endless patience that takes no time."""
    config = settings.Settings(kaggle_endpoint=server.url, timeout=20)
    slept = []

    def run(body=BODY, **options):
        patient = patience.Patience(100, sleep=slept.append, clock=lambda: sum(slept))
        return transfer.download(
            lambda: server.storage.sign("model.h5", body),
            tmp_path / "model.h5",
            config,
            patience=patient,
            **options,
        )

    return run


def etag(body):
    return f'"{hashlib.md5(body).hexdigest()}"'


def ranges(server):
    return [call.headers.get("Range") for call in server.calls if call.name == "download"]


def test_a_cut_download_goes_on_by_range(server, fetch, tmp_path):
    server.faults["download"] = [Cut(100_000), Cut(70_000)]
    seen = []
    assert fetch(advance=seen.append).read_bytes() == BODY
    assert ranges(server) == [None, "bytes=65536-", "bytes=131072-"]
    assert sum(seen) == len(BODY)
    assert os.listdir(tmp_path) == ["model.h5"]


def test_a_storage_without_ranges_that_always_breaks_off_is_given_up(server, fetch):
    get = server.storage.get
    server.storage.get = lambda token, headers: get(token, {})
    server.faults["download"] = [Cut(100_000)] * 300
    with pytest.raises(NetworkError, match="model.h5 did not arrive: the connection broke off"):
        fetch()
    assert server.faults["download"]


def test_an_interrupted_program_goes_on_by_range(server, fetch, tmp_path):
    server.faults["download"] = [Cut(100_000)] + [Reply(500)] * 200
    with pytest.raises(NetworkError, match="model.h5 did not arrive: the storage answered 500"):
        fetch()
    assert not (tmp_path / "model.h5").exists()
    assert len(os.listdir(tmp_path)) == 1
    server.faults["download"].clear()
    assert fetch().read_bytes() == BODY
    assert ranges(server)[-1] == "bytes=65536-"
    assert os.listdir(tmp_path) == ["model.h5"]


def test_what_is_left_of_another_object_is_not_gone_on_with(server, fetch, tmp_path):
    server.faults["download"] = [Cut(100_000)] + [Drop()] * 200
    with pytest.raises(NetworkError):
        fetch()
    server.faults["download"].clear()
    other = os.urandom(200_000)
    assert fetch(other).read_bytes() == other
    assert os.listdir(tmp_path) == ["model.h5"]


def test_a_shrunken_object_is_fetched_anew(server, fetch, tmp_path):
    server.faults["download"] = [Cut(100_000)] + [Drop()] * 200
    with pytest.raises(NetworkError):
        fetch()
    server.faults["download"].clear()
    assert fetch(b"short").read_bytes() == b"short"
    assert os.listdir(tmp_path) == ["model.h5"]


def test_an_expired_address_is_asked_for_anew(server, fetch):
    server.faults["download"] = [Cut(100_000), Reply(403, b"<Error>ExpiredToken</Error>")]
    assert fetch().read_bytes() == BODY
    addresses = {call.body["path"] for call in server.calls}
    assert len(addresses) == 2


def test_addresses_may_expire_as_often_as_bytes_arrive_in_between(server, fetch):
    server.faults["download"] = [Cut(70_000), *[Reply(403), Cut(70_000)] * 3, Reply(403)]
    assert fetch().read_bytes() == BODY


def test_bytes_from_another_place_than_was_asked_for_are_not_appended(server, fetch):
    server.faults["download"] = [
        Cut(100_000),
        Reply(206, BODY[1:], {"Content-Range": "bytes 1-299999/300000", "ETag": etag(BODY)}),
    ]
    assert fetch().read_bytes() == BODY


def test_an_address_that_stays_refused_is_an_error_and_leaves_no_file(server, fetch, tmp_path):
    server.faults["download"] = [Reply(403, b"<Error/>")] * 9
    with pytest.raises(NetworkError, match="model.h5 did not arrive: the storage answered 403"):
        fetch()
    assert os.listdir(tmp_path) == []
    assert len(server.calls) == 4


def test_a_file_that_does_not_pass_the_check_is_not_left_there(fetch, tmp_path):
    with pytest.raises(VerificationError, match="300000 bytes instead of 300001"):
        fetch(check=lambda part: verify.check(part, "model.bin", 300_001))
    assert os.listdir(tmp_path) == []


def test_an_existing_file_stays_until_the_new_one_is_whole(server, fetch, tmp_path):
    (tmp_path / "model.h5").write_bytes(b"old")
    server.faults["download"] = [Cut(70_000)] + [Reply(500)] * 200
    with pytest.raises(NetworkError):
        fetch()
    assert (tmp_path / "model.h5").read_bytes() == b"old"


def test_a_full_disk_is_told_before_anything_is_written(fetch, tmp_path, monkeypatch):
    usage = transfer.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match="no space for 300000 more bytes"):
        fetch()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("-3", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        ("Wed, 99999999999 Oct 2015 07:28:00 GMT", None),
        ("soon", None),
    ],
)
def test_retry_after_is_read_as_number_or_date(value, seconds):
    response = transfer.requests.Response()
    response.headers["Retry-After"] = value
    assert patience.retry_after(response) == seconds


def test_a_redirect_to_an_unsafe_place_is_not_followed_for_its_bytes(server, fetch, tmp_path):
    with KaggleServer() as other:
        elsewhere = other.storage.sign("x", b"evil").replace("127.0.0.1", "localhost")
        server.faults["download"] = [Reply(302, headers={"Location": elsewhere})]
        with pytest.raises(VerificationError, match="not HTTPS"):
            fetch()
    assert os.listdir(tmp_path) == []


def test_a_redirect_by_way_of_an_unsafe_place_is_not_followed_for_its_bytes(
    server, fetch, tmp_path
):
    with KaggleServer() as other:
        by_way = other.storage.sign("x", b"").replace("127.0.0.1", "localhost")
        back = server.storage.sign("x", b"evil")
        server.faults["download"] = [Reply(302, headers={"Location": by_way})]
        other.faults["download"] = [Reply(302, headers={"Location": back})]
        with pytest.raises(VerificationError, match="not HTTPS"):
            fetch()
    assert os.listdir(tmp_path) == []


ADDRESSES = ["https://[x/y", "https://", "//storage.example/x", "http://storage.example/x", ""]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:1"])
def test_an_address_that_is_none_is_not_used(address, endpoint):
    config = settings.Settings(kaggle_endpoint=endpoint)
    with pytest.raises(VerificationError, match="not HTTPS"):
        transfer.check_address(address, config)


def test_a_redirect_to_no_address_is_not_followed(server, fetch, tmp_path):
    server.faults["download"] = [Reply(302, headers={"Location": "https://[x/y"})]
    with pytest.raises(VerificationError, match="not HTTPS"):
        fetch()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirected_upload_is_no_upload(server, tmp_path, status):
    file = tmp_path / "model.h5"
    file.write_bytes(BODY)
    config = settings.Settings(kaggle_endpoint=server.url, timeout=20)
    elsewhere = server.storage.sign("x", b"a page")
    server.faults["upload"] = [Reply(status, headers={"Location": elsewhere})]
    with pytest.raises(NetworkError, match=f"not uploaded: the storage answered {status}"):
        transfer.upload(server.storage.announce("model.h5", len(BODY))[1], file, config)
    assert [call.name for call in server.calls] == ["upload"]


def test_an_upload_of_which_the_storage_keeps_a_part_goes_on_after_it(server, tmp_path):
    file = tmp_path / "model.h5"
    file.write_bytes(BODY)
    config = settings.Settings(kaggle_endpoint=server.url, timeout=20)
    token, url = server.storage.announce("model.h5", len(BODY))
    server.faults["upload"] = [Keep(1 << 18)]
    seen = []
    transfer.upload(url, file, config, advance=seen.append)
    assert server.storage.uploads[token].received == BODY
    sent = [call.headers.get("Content-Range") for call in server.calls]
    assert sent == [None, "bytes */300000", "bytes 262144-299999/300000"]
    assert sum(seen) == len(BODY)


@pytest.mark.parametrize("way", ["download", "upload"])
def test_a_signed_address_where_nobody_listens_is_never_printed(tmp_path, capfd, way):
    endpoint = f"http://127.0.0.1:{free_port()}"
    address = f"{endpoint}/storage/000000/model.h5?X-Goog-Signature=s3cr3t"
    file, slept = tmp_path / "model.h5", []
    config = settings.Settings(kaggle_endpoint=endpoint, timeout=20)
    patient = patience.Patience(100, sleep=slept.append, clock=lambda: sum(slept))
    with pytest.raises(NetworkError) as failure:
        if way == "download":
            transfer.download(lambda: address, file, config, patience=patient)
        else:
            file.write_bytes(BODY)
            transfer.upload(address, file, config, patience=patient)
    printed = capfd.readouterr()
    for secret in ("Signature", "s3cr3t", "/storage/"):
        assert secret not in str(failure.value) + printed.out + printed.err
    assert "the connection was refused" in str(failure.value)
    assert "model.h5: the connection was refused; trying again in" in printed.err


def test_a_password_in_the_users_netrc_does_not_reach_the_storage(
    server, fetch, tmp_path, monkeypatch
):
    monkeypatch.delenv("NETRC", raising=False)
    (Path.home() / ".netrc").write_text("machine 127.0.0.1 login ada password n3trc\n")
    assert requests.utils.get_netrc_auth(server.url) == ("ada", "n3trc")
    file = fetch()
    config = settings.Settings(kaggle_endpoint=server.url, timeout=20)
    transfer.upload(server.storage.announce("model.h5", len(BODY))[1], file, config)
    assert [call.name for call in server.calls] == ["download", "upload"]
    assert not [call.name for call in server.calls if "Authorization" in call.headers]


def test_an_empty_file_is_a_file(fetch):
    assert fetch(b"").read_bytes() == b""


def test_a_handshake_that_breaks_off_is_no_matter_of_trust(tmp_path):
    """A peer that hangs up at once, and one whose certificate nobody has signed."""
    certificate, key = write_certificate(tmp_path, ["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def reason(serve):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=lambda: serve(listener.accept()[0]), daemon=True).start()
            with pytest.raises(requests.RequestException) as failure:
                requests.get(f"https://localhost:{listener.getsockname()[1]}", timeout=10)
        return patience.reason(failure.value)

    def shake_hands(client):
        with contextlib.suppress(OSError):
            context.wrap_socket(client, server_side=True)

    assert reason(lambda client: client.close()) == "the connection broke off"
    assert reason(shake_hands) == "the server's certificate was not accepted"
