import contextlib
import hashlib
import json
import os
import pty
import signal
import subprocess

import pytest

from tests.bench_upload import measured, random_file
from tests.peers.drive import Fault
from tests.run_record import KERNEL, hdf5, record
from tools import runs
from tools.drive_login import token_file

FILES = {
    "generator.h5": hdf5(),
    "training_log.csv": b"step,loss\n1,2\n",
    "tensorboard/events.out.tfevents.1": b"\x00" * 100,
}


@pytest.fixture
def fetched(project):
    """A run in the ledger that was fetched as a whole, with its log."""
    run = runs.record_push(KERNEL, 3)
    folder = run.folder / "outputs"
    contents = {**FILES, "pix2pix-inpainting.log": b"step 1/2\n", "run.json": record(FILES)}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    entries = [
        {
            "name": name,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "verified": not name.endswith(".log"),
        }
        for name, content in contents.items()
    ]
    runs.record_outputs(run, folder=folder, complete=True, files=entries)
    return contents


def names(prefix, contents):
    return sorted((prefix + name, content) for name, content in contents.items())


def objects(bucket):
    return sorted((blob.name, blob.download_as_bytes()) for blob in bucket.list_blobs())


def test_a_run_goes_to_several_destinations_at_once(tools, fetched, bucket, drive, tmp_path):
    done = tools(
        *("upload", "v3", "--to", f"gs://{bucket.name}/{{slug}}/v{{version}}"),
        *("--to", "drive:root/{slug}", "--to", tmp_path / "kept"),
    )
    assert done.code == 0, done.err
    assert objects(bucket) == names("pix2pix-inpainting/v3/", fetched)
    assert drive.tree() == names("pix2pix-inpainting/", fetched)
    assert (tmp_path / "kept" / "generator.h5").read_bytes() == fetched["generator.h5"]
    assert done.out.count("sent") == 3 * len(fetched)
    assert "in total" not in done.err  # no bar where no terminal is


def test_json_tells_every_file_with_its_checksum_and_address(tools, fetched, bucket):
    first = tools("upload", "--to", f"gs://{bucket.name}", "--json").json
    again = tools("upload", "--to", f"gs://{bucket.name}", "--json").json
    assert (first["kernel"], first["version"]) == (KERNEL, 3)
    assert {upload["name"] for upload in first["uploads"]} == set(fetched)
    assert first["uploads"][-1]["name"] == "run.json"
    (generator,) = (upload for upload in first["uploads"] if upload["name"] == "generator.h5")
    assert generator == {
        "destination": f"gs://{bucket.name}",
        "name": "generator.h5",
        "size": len(fetched["generator.h5"]),
        "sha256": hashlib.sha256(fetched["generator.h5"]).hexdigest(),
        "where": f"gs://{bucket.name}/generator.h5",
        "sent": True,
    }
    assert [upload["sent"] for upload in again["uploads"]] == [False] * len(fetched)


def test_a_run_that_was_not_fetched_says_how_to(tools, project, bucket):
    runs.record_push(KERNEL, 3)
    done = tools("upload", "--to", f"gs://{bucket.name}")
    assert done.code == 1
    assert "tools fetch-outputs pix2pix-inpainting/v3" in done.err
    assert objects(bucket) == []


def test_a_file_that_changed_since_it_was_fetched_is_not_uploaded(tools, fetched, bucket):
    changed = runs.find().folder / "outputs" / "training_log.csv"
    changed.write_bytes(b"step,loss\n1,3\n")
    done = tools("upload", "--to", f"gs://{bucket.name}")
    assert done.code == 8
    assert "training_log.csv" in done.err
    assert objects(bucket) == []


def test_without_a_destination_the_kinds_are_named(tools, fetched):
    done = tools("upload")
    assert done.code == 1
    assert "gs://bucket/prefix" in done.err and "drive:FOLDER_ID" in done.err


def test_another_file_there_needs_overwrite(tools, fetched, bucket):
    bucket.blob("training_log.csv").upload_from_string(b"another")
    done = tools("upload", "--to", f"gs://{bucket.name}")
    assert done.code == 1
    assert f"gs://{bucket.name}/training_log.csv" in done.err and "--overwrite" in done.err
    assert ("training_log.csv", b"another") in objects(bucket)
    assert "run.json" not in dict(objects(bucket))
    assert tools("upload", "--to", f"gs://{bucket.name}", "--overwrite").code == 0
    assert objects(bucket) == names("", fetched)


def test_two_destinations_that_refuse_are_both_told_and_the_third_is_complete(
    tools, fetched, bucket, drive, tmp_path
):
    drive.faults = [Fault("POST", "/upload/", status=403, reason="storageQuotaExceeded", times=9)]
    bucket.blob("training_log.csv").upload_from_string(b"another")
    kept = tmp_path / "kept"
    done = tools(
        "upload", "--to", "drive:root", "--to", f"gs://{bucket.name}", "--to", kept, "--json"
    )
    assert done.code == 3
    assert "error: 2 of 3 destinations failed. drive:root: the Drive of the account" in done.err
    assert f"gs://{bucket.name}/training_log.csv" in done.err
    assert (kept / "run.json").read_bytes() == fetched["run.json"]
    assert "run.json" not in dict(objects(bucket)) and drive.tree() == []


def test_check_signs_in_and_moves_nothing(tools, project, bucket, drive):
    done = tools("upload", "--check", "--to", f"gs://{bucket.name}/{{slug}}", "--to", "drive:root")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"gs://{bucket.name}/slug: can write",
        'drive:root: can add to "My Drive" as ada@example.org',
    ]
    assert objects(bucket) == [] and drive.tree() == []


@pytest.mark.parametrize(
    ("to", "code"), [("gs://no-such-bucket", 3), ("drive:1NoSuchFolder", 3), ("s3://x", 1)]
)
def test_check_fails_with_the_exit_code_of_its_cause(tools, project, bucket, drive, to, code):
    assert tools("upload", "--check", "--to", to).code == code


def test_the_doctor_checks_destinations(tools, project, server, bucket):
    done = tools("doctor", "--to", f"gs://{bucket.name}", "--to", "gs://no-such-bucket", "--json")
    found = [finding for finding in done.json if finding["check"] == "destination"]
    assert [finding["ok"] for finding in found] == [True, False]
    assert "gcloud storage buckets create gs://no-such-bucket" in found[1]["words"]


@pytest.fixture
def version(server, project):
    """A version that has ended on Kaggle, with all that the kernel leaves."""
    version = server.add_version(KERNEL, states=["COMPLETE"])
    version.outputs = {**FILES, "run.json": record(FILES)}
    version.say("step 1/2 | gen 1.0")
    runs.record_push(KERNEL, 1)
    return version


def test_fetched_files_go_on_to_the_destinations_once_they_are_verified(
    tools, version, bucket, drive, project
):
    done = tools(
        *("fetch-outputs", "--to", "models", "--to", f"gs://{bucket.name}/v{{version}}"),
        *("--to", "drive:root", "--json"),
    )
    assert done.code == 0, done.err
    kept = {**version.outputs, "pix2pix-inpainting.log": b"step 1/2 | gen 1.0\n"}
    assert objects(bucket) == names("v1/", kept)
    assert drive.tree() == names("", kept)
    assert (project / "models" / "generator.h5").read_bytes() == FILES["generator.h5"]
    assert len(done.json["uploads"]) == 2 * len(kept)


def test_only_what_was_asked_for_goes_on(tools, version, bucket):
    done = tools("fetch-outputs", "--include", "*.h5", "--to", f"gs://{bucket.name}")
    assert done.code == 0, done.err
    assert [name for name, _ in objects(bucket)] == ["generator.h5"]


def test_what_was_fetched_is_told_even_if_the_upload_fails(tools, version, bucket):
    bucket.blob("training_log.csv").upload_from_string(b"another")
    done = tools("fetch-outputs", "--to", f"gs://{bucket.name}", "--json")
    assert done.code == 1
    assert f"gs://{bucket.name}/training_log.csv" in done.err
    assert done.json["complete"] is True and done.json["uploads"] == []


def test_a_destination_that_is_not_ready_is_found_before_the_download(tools, version, bucket):
    done = tools("fetch-outputs", "--to", "gs://no-such-bucket")
    assert done.code == 3
    assert not (runs.find().folder / "outputs").exists()


def test_outputs_that_are_not_what_the_run_recorded_go_nowhere(tools, version, bucket):
    version.outputs["training_log.csv"] = b"step,loss\n9,9\n"
    done = tools("fetch-outputs", "--to", f"gs://{bucket.name}")
    assert done.code == 8
    assert objects(bucket) == []


@pytest.fixture
def signed_in(drive):
    """A sign-in to the Drive, which takes nothing without it; gives all of its secrets."""
    drive.token = "access-token-of-the-test"
    client = drive.client_secret()["installed"]
    secrets = {"refresh_token": "refresh-token-of-the-test"}
    secrets["client_secret"] = client["client_secret"]
    kept = {"token_uri": client["token_uri"], "client_id": client["client_id"], "scopes": []}
    token_file().parent.mkdir(parents=True)
    token_file().write_text(json.dumps(kept | secrets))
    return [drive.token, *secrets.values()]


def test_no_session_and_no_token_is_ever_printed(tools, fetched, drive, signed_in, caplog):
    drive.faults = [
        Fault("PUT", "/upload/", drop=True, times=3),
        Fault("PUT", "/upload/", status=503, times=3),
        Fault("POST", "/upload/", status=403, reason="somethingNew"),
    ]
    done = tools("upload", "--to", "drive:root")
    assert done.code == 3
    assert "somethingNew" in done.err
    assert any("upload_id" in request for request in drive.requests)
    for secret in ("upload_id", *signed_in):
        assert secret not in done.out + done.err + caplog.text


def test_a_terminal_sees_a_bar_for_each_file_and_one_for_all(fetched, drive, python, tmp_path):
    here, there = pty.openpty()
    command = [python, "-m", "tools", "upload", "--to", "drive:root", "--json"]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=there, env=environment
    ) as process:
        os.close(there)
        seen = b""
        with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
            while read := os.read(here, 65536):
                seen += read
        out = process.stdout.read()
    os.close(here)
    assert process.returncode == 0
    for title in (b"in total", b"generator.h5", b"run.json"):
        assert title in seen
    assert len(json.loads(out)["uploads"]) == len(fetched)


def test_ctrl_c_ends_at_once_and_the_next_run_finishes(tools, fetched, drive, python):
    drive.hold.clear()
    command = [python, "-m", "tools", "upload", "--to", "drive:root"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert drive.sending.wait(20)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130, err
    assert b"Run the same command again" in err and b"Traceback" not in err
    assert drive.tree() == []
    drive.hold.set()
    done = tools("upload", "--to", "drive:root")
    assert done.code == 0, done.err
    assert drive.tree() == names("", fetched)


def test_a_crash_leaves_nothing_under_the_final_name(tools, fetched, drive, python):
    drive.hold.clear()
    command = [python, "-m", "tools", "upload", "--to", "drive:root"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert drive.sending.wait(20)
        process.kill()
    drive.hold.set()
    assert tools("upload", "--to", "drive:root").code == 0
    assert drive.tree() == names("", fetched)


def test_memory_stays_far_below_the_size_of_the_file(tmp_path, drive):
    path = random_file(tmp_path / "generator.h5", 60)
    found = measured("ours", "drive:root", path, DRIVE_EMULATOR_HOST=drive.url)
    assert drive.tree() == [("generator.h5", path.read_bytes())]
    assert 0 < found["megabytes"] < 40
