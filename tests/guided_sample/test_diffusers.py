"""Folders of diffusers against diffusers itself, on small random networks: outputs, schedules, whole trajectories, refusals."""
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from guided_sample.loaders import load_model
from guided_sample.loaders.diffusers_folder import load_diffusers_folder
from guided_sample.samplers.ddim import ddim
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.checkpoints.by_name import denoiser_record
from noisy_clf.checkpoints.model_folder import file_digest
from noisy_clf.errors import UserError
from noisy_clf.checkpoints.diffusers_scheduler import is_diffusers_folder
from noisy_clf.schedule import NoiseSchedule
from tests import commands, conftest
from tests.reference import relative_error, with_drawn_weights
from tests.seam import adm, run

diffusers = pytest.importorskip("diffusers")

SMALL = {"sample_size": 16, "in_channels": 2, "out_channels": 2, "block_out_channels": (32, 64), "layers_per_block": 1,
         "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
         "norm_num_groups": 8}
GOOGLE = {"freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0, "norm_eps": 1e-6, "attention_head_dim": None,
          "norm_num_groups": 32, "layers_per_block": 2}  # as their ddpm-* models are
WEIGHTS = "diffusion_pytorch_model.safetensors"


def small_unet(**settings):
    return with_drawn_weights(diffusers.UNet2DModel(**SMALL | settings))


def stored(folder, unet=None, scheduler=None, **how):
    unet = unet or small_unet()
    diffusers.DDPMPipeline(unet, scheduler or diffusers.DDPMScheduler()).save_pretrained(folder, **how)
    return Path(folder)


def edit(file, **fields):
    """Changes fields of a JSON file, and removes those that are ..."""
    config = json.loads(Path(file).read_text()) | fields
    Path(file).write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def with_old_attention_names(folder):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / "unet" / WEIGHTS)
    for name in [name for name in tensors if ".attentions." in name and ".to_" in name]:
        new = name
        for today, then in old.items():
            new = new.replace(f".{today}.", f".{then}.")
        tensors[new] = tensors.pop(name)
    assert any(name.endswith("mid_block.attentions.0.proj_attn.bias") for name in tensors)
    save_file(tensors, folder / "unet" / WEIGHTS, metadata={"format": "pt"})


def flat(folder):
    """As google/ddpm-* lie on the hub: everything in one folder."""
    for part in ("unet", "scheduler"):
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()


def flat_without_index(folder):
    flat(folder)
    (folder / "model_index.json").unlink()


def unet_alone(folder):
    """The UNet's own folder, its scheduler's in it."""
    for file in (folder / "unet").iterdir():
        file.rename(folder / file.name)
    (folder / "unet").rmdir()
    (folder / "model_index.json").unlink()


@pytest.mark.parametrize("settings, how, change", [
    ({}, {}, None),
    ({}, {"safe_serialization": False}, None),
    ({}, {}, flat),
    ({}, {"safe_serialization": False}, flat_without_index),
    ({}, {}, unet_alone),
    (GOOGLE, {}, with_old_attention_names),
    ({"num_class_embeds": 5}, {}, None),
    ({"resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet",
      "down_block_types": ("AttnDownBlock2D", "ResnetDownsampleBlock2D"), "attn_norm_num_groups": 8,
      "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D")}, {}, None),
    ({"time_embedding_type": "learned", "num_train_timesteps": 1000, "center_input_sample": True}, {}, None),
    ({"mid_block_type": None, "act_fn": "gelu", "sample_size": [16, 16], "down_block_types": ("UNetResDownBlock2D",) * 2,
      "up_block_types": ("UNetResUpBlock2D", "UpBlock2D")}, {}, None),
    ({"add_attention": False, "time_embedding_dim": 48, "out_channels": 4}, {}, None),
], ids=["pipeline", "bin", "flat", "flat bin", "unet alone", "google's", "classes", "resnet", "learned time", "no middle",
        "two halves"])
def test_the_network_is_diffusers_own(settings, how, change):
    unet = small_unet(**settings)
    learned = {"variance_type": "learned_range"} if unet.config.out_channels == 4 else {}
    folder = stored("model", unet, diffusers.DDPMScheduler(**learned), **how)
    if change:
        change(folder)
    assert is_diffusers_folder(folder)
    loaded = load_model(folder)
    K, denoiser = settings.get("num_class_embeds"), loaded.denoiser
    x_t, t = torch.randn(4, 2, 16, 16), torch.tensor([0, 1, 500, 999])
    y = torch.tensor([0, 4, 2, 2]) if K else None
    with torch.no_grad():
        theirs = unet(x_t, t, class_labels=y).sample
        assert relative_error(denoiser.network(x_t, t, y), theirs) < 2e-6
    assert denoiser.shape == (2, 16, 16) and denoiser.class_names == (("0", "1", "2", "3", "4") if K else None)
    assert not denoiser.network.training and not any(parameter.requires_grad for parameter in denoiser.network.parameters())
    weights, = [file for file in folder.rglob("diffusion_*")]
    assert loaded.digest == file_digest(weights)
    assert json.loads(json.dumps(loaded.config)) == loaded.config and loaded.config["network"]["sample_size"] == 16
    assert loaded.config["schedule"] == {"name": "linear", "T": 1000}


def test_old_names_are_read_as_diffusers_itself_reads_them():
    folder = stored("model", small_unet(**GOOGLE))
    with_old_attention_names(folder)
    theirs, x_t, t = diffusers.UNet2DModel.from_pretrained(folder / "unet"), torch.randn(2, 2, 16, 16), torch.tensor([3, 900])
    with torch.no_grad():
        assert relative_error(load_diffusers_folder(folder).denoiser.network(x_t, t), theirs(x_t, t).sample) < 2e-6


def test_half_precision_files_become_float32():
    unet = small_unet()
    folder, x_t, t = stored("model", unet.half()), torch.randn(2, 2, 16, 16), torch.tensor([3, 900])
    with torch.no_grad():
        assert relative_error(load_diffusers_folder(folder).denoiser.network(x_t, t), unet.float()(x_t, t).sample) < 2e-6


def test_a_folder_of_ours_is_none_of_theirs(denoiser_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert not is_diffusers_folder(denoiser_folder) and not is_diffusers_folder(Path("nowhere"))
    Path("config.json").write_text("{")
    assert not is_diffusers_folder(Path("."))
    Path("config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert is_diffusers_folder(Path("."))


def network_for(variance):
    """A UNet whose second half, where it has one, is a sensible variance: near 0.02 itself, or anything as a fraction."""
    unet = small_unet(out_channels=4 if variance.startswith("learned") else 2)
    if variance == "learned":
        unet.conv_out.weight.data[2:] *= 1e-3
        unet.conv_out.bias.data[2:] = 0.02
    return unet


VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"]


@pytest.mark.parametrize("variance, prediction, clip", [
    *((variance, "epsilon", True) for variance in VARIANCES),
    ("fixed_small", "epsilon", False),
    *((variance, prediction, clip) for variance in ("fixed_large", "learned_range")
      for prediction, clip in (("v_prediction", True), ("sample", False)))])
def test_ddpm_walks_with_ddpm_scheduler(variance, prediction, clip, monkeypatch):
    scheduler = diffusers.DDPMScheduler(variance_type=variance, prediction_type=prediction, clip_sample=clip)
    unet = network_for(variance)
    denoiser = load_diffusers_folder(stored("model", unet, scheduler)).denoiser
    draws = torch.randn(10, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    stream, their_stream = iter(draws), iter(draws[1:])
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(their_stream))
    scheduler.set_timesteps(10)
    chain = steps("ddim10", denoiser.schedule)
    assert scheduler.timesteps.tolist() == [step.t for step in chain]
    x_t, errors = draws[0], []
    for t, moment in zip(scheduler.timesteps, run(ddpm, adm(denoiser, clipped=clip), chain, lambda: next(stream))):
        with torch.no_grad():
            theirs = scheduler.step(unet(x_t, t).sample, t, x_t)
        x_t = theirs.prev_sample
        errors += [relative_error(moment.x_t, x_t), relative_error(moment.x0_hat, theirs.pred_original_sample)]
    assert max(errors) < 1e-4 and next(stream, None) is next(their_stream, None) is None


@pytest.mark.parametrize("prediction, eta, clip", [
    *((prediction, eta, True) for prediction in ("epsilon", "v_prediction", "sample") for eta in (0.0, 0.5)),
    ("epsilon", 0.5, False), ("v_prediction", 0.0, False)])
def test_ddim_walks_with_ddim_scheduler(prediction, eta, clip):
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=clip)
    unet = small_unet()
    denoiser = load_diffusers_folder(stored("model", unet, scheduler)).denoiser
    draws = torch.randn(10, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    stream, their_noise = iter(draws), [*draws[1:], torch.zeros(3, 2, 16, 16)]  # the last step of neither has noise
    scheduler.set_timesteps(10)
    chain = steps("ddim10", denoiser.schedule)
    assert scheduler.timesteps.tolist() == [step.t for step in chain]
    x_t, errors = draws[0], []
    moments = run(ddim, adm(denoiser, clipped=clip), chain, lambda: next(stream), eta=eta)
    for t, moment, noise in zip(scheduler.timesteps, moments, their_noise):
        with torch.no_grad():
            theirs = scheduler.step(unet(x_t, t).sample, t, x_t, eta, use_clipped_model_output=True, variance_noise=noise)
        x_t = theirs.prev_sample
        errors += [relative_error(moment.x_t, x_t), relative_error(moment.x0_hat, theirs.pred_original_sample)]
    assert max(errors) < 1e-4


def test_the_last_class_may_be_that_of_none():
    theirs = small_unet(num_class_embeds=5)
    folder = stored("model", theirs)
    unet(null_class=True)(folder)
    loaded = load_model(folder)
    assert loaded.denoiser.class_names == ("0", "1", "2", "3") and loaded.denoiser.null_class and loaded.config["null_class"]
    x_t, t = torch.randn(3, 2, 16, 16), torch.tensor([0, 500, 999])
    with torch.no_grad():
        of_none = theirs(x_t, t, class_labels=torch.full((3,), 4)).sample
        assert relative_error(loaded.denoiser.predicted(x_t, t)[0], of_none) < 2e-6
    assert "null_class" not in loaded.config["network"] and diffusers.UNet2DModel.from_pretrained(folder / "unet")


BETAS = np.linspace(0.001, 0.3, 20).tolist()


@pytest.mark.parametrize("settings, name", [
    ({}, "linear"),
    ({"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.2}, "linear"),
    ({"num_train_timesteps": 100}, "given"),
    ({"beta_schedule": "squaredcos_cap_v2"}, "cosine"),
    ({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 10}, "cosine"),
    ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, "given"),
    ({"beta_schedule": "sigmoid"}, "given"),
    ({"trained_betas": BETAS, "num_train_timesteps": 20}, "given"),
    ({"trained_betas": np.linspace(1e-4, 0.02, 1000).tolist()}, "linear"),
])
def test_schedules_are_diffusers_in_double_precision(settings, name):
    scheduler = diffusers.DDPMScheduler(**settings)
    ours = load_diffusers_folder(stored("model", scheduler=scheduler)).denoiser.schedule
    theirs = scheduler.alphas_cumprod.double()
    alpha_bar = torch.from_numpy(ours.alpha_bar.copy())
    assert ours.name == name
    torch.testing.assert_close(alpha_bar, theirs, rtol=1e-4, atol=0)  # they multiply up to 1000 float32 numbers
    torch.testing.assert_close(1 - alpha_bar, 1 - theirs, rtol=1e-3, atol=0)  # 1 - alpha_bar begins at 1e-4
    if name != "given":
        assert np.array_equal(ours.alpha_bar, NoiseSchedule.named(name, ours.T).alpha_bar)


@pytest.mark.parametrize("theirs, ours", [
    ("fixed_small_log", "fixed_small"), ("fixed_large", "fixed_large"),
    ("fixed_large_log", "fixed_large")])  # theirs samples NaN: there is nothing to agree with
def test_kinds_of_variance_go_by_our_names(theirs, ours):
    folder = stored("model", scheduler=diffusers.DDPMScheduler(variance_type=theirs))
    assert load_diffusers_folder(folder).denoiser.variance == ours


def test_a_ddim_scheduler_keeps_the_variance_of_the_ddpm_scheduler_it_was_made_from():
    made_from = diffusers.DDPMScheduler(variance_type="learned_range")
    folder = stored("model", network_for("learned_range"), diffusers.DDIMScheduler.from_config(made_from.config))
    assert load_diffusers_folder(folder).denoiser.variance == "learned_range"


def test_configurations_of_early_versions():
    folder = stored("model")
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(
        {"_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_schedule": "linear",
         "beta_start": 0.0001, "clip_sample": True, "num_train_timesteps": 1000, "trained_betas": None,
         "variance_type": "fixed_large", "predict_epsilon": True, "tensor_format": "pt"}))
    denoiser = load_diffusers_folder(folder).denoiser
    assert (denoiser.variance, denoiser.predicts, denoiser.schedule.name) == ("fixed_large", "eps", "linear")


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def carry_code(folder):
    (folder / "unet" / WEIGHTS).unlink()
    torch.save({"conv_in.weight": Payload()}, folder / "unet/diffusion_pytorch_model.bin")


def truncate(folder):
    (folder / "unet" / WEIGHTS).write_bytes((folder / "unet" / WEIGHTS).read_bytes()[:-1000])


def shard(folder):
    (folder / "unet" / WEIGHTS).unlink()
    small_unet().save_pretrained(folder / "unet", max_shard_size="100KB")


def tensors_without(folder, name, **more):
    tensors = load_file(folder / "unet" / WEIGHTS)
    tensors.pop(name)
    save_file(tensors | more, folder / "unet" / WEIGHTS, metadata={"format": "pt"})


def unet(**fields):
    return lambda folder: edit(folder / "unet/config.json", **fields)


def scheduler(**fields):
    return lambda folder: edit(folder / "scheduler/scheduler_config.json", **fields)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("diffusers") / "model")


@pytest.mark.parametrize("damage, message", [
    (lambda folder: edit(folder / "model_index.json", _class_name="StableDiffusionPipeline"),
     r'"_class_name" "StableDiffusionPipeline" is not supported; possible: DDPMPipeline, DDIMPipeline\.'),
    (lambda folder: edit(folder / "model_index.json", vqvae=["diffusers", "VQModel"]),
     r"more parts than a unet and a scheduler \(vqvae\)"),
    (lambda folder: shutil.rmtree(folder / "unet"), r"model/config\.json is missing"),
    (lambda folder: shutil.rmtree(folder / "scheduler"), r"model has no scheduler_config\.json"),
    (lambda folder: (folder / "scheduler/scheduler_config.json").write_text("{"), "cannot be read as JSON"),
    (unet(_class_name="UNet2DConditionModel"), r'"UNet2DConditionModel" is not supported; possible: UNet2DModel\.'),
    (unet(cleverness=9, quantization_config={}), r"config\.json: unknown setting cleverness, quantization_config, which may"),
    (unet(time_embedding_type="fourier"), r'"time_embedding_type" "fourier" is not supported; possible: positional, learned\.'),
    (unet(time_embedding_type="learned", num_train_timesteps=500),
     r'"num_train_timesteps" 500 is not supported; possible: 1000\.'),
    (unet(class_embed_type="timestep"), r'"class_embed_type" "timestep" is not supported; possible: null\.'),
    (unet(resnet_time_scale_shift="spatial"), '"resnet_time_scale_shift" "spatial" is not supported'),
    (unet(downsample_type="fir"), '"downsample_type" "fir" is not supported; possible: conv, resnet'),
    (unet(mid_block_type=["UNetMidBlock2D"]), r'"mid_block_type" \["UNetMidBlock2D"\] is not supported'),
    (unet(down_block_types=["DownBlock2D", "SkipDownBlock2D"]), '"down_block_types" "SkipDownBlock2D" is not supported'),
    (unet(down_block_types="DownBlock2D"), '"down_block_types" and "block_out_channels" must be lists of one entry'),
    (unet(null_class="yes"), "config.json: null_class must be true or false, not 'yes'"),
    (unet(null_class=True), '"null_class" is the last of at least two "num_class_embeds", and there are none; take it out'),
    (unet(null_class=True, num_class_embeds=1), '"null_class" is the last of at least two .*, and there are 1; take it out'),
    (unet(act_fn="cleverness"), r"diffusers cannot build it \(.*cleverness"),
    (unet(norm_num_groups=7), r"diffusers cannot build it \("),
    (unet(block_out_channels=[32, 64, 64]), '"down_block_types" and "block_out_channels" must be lists of one entry for each'),
    (unet(sample_size=[16, 32]), r'"sample_size" must be one number of pixels .* a multiple of 2 up to 8192, not \[16, 32\]'),
    (unet(sample_size=None), '"sample_size" must be one number .* not null'),
    (unet(sample_size=15), '"sample_size" must be one number .* a multiple of 2 up to 8192, not 15'),
    (unet(num_class_embeds=0), '"num_class_embeds" must be a whole number from 1 to 1000000, not 0'),
    (unet(in_channels="2"), '"in_channels" must be a whole number from 1 to 1024, not "2"'),
    (unet(in_channels=10 ** 9), '"in_channels" must be a whole number from 1 to 1024, not 1000000000'),
    (unet(sample_size=2 ** 20), '"sample_size" must be one number .* a multiple of 2 up to 8192, not 1048576'),
    (unet(block_out_channels=[32, 2 ** 30]), '"block_out_channels" must be a whole number from 1 to 16384, not 1073741824'),
    (unet(block_out_channels=[32, "64"]), '"block_out_channels" must be a whole number from 1 to 16384, not "64"'),
    (unet(layers_per_block=10 ** 9), '"layers_per_block" must be a whole number from 1 to 64, not 1000000000'),
    (unet(dropout="0.1"), "config.json: dropout must be a number, not '0.1'"),
    (unet(dropout=math.nan), "config.json: dropout must be a number, not nan"),
    (unet(norm_eps=None), "config.json: norm_eps must be a number, not None"),
    (unet(flip_sin_to_cos="true"), "config.json: flip_sin_to_cos must be true or false, not 'true'"),
    (unet(attention_head_dim=[8]), r"config.json: attention_head_dim must be a whole number or null, not \[8\]"),
    (scheduler(num_train_timesteps=10 ** 9), '"num_train_timesteps" must be a whole number from 1 to 1000000, not 1000000000'),
    (scheduler(num_train_timesteps=True), '"num_train_timesteps" must be a whole number from 1 to 1000000, not true'),
    (scheduler(beta_end=math.nan), '"beta_end" must be a number between 0 and 1, not NaN'),
    (scheduler(beta_start=True), '"beta_start" must be a number between 0 and 1, not true'),
    (unet(out_channels=4), "images of 2 channels with a fixed_small variance need 2 output channels, and the network has 4"),
    (unet(in_channels=4), "images of 4 channels with a fixed_small variance need 4 output channels, and the network has 2"),
    (scheduler(variance_type="learned_range"), "with a learned_range variance need 4 output channels, and the network has 2"),
    (lambda folder: (unet(out_channels=4)(folder), scheduler(_class_name="DDIMScheduler", variance_type=...)(folder)),
     'does not say what the second half of the network\'s 4 output channels is; write "variance_type" there'),
    (unet(block_out_channels=[32, 32], attention_head_dim=4),
     "does not fit its configuration: 2 unknown tensors, such as down_blocks.1.resnets.0.conv_shortcut.bias"),
    (scheduler(_class_name="PNDMScheduler"), '"PNDMScheduler" is not supported; possible: DDPMScheduler, DDIMScheduler'),
    (scheduler(prediction_type="score"), '"prediction_type" "score" is not supported; possible: epsilon, v_prediction, sample'),
    (scheduler(predict_epsilon=False), '"predict_epsilon" is no longer read by diffusers; write "prediction_type"'),
    (scheduler(beta_schedule="laplace"), '"beta_schedule" "laplace" is not supported; possible: linear, scaled_linear, si'),
    (scheduler(variance_type="huge"), '"variance_type" "huge" is not supported; possible: fixed_small, fixed_small_log'),
    (scheduler(beta_start=0), '"beta_start" must be a number between 0 and 1, not 0'),
    (scheduler(num_train_timesteps=1000.0), '"num_train_timesteps" must be a whole number from 1 to 1000000, not 1000.0'),
    (scheduler(trained_betas=[0.1, 0.2]), '"trained_betas" must be 1000 numbers, one for each of "num_train_timesteps"'),
    (scheduler(trained_betas=[0.1, 0.0], num_train_timesteps=2), "alpha_bar must fall strictly"),
    (scheduler(thresholding=True), '"thresholding" is on, which is not supported'),
    (scheduler(rescale_betas_zero_snr=True), '"rescale_betas_zero_snr" is on, which is not supported'),
    (scheduler(clip_sample_range=2.0), '"clip_sample_range" 2.0 is not supported'),
    (scheduler(use_karras_sigmas=True), r"scheduler_config\.json: unknown setting use_karras_sigmas"),
    (lambda folder: (folder / "unet" / WEIGHTS).unlink(), f"has neither {WEIGHTS} nor diffusion_pytorch_model.bin; save"),
    (shard, "only diffusion_pytorch_model-00001-of-.*safetensors, and sharded or variant weights are not read"),
    (lambda folder: (folder / "unet" / WEIGHTS).rename(folder / "unet/diffusion_pytorch_model.fp16.safetensors"),
     "only diffusion_pytorch_model.fp16.safetensors, and sharded or variant weights are not read"),
    (truncate, "is not a whole safetensors file"),
    (carry_code, r"carries code .* and is not opened"),
    (lambda folder: tensors_without(folder, "conv_in.bias"), r"1 missing tensor, such as conv_in\.bias"),
    (lambda folder: tensors_without(folder, "conv_in.bias", **{"conv_in.bias": torch.zeros(31)}),
     r"conv_in\.bias has shape \[31\], not \[32\]"),
    (lambda folder: tensors_without(folder, "conv_in.bias", **{
        "conv_in.bias": torch.zeros(32), "mid_block.attentions.0.query.weight": torch.zeros(64, 64)}),
     r"1 unknown tensor, such as mid_block\.attentions\.0\.query\.weight"),
])
def test_what_cannot_be_loaded_is_told_in_a_sentence(pristine, damage, message):
    shutil.copytree(pristine, "model")
    damage(Path("model"))
    with pytest.raises(UserError, match=message) as refused:
        load_diffusers_folder(Path("model"))
    assert_sentence(refused)
    assert not Path("ran").exists()


def assert_sentence(refused):
    told = str(refused.value)
    assert told.endswith(".") and "\n" not in told and ". " not in told, told


def test_a_unet_taken_from_its_pipeline_is_sent_back_to_it(pristine):
    with pytest.raises(UserError, match="unet has no scheduler_config.json.* or give its pipeline's folder") as refused:
        load_diffusers_folder(pristine / "unet")
    assert_sentence(refused)


def test_without_diffusers_installing_it_is_asked_for(pristine, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"run: pip install 'guided-sample\[diffusers\]'\.$") as refused:
        load_model(pristine)
    assert_sentence(refused)


def test_images_that_are_not_clipped_may_have_any_clip_range(pristine):
    shutil.copytree(pristine, "model")
    scheduler(clip_sample=False, clip_sample_range=3.0)(Path("model"))
    assert load_diffusers_folder(Path("model")).denoiser.shape == (2, 16, 16)


@pytest.mark.parametrize("arranged", [lambda folder: None, flat, flat_without_index])
def test_a_classifier_knows_its_folder_of_diffusers_by_the_weights(arranged):
    folder = stored("models/theirs")
    arranged(folder)
    loaded, record = load_model(folder), denoiser_record(folder)
    assert record == {"name": "theirs", "digest": loaded.digest, "run": False}
    for name, training in (("mine", {"schedule_from": record}), ("silent", {})):
        conftest.stored(conftest.tiny_classifier(loaded.denoiser.schedule, image_size=16, in_channels=2),
                        Path("models", name, "best"), training=training)
    told = commands.run("--model", folder, "--dry-run", "--steps", 2, "--num-samples", 1)
    assert told.exit_code == 0 and 'classifier = "models/mine"' in told.stdout, told.output
    Path("models/mine").rename("elsewhere")
    assert 'class = ["none"]' in commands.run("--model", folder, "--dry-run", "--steps", 2, "--num-samples", 1).stdout
