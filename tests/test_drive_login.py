import json
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from multiprocessing.pool import ThreadPool
from urllib.parse import parse_qs, urlsplit

import pytest

from tools.destinations import check, connect, deliver
from tools.drive_login import token_file
from tools.errors import RefusedError, SignInError
from tools.remote import Origin

DEEP = "[" * 100_000

# What a person does in the browser, in a program of its own: open the address and consent.
BROWSER = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1])"


@pytest.fixture
def client(drive, tmp_path, monkeypatch):
    """An OAuth client of the Drive of this test, which speaks HTTP and not HTTPS."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    drive.token = "access-token-of-the-test"
    path = tmp_path / "client_secret.json"
    path.write_text(json.dumps(drive.client_secret()))
    return path


@pytest.fixture
def browser(tmp_path, monkeypatch):
    script = tmp_path / "browser.py"
    script.write_text(BROWSER)
    monkeypatch.setenv("BROWSER", f"{sys.executable} {script} %s &")


def signed_in():
    return json.loads(token_file().read_text())


def test_signing_in_in_the_browser_keeps_a_token_that_works(tools, drive, client, browser):
    done = tools("drive-login", client)
    assert done.code == 0, done.err
    assert str(token_file()) in done.out
    assert signed_in()["refresh_token"] == "refresh-token-of-the-test"
    assert "access-token" not in token_file().read_text()
    assert check("drive:root").endswith("as ada@example.org")


def test_the_token_can_be_read_by_its_owner_only(tools, drive, client, browser):
    tools("drive-login", client)
    assert stat.S_IMODE(token_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(token_file().parent.stat().st_mode) == 0o700
    assert [path.name for path in token_file().parent.iterdir()] == ["drive-token.json"]


def test_no_token_and_no_secret_is_ever_shown(tools, drive, client, browser):
    done = tools("drive-login", client, "--json")
    assert done.json == {"token_file": str(token_file())}
    for secret in ("access-token", "refresh-token", "client-secret", "code="):
        assert secret not in done.out + done.err


def test_an_account_that_is_no_test_user_is_told_about_the_consent_screen(
    tools, drive, client, browser
):
    drive.consent_error = "access_denied"
    done = tools("drive-login", client)
    assert done.code == 7
    assert "access_denied" in done.err and "consent screen is in testing" in done.err
    assert not token_file().exists()


def test_a_box_that_was_not_ticked_is_named(tools, drive, client, browser):
    drive.granted = "https://www.googleapis.com/auth/userinfo.email"
    done = tools("drive-login", client)
    assert done.code == 7
    assert "Access to Drive was not granted" in done.err
    assert not token_file().exists()


def test_a_failed_sign_in_leaves_the_old_one(tools, drive, client, browser):
    tools("drive-login", client)
    before = token_file().read_bytes()
    drive.consent_error = "access_denied"
    assert tools("drive-login", client).code == 7
    assert token_file().read_bytes() == before


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"web": {}}', '{"installed": {}}', DEEP])
def test_a_client_file_that_is_none_is_named(tools, tmp_path, content):
    (tmp_path / "client_secret.json").write_text(content)
    done = tools("drive-login", tmp_path / "client_secret.json")
    assert done.code == 1
    assert "client_secret.json is not the JSON file of a desktop OAuth client" in done.err


def test_a_missing_client_file_is_named(tools, tmp_path):
    done = tools("drive-login", tmp_path / "gone.json")
    assert done.code == 1 and "gone.json" in done.err


def test_an_expired_refresh_token_says_to_sign_in_again_and_why(tools, drive, client, browser):
    tools("drive-login", client)
    drive.refresh_error = "invalid_grant"
    with pytest.raises(SignInError) as failure:
        check("drive:root")
    assert "has ended" in failure.value.message
    assert "tools drive-login" in failure.value.remedy and "7 days" in failure.value.remedy


def test_an_access_token_that_ends_during_an_upload_is_renewed_unseen(
    tools, drive, client, browser, make
):
    tools("drive-login", client)
    (file,) = make({"generator.h5": 700_001})
    folder = connect("drive:root")
    drive.hold.clear()
    with ThreadPool(1) as pool:
        sending = pool.apply_async(deliver, (file, Origin("ada/pix2pix", 3), folder))
        assert drive.sending.wait(30)  # the first of three chunks
        before = len(drive.requests)
        drive.token = "the-next-access-token"
        drive.hold.set()
        assert sending.get(60).sent
    assert "POST /token" in drive.requests[before:]
    assert drive.tree() == [("generator.h5", file.path.read_bytes())]


def test_a_sign_in_that_sees_only_its_own_files_is_told_so(tools, drive, client, browser):
    tools("drive-login", client)
    narrow = ["https://www.googleapis.com/auth/drive.file"]
    token_file().write_text(json.dumps(signed_in() | {"scopes": narrow}))
    with pytest.raises(RefusedError, match="drive.file") as failure:
        check("drive:1FolderOfTheWebPage")
    assert failure.value.exit_code == 3


@pytest.mark.parametrize("content", ["{", DEEP])
def test_a_token_file_that_is_broken_says_to_sign_in_again(drive, content):
    token_file().parent.mkdir(parents=True)
    token_file().write_text(content)
    with pytest.raises(SignInError, match="drive-token.json holds no sign-in"):
        check("drive:root")


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def consent(address):
    """Open the address and say where the browser ended."""
    try:
        urllib.request.build_opener(NoRedirect).open(address)
    except urllib.error.HTTPError as answer:
        return answer.headers["Location"]


@pytest.mark.parametrize("tampered", [False, True])
def test_without_a_browser_the_address_is_printed_and_the_end_is_pasted(
    drive, client, clean_environment, python, tampered
):
    command = [python, "-m", "tools", "drive-login", str(client), "--no-browser"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        address = next(line for line in process.stderr if line.startswith("http")).strip()
        asked = parse_qs(urlsplit(address).query)
        assert asked["access_type"] == ["offline"]
        assert asked["scope"] == ["https://www.googleapis.com/auth/drive"]
        assert asked["code_challenge_method"] == ["S256"]
        ended = consent(address)
        if tampered:
            ended = ended.replace(asked["state"][0], "of-another-sign-in")
        out, err = process.communicate(ended + "\n")
    assert process.returncode == (7 if tampered else 0), err
    assert token_file().exists() is not tampered


@pytest.mark.parametrize("pasted", ["", "\n", "hello\n", "http://localhost:1/\n"])
def test_a_paste_of_something_else_is_an_error_and_not_a_wait(drive, client, python, pasted):
    command = [python, "-m", "tools", "drive-login", str(client), "--no-browser"]
    done = subprocess.run(command, input=pasted, capture_output=True, text=True)
    assert done.returncode == 7
    assert "That is not the address where the browser ended. Run" in done.stderr
    assert "Traceback" not in done.stderr
