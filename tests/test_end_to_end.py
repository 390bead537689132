"""From the push to the verified model, with the kernel's true outputs of a tiny run."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.peers.worker import TINY, Worker

KERNEL = "ada/pix2pix-inpainting"


@pytest.fixture
def tools(python):
    """Run the program as a person does."""

    def run(*arguments):
        command = [python, "-m", "tools", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    return run


def test_push_queue_run_complete_fetch(server, project, sample, tmp_path, tools, monkeypatch):
    shutil.copy(PROJECT / "kernel" / "pix2pix.py", project / "kernel" / "pix2pix.py")
    monkeypatch.setenv("TOOLS_TIMEOUT", "120")  # a push is answered when its run has ended
    server.on_push = Worker(sample, tmp_path)
    pushed = tools("push-kernel", *(f"--set={name}={value}" for name, value in TINY.items()))
    assert (pushed.returncode, pushed.stdout) == (0, f"{KERNEL}/v1\n"), pushed.stderr

    assert tools("status").stdout == f"{KERNEL} v1 QUEUED\n"
    waited = tools("wait")
    assert waited.stdout == f"{KERNEL} v1 COMPLETE\n", waited.stderr
    assert "step 4/4 | " in tools("logs").stdout

    server.page_size = 5
    fetched = tools("fetch-outputs", "--json")
    assert fetched.returncode == 0, fetched.stderr
    result = json.loads(fetched.stdout)
    assert result["complete"] is True
    names = {file["name"] for file in result["files"] if file["verified"]}
    assert {"generator.h5", "training_log.csv", "run.json", "submission.csv.gz"} <= names
    for name, content in server.kernels[KERNEL][0].outputs.items():
        assert Path(result["folder"], name).read_bytes() == content

    (row,) = json.loads(tools("runs", "--json").stdout)
    assert row["status"] == "COMPLETE"
    assert row["hole_rmse"] > 0
