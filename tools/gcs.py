"""``gs://bucket/prefix``: Google Cloud Storage, through Google's own client.

An object appears under its name complete or not at all, and only where nothing, or the very
generation that was looked at, lay before. https://cloud.google.com/storage/docs/request-preconditions
"""

from __future__ import annotations

import base64
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import google.auth.exceptions as auth_errors
from google.api_core import exceptions as api_errors
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY
from requests import JSONDecodeError, RequestException

from tools.console import plain
from tools.errors import NetworkError, RefusedError, SignInError, ToolsError, UserError
from tools.remote import (
    CHUNK,
    RUN_AGAIN,
    CorruptedError,
    Metered,
    Moved,
    Origin,
    OutputFile,
    Stored,
    changed_meanwhile,
)

ASK_TIMEOUT, SEND_TIMEOUT = (10, 60), (240, 120)
"""Seconds to connect, and seconds to wait for an answer. A request's body is sent under the first
of the two as a whole, so it bounds how slow a line may be: 8 MiB in 240 s are 35 kB/s."""

ASK, SEND = DEFAULT_RETRY.with_timeout(30), DEFAULT_RETRY.with_timeout(600)
"""How long a lost network is waited for: a question is short, an upload outlasts a train tunnel."""

ATTEMPTS = 3
SCHEME = "gs://"
NEEDED = ("storage.objects.create", "storage.objects.get")
TO_REPLACE = "storage.objects.delete"


class Bucket:
    """A prefix of a bucket.

    Args:
        address: ``gs://bucket`` or ``gs://bucket/prefix``.
        overwrite: whether objects may be replaced, which needs one permission more.

    Raises:
        UserError: for an address that is none.
        SignInError: without credentials.
    """

    def __init__(self, address: str, overwrite: bool = False) -> None:
        name, _, prefix = address.removeprefix(SCHEME).partition("/")
        self.prefix = prefix.strip("/")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", name):
            raise UserError(
                f"{address!r} names no bucket.", "Write gs://bucket or gs://bucket/prefix."
            )
        if not self.prefix.isprintable() or any(
            part in ("", ".", "..") for part in self.prefix.split("/") if self.prefix
        ):
            raise UserError(f"{address!r} is no prefix that objects can have.")
        self.address = self.place = f"{SCHEME}{name}/{self.prefix}".rstrip("/")
        self._overwrite, self._host = overwrite, ""
        try:
            with self._errors():
                self._client = storage.Client(project=None)
        except NetworkError:  # none is asked for yet: the key file cannot be read
            raise _no_credentials(self.address) from None
        self._bucket = self._client.bucket(name)
        self._host = urlsplit(self._client._connection.API_BASE_URL).netloc
        # It would print an upload's address, which lets whoever has it write.
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)

    def check(self) -> str:
        """Sign in and ask which permissions there are; moves no byte.

        Raises:
            SignInError, RefusedError, NetworkError: with what to do.
        """
        needed = [*NEEDED, *([TO_REPLACE] if self._overwrite else [])]
        try:
            held = self._asked(
                lambda: self._bucket.test_iam_permissions(needed, timeout=ASK_TIMEOUT, retry=None)
            )
        except _MissingError:
            # No such bucket, or a server without this question: a listing tells them apart.
            self._asked(
                lambda: next(
                    self._client.list_blobs(
                        self._bucket, max_results=1, timeout=ASK_TIMEOUT, retry=None
                    ).pages
                )
            )
            held = needed
        if missing := [permission for permission in needed if permission not in held]:
            raise self._forbidden(f"it lacks {', '.join(missing)}")
        who = getattr(self._client._credentials, "service_account_email", None)
        return f"{self.address}: can write{f' as {who}' if who else ''}"

    def find(self, name: str) -> Stored | None:
        """Look up the live object of that name."""

        def look_up() -> Stored | None:
            blob = self._bucket.get_blob(self._object(name), timeout=ASK_TIMEOUT, retry=None)
            return None if blob is None else self._stored(blob)

        return self._asked(look_up)

    def put(self, file: OutputFile, origin: Origin, there: Stored | None, moved: Moved) -> Stored:
        """Upload in chunks of 8 MiB, where nothing or exactly ``there`` lies."""
        before = there.key if there else "0"
        for _ in range(ATTEMPTS):
            blob = self._bucket.blob(self._object(file.name), chunk_size=CHUNK)
            blob.metadata = {
                "kernel": origin.kernel,
                "version": str(origin.version),
                "sha256": file.sha256,
            }
            try:
                with self._errors(), file.path.open("rb") as stream:
                    blob.upload_from_file(
                        Metered(stream, moved),
                        size=file.size,
                        content_type=file.content_type,
                        if_generation_match=int(before),
                        checksum="crc32c",
                        timeout=SEND_TIMEOUT,
                        retry=SEND.with_predicate(self._is_passing),
                    )
                return self._stored(blob)
            except (_UnclearError, _MissingError):
                # A request that was sent again may have met the object that it made itself.
                now = self.find(file.name)
                if now is None or now.key == before:
                    continue
                if now.holds(file) or now.is_broken(file):
                    return now
                raise changed_meanwhile(now.where) from None
        self.check()
        raise NetworkError(
            f"{self._where(file.name)}: the upload was cut off {ATTEMPTS} times.", RUN_AGAIN
        )

    def remove(self, stored: Stored) -> None:
        """Delete that generation."""
        name = stored.where.removeprefix(f"{SCHEME}{self._bucket.name}/")
        with suppress(_UnclearError, _MissingError):  # gone, or replaced by somebody else
            self._asked(
                lambda: self._bucket.blob(name).delete(
                    if_generation_match=int(stored.key), timeout=ASK_TIMEOUT, retry=None
                )
            )

    def _object(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _where(self, name: str) -> str:
        return f"{SCHEME}{self._bucket.name}/{self._object(name)}"

    def _stored(self, blob: storage.Blob) -> Stored:
        digests = {"crc32c": blob.crc32c, "md5": blob.md5_hash}
        return Stored(
            where=f"{SCHEME}{self._bucket.name}/{blob.name}",
            size=blob.size,
            digests={name: base64.b64decode(sum).hex() for name, sum in digests.items() if sum},
            key=str(blob.generation),
            claim=(blob.metadata or {}).get("sha256", ""),
        )

    def _forbidden(self, why: str) -> ToolsError:
        return RefusedError(
            f"This account may not write to {self.address}: {why}.",
            "Ask the bucket's owner for the role Storage Object User (roles/storage.objectUser).",
        )

    def _asked(self, question: Callable[[], Any]) -> Any:
        def passes(failure: Exception) -> bool:
            # The client trips over answers whose headers broke off: it takes them for bytes.
            return self._is_passing(failure) or isinstance(failure, (AttributeError, TypeError))

        with self._errors():
            return ASK.with_predicate(passes)(question)()

    def _is_passing(self, failure: Exception) -> bool:
        """Whether to try again, as the client does, but for headers that broke off.

        They leave an answer without its JSON, or an upload's address with half a host.
        """
        request = getattr(failure, "request", None)
        host = urlsplit(request.url).netloc if request is not None else self._host
        if host != self._host and not host.endswith(".googleapis.com"):
            return False
        return DEFAULT_RETRY._predicate(failure) or isinstance(failure, JSONDecodeError)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Say what went wrong in our words: a client's own text can hold an upload's address."""
        try:
            yield
        except api_errors.RetryError as failure:
            raise self._translated(failure.cause or failure) from None
        except (
            api_errors.GoogleAPICallError,
            auth_errors.GoogleAuthError,
            InvalidResponse,
            DataCorruption,
            OSError,
            ValueError,
        ) as failure:
            raise self._translated(failure) from None

    def _translated(self, failure: BaseException) -> Exception:
        match failure:
            case auth_errors.DefaultCredentialsError():
                return _no_credentials(self.address)
            case auth_errors.RefreshError() | api_errors.Unauthorized():
                return SignInError(
                    f"Google does not accept the credentials for {self.address}.",
                    "Run `gcloud auth application-default login` again, or renew the key file"
                    " that GOOGLE_APPLICATION_CREDENTIALS names.",
                )
            case api_errors.Forbidden():
                return self._forbidden(_words(failure))
            case DataCorruption():
                return CorruptedError()
            case api_errors.BadRequest() if re.search("crc32c|md5", _words(failure), re.I):
                return CorruptedError()
            case api_errors.GoogleAPICallError(code=404 | 410):
                return _MissingError(
                    f"There is no bucket {SCHEME}{self._bucket.name}.",
                    f"Create it with `gcloud storage buckets create {SCHEME}{self._bucket.name}`,"
                    " or check the spelling.",
                )
            case (
                api_errors.PreconditionFailed()
                | InvalidResponse()
                | ValueError()
                | api_errors.GoogleAPICallError(code=200 | 308)
            ):
                return _UnclearError(f"{self.address}: an answer broke off.", RUN_AGAIN)
            case api_errors.GoogleAPICallError():
                told = f"{self.address}: the service answered {failure.code}: {_words(failure)}."
                if int(failure.code or 500) >= 500 or failure.code in (408, 429):
                    return NetworkError(told, RUN_AGAIN)
                return RefusedError(told)
            case RequestException() if not self._is_passing(failure):
                return _UnclearError(f"{self.address}: an answer broke off.", RUN_AGAIN)
        return NetworkError(f"{self.address}: no connection ({type(failure).__name__}).", RUN_AGAIN)


class _UnclearError(NetworkError):
    """An upload met what only a lost answer, or somebody else, explains."""


class _MissingError(RefusedError):
    """There is no such bucket, or no such upload session any more."""


def _no_credentials(address: str) -> SignInError:
    if path := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return SignInError(
            f"GOOGLE_APPLICATION_CREDENTIALS names {path}, which is no usable key file.",
            "Download a new key of the service account, or unset the variable and run"
            " `gcloud auth application-default login`.",
        )
    return SignInError(
        f"There are no Google credentials for {address}.",
        "Run `gcloud auth application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS"
        " name a service account's key file.",
    )


def _words(failure: api_errors.GoogleAPICallError) -> str:
    """The service's own words, without the address that the client puts before them."""
    try:
        said = failure.response.json()["error"]["message"]
    except (AttributeError, KeyError, TypeError, ValueError):
        said = type(failure).__name__
    return plain(said).rstrip(".")
