"""The guidance family as it is asked for: by flags, a request or in Python with one outcome, or refused in a sentence."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guided_sample.denoiser import unet_denoiser
from guided_sample.evaluations import evaluations
from guided_sample.plan import Plan
from guided_sample.request import Request
from guided_sample.unet import UNet
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from tests.commands import assert_refused, contents, run
from tests.conftest import NAMES, SCHEDULE, UNET, stored, tiny_classifier, tiny_denoiser, tiny_encoder
from tests.reference import with_drawn_weights

TOLERANCE = 2e-4  # of float32 samples, for another batch


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cond knows the null class, plain is unconditional, weak is another plain one, clean and noisy are classifiers, enc is a
    noisy encoder."""
    folder = tmp_path_factory.mktemp("family")
    cond = with_drawn_weights(UNet(replace(UNET, num_classes=4)))
    steps: dict[str, Any] = {"sampling": {"steps": {"ddpm": "5", "ddim": "ddim5"}}}
    advice = {"sampling": {"classifier": str(folder / "noisy"), **steps["sampling"]}}
    stored(unet_denoiser(cond, SCHEDULE, "learned_range", class_names=NAMES, null_class=True), folder / "cond", **advice)
    stored(tiny_denoiser(), folder / "plain", **steps)
    weak = tiny_denoiser()
    for parameter in weak.network.parameters():
        parameter.data *= 0.9
    stored(weak, folder / "weak")
    stored(tiny_denoiser(NoiseSchedule.named("linear", 50)), folder / "linear")
    stored(tiny_classifier(), folder / "noisy", training={"t_sampling": "uniform"})
    stored(tiny_classifier(NoiseSchedule.named("linear", 1000), image_size=16), folder / "clean", training={
        "t_sampling": "levels:0,0"})
    stored(tiny_classifier(names=("rough", "smooth")), folder / "other")
    stored(tiny_encoder(), folder / "enc")
    Image.fromarray((np.arange(64).reshape(8, 8) * 4).astype(np.uint8)).save(folder / "picture.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(np.roll(mask, 2, axis=1)).save(folder / "stripe.png")
    return folder


@pytest.fixture(autouse=True)
def beside_the_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in models.iterdir():
        Path(path.name).symlink_to(path)


GUIDED = {"model": "plain", "classifier": "noisy", "scale": 2.0}
KINDS: dict[str, dict[str, Any]] = {
    "cfg": {"model": "cond", "cfg": 2.0},
    "cfg++": {"model": "cond", "cfg": 0.6, "cfg_plus_plus": True, "sampler": "ddim"},
    "apg": {"model": "cond", "cfg": 3.0, "contrast": "apg=0,momentum=-0.5,norm=2.5,rescale=0.7"},
    "cfg and classifier": {"model": "cond", "cfg": 2.0, "classifier": "noisy", "scale": 1.5},
    "cfg in an interval": {"model": "cond", "cfg": 2.0, "contrast": "interval=0.2:1,schedule=sine"},
    "autoguidance": {"model": "plain", "classes": ("none",), "weak": "weak", "weak_scale": 2.5},
    "interval": GUIDED | {"scale_interval": "0.2:1"},
    "every": GUIDED | {"scale_every": "2"},
    "held": GUIDED | {"scale_every": "2:held"},
    "schedule": GUIDED | {"scale_schedule": "cosine"},
    "table": GUIDED | {"scale_schedule": (0, 1, 3)},
    "entropy": GUIDED | {"adapt": "entropy:5"},
    "each class": GUIDED | {"scale": {"apple": 1.0, "pear": 2.0, "plum": 3.0}},
    "each sample": GUIDED | {"scale": (0.0, 1.0, 2.0, 3.0)},
    "solver": GUIDED | {"sampler": "dpm++", "steps": "logsnr5", "threshold": "dynamic:0.9"},
    "solver of an sde": GUIDED | {"sampler": "dpm++sde", "steps": "quadratic5", "scale_every": "2"},
    "unipc at fractional t": GUIDED | {"sampler": "unipc", "steps": "logsnr6", "fractional_t": True,
                                       "scale_schedule": "cosine"},
    "solver of a contrast": {"model": "cond", "cfg": 2.0, "sampler": "dpm++", "steps": "uniform5", "contrast": "momentum=-0.5"},
    "solver of a clean one": GUIDED | {"classifier": "clean", "see": "x0", "sampler": "unipc", "steps": "logsnr5"},
    "solver through two": GUIDED | {"see": "through", "sampler": "dpm++", "steps": "logsnr5", "guide": (
        "inpaint:picture.png,mask=mask.png,scale=0.1",)},
    "solver through": GUIDED | {"see": "through", "sampler": "dpm++", "steps": "logsnr5", "backward": 2},
    "wishes": GUIDED | {"classes": ("apple=1,plum=0.5", "pear=1,plum=-0.5")},
    "clean": GUIDED | {"classifier": "clean", "see": "x0"},
    "through": GUIDED | {"see": "through"},
    "universal": GUIDED | {"see": "through", "backward": 2, "recur": "2"},
    "two classifiers": GUIDED | {
        "guide": ("classifier:other,class=rough,scale=3", "classifier:noisy,scale=0.5,interval=0.2:9")},
    "tfg": GUIDED | {"scale": 0.0, "guide": ("classifier:noisy,see=through,rho=0.5,mu=0.2,iterations=2,smooth=0.1,draws=2",),
                     "recur": "2,interval=0.1:2"},
    "inpaint": {"model": "plain", "classes": ("none",), "guide": ("inpaint:picture.png,mask=mask.png",)},
    "small and blurred": {"model": "plain", "classes": ("none",),
                          "guide": ("downsample:picture.png,factor=4,push=0.3", "blur:picture.png,sigma=1.5,scale=2")},
    "colour": {"model": "plain", "classes": ("none",), "guide": ("colour:0.5,mu=0.1",)},
    "inpaint in an interval": {"model": "plain", "classes": ("none",),
                               "guide": ("inpaint:picture.png,mask=mask.png,interval=0.2:1",)},
    "like": {"model": "plain", "like": ("picture.png", "stripe.png"), "like_scale": 30.0, "encoder": "enc"},
    "like at x0_hat": {"model": "plain", "like": ("picture.png",), "encoder": "enc", "see": "x0", "sampler": "ddim"},
    "like, a scale each": {"model": "plain", "like": ("picture.png",), "like_scale": (0.0, 20.0, 30.0, 40.0), "encoder": "enc"},
    "structure, by a solver": {"model": "plain", "like": ("picture.png",), "like_layers": "1:2", "like_scale": 3.0,
                               "encoder": "enc", "sampler": "dpm++", "steps": "logsnr5"},
    "style": {"model": "plain", "style": ("picture.png",), "style_scale": 1e4, "encoder": "enc", "grad_at": "mean"},
    "like and style by the grammar": {"model": "plain", "guide": (
        "like:picture.png,encoder=enc,interval=0.2:9,schedule=cosine",
        "style:stripe.png,encoder=enc,every=2:held,layers=1,scale=1000")},
    "like, moving x0_hat": {"model": "plain", "guide": (
        "like:picture.png,encoder=enc,see=through,rho=0.3,mu=0.2,smooth=0.1,draws=2",)},
    "like, style and a classifier": GUIDED | {"like": ("picture.png",), "style": ("stripe.png",), "style_scale": 1e3,
                                              "encoder": "enc"},
    "particles of a picture": {"model": "plain", "like": ("picture.png",), "like_scale": 20.0, "encoder": "enc",
                               "particles": 3},
    "particles": GUIDED | {"particles": 4},
    "particles and cfg": {"model": "cond", "cfg": 2.0, "classifier": "noisy", "scale": 1.5, "particles": 3},
}


SCALED_EACH = ("each sample", "like, a scale each")


def plan_of(**fields: Any) -> Plan:
    return Plan.of(Request(**{"num_samples": 4, "steps": "5" if fields.get("sampler") != "ddim" else "ddim5"} | fields), "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_draws_each_sample_as_alone_and_otherwise_than_unguided(kind: str):
    plan = plan_of(**KINDS[kind])
    together = plan.draw(range(4))
    alone = torch.cat([plan.draw([index]).x_0 for index in range(4)])
    assert (together.x_0 - alone).abs().max() < TOLERANCE
    fields = KINDS[kind]
    unguided = plan_of(**{key: fields[key] for key in ("model", "sampler") if key in fields} | (
        {"scale": 0.0} if fields["model"] == "cond" else {"classes": ("none",)}))
    changed = (together.x_0 - unguided.draw(range(4)).x_0).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert changed.tolist() == [kind not in SCALED_EACH, True, True, True]  # the first one's scale is 0
    assert all(set(line) >= {"index", "class", "class_name", "seed", "log_prob"} for line in together.lines)


def flags_of(fields: dict[str, Any]) -> list[Any]:
    found: list[Any] = []
    for key, value in fields.items():
        flag = f"--{ {'classes': 'class'}.get(key, key).replace('_', '-')}"
        if value is True:
            found.append(flag)
        elif key in ("guide", "classes", "like", "style"):
            found += [word for one in value for word in (flag, one)]
        else:
            found += [flag, ":".join(map(str, value)) if isinstance(value, tuple) else value]
    return found


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("each class", *SCALED_EACH)])
def test_flags_a_request_file_and_python_are_one(kind: str):
    fields = {"num_samples": 3} | KINDS[kind]
    result = run(*flags_of(fields), "--out", "flags", "--no-check")
    assert result.exit_code == 0, result.output
    request = {"class" if key == "classes" else key: value for key, value in fields.items()}
    Path("request.json").write_text(json.dumps(request))
    assert run("--request", "request.json", "--out", "file", "--no-check").exit_code == 0
    assert run("--request", "flags/manifest.json", "--out", "manifest", "--no-check").exit_code == 0
    assert contents(Path("flags")) == contents(Path("file")) == contents(Path("manifest"))
    drawn = Plan.of(Request(**fields), "cpu").draw(range(3)).images
    with np.load("flags/samples.npz") as archive:
        assert np.array_equal(archive["arr_0"], drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_by_its_own_manifest(kind: str, models: Path):
    """Into its own folder, though pictures and models lie elsewhere by then; the images are those of the first time."""
    Path("request.json").write_text(json.dumps({
        {"classes": "class"}.get(key, key): value for key, value in ({"num_samples": 4} | KINDS[kind]).items()}))
    assert run("--request", "request.json", "--out", "out", "--no-check").exit_code == 0
    whole = contents(Path("out"))
    for index in (1, 2):
        Path(f"out/{index:06d}.png").unlink()
    again = run("--request", "out/manifest.json", "--out", "out", "--no-check")
    assert again.exit_code == 0, again.output
    assert contents(Path("out")) == whole
    Path("moved").symlink_to(models)
    manifest = json.loads(Path("out/manifest.json").read_text())
    request = {key: value if key != "guide" else [one.replace(":picture", ":moved/picture").replace("=mask", "=moved/mask")
                                                  .replace(":noisy", ":moved/noisy").replace("=enc", "=moved/enc")
                                                  .replace(":stripe", ":moved/stripe") for one in value]
               for key, value in manifest["request"].items()}
    request |= {"weak": "moved/weak"} if "weak" in request else {}
    request |= {key: [f"moved/{one}" for one in request[key]] for key in ("like", "style") if request.get(key)}
    request |= {"encoder": "moved/enc"} if "encoder" in request else {}
    Path("moved.json").write_text(json.dumps(request))
    again = run("--request", "moved.json", "--out", "out", "--no-check")
    assert again.exit_code == 0, again.output
    assert contents(Path("out")) | {"manifest": []} == whole | {"manifest": []}  # which says where they lie


def test_scales_for_each_class_and_sample_stand_in_a_request_file():
    for name, scale in (("class", {"apple": 1, "pear": 2, "plum": 3}), ("sample", [1, 2, 3])):
        Path(f"{name}.json").write_text(json.dumps({**GUIDED, "scale": scale, "num_samples": 3}))
        assert run("--request", f"{name}.json", "--out", name, "--no-check").exit_code == 0
    with np.load("class/samples.npz") as one, np.load("sample/samples.npz") as other:
        assert np.array_equal(one["arr_0"], other["arr_0"])
    for index, scale in enumerate((1.0, 2.0, 3.0)):
        alone = plan_of(**GUIDED | {"scale": scale}).draw(range(3)).x_0[index]
        by_sample = plan_of(**GUIDED | {"scale": (1.0, 2.0, 3.0), "num_samples": 3}).draw(range(3)).x_0[index]
        assert (alone - by_sample).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", ["particles", "held", "apg", "tfg", "clean", "like", "like and style by the grammar"])
def test_what_is_killed_and_shared_is_drawn_to_the_same_bytes(kind: str):
    """What remembers earlier steps remembers its own chain alone."""
    flags = [*flags_of(KINDS[kind]), "--num-samples", 6, "--batch-size", 2, "--no-check", "--out"]
    assert run(*flags, "whole").exit_code == 0
    for share in ("2/3", "1/3", "3/3"):
        assert run(*flags, "shared", "--shard", share).exit_code == 0
    assert contents(Path("shared")) == contents(Path("whole"))
    for index in (0, 3, 4):
        Path(f"shared/{index:06d}.png").unlink()
    assert run(*flags, "shared").exit_code == 0
    assert contents(Path("shared")) == contents(Path("whole"))


def test_the_log_p_of_each_classifier_and_the_weights_of_a_wish_are_told():
    lines = plan_of(**KINDS["two classifiers"]).draw(range(3)).lines
    assert all(set(line["log_probs"]) == {"classifier:other,class=rough", "classifier:noisy"} for line in lines)
    assert [line["log_probs"]["classifier:noisy"] for line in lines] == [line["log_prob"] for line in lines]
    lines = plan_of(**KINDS["wishes"]).draw(range(2)).lines
    assert [(line["class"], line["wish"]) for line in lines] == [(0, {"0": 1.0, "2": 0.5}), (1, {"1": 1.0, "2": -0.5})]
    assert lines[0]["class_name"] == "apple=1,plum=0.5" and lines[0]["log_prob"] < 0
    for line in lines:
        assert line["log_prob"] == pytest.approx(sum(
            weight * line["log_prob_by_class"][k] for k, weight in line["wish"].items()), abs=1e-3)
    twins = {"guide": ("classifier:noisy,class=apple", "classifier:noisy,class=plum", "classifier:noisy,class=plum")}
    plan = plan_of(**GUIDED | twins)
    line, = plan.draw([0]).lines
    assert list(line["log_probs"]) == [f"classifier:noisy,class={name}" for name in ("apple", "plum", "plum+")]
    assert line["log_probs"]["classifier:noisy,class=apple"] != line["log_probs"]["classifier:noisy,class=plum"]
    assert set(evaluations(plan)) == {"denoiser", "the classifier", *line["log_probs"]}
    near, far = (plan_of(**KINDS["inpaint"] | {"guide": (f"inpaint:picture.png,mask=mask.png,push={push}",)}).draw([0]).lines[0]
                 ["distances"]["inpaint:picture.png"] for push in (2, 0))
    assert 0 < near < far


def test_several_classifiers_are_one_sum_whatever_stands_first():
    """Of scale a and of scale b they are one of scale a + b."""
    whole = plan_of(**GUIDED | {"scale": 3.0}).draw(range(3)).x_0
    parts = plan_of(**GUIDED | {"scale": 1.0, "guide": ("classifier:noisy,scale=2",)}).draw(range(3)).x_0
    assert (whole - parts).abs().max() < TOLERANCE


def test_weights_are_what_several_guides_would_be():
    wish = plan_of(**GUIDED | {"classes": ("apple=1,plum=0.5",)}).draw(range(2)).x_0
    guides = plan_of(**GUIDED | {"classes": ("apple",), "guide": ("classifier:noisy,class=plum,scale=1.0",)}).draw(range(2)).x_0
    assert (wish - guides).abs().max() < TOLERANCE


def test_a_wish_for_several_alike_tells_a_conditional_model_the_null_class():
    plan = plan_of(model="cond", classifier="noisy", classes=("apple=1,plum=1", "pear=2,plum=1"))
    assert plan.targets([0, 1]).y(3).tolist() == [3, 1]


@pytest.mark.parametrize("kind, run_and_saved", [
    ("cfg", {"denoiser": (10, 0)}), ("cfg in an interval", {"denoiser": (6, 4)}),
    ("autoguidance", {"denoiser": (5, 0), "weak model": (5, 0)}), ("every", {"denoiser": (5, 0), "the classifier": (3, 2)}),
    ("held", {"denoiser": (5, 0), "the classifier": (3, 2)}), ("interval", {"denoiser": (5, 0), "the classifier": (1, 4)}),
    ("particles", {"denoiser": (20, 0), "the classifier": (20, 0)}),
    ("inpaint in an interval", {"denoiser": (5, 0), "inpaint:picture.png": (1, 4)}),
    ("universal", {"denoiser": (10, 0), "the classifier": (30, 0)})])
def test_evaluations_are_counted_as_they_are_made(kind: str, run_and_saved: dict[str, tuple[int, int]],
                                                  monkeypatch: pytest.MonkeyPatch):
    plan = plan_of(**KINDS[kind])
    assert evaluations(plan) == run_and_saved
    calls: dict[str, int] = {}
    for name, network in (("denoiser", plan.denoiser.network), ("weak model", plan.weak and plan.weak.network),
                          ("the classifier", plan.classifier and plan.classifier.network)):
        if network is not None:
            network.register_forward_pre_hook(
                lambda module, inputs, name=name: calls.update({name: calls.get(name, 0) + len(inputs[0])}))
    plan.draw([0])
    calls["the classifier"] = calls.get("the classifier", 1) - (plan.classifier is not None)  # log p(y | x_0) of the line
    assert {name: calls.get(name, run) for name, (run, _) in run_and_saved.items()} == {
        name: run for name, (run, _) in run_and_saved.items()}  # of measurements there is no network to count
    assert run(*flags_of(KINDS[kind]), "--num-samples", 2, "--out", "out", "--no-check").exit_code == 0
    told = json.loads(Path("out/manifest.json").read_text())["evaluations"]
    saved = {name: saved for name, (_, saved) in run_and_saved.items() if saved}
    assert told == {name: run for name, (run, _) in run_and_saved.items()} | ({"saved": saved} if saved else {})


@pytest.mark.parametrize("guide, each", [
    ("rho=0,mu=1,iterations=2", 2), ("rho=1,mu=0,iterations=2", 1), ("rho=0,mu=0", 0), ("push=0", 0),
    ("push=1,smooth=0.1,draws=3", 3), ("mu=1,smooth=0.1,draws=3,iterations=2", 6)])
def test_evaluations_of_guides_that_move_x0_hat_are_as_many_as_are_made(guide: str, each: int):
    other = f"classifier:other,class=rough,see=through,{guide}"
    plan = plan_of(**GUIDED | {"scale": 0.0, "classes": ("pear",), "guide": (other,)})
    assert evaluations(plan)["classifier:other,class=rough"].run == 5 * each
    seen: list[int] = []
    network: Any = plan.guides[1].classifier
    network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    plan.draw([0])
    assert sum(seen) == 5 * each + 1  # log p(y | x_0) of the line


def test_a_network_is_run_where_any_sample_needs_it():
    assert evaluations(plan_of(**GUIDED | {"scale": (0.0, 5.0, 0.0, 0.0)}))["the classifier"] == (5, 0)
    assert evaluations(plan_of(model="cond", cfg=(1.0, 3.0, 1.0, 1.0)))["denoiser"] == (10, 0)


def test_the_effective_size_of_particles_is_told_and_its_collapse_warned_of():
    result = run(*flags_of(GUIDED | {"scale": 200.0, "particles": 8}), "--num-samples", 3, "--out", "out", "--no-check")
    assert result.exit_code == 0 and "particles count" in result.stderr, result.output
    lines = [json.loads(line) for line in Path("out/samples.jsonl").read_text().splitlines()]
    told = json.loads(Path("out/manifest.json").read_text())["ess"]
    assert all(1 <= line["ess"] <= 8 for line in lines) and told["smallest"] == min(line["ess"] for line in lines)


def test_a_clean_classifier_of_another_size_is_resized_and_told_and_a_noisy_one_at_x0_is_doubted():
    notes = plan_of(**KINDS["clean"]).notes
    assert any("at 16 pixels a side, resized from 8" in note and "differentiably" in note for note in notes)
    assert any("learned on noised images" in note for note in plan_of(**GUIDED | {"see": "x0"}).notes)
    assert not plan_of(**GUIDED).notes


def test_by_itself_a_contrast_leaves_the_default_classifier_out(tmp_path: Path):
    advice = {"sampling": {"classifier": str(Path("noisy").resolve()), "scale": 2.0, "steps": {"ddpm": "5"}}}
    cond = with_drawn_weights(UNet(replace(UNET, num_classes=4)))
    stored(unet_denoiser(cond, SCHEDULE, "learned_range", class_names=NAMES, null_class=True), tmp_path / "advised", **advice)
    assert plan_of(model="advised").classifier is not None
    assert plan_of(model="advised", cfg=2.0).classifier is None
    assert plan_of(model="advised", weak="cond").classifier is None
    assert plan_of(model="advised", cfg=2.0, scale=1.0).classifier is not None
    assert plan_of(model="advised", cfg=2.0, classifier="noisy").request.scale == 2.0


@pytest.mark.parametrize("arguments, words", [
    (["--model", "plain", "--cfg", 2], ["--cfg needs a model that knows the null class", "plain is unconditional", "--drop"]),
    (["--model", "cond", "--class", "none", "--cfg", 2], ["--cfg contrasts a class with none"]),
    (["--model", "cond", "--cfg", 2, "--weak", "cond"], ["two contrasts; give one"]),
    (["--model", "cond", "--cfg-plus-plus"], ["--cfg-plus-plus is given and --cfg is not"]),
    (["--model", "cond", "--cfg", 2, "--cfg-plus-plus"], ["takes a --cfg from 0 to 1, not 2"]),
    (["--model", "cond", "--cfg", 0.5, "--cfg-plus-plus", "--contrast", "every=2"], ["goes without an interval"]),
    (["--model", "cond", "--cfg", "nan"], ["finite number"]),
    (["--model", "cond", "--contrast", "apg=0"], ["--contrast is given and there is none"]),
    (["--model", "cond", "--cfg", 2, "--contrast", "agp=0"], ["unknown setting 'agp'; did you mean apg?"]),
    (["--model", "cond", "--cfg", 2, "--contrast", "every=2:held"], ["cannot be held"]),
    (["--model", "cond", "--weak-scale", 2], ["--weak-scale is given and --weak is not"]),
    (["--model", "plain", "--class", "none", "--weak", "linear"], ["the weak model linear", "another noise schedule"]),
    (["--model", "plain", "--class", "none", "--weak", "nosuch"], ["there is no denoiser 'nosuch'"]),
    (["--model", "plain", "--classifier", "noisy", "--scale-interval", "80:90"],
     ["--scale-interval 80:90 contains no step; the steps' sigmas go from"]),
    (["--model", "plain", "--classifier", "noisy", "--scale-interval", "3:1"], ["two numbers of sigma, the lower first"]),
    (["--model", "plain", "--classifier", "noisy", "--scale-interval", "nan:1"], ["two numbers of sigma"]),
    (["--model", "plain", "--classifier", "noisy", "--scale-every", 0], ["a whole number of steps"]),
    (["--model", "plain", "--classifier", "noisy", "--scale-schedule", "0:nan"], ["of which not all is 0"]),
    (["--model", "plain", "--classifier", "noisy", "--scale-schedule", "steep"], ["constant, linear, cosine, sine"]),
    (["--model", "plain", "--classifier", "noisy", "--adapt", "entropy:0.5"], ["a cap of at least 1"]),
    (["--model", "plain", "--class", "none", "--adapt", "entropy"], ["--adapt is for a classifier, and none is used"]),
    (["--model", "plain", "--classifier", "noisy", "--backward", 2], ["give --see through with it"]),
    (["--model", "plain", "--classifier", "noisy", "--see", "through", "--grad-at", "mean"], ["looks at x_t alone"]),
    (["--model", "plain", "--classifier", "noisy", "--see", "through", "--particles", 2], ["with --see through"]),
    (["--model", "plain", "--classifier", "noisy", "--adapt", "entropy", "--particles", 2], ["with --adapt have"]),
    (["--model", "plain", "--classifier", "noisy", "--scale-every", "2:held", "--particles", 2], ["with --scale-every:held"]),
    (["--model", "plain", "--class", "pear", "--cfg", 2], ["--cfg needs a model that knows the null class"]),
    (["--model", "cond", "--cfg", 2, "--particles", 2], ["by what guides tell, and there are none"]),
    (["--model", "plain", "--classifier", "noisy", "--scale-schedule", "sine", "--particles", 2], ["--scale-schedule have"]),
    (["--model", "plain", "--class", "none", "--guide", "classifier:noisy,class=pear,see=through,scale=1,backward=2",
      "--particles", 2], ["with classifier:noisy,backward have"]),
    (["--model", "plain", "--classifier", "noisy", "--see", "through", "--guide", "inpaint:picture.png,mask=mask.png"],
     ["through which inpaint:picture.png would look", "--threshold none"]),
    (["--model", "plain", "--classifier", "noisy", "--see", "through", "--threshold", "dynamic", "--guide",
      "inpaint:picture.png,mask=mask.png"], ["through which inpaint:picture.png would look"]),
    (["--model", "plain", "--classifier", "noisy", "--see", "through", "--threshold", "dynamic", "--particles", 2],
     ["with --see through"]),
    (["--model", "plain", "--classifier", "noisy", "--guide", "classifier:noisy,iterations=3"], ["nothing without mu"]),
    (["--model", "plain", "--classifier", "noisy", "--guide", "classifier:noisy,rate=3"], ["nothing without backward"]),
    (["--model", "plain", "--class", "none", "--guide", "colour:0.5,push=1,rho=1"], ["one thing in two units"]),
    (["--model", "cond", "--cfg", 2, "--contrast", "rescale=2"], ["as rescale where a number from 0 to 1"]),
    (["--model", "cond", "--cfg", 2, "--contrast", "apg=0,momentum=1"], ["a number between -1 and 1"]),
    (["--model", "cond", "--cfg", 0.5, "--cfg-plus-plus", "--contrast", "schedule=sine"], ["without an interval, a sched"]),
    (["--model", "cond", "--cfg", 2, "--grad-at", "mean"], ["for guides that add to the score"]),
    (["--model", "plain", "--classifier", "noisy", "--scale-schedule", "0:0"], ["of which not all is 0"]),
    (["--model", "plain", "--classifier", "noisy", "--scale-interval", "0.2:1", "--scale-every", 5], ["each 5th"]),
    (["--model", "plain", "--classifier", "noisy", "--class", "apple=1,pear=1", "--adapt", "entropy"], ["ask for several"]),
    (["--model", "plain", "--class", "none", "--guide", "inpaint:picture.png,mask=nosuch.png"], ["there is no such file"]),
    (["--model", "plain", "--classifier", "noisy", "--see", "y"], ["'y' is not one of"]),
    (["--model", "plain", "--classifier", "noisy", "--recur", "often"], ["a whole number is wanted, as in 2 or 10,interval"]),
    (["--model", "plain", "--classifier", "noisy", "--particles", 2, "--sampler", "ddim"],
     ["by the variance of a step", "ddim is sampled without one; give --sampler ddpm"]),
    (["--model", "plain", "--classifier", "noisy", "--particles", 2, "--recur", 2], ["with --recur have"]),
    (["--model", "plain", "--class", "none", "--particles", 2, "--guide", "colour:0.5"], ["with colour:0.5,push have"]),
    (["--model", "plain", "--classifier", "noisy", "--class", "apple=0,pear=0"], ["sum to 0"]),
    (["--model", "plain", "--classifier", "noisy", "--class", "apple=1,pear"], ["'pear' has no weight"]),
    (["--model", "cond", "--cfg", 2, "--class", "apple=1,pear=0.5"], ["weights of classes are for a classifier, and none"]),
    (["--model", "plain", "--class", "none", "--guide", "classifier:noisy"], ["told no class by --class none"]),
    (["--model", "plain", "--classifier", "noisy", "--guide", "classifier:noisy,mu=1"], ["moves x0_hat, and must see it"]),
    (["--model", "plain", "--classifier", "noisy", "--guide", "classifier:other"], ["classes"]),
    (["--model", "plain", "--class", "none", "--guide", "classifier:nosuch,class=1"], ["there is no classifier 'nosuch'"]),
    (["--model", "linear", "--class", "none", "--guide", "classifier:noisy,class=apple"], ["classifier noisy learned on"]),
    (["--model", "plain", "--class", "none", "--guide", "inpaint:nosuch.png,mask=mask.png"], ["there is no such file"]),
    (["--model", "plain", "--class", "none", "--guide", "inpaint:picture.png"], ["needs a mask"]),
    (["--model", "plain", "--class", "none", "--guide", "colour:#zz"], ["the colour '#zz'"]),
    (["--model", "plain", "--class", "none", "--guide", "downsample:picture.png,factor=3"],
     ["3 times fewer a side; give a factor that divides both"]),
    (["--model", "plain", "--classifier", "clean"], ["learned on another noise schedule"]),
])
def test_what_cannot_be_is_refused_in_a_sentence(arguments: list[Any], words: list[str]):
    assert_refused(run(*arguments, "--num-samples", 2, "--out", "out", "--no-check"), *words)
    assert not list(Path(".").glob("out/*.png"))


def test_lists_and_tables_of_other_samples_and_classes_are_refused():
    for scale, words in (((1.0, 2.0), "scale is a list of 2 for 4 samples"), ({"apple": 1.0}, "pear, which is asked for, is"),
                         ({"apple": 1.0, "fig": 2.0}, "fig")):
        with pytest.raises(UserError, match=words):
            plan_of(**GUIDED | {"scale": scale})
