"""A guard of the tests' own behind a real Unix socket: it hears questions and says what the test tells it to say."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = Callable[[dict[str, Any], Callable[[bytes], None]], None]


class StubGuard:
    """`with StubGuard(path, answer)`: `answer(question, say)` writes raw lines; returning closes the connection."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path, self.heard, self._answer = path, [], answer
        self.heard: list[dict[str, Any]] = []
        self._open: list[socket.socket] = []

    def __enter__(self) -> StubGuard:
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(self.path))
        self._server.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._open:
            connection.close()
        self.path.unlink()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            question = json.loads(lines.readline())
            self.heard.append(question)
            try:
                self._answer(question, connection.sendall)
            except OSError:
                return


def says(*objects: object) -> Answer:
    """Answer every question with these lines."""
    return lambda _, say: [say(json.dumps(one).encode() + b"\n") for one in objects]


def raw(data: bytes) -> Answer:
    """Answer with exactly these bytes and close."""
    return lambda _, say: say(data)


def silent(_: dict[str, Any], __: Callable[[bytes], None]) -> None:
    """Hold the connection open and say nothing, longer than any test lasts."""
    time.sleep(120)
