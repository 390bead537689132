"""A TCP proxy that cuts connections at seeded random bytes, flips a bit, or is a slow line."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time


class CuttingProxy:
    """Forwards a port of this machine to another one.

    Args:
        target: the port that is served.
        seed: of the choice of connections and bytes.
        cuts: how many connections are cut in all; later ones are left alone.
        within: a connection is cut before it has moved that many bytes.
        lost_answers: how many of the cuts may swallow an answer; the others break a question.
        rate: bytes a second that go up on each connection; 0 for no limit.

    ``flips_left`` more times, a bit is turned where the bytes ``flip`` pass on the way up.
    """

    def __init__(
        self,
        target: int,
        seed: int = 0,
        cuts: int = 0,
        within: int = 1 << 20,
        lost_answers: int | None = None,
        rate: float = 0,
    ) -> None:
        self.target = target
        self.cuts_left, self.within = cuts, within
        self.answers_left = cuts if lost_answers is None else lost_answers
        self.cuts_made = 0
        self.rate = rate
        self.flip: bytes | None = None
        self.flips_left = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> CuttingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        _shut(self._listener)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                _shut(client)
                continue
            pair = (client, server)
            for connection in pair:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            budgets = [None, None]
            with self._lock:
                if self.cuts_left and self._random.random() < 0.7:
                    self.cuts_left -= 1
                    # An answer is short, so a cut on its way back is drawn from fewer bytes.
                    if self._random.random() < 0.3 and self.answers_left:
                        self.answers_left -= 1
                        budgets[1] = self._random.randrange(1500)
                    else:
                        budgets[0] = self._random.randrange(self.within)
            for source, target, budget in ((*pair, budgets[0]), (*pair[::-1], budgets[1])):
                threading.Thread(
                    target=self._pump, args=(source, target, budget, source is client), daemon=True
                ).start()

    def _pump(
        self, source: socket.socket, target: socket.socket, budget: int | None, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if up and self.flip:
                    data = self._flipped(data)
                if up and self.rate:
                    time.sleep(len(data) / self.rate)
                if budget is not None and len(data) >= budget:
                    target.sendall(data[:budget])
                    self.cuts_made += 1
                    break
                if budget is not None:
                    budget -= len(data)
                target.sendall(data)
        _shut(source)
        _shut(target)

    def _flipped(self, data: bytes) -> bytes:
        with self._lock:
            place = data.find(self.flip)
            if place < 0 or not self.flips_left:
                return data
            self.flips_left -= 1
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def _shut(connection: socket.socket) -> None:
    # close() alone would leave the other thread in recv() and the peer without an end.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
