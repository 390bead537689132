"""From the push to the score, with the kernel's true outputs of a tiny run."""

import json
import os
import shutil
import subprocess

import pytest

from tests.peers.scoring import scorer
from tests.project import PROJECT


@pytest.fixture
def tools(python):
    """Run the program as a person does."""

    def run(*arguments):
        command = [python, "-m", "tools", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def worker(server, sample, tmp_path, python):
    """Run what is pushed, as Kaggle would: beside a dataset, and in a folder of its own."""
    out = tmp_path / "working"

    def run(version):
        script = tmp_path / "script.py"
        script.write_text(version.pushed["text"])
        command = [python, str(script), f"--data={sample}", f"--out={out}", "--no-require-gpu"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        version.say(*done.stdout.splitlines())
        version.say(*done.stderr.splitlines(), stream="stderr")
        version.states[-1] = "COMPLETE" if done.returncode == 0 else "ERROR"
        files = (path for path in out.rglob("*") if path.is_file())
        version.outputs = {str(path.relative_to(out)): path.read_bytes() for path in files}

    server.on_push = run


def test_push_queue_run_complete_fetch_submit_score(
    server, project, worker, tools, sample, monkeypatch
):
    shutil.copy(PROJECT / "kernel" / "pix2pix.py", project / "kernel" / "pix2pix.py")
    monkeypatch.setenv("TOOLS_TIMEOUT", "120")  # the peer answers a push when its run has ended
    tiny = {
        "steps": 4,
        "width": 8,
        "batch_size": 2,
        "log_every": 2,
        "validate_every": 2,
        "checkpoint_every": 2,
    }
    tiny |= {"validation_per_class": 1}
    settings = [f"--set={name}={value}" for name, value in tiny.items()]
    pushed = tools("push-kernel", *settings)
    assert (pushed.returncode, pushed.stdout) == (0, "ada/pix2pix-inpainting/v1\n"), pushed.stderr

    assert tools("status").stdout == "ada/pix2pix-inpainting v1 QUEUED\n"
    waited = tools("wait")
    assert waited.stdout == "ada/pix2pix-inpainting v1 COMPLETE\n", waited.stderr
    log = tools("logs").stdout
    assert "step 4/4 | " in log

    server.page_size = 5
    fetched = tools("fetch-outputs", "--json")
    assert fetched.returncode == 0, fetched.stderr
    result = json.loads(fetched.stdout)
    assert result["complete"] is True
    names = {file["name"] for file in result["files"] if file["verified"]}
    assert {"generator.h5", "training_log.csv", "run.json", "submission.csv.gz"} <= names
    for name, content in server.kernels["ada/pix2pix-inpainting"][0].outputs.items():
        with open(os.path.join(result["folder"], name), "rb") as file:
            assert file.read() == content

    server.competition.score = scorer(sample / "Testing_Truth")
    submitted = tools("submit", "-m", "tiny", "--data", str(sample), "--json")
    assert submitted.returncode == 0, submitted.stderr
    score = json.loads(submitted.stdout)["score"]
    assert 0.05 < score < 0.8

    (row,) = json.loads(tools("runs", "--json").stdout)
    assert row["leaderboard"] == score
    assert row["status"] == "COMPLETE"
    assert row["hole_rmse"] > 0
