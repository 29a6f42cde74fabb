"""A guided step by diffusers: its UNet2DModel in the shape of ADM's U-Net, with random weights, and its DDPMScheduler.

It has ADM's residual blocks, attention and up- and downsampling by residual blocks, and learned variances; it has no classifier
to guide with: ours, uncompiled in float32, as guided-diffusion runs its own, stands in for it.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from adm_steps import SCALE, STEP, Shape, give_random, some_noise
from noisy_clf.networks.encoder_unet import EncoderUNet


def guided_steps(shape: Shape, half: bool, device: torch.device) -> Callable[[int], Callable[[], Tensor]]:
    """By the batch, a step of their scheduler, its mean shifted by the variance times the gradient."""
    from diffusers import DDPMScheduler, UNet2DModel

    config = shape.unet
    dtype = torch.float32 if not half else torch.float16 if device.type == "cuda" else torch.bfloat16
    sides = [config.image_size // 2 ** level for level in range(len(config.channel_mult))]
    attends = [side in config.attention_at for side in sides]
    with device:
        unet = UNet2DModel(
            sample_size=config.image_size, in_channels=config.in_channels, out_channels=config.out_channels,
            block_out_channels=tuple(config.channels * mult for mult in config.channel_mult),
            layers_per_block=config.res_blocks,
            down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
            up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in attends[::-1]),
            attention_head_dim=config.head_channels, resnet_time_scale_shift="scale_shift", downsample_type="resnet",
            upsample_type="resnet", num_class_embeds=config.num_classes)
        encoder = EncoderUNet(shape.encoder)
    unet, encoder = (give_random(network).eval().requires_grad_(False) for network in (unet, encoder))
    unet.to(dtype)
    scheduler = DDPMScheduler(beta_schedule={"linear": "linear", "cosine": "squaredcos_cap_v2"}[shape.schedule],
                              variance_type="learned_range")
    scheduler.set_timesteps(250)
    t = scheduler.timesteps[249 - STEP]
    variance = scheduler._get_variance(t, variance_type="fixed_small")

    def of(batch: int) -> Callable[[], Tensor]:
        x_t, y = some_noise(shape, batch, device)(), torch.arange(batch, device=device) % shape.encoder.num_classes
        told = {"class_labels": y} if config.num_classes else {}
        at = torch.full_like(y, int(t))

        def step() -> Tensor:
            with torch.no_grad():
                output = unet(x_t.to(dtype), t, **told).sample.float()
            x = x_t.clone().requires_grad_()
            log_prob = F.log_softmax(encoder(x, at), dim=1)[range(batch), y].sum()
            gradient, = torch.autograd.grad(log_prob, x)
            return scheduler.step(output, t, x_t).prev_sample + variance * SCALE * gradient
        return step
    return of
