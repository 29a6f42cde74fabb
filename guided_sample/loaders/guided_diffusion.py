"""Denoisers in bare .pt files, as guided-diffusion and improved-diffusion write them."""
from __future__ import annotations

from pathlib import Path

from guided_sample.denoiser import Denoiser, unet_denoiser
from guided_sample.unet import UNet, UNetConfig
from noisy_clf.errors import UserError
from noisy_clf.checkpoints.guided_diffusion import architecture, names_of_classes
from noisy_clf.checkpoints.settings import Settings, schedule_of
from noisy_clf.checkpoints.tensors import give_tensors
from noisy_clf.checkpoints.torch_file import read_tensors


def denoiser_from_file(path: Path, settings: Settings | None) -> Denoiser:
    """The denoiser whose bare state dict `path` is; frozen, its weights memory-mapped."""
    tensors = read_tensors(path)
    network, settings = architecture(path, tensors, settings, "denoiser", lambda fields: UNet(UNetConfig(**fields)),
                                     options='--model-config FILE, --model-flags "..."; upsamplers: --upsample-config FILE')
    give_tensors(network, path, tensors)
    C, K, small = network.config.in_channels, network.config.num_classes, settings.get("small_size")
    if small and (C % 2 or small >= network.config.image_size):
        raise UserError(f"{path}: a network of {network.config.image_size} pixels and {C} input channels enlarges no images of "
                        f"{small} pixels; correct small_size, or leave it out if the model is no upsampler.")
    if K is None and "class_names" in settings:
        raise UserError(f"{path} knows no classes, and class_names are given; leave them out, or give the settings of this "
                        f"very model.")
    variance = settings.get("variance", "learned_range")  # the only learned one that these programs have
    return unet_denoiser(network, schedule_of(settings), variance, small, predicts=settings["predicts"],
                         class_names=None if K is None else names_of_classes(path, settings, K),
                         rescaled_t=bool(settings.get("rescaled_t")))
