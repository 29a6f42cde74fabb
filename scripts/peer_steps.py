"""The same steps as in adm_steps.py by openai/guided-diffusion, of which a checkout must be on Python's path.

Half precision is theirs: weights of the blocks in float16 (on a CPU, which is slow at that, in bfloat16), when training with
float32 copies of them and a loss scale.
"""
from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adm_steps import EMA, LR, SCALE, STEP, WEIGHT_DECAY, Shape, give_random, some_noise


def network(config: Any, device: torch.device, half: bool, **more: Any) -> Any:
    """Their U-Net, or its first half, of our configuration."""
    from guided_diffusion import unet

    denoiser = hasattr(config, "out_channels")
    more |= {"num_classes": config.num_classes} if denoiser else {"pool": config.pool}
    with device:
        made = (unet.UNetModel if denoiser else unet.EncoderUNetModel)(
            image_size=config.image_size, in_channels=config.in_channels, model_channels=config.channels,
            out_channels=config.out_channels if denoiser else config.num_classes, num_res_blocks=config.res_blocks,
            attention_resolutions=tuple(config.image_size // size for size in config.attention_at), dropout=config.dropout,
            channel_mult=config.channel_mult, num_heads=config.heads, num_head_channels=config.head_channels or -1,
            use_scale_shift_norm=config.scale_shift, resblock_updown=config.resample == "resblock",
            use_new_attention_order=config.attention_order == "new", use_fp16=half, **more)
    if half and device.type == "cpu":
        made.dtype, made.convert_to_fp16 = torch.bfloat16, lambda: to_bfloat16(made)
    return give_random(made)


def to_bfloat16(network: nn.Module) -> None:
    """Of what their convert_to_fp16 converts."""
    for path in ("input_blocks", "middle_block", "output_blocks"):
        for module in getattr(network, path, nn.ModuleList()).modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                module.to(torch.bfloat16)


def diffusion(shape: Shape, **more: Any) -> Any:
    from guided_diffusion import script_util

    return script_util.create_gaussian_diffusion(steps=1000, learn_sigma=True, noise_schedule=shape.schedule, **more)


def guided_steps(shape: Shape, half: bool, device: torch.device) -> Callable[[int], Callable[..., tuple[Tensor, Tensor]]]:
    """By the batch, the body of their sampling loop; the classifier in float32, as they run it."""
    from guided_diffusion import gaussian_diffusion

    model, classifier = network(shape.unet, device, half).eval(), network(shape.encoder, device, False).eval()
    if half:
        model.convert_to_fp16()
    process = diffusion(shape, timestep_respacing="250")

    def of(batch: int) -> Callable[..., tuple[Tensor, Tensor]]:
        x_t, y = some_noise(shape, batch, device)(), torch.arange(batch, device=device) % shape.encoder.num_classes
        t, told = torch.full_like(y, STEP), {"y": y} if shape.unet.num_classes else {}

        def cond_fn(x: Tensor, t: Tensor, **_: Tensor) -> Tensor:
            with torch.enable_grad():
                x_in = x.detach().requires_grad_(True)
                log_probs = F.log_softmax(classifier(x_in, t), dim=-1)
                return torch.autograd.grad(log_probs[range(len(y)), y].sum(), x_in)[0] * SCALE

        def step(noise: Callable[[], Tensor] | None = None) -> tuple[Tensor, Tensor]:
            own = torch.randn_like
            gaussian_diffusion.th.randn_like = own if noise is None else lambda _: noise()
            try:
                with torch.no_grad():
                    out = process.p_sample(model, x_t, t, cond_fn=cond_fn, model_kwargs=told)
            finally:
                gaussian_diffusion.th.randn_like = own
            return out["sample"], out["pred_xstart"]
        return step
    return of


def training_steps(shape: Shape, kind: str, half: bool, device: torch.device) -> Callable[[int], Callable[[], None]]:
    """By the batch, the body of their training loops, but for its logging, given one batch in memory."""
    from guided_diffusion import fp16_util, logger, nn as their_nn
    from guided_diffusion.resample import create_named_schedule_sampler

    logger.log = logger.logkv_mean = lambda *_: None
    learner = network(shape.unet if kind == "denoiser" else shape.encoder, device, half).train()
    # from a loss scale that random weights do not overflow at: every step is taken
    trainer = fp16_util.MixedPrecisionTrainer(model=learner, use_fp16=half, initial_lg_loss_scale=8)
    optimizer = torch.optim.AdamW(trainer.master_params, lr=LR, weight_decay=WEIGHT_DECAY)
    average = copy.deepcopy(trainer.master_params)
    process = diffusion(shape)
    sampler = create_named_schedule_sampler("uniform", process)

    def of(batch: int) -> Callable[[], None]:
        x_0 = torch.rand(batch, 3, shape.unet.image_size, shape.unet.image_size, device=device) * 2 - 1
        y = torch.arange(batch, device=device) % shape.encoder.num_classes
        told = {"y": y} if shape.unet.num_classes else {}

        def loss() -> Tensor:
            t, weights = sampler.sample(batch, device)
            if kind == "classifier":
                return F.cross_entropy(learner(process.q_sample(x_0, t), timesteps=t).float(), y)
            return (process.training_losses(learner, x_0, t, model_kwargs=told)["loss"] * weights).mean()

        def step() -> None:
            trainer.zero_grad()
            trainer.backward(loss())
            took_step = trainer.optimize(optimizer)
            if kind == "denoiser" and took_step:
                their_nn.update_ema(average, trainer.master_params, rate=EMA)
        return step
    return of
