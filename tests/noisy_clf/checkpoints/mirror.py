"""A server of one file that goes wrong as it is told, and what tests of downloads share."""
from __future__ import annotations

import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from noisy_clf.errors import UserError
from noisy_clf import download
from tests.noisy_clf.conftest import snapshot

FILE = "model.pt"
CONTENT, OTHER = random.Random(0).randbytes(300_000), random.Random(1).randbytes(310_000)
V1 = {"ETag": '"v1"'}
START = CONTENT[:1000]


class Mirror(ThreadingHTTPServer):
    """Serves `content` with Range and If-Range, but for what `always`, and the next of `steps`, say:

    status: this reply; slow: byte by byte; mute: none at all; tags: headers; cut: the connection ends after so many bytes;
    reset: rudely; hold: when the test lets go; ranges, if_range: False where the server does not know these; length: another,
    or None for none; chunked; sent: another Content-Range.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.steps, self.always = CONTENT, list[dict[str, Any]](), dict[str, Any](tags=V1)
        self.seen, self.paths = list[dict[str, str]](), list[str]()
        self.let_go = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models"

    @property
    def ranges(self) -> list[str | None]:
        """What the connections asked for, in turn."""
        return [headers.get("Range") for headers in self.seen]


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        mirror = self.server
        mirror.seen.append(dict(self.headers))
        mirror.paths.append(self.path)
        step = mirror.always | (mirror.steps.pop(0) if mirror.steps else {})
        self.close_connection = True
        if step.get("mute"):
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, *step["tags"].values()) or not step.get("if_range", True)
        start = int(asked[1]) if asked and same and step.get("ranges", True) else 0
        status = step.get("status") or (416 if start and start >= len(mirror.content) else 206 if start else 200)
        body = mirror.content[start:] if status in (200, 206) else b"what went wrong"
        self.protocol_version = "HTTP/1.1"
        self.send_response(status)
        headers = {"Content-Type": "application/octet-stream", **step["tags"]}
        if status == 206:
            headers["Content-Range"] = step.get("sent", f"bytes {start}-{len(mirror.content) - 1}/{len(mirror.content)}")
        if status == 416:
            headers["Content-Range"] = f"bytes */{len(mirror.content)}"
        if step.get("chunked"):
            headers["Transfer-Encoding"] = "chunked"
        elif (length := step.get("length", len(body))) is not None:
            headers["Content-Length"] = str(length)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        part = body[:step.get("cut")]
        if step.get("chunked"):
            part = b"%x\r\n%s\r\n" % (len(part), part) + (b"0\r\n\r\n" if "cut" not in step else b"")
        for i in range(len(part)) if step.get("slow") else ():
            self.wfile.write(part[i:i + 1])
            if mirror.let_go.wait(0.01):
                break
        else:
            self.wfile.write(b"" if step.get("slow") else part)
        if step.get("hold"):
            mirror.let_go.wait(5)
        if step.get("reset"):
            time.sleep(0.05)  # what is on its way would be lost with the connection
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            pass


@contextmanager
def refused(*words: object) -> Iterator[None]:
    """One sentence that has all these words in it."""
    with pytest.raises(UserError) as raised:
        yield
    told = str(raised.value)
    assert told.endswith(".") and not told.endswith("..") and "\n" not in told, told
    for word in words:
        assert str(word) in told, told


def leave(cache: Path, part: bytes, known: dict[str, Any] | str | None) -> None:
    """What an earlier command left: a .part, and the record of what it is of."""
    cache.mkdir(exist_ok=True)
    (cache / f"{FILE}.part").write_bytes(part)
    if known is not None:
        (cache / f"{FILE}.part.json").write_text(known if isinstance(known, str) else json.dumps(known))


def eventually(condition) -> bool:
    end = time.monotonic() + 4
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def assert_whole(cache: Path, content: bytes = CONTENT) -> None:
    """The file is there, to the byte, and nothing else."""
    found = snapshot(cache)
    assert list(found) == [FILE] and found[FILE] == content, {name: len(data) for name, data in found.items()}


class Bar(download.tqdm):  # type: ignore[misc]
    made: list[dict[str, Any]]
    interrupt_at: int | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        Bar.made.append(settings)

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        if Bar.interrupt_at is not None and self.n >= Bar.interrupt_at:
            Bar.interrupt_at = None
            raise KeyboardInterrupt
        return shown


@contextmanager
def serving() -> Iterator[Mirror]:
    """Within, the server answers."""
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()
        thread.join()
