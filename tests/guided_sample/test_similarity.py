"""Like a picture, in its style, as words say: SDG's losses, what is compared with what, and how it is asked for."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from guided_sample.cli.sample import default_out
from guided_sample.denoiser import unet_denoiser
from guided_sample.evaluations import evaluations
from guided_sample.guides import GuideSpec
from guided_sample.guides.similarity import cosine, gram, like, structure, style, style_of, worded
from guided_sample.loading import Shelf
from guided_sample.model import Guide, Look, Prediction, steered, steered_at_mean
from guided_sample.pictures import picture_file
from guided_sample.plan import UPSAMPLING, Plan
from guided_sample.request import Request, with_flags
from guided_sample.resolve import resolve_names
from guided_sample.steps import Step, steps
from guided_sample.unet import UNet
from noisy_clf.checkpoints.model_folder import BUNDLED
from noisy_clf.errors import UserError
from noisy_clf.networks.features import Features
from noisy_clf.noise import SampleNoise
from noisy_clf.schedule import NoiseSchedule
from tests.commands import assert_refused, run
from tests.conftest import NAMES, SCHEDULE, UNET, stored, tiny_classifier, tiny_denoiser, tiny_encoder
from tests.guidance_family import VECTORS, arrays
from tests.reference import with_drawn_weights

STEP = steps("10", SCHEDULE)[4]
PICTURES = torch.linspace(-1, 1, 2 * 64).view(2, 1, 8, 8).sin()


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain is unconditional, null knows the null class, cond does not; enc goes with them, alien is of another schedule, large
    of another size; clean is a clean classifier, noisy a noisy one."""
    folder = tmp_path_factory.mktemp("similar")
    for name, encoder in (("enc", tiny_encoder()), ("alien", tiny_encoder(NoiseSchedule.named("linear", 50))),
                          ("large", tiny_encoder(image_size=16))):
        stored(encoder, folder / name)
    stored(tiny_classifier(), folder / "noisy", training={"t_sampling": "uniform"})
    stored(tiny_classifier(), folder / "clean", training={"t_sampling": "levels:0,0"})
    advice = {"sampling": {"classifier": str(folder / "noisy"), "encoder": str(folder / "enc"), "steps": {"ddpm": "5"}}}
    stored(tiny_denoiser(), folder / "plain", **advice)
    stored(tiny_denoiser(), folder / "bare")
    stored(tiny_denoiser(class_names=NAMES), folder / "cond", **advice)
    null = with_drawn_weights(UNet(replace(UNET, num_classes=4)))
    stored(unet_denoiser(null, SCHEDULE, "learned_range", class_names=NAMES, null_class=True), folder / "null", **advice)
    for i, size in enumerate(((8, 8), (8, 8), (20, 12))):
        pixels = np.random.default_rng(i).integers(0, 256, size[::-1], dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{'abc'[i]}.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture(autouse=True)
def beside_the_models(models: Path) -> None:
    for path in models.iterdir():
        Path(path.name).symlink_to(path)


def plan_of(**fields: Any) -> Plan:
    return Plan.of(Request(**{"model": "plain", "num_samples": 4} | fields), "cpu")


def relative(found: Tensor, theirs: Tensor) -> float:
    return float((found.double() - theirs.double()).abs().max() / theirs.double().abs().max())


def test_cosines_and_their_gradients_are_those_of_sdgs_program():
    theirs = arrays("sdg_losses")
    for wanted, name in (("reference_5", "semantic"), ("text_feature", "text")):
        embedding = theirs["feature_5"].clone().requires_grad_()
        found = cosine(embedding, theirs[wanted])
        gradient, = torch.autograd.grad(found.sum(), embedding)
        assert relative(found.detach(), theirs[name]) < 1e-5 and relative(gradient, theirs[f"{name}_grad"]) < 1e-5


def test_gram_matrices_and_their_distance_are_those_of_sdgs_program_but_for_its_1e10_and_its_half_precision():
    theirs = arrays("sdg_losses")
    maps, wanted = ([theirs[f"{what}_{i}"] for i in range(5)] for what in ("feature", "reference"))
    for i, one in enumerate(maps):
        assert relative(gram(one)[0], theirs[f"gram_half_{i}"]) < 2e-3
    found = style(maps, wanted)
    assert abs(float(found.double()) * 1e10 / VECTORS["sdg_losses"]["style_plain_double"] - 1) < 1e-5
    assert abs(float(found) * 1e10 / float(theirs["style_half"]) - 1) < 2e-3


def test_styles_of_a_batch_do_not_mix():
    """Which they do in SDG's program."""
    maps, wanted = (torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    wanted = wanted * torch.tensor([1.0, 3.0, 9.0]).view(3, 1, 1, 1)
    together = style(list(maps), list(wanted))
    alone = torch.cat([style(list(maps[:, i:i + 1]), list(wanted[:, i:i + 1])) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_gram_matrices_stay_in_float32_under_autocast():
    one = 300 * torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = gram(one)
    exact = torch.einsum("bchw,bdhw->bcd", one.double(), one.double()) / one[0].numel()
    assert found.dtype == torch.float32 and relative(found, exact) < 1e-6


def test_structure_is_the_mean_squared_difference_of_each_map():
    maps, wanted = [torch.ones(2, 3, 4, 4), torch.zeros(2, 6, 2, 2)], [torch.zeros(2, 3, 4, 4), torch.full((2, 6, 2, 2), 3.0)]
    assert structure(maps, wanted).tolist() == [-5, -5]


class Recording:
    """An encoder of the pixels and their squares that tells what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor = torch.zeros(())) -> Features:
        self.seen.append((x, t))
        return Features([x, x[:, :, ::2, ::2] ** 2], torch.cat([x, x ** 2], dim=1).flatten(1))


def look_at(x_t: Tensor, step: Step = STEP) -> Look:
    return Look(lambda x, step: Prediction(x * 0.8 + 0.1, 0.1), x_t.clone().requires_grad_(), step)


def test_at_x_t_a_picture_is_noised_to_the_same_t_by_the_samples_own_noise_anew_each_time():
    encoder, shape = Recording(), (1, 8, 8)
    log_density = like(encoder, PICTURES, SampleNoise(3, [5, 7], shape, torch.device("cpu"), (6,)))
    noise, x_t = SampleNoise(3, [5, 7], shape, torch.device("cpu"), (6,)), torch.randn(2, *shape)
    for step in (STEP, steps("10", SCHEDULE)[5]):
        found = log_density(look_at(x_t, step))
        (reference, t), (shown, told) = encoder.seen[-2:]
        torch.testing.assert_close(reference, step.alpha_bar ** 0.5 * PICTURES + (1 - step.alpha_bar) ** 0.5 * noise())
        assert torch.equal(shown, x_t) and t.tolist() == told.tolist() == [step.t] * 2 and not reference.requires_grad
        embeddings = (torch.cat([one, one ** 2], dim=1).flatten(1) for one in (x_t, reference))
        torch.testing.assert_close(found, cosine(*embeddings))


def test_at_the_mean_of_a_step_the_picture_is_noised_to_where_that_is():
    encoder = Recording()
    guide = Guide(like(encoder, PICTURES, lambda: torch.zeros_like(PICTURES)))
    for step in (STEP, steps("10", SCHEDULE)[-1]):
        steered_at_mean(lambda x, step: Prediction(0.9 * x, 0.1), guide)(torch.randn(2, 1, 8, 8), step)
        reference, t = encoder.seen[-2]
        torch.testing.assert_close(reference, step.alpha_bar_prev ** 0.5 * PICTURES)
        assert t.tolist() == [max(step.t_prev, 0)] * 2


@pytest.mark.parametrize("of", [like, style_of])
@pytest.mark.parametrize("see, share", [("x0", 1.0), ("through", 0.8)])
def test_at_x0_hat_the_picture_is_clean_and_seen_once(of: Any, see: str, share: float):
    """And x0_hat is x_t's share of 1 beside a constant, or through the denoiser."""
    encoder = Recording()
    guide = Guide(of(encoder, PICTURES, None, see))
    model = steered(lambda x, step: Prediction(x * 0.8 + 0.1, 0.1), guide)
    x_t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    gradient = model(x_t, STEP).gradient
    model(x_t, steps("10", SCHEDULE)[5])
    assert [len(x) for x, _ in encoder.seen] == [2] * 3 and torch.equal(encoder.seen[0][0], PICTURES)
    assert all(t.tolist() == [0, 0] for _, t in encoder.seen)
    x_0 = (x_t * 0.8 + 0.1).requires_grad_()
    wanted, seen = encoder(PICTURES), encoder(x_0)
    density = cosine(seen.embedding, wanted.embedding) if of is like else style(seen.maps, wanted.maps)
    torch.testing.assert_close(gradient, share * torch.autograd.grad(density.sum(), x_0)[0])


def test_layers_choose_among_the_maps_and_words_are_met_by_their_cosine():
    x_t, clean = torch.randn(2, 1, 8, 8), Recording()
    wanted, seen = clean(PICTURES).maps, clean(x_t * 0.8 + 0.1).maps
    look = look_at(x_t)
    torch.testing.assert_close(like(clean, PICTURES, see="through", layers=(2,))(look), structure(seen[1:], wanted[1:]))
    torch.testing.assert_close(style_of(clean, PICTURES, see="through", layers=(1,))(look), style(seen[:1], wanted[:1]))
    torch.testing.assert_close(style_of(clean, PICTURES, see="through")(look), style(seen, wanted))
    words = torch.randn(2, 128)
    torch.testing.assert_close(worded(clean, words)(look), cosine(clean(x_t).embedding, words))
    torch.testing.assert_close(worded(clean, words, "x0")(look), cosine(clean(x_t * 0.8 + 0.1).embedding, words))


def test_of_scale_a_and_of_scale_b_two_guides_are_one_of_scale_a_plus_b():
    """Both see the picture through the same noise."""
    whole = plan_of(like=("a.png",), like_scale=8.0).draw(range(2)).x_0
    parts = plan_of(like=("a.png",), like_scale=3.0, guide=("like:a.png,scale=5",)).draw(range(2)).x_0
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=0)


def test_each_sample_has_its_picture_in_turn_and_tells_it_and_how_near_it_came():
    plan = plan_of(like=("a.png", "b.png"), style=("c.png",), like_scale=20.0, style_scale=1e3, num_samples=None)
    assert plan.request.num_samples == 4 and plan.notes == ("c.png has 20 x 12 pixels: its middle, resized to 8 x 8.",)
    batch = plan.draw(range(3))
    assert [line["wanted"] for line in batch.lines] == [{"like": f"{name}.png", "style": "c.png"} for name in "aba"]
    assert [line["class"] for line in batch.lines] == [None] * 3
    a, b = (torch.tensor(np.asarray(Image.open(f"{name}.png"))) for name in "ab")
    pictures = torch.stack([a, b, a])[:, None] / 127.5 - 1
    encoder, t = plan.encoders[0].encoder, torch.zeros(3, dtype=torch.int64)
    expected = cosine(encoder(batch.x_0, t), encoder(pictures, t)).tolist()
    assert [line["similarities"]["like"] for line in batch.lines] == pytest.approx(expected, abs=1e-3)
    assert all(line["similarities"]["style"] < 0 for line in batch.lines)
    one = plan_of(like=("b.png",), like_scale=20.0, style=("c.png",), style_scale=1e3).draw([1])
    torch.testing.assert_close(batch.x_0[1:2], one.x_0, atol=1e-4, rtol=0)
    other = plan_of(like=("a.png",), like_scale=20.0, style=("c.png",), style_scale=1e3).draw([1])
    assert not torch.allclose(other.x_0, one.x_0, atol=1e-3)


@pytest.mark.parametrize("see", ["x_t", "x0"])
@pytest.mark.parametrize("kind, layers, scale, shares", [("like", None, 30.0, 0.5), ("like", "1", 100.0, 0.6),
                                                         ("style", None, 1e6, 0.6)])
def test_samples_come_nearer_to_what_they_are_to_be_like(kind: str, layers: str | None, scale: float, shares: float, see: str):
    """By the torso of the bundled classifier, on the bundled digits: by so much of the distance at least."""
    def far(scale: float) -> float:
        fields: dict[str, Any] = {kind: ("digits:three",), f"{kind}_scale": scale, "like_layers": layers}
        plan = plan_of(model="digits", encoder=str(BUNDLED / "digits" / "classifier"), see=see, sampler="ddim", steps="ddim20",
                       **fields)
        value = np.mean([line["similarities"][kind] for line in plan.draw(range(4)).lines])
        return float(1 - value if layers is None and kind == "like" else -value)

    assert far(scale) < (1 - shares) * far(0.0)


@pytest.mark.parametrize("fields, classes, classifier", [
    ({}, ("none",), None), ({"classes": ("pear",)}, (1,), "noisy"), ({"classifier": "noisy"}, (0, 1, 2), "noisy"),
    ({"scale": 2.0}, (0, 1, 2), "noisy"), ({"classes": ("all",), "scale": 0.0}, (0, 1, 2), "noisy"),
    ({"model": "null"}, ("none",), None), ({"model": "null", "cfg": 2.0}, (0, 1, 2), None),
    ({"model": "null", "classes": ("pear",)}, (1,), "noisy"), ({"model": "cond"}, (0, 1, 2), None),
    ({"model": "cond", "classes": ("all",), "scale": 0.0}, (0, 1, 2), None)])
def test_beside_a_picture_no_class_is_asked_for_unless_one_is(fields: dict[str, Any], classes: Any, classifier: str | None):
    for how in ({"like": ("a.png",)}, {"guide": ("style:a.png,scale=1000",)}):
        plan = plan_of(**how, **fields)
        assert plan.request.classes == classes and (plan.classifier is None) == (classifier is None)
        again = Plan.of(Request.of(plan.request.to_dict()), "cpu")  # as from its manifest
        assert again.identity(again.manifest) == plan.identity(plan.manifest)
        plan.draw([0])


@pytest.mark.parametrize("fields, each", [
    ({"like": ("a.png",)}, 2), ({"like": ("a.png",), "see": "x0"}, 1),
    ({"style": ("a.png",), "see": "through", "style_scale": 1e3}, 1),
    ({"guide": ("like:a.png,see=through,rho=1,mu=1",)}, 2), ({"guide": ("style:a.png,every=5,scale=1000",)}, 0.4)])
def test_evaluations_are_counted_as_they_are_made(fields: dict[str, Any], each: float):
    plan, seen = plan_of(**fields), 0
    name, = set(evaluations(plan)) - {"denoiser"}

    def count(module: Any, inputs: Any) -> None:
        nonlocal seen
        seen += len(inputs[0])

    plan.encoders[0].register_forward_pre_hook(count)
    plan.draw([0])
    beside = 2 + ("x_t" not in (plan.guides[0].spec.settings.get("see", "x_t"),))  # of the line two; a clean picture, once
    assert evaluations(plan)[name].run == 5 * each == seen - beside


def test_an_encoder_is_run_where_any_sample_needs_it():
    assert evaluations(plan_of(like=("a.png",), like_scale=(0.0, 5.0, 0.0, 0.0)))["like"] == (10, 0)
    assert "like" not in evaluations(plan_of(like=("a.png",), like_scale=0.0))


def test_no_class_by_a_flag_forgets_the_classifier_of_a_file_and_not_what_a_picture_is_compared_by():
    values = {"like": ["a.png"], "encoder": "enc", "classifier": "noisy", "see": "x0", "scale_every": "2"}
    kept = {"class": ("none",), "encoder": "enc", "digests": {}}
    assert with_flags(values, {"class": ("none",)}) == kept | {"like": ["a.png"], "see": "x0"}
    assert with_flags({**values, "like": []}, {"class": ("none",)}) == kept | {"like": []}


def test_guides_share_an_encoder_which_is_taken_to_the_device_and_compiled_once(monkeypatch: pytest.MonkeyPatch):
    compiled: list[Any] = []
    monkeypatch.setattr("guided_sample.plan.compile_network", lambda network, device: compiled.append(network))
    plan = Plan.of(Request(model="plain", like=("a.png",), style=("b.png",), guide=("like:b.png",)), "cpu", compile=True)
    plan.started
    assert compiled == [plan.denoiser.network, *plan.encoders] and len(plan.encoders) == 1
    plan.leave()


def test_half_precision_draws_nearly_the_same():
    fields: dict[str, Any] = {"like": ("a.png",), "style": ("b.png",), "like_scale": 5.0, "style_scale": 1e4}
    plans = [plan_of(**fields, precision=precision) for precision in ("float32", "bf16")]
    exact, half = (plan.draw(range(2)).x_0 for plan in plans)
    assert (exact - half).abs().mean() < 0.05
    types = [{parameter.dtype for parameter in plan.encoders[0].parameters()} for plan in plans]
    assert types == [{torch.float32}, {torch.float32, torch.bfloat16}]


def test_a_manifest_tells_each_picture_and_the_encoder_and_other_ones_are_refused():
    command = ["--model", "plain", "--like", "a.png", "--like", "b.png", "--num-samples", 2, "--no-check", "--out", "out"]
    assert run(*command).exit_code == 0
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["request"]["like"] == ["a.png", "b.png"] and manifest["request"]["like_scale"] == 100
    assert set(manifest["digests"]) == {"model", "like.encoder", "like.picture-1", "like.picture-2"}
    assert manifest["configs"]["like"]["kind"] == "encoder"
    assert run(*command, "--num-samples", 3).exit_code == 0
    swapped = [{"a.png": "b.png", "b.png": "a.png"}.get(str(word), word) for word in command]
    assert_refused(run(*swapped), "picture-1")
    assert_refused(run(*command, "--encoder", "clean", "--see", "x0"), "like.encoder")
    again = ["--request", "out/manifest.json", "--no-check", "--out"]
    assert run(*again, "other", "--like", "c.png").exit_code == 0  # another picture than the request's, by its flag
    assert run(*again, "others", "--encoder", "clean", "--see", "x0").exit_code == 0
    Path("a.png").unlink()
    Path("a.png").write_bytes(Path("b.png").read_bytes())
    assert_refused(run(*again, "changed"), "whose like.picture-1 had the SHA-256")


def test_pictures_that_come_with_a_model_are_named_by_it():
    assert picture_file("digits:three").is_file() and picture_file("a.png") == Path("a.png")
    spec = GuideSpec.parse("like:digits:three,scale=2")
    assert (spec.source, spec.title) == ("digits:three", "like:digits:three")
    with pytest.raises(UserError, match="there is no picture 'ten' of digits; there are: digits:eight, digits:five"):
        picture_file("digits:ten")
    assert plan_of(like=("digits:three",)).digests["like.picture-1"]
    assert plan_of(guide=("blur:digits:three,sigma=1",), classes=("none",)).notes == ()


def test_words_guide_by_clip_and_unknown_ones_are_named():
    pytest.importorskip("open_clip")
    fields: dict[str, Any] = {"model": "digits", "encoder": "clip:digits", "see": "x0", "sampler": "ddim", "steps": "ddim10"}
    plan = plan_of(**fields, text=("an eight", "a two"), num_samples=2)
    lines = plan.draw(range(2)).lines
    assert [line["wanted"] for line in lines] == [{"text": "an eight"}, {"text": "a two"}]
    unguided = plan_of(**fields, text=("an eight", "a two"), text_scale=0.0, num_samples=2).draw(range(2)).lines
    assert all(line["similarities"]["text"] > before["similarities"]["text"] for line, before in zip(lines, unguided))
    text = plan.encoders[0].encoder.text
    assert text is not None and plan.digests["text.tower"] == text["digest"] and "text" not in plan.configs["text"]
    with pytest.raises(UserError, match=r"whose text.tower had the SHA-256 000000000000\.\.\., and now it has"):
        plan_of(**fields, text=("an eight",), digests={"text.tower": "0" * 64})
    again = with_flags({"text": ["a two"], "digests": {"text.tower": "0", "text.encoder": "1"}}, {"encoder": "other"})
    assert again["digests"] == {}
    grammar = plan_of(**fields | {"encoder": None, "see": "x_t"}, guide=("text:an eight,encoder=clip:digits,see=x0",),
                      num_samples=2)
    torch.testing.assert_close(grammar.draw([0]).x_0, plan.draw([0]).x_0, atol=2e-3, rtol=0)
    assert grammar.draw([0]).lines[0]["wanted"] == {"text:an eight": "an eight"}
    with pytest.raises(UserError, match="dog"):
        plan_of(**fields, text=("a dog",))
    with pytest.raises(UserError, match=r"words with a comma are for --text\) has the unknown setting 'bold'"):
        GuideSpec.parse("text:a three, bold")


@pytest.mark.parametrize("kind, wanted, encoder", [("like", "digits:three", "digits"), ("style", "digits:one", "digits"),
                                                   ("text", "a three", "digits-clip")])
def test_the_bundled_digits_bring_their_encoders(kind: str, wanted: str, encoder: str):
    if kind == "text":
        pytest.importorskip("open_clip")
    fields: dict[str, Any] = {"model": "digits", kind: (wanted,), "sampler": "ddim", "steps": "ddim10"}
    guided, plain = (plan_of(**fields, **scale) for scale in ({}, {f"{kind}_scale": 0.0}))
    assert guided.request.encoder == encoder and guided.notes == () and guided.classifier is None
    reached, before = (np.mean([line["similarities"][kind] for line in plan.draw(range(4)).lines]) for plan in (guided, plain))
    assert reached > before


def test_clean_encoders_are_at_home_at_x0_hat_and_warned_of_at_x_t():
    assert plan_of(like=("a.png",), encoder="clean", see="x0").notes == ()
    assert plan_of(like=("a.png",), encoder="clean").notes == (
        "Warning: clean never saw noise, and is shown x_t; give --see x0.",)
    assert plan_of(guide=("like:a.png,encoder=clean",)).notes == (
        "Warning: clean never saw noise, and is shown x_t; give like:a.png,see=x0.",)
    for see in ("x0", "through"):
        plan_of(like=("a.png",), encoder="alien", see=see).draw([0])  # at t = 0 no schedule counts


def test_words_go_by_the_models_text_encoder_and_pictures_by_its_encoder():
    advice = {"encoder": "enc", "text_encoder": "words"}
    stored(tiny_encoder(), Path("words"), text={"tower": "clip:digits", "digest": "0"})
    stored(tiny_denoiser(), Path("advised"), sampling=advice)
    for fields, encoder, guides in (
            ({"like": ("a.png",)}, "enc", ()), ({"like": ("a.png",), "text": ("an eight",)}, "words", ()),
            ({"guide": ("text:an eight", "style:a.png,scale=3")}, None, (
                "text:an eight,scale=30,encoder=words", "style:a.png,scale=3,encoder=enc")),
            ({"guide": ("style:a.png,scale=3",), "encoder": "large", "see": "x0"}, "large", None)):
        if guides is None:
            with pytest.raises(UserError, match="the encoder large's image size is 16 and the denoiser's 8"):
                resolve_names(Request(model="advised", **fields))
            continue
        found = resolve_names(Request(model="advised", **fields))
        assert (found.encoder, found.guide) == (encoder, guides)


LIKE = ["--model", "plain", "--like", "a.png"]


@pytest.mark.parametrize("arguments, words", [
    (["--model", "plain", "--like", "nosuch.png"], ["--like is to be found in nosuch.png, and there is no such file"]),
    (["--model", "plain", "--like", "text.png"], ["text.png cannot be read as a picture"]),
    (["--model", "plain", "--style", ""], ["--style is empty"]),
    (["--model", "plain", "--text", ""], ["--text is empty"]),
    (["--model", "plain", "--text", " "], ["--text has an empty text in it"]),
    (["--model", "plain", "--text", "an eight"], ["has no text tower", "clip:NAME"]),
    (["--model", "plain", "--guide", "text:an eight,encoder=clean,see=x0"], ["the encoder clean has no text tower"]),
    (["--model", "plain", "--guide", "like:nosuch.png"], ["the guide like:nosuch.png is to be found in nosuch.png"]),
    (["--model", "plain", "--guide", "like:a.png,layers=0"], ["as layers where numbers of the encoder's maps"]),
    (["--model", "plain", "--guide", "like:a.png,layers=1:1"], ["as layers where numbers of the encoder's maps"]),
    (["--model", "plain", "--guide", "text:an eight,layers=1"], ["unknown setting 'layers'"]),
    (["--model", "plain", "--guide", "like:a.png,see=x1"], ["as see where x_t or x0 or through must stand"]),
    (["--model", "plain", "--guide", "like:a.png,mu=1"], ["moves x0_hat, and must see it"]),
    (["--model", "plain", "--guide", "like:"], ["cannot be read", "like:PICTURE"]),
    ([*LIKE, "--like-layers", "3"], ["--like-layers asks for map 3 of the encoder", "which has 2; give some of 1 to 2"]),
    ([*LIKE, "--like-layers", "fine"], ["--like-layers has 'fine' where numbers"]),
    ([*LIKE, "--encoder", "alien"], ["the encoder alien learned on another noise schedule",
                                     "train-noisy-encoder --schedule-from DENOISER"]),
    ([*LIKE, "--encoder", "large", "--see", "x0"], ["the encoder large's image size is 16 and the denoiser's 8"]),
    ([*LIKE, "--encoder", "nosuch"], ["there is no encoder 'nosuch'"]),
    ([*LIKE, "--see", "x0", "--particles", 2], ["with --see x0 have"]),
    ([*LIKE, "--see", "x0", "--grad-at", "mean"], ["looks at x_t alone"]),
    ([*LIKE, "--like-scale", "nan"], ["nan is not a finite number"]),
    ([*LIKE, "--scale-every", 2], ["--scale-every is for a classifier, and none is used"]),
    (["--model", "plain", "--like-scale", 3], ["--like-scale is given and --like is not"]),
    (["--model", "plain", "--like-layers", "1"], ["--like-layers is given and --like is not"]),
    (["--model", "plain", "--encoder", "enc"], ["--encoder enc is for --like, --style and --text"]),
    (["--model", "plain", "--class", "none", "--see", "x0"], ["--see is for a classifier, and none is used"]),
    (["--model", "bare", "--like", "a.png"], ["no encoder goes with bare", "train-noisy-encoder", "--schedule-from bare"]),
    (["--model", "bare", "--guide", "style:a.png"], ["no encoder goes with bare"]),
])
def test_what_cannot_be_is_refused_in_a_sentence(arguments: list[Any], words: list[str]):
    assert_refused(run(*arguments, "--num-samples", 2, "--out", "out", "--no-check"), *words)
    assert not list(Path(".").glob("out/*.png"))


@pytest.mark.parametrize("scale, words", [((1.0, 2.0), "like_scale is a list of 2 for 4 samples"),
                                          ({"pear": 1.0}, "like_scale is a table of classes, and none is asked for")])
def test_scales_of_others_than_the_samples_are_refused(scale: Any, words: str):
    with pytest.raises(UserError, match=words):
        plan_of(like=("a.png",), like_scale=scale)


def test_scales_by_class_are_for_those_that_are_asked_for():
    table = plan_of(like=("a.png",), like_scale={"apple": 0.0, "pear": 9.0, "plum": 5.0}, classes=("all",), scale=0.0,
                    num_samples=3).draw(range(3)).x_0
    listed = plan_of(like=("a.png",), like_scale=(0.0, 9.0, 5.0), num_samples=3).draw(range(3)).x_0
    torch.testing.assert_close(table, listed, atol=1e-4, rtol=0)


def test_plans_of_one_shelf_share_an_encoder_in_its_precision(beside_the_models: None):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
    shelf = Shelf()
    for scale in (1.0, 2.0):  # the second finds it in half precision
        request = Request(model="plain", num_samples=1, style=("a.png",), style_scale=scale, encoder="enc",
                          precision="bf16", steps="2")
        Plan.of(request, "cpu", shelf=shelf).draw([0])


def test_another_encoder_has_another_folder_and_a_function_of_that_name_is_a_function():
    asked = [Request(model="digits", like=("digits:three",), encoder=encoder) for encoder in (None, "digits-clip")]
    outs = {default_out(one, resolve_names(one), again=False).name for one in asked}
    assert len(outs) == 2 and any("by-digits_clip" in out for out in outs)
    asked = [Request(model="digits", guide=(f"like:digits:{name}",)) for name in ("three", "eight")]
    assert len({default_out(one, resolve_names(one), again=False) for one in asked}) == 2
    assert not GuideSpec.parse("my.py:like").flagged
    assert all("like_digits_three" in out for out in outs)


def test_a_pictures_noise_is_not_the_samples_own_and_networks_leave_the_device():
    plan = plan_of(like=("digits:three",), encoder="enc", num_samples=1)
    seen: list[Tensor] = []
    plan.encoders[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x_T = plan.noise([0], ())()
    plan.model([0])(x_T, plan.steps[0])
    picture, sample = seen  # at the noisiest step nearly all is noise
    assert torch.equal(sample, x_T) and (picture - x_T).abs().mean() > 0.5
    asked = []
    plan.encoders[0].to = lambda device: asked.append(device)  # type: ignore[method-assign]
    plan.leave()
    assert asked == ["cpu"]


def test_a_second_stage_tells_what_its_samples_were_to_be_like():
    plan = plan_of(like=("digits:three", "digits:one"), encoder="enc")
    second = replace(plan, guides=(), stream=UPSAMPLING)
    assert [line["wanted"] for line in second.lines(range(3), torch.zeros(3, 1, 8, 8))] == [
        {"like": "digits:three"}, {"like": "digits:one"}, {"like": "digits:three"}]


def test_the_words_of_a_guide_are_part_of_what_its_images_are():
    three, eight = (GuideSpec.parse(f"text:{words},encoder=digits-clip") for words in ("a three", "an eight"))
    assert three.told != eight.told and "a three" in three.told


def test_gradients_of_style_and_structure_are_those_in_double_precision():
    maps, wanted = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def gram_in_double(one: Tensor) -> Tensor:
        return torch.einsum("bchw,bdhw->bcd", one, one) / one[0].numel()

    for ours, theirs in ((style, lambda a, b: (gram_in_double(a) - gram_in_double(b)).square().mean(dim=(1, 2))),
                         (structure, lambda a, b: (a - b).square().mean(dim=(1, 2, 3)))):
        a, b = maps.float().requires_grad_(), maps.clone().requires_grad_()
        found, = torch.autograd.grad(ours([a], [wanted.float()]).sum(), a)
        expected, = torch.autograd.grad(-theirs(b, wanted).sum(), b)
        assert relative(found, expected) < 1e-5
