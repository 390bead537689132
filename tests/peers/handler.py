"""HTTP as Kaggle speaks it: RPC by POST, storage, uploads, and the live log.

The methods themselves are those of ``server.peer``.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.peers.faults import Call, Cut, Drop, Hang, Hold, Keep, Lost, Refusal, Reply

SIGN_IN = {"IntrospectToken", "GenerateAccessToken"}
TERMINAL = {"COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED"}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no error here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:  # noqa: N802
        peer = self._begin()
        name = self.target.path.rsplit("/", 1)[-1]
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        peer.note(Call(name, body, dict(self.headers)))
        fault = peer.take_fault(name)
        if isinstance(fault, Reply):
            return self._send(fault)
        if isinstance(fault, Drop | Hang):
            return self._break(fault)
        if isinstance(fault, Hold):
            assert fault.let_go.wait(60)
        if not peer.signed_in(dict(self.headers)) and name not in SIGN_IN:
            return self._send(Refusal(401, "Unauthenticated").reply)
        method = getattr(peer, name, None)
        if method is None or not self.target.path.removeprefix("/api").startswith("/v1/"):
            return self._send(Refusal(404, f"No such method: {self.target.path}").reply)
        try:
            answer = method(body)
        except Refusal as refusal:
            answer = refusal.reply
        if isinstance(fault, Lost):
            answer = fault.answer
            return self._send(answer) if isinstance(answer, Reply) else self._break(answer)
        self._send(answer if isinstance(answer, Reply) else Reply(200, answer), fault)

    def do_GET(self) -> None:  # noqa: N802
        peer = self._begin()
        parts = self.target.path.strip("/").split("/")
        if parts[0] == "storage":
            peer.note(Call("download", {"path": self.target.path}, dict(self.headers)))
            fault = peer.take_fault("download")
            if isinstance(fault, Reply):
                return self._send(fault)
            if isinstance(fault, Drop | Hang):
                return self._break(fault)
            status, headers, body = peer.storage.get(parts[1], self.headers)
            return self._send(Reply(status, body, headers), fault)
        if parts[-4:-2] == ["logs", "stream"]:
            label = parse_qs(self.target.query).get("versionLabel", [""])[0]
            body = {"userName": parts[-2], "kernelSlug": parts[-1], "versionLabel": label}
            peer.note(Call("logs", body, dict(self.headers)))
            return self._stream_log(body)
        self._send(Refusal(404, "Not Found").reply)

    def do_PUT(self) -> None:  # noqa: N802
        peer = self._begin()
        peer.note(Call("upload", {"path": self.target.path}, dict(self.headers)))
        fault = peer.take_fault("upload")
        left = int(self.headers.get("Content-Length", 0))
        if isinstance(fault, Reply):
            self.rfile.read(left)
            return self._send(fault)
        if isinstance(fault, Drop | Hang):
            return self._break(fault)

        def chunks(left: int):
            while left and (chunk := self.rfile.read(min(left, 1 << 16))):
                left -= len(chunk)
                yield chunk

        if isinstance(fault, Keep):
            upload = peer.storage.uploads[self.target.path.rsplit("/", 1)[-1]]
            upload.received += self.rfile.read(left)[: fault.bytes]
            kept_range = {"Range": f"bytes=0-{len(upload.received) - 1}"}
            return self._send(Reply(308, headers=kept_range))
        kept = min(left, fault.after) if isinstance(fault, Cut) else left
        token = self.target.path.rsplit("/", 1)[-1]
        status, headers, body = peer.storage.put(token, self.headers, chunks(kept))
        if isinstance(fault, Cut):
            return self._break(fault)
        self._send(Reply(status, body, headers))

    def _begin(self) -> Any:
        self.target = urlsplit(self.path)  # a proxy's client sends the whole address
        return self.server.peer  # type: ignore[attr-defined]

    def _break(self, fault: object) -> None:
        if isinstance(fault, Hang):
            self.server.peer._ended.wait()  # type: ignore[attr-defined]
        self.close_connection = True

    def _send(self, reply: Reply, fault: object = None) -> None:
        body, kind = reply.body, "text/html"
        if isinstance(body, dict | list):
            body, kind = json.dumps(body).encode(), "application/json"
        self.send_response(reply.status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body))} | reply.headers
        for name, value in (headers | self.server.peer.answer_headers).items():  # type: ignore
            self.send_header(name, value)
        self.end_headers()
        if isinstance(fault, Cut):
            self.wfile.write(body[: fault.after])
            return self._break(fault)
        self.wfile.write(body)

    def _stream_log(self, body: dict) -> None:
        """Events while the run goes on, from its first each time; the stored log once it ended."""
        peer = self.server.peer  # type: ignore[attr-defined]
        fault = peer.take_fault("logs")
        if isinstance(fault, Reply):
            return self._send(fault)
        if isinstance(fault, Drop) or (isinstance(fault, Hang) and fault.after is None):
            return self._break(fault)
        if not peer.signed_in(dict(self.headers)):
            return self._send(Refusal(401, "Unauthenticated").reply)
        try:
            version = peer._version(body)
        except Refusal as refusal:
            return self._send(refusal.reply)
        if version.state in TERMINAL:
            stored = version.stored_log().encode()
            return self._send(Reply(200, stored, {"Content-Type": "application/json"}))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut = fault.after if isinstance(fault, Cut | Hang) else None
        for event in version.events[:cut]:
            self._chunk(f"data: {json.dumps(event)}\n\n")
        if cut is not None:
            return self._break(fault)
        version.states = version.states[-1:]
        self._chunk("data: END_OF_LOG\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()
