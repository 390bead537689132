"""The unmodified ``kaggle`` program against the local server: it shows that the server is right."""

import json
import os
import subprocess
import sys

import pytest

from tests.peers.kaggle import KaggleServer, Reply

KERNEL = "ada/pix2pix-train"


@pytest.fixture
def server():
    with KaggleServer() as server:
        yield server


@pytest.fixture
def kaggle(server, tmp_path):
    """Run the program in an empty folder; a proxy setting is all that leads it to the server."""

    def run(*arguments, **extra):
        return subprocess.run(
            [sys.executable, "-m", "kaggle.cli", *arguments],
            env={**os.environ, **server.proxied_environment(), **extra},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_a_kernel_is_pushed_runs_and_is_fetched(server, kaggle, tmp_path):
    def run(version):
        version.say("step 1/2", "step 2/2")
        version.outputs = {"generator.h5": b"\x89HDF\r\n\x1a\n" + bytes(50_000), "logs/a.csv": b"1"}

    server.on_push = run
    (tmp_path / "kernel.py").write_text("print('hi')\n")
    metadata = {
        "id": KERNEL,
        "title": "pix2pix train",
        "code_file": "kernel.py",
        "language": "python",
        "kernel_type": "script",
        "enable_internet": False,
        "competition_sources": ["photo-reconstruction"],
    }
    (tmp_path / "kernel-metadata.json").write_text(json.dumps(metadata))
    pushed = kaggle("kernels", "push", "-p", ".", "--accelerator", "NvidiaTeslaT4")
    assert "Kernel version 1 successfully pushed" in pushed.stdout, pushed.stderr
    body = server.called("SaveKernel")[0]
    assert body["text"] == "print('hi')\n"
    assert body["machineShape"] == "NvidiaTeslaT4"

    states = [kaggle("kernels", "status", KERNEL).stdout for _ in range(3)]
    for state, word in zip(states, ["QUEUED", "RUNNING", "COMPLETE"], strict=True):
        assert f'has status "KernelWorkerStatus.{word}"' in state

    server.page_size = 1
    fetched = kaggle("kernels", "output", KERNEL, "-p", "out")
    assert fetched.returncode == 0, fetched.stderr
    outputs = server.kernels[KERNEL][0].outputs
    for name, content in outputs.items():
        assert (tmp_path / "out" / name).read_bytes() == content
    log = json.loads((tmp_path / "out" / "pix2pix-train.log").read_text())
    assert [event["data"] for event in log] == ["step 1/2\n", "step 2/2\n"]
    assert kaggle("kernels", "logs", KERNEL).stdout.count("step") == 2


def test_a_live_log_is_followed(server, kaggle):
    version = server.add_version(KERNEL, states=["RUNNING", "COMPLETE"])
    version.say("one", "two", "three")
    followed = kaggle("kernels", "logs", KERNEL, "--follow")
    assert followed.stdout.splitlines() == ["one", "two", "three"]


def test_a_submission_is_made_and_listed(server, kaggle, tmp_path):
    (tmp_path / "submission.csv").write_text("filename_box_pixel,value\n")
    arguments = ("photo-reconstruction", "-f", "submission.csv", "-m", "first")
    made = kaggle("competitions", "submit", *arguments)
    assert "Successfully submitted to photo-reconstruction" in made.stdout, made.stderr
    assert server.competition.contents == [b"filename_box_pixel,value\n"]
    listed = kaggle("competitions", "submissions", "photo-reconstruction", "--csv")
    assert "first" in listed.stdout, listed.stderr
    board = kaggle("competitions", "leaderboard", "photo-reconstruction", "--show")
    assert "0.16737" in board.stdout, board.stderr


def test_competition_files_are_listed_and_downloaded(server, kaggle, tmp_path):
    server.competition.files = {"masked_info.csv": b"filename\n" * 9}
    listed = kaggle("competitions", "files", "photo-reconstruction")
    assert "masked_info.csv" in listed.stdout, listed.stderr
    kaggle("competitions", "download", "photo-reconstruction", "-f", "masked_info.csv")
    assert (tmp_path / "masked_info.csv").read_bytes() == b"filename\n" * 9
    kaggle("competitions", "download", "photo-reconstruction")
    assert (tmp_path / "photo-reconstruction.zip").read_bytes()[:2] == b"PK"


def test_a_token_signs_in_and_the_quota_is_shown(server, kaggle):
    shown = kaggle("quota", KAGGLE_API_TOKEN=server.token, KAGGLE_USERNAME="", KAGGLE_KEY="")
    assert "30" in shown.stdout, shown.stderr
    assert server.called("IntrospectToken")


def test_a_wrong_key_and_a_refusal_are_understood(server, kaggle):
    refused = kaggle("kernels", "status", KERNEL, KAGGLE_KEY="wrong")
    assert refused.returncode == 1
    assert "Cannot access kernel" in refused.stdout + refused.stderr
    server.faults["GetAcceleratorQuotaStatistics"] = [Reply(429, {"code": 429, "message": "slow"})]
    assert "slow" in kaggle("quota").stderr
