"""Denoisers in bare .pt files, as guided-diffusion and improved-diffusion write them."""
from __future__ import annotations

from pathlib import Path

from guided_sample.denoiser import Denoiser, unet_denoiser
from guided_sample.unet import UNet, UNetConfig
from noisy_clf.foreign.guided_diffusion import architecture, names_of_classes
from noisy_clf.foreign.settings import Settings, schedule_of
from noisy_clf.foreign.torch_file import give_tensors, read_tensors


def denoiser_from_file(path: Path, settings: Settings | None) -> Denoiser:
    """The denoiser whose bare state dict `path` is; frozen, its weights memory-mapped."""
    tensors = read_tensors(path)
    network, settings = architecture(path, tensors, settings, "denoiser", lambda fields: UNet(UNetConfig(**fields)))
    give_tensors(network, path, tensors)
    C = network.config.in_channels // (2 if settings.get("small_size") else 1)
    variance = settings.get("variance", "learned_range" if network.config.out_channels == 2 * C else "fixed_large")
    K = network.config.num_classes
    return unet_denoiser(network, schedule_of(settings), variance, settings.get("small_size"), predicts=settings["predicts"],
                         class_names=None if K is None else names_of_classes(path, settings, K),
                         rescaled_t=bool(settings.get("rescaled_t")))
