"""What samples are compared with, by name or path."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guided_sample.manifest import Manifest
from guided_sample.metrics.extractor import Extractor
from guided_sample.metrics.pictures import pictures_at, pictures_of
from guided_sample.metrics.references import (
    PUBLISHED, archive_reference, implied_reference, reference_named, refuse_misfit, write_reference)
from guided_sample.released import MODELS
from noisy_clf import download
from noisy_clf.datasets import load_dataset
from noisy_clf.datasets.digits import digits
from tests.conftest import stored, tiny_denoiser
from tests.noisy_clf.checkpoints.mirror import Mirror, refused, serving

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 64, 64, 3), np.uint8)
MOMENTS: dict[str, Any] = {"mu": RNG.normal(size=4).astype(np.float32), "sigma": np.cov(RNG.normal(size=(4, 9))),
                           "mu_s": RNG.normal(size=5).astype(np.float32), "sigma_s": np.cov(RNG.normal(size=(5, 9)))}


def means(images: np.ndarray) -> dict[str, np.ndarray]:
    """Features that are little work: of each image its rows' means, and of the first column."""
    return {"pool": images.mean(axis=(2, 3), dtype=np.float32), "spatial": images[:, :, 0].mean(axis=2, dtype=np.float32)}


INCEPTION = Extractor("inception", "ab" * 32, ("pool", "spatial"), means, batch_size=7)
OTHER = Extractor("timm:other", "cd" * 32, ("pool",), means)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "BACKOFF", 0)
    return tmp_path / "cache"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    with serving() as server:
        monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", server.url)
        yield server


def in_bytes(**arrays: Any) -> bytes:
    file = BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npz(**arrays: Any) -> str:
    Path("reference.npz").write_bytes(in_bytes(**arrays))
    return "reference.npz"


def saved(*names: str, size: int = 8) -> str:
    for name, image in zip(names, IMAGES):
        Path("folder", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:size, :size]).save(Path("folder", name))
    return "folder"


# ADM's


def test_a_published_reference_is_downloaded_once_and_goes_on_where_it_broke(mirror: Mirror, cache: Path) -> None:
    mirror.content = in_bytes(arr_0=IMAGES, **MOMENTS)
    mirror.steps = [{"cut": 5000}]
    found = reference_named("imagenet64", 64, 3)
    assert mirror.ranges == [None, "bytes=5000-"]
    assert mirror.paths == ["/models/ref_batches/imagenet/64/VIRTUAL_imagenet64_labeled.npz"] * 2
    assert found.pictures is not None and found.pictures.cache.is_relative_to(cache)
    np.testing.assert_array_equal(found.pictures.read(range(6)), IMAGES)
    for kind, mu, sigma in (("pool", "mu", "sigma"), ("spatial", "mu_s", "sigma_s")):
        np.testing.assert_array_equal(found.moments[kind].mean, MOMENTS[mu])
        np.testing.assert_array_equal(found.moments[kind].covariance, MOMENTS[sigma])
        assert found.moments[kind].mean.dtype == np.float64
    assert (found.name, found.N) == ("imagenet64", None)  # its moments are of more images than it has
    assert found.digest == hashlib.sha256(mirror.content).hexdigest()
    assert reference_named("imagenet64", 64, 3).digest == found.digest and len(mirror.paths) == 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_reference_has_its_place(mirror: Mirror, name: str) -> None:
    mirror.content = in_bytes(**MOMENTS)
    reference_named(name, PUBLISHED[name].image_size, 3)
    kind, what = name.split("-") if "-" in name else ("imagenet", name.removeprefix("imagenet"))
    assert [path.rpartition("/")[0] for path in mirror.paths] == [f"/models/ref_batches/{kind}/{what}"]
    assert mirror.paths[0].endswith(".npz") and what in mirror.paths[0].rpartition("/")[2]


def test_a_published_reference_of_another_size_is_not_downloaded(mirror: Mirror) -> None:
    with refused("64 x 64 pixels", "imagenet256 256 x 256", "--image-size 64"):
        reference_named("imagenet256", 64, 3)
    with refused("1 channel,", "3 channels", "in RGB"):
        reference_named("imagenet64", 64, 1)
    assert not mirror.paths


def test_a_published_reference_that_changed_is_refused(mirror: Mirror, cache: Path) -> None:
    mirror.content = in_bytes(**MOMENTS)
    reference_named("lsun-cat", 256, 3)
    (cache / PUBLISHED["lsun-cat"].file).write_bytes(in_bytes(**MOMENTS, more=1))
    with refused("when it was first used"):
        reference_named("lsun-cat", 256, 3)


# files


def test_moments_without_images_and_images_without_moments() -> None:
    found = reference_named(npz(mu=MOMENTS["mu"], sigma=MOMENTS["sigma"]), 64, 3)
    assert found.pictures is None and set(found.moments) == {"pool"} and found.N is None
    found = reference_named(npz(arr_0=IMAGES), 64, 3)
    assert found.pictures is not None and found.moments == {} and found.N == 6


@pytest.mark.parametrize("arrays, words", [
    ({"other": IMAGES}, ["no arr_0 but other"]),
    ({"mu": MOMENTS["mu"]}, ["mu [4]", "sigma [d,d]"]),
    ({"mu": MOMENTS["mu"], "sigma": MOMENTS["sigma_s"]}, ["mu [4], sigma [5, 5]"]),
    ({"mu_s": MOMENTS["mu"], "sigma_s": MOMENTS["sigma"].astype(int)}, ["of floats"]),
    ({"mu": MOMENTS["mu"], "sigma": MOMENTS["sigma"] * np.nan}, ["NaN or infinite"]),
    ({"mu": MOMENTS["mu"], "sigma": MOMENTS["sigma"], "extractor": 3}, ["in extractor something else than a text"]),
    ({"arr_0": IMAGES.astype(float)}, ["float64", "convert them first"])])
def test_a_file_of_something_else_is_refused(arrays: dict[str, Any], words: list[str]) -> None:
    path = npz(**arrays)
    with refused(path, *words):
        reference_named(path, 64, 3)


def test_stored_moments_serve_the_extractor_that_they_are_of_alone() -> None:
    adm = archive_reference(Path(npz(**MOMENTS)), "adm")
    assert adm.moments_by(INCEPTION) is adm.moments
    with refused("adm has moments of inception", "timm:other", "arr_0"):
        adm.moments_by(OTHER)
    own = {"extractor": OTHER.name, "extractor_digest": OTHER.digest}
    ours = archive_reference(Path(npz(**MOMENTS, **own)), "ours")
    assert ours.moments_by(OTHER) is ours.moments
    with refused("ours has moments of timm:other", "(cdcdcdcdcdcd)", "(abababababab)"):
        ours.moments_by(INCEPTION)
    with_images = archive_reference(Path(npz(arr_0=IMAGES, **MOMENTS, **own)), "both")
    assert with_images.moments_by(INCEPTION) == {}  # to be computed


def test_a_written_reference_read_again_has_the_moments_of_its_images() -> None:
    pictures = pictures_of(digits(8), 100)
    write_reference(Path("out.npz"), pictures, INCEPTION)
    found = reference_named("out.npz", 8, 1)
    assert (found.N, found.extractor, found.extractor_digest) == (100, "inception", INCEPTION.digest)
    assert found.pictures is not None and found.pictures.labels is not None and pictures.labels is not None
    images = found.pictures.read(range(100))
    np.testing.assert_array_equal(images, pictures.read(range(100)))
    np.testing.assert_array_equal(found.pictures.labels, pictures.labels)
    for kind, features in means(images).items():
        stored_moments = found.moments_by(INCEPTION)[kind]
        np.testing.assert_allclose(stored_moments.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-12)
        np.testing.assert_allclose(stored_moments.covariance, np.cov(features.astype(np.float64).T), rtol=1e-9, atol=1e-9)
    with np.load("out.npz", allow_pickle=False) as plain:  # as ADM's evaluator reads it
        assert plain["arr_0"].shape == (100, 8, 8, 1) and plain["sigma_s"].shape == (8, 8)


def test_written_twice_it_has_the_same_bytes() -> None:
    pictures = pictures_of(digits(8), 50)
    for name in ("one.npz", "two.npz"):
        write_reference(Path(name), pictures, INCEPTION)
    assert Path("one.npz").read_bytes() == Path("two.npz").read_bytes()


# folders and datasets


def test_a_folder_of_pictures_is_as_it_is_and_a_dataset_cut_to_size() -> None:
    folder = saved("a/0.png", "a/1.png", "b/0.png", "b/1.png")
    found = reference_named(folder, 4, 3)
    assert found.pictures is not None and found.pictures.shape == (8, 8, 3) and found.N == 4
    found = reference_named(f"dataset:{folder}", 4, 3)
    assert found.pictures is not None and found.pictures.shape == (4, 4, 3) and found.N == 2  # one of each class is held out
    assert found.pictures.class_names == ("a", "b")
    found = reference_named(f"dataset:{folder}", 4, 1)
    assert found.pictures is not None and found.pictures.shape == (4, 4, 1)


def test_a_folder_with_splits_is_a_dataset_and_one_without_classes_too() -> None:
    found = reference_named(saved("train/0.png", "train/1.png", "train/2.png", "val/0.png"), 8, 3)
    assert found.pictures is not None and found.pictures.labels is None and found.N == 3
    np.testing.assert_array_equal(found.pictures.read(range(3)), IMAGES[:3, :8, :8])


def test_a_dataset_by_name_is_its_training_images_at_the_samples_size() -> None:
    found = reference_named("digits", 10, 1)
    expected = pictures_of(load_dataset("digits", 10))
    assert (found.N, found.digest, found.moments) == (1433, expected.digest, {})
    assert found.pictures is not None and found.pictures.shape == (10, 10, 1)


def test_imagenet64_is_adms_and_the_dataset_of_that_name_has_to_be_asked_for(mirror: Mirror) -> None:
    with refused("data/imagenet64 has none of the files of down-sampled ImageNet"):
        reference_named("dataset:imagenet64", 64, 3)
    with refused("here has none of the files"):
        reference_named("imagenet64", 64, 3, data=Path("here"))
    with refused("imagenet64 64 x 64"):
        reference_named("dataset:imagenet64", 32, 3)
    assert not mirror.paths


def test_no_reference_of_that_name() -> None:
    with refused("there is no reference 'nosuch'", "imagenet256", "digits", "an .npz file"):
        reference_named("nosuch", 8, 3)
    with refused("there is no dataset 'nosuch'"):
        reference_named("dataset:nosuch", 8, 3)


def test_samples_that_do_not_fit_are_refused() -> None:
    samples = pictures_at(Path(saved("0.png", "1.png")))
    refuse_misfit(samples.name, samples.shape, reference_named("folder", 8, 3))
    refuse_misfit(samples.name, samples.shape, reference_named(npz(**MOMENTS), 8, 3))  # has no size
    with refused("folder have 8 x 8 pixels and 3 channels", "reference.npz 64 x 64", "make-reference", "--image-size 8"):
        refuse_misfit(samples.name, samples.shape, reference_named(npz(arr_0=IMAGES), 8, 3))
    with refused("folder have 8 x 8 pixels and 3 channels", "digits 8 x 8 pixels and 1 channel", "in RGB"):
        refuse_misfit(samples.name, samples.shape, reference_named("digits", 8, 3))


# implied


def drawn_by(**request: str) -> Manifest:
    return Manifest(request, {name: "00" for name in request}, {})


@pytest.mark.parametrize("model, reference", [
    ("digits", "digits"), ("digits-cond", "digits"), ("imagenet256-uncond", "imagenet256"), ("imagenet64", "imagenet64"),
    ("lsun-horse-nodropout", "lsun-horse"), ("lsun-cat", "lsun-cat"), ("nosuch", None)])
def test_what_a_models_samples_are_compared_with(model: str, reference: str | None) -> None:
    assert implied_reference(drawn_by(model=model)) == reference


def test_every_released_model_implies_a_published_reference_of_its_size() -> None:
    from noisy_clf.checkpoints.released import DENOISERS

    for name in MODELS:
        found = implied_reference(drawn_by(model=name))
        assert found is not None and PUBLISHED[found].image_size == DENOISERS[name].settings["image_size"]


def test_enlarged_samples_are_compared_at_their_own_size() -> None:
    assert implied_reference(drawn_by(model="imagenet64", upsample="imagenet64-256")) == "imagenet256"
    assert implied_reference(Manifest({"model": "imagenet64"}, {"model": "00", "upsample": "00"}, {})) is None  # of 3d14213


def test_a_training_run_implies_what_it_was_trained_on() -> None:
    for dataset, reference in (("cifar10", "cifar10"), ("imagenet64", "dataset:imagenet64"),
                               ("/photos", "dataset:/photos"), (3, None)):
        folder = stored(tiny_denoiser(), Path("run/best"), training={"dataset": dataset})
        assert implied_reference(drawn_by(model=str(folder.parent))) == reference
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "training"}))
    assert implied_reference(drawn_by(model="run")) is None
