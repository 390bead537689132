"""A local server that speaks Kaggle's protocol, and breaks it on request.

The messages are those that the public client (kaggle 2.2.4 with kagglesdk 0.1.37) sends and reads;
:mod:`test_kaggle_peer` shows that the unmodified ``kaggle`` program is content with it.
Nothing here waits: a run moves on by one state each time its status is asked.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.peers.faults import Call, Cut, Drop, Hang, Hold, Keep, Lost, Refusal, Reply
from tests.peers.handler import Handler, Server
from tests.peers.storage import Storage

__all__ = [
    "Call",
    "Cut",
    "Drop",
    "Hang",
    "Hold",
    "KaggleServer",
    "Keep",
    "Lost",
    "Refusal",
    "Reply",
    "Version",
]


@dataclass
class Version:
    """One version of a kernel and its session."""

    number: int
    pushed: dict
    states: list[str] = field(default_factory=lambda: ["QUEUED", "RUNNING", "COMPLETE"])
    failure: str = ""
    outputs: dict[str, bytes] = field(default_factory=dict)
    events: list[dict] = field(default_factory=list)
    log: str | None = None  # None: the events, written the way Kaggle writes them

    @property
    def state(self) -> str:
        return self.states[0]

    def advance(self) -> str:
        """The present state; the next question finds the one after it."""
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def say(self, *lines: str, stream: str = "stdout") -> None:
        """Add lines to the log, a second apart."""
        for line in lines:
            time = float(len(self.events) + 1)
            self.events.append({"stream_name": stream, "time": time, "data": line + "\n"})

    def stored_log(self) -> str:
        if self.log is not None:
            return self.log
        return "[" + "\n,".join(json.dumps(event) for event in self.events) + "\n]"


@dataclass
class Competition:
    """A competition, its files, and what was submitted to it."""

    slug: str = "photo-reconstruction"
    files: dict[str, bytes] = field(default_factory=dict)
    archive: bytes | None = None  # None: the files, zipped
    accepted_rules: bool = True
    allowed_today: int = 5
    leaderboard: list[tuple[str, str]] = field(
        default_factory=lambda: [("first", "0.15001"), ("second", "0.16737"), ("third", "0.19092")]
    )
    score: Callable[[bytes], str] = lambda content: "0.16000"
    private_score: str = ""  # shown once it has ended
    states: list[str] = field(default_factory=lambda: ["PENDING", "COMPLETE"])
    error: str = ""
    submissions: list[dict] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)


class KaggleServer:
    """The server; use it as a context manager.

    ``faults[method]`` is a queue that each call of the method takes one entry from; ``None`` lets a
    call pass. Besides the RPC methods' names there are ``download``, ``upload`` and ``logs``.
    """

    def __init__(self, user: str = "ada", key: str = "k3y-0f-ada") -> None:
        self.user, self.key, self.token = user, key, "KGAT_t0ken-of-ada"
        self.kernels: dict[str, list[Version]] = defaultdict(list)
        self.competition = Competition()
        self.faults: dict[str, list[Any]] = defaultdict(list)
        self.calls: list[Call] = []
        self.on_push: Callable[[Version], None] = lambda version: None
        self.save_extra: dict[str, Any] = {}  # merged into the next answers to SaveKernel
        self.answer_headers: dict[str, str] = {}
        self.page_size = 200  # the most that one page of a listing holds
        self.quota = {"timeUsed": "3600s", "timeReserved": "0s", "totalTimeAllowed": "108000s"}
        self._ended = threading.Event()
        self._arrived = threading.Condition()

    def __enter__(self) -> KaggleServer:
        self._http = Server(("127.0.0.1", 0), Handler)
        self._http.peer = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.storage = Storage(self.url)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # What a test sets up and looks at.

    def environment(self) -> dict[str, str]:
        """Variables with which ``tools`` talks to this server, without pauses."""
        return {
            "TOOLS_KAGGLE_ENDPOINT": self.url,
            "TOOLS_POLL_SECONDS": "0",
            "KAGGLE_USERNAME": self.user,
            "KAGGLE_KEY": self.key,
        }

    def proxied_environment(self) -> dict[str, str]:
        """Variables with which the unmodified ``kaggle`` program talks to this server."""
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "HTTP_PROXY": self.url,
            "http_proxy": self.url,
            "NO_PROXY": "",
            "no_proxy": "",
            "KAGGLE_USERNAME": self.user,
            "KAGGLE_KEY": self.key,
        }

    def add_version(self, ref: str, **fields: Any) -> Version:
        """A version as if it had been pushed."""
        versions = self.kernels[ref]
        fields.setdefault("pushed", {"slug": ref, "text": ""})
        versions.append(Version(len(versions) + 1, **fields))
        return versions[-1]

    def called(self, name: str) -> list[dict]:
        """The bodies of all calls of a method, in order."""
        return [call.body for call in self.calls if call.name == name]

    def note(self, call: Call) -> None:
        with self._arrived:
            self.calls.append(call)
            self._arrived.notify_all()

    def wait_for(self, name: str, count: int = 1) -> None:
        """Return once a method was called so often."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.called(name)) >= count, 30)

    def take_fault(self, name: str) -> Any:
        queue = self.faults[name]
        return queue.pop(0) if queue else None

    def signed_in(self, headers: dict[str, str]) -> bool:
        basic = base64.b64encode(f"{self.user}:{self.key}".encode()).decode()
        return headers.get("Authorization") in (f"Basic {basic}", f"Bearer {self.token}")

    # The services. Each method takes a request's body and returns the answer's.

    def IntrospectToken(self, body: dict) -> dict:  # noqa: N802
        if body.get("token") != self.token:
            return {"active": False}
        return {"active": True, "username": self.user}

    def GenerateAccessToken(self, body: dict) -> dict:  # noqa: N802
        if body.get("refreshToken") != "r":
            raise Refusal(401, "Unauthenticated")
        return {"token": self.token, "expiresIn": 3600}

    def _version(self, body: dict) -> Version:
        ref = f"{body['userName']}/{body['kernelSlug']}"
        if not self.kernels.get(ref):
            raise Refusal(403, "Permission 'kernels.get' was denied")
        label = body.get("versionLabel") or f"v{len(self.kernels[ref])}"
        for version in self.kernels[ref]:
            if label == f"v{version.number}":
                return version
        raise Refusal(404, f"Kernel version {label} not found")

    def SaveKernel(self, body: dict) -> dict:  # noqa: N802
        ref = body["slug"]
        if body.get("kernelType") == "notebook":  # the true server fails so over lists of lines
            cells = json.loads(body["text"])["cells"]
            if not all(isinstance(cell["source"], str) for cell in cells):
                raise Refusal(500, "Internal error")
        invalid = [
            source
            for source in body.get("kernelDataSources", [])
            if source == ref
            or not self.kernels.get(source)
            or self.kernels[source][-1].state != "COMPLETE"
        ]
        version = self.add_version(ref, pushed=body)
        if body.get("kernelExecutionType") == "QUICK_SAVE":
            version.states = ["NEW_SCRIPT"]
        self.on_push(version)
        return {
            "ref": f"/code/{ref}",
            "url": f"https://www.kaggle.com/code/{ref}",
            "versionNumber": version.number,
            "kernelId": 1000 + sorted(self.kernels).index(ref),
            **({"invalidKernelSources": invalid} if invalid else {}),
            **self.save_extra,
        }

    def GetKernel(self, body: dict) -> dict:  # noqa: N802
        version = self._version(body)
        slug = version.pushed["slug"]
        return {
            "metadata": {
                "id": 1000,
                "ref": slug,
                "title": version.pushed.get("newTitle", ""),
                "currentVersionNumber": len(self.kernels[slug]),
            },
            "blob": {"source": version.pushed["text"], "language": "python"},
        }

    def GetKernelSessionStatus(self, body: dict) -> dict:  # noqa: N802
        version = self._version(body)
        state = version.advance()
        return {"status": state} | ({"failureMessage": version.failure} if version.failure else {})

    def _page(self, body: dict, items: list) -> tuple[list, dict]:
        size = min(body.get("pageSize") or 20, self.page_size)
        start = int(body.get("pageToken") or 0)
        more = {"nextPageToken": str(start + size)} if start + size < len(items) else {}
        return items[start : start + size], more

    def ListKernelSessionOutput(self, body: dict) -> dict:  # noqa: N802
        version = self._version(body)
        page, more = self._page(body, list(version.outputs.items()))
        files = [{"fileName": n, "url": self.storage.sign(n, content)} for n, content in page]
        return {"files": files, "log": version.stored_log(), **more}

    def ListKernelFiles(self, body: dict) -> dict:  # noqa: N802
        page, more = self._page(body, list(self._version(body).outputs.items()))
        return {"files": [{"name": n, "size": len(content)} for n, content in page], **more}

    def GetAcceleratorQuotaStatistics(self, body: dict) -> dict:  # noqa: N802
        return {"quotaRefreshTime": "2026-11-28T00:00:00.000Z", "gpuQuota": self.quota}

    def _entered(self, body: dict) -> Competition:
        if body.get("competitionName") != self.competition.slug:
            raise Refusal(404, "Not Found")
        if not self.competition.accepted_rules:
            raise Refusal(403, "You cannot submit until you accept the competition rules.")
        return self.competition

    def GetSubmissionLimits(self, body: dict) -> dict:  # noqa: N802
        competition = self._entered(body)
        made = len(competition.submissions)
        return {
            "numToday": made,
            "numTotal": made,
            "numAllowedNow": max(0, competition.allowed_today - made),
        }

    def StartSubmissionUpload(self, body: dict) -> dict:  # noqa: N802
        self._entered(body)
        token, url = self.storage.announce(body["fileName"], body.get("contentLength", 0))
        return {"token": token, "createUrl": url}

    def _submit(self, body: dict, name: str, content: bytes) -> dict:
        competition = self._entered(body)
        if len(competition.submissions) >= competition.allowed_today:
            raise Refusal(400, "Submission not allowed: Your team has used its daily limit.")
        ref = 50_000_000 + len(competition.submissions)
        competition.contents.append(content)
        competition.submissions.append(
            {
                "ref": ref,
                "totalBytes": len(content),
                "date": "2026-11-22T06:30:00.123Z",
                "description": body.get("submissionDescription", ""),
                "fileName": name,
                "submittedBy": self.user,
                "teamName": self.user,
                "states": list(competition.states),
            }
        )
        return {"message": f"Successfully submitted to {competition.slug}", "ref": ref}

    def CreateSubmission(self, body: dict) -> dict:  # noqa: N802
        upload = self.storage.uploads.get(body.get("blobFileTokens", ""))
        if upload is None or not upload.complete:
            raise Refusal(400, "The uploaded file could not be found.")
        return self._submit(body, upload.name, bytes(upload.received))

    def CreateCodeSubmission(self, body: dict) -> dict:  # noqa: N802
        kernel = {"userName": body["kernelOwner"], "kernelSlug": body["kernelSlug"]}
        version = self._version(kernel | {"versionLabel": f"v{body['kernelVersion']}"})
        if version.state != "COMPLETE" or body["fileName"] not in version.outputs:
            raise Refusal(400, f"{body['fileName']} is no output of that version.")
        return self._submit(body, body["fileName"], version.outputs[body["fileName"]])

    def _shown(self, index: int, advance: bool) -> dict:
        competition = self.competition
        shown = dict(competition.submissions[index])
        states = shown.pop("states")
        shown["status"] = states.pop(0) if advance and len(states) > 1 else states[0]
        if shown["status"] == "COMPLETE":
            shown["publicScore"] = competition.score(competition.contents[index])
            shown["privateScore"] = competition.private_score
        if shown["status"] == "ERROR":
            shown["errorDescription"] = competition.error
        return shown

    def GetSubmission(self, body: dict) -> dict:  # noqa: N802
        for index, submission in enumerate(self.competition.submissions):
            if submission["ref"] == body["ref"]:
                return self._shown(index, advance=True)
        raise Refusal(404, "Submission not found")

    def ListSubmissions(self, body: dict) -> dict:  # noqa: N802
        count = len(self._entered(body).submissions)
        page, more = self._page(body, [self._shown(i, False) for i in reversed(range(count))])
        return {"submissions": page, **more}

    def GetLeaderboard(self, body: dict) -> dict:  # noqa: N802
        rows = [
            {
                "teamId": i,
                "teamName": team,
                "score": score,
                "submissionDate": "2026-11-01T00:00:00Z",
            }
            for i, (team, score) in enumerate(self._entered(body).leaderboard)
        ]
        page, more = self._page(body, rows)
        return {"submissions": page, **more}

    def ListDataFiles(self, body: dict) -> dict:  # noqa: N802
        files = [
            {"ref": name, "name": name, "totalBytes": len(content)}
            for name, content in self._entered(body).files.items()
        ]
        page, more = self._page(body, files)
        return {"files": page, **more}

    def DownloadDataFile(self, body: dict) -> Reply:  # noqa: N802
        files = self._entered(body).files
        name = body.get("fileName", "")
        if name not in files:
            raise Refusal(404, "Not Found")
        return Reply(302, headers={"Location": self.storage.sign(name, files[name])})

    def DownloadDataFiles(self, body: dict) -> Reply:  # noqa: N802
        competition = self._entered(body)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in competition.files.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        content = packed.getvalue() if competition.archive is None else competition.archive
        url = self.storage.sign(f"{competition.slug}.zip", content)
        return Reply(302, headers={"Location": url})
