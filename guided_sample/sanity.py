"""Is a denoiser what its settings say? A wrong attention order, schedule or number of heads loads cleanly and samples noise."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from guided_sample.denoiser import Denoiser
from guided_sample.upsample import enlarging
from noisy_clf.evaluation import fixed_noise


LEVELS = {1: 0.02, 3: 0.02}  # alpha_bar


def misconfigured(denoiser: Denoiser, device: torch.device, dtype: torch.dtype = torch.float32) -> str | None:
    """A sentence, to follow the model's name, where its one-step reconstruction of noised pictures is worse than
    predicting their mean; None where it is better. One batch, of four pictures."""
    x_0 = pictures(denoiser.shape).to(device)
    y = torch.zeros(len(x_0), dtype=torch.int64, device=device)
    t = torch.full_like(y, int(np.abs(denoiser.schedule.alpha_bar - noise_level(denoiser)).argmin()))
    x_t = denoiser.schedule.add_noise(x_0, t, fixed_noise(torch.arange(len(x_0)), x_0.shape[1:]).to(device))
    if denoiser.small_size:
        denoiser = enlarging(denoiser, F.interpolate(x_0, (denoiser.small_size,) * 2, mode="area"))
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        x0_hat, _ = denoiser(x_t, t, y if denoiser.class_names else None)
    ratio = ((x0_hat - x_0).square().mean() / (x_0 - x_0.mean()).square().mean()).item()
    if ratio < 1:
        return None
    return (f"reconstructs noised pictures {ratio:.1f} times worse than their mean would: it is probably mis-configured "
            f"(attention order, number of heads, schedule, ...), or of quite another kind of images, and may sample noise.")


def pictures(shape: tuple[int, int, int]) -> Tensor:
    """Four pictures [4,C,H,W] in [-1,1]: photographs, or for a model of one channel, hand-written digits. (scikit-learn's)"""
    from sklearn.datasets import load_digits, load_sample_images

    C, H, W = shape
    if C == 1:
        images = torch.from_numpy(load_digits().images[:4])[:, None] / 16
    else:
        china, flower = (torch.tensor(image).permute(2, 0, 1) / 255 for image in load_sample_images().images)
        images = torch.stack([china[:, :400, :400], china[:, :400, 240:], flower[:, :400, :400], flower[:, :400, 240:]])
        images = images.repeat(1, -(-C // 3), 1, 1)[:, :C]
    return F.interpolate(images.float(), (H, W), mode="bicubic", antialias=True).clamp(0, 1) * 2 - 1


def noise_level(denoiser: Denoiser) -> float:
    return 0.02
