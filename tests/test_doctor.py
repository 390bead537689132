import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.peers.kaggle import Reply


def test_all_is_well(tools, server, project):
    done = tools("doctor")
    assert (done.code, done.err) == (0, "")
    *_, data = [line for line in done.out.splitlines() if not line.startswith("ok   ")]
    assert len(done.out.splitlines()) == 10
    assert data.startswith("--   data") and "Run `tools fetch-data`" in data
    assert "credentials    of ada" in done.out
    assert "29.0 of 30 h left, renewed on 2026-11-28" in done.out
    assert "photo-reconstruction, 5 submissions left today" in done.out
    assert "pix2pix-inpainting on NvidiaTeslaT4" in done.out


def test_time_that_running_sessions_have_reserved_is_not_left(tools, server, project):
    server.quota["timeReserved"] = "7200s"
    assert "27.0 of 30 h left" in tools("doctor").out


def findings(done):
    return {finding["check"]: finding for finding in done.json}


def test_each_fault_has_its_line_and_the_other_checks_are_done(tools, server, project, monkeypatch):
    server.competition.accepted_rules = False
    server.quota = {"timeUsed": "108000s", "totalTimeAllowed": "108000s"}
    (project / "kernel-metadata.json").write_text("{}")
    usage = shutil.disk_usage(project)._replace(free=1e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    done = tools("doctor", "--json")
    assert done.code == 1
    found = findings(done)
    bad = [name for name, finding in found.items() if finding["ok"] is False]
    assert bad == ["metadata", "disk", "GPU quota", "competition"]
    assert "id is missing" in found["metadata"]["words"]
    assert "Only 1.0 GB are free" in found["disk"]["words"]
    assert "Renewed on 2026-11-28" in found["GPU quota"]["words"]
    assert "competitions/photo-reconstruction/rules" in found["competition"]["words"]
    assert done.err == f"error: 4 of 10 checks failed: {', '.join(bad)}.\n"


def test_rules_that_were_not_accepted_are_told_also_where_kaggle_gives_zeros(
    tools, server, project
):
    server.faults["GetSubmissionLimits"] = [Reply(200, {})]
    found = findings(tools("doctor", "--json"))["competition"]
    assert not found["ok"]
    assert "competitions/photo-reconstruction/rules" in found["words"]


def test_a_kaggle_that_is_out_of_reach_is_not_waited_for(tools, server, project, monkeypatch):
    monkeypatch.setenv("TOOLS_RETRY_SECONDS", "120")
    later = Reply(503, b"", {"Retry-After": "20"})
    for name in ("GetAcceleratorQuotaStatistics", "GetSubmissionLimits"):
        server.faults[name] = [later]
    found = findings(tools("doctor", "--json"))
    for check in ("GPU quota", "competition"):
        assert not found[check]["ok"]
        assert "answered 503 and asks for 20 s of patience" in found[check]["words"]


def test_without_a_quota_the_phone_number_is_asked_for(tools, server, project):
    server.quota = None
    done = tools("doctor", "--json")
    found = findings(done)["GPU quota"]
    assert (done.code, found["ok"]) == (0, None)
    assert "is the phone number verified" in found["words"]


def test_a_key_elsewhere_that_others_can_read_is_told(
    server, project, python, tmp_path, monkeypatch
):
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    file = tmp_path / "kaggle.json"
    file.write_text(json.dumps({"username": server.user, "key": server.key}))
    file.chmod(0o644)
    command = [python, "-m", "tools", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    words = {finding["check"]: finding["words"] for finding in json.loads(done.stdout)}
    assert f"{file} can be read by others. chmod 600 {file}" in words["credentials"]


def test_a_mistake_in_the_settings_is_told_once(tools, server, project):
    (project / "tools.toml").write_text("channel_order = rgb")
    done = tools("doctor", "--json")
    found = findings(done)
    assert done.err == "error: 1 of 10 checks failed: settings.\n"
    unseen = [name for name in found if found[name]["words"].startswith("not looked at")]
    assert unseen == ["data", "credentials", "GPU quota", "competition"]


def test_without_credentials_the_local_checks_are_done(tools, server, project, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    done = tools("doctor", "--json")
    found = findings(done)
    assert done.code == 1
    assert not found["credentials"]["ok"]
    assert "https://www.kaggle.com/settings" in found["credentials"]["words"]
    assert found["metadata"]["ok"]
    assert found["GPU quota"]["ok"] is None
    assert done.err == "error: 1 of 10 checks failed: credentials.\n"


@pytest.mark.parametrize("text", ['{"username": "ada", "key": ', "[]"])
def test_a_damaged_file_of_credentials_is_named(
    server, project, python, tmp_path, monkeypatch, text
):
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    file = tmp_path / "kaggle.json"
    file.write_text(text)
    file.chmod(0o600)
    command = [python, "-m", "tools", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    words = {finding["check"]: finding["words"] for finding in json.loads(done.stdout)}
    assert f"{file} holds no user name and key. Make a token" in words["credentials"]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfKGAT_1", b"\xff\xfe", b"KGAT_1\nKGAT_2\n"])
def test_an_access_token_that_is_none_is_told(tools, server, project, content):
    file = Path.home() / ".kaggle" / "access_token"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    file.chmod(0o600)
    words = findings(tools("doctor", "--json"))["credentials"]["words"]
    assert words.startswith("The access token ") and "Make a token" in words


def test_a_key_that_kaggle_does_not_accept_is_told(tools, server, project):
    unauthenticated = Reply(401, {"code": 401, "message": "Unauthenticated"})
    server.faults["GetAcceleratorQuotaStatistics"] = [unauthenticated]
    done = tools("doctor", "--json")
    assert "did not accept the credentials" in findings(done)["GPU quota"]["words"]


@pytest.mark.parametrize(("mode", "ok"), [(0o600, True), (0o640, False), (0o604, False)])
@pytest.mark.parametrize(
    "name", ["kaggle.json", "access_token", "access_token.txt", "credentials.json"]
)
def test_credentials_that_others_can_read_are_told(tools, server, project, name, mode, ok):
    file = Path.home() / ".kaggle" / name
    file.parent.mkdir(exist_ok=True)
    key = json.dumps({"username": server.user, "key": server.key})
    file.write_text(server.token if name.startswith("access_token") else key)
    file.chmod(mode)
    found = findings(tools("doctor", "--json"))
    assert found["credentials"]["ok"] is ok
    assert ok or f"chmod 600 {file}" in found["credentials"]["words"]
