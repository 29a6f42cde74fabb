"""Is a denoiser what its settings say? A wrong attention order, schedule or number of heads loads cleanly and samples noise."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from guided_sample.denoiser import PREDICTIONS, Denoiser
from guided_sample.unet import UNet
from guided_sample.upsample import enlarging
from noisy_clf.errors import UserError
from noisy_clf.noise import fixed_noise
from noisy_clf.schedule import SCHEDULES, NoiseSchedule

LITTLE_NOISE = 0.9  # alpha_bar; at so little, the right settings do best on any kind of pictures
CLEARLY = 0.8  # of the error, to speak of a better reading: the settings that matter halve it
DIGITS = ("005d9100 00dfaf50 03f20b80 04c00880 05800980 04b01c70 02e5ac00 006da000",  # scikit-learn's first, 16 (g) is white:
          "000cd500 000bg900 003fg600 07fgg200 001gg300 001gg600 001gg600 000bga00")  # with it they take a second to load


def misconfigured(denoiser: Denoiser, device: torch.device, settings_given: bool) -> str | None:
    """A sentence, to follow the model's name, where its one-step reconstruction of two noised pictures is worse than
    predicting their mean, or (of settings that somebody gave) that of one is clearly worse than with another setting."""
    x_0 = pictures(denoiser.shape).to(device)
    error = reconstruction_error(denoiser, x_0, much_noise(denoiser.image_size))
    if not error < 1:
        return (f"reconstructs noised pictures with {error:.2g} times the error of predicting their mean: it is probably "
                f"mis-configured (attention order, number of heads, schedule, ...), trained too little, or for quite other "
                f"images, and may sample noise.")
    if settings_given:
        error = reconstruction_error(denoiser, x_0[:1], LITTLE_NOISE)
        others = {setting: reconstruction_error(other, x_0[:1], LITTLE_NOISE) for setting, other in other_readings(denoiser)}
        best = min(others, key=lambda setting: others[setting], default="")
        if best and others[best] < CLEARLY * error:
            return (f"is probably mis-configured: with {best} its tensors would reconstruct noised pictures with "
                    f"{others[best] / error:.0%} of the error that they make with the settings given.")
    return None


@torch.no_grad()
def reconstruction_error(denoiser: Denoiser, x_0: Tensor, alpha_bar: float) -> float:
    """The squared error of x0_hat, in units of that of the pictures' mean."""
    t = torch.full((len(x_0),), int(np.abs(denoiser.schedule.alpha_bar - alpha_bar).argmin()), device=x_0.device)
    x_t = denoiser.schedule.add_noise(x_0, t, fixed_noise(torch.arange(len(x_0)), x_0.shape[1:]).to(x_0.device))
    if denoiser.small_size:
        denoiser = enlarging(denoiser, F.interpolate(x_0, (denoiser.small_size, denoiser.small_size), mode="area"))
    x0_hat, _ = denoiser(x_t, t, torch.zeros_like(t) if denoiser.class_names else None)
    return ((x0_hat - x_0).square().mean() / (x_0 - x_0.mean()).square().mean()).item()


def much_noise(size: int) -> float:
    """The alpha_bar at which pictures of 32 pixels and more show as much, as noise averages out over pixels; for smaller
    ones 1/2, as with less noise no network could do worse than the mean."""
    signal_to_noise = min((32 / size) ** 2, 1)
    return signal_to_noise / (1 + signal_to_noise)


def pictures(shape: tuple[int, int, int]) -> Tensor:
    """Two pictures [2,C,H,W] in [-1,1]: photographs, or for one channel hand-written digits. (scikit-learn's)"""
    C, H, W = shape
    if C == 1:
        images = torch.tensor([[[[int(pixel, 17) / 16 for pixel in row] for row in digit.split()]] for digit in DIGITS])
    else:
        from sklearn.datasets import load_sample_images

        images = torch.stack([torch.tensor(image[:, 100:527]).permute(2, 0, 1) / 255 for image in load_sample_images().images])
        images = images.repeat(1, -(-C // 3), 1, 1)[:, :C]
    return F.interpolate(images.float(), (H, W), mode="bicubic", antialias=True).clamp(0, 1) * 2 - 1


def other_readings(denoiser: Denoiser) -> Iterator[tuple[str, Denoiser]]:
    """The same tensors with another setting that shapes do not tell, and that setting."""
    network = denoiser.network
    assert isinstance(network, UNet)
    config = network.config
    order = "new" if config.attention_order == "legacy" else "legacy"
    for setting, change in ((f"attention_order \"{order}\"", {"attention_order": order}),
                            ("4 heads", {"heads": 4, "head_channels": None}), ("1 head", {"heads": 1, "head_channels": None}),
                            ("heads of 32 channels", {"head_channels": 32}), ("heads of 64 channels", {"head_channels": 64})):
        try:
            with torch.device("meta"):
                other = UNet(replace(config, **change))
        except UserError:  # not every width divides into such heads
            continue
        if all(other.config.heads_of(width) == config.heads_of(width) for width in config.widths) and "heads" in setting:
            continue
        other.load_state_dict(network.state_dict(), assign=True)
        yield setting, replace(denoiser, network=other.eval())
    for name in SCHEDULES:
        with suppress(UserError):
            schedule = NoiseSchedule.named(name, denoiser.schedule.T)
            if not schedule.same_as(denoiser.schedule):
                yield f"the {name} schedule", replace(denoiser, schedule=schedule)
    for predicts in set(PREDICTIONS) - {denoiser.predicts}:
        yield f"predicts \"{predicts}\"", replace(denoiser, predicts=predicts)
    if denoiser.schedule.T != 1000:
        yield f"rescaled_t {str(not denoiser.rescaled_t).lower()}", replace(denoiser, rescaled_t=not denoiser.rescaled_t)
