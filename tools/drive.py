"""``drive:FOLDER_ID/path``: Google Drive, through Google's own client.

Drive tells files apart by id, not by name, so every new file gets its id before it is sent: a
request that is repeated after a lost answer cannot make a second file.
https://developers.google.com/workspace/drive/api/guides/create-file
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from google.api_core.exceptions import RetryError
from google.api_core.retry import Retry
from google.auth.exceptions import GoogleAuthError

from tools import drive_login
from tools.console import plain
from tools.errors import NetworkError, RefusedError, UserError
from tools.remote import CHUNK, RUN_AGAIN, Metered, Moved, Origin, OutputFile, Stored
from tools.settings import on_this_machine

try:
    import google_auth_httplib2
    from googleapiclient.discovery import build_from_document
    from googleapiclient.discovery_cache import get_static_doc
    from googleapiclient.errors import HttpError
    from googleapiclient.http import MediaIoBaseUpload, build_http

    from tools.drive_errors import (
        PASSING,
        AnsweredError,
        CutOffError,
        is_passing,
        refusal,
        translated,
    )
except ModuleNotFoundError:
    raise drive_login.missing_extra() from None

SCHEME = "drive:"
FOLDER = "application/vnd.google-apps.folder"
STORED = "id,name,size,md5Checksum,sha256Checksum,appProperties"

TIMEOUT = 240
"""Seconds for one chunk to leave this machine, and for an answer to arrive: 8 MiB at 35 kB/s."""

ASK, SEND = Retry(is_passing, timeout=30), Retry(is_passing, timeout=600)
"""How long a lost network is waited for: a question is short, an upload outlasts a train tunnel."""

ATTEMPTS = 3


_making = threading.Lock()
"""Held while folders are looked up and made: destinations may share some, and threads do."""


class DriveFolder:
    """A folder of My Drive or of a shared drive, and a path below it, which is made when needed.

    Args:
        address: ``drive:FOLDER_ID`` or ``drive:FOLDER_ID/path``; the id may be the folder's URL.

    Raises:
        UserError: for an address that is none, or where the optional packages are missing.
        SignInError: without a sign-in.
    """

    def __init__(self, address: str) -> None:
        found = re.fullmatch(
            r"drive:(?:https://drive\.google\.com/drive/(?:u/\d+/)?folders/)?"
            r"([A-Za-z0-9_-]+)(?:\?[^/]*)?((?:/[^/]+)*)/?",
            address,
        )
        path = found[2].split("/")[1:] if found else []
        if not found or not address.isprintable() or any(part in (".", "..") for part in path):
            raise UserError(
                f"{address!r} names no Drive folder.",
                "Write drive:FOLDER_ID, the last part of the folder's address in the browser.",
            )
        self._root = found[1]
        self._path = tuple(path)
        self.address = self.place = SCHEME + "/".join([self._root, *path])
        server = os.environ.get("DRIVE_EMULATOR_HOST", "")
        if server and not on_this_machine(server):
            raise UserError(
                f"DRIVE_EMULATOR_HOST={server} is not on this machine,"
                " and credentials go nowhere else than to Google."
            )
        self._credentials = drive_login.credentials(anonymous=bool(server))
        service = _service(server)
        self._host = urlsplit(service._baseUrl).netloc
        self._files, self._about = service.files(), service.about()
        self._thread = threading.local()
        self._folders: dict[tuple[str, ...], str] = {(): self._root}
        # It would repeat on stderr what we say in our own words.
        logging.getLogger("googleapiclient").setLevel(logging.CRITICAL)

    def check(self) -> str:
        """Sign in, and ask for the folder and the right to add to it; moves no byte.

        Raises:
            SignInError, RefusedError, UserError, NetworkError: with what to do.
        """
        folder = self._ask(
            self._files.get(
                fileId=self._root,
                fields="name,mimeType,trashed,driveId,capabilities(canAddChildren)",
                supportsAllDrives=True,
            )
        )
        if folder.get("mimeType") != FOLDER:
            raise UserError(f"{self.address}: {self._root} is a file, not a folder.")
        if folder.get("trashed"):
            raise UserError(f"{self.address} lies in the bin.", "Restore it in Drive.")
        if not folder.get("capabilities", {}).get("canAddChildren"):
            raise self._refusal("insufficientFilePermissions")
        about = self._ask(self._about.get(fields="user(emailAddress),storageQuota(limit,usage)"))
        quota = about.get("storageQuota", {})
        if "driveId" not in folder and "limit" in quota:
            if int(quota.get("usage", 0)) >= int(quota["limit"]):
                raise self._refusal("storageQuotaExceeded")
        who = plain(about.get("user", {}).get("emailAddress", ""))
        name = plain(folder.get("name", ""))
        return f'{self.address}: can add to "{name}"{f" as {who}" if who else ""}'

    def find(self, name: str) -> Stored | None:
        """Look up the one file of that name.

        Raises:
            UserError: there are two, which Drive allows.
        """
        folders, last = self._split(name)
        parent = self._folder(folders, make=False)
        if parent is None:
            return None
        hits = self._children(parent, last, f"mimeType != '{FOLDER}'")
        if len(hits) > 1:
            raise self._ambiguous("file", name, hits)
        return _stored(hits[0]) if hits else None

    def put(self, file: OutputFile, origin: Origin, there: Stored | None, moved: Moved) -> Stored:
        """Upload in chunks of 8 MiB: a new file, or new content for ``there``."""
        body: dict[str, Any] = {
            "mimeType": file.content_type,
            "appProperties": {
                "kernel": origin.kernel,
                "version": str(origin.version),
                "sha256": file.sha256,
            },
        }
        if there:
            target, key = self._files.update, there.key
            place = {"fileId": key}
        else:
            folders, last = self._split(file.name)
            target, key = self._files.create, self._new_id()
            body |= {"id": key, "name": last}
            body["parents"] = [self._folder(folders, make=True)]
            place = {}
        with file.path.open("rb") as stream:
            for _ in range(ATTEMPTS):
                media = _Media(Metered(stream, moved), mimetype=file.content_type)
                request = target(
                    **place, body=body, media_body=media, fields=STORED, supportsAllDrives=True
                )
                try:
                    return _stored(self._send(request))
                except CutOffError:
                    continue
                except AnsweredError as refused:
                    if refused.status != 409 or there:
                        raise
                    return _stored(
                        self._ask(
                            self._files.get(fileId=key, fields=STORED, supportsAllDrives=True)
                        )
                    )
        raise NetworkError(
            f"{self.address}/{file.name}: the upload was cut off {ATTEMPTS} times.", RUN_AGAIN
        )

    def remove(self, stored: Stored) -> None:
        """Move that file to the bin, from where a person can restore it."""
        self._ask(
            self._files.update(
                fileId=stored.key, body={"trashed": True}, fields="id", supportsAllDrives=True
            )
        )

    def _split(self, name: str) -> tuple[tuple[str, ...], str]:
        parts = (*self._path, *name.split("/"))
        return parts[:-1], parts[-1]

    def _children(self, parent: str, name: str, kind: str) -> list[dict[str, Any]]:
        quoted = name.replace("\\", "\\\\").replace("'", "\\'")
        request = self._files.list(
            q=f"name = '{quoted}' and '{parent}' in parents and trashed = false and {kind}",
            fields=f"nextPageToken,files({STORED})",
            supportsAllDrives=True,
            includeItemsFromAllDrives=True,
        )
        hits = []
        while request is not None:
            answer = self._ask(request)
            # Drive finds a name in whatever case.
            hits += [hit for hit in answer.get("files", []) if hit["name"] == name]
            request = self._files.list_next(request, answer)
        return hits

    def _folder(self, path: tuple[str, ...], make: bool) -> str | None:
        """Resolve the folder at ``path``, one thread at a time so that none is made twice."""
        with _making:
            return self._resolve(path, make)

    def _resolve(self, path: tuple[str, ...], make: bool) -> str | None:
        if path in self._folders:
            return self._folders[path]
        parent = self._resolve(path[:-1], make)
        if parent is None:
            return None
        hits = self._children(parent, path[-1], f"mimeType = '{FOLDER}'")
        if not hits and not make:
            return None
        if len(hits) > 1:
            raise self._ambiguous("folder", path[-1], hits)
        if hits:
            self._folders[path] = hits[0]["id"]
        else:
            key = self._new_id()
            body = {"id": key, "name": path[-1], "parents": [parent], "mimeType": FOLDER}
            try:
                self._ask(self._files.create(body=body, fields="id", supportsAllDrives=True))
            except AnsweredError as refused:
                if refused.status != 409:
                    raise
            self._folders[path] = key
        return self._folders[path]

    def _ambiguous(self, kind: str, name: str, hits: list[dict[str, Any]]) -> UserError:
        all_ = " and ".join(_link(hit["id"], kind) for hit in hits)
        return UserError(
            f"{self.address} holds more than one {kind} named {name}: {all_}.",
            "Move all but one of them to the bin."
            if kind == "file"
            else "Move what they hold into one, and the empty ones to the bin.",
        )

    def _new_id(self) -> str:
        return self._ask(self._files.generateIds(count=1, type="files", fields="ids"))["ids"][0]

    def _ask(self, request: Any) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            try:
                return _whole(request.execute(http=self._http()))
            except UnicodeDecodeError:
                raise CutOffError("The answer is no text.", RUN_AGAIN) from None

        return self._persist(ask, ASK)

    def _send(self, request: Any) -> dict[str, Any]:
        # next_chunk(num_retries=…) never: it sends a chunk that it has read already as an empty
        # one. Called again after an error, it asks the service how far it came and goes on.
        def step() -> Any:
            if request.resumable_uri and not self._is_ours(request.resumable_uri):
                request.resumable_uri, request.resumable_progress = None, 0
            try:
                return request.next_chunk(http=self._http())
            except (IndexError, ValueError):
                raise ConnectionError("the Range header broke off") from None

        while True:
            try:
                _, answer = self._persist(step, SEND)
            except AnsweredError as refused:
                if request.resumable_uri and refused.status in (400, 404, 410):
                    raise CutOffError("The upload session has ended.") from None
                raise
            if answer is not None:
                return _whole(answer)

    def _refusal(self, reason: str) -> RefusedError:
        return RefusedError(*refusal(reason, self.address, self._credentials))

    def _is_ours(self, url: str) -> bool:
        """Whether an upload's address names the service: a header that broke off does not."""
        host = urlsplit(url).netloc
        return host == self._host or host.endswith(".googleapis.com")

    def _http(self) -> Any:
        """One connection per thread: httplib2 serves one only."""
        if not hasattr(self._thread, "http"):
            plain_http = build_http()
            plain_http.timeout = TIMEOUT
            self._thread.http = google_auth_httplib2.AuthorizedHttp(
                self._credentials, http=plain_http
            )
        return self._thread.http

    def _drop_connection(self, _failure: Exception) -> None:
        if hasattr(self._thread, "http"):
            self._thread.http.close()
            del self._thread.http

    def _persist(self, action: Callable[[], Any], patience: Retry) -> Any:
        """Do it, again after each passing failure; what remains is said in our words."""
        try:
            return patience(action, on_error=self._drop_connection)()
        except RetryError as failure:
            raise translated(failure.cause or failure, self.address, self._credentials) from None
        except (*PASSING, HttpError, GoogleAuthError) as failure:
            raise translated(failure, self.address, self._credentials) from None


class _Media(MediaIoBaseUpload):
    """A file whose chunks are read as bytes: a stream read once cannot be sent a second time."""

    def __init__(self, stream: Any, mimetype: str) -> None:
        super().__init__(stream, mimetype=mimetype, chunksize=CHUNK, resumable=True)

    def has_stream(self) -> bool:
        """No: every attempt gets its bytes anew."""
        return False


def _service(server: str) -> Any:
    document = json.loads(get_static_doc("drive", "v3"))
    if server:
        # The client_options that other services take leave https in the address of uploads.
        document["rootUrl"] = server.rstrip("/") + "/"
    return build_from_document(document, http=build_http())


def _whole(answer: Any) -> dict[str, Any]:
    """The answer, unless headers that broke off made the client take it for an empty one."""
    if not isinstance(answer, dict):
        raise CutOffError("The answer broke off.", RUN_AGAIN)
    return answer


def _stored(answer: dict[str, Any]) -> Stored:
    return Stored(
        where=_link(answer["id"]),
        size=int(answer.get("size", -1)),
        digests={
            "sha256": answer.get("sha256Checksum", "").lower(),
            "md5": answer.get("md5Checksum", "").lower(),
        },
        key=answer["id"],
        claim=answer.get("appProperties", {}).get("sha256", ""),
    )


def _link(key: str, kind: str = "file") -> str:
    return f"https://drive.google.com/{'file/d' if kind == 'file' else 'drive/folders'}/{key}"
