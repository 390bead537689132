"""What Kaggle's storage does: signed addresses that expire, byte ranges, resumable uploads."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field


@dataclass
class Download:
    """Bytes behind one signed address."""

    body: bytes
    expired: bool = False


@dataclass
class Upload:
    """An upload that was announced, and what has arrived of it."""

    size: int
    name: str
    received: bytearray = field(default_factory=bytearray)

    @property
    def complete(self) -> bool:
        return len(self.received) == self.size


class Storage:
    """Objects by signed address; it asks for no credentials and refuses those that expired."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.downloads: dict[str, Download] = {}
        self.uploads: dict[str, Upload] = {}

    def sign(self, name: str, body: bytes) -> str:
        """A new address for ``body``; each listing gives new ones, as Kaggle's do."""
        token = f"{len(self.downloads):06d}"
        self.downloads[token] = Download(body)
        leaf = re.sub(r"[^\w.-]", "_", name)
        return f"{self.url}/storage/{token}/{leaf}?X-Goog-Expires=3600&X-Goog-Signature=s3cr3t"

    def expire(self) -> None:
        """Every address given out so far answers 403 from now on."""
        for download in self.downloads.values():
            download.expired = True

    def announce(self, name: str, size: int) -> tuple[str, str]:
        """Token and address of a new upload."""
        token = f"upload-{len(self.uploads):06d}"
        self.uploads[token] = Upload(size, name)
        return token, f"{self.url}/upload/{token}?X-Goog-Signature=s3cr3t"

    def get(self, token: str, headers) -> tuple[int, dict[str, str], bytes]:
        download = self.downloads.get(token)
        if download is None or download.expired:
            page = b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code></Error>"
            return 403, {"Content-Type": "application/xml"}, page
        body = download.body
        answer = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "ETag": f'"{hashlib.md5(body).hexdigest()}"',
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
        condition = headers.get("If-Range", answer["ETag"])
        if wanted is None or condition != answer["ETag"]:
            return 200, answer, body
        start = int(wanted[1])
        end = min(int(wanted[2] or len(body)), len(body) - 1)
        if start >= len(body):
            return 416, answer | {"Content-Range": f"bytes */{len(body)}"}, b""
        answer["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
        return 206, answer, body[start : end + 1]

    def put(self, token: str, headers, read) -> tuple[int, dict[str, str], bytes]:
        """Take what ``read`` yields, from the offset that Content-Range names."""
        upload = self.uploads.get(token)
        if upload is None:
            return 404, {}, b""
        span = headers.get("Content-Range", "")
        if re.fullmatch(rf"bytes \*/{upload.size}", span):
            if upload.complete:
                return 200, {}, b""
            end = len(upload.received) - 1
            return 308, ({"Range": f"bytes=0-{end}"} if end >= 0 else {}), b""
        start = int(span.split()[1].split("-")[0]) if span else 0
        if start > len(upload.received):
            return 400, {}, b""
        del upload.received[start:]
        for chunk in read:
            upload.received += chunk
        return (200, {}, b"") if upload.complete else (400, {}, b"")
