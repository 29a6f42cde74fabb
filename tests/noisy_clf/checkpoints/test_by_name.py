"""How a classifier knows its denoiser again."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noisy_clf.checkpoints.by_name import denoiser_record, same_denoiser
from noisy_clf.checkpoints.model_folder import BUNDLED, WEIGHTS, file_digest
from noisy_clf.errors import UserError
from tests.conftest import stored, tiny_denoiser


def test_a_bundled_or_a_released_denoiser_is_recorded_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert denoiser_record("digits") == {
        "name": "digits", "digest": file_digest(BUNDLED / "digits/denoiser" / WEIGHTS), "run": False}
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", "cache")
    assert denoiser_record("imagenet64") == {"name": "imagenet64", "digest": None, "run": False}
    Path("cache").mkdir()
    Path("cache/64x64_diffusion.pt").write_bytes(b"weights")
    assert denoiser_record("imagenet64")["digest"] == file_digest(Path("cache/64x64_diffusion.pt"))


def test_a_folder_is_recorded_without_its_path_and_a_run_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = file_digest(stored(tiny_denoiser(), Path("runs/photos/best")) / WEIGHTS)
    run = {"name": "photos", "digest": digest, "run": True}
    for path in ("runs/photos", "runs/photos/", "runs/photos/best", Path("runs/photos").absolute()):
        assert denoiser_record(path) == run
    monkeypatch.chdir("runs/photos")
    assert denoiser_record(".") == denoiser_record("best") == run
    stored(tiny_denoiser(), Path("copied"))
    assert denoiser_record("copied") == {"name": "copied", "digest": digest, "run": False}
    Path("copied", WEIGHTS).unlink()
    assert denoiser_record("copied")["digest"] is None
    with pytest.raises(UserError, match="there is no denoiser 'nosuch'"):
        denoiser_record("nosuch")


@pytest.mark.parametrize("record, same", [
    ({"name": "b", "digest": "1", "run": False}, True), ({"name": "a", "digest": "2", "run": True}, True),
    ({"name": "a", "digest": "2", "run": False}, False), ({"name": "b", "digest": "2", "run": True}, False),
    ({"name": "a", "digest": None}, False), ({}, False), (None, False), ("a", False)])
def test_a_run_is_known_by_its_weights_or_its_name(record: Any, same: bool) -> None:
    assert same_denoiser(record, {"name": "a", "digest": "1", "run": True}) is same


def test_what_is_no_run_is_known_by_its_weights_alone() -> None:
    assert not same_denoiser({"name": "a", "digest": "2", "run": True}, {"name": "a", "digest": "1", "run": False})
    assert not same_denoiser({"name": "a", "digest": None, "run": False}, {"name": "a", "digest": None, "run": False})
