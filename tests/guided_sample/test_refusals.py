"""What bad input gets: one sentence, and nothing half-written in place of something good."""
import errno
import json
import math
from pathlib import Path

import pytest
import torch

from guided_sample.loaders import load_denoiser
from guided_sample import loading
from guided_sample.folder import RunFolder
from guided_sample.guides.classifier import log_prob
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier
from noisy_clf.schedule import NoiseSchedule
from tests.commands import assert_refused, contents, run, sample
from tests.conftest import stored, tiny_classifier, tiny_denoiser


@pytest.mark.parametrize("arguments, words", [
    (["--class", "3"], ["there is no class 3; the classes are 0 to 2 (apple, pear, plum)."]),
    (["--class", "-1"], ["there is no class -1; the classes are 0 to 2"]),
    (["--class", "pare"], ["no class 'pare'; did you mean pear?"]),
    (["--class", "submarine"], ["no class 'submarine'; the classes are apple, pear, plum, or 0 to 2."]),
    (["--scale", "nan"], ["nan is not a finite number"]),
    (["--scale", "inf"], ["inf is not a finite number"]),
    (["--scale", "much"], ["'much' is not a valid float"]),
    (["--steps", "51"], ["steps '51' cannot be made", "1 to 50"]),
    (["--sampler", "ddim", "--steps", "ddim30"], ["the nearest that can", "ddim25"]),
    (["--steps", ","], ["steps ',' cannot be read"]),
    (["--steps", ""], ["--steps is empty; give it a value, or leave it out."]),
    (["--class", "all,1"], ["--class all goes with no other"]),
    (["--class", "1", "--class", "none"], ["--class none goes with no other"]),
    (["--sampler", "ddim", "--eta", "nan"], ["nan is not a finite number"]),
    (["--classifier", ""], ["--classifier is empty; give it a value, or leave it out."]),
    (["--model="], ["--model is empty; give it a value, or leave it out."]),
    (["--model", ""], ["--model is empty; give it a value, or leave it out."]),
    (["--sampler", "euler"], ["'euler' is not one of 'ddpm', 'ddim'"]),
    (["--eta", "0.5"], ["eta belongs to --sampler ddim"]),
    (["--sampler", "ddim", "--grad-at", "mean"], ["mean belongs to --sampler ddpm"]),
    (["--batch-size", "0"], ["--batch-size", "0 is not in the range x>=1"]),
    (["--num-samples", "0"], ["0 is not in the range x>=1"]),
    (["--device", "cuda:9"], ["device 'cuda:9' is not there; this machine has: cpu"]),
    (["--device", "abacus"], ["device 'abacus' is not there"]),
    (["--precision", "int4"], ["'int4' is not one of"]),
    (["--model", "digitz"], ["there is no denoiser 'digitz'; the names are:", "a path to a denoiser's folder works too"]),
    (["--classifier", "nowhere"], ["there is no classifier 'nowhere'"]),
])
def test_bad_options_end_in_a_sentence(denoiser_folder, arguments, words):
    assert_refused(run("--model", denoiser_folder, "--out", "out", *arguments), *words)
    assert not Path("out").exists()


def test_a_folder_with_another_runs_results_is_refused_and_stays(denoiser_folder):
    before = contents(sample(denoiser_folder, "--class", "1"))
    assert_refused(run("--model", denoiser_folder, "--out", "out", "--class", "1", "--seed", "1", "--eta", "0"),
                   "out holds another run's results (seed 0 there, 1 now)", "another --out")
    assert_refused(run("--model", denoiser_folder, "--out", "out", "--class", "2"), "class [1] there, [2] now")
    assert contents(Path("out")) == before
    Path("out/samples.jsonl").write_text("")  # its lines lost, it still has the images
    assert_refused(run("--model", denoiser_folder, "--out", "out", "--class", "2"), "class [1] there, [2] now")
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("text")
    assert_refused(run("--model", denoiser_folder, "--out", "mine"), "mine is there already and is not a sampling run's folder")
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.tex"]
    Path("app").mkdir()
    Path("app/manifest.json").write_text('{"name": "a web page"}')
    assert_refused(run("--model", denoiser_folder, "--out", "app"), "app/manifest.json is not that of a run of this toolkit")


def test_a_loaded_denoiser_is_frozen_and_in_evaluation_mode(denoiser_folder):
    network = load_denoiser(denoiser_folder).network
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def test_models_that_do_not_fit_or_are_damaged(denoiser_folder, classifier_folder):
    linear = stored(tiny_classifier(NoiseSchedule.named("linear", 50)), Path("linear"))
    assert_refused(run("--model", denoiser_folder, "--classifier", linear),
                   "another noise schedule (linear, T = 50", "--schedule-from")
    assert_refused(run("--model", denoiser_folder, "--classifier", denoiser_folder),
                   "holds a denoiser, and a classifier is wanted")
    assert_refused(run("--model", classifier_folder), "holds a classifier, and a denoiser is wanted")
    Path("empty").mkdir()
    assert_refused(run("--model", "empty"), "empty is a folder without a config.json")
    Path("file.pt").write_bytes(b"x")
    assert_refused(run("--model", "file.pt"), "file.pt is not a checkpoint of torch, or is damaged")
    torn = stored(tiny_denoiser(), Path("torn"))
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:5000])
    assert_refused(run("--model", torn, "--class", "none"), "torn/model.safetensors is not a whole safetensors file")


@pytest.mark.parametrize("network, more, message", [
    ({"cleverness": 9}, {}, "foreign: unknown setting cleverness"),
    ({"in_channels": "1"}, {}, "foreign/config.json: in_channels must be a whole number from 1 to 1024, not '1'"),
    ({"out_channels": 2.0}, {}, "foreign: out_channels must be a whole number, not 2.0"),
    ({}, {"class_names": ["a"]}, "foreign is class-conditional and cannot be sampled without a class"),
    ({}, {"class_names": 3}, "foreign/config.json: class_names must be a list of texts or null, not "),
    ({}, {"class_names": [3]}, "foreign/config.json: class_names must be a list of texts or null, not "),
    ({}, {"sampling": 3}, "foreign/config.json: sampling must be an object or null, not 3"),
    ({}, {"sampling": {"scale": "five"}}, "scale must be a number or an object with numbers by name, not 'five'"),
    ({}, {"sampling": {"classifier": 3}}, 'config.json, in "sampling": classifier must be a text or null, not 3'),
    ({}, {"sampling": {"steps": {"ddpm": 5}}}, "steps must be an object with texts by name, not {'ddpm': 5}"),
])
def test_a_foreign_configuration_is_refused(network, more, message):
    foreign = stored(tiny_denoiser(), Path("foreign"))
    config = json.loads((foreign / "config.json").read_text())
    config["network"] |= network
    (foreign / "config.json").write_text(json.dumps(config | more))
    assert_refused(run("--model", foreign, "--class", "none"), message)


def test_class_names_that_the_network_does_not_have_are_refused():
    stored(tiny_denoiser(), Path("foreign"), class_names=["a"])
    assert_refused(run("--model", "foreign", "--class", "0", "--scale", 0),
                   "foreign: the denoiser has 0 classes but 1 class names")


def test_a_denoiser_that_draws_nan_ends_in_a_sentence_and_stores_nothing():
    broken = tiny_denoiser()
    broken.network.out[2].bias.data.fill_(float("nan"))
    stored(broken, Path("broken"))
    assert_refused(run("--model", "broken", "--class", "none", "--steps", 2, "--num-samples", 2, "--out", "out"),
                   "sample 0, 1 came out as NaN: the model is damaged")
    assert not list(Path("out").glob("*.png"))


def test_many_classes_make_a_name_that_a_folder_can_have(denoiser_folder):
    assert run("--model", denoiser_folder, "--num-samples", 1, *["--class", "apple"] * 60).exit_code == 0


def test_nan_in_the_gradient_names_t_and_samples(denoiser_folder):
    broken = tiny_classifier()
    broken.network.out[2].c_proj.weight.data.fill_(float("nan"))
    stored(broken, Path("broken"))
    result = run("--model", denoiser_folder, "--classifier", "broken", "--num-samples", 3, "--out", "out")
    assert_refused(result, "the log-density of the classifier, or its gradient, is not finite at t = 49 for sample 0, 1, 2")
    assert not list(Path("out").glob("*.png"))


def test_nan_in_the_gradient_of_a_later_batch_names_the_sample_and_keeps_the_earlier_ones(denoiser_folder, monkeypatch):
    monkeypatch.setattr(loading, "log_prob_of", lambda classifier, y, *_, **__: lambda look: (
        log_prob(classifier, look.x_t, look.t, y) * torch.where(y == 2, float("nan"), 1.0)))
    assert_refused(run("--model", denoiser_folder, "--class", "0,1,2", "--num-samples", 6, "--batch-size", 2, "--out", "out"),
                   "not finite at t = 49 for sample 2;")
    assert len(list(Path("out").glob("0*.png"))) == 2


def test_a_full_disk_at_the_very_end_keeps_the_images(denoiser_folder, monkeypatch):
    monkeypatch.setattr(RunFolder, "_write_npz", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full", "out/x")))
    assert_refused(run("--model", denoiser_folder, "--num-samples", 2, "--out", "out"), "the disk is full: out/x")
    assert len(list(Path("out").glob("0*.png"))) == 2


def test_a_broken_manifest_is_told_with_a_way_out(denoiser_folder):
    sample(denoiser_folder, "--class", "1")
    for text in ("{", "[]", "[" * 5000, '{"request": 3}'):
        Path("out/manifest.json").write_text(text)
        assert_refused(run("--model", denoiser_folder, "--out", "out", "--class", "1"),
                       "out/manifest.json ", "choose another --out, or remove that folder.")


LARGE = 10 ** 9
WRONG = [
    ({"rescaled_t": "false"}, "rescaled_t must be true or false, not 'false'"), ({"rescaled_t": None}, "rescaled_t must be"),
    ({"predicts": 3}, "predicts must be a text, not 3"), ({"variance": ["learned"]}, "variance must be a text or null"),
    ({"class_names": "abc"}, "class_names must be a list of texts or null, not 'abc'"),
    ({"sampling": []}, "sampling must be an object or null, not []"),
    ({"sampling": {"scale": math.nan}}, "in \"sampling\": scale must be a number or an object with numbers by name, not nan"),
    ({"sampling": {"scale": True}}, "scale must be a number"), ({"sampling": {"steps": None}}, "steps must be an object"),
    ({"schedule": {"name": "cosine", "T": True}}, "schedule.T must be a whole number, not True"),
    ({"schedule": {"name": "cosine", "T": 50.0}}, "schedule.T must be a whole number, not 50.0"),
    ({"schedule": {"name": "cosine", "T": "50"}}, "schedule.T must be a whole number, not '50'"),
    ({"schedule": {"name": "cosine", "T": LARGE}}, "a noise schedule has at most 1000000 timesteps, not 1000000000"),
    ({"schedule": {"name": ["cosine"], "T": 50}}, "schedule.name must be a text, not ['cosine']"),
    ({"schedule": {"name": "cosine", "T": None}}, "schedule.T must be a whole number, not None"),
    ({"schedule": {"alpha_bar": [0.9, True]}}, "schedule.alpha_bar must be a list of numbers, not [0.9, True]"),
    ({"schedule": {"alpha_bar": [0.9, math.nan]}}, "schedule.alpha_bar must be a list of numbers, not [0.9, nan]")]
WRONG_NETWORK = [
    ("image_size", 16.0, "a whole number"), ("image_size", True, "a whole number"), ("image_size", None, "a whole number"),
    ("image_size", 10 ** 6, "a whole number from 1 to 8192, not 1000000"), ("image_size", -8, "a whole number from 1 to 8192"),
    ("channels", LARGE, "a whole number from 1 to 16384, not 1000000000"), ("channels", "32", "a whole number, not '32'"),
    ("res_blocks", LARGE, "a whole number from 1 to 64"), ("res_blocks", False, "a whole number, not False"),
    ("channel_mult", "12", "a list of numbers, not '12'"), ("channel_mult", [math.nan], "a list of numbers, not [nan]"),
    ("channel_mult", [10 ** 400], "a list of numbers"), ("channel_mult", [1e300], "positive numbers, for 1 to 16 levels"),
    ("channel_mult", [1] * 10 ** 5, "positive numbers, for 1 to 16 levels"), ("channel_mult", [None], "a list of numbers"),
    ("attention_at", 4, "a list of whole numbers, not 4"), ("attention_at", [4.5], "a list of whole numbers, not [4.5]"),
    ("heads", 10 ** 30, "a whole number from 1 to 16384"), ("head_channels", "8", "a whole number or null, not '8'"),
    ("dropout", "0.1", "a number, not '0.1'"), ("dropout", math.nan, "a number, not nan"), ("dropout", None, "a number"),
    ("scale_shift", "false", "true or false, not 'false'"), ("scale_shift", 0, "true or false, not 0"),
    ("attention_order", 3, "one of legacy, new, not 3"), ("resample", None, "one of resblock, conv, plain, not None"),
    ("num_classes", 10 ** 12, "a whole number from 1 to 1000000")]


def edit_config(folder, network={}, **more):
    config = json.loads((folder / "config.json").read_text())
    config["network"] |= network
    (folder / "config.json").write_text(json.dumps(config | more))
    return folder


@pytest.mark.parametrize("changes, words", WRONG)
def test_values_of_other_types_in_a_configuration_are_refused_by_name(changes, words):
    assert_refused(run("--model", edit_config(stored(tiny_denoiser(), Path("odd")), **changes)), "odd/config.json", words)
    if not changes.keys() & {"rescaled_t", "predicts", "variance", "sampling"}:
        odd = edit_config(stored(tiny_classifier(), Path("classifier")), **changes)
        assert_refused(run("--model", stored(tiny_denoiser(), Path("plain")), "--classifier", odd, "--class", 1), words)


@pytest.mark.parametrize("name, value, words", WRONG_NETWORK)
def test_values_of_other_types_in_a_network_are_refused_by_name(name, value, words):
    assert_refused(run("--model", edit_config(stored(tiny_denoiser(), Path("odd")), {name: value})), f"{name} must be {words}")
    with pytest.raises(UserError) as caught:
        load_classifier(edit_config(stored(tiny_classifier(), Path("classifier")), {name: value}))
    assert f"{name} must be {words}" in str(caught.value)
