from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from noisy_clf.checkpoints.model_folder import BUNDLED, file_digest, save_model
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.digits import digits
from noisy_clf.datasets.images import to_x_0
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier
from noisy_clf.loaders.encoder import learning, load_encoder, text_embeddings
from noisy_clf.networks.encoder_unet import EncoderUNet
from noisy_clf.networks.features import Features
from noisy_clf.networks.timm_classifier import TimmClassifier
from noisy_clf.networks.timm_model import TimmConfig
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space
from tests.noisy_clf.conftest import tiny_network
from tests.reference import with_drawn_weights

SCHEDULE = NoiseSchedule.named("cosine", 100)
COLOUR, GREY = Space(SCHEDULE, 32, 3), Space(SCHEDULE, 16, 1)
T = torch.tensor([0, 50, 99])
CLEAN = {"training": {"t_sampling": "levels:0,0"}}


def images(space: Space) -> Tensor:
    shape = (3, space.channels, space.image_size, space.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def assert_equal(one: Features, other: Features) -> None:
    assert len(one.maps) == len(other.maps) > 0 and torch.equal(one.embedding, other.embedding)
    assert all(map(torch.equal, one.maps, other.maps))


def same(one: Space, other: Space) -> bool:
    return one.schedule.same_as(other.schedule) and (one.image_size, one.channels) == (other.image_size, other.channels)


def drawn(network: Any) -> Any:
    """In evaluation mode, every tensor drawn; variances are positive."""
    with_drawn_weights(network)
    for path, tensor in network.state_dict().items():
        if "running_var" in path:
            tensor.abs_().add_(0.5)
    return network


def weights(name: str, **settings: Any) -> Any:
    """timm's own model, every tensor drawn, stored in w.pt."""
    model = drawn(timm.create_model(name, **settings))
    torch.save(model.state_dict(), "w.pt")
    return model


def torso(folder: str, **more: Any) -> NoisyClassifier:
    classifier = NoisyClassifier(with_drawn_weights(tiny_network()), SCHEDULE, tuple("0123456789"))
    save_model(Path(folder), {**classifier.config(), **more}, classifier.network, {})
    return classifier


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("settings", [{"num_classes": 7}, {"num_classes": 0}])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_a_backbone_of_timms_is_an_encoder_with_or_without_its_last_layer(name: str, settings: dict[str, Any]) -> None:
    model = weights(name, **settings)
    loaded = load_encoder(f"timm:{name}@w.pt", COLOUR)
    x_t, known = images(COLOUR), timm.get_pretrained_cfg(name)
    x = F.interpolate((x_t + 1) / 2, size=(160, 160), mode="bilinear", antialias=True)
    x = (x - torch.tensor(known.mean)[:, None, None]) / torch.tensor(known.std)[:, None, None]
    seen = loaded.encoder.features(x_t, T)
    assert_close(seen.embedding, model.forward_head(model.forward_features(x), pre_logits=True))
    assert len(seen.maps) == len(model.forward_intermediates(x, intermediates_only=True))
    assert loaded.clean and same(loaded.encoder.space, COLOUR) and not loaded.encoder.training
    assert not any(parameter.requires_grad for parameter in loaded.encoder.parameters())
    assert loaded.config == loaded.encoder.config() and loaded.config["network"]["num_classes"] == 0
    with torch.no_grad():
        model.get_parameter("conv1.0.weight" if name == "test_resnet" else "patch_embed.proj.weight" if name == "test_vit"
                            else "stem.0.weight").add_(1)
    torch.save(model.state_dict(), "w.pt")
    other = load_encoder(f"timm:{name}@w.pt", COLOUR).digest
    assert other != loaded.digest and len(other) == 64


@pytest.mark.parametrize("name", ["levit_128s", "iformer_t"])
def test_what_only_the_last_layer_has_is_not_needed(name: str) -> None:
    weights(name, num_classes=7)
    assert load_encoder(f"timm:{name}@w.pt", COLOUR).encoder(images(COLOUR), T).ndim == 2


def test_a_tensor_of_no_last_layer_is_refused() -> None:
    torch.save(weights("test_resnet").state_dict() | {"extra": torch.zeros(1)}, "w.pt")
    with pytest.raises(UserError, match="1 unknown tensor, such as extra"):
        load_encoder("timm:test_resnet@w.pt", COLOUR)


def test_the_torso_of_a_classifier_is_an_encoder_as_it_is() -> None:
    classifier, x_t = torso("noisy"), images(Space(SCHEDULE, 8, 1))
    loaded = load_encoder("noisy", COLOUR)
    assert_equal(loaded.encoder.features(x_t, T), classifier.network.features(x_t, T))
    assert loaded.clean is None and same(loaded.encoder.space, Space(SCHEDULE, 8, 1))
    assert loaded.digest == file_digest(Path("noisy/model.safetensors"))
    torso("taught", training={"t_sampling": "uniform"})
    assert load_encoder("taught", GREY).clean is False


def test_a_clean_torso_is_shown_whatever_grey_images_there_are() -> None:
    classifier = torso("clean", **CLEAN)
    loaded = load_encoder("clean", GREY)
    x_t = images(GREY).requires_grad_()
    seen = loaded.encoder.features(x_t, T)
    small = F.interpolate(x_t, size=(8, 8), mode="bilinear", antialias=True)
    assert_equal(seen, classifier.network.features(small, T))
    assert torch.autograd.grad(seen.embedding.sum(), x_t)[0].abs().amax(dim=(1, 2, 3)).min() > 0
    assert loaded.clean and same(loaded.encoder.space, GREY)
    alone = load_encoder("clean")
    assert alone.clean and same(alone.encoder.space, Space(SCHEDULE, 8, 1))
    with pytest.raises(UserError, match="sees images of 1 channels, and here are images of 3; only grey ones"):
        load_encoder("clean", COLOUR)


def test_grey_is_shown_in_all_channels_of_a_clean_torso() -> None:
    network = with_drawn_weights(tiny_network(in_channels=3))
    classifier = NoisyClassifier(network, SCHEDULE, tuple("0123456789"))
    save_model(Path("clean"), classifier.config() | CLEAN, network, {})
    grey = Space(SCHEDULE, 8, 1)
    x_t = images(grey)
    assert_equal(load_encoder("clean", grey).encoder.features(x_t, T), network.features(x_t.repeat(1, 3, 1, 1), T))


def timm_torso(**settings: Any) -> TimmClassifier:
    network = TimmClassifier(TimmConfig(name="test_resnet", image_size=32, in_channels=3, num_classes=7, **settings))
    return drawn(network)


def test_where_a_name_is_an_encoders_and_a_classifiers_the_encoder_is_meant() -> None:
    loaded = load_encoder("digits")
    assert loaded.digest == file_digest(BUNDLED / "digits/encoder/model.safetensors") and loaded.clean is False
    assert loaded.encoder.schedule.same_as(load_classifier("digits").schedule)


@pytest.mark.parametrize("network", [
    tiny_network(), timm_torso(), timm_torso(time_conditional=False), timm_torso(time_conditional=False, batch_norm="frozen")])
def test_a_learning_copy_begins_where_the_encoder_is_at_every_t_and_is_its_own(network: Any) -> None:
    encoder = NoisyEncoder(drawn(network), SCHEDULE, {"tower": "clip:x", "digest": "y"})
    encoder.eval().requires_grad_(False)
    x_t = images(encoder.space)
    before = encoder.features(x_t, T)
    pupil = learning(encoder)
    assert pupil.training and all(parameter.requires_grad for parameter in pupil.parameters())
    assert pupil.text == encoder.text and same(pupil.space, encoder.space)
    assert_equal(pupil.eval().features(x_t, T), before)
    changed = pupil.features(x_t, T.flip(0)).embedding
    assert torch.equal(changed, encoder(x_t, T.flip(0)))
    for module in pupil.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1)
    told = pupil.features(x_t, T), pupil.features(x_t, T + torch.tensor([0, 9, 0]))
    for one, other in zip([*told[0].maps, told[0].embedding], [*told[1].maps, told[1].embedding]):
        assert not torch.equal(one[1], other[1])
        assert_close(one[[0, 2]], other[[0, 2]])
    assert_equal(encoder.features(x_t, T), before)


@pytest.mark.parametrize("network", [tiny_network(), timm_torso()])
def test_a_saved_encoder_is_loaded_with_the_same_features(network: Any) -> None:
    encoder = NoisyEncoder(drawn(network), SCHEDULE).eval()
    save_model(Path("tuned"), encoder.config(), network, {})
    loaded = load_encoder("tuned", GREY)
    x_t = images(encoder.space)
    seen, expected = loaded.encoder.features(x_t, T), encoder.features(x_t, T)
    assert_close(seen.embedding, expected.embedding)
    assert len(seen.maps) == len(expected.maps) and all(map(torch.allclose, seen.maps, expected.maps))
    assert loaded.clean is False and loaded.encoder.text is None and same(loaded.encoder.space, encoder.space)
    assert json.loads(json.dumps(loaded.config)) == json.loads(Path("tuned/config.json").read_text())


def test_bundled_clip_finds_the_words_of_clean_images() -> None:
    encoder = load_encoder("clip:digits", GREY).encoder
    assert learning(encoder).network.config.time_conditional
    data = digits(16)
    x, y = data.validation.batch(torch.arange(200))
    words = text_embeddings(encoder, [f"a {name}" for name in data.class_names])
    assert_close(words.norm(dim=1), torch.ones(10)) and words.dtype == torch.float32
    with torch.no_grad():
        found = (F.normalize(encoder(to_x_0(x), torch.zeros(200)), dim=1) @ words.T).argmax(dim=1)
    assert (found == y).float().mean() > 0.95


def test_a_tuned_tower_keeps_its_texts_and_refuses_those_of_others() -> None:
    tuned = load_encoder("digits-clip").encoder
    assert tuned.text is not None and tuned.text["tower"] == "clip:digits" and tuned.network.config.time_conditional
    clean = load_encoder("clip:digits", GREY).encoder
    assert torch.equal(text_embeddings(tuned, ["a three"]), text_embeddings(clean, ["a three"]))
    other = copy.copy(tuned)
    other.text = tuned.text | {"digest": "0" * 64}
    with pytest.raises(UserError, match="the text tower of clip:digits is not the one .* weights are others"):
        text_embeddings(other, ["a three"])
    other.text = tuned.text | {"tower": "clip:gone"}
    with pytest.raises(UserError, match="mine goes with the text tower of clip:gone, by its config.json: .* where it lies"):
        text_embeddings(other, ["a three"], "mine")


def test_an_encoder_without_a_text_tower_says_so() -> None:
    torso("noisy")
    with pytest.raises(UserError, match="has no text tower"):
        text_embeddings(load_encoder("noisy").encoder, ["a three"])


@pytest.mark.parametrize("name, space, sentence", [
    ("timm:test_resnet@w.pt", None, "learned on clean images and has no noise schedule of its own"),
    ("clip:digits", None, "learned on clean images and has no noise schedule of its own"),
    ("timm:resnet5@w.pt", COLOUR, "timm has no model 'resnet5'; did you mean"),
    ("timm:test_resnet@nowhere.pt", COLOUR, "nowhere.pt: No such file"),
    ("clip:digits", Space(SCHEDULE, 16, 4), "see colour images, or grey ones, not 4 channels"),
    ("nowhere", COLOUR, "there is no encoder 'nowhere'"),
    ("odd", COLOUR, "unknown type of encoder; there is: EncoderUNet, timm, clip"),
    ("textless", COLOUR, "text must tell a text tower by \"tower\"")])
def test_what_is_no_encoder_is_refused(name: str, space: Space | None, sentence: str) -> None:
    encoder = NoisyEncoder(tiny_network(), SCHEDULE)
    config = encoder.config()
    save_model(Path("odd"), config | {"network": {**config["network"], "type": "Odd"}}, encoder.network, {})
    save_model(Path("textless"), config | {"text": {"tower": "clip:digits"}}, encoder.network, {})
    with pytest.raises(UserError, match=sentence) as error:
        load_encoder(name, space)
    assert "\n" not in str(error.value) and str(error.value)[-1] in ".?"


def test_another_size_of_a_tensor_is_refused_by_name() -> None:
    encoder = NoisyEncoder(tiny_network(), SCHEDULE)
    save_model(Path("tuned"), encoder.config(), encoder.network, {})
    tensors = load_file("tuned/model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: torch.zeros(3)}, "tuned/model.safetensors")
    with pytest.raises(UserError, match=rf"{name} has shape \[3\]"):
        load_encoder("tuned")
    assert isinstance(encoder.network, EncoderUNet)
