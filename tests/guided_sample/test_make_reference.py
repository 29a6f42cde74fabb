"""make-reference, as people type it."""
from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guided_sample.cli import make_reference as module
from guided_sample.cli.make_reference import make_reference
from guided_sample.metrics.extractor import Extractor
from guided_sample.metrics.references import reference_named
from noisy_clf.datasets import load_dataset
from noisy_clf.errors import UserError
from tests.commands import assert_refused, invoke

PROJECTION = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)


def projected(images: np.ndarray) -> dict[str, np.ndarray]:
    return {"pool": images.reshape(len(images), -1)[:, :64] @ PROJECTION, "spatial": images[:, 0, :5, 0].astype(np.float32)}


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What extractors were asked for: none of them is a large one, or downloaded."""
    seen: list[tuple[Any, ...]] = []

    def small(name: str, device: torch.device, weights: Path | None = None) -> Extractor:
        seen.append((name, device.type, weights))
        kinds = ("pool", "spatial") if name == "inception" else ("pool",)
        return Extractor(name, hashlib.sha256(name.encode()).hexdigest(), kinds, projected)

    monkeypatch.setattr(module, "extractor_named", small)
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", str(tmp_path / "cache"))
    return seen


def made(*arguments: object) -> str:
    result = invoke(make_reference, *arguments, "--device", "cpu")
    assert result.exit_code == 0, result.output
    return result.output


def test_the_training_images_their_labels_and_moments(asked: list[tuple[Any, ...]]) -> None:
    assert "eval-samples SAMPLES --reference new/digits.npz" in made("digits", "new/digits.npz", "--image-size", 8)
    assert asked == [("inception", "cpu", None)]
    images, labels = load_dataset("digits", 8).train.whole()
    with np.load("new/digits.npz", allow_pickle=False) as found:
        assert set(found.files) == {"arr_0", "arr_1", "mu", "sigma", "mu_s", "sigma_s", "extractor", "extractor_digest",
                                    "moments_of"}
        np.testing.assert_array_equal(found["arr_0"], images.numpy().transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(found["arr_1"], labels.numpy())
        features = projected(found["arr_0"])
        np.testing.assert_allclose(found["mu"], features["pool"].mean(axis=0), rtol=1e-4)
        np.testing.assert_allclose(found["sigma"], np.cov(features["pool"].T), rtol=1e-4)
        np.testing.assert_allclose(found["sigma_s"], np.cov(features["spatial"].T), rtol=1e-4)
        assert found["mu_s"].shape == (5,) and found["mu"].dtype == np.float64
    reference = reference_named("new/digits.npz", 8, 1)
    assert reference.N == 1433 and reference.extractor == "inception"


def test_some_of_the_images_by_other_features(asked: list[tuple[Any, ...]]) -> None:
    made("digits", "few.npz", "--count", 60, "--features", "timm:small")
    assert asked[0][0] == "timm:small"
    with np.load("few.npz", allow_pickle=False) as found:
        assert found["arr_0"].shape == (60, 16, 16, 1) and len(set(found["arr_1"])) == 10
        assert found["extractor"] == "timm:small" and found["moments_of"] == 60 and "mu_s" not in found.files


def test_images_without_classes() -> None:
    Path("photos").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (12, 9, 11, 3), np.uint8)):
        Image.fromarray(image).save(f"photos/{i}.png")
    made("photos", "photos.npz", "--image-size", 8)
    with np.load("photos.npz", allow_pickle=False) as found:
        assert found["arr_0"].shape == (10, 8, 8, 3) and "arr_1" not in found.files  # every tenth is held out


def test_what_was_stopped_leaves_nothing_half_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **more: object) -> None:
        raise UserError("stopped while it was written.")

    with monkeypatch.context() as patched:
        patched.setattr("guided_sample.metrics.references.npy.write_array", stopped)
        assert_refused(invoke(make_reference, "digits", "digits.npz", "--image-size", 8, "--device", "cpu"), "stopped while")
    assert not list(Path().glob("*.npz*")) and not list(Path().glob(".*.npz*"))
    made("digits", "digits.npz", "--image-size", 8)


@pytest.mark.parametrize("arguments, words", [
    (["nosuch", "out.npz"], ["there is no dataset 'nosuch'"]),
    (["digits", "out"], ["does not end in .npz", "out.npz"]),
    (["digits", "there.npz"], ["there.npz is there already"]),
    (["digits", "there.npz/out.npz"], ["there.npz"]),
    (["imagenet64", "out.npz", "--image-size", "32"], ["64 pixels a side, not 32"]),
    (["digits", "out.npz", "--features", "nosuch"], ["nosuch", "inception", "dinov2"]),
    (["digits", "out.npz", "--features", "judge"], ["a judge's features"]),
    (["digits", "out.npz", "--count", "1434"], ["1433 images, and 1434"]),
    (["digits", "out.npz", "--count", "1"], ["--count"])])
def test_what_cannot_be_made(arguments: list[str], words: list[str]) -> None:
    Path("there.npz").touch()
    assert_refused(invoke(make_reference, *arguments), *words)
    assert not Path("out.npz").exists() and Path("there.npz").stat().st_size == 0


def test_images_are_refused_before_a_network_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guided_sample.cli.make_reference.extractor_named", lambda *_: pytest.fail("fetched"))
    assert_refused(invoke(make_reference, "digits", "out.npz", "--image-size", 4), "4 would be smaller")
