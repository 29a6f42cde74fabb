from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from noisy_clf import download
from noisy_clf.foreign.download import SOURCE, cache_folder, cached, checked_digest, obtain
from noisy_clf.errors import UserError
from tests.noisy_clf.conftest import snapshot

FILE = "model.pt"
CONTENT, OTHER = random.Random(0).randbytes(300_000), random.Random(1).randbytes(310_000)
V1 = {"ETag": '"v1"'}
START = CONTENT[:1000]


class Mirror(ThreadingHTTPServer):
    """Serves `content` with Range and If-Range, but for what `always`, and the next of `steps`, say:

    status: this reply; mute: none at all; tags: headers; cut: the connection ends after so many bytes; reset: rudely; hold:
    when the test lets go; ranges, if_range: False where the server does not know these; length: another one, or None for none;
    chunked; sent: another Content-Range.
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
        self.wfile.write(part)
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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GUIDED_SAMPLE_MIRROR", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download, "BACKOFF", 0)
    return tmp_path / "cache"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with Mirror() as server:
        monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", server.url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()
        thread.join()


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


@pytest.mark.parametrize(["own", "shared", "folder"], [
    ("/own", "/shared", "/own"), ("~/own", None, "/home/me/own"), ("own", None, "{cwd}/own"),
    (None, "/shared", "/shared/guided-sample"), ("", "/shared", "/shared/guided-sample"),
    (None, None, "/home/me/.cache/guided-sample"), (None, "", "/home/me/.cache/guided-sample")])
def test_where_the_cache_is(own: str | None, shared: str | None, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"GUIDED_SAMPLE_CACHE": own, "XDG_CACHE_HOME": shared, "HOME": "/home/me"}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert str(cache_folder()) == folder.format(cwd=os.getcwd())


def test_nobodys_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", "~nobody_of_this_name/cache")
    with refused("set GUIDED_SAMPLE_CACHE"):
        cache_folder()


def test_a_cached_file_is_found_without_a_network_or_a_lock(cache: Path, mirror: Mirror) -> None:
    leave(cache, CONTENT, V1)
    assert cached(FILE) is None
    os.replace(cache / f"{FILE}.part", cache / FILE)
    (cache / f"{FILE}.part.json").unlink()
    (cache / f"{FILE}.part.lock").mkdir()  # cannot be taken
    assert obtain(FILE) == cached(FILE) == cache / FILE and mirror.seen == []


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_a_download_in_one_go(slashes: str, cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", mirror.url + slashes)
    assert obtain(FILE) == cache / FILE == cached(FILE)
    assert_whole(cache)
    assert mirror.paths == [f"/models/{FILE}"] and mirror.ranges == [None]


def test_without_a_mirror_it_comes_from_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(request: Request, timeout: float) -> None:
        raise UserError(f"{request.full_url} {timeout}.")

    monkeypatch.setattr(download, "urlopen", urlopen)
    with refused(f"{SOURCE}/{FILE} {download.SILENCE}"):
        obtain(FILE)


@pytest.mark.parametrize("kind", [{}, {"reset": True}, {"chunked": True}], ids=str)
def test_a_connection_that_breaks_five_times_gives_the_same_bytes(kind: dict, cache: Path, mirror: Mirror) -> None:
    cuts = [1, 999, 65_536, 100_000, 33_464]
    mirror.steps = [kind | {"cut": cut} for cut in cuts] + [kind | {"reset": False}]
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == [None, *(f"bytes={at}-" for at in (1, 1000, 66_536, 166_536, 200_000))]
    assert [headers.get("If-Range") for headers in mirror.seen] == [None] + 5 * ['"v1"']


def test_a_silent_connection_counts_as_broken(cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SILENCE", 0.2)
    mirror.steps = [{"cut": 1000, "hold": True}]
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == [None, "bytes=1000-"]


def test_a_try_that_brings_bytes_counts_the_failures_anew(cache: Path, mirror: Mirror) -> None:
    barren = (download.PATIENCE - 1) * [{"status": 503}]
    mirror.steps = [*barren, {"cut": 10}, *barren, *12 * [{"cut": 10}], *barren]
    obtain(FILE)
    assert_whole(cache)
    assert len(mirror.seen) == 3 * len(barren) + 14


@pytest.mark.parametrize("kind", [{"status": 503}, {"status": 429}, {"status": 408}, {"cut": 0},
                                  {"cut": 0, "reset": True}], ids=str)
def test_after_some_barren_tries_in_a_row_it_gives_up(kind: dict, cache: Path, mirror: Mirror,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    leave(cache, START, V1)
    mirror.always |= kind
    waits: list[float] = []
    monkeypatch.setattr(download, "BACKOFF", 1)
    monkeypatch.setattr(download, "time", type("time", (), {"sleep": waits.append}))
    with refused(f"{mirror.url}/{FILE}", "1.00kB", "goes on from there", cache / FILE):
        obtain(FILE)
    assert mirror.ranges == download.PATIENCE * ["bytes=1000-"] and waits == [2, 4, 8, 16]
    assert (cache / f"{FILE}.part").read_bytes() == START and cached(FILE) is None
    mirror.always = {"tags": V1}
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges[-1] == "bytes=1000-"


def test_a_server_without_ranges_starts_anew(cache: Path, mirror: Mirror) -> None:
    mirror.always |= {"ranges": False}
    mirror.steps = [{"cut": 200_000}, {"cut": 1000}]
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == [None, "bytes=200000-", "bytes=1000-"]


@pytest.mark.parametrize("cuts", [[1000] * 20, [1000, 900] * 10], ids=["at one point", "in turn"])
def test_a_server_without_ranges_that_always_breaks_is_given_up(cuts: list[int], cache: Path, mirror: Mirror) -> None:
    mirror.always |= {"ranges": False}
    mirror.steps = [{"cut": cut} for cut in cuts]
    with refused("the connection broke"):
        obtain(FILE)
    assert len(mirror.seen) == download.PATIENCE + 1 and cached(FILE) is None


def test_a_server_that_hangs_up_without_a_word_is_asked_again(cache: Path, mirror: Mirror) -> None:
    mirror.steps = [{"mute": True}, {"cut": 1000}, {"mute": True}]
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == [None, None, "bytes=1000-", "bytes=1000-"]


@pytest.mark.parametrize("announced", [len(CONTENT) + 1, len(CONTENT) * 2])
def test_a_file_shorter_than_announced_is_not_taken(announced: int, cache: Path, mirror: Mirror) -> None:
    mirror.always |= {"ranges": False, "length": announced}
    with refused("the connection broke before the end"):
        obtain(FILE)
    assert cached(FILE) is None


def test_more_than_announced_is_not_taken(cache: Path, mirror: Mirror) -> None:
    leave(cache, START, V1)
    mirror.steps = [{"status": 206, "length": None, "sent": "bytes 1000-1009/1010"}]
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == ["bytes=1000-", None]


def test_an_empty_reply_is_not_a_file(cache: Path, mirror: Mirror) -> None:
    mirror.content = b""
    with refused("the connection broke before the end"):
        obtain(FILE)
    assert cached(FILE) is None


def test_a_file_without_a_length_ends_with_its_stream(cache: Path, mirror: Mirror) -> None:
    mirror.always |= {"length": None}
    obtain(FILE)
    assert_whole(cache)
    assert len(mirror.seen) == 1


def test_what_a_killed_process_left_is_gone_on_from(cache: Path, mirror: Mirror) -> None:
    mirror.steps = [{"cut": 123_456, "hold": True}]
    process = subprocess.Popen([sys.executable, "-c", f"from noisy_clf.foreign.download import obtain; obtain({FILE!r})"],
                               cwd=Path(download.__file__).parents[1], stderr=subprocess.DEVNULL)
    part = cache / f"{FILE}.part"
    assert eventually(lambda: part.exists() and part.stat().st_size == 123_456)
    process.kill()
    process.wait()
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == [None, "bytes=123456-"] and mirror.seen[1]["If-Range"] == '"v1"'


@pytest.mark.parametrize("tags, version", [
    ({"ETag": '"v1"', "Last-Modified": "Mon, 12 Jul 2021 10:00:00 GMT"}, '"v1"'),
    ({"Last-Modified": "Mon, 12 Jul 2021 10:00:00 GMT"}, "Mon, 12 Jul 2021 10:00:00 GMT"),
    ({"ETag": 'W/"v1"', "Last-Modified": "Mon, 12 Jul 2021 10:00:00 GMT"}, "Mon, 12 Jul 2021 10:00:00 GMT"),
    ({"ETag": 'W/"v1"'}, None), ({}, None)])
def test_only_a_version_that_is_certain_is_gone_on_from(tags: dict, version: str | None, cache: Path, mirror: Mirror) -> None:
    mirror.always |= {"tags": tags}
    mirror.steps = [{"cut": 1000}]
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == [None, "bytes=1000-" if version else None] and mirror.seen[1].get("If-Range") == version


@pytest.mark.parametrize("size", [{}, {"size": len(CONTENT)}], ids=str)
def test_a_file_that_changed_at_the_server_starts_anew(size: dict, cache: Path, mirror: Mirror) -> None:
    leave(cache, START, V1 | size)
    mirror.content, mirror.always = OTHER, {"tags": {"ETag": '"v2"'}}
    mirror.steps = [{"cut": 5000}]
    obtain(FILE)
    assert_whole(cache, OTHER)
    assert [headers.get("If-Range") for headers in mirror.seen] == ['"v1"', '"v2"']
    assert mirror.ranges == ["bytes=1000-", "bytes=5000-"]


@pytest.mark.parametrize("tags, sent, size", [
    ({"ETag": '"v2"'}, None, {}), ({"ETag": '"v1"', "Last-Modified": "today"}, None, {"Last-Modified": "yesterday"}),
    (V1, "bytes 1000-299999/300000", {"size": 300_001}), (V1, "bytes 999-299999/300000", {}), (V1, "bytes 1000-299999/*", {}),
    (V1, "", {})])
def test_a_part_of_something_else_is_not_added(tags: dict, sent: str | None, size: dict, cache: Path, mirror: Mirror) -> None:
    """A server, or a cache on the way, that knows Range but not If-Range, or neither well."""
    leave(cache, OTHER[:1000], V1 | size)
    mirror.always |= {"tags": tags, "if_range": False}
    mirror.steps = [{} if sent is None else {"sent": sent}]
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == ["bytes=1000-", None]


def test_a_part_that_nobody_asked_for_is_not_taken(cache: Path, mirror: Mirror) -> None:
    mirror.always |= {"status": 206, "sent": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"}
    with refused("another part"):
        obtain(FILE)
    assert cached(FILE) is None and mirror.ranges == download.PATIENCE * [None]


@pytest.mark.parametrize("known", [None, "", "{", "[]", "{}", '{"size": 300000}', '{"ETag": ["v1"]}', '{"ETag": "a\\nb"}',
                                   '{"ETag": ""}', '{"Last-Modified": 1}', '{"ETag": "\\u4e00"}'])
def test_a_part_of_an_unknown_version_starts_anew(known: str | None, cache: Path, mirror: Mirror) -> None:
    leave(cache, OTHER[:1000], known)
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == [None]


@pytest.mark.parametrize("known, asked", [
    (V1 | {"size": len(CONTENT)}, [None]), (V1, [f"bytes={len(OTHER)}-", None]),
    (V1 | {"size": "?"}, [f"bytes={len(OTHER)}-", None])])
def test_a_part_longer_than_the_file_starts_anew(known: dict, asked: list, cache: Path, mirror: Mirror) -> None:
    leave(cache, OTHER, known)
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == asked


@pytest.mark.parametrize("known, asked", [
    (V1 | {"size": len(CONTENT)}, []), ({"size": len(CONTENT)}, []), (V1, [f"bytes={len(CONTENT)}-", None])])
def test_a_part_as_long_as_the_file_is_it_or_is_asked_for_anew(known: dict, asked: list, cache: Path, mirror: Mirror) -> None:
    leave(cache, CONTENT, known)
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == asked


def test_old_bytes_never_stand_under_a_new_versions_name(cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed just before, or just after, the new version is remembered."""
    for write in (lambda *_: None, download.write_json):
        def killed(*arguments) -> None:
            write(*arguments)
            raise KeyboardInterrupt

        leave(cache, OTHER[:1000], {"ETag": '"v0"'})
        with monkeypatch.context() as patch, pytest.raises(UserError):
            patch.setattr(download, "write_json", killed)
            obtain(FILE)
        obtain(FILE)
        assert_whole(cache)
        (cache / FILE).unlink()


def test_it_gets_its_name_only_when_it_is_on_the_disk(cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def recorded(call, told):
        def wrapped(*arguments):
            calls.append(told(*arguments))
            return call(*arguments)
        return wrapped

    monkeypatch.setattr(os, "fsync", recorded(os.fsync, lambda file: os.fstat(file).st_size))
    monkeypatch.setattr(os, "replace", recorded(os.replace, lambda old, new: Path(new).name))
    obtain(FILE)
    assert calls[-2:] == [len(CONTENT), FILE]


@pytest.mark.parametrize("left", [b"", START])
@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8", "TEXT/HTML"])
def test_a_web_page_is_refused_and_costs_nothing(kind: str, left: bytes, cache: Path, mirror: Mirror) -> None:
    leave(cache, left, V1)
    before = snapshot(cache)
    mirror.always |= {"tags": {"Content-Type": kind, "ETag": '"page"'}}
    with refused(f"{mirror.url}/{FILE}", "a web page", "GUIDED_SAMPLE_MIRROR", cache / FILE):
        obtain(FILE)
    assert len(mirror.seen) == 1 and {**snapshot(cache), **before} == snapshot(cache) and cached(FILE) is None


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_is_not_asked_for_again(status: int, cache: Path, mirror: Mirror) -> None:
    mirror.always |= {"status": status}
    with refused(f"{mirror.url}/{FILE}", f"HTTP {status}", "download it on another machine", f"put it at {cache / FILE},",
                 "set GUIDED_SAMPLE_MIRROR to the URL of a folder", "GUIDED_SAMPLE_CACHE to a folder"):
        obtain(FILE)
    assert len(mirror.seen) == 1


def test_a_redirection_for_ever_is_told_in_one_line(mirror: Mirror) -> None:
    mirror.always |= {"status": 302, "tags": {"Location": f"{mirror.url}/{FILE}"}}
    with refused("HTTP 302", "infinite loop"):
        obtain(FILE)


def no_name(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("trouble, why", [("refused", "refused"), ("no name", "Name or service not known")])
def test_without_a_network_it_is_told_at_once(trouble: str, why: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", url)
        monkeypatch.setattr(download, "time", None)  # no wait
        if trouble == "no name":
            monkeypatch.setattr(socket, "getaddrinfo", no_name)
        with refused(f"{url}/{FILE}", why, "download it on another machine", f"put it at {cache / FILE},",
                     "set GUIDED_SAMPLE_MIRROR to the URL of a folder", "GUIDED_SAMPLE_CACHE to a folder"):
            obtain(FILE)


def test_a_network_that_goes_away_half_way_is_waited_for(cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.steps = [{"cut": 1000}]
    connect, calls = socket.create_connection, list[object]()

    def sometimes(*arguments, **more):
        calls.append(arguments)
        return no_name() if 1 < len(calls) < 5 else connect(*arguments, **more)

    monkeypatch.setattr(socket, "create_connection", sometimes)
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == [None, "bytes=1000-"] and len(calls) == 5


@pytest.mark.parametrize("url", [
    "ftp://host/models", "file:///srv/models", "/srv/models", "host/models", "https://", "https:///models", "http://[",
    "http://host:0/", "http://host:99999/", "http://host:port/", "http://host/a b", "http://host/\n", "http://h\u00f6st/",
    "http://host/?key=1", "http://host/#a", "http://me:secret@host/"])
def test_an_unusable_mirror_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", url)
    monkeypatch.setattr(download, "urlopen", None)
    with refused("GUIDED_SAMPLE_MIRROR", repr(url), "https://host/folder"):
        obtain(FILE)


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


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> type[Bar]:
    monkeypatch.setattr(download, "tqdm", Bar)
    monkeypatch.setattr(Bar, "made", [], raising=False)
    return Bar


def test_the_bar_begins_at_what_is_there(bar: type[Bar], cache: Path, mirror: Mirror) -> None:
    leave(cache, START, V1)
    obtain(FILE)
    mirror.always |= {"length": None}
    (cache / FILE).unlink()
    obtain(FILE)
    assert [(made["initial"], made["total"], made["unit"]) for made in bar.made] == [(1000, len(CONTENT), "B"), (0, None, "B")]


def test_the_bar_does_not_begin_at_what_is_given_up(bar: type[Bar], cache: Path, mirror: Mirror) -> None:
    leave(cache, START, V1)
    mirror.always |= {"ranges": False}
    obtain(FILE)
    assert [made["initial"] for made in bar.made] == [0]


@pytest.mark.parametrize("tags, then", [(V1, "goes on from there"), ({}, "begins anew")])
def test_ctrl_c_tells_how_much_is_there_and_what_comes_of_it(tags: dict, then: str, bar: type[Bar], cache: Path, mirror: Mirror,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bar, "interrupt_at", 150_000)
    mirror.always |= {"tags": tags}
    mirror.steps = [{"cut": 150_000, "hold": True}]
    with refused("150kB of 300kB", cache / f"{FILE}.part", f"the same command {then}"):
        obtain(FILE)
    mirror.let_go.set()
    assert (cache / f"{FILE}.part").read_bytes() == CONTENT[:150_000] and cached(FILE) is None
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == [None, "bytes=150000-" if tags else None]


@pytest.mark.parametrize("second", ["finds it", "goes on"])
def test_of_two_that_want_a_file_one_waits(second: str, cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where the first one gives up, it goes on itself."""
    waiting, results = threading.Event(), list[Any]()
    monkeypatch.setattr(download.tqdm, "write", lambda *_, **__: waiting.set())
    mirror.steps = [{"hold": True, "cut": 1000}, {} if second == "finds it" else {"status": 404}]

    def want() -> None:
        try:
            results.append(obtain(FILE))
        except UserError as error:
            results.append(str(error))

    threads = [threading.Thread(target=want) for _ in range(2)]
    threads[0].start()
    assert eventually(lambda: len(mirror.seen) == 1)
    threads[1].start()
    assert waiting.wait(4)
    mirror.let_go.set()
    for thread in threads:
        thread.join()
    assert_whole(cache)
    if second == "finds it":
        assert results == [cache / FILE, cache / FILE] and mirror.ranges == [None, "bytes=1000-"]
    else:
        assert "404" in results[0] and results[1] == cache / FILE and mirror.ranges == [None, "bytes=1000-", "bytes=1000-"]


def test_processes_that_want_a_file_make_one_download(cache: Path, mirror: Mirror) -> None:
    mirror.steps = [{"cut": 1000, "hold": True}]
    command = [sys.executable, "-c", f"from noisy_clf.foreign.download import obtain; print(obtain({FILE!r}))"]
    processes = [subprocess.Popen(command, cwd=Path(download.__file__).parents[1], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert eventually(lambda: len(mirror.seen) == 1)
    time.sleep(0.3)
    mirror.let_go.set()
    told = [process.communicate() for process in processes]
    assert [out for out, _ in told] == 2 * [f"{cache / FILE}\n"], told
    assert mirror.ranges == [None, "bytes=1000-"]
    assert_whole(cache)


def test_a_full_disk_is_told(cache: Path, mirror: Mirror) -> None:
    cache.mkdir()
    (cache / f"{FILE}.part").symlink_to("/dev/full")
    with refused("the disk is full", f"{FILE}.part could not be written", "GUIDED_SAMPLE_CACHE"):
        obtain(FILE)
    assert len(mirror.seen) == 1


def test_what_went_onto_a_failing_disk_stays(cache: Path, mirror: Mirror) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with refused(f"{FILE}.part: File too large", "stays"):
            obtain(FILE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    there = (cache / f"{FILE}.part").read_bytes()
    assert there and CONTENT.startswith(there)
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges == [None, f"bytes={len(there)}-"]


def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", str(tmp_path / "file" / "cache"))
    with refused("Not a directory", "GUIDED_SAMPLE_CACHE"):
        obtain(FILE)
    assert mirror.seen == []


@pytest.fixture
def stored(cache: Path) -> Path:
    cache.mkdir()
    (cache / FILE).write_bytes(OTHER * 8)  # more than one piece
    return cache / FILE


DIGEST = hashlib.sha256(OTHER * 8).hexdigest()


def test_a_digest_is_recorded_as_sha256sum_does(stored: Path) -> None:
    assert checked_digest(stored) == DIGEST
    assert snapshot(stored.parent) == {FILE: OTHER * 8, f"{FILE}.sha256": f"{DIGEST}  {FILE}\n".encode()}
    if tool := shutil.which("sha256sum"):
        subprocess.run([tool, "-c", "--status", f"{FILE}.sha256"], cwd=stored.parent, check=True)


@pytest.mark.parametrize("record", [f"{DIGEST}  {FILE}\n", f"{DIGEST} *{FILE}", f"{DIGEST}  {FILE}\r\n"], ids=repr)
def test_a_recorded_digest_is_checked_and_left_alone(record: str, stored: Path) -> None:
    written = stored.with_name(f"{FILE}.sha256")
    written.write_bytes(record.encode())
    assert checked_digest(stored) == DIGEST and written.read_bytes() == record.encode()


def test_a_changed_file_is_refused_until_one_of_the_two_is_removed(stored: Path) -> None:
    checked_digest(stored)
    changed = OTHER * 8 + b"\0"
    stored.write_bytes(changed)
    digest = hashlib.sha256(changed).hexdigest()
    for _ in range(2):
        with refused(stored, digest[:12], DIGEST[:12], "remove it to download it again",
                     f"{FILE}.sha256 if the change is meant"):
            checked_digest(stored)
    stored.with_name(f"{FILE}.sha256").unlink()
    assert checked_digest(stored) == digest == checked_digest(stored)


@pytest.mark.parametrize("record", [
    "", "\n", DIGEST, f"{DIGEST[:-1]}  {FILE}\n", f"{DIGEST}0  {FILE}\n", f"{DIGEST}  other.pt\n", f"{'g' * 64}  {FILE}\n",
    2 * f"{DIGEST}  {FILE}\n", "\udcff"], ids=repr)
def test_a_damaged_record_is_refused(record: str, stored: Path) -> None:
    stored.with_name(f"{FILE}.sha256").write_bytes(record.encode(errors="surrogateescape"))
    with refused(stored.with_name(f"{FILE}.sha256"), "remove it"):
        checked_digest(stored)


@pytest.mark.parametrize("error", [UserError("No."), OSError(errno.EROFS, "Read-only file system")], ids=repr)
def test_a_cache_that_takes_no_record_is_usable(error: Exception, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def read_only(path: Path) -> Iterator[Path]:
        raise error
        yield path

    monkeypatch.setattr(download, "atomic_write", read_only)
    assert checked_digest(stored) == DIGEST
    assert obtain(FILE) == stored and list(snapshot(stored.parent)) == [FILE]


def test_a_missing_file_has_no_digest(cache: Path) -> None:
    with refused(cache / FILE, "No such file"):
        checked_digest(cache / FILE)


def test_hashing_shows_a_bar_only_where_it_takes_long(stored: Path, capsys: pytest.CaptureFixture[str], bar: type[Bar]) -> None:
    checked_digest(stored)
    assert capsys.readouterr().err == "" and [(made["total"], made["delay"]) for made in bar.made] == [(len(OTHER) * 8, 3)]
