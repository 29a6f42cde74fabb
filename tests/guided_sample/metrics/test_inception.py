"""Features equal those of the 2015 graph under TensorFlow, through the same random network."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from guided_sample.metrics import inception
from guided_sample.metrics.extractor import Extractor
from guided_sample.metrics.extractors import extractor_named
from noisy_clf.download import digest_of
from noisy_clf.errors import UserError
from tests.guided_sample.metrics import inputs, random_inception

VECTORS = np.load(Path(__file__).parents[2] / "data" / "evaluator" / "eval_graph_vectors.npz")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of random weights that counts as the published one."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(random_inception.state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "DIGEST", digest_of(path, "sha256").removeprefix("sha256:")[:8])
        yield path


@pytest.fixture(scope="module")
def extractor(weights: Path) -> Extractor:
    return extractor_named("inception", CPU, weights)


@pytest.mark.parametrize("images, pool, spatial", [
    ("ref_arr_0", "pool_ref", "spatial_ref_8"), ("sam_arr_0", "pool_sam", "spatial_sam_8")])
def test_features_equal_tensorflows(extractor: Extractor, images: str, pool: str, spatial: str) -> None:
    """To 1e-5 of the largest. Padding counted in the means, or a mean in the last block's pool, is off by 4e-2."""
    found = extractor.extract(VECTORS[images][:8])
    for kind, theirs in (("pool", VECTORS[pool]), ("spatial", VECTORS[spatial])):
        np.testing.assert_allclose(found[kind][:len(theirs)], theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
        assert found[kind].dtype == np.float32


def test_the_softmax_layer_is_handed_on_without_its_bias(extractor: Extractor) -> None:
    weight, _ = inputs.softmax_layer()
    assert extractor.softmax is not None and np.array_equal(extractor.softmax, weight.T)


@pytest.mark.filterwarnings("error")
def test_grey_counts_as_a_colour_of_three_equal_channels(extractor: Extractor) -> None:
    grey = inputs.images(3, 1, 8)[..., :1]
    grey.flags.writeable = False  # as what is mapped to a file
    one, three = (extractor.extract(images) for images in (grey, np.broadcast_to(grey, (1, 8, 8, 3))))
    assert all(np.array_equal(one[kind], three[kind]) for kind in ("pool", "spatial"))


def test_its_digest_is_the_files(extractor: Extractor, weights: Path) -> None:
    assert f"sha256:{extractor.digest}" == digest_of(weights, "sha256")


def test_another_file_is_refused(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"other.pth has the SHA-256 .* but FID is defined by weights-inception"):
        extractor_named("inception", CPU, other)
    with pytest.raises(UserError, match="absent.pth: No such file"):
        extractor_named("inception", CPU, tmp_path / "absent.pth")


def test_a_tensor_too_few_is_refused(weights: Path, tmp_path: Path) -> None:
    lacking = {name: tensor for name, tensor in torch.load(weights, weights_only=True).items() if name != "fc.bias"}
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(UserError, match="1 missing tensor, such as fc.bias"):
        inception.load(tmp_path / "lacking.pth")


def test_the_weights_come_from_the_mirror_else_from_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def download(urls: list[str], path: Path, hint: str) -> None:
        asked.append(urls)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"weights")

    monkeypatch.setattr(inception, "download", download)
    for cache, mirror in (("one", ""), ("two", "https://host/folder")):
        monkeypatch.setenv("GUIDED_SAMPLE_CACHE", str(tmp_path / cache))
        monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", mirror)
        for _ in range(2):  # the second time it is there
            assert inception.obtain_weights() == tmp_path / cache / "weights-inception-2015-12-05-6726825d.pth"
    github = ("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth")
    assert asked == [[github], ["https://host/folder/weights-inception-2015-12-05-6726825d.pth", github]]
