"""Uploads over connections that break at random bytes: nothing lost, doubled or cut short."""

import pytest

from tests.peers.cutting_proxy import CuttingProxy
from tests.peers.drive import DriveServer
from tests.peers.gcs import fake_gcs_server, new_bucket
from tests.ports import free_port
from tools.destinations import ready, upload
from tools.remote import Origin

ORIGIN = Origin("ada/pix2pix", 3)
SIZES = {
    "generator.h5": 900_000,
    "discriminator.h5": 1 << 18,
    "tensorboard/events": 600_001,
    "training_log.csv": 1,
    "empty.log": 0,
    "run.json": 300,
}
CUTS = 5
BATCHES = [range(start, start + 10) for start in range(0, 50, 10)]


def batch(seeds):
    return f"seeds {seeds[0]} to {seeds[-1]}"


@pytest.mark.parametrize("seeds", BATCHES, ids=batch)
def test_drive_has_every_file_once_and_whole(quick, monkeypatch, make, caplog, seeds):
    files = make(SIZES)
    cuts = 0
    for seed in seeds:
        with DriveServer() as server, CuttingProxy(server.port, seed, CUTS, 900_000) as proxy:
            server.public_url = proxy.url
            monkeypatch.setenv("DRIVE_EMULATOR_HOST", proxy.url)
            upload(files, ORIGIN, ready(["drive:root/{slug}"], ORIGIN))
            cuts += proxy.cuts_made
            assert server.tree() == sorted(
                (f"pix2pix/{file.name}", file.path.read_bytes()) for file in files
            ), f"seed {seed}"
            kept = [file.name for file in server.files.values() if not file.trashed]
            assert len(kept) == len(files) + len(["My Drive", "pix2pix", "tensorboard"])
    assert cuts >= len(seeds)
    assert "upload_id" not in caplog.text  # whoever has a session's address can write to it


@pytest.mark.parametrize("seeds", BATCHES, ids=batch)
def test_cloud_storage_has_every_object_once_and_whole(quick, monkeypatch, make, caplog, seeds):
    files = make(SIZES)
    cuts = 0
    for seed in seeds:
        port = free_port()
        # fake-gcs-server stores a chunk that is sent again a second time, whatever its range
        # (its pull request 2056); each file is sent twice at most, so one such loss is bearable.
        with CuttingProxy(port, seed, CUTS, 900_000, lost_answers=1) as proxy:
            with fake_gcs_server(port, seen_as=proxy.url) as url:
                monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
                bucket = new_bucket()
                monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
                upload(files, ORIGIN, ready([f"gs://{bucket.name}/{{slug}}"], ORIGIN))
                cuts += proxy.cuts_made
                monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
                kept = {blob.name: blob.download_as_bytes() for blob in bucket.list_blobs()}
                assert kept == {f"pix2pix/{file.name}": file.path.read_bytes() for file in files}, (
                    f"seed {seed}"
                )
    assert cuts >= len(seeds)
    assert "upload_id" not in caplog.text  # whoever has a session's address can write to it
