"""The second stage: its input, its noise and its folder; and what does not fit."""
from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

import guided_sample.run
from guided_sample.denoiser import unet_denoiser
from guided_sample.loaders import load_model
from guided_sample.plan import Plan, to_pixels
from guided_sample.request import Request
from guided_sample.samplers.ddim import ddim
from guided_sample.steps import kept_timesteps, steps
from guided_sample.unet import UNet, UNetConfig
from guided_sample.upsample import enlarging
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.checkpoints.released import RELEASED, ReleasedFile, shapes_digest
from noisy_clf.noise import SampleNoise
from noisy_clf.schedule import NoiseSchedule
from tests.commands import assert_refused, contents, run
from tests.conftest import NAMES, stored, tiny_classifier, tiny_denoiser
from tests.reference import with_drawn_weights
from tests.seam import adm, last
from tests.seam import run as sampled

TINY: dict[str, Any] = {"channels": 32, "channel_mult": (1,), "res_blocks": 1, "head_channels": 32}
LARGE = Path("out/upsampled")
FAST = ["--steps", "ddim4", "--sampler", "ddim", "--eta", 1, "--no-check", "--seed", 3, "--out", "out"]


def release(name: str, kind: str, network: nn.Module, patch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Puts the network into the cache as the released file of that name."""
    tensors, file = network.state_dict(), RELEASED[kind][name]
    torch.save(tensors, Path("cache", file.file))
    told = {key: value for key, value in file.settings.items() if key not in ("heads", "class_names")}
    patch.setitem(RELEASED[kind], name, ReleasedFile(
        file.file, shapes_digest((key, tensor.shape) for key, tensor in tensors.items()),
        told | {"head_channels": 32} | settings))


def upsampler_network(K: int | None = 3) -> UNet:
    return with_drawn_weights(UNet(UNetConfig(image_size=16, in_channels=6, out_channels=6, num_classes=K, **TINY)))


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released families of 64 and of 128 pixels, at 8 pixels and with three classes; lsun-cat at 8 pixels."""
    monkeypatch.setenv("GUIDED_SAMPLE_CACHE", "cache")
    monkeypatch.setenv("GUIDED_SAMPLE_MIRROR", "http://127.0.0.1:9")
    Path("cache").mkdir()
    names = {"class_names": list(NAMES)}
    for family, upsampler in (("imagenet64", "imagenet64-256"), ("imagenet128", "imagenet128-512")):
        small = UNet(UNetConfig(image_size=8, in_channels=3, out_channels=6, num_classes=3, **TINY))
        release(family, "denoiser", with_drawn_weights(small), monkeypatch, image_size=8, **names)
        release(family, "classifier", with_drawn_weights(EncoderUNet(EncoderUNetConfig(
            image_size=8, in_channels=3, num_classes=3, **TINY))), monkeypatch, image_size=8, **names)
        release(upsampler, "denoiser", upsampler_network(), monkeypatch, image_size=16, small_size=8, **names)
    release("lsun-cat", "denoiser", with_drawn_weights(UNet(UNetConfig(image_size=8, in_channels=3, out_channels=6, **TINY))),
            monkeypatch, image_size=8)


def drawn(*arguments: object, model: str = "imagenet64") -> Path:
    result = run("--model", model, "--upsample", *FAST, *arguments)
    assert result.exit_code == 0, result.output
    return LARGE


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


class Recorder(nn.Module):
    """A network that keeps what it is shown and predicts no noise."""

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.seen = x, t, y
        return torch.zeros(len(x), 6, *x.shape[2:])


def test_the_second_stage_takes_the_same_grid_exactly_or_at_whole_t():
    for fractional in (False, True):
        plan = Plan.of(Request(model="imagenet64", scale=0.0, sampler="dpm++", steps="logsnr6", fractional_t=fractional,
                               upsample=""), "cpu")
        for stage in (plan, plan.second):
            assert len(stage.steps) == 6 and any(step.t % 1 for step in stage.steps) == fractional


def test_the_network_sees_x_t_and_the_small_image_enlarged_bilinearly_as_in_SuperResModel():
    small, x_t = torch.rand(2, 3, 8, 8) * 2 - 1, torch.randn(2, 3, 16, 16)
    t, y = torch.tensor([5, 700]), torch.tensor([2, 0])
    recorder = Recorder()
    upsampler = replace(unet_denoiser(upsampler_network(), tiny_denoiser().schedule, "learned_range", 8), network=recorder)
    assert upsampler.shape == (3, 16, 16)
    enlarging(upsampler, small)(x_t, t % 50, y)

    # pixel i of the large image lies at (i + 1/2) / 2 - 1/2 of the small one, which goes on beyond its border
    at = ((torch.arange(16) + 0.5) / 2 - 0.5).clamp(0, 7)
    weights = (1 - (at[:, None] - torch.arange(8)).abs()).clamp(min=0)
    x, told, label = recorder.seen
    assert_close(x, torch.cat([x_t, weights @ small @ weights.T], dim=1))
    assert torch.equal(told, t % 50) and torch.equal(label, y)


def enlarged_by_hand(folder: Path, indices: Sequence[int], seed: int, labels: Sequence[int]) -> np.ndarray:
    """The second stage, from the folder's PNGs."""
    upsampler = load_model("imagenet64-256").denoiser
    images = np.stack([pixels(folder / f"{i:06d}.png") for i in indices])
    small = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    noise = SampleNoise(seed, indices, (3, 16, 16), torch.device("cpu"), stream=(2,))
    model = adm(enlarging(upsampler, small), y=torch.tensor(labels))
    x_0 = last(sampled(ddim, model, steps("ddim4", upsampler.schedule), noise, eta=1.0))
    return to_pixels(x_0.clamp(-1, 1))


def test_the_large_images_come_from_this_runs_own_pngs_with_its_labels():
    assert run("--model", "imagenet64", "--class", "1,2", "--num-samples", 4, *FAST).exit_code == 0
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("out/000002.png")  # another than was drawn
    drawn("--class", "1,2", "--num-samples", 4)
    expected = enlarged_by_hand(Path("out"), range(4), 3, [1, 2, 1, 2])
    assert all(np.array_equal(pixels(LARGE / f"{i:06d}.png"), expected[i]) for i in range(4))
    assert not np.array_equal(enlarged_by_hand(Path("out"), [0], 3, [0])[0], expected[0])  # the label matters
    lines = [json.loads(line) for line in (LARGE / "samples.jsonl").read_text().splitlines()]
    assert [(line["class"], line["class_name"]) for line in lines] == [(1, "pear"), (2, "plum")] * 2
    manifest = json.loads((LARGE / "manifest.json").read_text())
    assert manifest["request"]["upsample"] == "imagenet64-256"
    assert manifest["configs"]["upsample"]["network"]["in_channels"] == 6
    with np.load(LARGE / "samples.npz") as archive:
        assert archive["arr_0"].shape == (4, 16, 16, 3) and archive["arr_1"].tolist() == [1, 2, 1, 2]


def test_the_second_stages_noise_is_its_own():
    def first_draw(**stream: Any) -> Tensor:
        return SampleNoise(3, range(40), (3, 16, 16), torch.device("cpu"), **stream)().flatten()

    one, other = first_draw(), first_draw(stream=(2,))
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.02 and other.std() == pytest.approx(1, abs=0.02)


def test_the_first_stage_is_the_same_with_and_without_a_second():
    assert run("--model", "imagenet64", "--num-samples", 3, *FAST).exit_code == 0
    alone = contents(Path("out"))
    shutil.rmtree("out")
    drawn("--num-samples", 3)
    assert contents(Path("out")) == alone


def test_large_images_do_not_depend_on_the_batch_size():
    whole = contents(drawn("--num-samples", 5, "--batch-size", 5))
    shutil.rmtree("out")
    assert contents(drawn("--num-samples", 5, "--batch-size", 2)) == whole


@pytest.mark.parametrize("sizes", [{8: 4, 16: 3}, {8: 2, 16: 2}, {8: 3, 16: 5}])
def test_shares_enlarge_what_they_have_drawn(sizes: dict[int, int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guided_sample.run, "default_batch", sizes.__getitem__)
    whole = [contents(folder) for folder in (drawn("--num-samples", 9), Path("out"))]
    shutil.rmtree("out")
    for number in (3, 1, 2):
        assert not Path("out/upsampled/grid.png").exists()
        drawn("--num-samples", 9, "--shard", f"{number}/3")
    assert [contents(folder) for folder in (LARGE, Path("out"))] == whole


@pytest.mark.parametrize("stage, message", [(1, "stopped with 2 of 5 images finished in out;"),
                                            (2, "stopped with 2 of 5 images finished in out/upsampled;")])
def test_stopped_in_either_stage_and_run_again_equals_uninterrupted(stage: int, message: str, monkeypatch: pytest.MonkeyPatch):
    arguments = ["--num-samples", 5, "--batch-size", 2]
    whole = [contents(folder) for folder in (drawn(*arguments), Path("out"))]
    shutil.rmtree("out")
    draw, drawn_batches = Plan.draw_stage, [0, 0]

    def stop_at_the_second_batch(self: Plan, *args: Any, **more: Any) -> Any:
        at_work = 2 if self.request.upsample else 1
        drawn_batches[at_work - 1] += 1
        if at_work == stage and drawn_batches[at_work - 1] == 2:
            raise KeyboardInterrupt
        return draw(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "draw_stage", stop_at_the_second_batch)
        assert_refused(run("--model", "imagenet64", "--upsample", *FAST, *arguments), message)
    assert [contents(folder) for folder in (drawn(*arguments), Path("out"))] == whole


def test_more_samples_are_added_to_both_stages():
    whole = [contents(folder) for folder in (drawn("--num-samples", 5), Path("out"))]
    shutil.rmtree("out")
    drawn("--num-samples", 2)
    result = run("--model", "imagenet64", "--upsample", *FAST, "--num-samples", 5)
    assert result.exit_code == 0 and result.output.count("3/3") >= 2, result.output
    assert f"5 images in {LARGE}: look at {LARGE / 'grid.png'}" in result.output
    assert [contents(folder) for folder in (LARGE, Path("out"))] == whole


@pytest.mark.parametrize("model, upsampler", [("imagenet64", "imagenet64-256"), ("imagenet128", "imagenet128-512")])
def test_each_released_model_finds_its_upsampler(model: str, upsampler: str):
    drawn("--num-samples", 1, model=model)
    assert json.loads((LARGE / "manifest.json").read_text())["request"]["upsample"] == upsampler


def test_another_upsampler_in_the_same_folder_is_refused(monkeypatch: pytest.MonkeyPatch):
    drawn("--num-samples", 1)
    before = contents(LARGE)
    network = upsampler_network()
    network.out[2].bias.data += 1
    release("imagenet128-512", "denoiser", network, monkeypatch, image_size=16, small_size=8, class_names=list(NAMES))
    assert_refused(run("--model", "imagenet64", *FAST, "--num-samples", 1, "--upsample", "imagenet128-512"),
                   "out/upsampled holds another run's results (digests.upsample")
    assert contents(LARGE) == before


def test_an_unconditional_upsampler_enlarges_anything(monkeypatch: pytest.MonkeyPatch):
    release("imagenet64-256", "denoiser", upsampler_network(K=None), monkeypatch, image_size=16, small_size=8)
    result = run("--model", "lsun-cat", "--upsample", "imagenet64-256", *FAST, "--num-samples", 2)
    assert result.exit_code == 0 and len(list(LARGE.glob("0*.png"))) == 2, result.output
    Path("out").rename("unlabelled")
    assert len(list(drawn("--num-samples", 2).glob("0*.png"))) == 2


def test_what_does_not_fit_is_refused_before_anything_is_drawn():
    def refused(*arguments: object) -> Any:
        result = run(*FAST, "--num-samples", 1, *arguments)
        assert not Path("out").exists(), result.output
        return result

    own = stored(tiny_denoiser(), Path("own"))
    linear = load_model("lsun-cat").denoiser.schedule
    colour = stored(tiny_denoiser(linear, in_channels=3, out_channels=6), Path("colour"))
    larger = stored(tiny_denoiser(linear, in_channels=3, out_channels=6, image_size=16), Path("larger"))
    guides = stored(tiny_classifier(linear, names=("a", "b"), in_channels=3), Path("guides"))

    assert_refused(refused("--model", "imagenet64", "--upsample", own), "own, given as --upsample, is no upsampler; try")
    assert_refused(refused("--model", "imagenet64", "--upsample", "digits"), "is no upsampler")
    assert_refused(refused("--model", own, "--upsample"), "own has no upsampler of its own; name one: --upsample imagenet64-")
    assert_refused(refused("--model", "imagenet64", "--upsample", "nothing"), "there is no denoiser 'nothing'")
    assert_refused(refused("--model", larger, "--upsample", "imagenet64-256"),
                   "imagenet64-256 enlarges images of 8 pixels, and larger's have 16; name another --upsample")
    assert_refused(refused("--model", own, "--upsample", "imagenet64-256"),
                   "the upsampler enlarges images of 8 pixels and 3 channels, and the model's have 8 and 1")
    assert_refused(refused("--model", colour, "--classifier", guides, "--upsample", "imagenet64-256"),
                   "the upsampler is conditional on 3 classes, and the samples have 2 others; leave out --upsample")
    assert_refused(refused("--model", "lsun-cat", "--class", "none", "--upsample", "imagenet64-256"),
                   "the upsampler is conditional on 3 classes, and the samples have none; leave out --upsample")
    assert_refused(refused("--model", "imagenet64-256", "--upsample"), "imagenet64-256 is an upsampler, a second stage")


def test_an_own_bare_upsampler_takes_its_settings_from_upsample_config(tmp_path):
    config = UNetConfig(image_size=16, in_channels=2, out_channels=2, channels=32, channel_mult=(1,))
    torch.save(with_drawn_weights(UNet(config)).state_dict(), "up.pt")
    Path("up.toml").write_text('image_size = 16\nsmall_size = 8\nheads = 1\nschedule = "cosine"\nT = 50\nrescaled_t = false\n'
                               'predicts = "eps"\nvariance = "learned_range"')
    stored(tiny_denoiser(), Path("small"))
    arguments = ["--model", "small", "--class", "none", "--num-samples", 2, "--steps", 2, "--out", "out", "--upsample", "up.pt"]
    result = run(*arguments, "--upsample-config", "up.toml")
    assert result.exit_code == 0, result.output
    assert Image.open("out/upsampled/000001.png").size == (16, 16)
    assert_refused(run(*arguments[:-2], "--upsample-config", "up.toml"), "--upsample-config is given and --upsample is not")


def in_the_words_of_3d14213(folder: Path) -> None:
    """The folder's manifest as that release wrote it, and its last two images not yet drawn."""
    manifest = json.loads((folder / "manifest.json").read_text())
    request, digests, configs = manifest.pop("request"), manifest.pop("digests"), manifest.pop("configs")
    spec = request.get("upsample_steps", request["steps"])
    options = {"model_digest": digests["model"], "model_config": configs["model"],
               "classifier_digest": digests.get("classifier"), "classifier_config": configs.get("classifier"),
               "class": request["class"], "scale": request["scale"], "sampler": request["sampler"],
               "timesteps": kept_timesteps(spec, NoiseSchedule.named("cosine", 1000)), "eta": request["eta"],
               "grad_at": request["grad_at"], "clip": request["threshold"] == "static",
               "seed": request["seed"], "precision": request["precision"]}
    about = {"model": request["model"], "classifier": request.get("classifier")}
    if "upsample" in digests:
        options |= {"upsampler_digest": digests["upsample"], "upsampler_config": configs["upsample"]}
        about = {"upsampler": request["upsample"]}
    (folder / "manifest.json").write_text(json.dumps({"options": options, "versions": manifest["versions"], **about}))
    for index in (2, 3):
        (folder / f"{index:06d}.png").unlink()


def test_half_finished_stages_of_an_older_release_go_on():
    whole = [contents(folder) for folder in (drawn("--num-samples", 4, "--batch-size", 2), Path("out"))]
    for folder in (LARGE, Path("out")):
        in_the_words_of_3d14213(folder)
    assert [contents(folder) for folder in (drawn("--num-samples", 4, "--batch-size", 2), Path("out"))] == whole


def test_a_manifest_of_enlarged_images_draws_both_stages_again():
    whole = [contents(folder) for folder in (drawn("--num-samples", 3), Path("out"))]
    Path("out").rename("first")
    result = run("--request", "first/upsampled/manifest.json", "--out", "out", "--no-check")
    assert result.exit_code == 0, result.output
    assert [contents(folder) for folder in (LARGE, Path("out"))] == whole


def test_in_memory_a_plan_draws_the_enlarged_images():
    drawn("--class", "1,2", "--num-samples", 3)
    request = Request("imagenet64", classes=(1, 2), upsample="", sampler="ddim", steps="ddim4", knobs={"eta": 1.0}, seed=3)
    images = Plan.of(request, "cpu").draw(range(3)).images
    assert all(np.array_equal(pixels(LARGE / f"{i:06d}.png"), images[i]) for i in range(3))


def test_dry_run_tells_of_both_stages():
    result = run("--model", "imagenet64", "--upsample", *FAST, "--upsample-steps", "ddim2", "--num-samples", 2, "--dry-run")
    assert result.exit_code == 0 and not Path("out").exists(), result.output
    assert 'upsample = "imagenet64-256"\nupsample_steps = "ddim2"\n' in result.output
    assert "# imagenet64: 4 steps of 2 samples in batches of 2: 8 evaluations of the denoiser" in result.output
    assert "# imagenet64-256: 2 steps of 2 samples in batches of 2: 4 evaluations of the denoiser\n" in result.output


def test_either_stage_is_warned_about_where_its_steps_never_reach_the_noise():
    steps = ["--sampler", "ddim", "--steps", "ddim25", "--num-samples", 2, "--dry-run"]
    usual = run("--model", "imagenet64", "--upsample", *steps)
    assert usual.exit_code == 0 and usual.stderr == "", usual.output
    result = run("--model", "imagenet64", "--upsample", *steps, "--upsample-steps", "ddim2")
    assert result.stderr.startswith("Warning: --upsample-steps ddim2 keeps no t above 500 of 0 to 999: x_t is 28% image there")
    assert result.stderr.count("Warning") == 1 and result.stderr.endswith("; try --upsample-steps ddim25.\n")
