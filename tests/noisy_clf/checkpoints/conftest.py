from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from noisy_clf import download
from tests.noisy_clf.checkpoints.mirror import Bar, Mirror, serving


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
    with serving() as server:
        monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", server.url)
        yield server


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> type[Bar]:
    monkeypatch.setattr(download, "tqdm", Bar)
    monkeypatch.setattr(Bar, "made", [], raising=False)
    return Bar
