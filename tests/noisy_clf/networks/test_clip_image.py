from __future__ import annotations

import copy
import json
import sys
from dataclasses import asdict
from functools import cache
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from noisy_clf.checkpoints.model_folder import config_from, save_model
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.errors import UserError
from noisy_clf.loaders.encoder import load_encoder
from noisy_clf.networks.clip_image import ClipImageConfig, ClipImageTower
from noisy_clf.schedule import NoiseSchedule

VIT = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
TOWERS: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "vit of other settings": VIT | {"pool_type": "avg", "ls_init_value": 0.5, "no_ln_pre": True, "scale_fc": True},
    "pooled by attention": VIT | {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "timm's vit": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"},
    "timm's convnext": {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "mlp"}}
T = torch.tensor([7, 300, 999])
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def config(tower: str = "vit", **settings: Any) -> ClipImageConfig:
    return ClipImageConfig(**{
        "image_size": 16, "in_channels": 3, "embed_dim": 24, "vision": TOWERS[tower], "quick_gelu": tower == "resnet",
        "mean": MEAN, "std": STD, **settings})


def drawn(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.05)


@cache
def built(tower: str, **settings: Any) -> ClipImageTower:
    """Made once; not to be changed. Its time layers matter."""
    torch.manual_seed(0)
    network = ClipImageTower(config(tower, **settings)).eval()
    drawn(network)
    return network


def images(channels: int = 3) -> Tensor:
    return torch.rand(3, channels, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1


def as_open_clip_sees(x_t: Tensor, size: int) -> Tensor:
    x = F.interpolate((x_t + 1) / 2, size=(size, size), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def open_clips(network: ClipImageTower) -> Any:
    """The same image tower within one of open_clip's dual encoders."""
    text = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    config = network.config
    model = open_clip.CustomTextCLIP(config.embed_dim, config.vision, text, quick_gelu=config.quick_gelu)
    model.visual.load_state_dict(network.backbone.state_dict())
    return model.eval()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("tower", TOWERS)
def test_not_told_the_time_it_is_open_clips_own_tower(tower: str, channels: int) -> None:
    network = built(tower, time_conditional=False, in_channels=channels)
    model, x_t = open_clips(network), images(channels)
    seen = network.features(x_t, T)
    x = as_open_clip_sees(x_t, network.config.size)
    assert_close(seen.embedding, model.encode_image(x))
    assert torch.equal(seen.embedding, network(x_t, T.flip(0))) and seen.embedding.shape == (3, 24)
    theirs = model.visual.forward_intermediates(x, intermediates_only=True)["image_intermediates"]
    assert len(seen.maps) == len(theirs) > 1
    for ours, expected in zip(seen.maps, theirs):
        assert_close(ours, expected)
    assert all(name.startswith("backbone.") for name in network.state_dict())


@pytest.mark.parametrize("tower", TOWERS)
def test_it_starts_as_the_tower_whatever_the_time(tower: str) -> None:
    torch.manual_seed(0)
    network = ClipImageTower(config(tower)).eval()
    assert len(network.modulations) > 1
    assert_close(network(images(), T), open_clips(network).encode_image(as_open_clip_sees(images(), network.config.size)))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("tower", TOWERS)
def test_features_and_gradients_are_each_samples_own(tower: str, train: bool) -> None:
    network, x_t = copy.deepcopy(built(tower)).train(train), images()

    def seen(x_t: Tensor, t: Tensor) -> list[Tensor]:
        maps, embedding = network.features(x_t.requires_grad_(), t)
        slope = torch.autograd.grad(embedding.square().sum() + sum(found.square().mean(dim=(1, 2, 3)).sum() for found in maps),
                                    x_t)[0]
        return [*maps, embedding, slope]

    whole, other = seen(x_t, T), seen(x_t, torch.tensor([7, 301, 999]))
    singles = [seen(x_t[i:i + 1].detach(), T[i:i + 1]) for i in range(3)]
    for place, (one, changed) in enumerate(zip(whole, other)):
        near = {"atol": 1e-5 * float(one.detach().abs().max()), "rtol": 1e-4}
        assert_close(one, torch.cat([single[place] for single in singles]), **near)
        assert_close(changed[[0, 2]], one[[0, 2]], **near)
        assert (changed[1] - one[1]).abs().max() > 1e-4 * one.abs().max()


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_nothing_in_training_is_drawn_or_counted(tower: str) -> None:
    network = copy.deepcopy(built(tower)).train()
    if tower == "vit":
        network = ClipImageTower(config(vision=VIT | {"patch_dropout": 0.5})).train()
    before = copy.deepcopy(dict(network.named_buffers()))
    assert torch.equal(network(images(), T), network(images(), T))
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert bool(norms) == (tower == "resnet")


@pytest.mark.parametrize("tower", TOWERS)
def test_a_saved_encoder_is_loaded_with_the_same_features(tower: str, tmp_path: Any) -> None:
    network, text = built(tower), {"tower": "clip:somewhere", "digest": "0" * 64}
    encoder = NoisyEncoder(network, NoiseSchedule.named("cosine", 100), text)
    save_model(tmp_path / "model", encoder.config(), network, {})
    loaded = load_encoder(tmp_path / "model")
    assert loaded.clean is False and loaded.encoder.text == text and not loaded.encoder.training
    assert json.loads(json.dumps(loaded.config)) == json.loads((tmp_path / "model" / "config.json").read_text())
    assert loaded.encoder.space.image_size == 16 and loaded.encoder.schedule.same_as(encoder.schedule)
    tensors = [*loaded.encoder.parameters(), *loaded.encoder.buffers()]
    assert not any(tensor.is_meta or tensor.requires_grad for tensor in tensors)
    seen, expected = loaded.encoder.features(images().requires_grad_(), T), encoder.features(images(), T)
    for ours, theirs in zip([*seen.maps, seen.embedding], [*expected.maps, expected.embedding]):
        assert_close(ours, theirs)


@pytest.mark.parametrize("tower", TOWERS)
def test_under_autocast_features_are_float32_and_near(tower: str) -> None:
    network = built(tower)
    with torch.no_grad():
        exact = network.features(images(), T)
        with torch.autocast("cpu", torch.bfloat16):
            half = network.features(images(), T)
    for ours, theirs in zip([*half.maps, half.embedding], [*exact.maps, exact.embedding]):
        assert ours.dtype == torch.float32
        assert 0 < (ours - theirs).norm() < 0.05 * theirs.norm()


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_a_compiled_tower_is_the_same(tower: str) -> None:
    network = built(tower)
    compiled: Any = torch.compile(network.features, backend="eager", fullgraph=True)
    for t in (T, T.flip(0)):
        assert_close(compiled(images(), t).embedding, network.features(images(), t).embedding)


def test_a_configuration_survives_json() -> None:
    whole = config("resnet", in_channels=1)
    assert config_from(ClipImageConfig, json.loads(json.dumps(asdict(whole))), "here") == whole


@pytest.mark.parametrize("settings, sentence", [
    ({"in_channels": 2}, "see colour images, or grey ones, not 2 channels"),
    ({"image_size": 0}, "image_size must be a whole number"), ({"embed_dim": 0}, "embed_dim must be a whole number"),
    ({"vision": VIT | {"image_size": [32, 16]}}, "input_size must be a whole number"),
    ({"vision": VIT | {"image_size": []}}, "input_size must be a whole number"),
    ({"mean": (0.5,)}, "mean has 1 values for 3 colours"), ({"std": (1.0, 0.0, 1.0)}, "std must be positive")])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config(**settings)


@pytest.mark.parametrize("vision, sentence", [
    ({"depth": 3}, "open_clip cannot make an image tower .*depth"),
    ({"pool_type": "none"}, "does not return one embedding of 24 numbers"),
    ({"width": 33}, "open_clip cannot make an image tower"),
    ({"timm_model_name": "hf-hub:somebody/something"}, "timm has no model 'hf-hub:somebody/something'"),
    ({"timm_model_name": "vit_tiny_patch16_224"}, r"open_clip cannot make an image tower .*\(224\)")])
def test_towers_that_cannot_be_are_refused(vision: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        ClipImageTower(config(vision=VIT | vision))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_no_configuration_makes_it_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*arguments: Any, **settings: Any) -> Any:
        raise AssertionError("a download")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    ClipImageTower(config(vision=TOWERS["timm's vit"] | {"timm_model_pretrained": True}))


def test_without_open_clip_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"open_clip_torch, which cannot be imported .*pip install open_clip_torch"):
        ClipImageTower(config())
