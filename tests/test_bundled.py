"""The models in the package are worth bundling: small, good, and what they say they are."""
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.svm import SVC
from torch.nn import functional as F

from guided_sample.cli.sample import guided_sample
from guided_sample.loaders import load_model
from noisy_clf.checkpoints.model_folder import BUNDLED, bundled_models
from noisy_clf.datasets import load_dataset
from noisy_clf.datasets.images import LabelledImages, to_x_0
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.errors import UserError
from noisy_clf.evaluation.by_noise_level import evaluate, timestep_at
from noisy_clf.loaders import load_classifier
from noisy_clf.loaders.clip import load_clip
from noisy_clf.loaders.encoder import load_encoder, text_embeddings
from noisy_clf.noise import fixed_noise
from noisy_clf.space import Space


@pytest.fixture(scope="module")
def judge() -> SVC:
    """Never used for guidance: an SVC on the clean training images."""
    data = load_dataset("digits")
    return SVC().fit(data.train.whole()[0].flatten(1).numpy(), data.train.labels.numpy())


def sampled(*arguments: str, model: str = "digits") -> np.ndarray:
    result = CliRunner().invoke(guided_sample, ["--model", model, "--out", "out", "--batch-size", "100", *arguments])
    assert result.exit_code == 0, result.output
    with np.load("out/samples.npz") as archive:
        return archive["arr_0"].reshape(len(archive["arr_0"]), -1)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_together_they_are_below_12_mb():
    assert bundled_models("denoiser") == ["digits", "digits-cond"]
    assert bundled_models("classifier") == ["digits", "digits-judge"]
    assert bundled_models("encoder") == ["digits", "digits-clip"]
    assert size(BUNDLED) < 12e6 and size(BUNDLED / "digits-cond") < 3e6 and size(BUNDLED / "digits-judge") < 600e3


def test_the_classifier_knows_held_out_digits_and_falls_to_chance_with_the_noise():
    clean, noisy, lost = evaluate(load_classifier("digits"), load_dataset("digits").validation, [0, 0.5, 1])
    assert clean.accuracy >= 0.97 and clean.ece < 0.02
    assert 0.9 < noisy.accuracy < clean.accuracy
    assert lost.nll == pytest.approx(np.log(10), abs=0.05)  # nothing can be known at the end, and it says so


def test_the_judge_knows_held_out_digits_and_is_of_another_make_than_the_guide():
    judge = load_classifier("digits-judge")
    clean, = evaluate(judge, load_dataset("digits").validation, [0])
    assert clean.accuracy >= 0.98 and clean.nll < 0.05
    assert type(judge.network) is not type(load_classifier("digits").network)


def test_no_model_is_guided_by_the_judge_unless_told_so():
    for name in bundled_models("denoiser"):
        advice = load_model(name).advice
        assert (advice.classifier, advice.encoder, advice.text_encoder) == ("digits", "digits", "digits-clip")


@torch.no_grad()
def at_level(encoder: NoisyEncoder, images: LabelledImages, level: float) -> torch.Tensor:
    """Embeddings of length 1 of the images noised to t/T = level."""
    x_0 = to_x_0(images.whole()[0])
    t = torch.full((len(x_0),), timestep_at(level, encoder.schedule.T))
    eps = fixed_noise(torch.arange(len(x_0)), x_0.shape[1:]) * (level > 0)
    return F.normalize(encoder(encoder.schedule.add_noise(x_0, t, eps), t), dim=1)


@pytest.mark.parametrize("name, level, least", [
    ("clip:digits", 0, 0.97), ("digits-clip", 0, 0.97), ("digits-clip", 0.25, 0.95), ("digits-clip", 0.5, 0.88)])
@pytest.mark.parametrize("form", ["a {}", "the digit {}."])
def test_held_out_digits_are_nearest_to_their_own_names(name, level, least, form):
    images = load_dataset("digits").validation
    encoder = load_encoder(name, Space(load_model("digits").denoiser.schedule, 16, 1)).encoder
    names = text_embeddings(encoder, [form.format(digit) for digit in load_dataset("digits").class_names])
    assert (at_level(encoder, images, level) @ names.T).argmax(1).eq(images.labels).float().mean() >= least


def test_what_has_no_meaning_for_the_digits_clip_is_refused():
    with pytest.raises(UserError, match="has never learned dog, of the text 'a dog'; it knows these words: 0, .*zero"):
        load_clip("clip:digits").embeddings(["an eight", "a dog"])


def test_the_encoder_sees_through_noise_what_a_digit_is():
    images = load_dataset("digits").validation
    encoder = load_encoder("digits").encoder
    clean = at_level(encoder, images, 0)
    for level, least in ((0.25, 0.98), (0.5, 0.9)):
        nearest = (at_level(encoder, images, level) @ clean.T).argmax(1)
        assert images.labels[nearest].eq(images.labels).float().mean() >= least


def test_configuration_tells_how_they_were_made():
    conditional = load_model("digits-cond").denoiser
    for path, model in (("digits/denoiser", load_model("digits").denoiser), ("digits/classifier", load_classifier("digits")),
                        ("digits-cond/denoiser", conditional), ("digits-judge/classifier", load_classifier("digits-judge")),
                        ("digits/encoder", load_encoder("digits").encoder),
                        ("digits-clip/encoder", load_encoder("digits-clip").encoder)):
        assert (BUNDLED / path / "config.json").read_text().count("scripts/make_digits.py") == 1
        assert str(model.schedule).startswith("cosine, T = 1000")
    assert load_model("digits").denoiser.class_names is None  # the denoiser never saw a label
    assert conditional.null_class and conditional.class_names == load_classifier("digits").class_names


@pytest.mark.parametrize("sampler", [("ddpm", "50"), ("ddim", "ddim25")])
def test_guided_samples_are_of_the_asked_class(judge, sampler):
    seen = judge.predict(sampled("--class", "all", "--num-samples", "100", "--sampler", sampler[0], "--steps", sampler[1]))
    assert (seen == np.arange(100) % 10).mean() >= 0.95


@pytest.mark.parametrize("flag, form", [("--like", "digits:{}"), ("--text", "the number {}")])
def test_samples_like_a_picture_or_as_words_say_are_of_that_class(judge, flag, form):
    names = load_classifier("digits").class_names
    wanted = [word for name in names for word in (flag, form.format(name))]
    seen = judge.predict(sampled(*wanted, "--num-samples", "100", "--sampler", "ddim", "--steps", "ddim25"))
    assert (seen == np.arange(100) % 10).mean() >= 0.9


def test_the_conditional_model_draws_the_asked_class_without_a_classifier(judge):
    seen = judge.predict(sampled("--class", "all", "--num-samples", "100", "--sampler", "ddim", "--scale", "0",
                                 model="digits-cond"))
    assert (seen == np.arange(100) % 10).mean() >= 0.9


@pytest.mark.parametrize("model", ["digits", "digits-cond"])
def test_unguided_samples_are_of_all_classes(judge, model):
    seen = judge.predict(sampled("--class", "none", "--num-samples", "200", "--sampler", "ddim", model=model))
    shares = torch.bincount(torch.from_numpy(seen), minlength=10) / 200
    assert 0.03 <= shares.min() and shares.max() <= 0.2
