"""DINOv2's position embedding, timm's pooled features, and what enters a judge's last layer."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from guided_sample.metrics import backbones
from guided_sample.metrics.backbones import judge_extractor, resampled
from guided_sample.metrics.extractors import extractor_named
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import to_x_0
from noisy_clf.errors import UserError
from noisy_clf.networks.timm_classifier import TimmClassifier
from noisy_clf.networks.timm_model import TimmConfig
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import tiny_classifier
from tests.guided_sample.metrics import inputs
from tests.reference import with_drawn_weights

CPU = torch.device("cpu")
SMALL = "vit_small_patch14_dinov2"  # DINOv2's smallest
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def as_the_hub(positions: Tensor) -> Tensor:
    """For 224 pixels, 16 patches of 14, from 37: what DINOv2's own program computes, its numbers written out."""
    grid = positions[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    factor = float((224 // 14 + 0.1) / 37.0)
    grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, 256, -1)], dim=1)


def cubic(side: int, new: int, factor: float) -> np.ndarray:
    """The weights [new,side] of bicubic interpolation with a = -3/4, where new pixel i lies at (i + 1/2) / factor - 1/2."""
    found, a = np.zeros((new, side)), -0.75
    for i in range(new):
        place = (i + 0.5) / factor - 0.5
        for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            x = abs(place - j)
            weight = (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1 if x <= 1 else a * (x ** 3 - 5 * x ** 2 + 8 * x - 4)
            found[i, min(max(j, 0), side - 1)] += weight
    return found


def test_positions_equal_the_hubs_to_the_last_bit() -> None:
    positions = drawn(1, 1 + 37 ** 2, 6)
    assert torch.equal(resampled(positions, 257), as_the_hub(positions))
    assert torch.equal(resampled(positions, 1370), positions)


def test_positions_are_bicubic_by_the_offset_factor() -> None:
    positions = drawn(1, 1 + 37 ** 2, 6)
    weights = cubic(37, 16, 16.1 / 37)
    expected = np.einsum("iy,jx,yxd->ijd", weights, weights, positions[0, 1:].unflatten(0, (37, 37)).double().numpy())
    found = resampled(positions, 257)
    np.testing.assert_allclose(found[0, 1:].unflatten(0, (16, 16)), expected, atol=2e-5)
    assert torch.equal(found[:, 0], positions[:, 0])


def test_dinov2_is_the_class_token_at_224_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the smallest of its family, from a file with positions for 518 pixels; the image as Pillow resizes it."""
    monkeypatch.setattr(backbones, "DINOV2", SMALL)
    torch.manual_seed(0)
    tensors = timm.create_model(SMALL).state_dict()
    tensors["pos_embed"] = drawn(*tensors["pos_embed"].shape)
    torch.save(tensors, tmp_path / "dinov2.pth")
    extractor, image = extractor_named(f"dinov2@{tmp_path / 'dinov2.pth'}", CPU), inputs.images(1, 1, 32)
    whole = timm.create_model(SMALL, img_size=224).eval()
    whole.load_state_dict(tensors | {"pos_embed": as_the_hub(tensors["pos_embed"])})
    resized = np.asarray(Image.fromarray(image[0]).resize((224, 224), Image.Resampling.BICUBIC))
    pixels = (torch.from_numpy(resized.copy()) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        expected = whole.forward_features(pixels.permute(2, 0, 1)[None])[:, 0]
    assert torch.equal(torch.from_numpy(extractor.extract(image)["pool"]), expected)
    assert (extractor.name, extractor.kinds) == ("dinov2", ("pool",))


def test_dinov2_is_its_large_one() -> None:
    assert backbones.DINOV2 == "vit_large_patch14_dinov2" and timm.get_pretrained_cfg(backbones.DINOV2).mean == MEAN


@pytest.mark.parametrize("model", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_timms_pooled_features(model: str, tmp_path: Path) -> None:
    """What enters the last layer, at the model's own size, mean and deviation; grey is repeated."""
    torch.manual_seed(0)
    whole = timm.create_model(model).eval()
    torch.save(whole.state_dict(), tmp_path / "model.pth")
    extractor = extractor_named(f"timm:{model}@{tmp_path / 'model.pth'}", CPU)
    grey = inputs.images(1, 2, 32)[..., :1]
    found, (side, trained) = extractor.extract(grey)["pool"], (160, whole.pretrained_cfg)
    resized = np.stack([np.asarray(Image.fromarray(image[..., 0]).resize((side, side), Image.Resampling.BICUBIC))
                        for image in grey])
    pixels = torch.from_numpy(resized)[:, None].expand(-1, 3, -1, -1) / 255
    mean, std = (torch.tensor(trained[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features((pixels - mean) / std), pre_logits=True)
    torch.testing.assert_close(torch.from_numpy(found), expected)
    assert extractor.name == f"timm:{model}" and found.shape == (2, whole.num_features)


def test_its_digest_follows_the_weights(tmp_path: Path) -> None:
    digests = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "model.pth")
        digests.append(extractor_named(f"timm:test_vit@{tmp_path / 'model.pth'}", CPU).digest)
    assert digests[0] == digests[1] != digests[2]


def test_unknown_models_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="timm has no model 'resnet51'; did you mean"):
        extractor_named("timm:resnet51", CPU)
    torch.save(timm.create_model("test_vit2").state_dict(), tmp_path / "model.pth")
    with pytest.raises(UserError, match="model.pth does not fit"):
        extractor_named(f"timm:test_vit@{tmp_path / 'model.pth'}", CPU)


def timm_judge(**settings: Any) -> NoisyClassifier:
    config = TimmConfig(name="test_vit", image_size=16, in_channels=1, num_classes=3, **settings)
    return NoisyClassifier(with_drawn_weights(TimmClassifier(config)), NoiseSchedule.named("cosine", 50), ("a", "b", "c"))


@pytest.mark.parametrize("judge, last", [
    (lambda: tiny_classifier(pool="attention"), "out.2.c_proj"), (lambda: tiny_classifier(pool="adaptive"), "out.3"),
    (lambda: tiny_classifier(pool="spatial"), "out.2"), (lambda: tiny_classifier(pool="spatial_v2"), "out.3"),
    (lambda: timm_judge(input_size=32), "backbone.head"), (lambda: timm_judge(time_conditional=False), "backbone.head")],
    ids=["attention", "adaptive", "spatial", "spatial_v2", "timm", "timm without time"])
def test_a_judges_features_through_its_last_layer_are_its_logits(judge, last: str) -> None:
    classifier = judge()
    size, layer = classifier.image_size, classifier.network.get_submodule(last)
    images = inputs.images(1, 3, size)[..., :1]
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    pool = torch.from_numpy(judge_extractor("own", classifier, "d" * 64, CPU).extract(images)["pool"])
    x_0 = to_x_0(torch.from_numpy(images).permute(0, 3, 1, 2))
    with torch.no_grad():
        logits = classifier(x_0, torch.zeros(3, dtype=torch.int64))
        torch.testing.assert_close(pool @ layer.weight.flatten(1).T + layer.bias, logits, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())  # it can still judge


def test_a_judge_of_other_images_is_refused() -> None:
    extractor = judge_extractor("own", tiny_classifier(), "d" * 64, CPU)
    assert (extractor.name, extractor.digest) == ("judge:own", "d" * 64)
    for images in (inputs.images(1, 2, 8), inputs.images(1, 2, 16)[..., :1]):
        with pytest.raises(UserError, match="the judge own looks at images of 8 x 8 pixels and 1 channels, and these have"):
            extractor.extract(images)
