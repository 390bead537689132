"""A server that speaks the part of Drive v3 and OAuth that uploads use, for Google's own client.

It is as strict as the service where a client could go wrong: fields come only when named, shared
drives are invisible without ``supportsAllDrives``, names are not unique, a chunk is a multiple of
256 KiB, and what a broken connection brought is kept in whole multiples of that.
https://developers.google.com/workspace/drive/api/guides/manage-uploads#resumable

``python tests/peers/drive.py PORT`` serves it alone, with one folder whose id is ``root``.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import secrets
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

FOLDER = "application/vnd.google-apps.folder"
DEFAULT_FIELDS = "kind,id,name,mimeType"


@dataclass
class File:
    id: str
    name: str
    parents: list[str]
    mime: str = FOLDER
    properties: dict[str, str] = field(default_factory=dict)
    content: Path | None = None
    trashed: bool = False
    drive: str | None = None
    writable: bool = True

    def facts(self) -> dict:
        facts = {
            "kind": "drive#file",
            "id": self.id,
            "name": self.name,
            "mimeType": self.mime,
            "parents": self.parents,
            "trashed": self.trashed,
            "appProperties": self.properties,
            "capabilities": {"canAddChildren": self.writable},
        }
        if self.drive:
            facts["driveId"] = self.drive
        if self.content:
            data = self.content.read_bytes()
            facts["size"] = str(len(data))
            facts["md5Checksum"] = hashlib.md5(data).hexdigest()
            facts["sha256Checksum"] = hashlib.sha256(data).hexdigest()
        return facts


@dataclass
class Session:
    target: File
    total: int
    is_new: bool
    path: Path
    received: int = 0
    done: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests of that method and path.

    ``status`` and ``reason`` answer in the service's place; ``drop`` serves the request and closes
    the connection without an answer; ``forget`` loses the upload session.
    """

    method: str
    path: str
    status: int = 0
    reason: str = ""
    times: int = 1
    drop: bool = False
    forget: bool = False


class DriveServer:
    GRANULE = 256 * 1024

    def __init__(self, port: int = 0) -> None:
        self.files = {"root": File("root", "My Drive", [])}
        self.sessions: dict[str, Session] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.quota = {"limit": "16106127360", "usage": "1024"}
        self.user = "ada@example.org"
        self.token: str | None = None
        self.refresh_error: str | None = None
        self.consent_error: str | None = None
        self.granted: str | None = None
        self.lock = threading.RLock()
        self.hold = threading.Event()
        self.hold.set()
        self.sending = threading.Event()
        self._codes: dict[str, dict] = {}
        self.page_size = 100
        self._folder = tempfile.TemporaryDirectory()
        self._numbers = itertools.count()
        server = self

        class Handler(_Handler):
            drive = server

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.public_url = self.url

    def __enter__(self) -> DriveServer:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self._http.shutdown()
        self._http.server_close()
        self._folder.cleanup()

    def serve(self) -> None:
        self._http.serve_forever()

    def add_folder(self, name: str, parent: str = "root", **more: object) -> str:
        return self._add(File(secrets.token_urlsafe(21), name, [parent], **more))

    def add_file(self, name: str, data: bytes, parent: str = "root", **more: object) -> str:
        path = self.new_path()
        path.write_bytes(data)
        mime = "application/octet-stream"
        return self._add(
            File(secrets.token_urlsafe(21), name, [parent], mime=mime, content=path, **more)
        )

    def _add(self, file: File) -> str:
        self.files[file.id] = file
        return file.id

    def tree(self, parent: str = "root", prefix: str = "") -> list[tuple[str, bytes]]:
        """Every file below a folder that is not in the bin, with its path and its bytes."""
        found = []
        for file in list(self.files.values()):
            if parent not in file.parents or file.trashed:
                continue
            if file.mime == FOLDER:
                found += self.tree(file.id, f"{prefix}{file.name}/")
            else:
                found.append((prefix + file.name, file.content.read_bytes()))
        return sorted(found)

    def new_path(self) -> Path:
        return Path(self._folder.name) / str(next(self._numbers))

    def client_secret(self) -> dict:
        """The JSON of an OAuth client of the type "Desktop app"."""
        return {
            "installed": {
                "client_id": "42.apps.example.org",
                "client_secret": "client-secret-of-the-test",
                "auth_uri": f"{self.url}/auth",
                "token_uri": f"{self.url}/token",
                "redirect_uris": ["http://localhost"],
            }
        }

    def key_file(self, folder: Path) -> Path:
        """A service account's key file that signs in at this server."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path = folder / "key.json"
        facts = {
            "type": "service_account",
            "client_email": "robot@project.iam.gserviceaccount.com",
            "private_key": key.decode(),
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(facts))
        return path


class _Refusal(Exception):
    def __init__(self, status: int, reason: str, message: str = "") -> None:
        self.status, self.reason, self.message = status, reason, message or reason


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    drive: DriveServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.route = parts.path
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.left = int(self.headers.get("Content-Length") or 0)
        self.drive.requests.append(f"{self.command} {self.path}")
        try:
            fault = self._fault()
            if fault and fault.status:
                self._body()
                raise _Refusal(fault.status, fault.reason or "backendError")
            if fault and fault.forget:
                self.drive.sessions.clear()
            answer = self._route()
            if fault and fault.drop:
                self.close_connection = True
                return
        except _Refusal as refusal:
            with contextlib.suppress(ConnectionError):
                self._body()
            answer = self._refuse(refusal)
        except ConnectionError:
            self.close_connection = True
            return
        status, headers, body = answer
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    def _fault(self) -> Fault | None:
        with self.drive.lock:
            for fault in self.drive.faults:
                if fault.times and fault.method == self.command and fault.path in self.path:
                    fault.times -= 1
                    return fault
        return None

    def _body(self) -> bytes:
        data = self.rfile.read(self.left)
        if len(data) < self.left:
            raise ConnectionResetError
        self.left = 0
        return data

    def _refuse(self, refusal: _Refusal):
        told = {"errors": [{"reason": refusal.reason}], "message": refusal.message}
        return self._json({"error": {"code": refusal.status, **told}}, refusal.status)

    @staticmethod
    def _json(data: object, status: int = 200):
        return status, {"Content-Type": "application/json"}, json.dumps(data).encode()

    def _route(self):
        drive = self.drive
        if self.route == "/auth":
            return self._consent()
        if self.route == "/token":
            return self._token()
        if drive.token and self.headers.get("Authorization") != f"Bearer {drive.token}":
            raise _Refusal(401, "authError")
        if self.command == "PUT" and self.route.startswith("/upload/"):
            return self._chunk()
        if found := re.fullmatch(r"/upload/drive/v3/files(?:/([\w-]+))?", self.route):
            return self._open_session(found[1])
        if self.route == "/drive/v3/about":
            if "fields" not in self.query:
                raise _Refusal(400, "required", "The 'fields' parameter is required.")
            return self._json({"user": {"emailAddress": drive.user}, "storageQuota": drive.quota})
        if self.route == "/drive/v3/files/generateIds":
            count = int(self.query.get("count", 10))
            return self._json({"ids": [secrets.token_urlsafe(21) for _ in range(count)]})
        if self.route == "/drive/v3/files" and self.command == "GET":
            return self._list()
        if self.route == "/drive/v3/files" and self.command == "POST":
            with drive.lock:
                file = self._new(json.loads(self._body()))
                drive.files[file.id] = file
            return self._facts(file)
        if found := re.fullmatch(r"/drive/v3/files/([\w-]+)", self.route):
            return self._one(found[1])
        raise _Refusal(404, "notFound")

    def _visible(self, key: str) -> File:
        file = self.drive.files.get(key)
        if file is None or (file.drive and self.query.get("supportsAllDrives") != "true"):
            raise _Refusal(404, "notFound", f"File not found: {key}.")
        return file

    def _new(self, body: dict) -> File:
        parents = body.get("parents", ["root"])
        parent = self._visible(parents[0])
        if not parent.writable:
            raise _Refusal(403, "insufficientFilePermissions")
        key = body.get("id") or secrets.token_urlsafe(21)
        if key in self.drive.files:
            raise _Refusal(409, "fileIdInUse", "A file already exists with the provided ID.")
        return File(
            key,
            body["name"],
            parents,
            mime=body.get("mimeType", "application/octet-stream"),
            properties=body.get("appProperties", {}),
            drive=parent.drive,
        )

    def _one(self, key: str):
        file = self._visible(key)
        if self.command == "PATCH":
            body = json.loads(self._body())
            file.trashed = body.get("trashed", file.trashed)
            file.name = body.get("name", file.name)
        elif self.command == "DELETE":
            del self.drive.files[key]
            return 204, {}, b""
        elif self.query.get("alt") == "media":
            return 200, {"Content-Type": file.mime}, file.content.read_bytes()
        return self._facts(file)

    def _facts(self, file: File):
        names = self.query.get("fields", DEFAULT_FIELDS)
        return self._json(_only(file.facts(), names))

    def _list(self):
        found = re.fullmatch(
            r"name = '((?:[^'\\]|\\.)*)' and '([\w-]+)' in parents and trashed = false"
            r" and mimeType (!?=) '([^']+)'",
            self.query["q"],
        )
        if not found:
            raise _Refusal(400, "invalid", "Invalid Value")
        name = re.sub(r"\\(.)", r"\1", found[1])
        both = all(
            self.query.get(flag) == "true"
            for flag in ("supportsAllDrives", "includeItemsFromAllDrives")
        )
        fields = self.query.get("fields", f"files({DEFAULT_FIELDS})")
        inner = re.fullmatch(r"(nextPageToken,)?files\((.*)\)", fields)
        with self.drive.lock:
            hits = [
                _only(file.facts(), inner[2])
                for file in self.drive.files.values()
                if file.name.casefold() == name.casefold()
                and found[2] in file.parents
                and not file.trashed
                and (file.mime == found[4]) is (found[3] == "=")
                and (both or not file.drive)
            ]
        start, size = int(self.query.get("pageToken", 0)), self.drive.page_size
        answer: dict[str, object] = {"files": hits[start : start + size]}
        if start + size < len(hits) and inner[1]:
            answer["nextPageToken"] = str(start + size)
        return self._json(answer)

    def _open_session(self, key: str | None):
        if self.query.get("uploadType") != "resumable":
            raise _Refusal(400, "badRequest", "only resumable uploads are served here")
        body = json.loads(self._body() or b"{}")
        with self.drive.lock:
            if key:
                target = self._visible(key)
                target.properties |= body.get("appProperties", {})
            else:
                target = self._new(body)
            upload = secrets.token_urlsafe(30)
            self.drive.sessions[upload] = Session(
                target,
                int(self.headers["X-Upload-Content-Length"]),
                is_new=key is None,
                path=self.drive.new_path(),
            )
        self.drive.sessions[upload].path.touch()
        query = urlencode({**self.query, "upload_id": upload})
        return 200, {"Location": f"{self.drive.public_url}{self.route}?{query}"}, b""

    def _chunk(self):
        drive = self.drive
        session = drive.sessions.get(self.query.get("upload_id", ""))
        if session is None:
            raise _Refusal(404, "notFound")
        # One request at a time has the session: a repeated one waits for what it repeats.
        with session.lock:
            asked = self.headers.get("Content-Range", f"bytes */{session.total}")
            if session.done:
                self._body()
                return self._facts(session.target)
            found = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", asked)
            if not found or int(found[3]) != session.total:
                raise _Refusal(400, "badRequest")
            if found[1] is not None:
                self._receive(session, int(found[1]), int(found[2]))
            if session.received == session.total:
                self._finish(session)
                return self._facts(session.target)
        ranged = {"Range": f"bytes=0-{session.received - 1}"} if session.received else {}
        return 308, ranged, b""

    def _receive(self, session: Session, start: int, end: int) -> None:
        drive = self.drive
        last = end + 1 == session.total
        length = end + 1 - start
        if length != self.left or start > session.received or end >= session.total:
            raise _Refusal(400, "badRequest")
        if length % drive.GRANULE and not last:
            raise _Refusal(400, "badRequest", "a chunk is no multiple of 256 KiB")
        drive.sending.set()
        drive.hold.wait()
        with session.path.open("r+b") as stored:
            stored.seek(start)
            while self.left:
                block = self.rfile.read1(min(self.left, 1 << 20))
                if not block:
                    break
                self.left -= len(block)
                stored.write(block)
        arrived = start + length - self.left
        if self.left:
            session.received = max(session.received, arrived // drive.GRANULE * drive.GRANULE)
            raise ConnectionResetError
        session.received = max(session.received, arrived)

    def _finish(self, session: Session) -> None:
        target = session.target
        with self.drive.lock:
            if session.is_new and target.id in self.drive.files:
                raise _Refusal(409, "fileIdInUse", "A file already exists with the provided ID.")
            target.content = session.path
            self.drive.files[target.id] = target
        session.done = True

    def _consent(self):
        """A person who says yes at once, or whose account is not among the test users."""
        answer = {"state": self.query["state"]}
        if self.drive.consent_error:
            answer["error"] = self.drive.consent_error
        else:
            answer["code"] = secrets.token_urlsafe(12)
            answer["scope"] = self.query["scope"]
            self.drive._codes[answer["code"]] = self.query
        return 302, {"Location": f"{self.query['redirect_uri']}?{urlencode(answer)}"}, b""

    def _token(self):
        form = {name: values[0] for name, values in parse_qs(self._body().decode()).items()}
        if form["grant_type"] != "authorization_code":
            if self.drive.refresh_error:
                return self._json({"error": self.drive.refresh_error}, 400)
            token = self.drive.token or "token-of-the-test"
            return self._json({"access_token": token, "expires_in": 3600})
        asked = self.drive._codes.pop(form.get("code", ""), None)
        if asked is None or form["redirect_uri"] != asked["redirect_uri"]:
            return self._json({"error": "invalid_grant"}, 400)
        return self._json(
            {
                "access_token": self.drive.token or "token-of-the-test",
                "refresh_token": "refresh-token-of-the-test",
                "expires_in": 3600,
                "token_type": "Bearer",
                "scope": self.drive.granted or asked["scope"],
            }
        )


def _only(facts: dict, names: str) -> dict:
    wanted = {re.split(r"[(/]", name)[0] for name in re.split(r",(?![^(]*\))", names)}
    return {name: value for name, value in facts.items() if name in wanted}


if __name__ == "__main__":
    DriveServer(int(sys.argv[1])).serve()
