from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from noisy_clf import imagenet
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier, load_classifier_whole
from noisy_clf.loaders.timm import weights_digest
from noisy_clf.loaders.timm_weights import start_from
from noisy_clf.networks.timm_classifier import TimmClassifier
from noisy_clf.networks.timm_model import TimmConfig
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.space import Space
from tests.noisy_clf.conftest import TouchesAFile

IMAGES = Space(NoiseSchedule.named("cosine", 100), image_size=32, channels=3)
T = torch.tensor([0, 99])


def clean(name: str, **settings: Any) -> Any:
    """timm's own, every tensor drawn."""
    model = timm.create_model(name, **{"num_classes": 7, **settings})
    generator = torch.Generator().manual_seed(0)
    for path, tensor in model.state_dict().items():
        if "running_var" in path:
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.1, generator=generator)
    return model.eval()


def network(name: str, **settings: Any) -> TimmClassifier:
    return TimmClassifier(TimmConfig(**{"name": name, "image_size": 32, "in_channels": 3, "num_classes": 7,
                                        "batch_norm": "frozen", **settings})).eval()


def images(size: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def normalised(x_t: Tensor, name: str) -> Tensor:
    known = timm.get_pretrained_cfg(name)
    return ((x_t + 1) / 2 - torch.tensor(known.mean)[:, None, None]) / torch.tensor(known.std)[:, None, None]


def one_sentence(error: pytest.ExceptionInfo[UserError]) -> bool:
    return "\n" not in str(error.value) and str(error.value)[-1] in ".?"


@pytest.mark.parametrize("file", ["w.safetensors", "w.pt", "module.pth"])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "levit_128s"])
def test_a_file_of_the_same_shape_gives_the_same_classifier(name: str, file: str, tmp_path: Path,
                                                            capfd: pytest.CaptureFixture[str]) -> None:
    model = clean(name, **({"img_size": 32} if name == "levit_128s" else {}))
    tensors = {("module." if file == "module.pth" else "") + path: tensor for path, tensor in model.state_dict().items()}
    if file.endswith("safetensors"):
        save_file(tensors, tmp_path / file)
    else:
        torch.save(tensors, tmp_path / file)
    ours = network(name)
    time = {path: tensor.clone() for path, tensor in ours.state_dict().items() if not path.startswith("backbone.")}
    start_from(ours, tmp_path / file)
    assert torch.equal(ours(images(), T), model(normalised(images(), name)))
    assert time and all(torch.equal(tensor, ours.state_dict()[path]) for path, tensor in time.items())
    assert all(tensor.dtype == model.state_dict()[path].dtype for path, tensor in ours.backbone.state_dict().items())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name, layer", [("test_resnet", "fc"), ("test_vit", "head"), ("test_convnext", "head.fc")])
def test_another_number_of_classes_begins_a_new_last_layer_and_tells(
        name: str, layer: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = clean(name, **({"img_size": 32} if name == "test_vit" else {}))
    torch.save(model.state_dict(), tmp_path / "w.pt")
    ours = network(name, num_classes=4)
    before = {path: tensor.clone() for path, tensor in ours.backbone.state_dict().items()}
    start_from(ours, tmp_path / "w.pt")
    for path, tensor in ours.backbone.state_dict().items():
        assert torch.equal(tensor, before[path] if path.startswith(layer + ".") else model.state_dict()[path]), path
    told = capfd.readouterr().err
    assert told == f"{tmp_path / 'w.pt'} knows 7 classes and this network 4: the last layer, {layer}, starts anew.\n"


def test_grey_images_sum_the_first_convolution_over_the_colours(tmp_path: Path) -> None:
    model = clean("test_convnext")
    torch.save(model.state_dict(), tmp_path / "w.pt")
    ours = network("test_convnext", in_channels=1, mean=(0.5,), std=(0.5,))
    start_from(ours, tmp_path / "w.pt")
    grey = images(channels=1)
    assert_close(ours(grey, T), model(grey.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4)


def test_grey_weights_stay_grey_and_do_not_become_colour(tmp_path: Path) -> None:
    model = clean("test_resnet", in_chans=1)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    ours = network("test_resnet", in_channels=1, mean=(0.5,), std=(0.5,))
    start_from(ours, tmp_path / "w.pt")
    assert torch.equal(ours(images(channels=1), T), model(images(channels=1)))
    for channels in (3, 4):
        with pytest.raises(UserError, match=rf"conv1.0.weight has shape \[16, 1, .*, not \[16, {channels}, 3, 3\]") as error:
            start_from(network("test_resnet", in_channels=channels), tmp_path / "w.pt")
        assert one_sentence(error)


def test_position_embeddings_are_resampled_to_another_size_as_timm_does(tmp_path: Path) -> None:
    source = clean("test_vit")  # of 160 pixels: 10 x 10 patches
    torch.save(source.state_dict(), tmp_path / "w.pt")
    ours = network("test_vit", image_size=64)
    start_from(ours, tmp_path / "w.pt")
    theirs: Any = timm.create_model("test_vit", num_classes=7, img_size=64, pretrained=True,
                                    pretrained_cfg_overlay={"state_dict": dict(source.state_dict()), "num_classes": 7})
    assert torch.equal(ours.backbone.pos_embed, theirs.pos_embed)
    assert torch.equal(ours(images(64), T), theirs.eval()(normalised(images(64), "test_vit")))


def test_an_old_file_without_counts_of_batches_will_do(tmp_path: Path) -> None:
    model = clean("test_resnet")
    torch.save({path: tensor for path, tensor in model.state_dict().items() if "num_batches" not in path}, tmp_path / "w.pt")
    ours = network("test_resnet")
    start_from(ours, tmp_path / "w.pt")
    assert torch.equal(ours(images(), T), model(normalised(images(), "test_resnet")))


@pytest.mark.parametrize("change, sentence", [
    (lambda tensors: tensors.pop("layer1.0.conv1.weight"), "1 missing tensor, such as layer1.0.conv1.weight"),
    (lambda tensors: tensors.update(extra=torch.zeros(1)), "1 unknown tensor, such as extra"),
    (lambda tensors: tensors.update({"bn1.weight": torch.zeros(3)}), r"bn1.weight has shape \[3\]"),
    (lambda tensors: tensors.update({"fc.bias": torch.zeros(3)}), r"fc.bias has shape \[3\], not \[7\]"),
    (lambda tensors: tensors.update(state_dict={}), "is not a bare state dict")])
def test_any_other_difference_is_refused_by_name(change: Any, sentence: str, tmp_path: Path) -> None:
    tensors = dict(clean("test_resnet").state_dict())
    change(tensors)
    torch.save(tensors, tmp_path / "w.pt")
    ours = network("test_resnet")
    before = weights_digest(ours)
    with pytest.raises(UserError, match=sentence) as error:
        start_from(ours, tmp_path / "w.pt")
    assert one_sentence(error) and str(tmp_path / "w.pt") in str(error.value) and weights_digest(ours) == before


def test_the_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(clean("test_convnext").state_dict(), tmp_path / "w.pt")
    for name in ("test_resnet", "test_vit", "levit_128s", "swin_tiny_patch4_window7_224"):
        with pytest.raises(UserError, match="does not fit|does not hold") as error:
            start_from(network(name), tmp_path / "w.pt")
        assert one_sentence(error)


def test_statistics_of_batches_are_not_thrown_away_silently(tmp_path: Path) -> None:
    torch.save(clean("test_resnet").state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="learned with BatchNorm, .* choose batch_norm frozen") as error:
        start_from(network("test_resnet", batch_norm="group"), tmp_path / "w.pt")
    assert one_sentence(error)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"fc.weight": TouchesAFile(tmp_path / "touched")}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="carries code"):
        start_from(network("test_resnet"), tmp_path / "w.pt")
    assert not (tmp_path / "touched").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that timm's downloads arrive as; where there is none, the network is down."""
    file = tmp_path / "hub" / "model.safetensors"
    file.parent.mkdir()

    def download(*arguments: Any, **settings: Any) -> str:
        if not file.exists():
            raise ConnectionError("[Errno -3] Temporary failure in name resolution\nsecond line")
        return str(file)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    return file


def test_timms_own_weights_are_downloaded_by_timm(hub: Path) -> None:
    model = clean("test_resnet", num_classes=1000)
    save_file(model.state_dict(), hub)
    ours = network("test_resnet", num_classes=1000)
    start_from(ours, "timm")
    assert torch.equal(ours(images(), T), model(normalised(images(), "test_resnet")))


def test_without_a_network_a_file_is_asked_for(hub: Path) -> None:
    with pytest.raises(UserError, match="timm could not get its weights of test_resnet .*name resolution.* as a file") as error:
        start_from(network("test_resnet"), "timm")
    assert one_sentence(error)


def test_a_model_that_timm_has_no_weights_of_says_so() -> None:
    with pytest.raises(UserError, match="timm could not get its weights of test_mambaout .No pretrained weights") as error:
        start_from(network("test_mambaout"), "timm")
    assert one_sentence(error)


@pytest.mark.parametrize("name, native", [("test_resnet", 160), ("test_vit", 160), ("test_convnext", 160)])
def test_a_clean_classifier_sees_the_denoisers_images_at_its_own_size(name: str, native: int, tmp_path: Path) -> None:
    model = clean(name)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    classifier = load_classifier(f"timm:{name}@{tmp_path / 'w.pt'}", space=IMAGES)
    assert classifier.class_names == tuple("0123456") and classifier.schedule.same_as(IMAGES.schedule)
    assert (classifier.image_size, classifier.channels, classifier.training) == (32, 3, False)
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    x_t = images()
    resized = F.interpolate(x_t, size=(native, native), mode="bilinear", align_corners=False)
    assert_close(classifier(x_t, T), model(normalised(resized, name)), atol=1e-4, rtol=1e-4)
    assert torch.equal(classifier(x_t, T), classifier(x_t, T.flip(0)))


def test_a_clean_classifier_of_a_thousand_classes_has_imagenets_names(hub: Path) -> None:
    save_file(clean("test_resnet", num_classes=1000).state_dict(), hub)
    loaded = load_classifier_whole("timm:test_resnet", space=IMAGES)
    assert loaded.classifier.class_names == imagenet.class_names()
    again = load_classifier_whole("timm:test_resnet", space=IMAGES)
    assert loaded.digest == again.digest and len(loaded.digest) == 64
    assert loaded.config["network"] | {"type": "timm", "time_conditional": False, "input_size": 160} == loaded.config["network"]
    save_file(clean("test_resnet", num_classes=1000, in_chans=3).half().state_dict(), hub)
    assert load_classifier_whole("timm:test_resnet", space=IMAGES).digest != loaded.digest
    grey = load_classifier("timm:test_resnet", space=Space(IMAGES.schedule, 32, channels=1))
    assert grey.channels == 1 and grey(images(channels=1), T).shape == (2, 1000)


@pytest.mark.parametrize("name, settings, given, sentence", [
    ("timm:test_resnet", None, None, "timm:test_resnet learned on clean images and has no noise schedule of its own"),
    ("timm:test_resnet", {"T": 1000}, IMAGES, "timm:test_resnet brings settings of its own"),
    ("timm:resnet5", None, IMAGES, "timm has no model 'resnet5'; did you mean"),
    ("timm:", None, IMAGES, "timm has no model ''"),
    ("timm:test_resnet@nowhere.pt", None, IMAGES, "nowhere.pt: No such file"),
    ("timm:test_resnet@headless.pt", None, IMAGES, "headless.pt has no fc.weight, the last layer of timm's test_resnet")])
def test_clean_classifiers_that_cannot_be_are_refused(name: str, settings: Any, given: Space | None,
                                                      sentence: str) -> None:
    torch.save({path: tensor for path, tensor in clean("test_resnet").state_dict().items() if "fc" not in path}, "headless.pt")
    with pytest.raises(UserError, match=sentence) as error:
        load_classifier(name, settings, given)
    assert one_sentence(error)
