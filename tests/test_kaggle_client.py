import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.peers.kaggle import Cut, Drop, Hang, Hold, KaggleServer, Lost, Reply
from tools import kaggle_client, patience, settings, transfer
from tools.errors import NetworkError, RefusedError, SignInError
from tools.kaggle_client import Kaggle, NoAccessError, NotFoundError, UncertainError
from tools.kaggle_competitions import Competitions
from tools.kaggle_kernels import Kernels

KERNEL = "ada/pix2pix-train"
DEEP = Reply(200, b"[" * 100_000, {"Content-Type": "application/json"})


@pytest.fixture
def server(monkeypatch):
    with KaggleServer() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def config(server):
    return settings.Settings(kaggle_endpoint=server.url, timeout=20)


class Waits(list):
    """Patience of 100 seconds in which no time is spent; holds the pauses that were asked for."""

    def patience(self):
        return patience.Patience(100, sleep=self.append, clock=lambda: sum(self))


@pytest.fixture
def waits():
    return Waits()


@pytest.fixture
def kaggle(config, waits):
    return Kaggle(config, waits.patience())


def test_the_user_is_whom_the_credentials_name(kaggle):
    assert kaggle.user == "ada"


def test_a_token_is_introspected_at_the_endpoint_and_sent_as_bearer(server, config, monkeypatch):
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", server.token)
    kaggle = Kaggle(config)
    assert kaggle.user == "ada"
    assert Kernels(kaggle).newest(KERNEL) is None
    assert server.calls[-1].headers["Authorization"] == f"Bearer {server.token}"
    assert server.called("IntrospectToken") == [{"token": server.token}]


@pytest.fixture
def browser_sign_in(monkeypatch):
    """Sign in as ``kaggle auth login`` does: with a token that holds until a date."""
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")

    def sign_in(token, until="2099-01-01T00:00:00+00:00"):
        credentials = Path.home() / ".kaggle" / "credentials.json"
        credentials.parent.mkdir(exist_ok=True)
        found = {"refresh_token": "r", "access_token": token, "access_token_expiration": until}
        credentials.write_text(json.dumps(found | {"username": "ada", "scopes": []}))

    return sign_in


@pytest.mark.parametrize("fresh", [True, False])
def test_a_browser_sign_in_is_used_and_renewed_at_the_endpoint(
    server, config, browser_sign_in, fresh
):
    browser_sign_in(*([server.token] if fresh else ["old", "2020-01-01T00:00:00+00:00"]))
    kaggle = Kaggle(config)
    assert (kaggle.user, Kernels(kaggle).quota().allowed) == ("ada", 30)
    assert server.calls[-1].headers["Authorization"] == f"Bearer {server.token}"
    assert len(server.called("GenerateAccessToken")) == (0 if fresh else 1)


def test_a_browser_sign_in_that_expires_meanwhile_is_renewed(server, config, browser_sign_in):
    browser_sign_in(server.token)
    kernels = Kernels(Kaggle(config))
    server.token = "KGAT_the-next"
    assert kernels.quota().allowed == 30
    assert server.calls[-1].headers["Authorization"] == "Bearer KGAT_the-next"
    server.faults["GenerateAccessToken"] = [Reply(401)]
    server.token = "KGAT_after-that"
    with pytest.raises(SignInError, match="did not accept the credentials"):
        kernels.quota()
    assert len(server.called("GenerateAccessToken")) == 2


@pytest.mark.parametrize("fault", [Drop(), Reply(429), Reply(503, {"message": "KGAT_secret"})])
def test_a_sign_in_that_cannot_be_renewed_now_is_not_taken_for_a_wrong_one(
    server, config, browser_sign_in, fault
):
    browser_sign_in(server.token)
    kernels = Kernels(Kaggle(config))
    server.token = "KGAT_the-next"
    server.faults["GenerateAccessToken"] = [fault]
    with pytest.raises(NetworkError, match="could not renew the sign-in") as failure:
        kernels.quota()
    assert "KGAT" not in str(failure.value)
    assert kernels.quota().allowed == 30


@pytest.mark.parametrize("answer", [DEEP, Reply(200, {"token": "next", "expiresIn": 10**20})])
def test_an_odd_answer_to_a_renewal_is_a_sign_in_error(server, config, browser_sign_in, answer):
    browser_sign_in(server.token)
    kernels = Kernels(Kaggle(config))
    server.token = "KGAT_the-next"
    server.faults["GenerateAccessToken"] = [answer]
    with pytest.raises(SignInError, match="did not accept the credentials"):
        kernels.quota()


def test_two_threads_renew_the_sign_in_once(server, config, browser_sign_in):
    browser_sign_in(server.token)
    kernels = Kernels(Kaggle(config))
    server.token = "KGAT_the-next"
    hold = Hold()
    server.faults["GenerateAccessToken"] = [hold]
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(kernels.quota) for _ in range(2)]
        server.wait_for("GetAcceleratorQuotaStatistics", 2)
        hold.let_go.set()
        assert [future.result(60).allowed for future in found] == [30, 30]
    assert len(server.called("GenerateAccessToken")) == 1


@pytest.mark.parametrize("name", ["VERBOSE", "VERBOSE_OUTPUT"])
def test_a_verbose_environment_shows_no_credentials(server, project, python, name):
    variables = os.environ | {name: "1"}
    command = [python, "-m", "tools", "doctor", "--json"]
    said = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert json.loads(said.stdout)
    assert "Authorization" not in said.stdout + said.stderr
    assert server.calls[-1].headers["Authorization"].startswith("Basic ")


def test_an_expired_token_does_not_stand_in_the_way_of_a_key(server, config, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_expired")
    Kernels(Kaggle(config)).quota()
    assert server.calls[-1].headers["Authorization"].startswith("Basic ")


def test_a_token_that_is_not_accepted_is_told(config, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_expired")
    with pytest.raises(SignInError, match="did not accept the access token") as failure:
        Kaggle(config)
    assert "KGAT_expired" not in str(failure.value)


def test_no_credentials_are_a_sign_in_error(config, monkeypatch, capfd):
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    with pytest.raises(SignInError, match="no Kaggle credentials"):
        Kaggle(config)
    assert capfd.readouterr() == ("", "")


def test_a_wrong_key_is_a_sign_in_error_that_does_not_show_it(kaggle, server):
    server.key = "another"
    with pytest.raises(SignInError) as failure:
        Kernels(kaggle).quota()
    assert "k3y" not in str(failure.value)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"code": 400, "message": "over 1 MB", "status": "INVALID"}}, "over 1 MB"),
        ({"code": 400, "message": "over 1 MB"}, "over 1 MB"),
        ({"message": "over 1 MB"}, "over 1 MB"),
        ({"error": "over 1 MB"}, "400 Client Error"),
        (["over 1 MB"], "400 Client Error"),
        (b"<html>", "400 Client Error"),
        (DEEP.body, "400 Client Error"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_refusal_says_why_wherever_kaggle_says_it(kaggle, server, body, told):
    server.faults["GetAcceleratorQuotaStatistics"] = [Reply(400, body)]
    with pytest.raises(RefusedError, match=rf"refused asking for the GPU quota \(400\): {told}"):
        Kernels(kaggle).quota()


@pytest.mark.parametrize("variable", ["KAGGLE_KEY", "KAGGLE_API_TOKEN"])
def test_a_message_that_repeats_the_secret_is_redacted(server, config, monkeypatch, variable):
    secret = {"KAGGLE_KEY": server.key, "KAGGLE_API_TOKEN": server.token}[variable]
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv(variable, secret)
    server.faults["GetAcceleratorQuotaStatistics"] = [
        Reply(400, {"code": 400, "message": f"bad key {secret} at http://x/?sig=1\x1b[2J"})
    ]
    with pytest.raises(RefusedError, match="bad key") as failure:
        Kernels(Kaggle(config)).quota()
    assert secret not in str(failure.value)
    assert "sig=" not in str(failure.value)
    assert "\x1b" not in str(failure.value)


def test_statuses_carry_the_version_label(kaggle, server):
    server.add_version(KERNEL, states=["COMPLETE"])
    server.add_version(KERNEL, states=["ERROR"], failure="out of memory")
    kernels = Kernels(kaggle)
    assert kernels.state(KERNEL, 1).status == "COMPLETE"
    state = kernels.state(KERNEL, 2)
    assert (state.status, state.failure, state.ended) == ("ERROR", "out of memory", True)
    labels = [body["versionLabel"] for body in server.called("GetKernelSessionStatus")]
    assert labels == ["v1", "v2"]


def test_an_unknown_word_is_a_state_that_has_not_ended(kaggle, server):
    server.add_version(KERNEL, states=["WEIRD"])
    state = Kernels(kaggle).state(KERNEL, 1)
    assert (state.status, state.ended) == ("WEIRD", False)


def test_an_empty_status_is_a_queued_run(kaggle, server):
    server.faults["GetKernelSessionStatus"] = [Reply(200, {})]
    server.add_version(KERNEL)
    assert Kernels(kaggle).state(KERNEL, 1).status == "QUEUED"


def test_unknown_kernels_and_versions_are_told_apart(kaggle, server):
    server.add_version(KERNEL)
    with pytest.raises(NotFoundError):
        Kernels(kaggle).state(KERNEL, 7)
    with pytest.raises(NoAccessError):
        Kernels(kaggle).state("eve/other-kernel", 1)


@pytest.mark.parametrize(
    "fault",
    [
        Reply(500, {"code": 500, "message": "oops"}),
        Reply(502, b"<html>bad gateway</html>"),
        Reply(503, {"error": {"code": 503, "message": "later"}}),
        Reply(429, {"code": 429, "message": "too many"}),
        Reply(429, {"error": {"code": 429, "message": "too many"}}),
        Reply(200, b"<html>sign in</html>"),
        Drop(),
        Hang(),
        Cut(10),
    ],
    ids=lambda fault: f"{type(fault).__name__}-{getattr(fault, 'status', '')}",
)
def test_passing_faults_are_tried_again(server, waits, fault):
    timeout = 1.0 if isinstance(fault, Hang) else 20.0
    config = settings.Settings(kaggle_endpoint=server.url, timeout=timeout)
    kaggle = Kaggle(config, waits.patience())
    server.faults["GetAcceleratorQuotaStatistics"] = [fault, fault]
    assert Kernels(kaggle).quota().left == 29
    assert len(waits) == 2
    assert 0.25 <= waits[0] <= 0.75
    assert 0.5 <= waits[1] <= 1.5


def test_retry_after_is_honoured(kaggle, server, waits):
    server.faults["GetAcceleratorQuotaStatistics"] = [Reply(429, {}, {"Retry-After": "17"})]
    Kernels(kaggle).quota()
    assert waits == [17]


def test_a_retry_after_beyond_the_patience_ends_at_once(kaggle, server, waits):
    server.faults["GetAcceleratorQuotaStatistics"] = [Reply(429, {}, {"Retry-After": "3600"})]
    with pytest.raises(NetworkError, match="asks for 3600 s"):
        Kernels(kaggle).quota()
    assert waits == []


def test_a_retry_after_that_has_passed_by_this_clock_leaves_the_pauses_growing(
    kaggle, server, waits
):
    passed = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    server.faults["GetAcceleratorQuotaStatistics"] = [Reply(503, b"", passed)] * 3
    Kernels(kaggle).quota()
    assert len(waits) == 3 and all(wait >= 0.25 * 2**number for number, wait in enumerate(waits))


def test_longer_pauses_are_told(kaggle, server, capsys):
    server.faults["GetAcceleratorQuotaStatistics"] = [Reply(429, {}, {"Retry-After": "17"})]
    Kernels(kaggle).quota()
    told = "Kaggle, asking for the GPU quota: Kaggle answered 429; trying again in 17 s\n"
    assert capsys.readouterr().err == told


def test_retries_are_bounded_in_time(kaggle, server, waits):
    server.faults["GetAcceleratorQuotaStatistics"] = [Drop()] * 50
    with pytest.raises(NetworkError, match="could not be reached while asking for the GPU quota"):
        Kernels(kaggle).quota()
    assert sum(waits) <= 100


@pytest.mark.parametrize(
    "fault",
    [
        Reply(200, {"gpuQuota": {"timeUsed": "9" * 20 + "s"}}),
        Reply(200, {"gpuQuota": {"timeUsed": "1.0000000000001s"}}),
        Reply(200, {"gpuQuota": 5}),
        DEEP,
    ],
    ids=["too long", "too fine", "no object", "too deep"],
)
def test_an_odd_answer_is_an_error_in_one_line(kaggle, server, fault):
    server.faults["GetAcceleratorQuotaStatistics"] = [fault]
    with pytest.raises(RefusedError, match="makes no sense while asking for the GPU quota"):
        Kernels(kaggle).quota()


@pytest.mark.parametrize("ref", ["50000000", [1], -1, 1.5])
def test_a_reference_that_is_none_is_not_believed(kaggle, server, ref):
    server.faults["CreateSubmission"] = [Reply(200, {"message": "Successfully", "ref": ref})]
    made = Competitions(kaggle).create_submission("photo-reconstruction", "token", "first try")
    assert made == (0, "Successfully")


def test_a_listed_score_that_is_no_number_is_none(kaggle, server):
    scores = ["0.16", "", "inf", 10**400, [1]]
    listed = [{"ref": 1, "publicScore": score} for score in scores]
    server.faults["ListSubmissions"] = [Reply(200, {"submissions": listed})]
    found = Competitions(kaggle).submissions("photo-reconstruction")
    assert [one.score for one in found] == [0.16, None, None, None, None]


@pytest.mark.parametrize("fault", [Lost(), Hang(), Reply(502), Lost(DEEP)])
def test_a_push_whose_answer_was_lost_is_not_sent_again(server, fault):
    kaggle = Kaggle(settings.Settings(kaggle_endpoint=server.url, timeout=1.0))
    server.faults["SaveKernel"] = [fault]
    with pytest.raises(UncertainError, match="not known whether"):
        Kernels(kaggle).save(slug=KERNEL, text="pass")
    assert len(server.called("SaveKernel")) == 1


def test_a_push_that_was_turned_away_by_the_rate_limit_is_sent_again(kaggle, server):
    server.faults["SaveKernel"] = [Reply(429, {}, {"Retry-After": "1"})]
    pushed = Kernels(kaggle).save(slug=KERNEL, text="pass")
    assert (pushed.version, pushed.error, pushed.invalid) == (1, "", {})
    assert len(server.kernels[KERNEL]) == 1


def test_every_page_of_a_listing_is_read(kaggle, server):
    server.page_size = 2
    server.add_version(KERNEL, outputs={f"{i}.txt": b"x" * (i + 1) for i in range(5)})
    kernels = Kernels(kaggle)
    assert [name for name, _ in kernels.outputs(KERNEL, 1)] == [f"{i}.txt" for i in range(5)]
    assert kernels.file_sizes(KERNEL, 1) == {f"{i}.txt": i + 1 for i in range(5)}
    assert len(server.called("ListKernelSessionOutput")) == 3


def test_a_listing_that_repeats_its_token_ends(kaggle, server):
    again = Reply(200, {"files": [], "nextPageToken": "1"})
    server.faults["ListKernelSessionOutput"] = [again, again, again]
    server.add_version(KERNEL)
    assert list(Kernels(kaggle).outputs(KERNEL, 1)) == []
    assert len(server.called("ListKernelSessionOutput")) == 2


def test_the_newer_version_warning_of_the_client_is_not_printed(kaggle, server, capfd):
    server.answer_headers["X-Kaggle-APIVersion"] = "99.0.0"
    Kernels(kaggle).quota()
    assert capfd.readouterr() == ("", "")


def test_a_submission_is_uploaded_made_and_scored(kaggle, server, tmp_path):
    file = tmp_path / "submission.csv.gz"
    file.write_bytes(b"csv" * 1000)
    competitions = Competitions(kaggle)
    assert competitions.limits("photo-reconstruction").allowed_now == 5
    sent = []
    token = competitions.upload_submission("photo-reconstruction", file, sent.append)
    ref, words = competitions.create_submission("photo-reconstruction", token, "first try")
    assert words == "Successfully submitted to photo-reconstruction"
    assert server.competition.contents == [file.read_bytes()]
    assert sum(sent) == 3000
    assert competitions.submission(ref).status == "PENDING"
    scored = competitions.submission(ref)
    assert (scored.status, scored.score, scored.description) == ("COMPLETE", 0.16, "first try")
    assert [one.ref for one in competitions.submissions("photo-reconstruction")] == [ref]
    assert competitions.limits("photo-reconstruction").allowed_now == 4
    assert [row.score for row in competitions.leaderboard("photo-reconstruction")][0] == 0.15001


@pytest.mark.parametrize("fault", [Cut(100_000), Reply(503), Drop()])
def test_a_broken_upload_goes_on_where_it_stopped(kaggle, server, tmp_path, fault):
    file = tmp_path / "submission.csv"
    file.write_bytes(bytes(range(256)) * 1024)
    server.faults["upload"] = [fault]
    sent = []
    token = Competitions(kaggle).upload_submission("photo-reconstruction", file, sent.append)
    assert bytes(server.storage.uploads[token].received) == file.read_bytes()
    assert sum(sent) == 256 * 1024
    if isinstance(fault, Cut):
        assert server.calls[-1].headers["Content-Range"] == "bytes 100000-262143/262144"


def test_a_storage_that_refuses_an_upload_is_an_error(kaggle, server, tmp_path):
    file = tmp_path / "submission.csv"
    file.write_bytes(b"x")
    server.faults["upload"] = [Reply(403, b"<Error/>")]
    with pytest.raises(NetworkError, match=r"submission.csv was not uploaded: .* 403"):
        Competitions(kaggle).upload_submission("photo-reconstruction", file)
    assert server.competition.submissions == []


def test_rules_that_were_not_accepted_are_named(kaggle, server):
    server.competition.accepted_rules = False
    with pytest.raises(NoAccessError, match="competitions/photo-reconstruction/rules"):
        Competitions(kaggle).limits("photo-reconstruction")


def test_an_unknown_competition_is_named(kaggle):
    with pytest.raises(NotFoundError, match="'no-such-thing'"):
        Competitions(kaggle).data_address("no-such-thing")


def test_an_address_that_is_not_https_is_refused(config):
    with pytest.raises(kaggle_client.ToolsError, match="not HTTPS"):
        transfer.check_address("http://storage.example/x", config)
