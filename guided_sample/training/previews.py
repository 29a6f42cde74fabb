"""What a denoiser that learns would draw by now."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from guided_sample.denoiser import Denoiser
from guided_sample.folder import grid
from guided_sample.model import clip, labelled, thresholded
from guided_sample.plan import to_pixels
from guided_sample.run import default_batch
from guided_sample.samplers.ddim import ddim
from guided_sample.steps import nearest_steps, steps
from noisy_clf.noise import SampleNoise

COUNT, COLUMNS = 16, 8


def previewed(denoiser: Denoiser) -> Callable[[nn.Module], np.ndarray]:
    """network -> a grid of its samples by 25 steps of DDIM, always of the same noise; of a class-conditional one, a class
    in each column."""
    kept = steps(nearest_steps("ddim25", denoiser.schedule), denoiser.schedule)
    columns = min(denoiser.K, COLUMNS) or COLUMNS

    def preview(network: nn.Module) -> np.ndarray:
        device, size = next(network.parameters()).device, default_batch(denoiser.image_size)
        learner, images = replace(denoiser, network=network), []
        for start in range(0, COUNT, size):
            indices = range(start, min(start + size, COUNT))
            noise = SampleNoise(0, indices, denoiser.shape, device)
            y = torch.tensor([index % columns for index in indices], device=device) if denoiser.K else None
            *_, last = ddim(thresholded(labelled(learner, y), clip), noise(), kept, noise)
            images += list(to_pixels(last.x_t.clamp(-1, 1)))
        return grid(images, columns)
    return preview
