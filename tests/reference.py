"""The reference numbers of openai/guided-diffusion, and our networks with the weights that they were computed with."""
from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guided_sample.unet import UNet, UNetConfig
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig

FOLDER = Path(__file__).parent / "data" / "guided_diffusion"
INDEX = json.loads((FOLDER / "index.json").read_text())


def arrays(file: str) -> dict[str, Tensor]:
    with np.load(FOLDER / file) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def drawn_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor drawn from its name alone, as index.json's "weights" says."""
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) >= 2:
        r = r / np.sqrt(np.prod(shape[1:]))
    else:
        r = 1 + 0.1 * r if name.endswith("weight") else 0.1 * r
    return torch.from_numpy(np.asarray(r, dtype=np.float32))


def with_drawn_weights(network: nn.Module) -> Any:
    network.load_state_dict({name: drawn_weight(name, tuple(tensor.shape)) for name, tensor in network.state_dict().items()})
    return network.eval()


def shared_settings(theirs: dict[str, Any]) -> dict[str, Any]:
    """Their configuration in our words."""
    return {
        "image_size": theirs["image_size"], "in_channels": theirs["in_channels"], "channels": theirs["model_channels"],
        "channel_mult": theirs["channel_mult"], "res_blocks": theirs["num_res_blocks"],
        "attention_at": [theirs["image_size"] // factor for factor in theirs["attention_resolutions"]],
        "heads": theirs.get("num_heads", 1),
        "head_channels": None if theirs["num_head_channels"] == -1 else theirs["num_head_channels"],
        "attention_order": "new" if theirs.get("use_new_attention_order") else "legacy",
        "scale_shift": theirs["use_scale_shift_norm"], "resample": "resblock" if theirs["resblock_updown"] else "conv"}


def unet(name: str) -> UNet:
    theirs = INDEX["unet"][name]["config"]
    return with_drawn_weights(UNet(UNetConfig(
        **shared_settings(theirs), out_channels=theirs["out_channels"], num_classes=theirs["num_classes"])))


def encoder(name: str) -> EncoderUNet:
    theirs = INDEX["encoder"][name]["config"]
    return with_drawn_weights(EncoderUNet(EncoderUNetConfig(
        **shared_settings(theirs), num_classes=theirs["out_channels"], pool=theirs["pool"])))


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
