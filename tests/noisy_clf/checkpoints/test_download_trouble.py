"""What ends a download, and what is told then; several that want one file."""
from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from noisy_clf.errors import UserError
from noisy_clf import download
from noisy_clf.checkpoints.cache import cached, obtain
from tests.commands import assert_refused, run
from tests.noisy_clf.conftest import snapshot
from tests.noisy_clf.checkpoints.mirror import CONTENT, FILE, START, V1, Bar, Mirror, assert_whole, eventually, leave, refused


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
    command = [sys.executable, "-c", f"from noisy_clf.checkpoints.cache import obtain; print(obtain({FILE!r}))"]
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


def test_the_list_of_models_tells_of_an_unusable_mirror_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", "bad")
    assert_refused(run("--list-models"), "GUIDED_SAMPLE_MIRROR is 'bad', which is not a plain URL of a folder")
