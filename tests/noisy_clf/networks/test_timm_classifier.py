from __future__ import annotations

import copy
import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from guided_sample.guides.classifier import log_prob
from noisy_clf.checkpoints.model_folder import config_from, save_model
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier
from noisy_clf.networks.batch_norm import groups_of
from noisy_clf.networks.encoder_unet import EncoderUNet
from noisy_clf.networks.timm_classifier import TimmClassifier
from noisy_clf.networks.timm_model import TimmConfig
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.draws import Draws
from tests.noisy_clf.conftest import tiny_network

SMALL = ["test_resnet", "test_convnext", "test_vit", "test_efficientnet", "test_mambaout", "test_maxvit"]
FAMILIES = SMALL + ["mobilenetv3_small_050", "gmlp_ti16_224", "regnetx_002", "levit_128s", "swin_tiny_patch4_window7_224"]
T = torch.tensor([7, 300, 999])


def config(name: str, **settings: Any) -> TimmConfig:
    return TimmConfig(**{"name": name, "image_size": 64 if name == "test_maxvit" else 32, "in_channels": 3, "num_classes": 5,
                         **settings})


@cache
def built(name: str, **settings: Any) -> TimmClassifier:
    """Made once, as that takes most of the time; not to be changed."""
    torch.manual_seed(0)
    return TimmClassifier(config(name, **settings)).eval()


def told_the_time(name: str, **settings: Any) -> TimmClassifier:
    """A network whose time layers matter, in evaluation mode."""
    network = copy.deepcopy(built(name, **settings))
    generator = torch.Generator().manual_seed(1)
    last = network.backbone.get_classifier()  # which begins at 0 in some models, and is two in others
    for module in [network.modulations, *(last if isinstance(last, tuple) else [last])]:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.05, generator=generator)
    return network


def images(network: TimmClassifier, count: int = 3) -> Tensor:
    shape = (count, network.config.in_channels, network.config.image_size, network.config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(2)) * 2 - 1


def gradient(network: TimmClassifier, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
    x = x_t.clone().requires_grad_()
    return torch.autograd.grad(network(x, t).log_softmax(dim=1).gather(1, y[:, None]).sum(), x)[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_at_the_start_it_is_timms_own_classifier_to_the_bit(name: str) -> None:
    network = built(name, batch_norm="frozen")
    known = timm.get_pretrained_cfg(name)
    size = {"img_size": network.config.size} if known.fixed_input_size else {}
    clean: Any = timm.create_model(name, num_classes=5, **size).eval()
    clean.load_state_dict(network.backbone.state_dict())
    x_t = images(network)
    mean, std = (torch.tensor(values)[:, None, None] for values in (known.mean, known.std))
    with torch.no_grad():
        expected = clean(((x_t + 1) / 2 - mean) / std)
        logits = network(x_t, T)
    assert torch.equal(logits, expected) and logits.dtype == torch.float32 and logits.shape == (3, 5)


@pytest.mark.parametrize("name", FAMILIES)
def test_t_matters_to_its_own_sample_alone(name: str) -> None:
    network = told_the_time(name, batch_norm="frozen")
    x_t = images(network)
    with torch.no_grad():
        logits, other = network(x_t, T), network(x_t, torch.tensor([7, 301, 999]))
    assert (logits[1] - other[1]).abs().max() > 1e-5
    assert_close(other[[0, 2]], logits[[0, 2]])


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name, batch_norm", [*((name, "frozen") for name in FAMILIES if name != "gmlp_ti16_224"), *(
    (name, "group") for name in ("test_resnet", "test_efficientnet", "test_maxvit", "levit_128s"))])
def test_a_batch_of_n_is_n_singles_and_so_are_its_gradients(name: str, batch_norm: str, train: bool) -> None:
    network = told_the_time(name, batch_norm=batch_norm).train(train)
    x_t, y = images(network), torch.tensor([3, 0, 4])
    assert_close(network(x_t, T), torch.cat([network(x_t[i:i + 1], T[i:i + 1]) for i in range(3)]))
    singles = torch.cat([gradient(network, x_t[i:i + 1], T[i:i + 1], y[i:i + 1]) for i in range(3)])
    together = gradient(network, x_t, T, y)
    assert together.flatten(1).norm(dim=1).min() > 0
    assert_close(together, singles, atol=1e-5 * float(singles.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "levit_128s"])
def test_frozen_statistics_never_change_and_their_scales_learn(name: str) -> None:
    network = copy.deepcopy(built(name, batch_norm="frozen"))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # statistics as of a trained network
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    x_t, before = images(network), {name: buffer.clone() for name, buffer in network.named_buffers()}
    evaluated = network.eval()(x_t, T)
    NoisyClassifier(network, NoiseSchedule.named("cosine"), tuple("abcde")).train()
    trained = network(x_t, T)
    assert torch.equal(trained, evaluated)
    trained.square().sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(norm.weight.grad is not None for norm in norms)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "levit_128s", "regnetx_002"])
def test_group_norm_takes_the_place_of_every_batch_norm(name: str) -> None:
    frozen, group = built(name, batch_norm="frozen"), built(name)
    assert not any("running" in tensor for tensor in group.state_dict())
    assert {tensor for tensor in frozen.state_dict() if "running" not in tensor and "num_batches" not in tensor} \
        == set(group.state_dict())
    count = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in frozen.modules())
    assert sum(isinstance(module, nn.GroupNorm) for module in group.modules()) == count > 0


def test_group_norm_keeps_the_activation_and_the_scale_it_began_with() -> None:
    norm: Any = built("test_efficientnet").backbone.bn1
    x = torch.randn(2, norm.num_channels, 4, 4)
    assert_close(norm(x), norm.act(F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)))
    assert type(norm.act) is not nn.Identity
    last: Any = built("test_resnet").backbone.layer1[0].bn2  # timm starts a residual branch at 0
    assert not last.weight.any()


@pytest.mark.parametrize("channels, groups", [
    (1, 1), (7, 1), (12, 1), (16, 2), (24, 3), (40, 5), (64, 8), (256, 32), (2048, 32)])
def test_groups_have_eight_channels_at_least(channels: int, groups: int) -> None:
    assert groups_of(channels) == groups


@pytest.mark.parametrize("name, settings", [
    ("test_resnet", {}), ("test_resnet", {"batch_norm": "frozen", "in_channels": 1}), ("test_convnext", {"input_size": 48}),
    ("test_vit", {}), ("test_mambaout", {"time_conditional": False}), ("levit_128s", {}),
    ("swin_tiny_patch4_window7_224", {})])
def test_a_saved_model_is_loaded_to_the_bit(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    network = told_the_time(name, **settings)
    classifier = NoisyClassifier(network, NoiseSchedule.named("linear"), tuple("abcde"))
    save_model(tmp_path / "model", classifier.config(), network, {})
    loaded = load_classifier(tmp_path / "model")
    assert loaded.config() == json.loads(json.dumps(classifier.config())) | {"network": classifier.config()["network"]}
    assert isinstance(loaded.network, TimmClassifier) and not loaded.training
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    x_t, again = images(network), copy.deepcopy(built(name, **settings))
    assert_close(loaded(x_t, T), classifier(x_t, T))  # where in memory a tensor lies may decide the last bit of a product
    again.load_state_dict(loaded.network.state_dict())
    assert torch.equal(again(x_t, T), network(x_t, T))


@pytest.mark.parametrize("name", SMALL)
def test_a_deep_copy_is_a_network_of_its_own(name: str) -> None:
    network = told_the_time(name)
    x_t, average = images(network), copy.deepcopy(network)
    before = network(x_t, T)
    assert torch.equal(average(x_t, T), before)
    for parameter in network.modulations.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(average(x_t, T), before)
    assert not torch.equal(network(x_t, T), before)
    twice = copy.deepcopy(average)
    for parameter in average.time_embed.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(twice(x_t, T), before)


def test_two_networks_and_their_backbones_do_not_meet() -> None:
    one, other = told_the_time("test_convnext"), told_the_time("test_convnext")
    for parameter in other.modulations.parameters():
        nn.init.zeros_(parameter)
    x_t = images(one)
    x = ((x_t + 1) / 2 - one.mean) / one.std
    assert torch.equal(one.backbone(x), other(x_t, T))  # by itself a backbone is the clean classifier
    assert not torch.equal(one(x_t, T), other(x_t, T))
    with pytest.raises(RuntimeError):
        one(x_t[:, :2], T)
    assert torch.equal(one.backbone(x), other(x_t, T))  # and after a pass that failed


@pytest.mark.parametrize("name", SMALL)
def test_its_guidance_is_the_slope_of_log_p_and_each_classs_own(name: str) -> None:
    classifier = NoisyClassifier(told_the_time(name, batch_norm="frozen"), NoiseSchedule.named("cosine"), tuple("abcde"))
    x_t, asked, size = images(classifier.network).requires_grad_(), torch.tensor([3, 0, 4]), 0.02
    classes = [(asked + k) % 5 for k in range(5)]  # of each sample: the one that is asked for, then the others
    gradients = torch.stack([torch.autograd.grad(log_prob(classifier, x_t, T, y).sum(), x_t)[0] for y in classes])
    towards = gradients[0] / gradients[0].flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    slopes = (gradients * towards).flatten(2).sum(dim=2)
    assert slopes[0].min() > 1e-3 and (slopes[1:] < slopes[0] / 2).all()
    with torch.no_grad():
        rises = [log_prob(classifier, x_t + size * towards, T, y) - log_prob(classifier, x_t - size * towards, T, y)
                 for y in classes]
    assert_close(torch.stack(rises) / (2 * size), slopes, rtol=0, atol=0.01 * float(slopes[0].min()))


def test_a_compiled_network_is_the_same_network() -> None:
    network = told_the_time("test_resnet", batch_norm="frozen")
    compiled: Any = torch.compile(network, backend="eager", fullgraph=True)
    x_t = images(network)
    for t in (T, T.flip(0)):
        assert_close(compiled(x_t, t), network(x_t, t))
    assert_close(gradient(compiled, x_t, T, torch.tensor([0, 1, 2])), gradient(network, x_t, T, torch.tensor([0, 1, 2])))


@pytest.mark.parametrize("name", SMALL)
def test_under_autocast_logits_are_float32_and_near(name: str) -> None:
    network = told_the_time(name).requires_grad_(False)
    x_t = images(network)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x_t, T)
    exact = network(x_t, T)
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("name", [*SMALL, "levit_128s"])
def test_what_is_drawn_at_random_is_dropout_alone_each_sample_by_its_own_generator(name: str) -> None:
    network = told_the_time(name, dropout=0.5).train()
    x_t = images(network)
    one, other = network(x_t, T), network(x_t, T)
    assert not torch.equal(one, other)
    assert torch.equal(network.eval()(x_t, T), network(x_t, T))
    network.train()
    with Draws(0, range(10, 13), x_t.device).decide_dropout(network):
        whole = network(x_t, T)
    with Draws(0, range(11, 13), x_t.device).decide_dropout(network):
        assert_close(network(x_t[1:], T[1:]), whole[1:])
    still = copy.deepcopy(built(name)).train()
    assert torch.equal(still(x_t, T), still(x_t, T))


def test_images_are_resized_bilinearly_first() -> None:
    network = told_the_time("test_resnet", image_size=16, input_size=40)
    same = TimmClassifier(config("test_resnet", image_size=40))
    same.load_state_dict(network.state_dict())
    x_t = images(network)
    resized = F.interpolate(x_t, size=(40, 40), mode="bilinear", align_corners=False)
    assert_close(network(x_t, T), same.eval()(resized, T), atol=1e-5, rtol=1e-4)
    assert gradient(network, x_t, T, torch.tensor([0, 1, 2])).shape == x_t.shape


def test_without_time_t_is_not_looked_at_and_has_no_weights() -> None:
    network = built("test_resnet", time_conditional=False)
    x_t = images(network)
    assert torch.equal(network(x_t, T), network(x_t, T.flip(0)))
    assert all(name.startswith("backbone.") for name in network.state_dict())


@pytest.mark.parametrize("channels, mean", [(3, (0.1, 0.2, 0.6)), (1, (0.3,)), (4, (0.1, 0.2, 0.6, 0.1))])
def test_the_backbones_own_normalisation_is_adapted_to_the_channels(
        channels: int, mean: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    known = timm.get_pretrained_cfg("test_resnet")
    monkeypatch.setattr(known, "mean", (0.1, 0.2, 0.6))
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: known)
    assert config("test_resnet", in_channels=channels).mean == pytest.approx(mean)
    own = config("test_resnet", in_channels=1, mean=(0.5,), std=(0.25,))
    assert (own.mean, own.std) == ((0.5,), (0.25,))


def test_a_configuration_survives_json() -> None:
    whole = config("test_resnet", input_size=64, in_channels=1)
    assert config_from(TimmConfig, json.loads(json.dumps(asdict(whole))), "here") == whole


def test_it_is_made_on_the_cpu_whatever_the_default_device() -> None:
    with torch.device("meta"):
        network = TimmClassifier(config("test_vit"))
    assert {tensor.device.type for tensor in [*network.parameters(), *network.buffers()]} == {"cpu"}


@pytest.mark.parametrize("settings, sentence", [
    ({"name": "resnet5"}, "timm has no model 'resnet5'; did you mean resnet50"),
    ({"name": "zzzzzzzzzzzz"}, "timm has no model 'zzzzzzzzzzzz'; its names are those of timm.list_models"),
    ({"name": ""}, "timm has no model ''"), ({"name": 5}, "timm has no model '5'"),
    ({"name": "hf-hub:timm/resnet18"}, "timm has no model 'hf-hub:timm/resnet18'"),
    ({"name": "resnet18.none"}, "resnet18 has no weights 'none'; there are: .*a1_in1k"),
    ({"image_size": 0}, "image_size must be a whole number from 1 to 8192, not 0"),
    ({"image_size": True}, "image_size must be a whole number"),
    ({"input_size": 0}, "input_size must be a whole number from 1 to 8192, not 0"),
    ({"num_classes": "5"}, "num_classes must be a whole number from 1 to 1000000, not '5'"),
    ({"batch_norm": "sync"}, "unknown batch_norm 'sync'; there are: frozen, group"),
    ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
    ({"mean": (0.5,)}, "mean has 1 values for 3 channels"), ({"std": (1, 1, 0)}, "std must be positive numbers")])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        config(**{"name": "test_resnet", **settings})
    assert "\n" not in str(error.value) and str(error.value)[-1] in ".?"


@pytest.mark.parametrize("name, settings, sentence", [
    ("test_vit", {"image_size": 8}, "test_vit does not take images of 8 x 8 pixels and 3 channels .* input_size of 160"),
    ("test_vit", {"image_size": 40}, "test_vit does not take images of 40 x 40 .*of 16 pixels would leave out a border"),
    ("test_maxvit", {"image_size": 33}, "test_maxvit does not take images of 33 x 33"),
    ("halonet_h1", {"image_size": 32}, "halonet_h1 does not take images of 32 x 32 pixels"),
    ("efficientformer_l1", {"image_size": 64}, "efficientformer_l1 does not take images of 64 x 64"),
    ("tresnet_m", {"in_channels": 1, "image_size": 1}, "tresnet_m does not take images of 1 x 1")])
def test_images_that_do_not_fit_are_refused_with_what_does(name: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        TimmClassifier(config(name, **settings))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.fixture
def without_feature_info(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def without(*arguments: Any, **settings: Any) -> Any:
        model: Any = create(*arguments, **settings)
        model.feature_info = []
        return model

    monkeypatch.setattr(timm, "create_model", without)


@pytest.mark.usefixtures("without_feature_info")
def test_a_model_that_tells_no_stages_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="timm does not tell the stages of test_resnet, .*time_conditional = false"):
        TimmClassifier(config("test_resnet"))
    TimmClassifier(config("test_resnet", time_conditional=False))


@pytest.mark.usefixtures("without_feature_info")
@pytest.mark.parametrize("name, count", [("test_vit", 6), ("test_convnext", 4)])
def test_stages_are_found_by_their_usual_names_too(name: str, count: int) -> None:
    assert len(TimmClassifier(config(name)).modulations) == count


def test_a_network_of_another_type_says_so() -> None:
    schedule = NoiseSchedule.named("cosine")
    assert NoisyClassifier(built("test_vit"), schedule, tuple("abcde")).config()["network"]["type"] == "timm"
    unet = NoisyClassifier(tiny_network(), schedule, tuple("0123456789"))
    assert unet.config()["network"]["type"] == "EncoderUNet" and isinstance(unet.network, EncoderUNet)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "vit_tiny_patch16_224", "regnetx_002"])
def test_its_maps_are_timms_own_intermediate_features(name: str) -> None:
    network = built(name, batch_norm="frozen")
    x_t = images(network)
    with torch.no_grad():
        seen: Any = network.features(x_t, T)
        x = ((x_t + 1) / 2 - network.mean) / network.std
        expected = network.backbone.forward_intermediates(x, intermediates_only=True)
    assert seen.maps and len(seen.maps) == len(expected)
    assert all(map(torch.equal, seen.maps, expected))


@pytest.mark.parametrize("name", FAMILIES)
def test_its_embedding_is_what_the_last_layer_tells_the_classes_by(name: str) -> None:
    network = told_the_time(name, batch_norm="frozen")
    x_t, last = images(network), network.backbone.get_classifier()
    with torch.no_grad():
        maps, embedding = network.features(x_t, T)
        layers = last if isinstance(last, tuple) else [last]
        assert_close(sum(layer(embedding) for layer in layers) / len(layers), network(x_t, T))
    assert embedding.dtype == torch.float32 and len(maps) == len(network.modulations) > 0
    assert all(found.ndim == 4 and found.shape[2] == found.shape[3] for found in maps)
    assert [found.shape[2] for found in maps] == sorted((found.shape[2] for found in maps), reverse=True)


@pytest.mark.parametrize("name", [*SMALL, "levit_128s", "swin_tiny_patch4_window7_224"])
def test_features_depend_on_each_samples_own_image_and_t(name: str) -> None:
    network = told_the_time(name, batch_norm="frozen")
    x_t = images(network)
    with torch.no_grad():
        seen, other = network.features(x_t, T), network.features(x_t, torch.tensor([7, 301, 999]))
        singles = [network.features(x_t[i:i + 1], T[i:i + 1]) for i in range(3)]
    for place, (one, changed) in enumerate(zip([*seen.maps, seen.embedding], [*other.maps, other.embedding])):
        assert (one[1] - changed[1]).abs().max() > 1e-5
        assert_close(changed[[0, 2]], one[[0, 2]])
        assert_close(one, torch.cat([[*single.maps, single.embedding][place] for single in singles]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*SMALL, "levit_128s", "swin_tiny_patch4_window7_224", "efficientvit_m0", "iformer_t"])
def test_without_a_last_layer_it_has_the_same_features(name: str) -> None:
    size = 64 if name == "iformer_t" else config(name).image_size
    whole = copy.deepcopy(built(name, batch_norm="frozen", image_size=size))
    encoder = TimmClassifier(config(name, batch_norm="frozen", image_size=size, num_classes=0)).eval()
    own = encoder.state_dict()
    encoder.load_state_dict({path: tensor for path, tensor in whole.state_dict().items() if path in own})
    x_t = images(whole)
    with torch.no_grad():
        seen, expected = encoder.features(x_t, T), whole.features(x_t, T)
    assert torch.equal(seen.embedding, expected.embedding) and all(map(torch.equal, seen.maps, expected.maps))
    assert len(own) < len(whole.state_dict())


def test_without_a_last_layer_it_is_no_classifier() -> None:
    with pytest.raises(UserError, match="tells no classes"):
        NoisyClassifier(built("test_resnet", num_classes=0), NoiseSchedule.named("cosine"), ())


def test_maps_are_of_their_pass_alone() -> None:
    network = told_the_time("test_convnext")
    x_t = images(network)
    first = network.features(x_t, T).maps
    network.features(-x_t, T)
    with pytest.raises(RuntimeError):
        network.features(x_t[:, :2], T)
    network(x_t, T), copy.deepcopy(network).features(x_t, T)
    assert len(first) == 4 and all(map(torch.equal, first, network.features(x_t, T).maps))
    assert all(keeper.maps is None for keeper in network.keepers)


def test_maps_are_kept_of_a_backbone_that_is_not_told_the_time() -> None:
    network = built("test_resnet", time_conditional=False)
    assert [found.shape[1:] for found in network.features(images(network), T).maps] == [
        (channels, side, side) for channels, side in [(32, 16), (32, 8), (48, 4), (192, 2), (96, 1)]]


def test_compiled_features_are_the_same() -> None:
    network = told_the_time("test_resnet", batch_norm="frozen").requires_grad_(False)
    compiled: Any = torch.compile(network.features, backend="eager", fullgraph=True)
    x_t = images(network)
    for t in (T, T.flip(0)):
        seen, expected = compiled(x_t, t), network.features(x_t, t)
        assert_close(seen.embedding, expected.embedding)
        assert len(seen.maps) == 5 and all(map(torch.allclose, seen.maps, expected.maps))


@pytest.mark.parametrize("name", SMALL)
def test_under_autocast_features_are_float32_and_near(name: str) -> None:
    network = told_the_time(name).requires_grad_(False)
    x_t = images(network)
    with torch.autocast("cpu", torch.bfloat16):
        half = network.features(x_t, T)
    exact = network.features(x_t, T)
    for ours, theirs in zip([*half.maps, half.embedding], [*exact.maps, exact.embedding]):
        assert ours.dtype == torch.float32
        assert 0 < (ours - theirs).norm() < 0.1 * theirs.norm()
