"""Downloads: in one go, in pieces, resumed."""
from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import Request

import pytest

from noisy_clf.errors import UserError
from noisy_clf import download
from noisy_clf.checkpoints.cache import SOURCE, cache_folder, cached, obtain
from tests.noisy_clf.checkpoints.mirror import CONTENT, FILE, OTHER, START, V1, Mirror, assert_whole, eventually, leave, refused


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


SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.mark.parametrize("digest", [None, SHA256, f"md5:{hashlib.md5(CONTENT).hexdigest()}"])
def test_any_file_is_downloaded_from_the_first_url_that_gives_it(digest: str | None, cache: Path, mirror: Mirror) -> None:
    mirror.steps = [{"status": 404}, {"status": 503}, {"cut": 1000}, {"cut": 0}]
    urls = [f"{mirror.url}/{i}" for i in range(4)]
    for _ in range(2):  # then it is there
        download.download(urls, cache / FILE, digest)
        assert_whole(cache)
    assert [path[-1] for path in mirror.paths] == ["0", "1", "2", "2", "3"] and mirror.ranges[-1] == "bytes=1000-"


def test_a_file_of_another_digest_is_replaced_and_never_kept(cache: Path, mirror: Mirror) -> None:
    leave(cache, START, V1)
    (cache / FILE).write_bytes(OTHER)
    mirror.content = OTHER
    with refused("the set could not be downloaded (", f"{mirror.url}/a gives a corrupted or another file, of sha256:", SHA256,
                 f"by hand: download {mirror.url}/a on another machine and put it at {cache / FILE} or leave it."):
        download.download([f"{mirror.url}/{i}" for i in "ab"], cache / FILE, SHA256, "the set", " or leave it")
    assert not (cache / f"{FILE}.part").exists() and mirror.ranges == ["bytes=1000-", None]
    mirror.content = CONTENT
    download.download([mirror.url], cache / FILE, SHA256)
    assert_whole(cache)


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
    process = subprocess.Popen([sys.executable, "-c", f"from noisy_clf.checkpoints.cache import obtain; obtain({FILE!r})"],
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


@pytest.mark.parametrize("kind", [{"slow": True}, {"cut": 1}], ids=["one connection", "many"])
def test_a_server_that_sends_a_byte_at_a_time_is_given_up(
        kind: dict, cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MINUTE", 0.4)
    mirror.always |= kind
    with refused(f"{mirror.url}/{FILE} could not be downloaded (only ", "B came in 0 seconds, so that it would never end; try",
                 "B of 300kB are in", "the same command goes on from there"):
        obtain(FILE)
    come = (cache / f"{FILE}.part").read_bytes()
    assert 0 < len(come) < 1000 and CONTENT.startswith(come)
    mirror.always = {"tags": V1}
    obtain(FILE)
    assert_whole(cache)
    assert mirror.ranges[-1] == f"bytes={len(come)}-"


def test_a_slow_server_that_gets_on_is_waited_for(cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MINUTE", 0.5)
    monkeypatch.setattr(download, "LEAST", 5)
    mirror.content = CONTENT[:100]
    mirror.always |= {"slow": True}
    obtain(FILE)
    assert_whole(cache, CONTENT[:100])
    assert len(mirror.seen) == 1
