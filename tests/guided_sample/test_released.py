"""The released models by name, from a server on this machine that has tiny files of their names."""
from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from guided_sample.advice import Advice
from guided_sample.loaders import load_model
from guided_sample.released import MODELS
from guided_sample.unet import UNet, UNetConfig
from noisy_clf import imagenet
from noisy_clf.class_names import class_index
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.errors import UserError
from noisy_clf.checkpoints.cache import SOURCE
from noisy_clf.checkpoints.released import CLASSIFIERS, DENOISERS, RELEASED, shapes_digest
from noisy_clf.schedule import NoiseSchedule
from tests.commands import assert_refused, invoke, run
from tests.reference import with_drawn_weights

TINY: dict[str, Any] = {"image_size": 4, "in_channels": 3, "channels": 32, "channel_mult": (1,), "res_blocks": 1}
FEW = ["--num-samples", 2, "--steps", 2, "--no-check"]


class Handler(SimpleHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


def tiny(kind: str, name: str) -> dict[str, torch.Tensor]:
    """A network that is small, but else has what the table says of the model."""
    settings = RELEASED[kind][name].settings
    if kind == "classifier":
        network: Any = EncoderUNet(EncoderUNetConfig(**TINY, num_classes=1000, head_channels=32))
    else:
        network = UNet(UNetConfig(**TINY | ({"in_channels": 6} if "small_size" in settings else {}), out_channels=6,
                                  num_classes=1000 if "class_names" in settings else None, head_channels=32))
    return with_drawn_weights(network).state_dict()


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    for kind, names in (("denoiser", ("imagenet64", "imagenet256", "imagenet256-uncond", "lsun-cat", "imagenet64-256")),
                        ("classifier", ("imagenet64", "imagenet256"))):
        for name in names:
            torch.save(tiny(kind, name), folder / RELEASED[kind][name].file)
    return folder


@pytest.fixture(scope="module")
def server(tiny_files: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tiny_files))) as mirror:
        thread = Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{mirror.server_port}"
        mirror.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, server: str, tiny_files: Path) -> list[str]:
    """The paths that the server is asked for. The cache is a folder of the test's own, and the tables know the tiny files."""
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", "cache")
    monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", server)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for table in RELEASED.values():
        for name, file in table.items():
            if (tiny_files / file.file).exists():
                tensors = torch.load(tiny_files / file.file, weights_only=True)
                size = {"image_size": 8, "small_size": 4} if "small_size" in file.settings else {"image_size": 4}
                heads = {} if "heads" in file.settings else {"head_channels": 32}
                digest = shapes_digest((key, tensor.shape) for key, tensor in tensors.items())
                monkeypatch.setitem(table, name, replace(file, settings=file.settings | size | heads, shapes=digest))
    Handler.asked = []
    return Handler.asked


def images(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("0*.png")}


def lines(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "samples.jsonl").read_text().splitlines()]


def test_a_released_file_by_path_is_sampled_as_it_is_by_name(tiny_files: Path):
    by_path, by_name = (load_model(model) for model in (tiny_files / "256x256_diffusion_uncond.pt", "imagenet256-uncond"))
    assert by_path.advice == by_name.advice == MODELS["imagenet256-uncond"].advice
    assert by_path.digest == by_name.digest and by_path.config == by_name.config
    settings = DENOISERS["imagenet256-uncond"].settings
    assert load_model(tiny_files / "256x256_diffusion_uncond.pt", settings).advice == Advice()


def test_the_first_command_of_the_readme(asked: list[str]):
    result = run("--class", 207, "--scale", 10)
    assert result.exit_code == 0, result.output
    assert asked == ["/256x256_diffusion_uncond.pt", "/256x256_classifier.pt"]
    folder = "samples/imagenet256_uncond-class-207-scale-10-ddpm-250-seed-0"
    assert f"16 images in {folder}: look at {folder}/grid.png" in result.output and "Note:" not in result.output
    before = images(folder)
    assert len(before) == 16 and Path("cache/256x256_diffusion_uncond.pt.sha256").exists()
    assert {(line["class"], line["class_name"]) for line in lines(folder)} == {(207, "golden retriever")}
    request = json.loads(Path(folder, "manifest.json").read_text())["request"]
    assert request["scale"] == 10 and request["steps"] == "250" and request["class"] == [207]
    guided, unguided = (run("--class", 207, "--scale", scale, "--out", f"out{scale}", *FEW) for scale in (10, 0))
    assert guided.exit_code == unguided.exit_code == 0 and images("out10") != images("out0")  # it does guide

    Path(folder, "000003.png").unlink()
    assert run("--class", 207, "--scale", 10).exit_code == 0
    assert images(folder) == before and len(asked) == 2  # from the cache


@pytest.mark.parametrize("model, classifier, ddpm, ddim, steps", [  # ADM Tables 4-6 and 8; its README for LSUN
    ("imagenet256-uncond", "imagenet256", 10, 10, "250"), ("imagenet256", "imagenet256", 1, 2.5, "250"),
    ("imagenet128", "imagenet128", 0.5, 1.25, "250"), ("imagenet512", "imagenet512", 4, 4, "250"),
    ("imagenet64", "imagenet64", 0, 0, "250"), ("lsun-bedroom", None, 0, 0, "1000"), ("lsun-cat", None, 0, 0, "1000"),
    ("lsun-horse", None, 0, 0, "1000"), ("lsun-horse-nodropout", None, 0, 0, "1000"),
    ("imagenet64-256", None, 0, 0, "250"), ("imagenet128-512", None, 0, 0, "250")])
def test_pairing_scale_and_steps_are_the_published_ones(model, classifier, ddpm, ddim, steps):
    advice, schedule = MODELS[model].advice, DENOISERS[model].schedule
    assert advice.classifier == classifier and advice.scale_for("ddpm") == ddpm and advice.scale_for("ddim") == ddim
    assert advice.steps_for("ddpm", schedule) == steps and advice.steps_for("ddim", schedule) == "ddim25"
    if classifier:
        assert CLASSIFIERS[classifier].schedule.same_as(DENOISERS[model].schedule)


def test_every_released_denoiser_has_advice_and_each_upsampler_follows_a_model_of_its_size():
    assert MODELS.keys() == DENOISERS.keys()
    assert {name: model.upsampler for name, model in MODELS.items() if model.upsampler} == {
        "imagenet64": "imagenet64-256", "imagenet128": "imagenet128-512"}


def test_the_published_defaults_are_what_a_command_without_scale_and_steps_takes():
    def options(*arguments: object) -> dict[str, Any]:
        result = run("--class", 3, "--num-samples", 1, "--no-check", "--out", "out", *arguments)
        assert result.exit_code == 0, result.output
        found = json.loads(Path("out/manifest.json").read_text())["request"]
        Path("out").rename(f"out{len(list(Path().glob('out*')))}")
        return found

    assert options("--sampler", "ddim")["scale"] == 10
    found = options("--model", "imagenet256", "--sampler", "ddim")
    assert found["scale"] == 2.5 and found["steps"] == "ddim25"
    assert options("--model", "imagenet256", "--steps", 2)["scale"] == 1
    assert options("--model", "imagenet64", "--steps", 2)["scale"] == 0


def test_lsun_needs_no_class_and_asks_for_no_classifier(asked: list[str]):
    assert run("--model", "lsun-cat", "--out", "out", *FEW).exit_code == 0
    assert asked == ["/lsun_cat.pt"] and [line["class"] for line in lines("out")] == [None, None]
    assert_refused(run("--model", "lsun-cat", "--class", "3", *FEW), "lsun-cat knows no classes and comes with no classifier")


def test_a_class_by_word_id_and_number_is_one():
    for i, text in enumerate(["golden retriever", "n02099601", "207", "Golden Retriever "]):
        assert run("--class", text, "--out", f"out{i}", *FEW).exit_code == 0
        assert images(f"out{i}") == images("out0") and lines(f"out{i}") == lines("out0")


@pytest.mark.parametrize("text, words", [
    ("golden retreiver", ["no class 'golden retreiver'; did you mean golden retriever or"]),
    ("crane", ["'crane' is the name of 2 classes: 134 crane (n02012849) and 517 crane (n03126707); give the number."]),
    ("1000", ["there is no class 1000; the classes are 0 to 999."]),
    ("n02099602", ["no class 'n02099602'; did you mean n02099"]),
    ("qqqqqq", ["no class 'qqqqqq'; the classes are 0 to 999, tench to toilet tissue."]),
    ("", ["--class is empty; give it a value, or leave it out."])])
def test_a_class_that_is_not_there_or_is_two(text: str, words: list[str]):
    assert_refused(run("--class", text, "--out", "out", *FEW), *words)
    assert not Path("out").exists()


def test_imagenets_classes_are_in_the_order_of_their_wordnet_ids():
    ids, names = [id for id, _ in imagenet.synsets()], imagenet.class_names()
    assert ids == sorted(ids) and len(ids) == len(set(names)) == 1000
    known = {0: ("n01440764", "tench"), 1: ("n01443537", "goldfish"), 207: ("n02099601", "golden retriever"),
             417: ("n02782093", "balloon"), 999: ("n15075141", "toilet tissue")}
    assert {i: (ids[i], names[i]) for i in known} == known
    for i in range(0, 1000, 37):
        assert class_index(ids[i], names) == class_index(names[i], names) == class_index(str(i), names) == i
    assert class_index("tinca TINCA", names) == 0  # any of a class's words
    for word, i in (("crane (n02012849)", 134), ("n03126707", 517)):
        assert class_index(word, names) == i


@pytest.mark.parametrize("model, scale, remarked", [
    ("imagenet256", 10, True), ("imagenet256", 4.5, True), ("imagenet256", 4, False), ("imagenet256", 0, False),
    ("imagenet256-uncond", 10, False)])
def test_a_large_scale_of_a_class_conditional_model_gets_a_remark_and_goes_on(model: str, scale: float, remarked: bool):
    result = run("--model", model, "--class", 207, "--scale", scale, "--out", "out", *FEW)
    assert result.exit_code == 0 and len(images("out")) == 2
    notes = [line for line in result.stderr.splitlines() if line.startswith("Note: ")]
    assert notes == [f"Note: imagenet256 is class-conditional; such models were published with scales of 0.5 to 4, and "
                     f"{scale:g} is more usual for unconditional ones."] * remarked


def test_a_class_conditional_model_is_not_sampled_without_a_class():
    assert_refused(run("--model", "imagenet256", "--class", "none", *FEW), "imagenet256 is class-conditional and cannot be")


def row(name: str) -> list[str]:
    result = run("--list-models")
    assert result.exit_code == 0, result.output
    return next(line for line in result.output.splitlines() if line.split(" ")[0] == name).split("  ")


def test_the_list_of_models_tells_all_that_the_issue_asks_for(asked: list[str], monkeypatch: pytest.MonkeyPatch, server: str):
    def cells(name: str) -> list[str]:
        return [cell.strip() for cell in row(name) if cell.strip()]

    assert cells("imagenet256-uncond") == ["imagenet256-uncond", "4", "guided", "10 | 10", "250 | ddim25", "no",
                                           "12.00 (250 steps, scale 10); 26.21 unguided"]
    assert cells("imagenet128")[1:5] == ["128", "conditional", "0.5 | 1.25", "250 | ddim25"]
    assert cells("imagenet128-512")[1:5] == ["128 -> 512", "conditional", "-", "250 | ddim25"]
    assert cells("lsun-bedroom") == ["lsun-bedroom", "256", "none", "-", "1000 | ddim25", "no", "1.90 (1000 steps)"]
    assert cells("digits")[-2] == "in package"
    for name in MODELS:
        assert row(name)
    assert asked == []
    load_model("imagenet256-uncond")
    assert cells("imagenet256-uncond")[5] == "1 of 2 files"
    assert run("--class", 3, "--out", "out", *FEW).exit_code == 0
    assert cells("imagenet256-uncond")[5] == "yes" and cells("imagenet256")[5] == "1 of 2 files"

    told = run("--list-models", "--model", "nonsense").output
    assert str(Path("cache").absolute()) in told and server in told
    monkeypatch.delenv("GUIDED_SAMPLE_MIRROR")
    assert SOURCE in run("--list-models").output and "GUIDED_SAMPLE_MIRROR" in told and "GUIDED_SAMPLE_CACHE" in told


@pytest.mark.parametrize("file", ["256x256_diffusion_uncond.pt", "256x256_classifier.pt"])
def test_a_file_that_changed_in_the_cache_is_refused(file: str, asked: list[str]):
    assert run("--class", 3, "--out", "out", *FEW).exit_code == 0
    tensors = torch.load(f"cache/{file}", weights_only=True)
    torch.save(tensors | {"time_embed.0.bias": tensors["time_embed.0.bias"] + 1}, f"cache/{file}")
    assert_refused(run("--class", 3, "--out", "other", *FEW), f"cache/{file} has the SHA-256", "first used; remove it")
    Path("cache", file).unlink()
    assert run("--class", 3, "--out", "other", *FEW).exit_code == 0
    assert asked.count(f"/{file}") == 2 and images("other") == images("out")


def test_a_file_in_the_cache_with_other_tensors_is_refused(tiny_files: Path):
    Path("cache").mkdir()
    for there, name, words in (("256x256_diffusion.pt", "256x256_diffusion_uncond.pt", "does not hold the tensors of the file"),
                               ("256x256_classifier.pt", "256x256_diffusion_uncond.pt", "holds a classifier, and a denoiser")):
        Path("cache", name).write_bytes((tiny_files / there).read_bytes())
        assert_refused(run("--class", 3, *FEW), f"cache/{name} {words}")
        assert not Path("cache", f"{name}.sha256").exists()
    Path("cache", name).write_bytes((tiny_files / name).read_bytes()[:-1000])
    assert_refused(run("--class", 3, *FEW), f"cache/{name} is not a whole checkpoint of torch")


def test_without_a_network_it_says_what_to_do_by_hand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", "http://127.0.0.1:9/models")
    place = Path("cache/256x256_diffusion_uncond.pt").absolute()
    assert_refused(run("--class", 207, "--scale", 10), "could not be downloaded",
                   f"by hand: download it on another machine and put it at {place}")
    assert not list(Path("cache").glob("*.pt"))


def test_a_file_that_the_mirror_has_not():
    assert_refused(run("--model", "imagenet512"), "512x512_diffusion.pt could not be downloaded (HTTP 404")


def test_released_models_bring_their_own_settings():
    for options in (["--model-config", "imagenet64"], ["--model-flags", "--image_size 64"]):
        assert_refused(run("--model", "imagenet256", *options, *FEW), "imagenet256 brings settings of its own; settings are")
    for options in (["--classifier-config", "imagenet64"], ["--classifier-flags", "--image_size 64"]):
        assert_refused(run("--class", 3, *options, *FEW), "imagenet256 brings settings of its own; settings are")


def test_an_upsampler_is_no_first_stage():
    assert_refused(run("--model", "imagenet64-256", *FEW), "imagenet64-256 is an upsampler, a second stage; give it as "
                   "--upsample imagenet64-256, after a --model of 4 pixels")


def test_a_released_models_settings_serve_a_file_of_any_name(tiny_files: Path):
    Path("mine.pt").write_bytes((tiny_files / "64x64_diffusion.pt").read_bytes())
    known, mine = load_model("imagenet64"), load_model("mine.pt", DENOISERS["imagenet64"].settings)
    assert mine.config == known.config and mine.digest == known.digest
    assert load_model("cache/64x64_diffusion.pt").config == known.config  # recognised by its name and its tensors
    with pytest.raises(UserError, match="if the file is the released imagenet64, imagenet64 in that file's place"):
        load_model("mine.pt")


@pytest.mark.parametrize("name, schedule", [("imagenet64", "cosine"), ("imagenet256", "linear"), ("lsun-cat", "linear")])
def test_a_classifier_is_trained_on_a_released_schedule_without_a_download(name: str, schedule: str, asked: list[str]):
    result = invoke(train_noisy_clf, "--schedule-from", name, "--image-size", 8, "--channels", 32, "--channel-mult", 1,
                    "--res-blocks", 1, "--head-channels", 32, "--attention-at", "", "--iterations", 1, "--validate-every", 1,
                    "--batch-size", 4, "--out", "run")
    assert result.exit_code == 0, result.output
    found = json.loads(Path("run/best/config.json").read_text())["schedule"]
    assert NoiseSchedule.from_config(found).same_as(NoiseSchedule.named(schedule, 1000)) and asked == []
