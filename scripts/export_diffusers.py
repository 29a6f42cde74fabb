"""Writes a denoiser of this toolkit as a DDPMPipeline of diffusers: model_index.json, unet/ and scheduler/.

    python scripts/export_diffusers.py digits digits-diffusers

The numbers stay the same; what a UNet2DModel or a DDPMScheduler cannot express is refused. Class names and the advised
classifier, scale and steps have no place there.
"""
from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save
from torch import Tensor, nn

from guided_sample.denoiser import Denoiser
from guided_sample.loaders import load_denoiser
from noisy_clf.checkpoints.diffusers_scheduler import WEIGHTS
from guided_sample.unet import UNet, UNetConfig
from noisy_clf.errors import FriendlyCommand, UserError
from noisy_clf.files import atomic_write, write_json
from noisy_clf.checkpoints.diffusers_scheduler import CONFIG, INDEX, PREDICTS, SCHEDULER
from noisy_clf.networks.layers import AttentionBlock, Downsample, ResBlock, Upsample
from noisy_clf.schedule import NoiseSchedule

VERSION = "0.42.1"  # of diffusers, whose format this is


def refuse_what_cannot_be_told(denoiser: Denoiser) -> None:
    network = denoiser.network
    if not isinstance(network, UNet):
        raise UserError("only denoisers with this toolkit's UNet can be exported, and this one's network is another.")
    for hinders, why in (
            (denoiser.small_size, "it is an upsampler, which reads a small image too"),
            (denoiser.rescaled_t and denoiser.schedule.T != 1000, "its network is told 1000 t / T in t's place"),
            (denoiser.variance == "learned", "its learned log-variance would be read as a variance there"),
            (network.config.widths[0] != network.config.channels,
             f"its channel_mult begins with {network.config.channel_mult[0]}, and there the time embedding is as wide as the "
             f"first level")):
        if hinders:
            raise UserError(f"this denoiser cannot be told in diffusers' words: {why}; use it with this toolkit.")


def unet_config(config: UNetConfig) -> dict[str, Any]:
    """UNet2DModel's arguments, all but those of no effect."""
    attends = [config.attends(level) for level in range(len(config.widths))]
    if config.resample == "resblock":
        resampling, down, up = "resnet", "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
    else:
        resampling, down, up = "conv", "DownBlock2D", "UpBlock2D"
    return {
        "_class_name": "UNet2DModel", "_diffusers_version": VERSION,
        "sample_size": config.image_size, "in_channels": config.in_channels, "out_channels": config.out_channels,
        "block_out_channels": list(config.widths), "layers_per_block": config.res_blocks,
        "down_block_types": ["AttnDownBlock2D" if attention else down for attention in attends],
        "up_block_types": ["AttnUpBlock2D" if attention else up for attention in reversed(attends)],
        "downsample_type": resampling, "upsample_type": resampling, "downsample_padding": 1,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "attention_head_dim": head_channels(config), "attn_norm_num_groups": 32,  # null: none with scale_shift
        "norm_num_groups": 32, "norm_eps": 1e-5, "act_fn": "silu", "dropout": config.dropout,
        "time_embedding_type": "positional", "flip_sin_to_cos": True, "freq_shift": 0, "num_class_embeds": config.num_classes}


def head_channels(config: UNetConfig) -> int | None:
    """One number for every level, or None: a single head."""
    widths = [width for level, width in enumerate(config.widths) if config.attends(level)] + [config.widths[-1]]
    if all(config.heads_of(width) == 1 for width in widths):
        return None
    channels = {width // config.heads_of(width) for width in widths}
    if len(channels) > 1:
        raise UserError(f"this denoiser cannot be told in diffusers' words: its {config.heads} heads are of "
                        f"{', '.join(map(str, sorted(channels)))} channels, and there heads are equally wide at every level; "
                        f"use it with this toolkit.")
    return channels.pop()


def scheduler_config(denoiser: Denoiser) -> dict[str, Any]:
    return {
        "_class_name": "DDPMScheduler", "_diffusers_version": VERSION, **betas_config(denoiser.schedule),
        "prediction_type": {ours: theirs for theirs, ours in PREDICTS.items()}[denoiser.predicts],
        "variance_type": denoiser.variance, "clip_sample": True, "clip_sample_range": 1.0,
        "timestep_spacing": "linspace"}  # as --steps N spaces them


def betas_config(schedule: NoiseSchedule) -> dict[str, Any]:
    T = schedule.T
    if schedule.name == "linear":
        return {"num_train_timesteps": T, "beta_schedule": "linear", "beta_start": 1e-4 * 1000 / T, "beta_end": 0.02 * 1000 / T}
    if schedule.name == "cosine":
        return {"num_train_timesteps": T, "beta_schedule": "squaredcos_cap_v2"}
    return {"num_train_timesteps": T, "trained_betas": schedule.betas.tolist()}


def unet_tensors(network: UNet) -> dict[str, Tensor]:
    """Our tensors under their names in a UNet2DModel."""
    widths, layers = network.config.widths, network.config.res_blocks
    found: dict[str, Tensor] = {}

    def put(name: str, block: nn.Module, width: int = 0) -> None:
        found.update({f"{name}.{part}": tensor.contiguous() for part, tensor in their_tensors(block, width).items()})

    put("time_embedding.linear_1", network.time_embed[0])
    put("time_embedding.linear_2", network.time_embed[2])
    if network.config.num_classes is not None:
        put("class_embedding", network.label_emb)
    down, up = iter(network.input_blocks), iter(network.output_blocks)
    put("conv_in", next(down)[0])
    for level, width in enumerate(widths):
        for i in range(layers):
            for kind, block in zip(("resnets", "attentions"), next(down)):
                put(f"down_blocks.{level}.{kind}.{i}", block)
        if level < len(widths) - 1:
            put(f"down_blocks.{level}.downsamplers.0", next(down)[0], width)
    for name, block in zip(("resnets.0", "attentions.0", "resnets.1"), network.middle_block):
        put(f"mid_block.{name}", block)
    for level, width in enumerate(reversed(widths)):
        for i in range(layers + 1):
            resnet, *more = next(up)
            put(f"up_blocks.{level}.resnets.{i}", resnet)
            for block in more:
                kind = f"attentions.{i}" if isinstance(block, AttentionBlock) else "upsamplers.0"
                put(f"up_blocks.{level}.{kind}", block, width)
    put("conv_norm_out", network.out[0])
    put("conv_out", network.out[2])
    return found


def their_tensors(block: nn.Module, width: int) -> dict[str, Tensor]:
    """A block's tensors under their names in diffusers' block of that kind."""
    if isinstance(block, ResBlock):
        parts = {"norm1": block.in_layers[0], "conv1": block.in_layers[2], "time_emb_proj": block.emb_layers[1],
                 "norm2": block.out_layers[0], "conv2": block.out_layers[3], "conv_shortcut": block.skip_connection}
        return {f"{part}.{name}": tensor for part, layer in parts.items() for name, tensor in layer.state_dict().items()}
    if isinstance(block, AttentionBlock):
        return attention_tensors(block)
    if isinstance(block, Downsample | Upsample):
        conv = block.op if isinstance(block, Downsample) else block.conv
        return {f"conv.{name}": tensor for name, tensor in (
            conv.state_dict() if isinstance(conv, nn.Conv2d) else plain_as_conv(block, width)).items()}
    return dict(block.state_dict())


def attention_tensors(block: AttentionBlock) -> dict[str, Tensor]:
    """q, k and v apart, each (head, channel): `legacy` files hold (head, q|k|v, channel), `new` ones (q|k|v, head, channel)."""
    found = {f"group_norm.{name}": tensor for name, tensor in block.norm.state_dict().items()}
    found |= {f"to_out.0.{name}": tensor.flatten(1) if name == "weight" else tensor
              for name, tensor in block.proj_out.state_dict().items()}
    for name, tensor in block.qkv.state_dict().items():
        if block.order == "legacy":
            parts = tensor.unflatten(0, (block.heads, 3, -1)).transpose(0, 1).flatten(1, 2)
        else:
            parts = tensor.unflatten(0, (3, -1))
        for part, rows in zip(("to_q", "to_k", "to_v"), parts):
            found[f"{part}.{name}"] = rows.flatten(1) if name == "weight" else rows
    return found


def plain_as_conv(block: nn.Module, width: int) -> dict[str, Tensor]:
    """Resampling without weights as the convolution that does the same: diffusers has it with one only."""
    kernel = torch.zeros(3, 3)
    if isinstance(block, Downsample):
        kernel[1:, 1:] = 1 / 4  # with stride 2 and padding 1 this is the mean of 2x2 pixels
    else:
        kernel[1, 1] = 1
    return {"weight": torch.eye(width)[:, :, None, None] * kernel, "bias": torch.zeros(width)}


def export(denoiser: Denoiser, out: Path) -> None:
    """Writes the whole folder or nothing."""
    refuse_what_cannot_be_told(denoiser)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and is not an empty folder; choose another name.")
    out = out.absolute()
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
    try:
        write_json(temporary / INDEX, {
            "_class_name": "DDPMPipeline", "_diffusers_version": VERSION, "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"]})
        write_json(temporary / "scheduler" / SCHEDULER, scheduler_config(denoiser))
        write_json(temporary / "unet" / CONFIG, unet_config(denoiser.network.config) | (
            {"null_class": True} if denoiser.null_class else {}))
        with atomic_write(temporary / "unet" / WEIGHTS[0]) as file:
            file.write_bytes(save(unet_tensors(denoiser.network), metadata={"format": "pt"}))
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@click.command(cls=FriendlyCommand)
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
def main(model: str, out: Path) -> None:
    """Writes MODEL, a name or a folder, as a folder OUT of diffusers."""
    denoiser = load_denoiser(model)
    export(denoiser, out)
    click.echo(f"{out}: DDPMPipeline.from_pretrained({str(out)!r}) loads it" + (
        f"; its {len(denoiser.class_names)} classes are numbers there, for UNet2DModel's class_labels."
        if denoiser.class_names else "."))


if __name__ == "__main__":
    main()
