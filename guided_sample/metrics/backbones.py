"""Features of DINOv2, of any of timm's models, and of a judge: what enters a network's last layer."""
from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guided_sample.metrics.extractor import Extractor
from guided_sample.metrics.resize import in_colour, pillow_bicubic
from noisy_clf.checkpoints.tensors import refuse_other_tensors
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.datasets.images import to_x_0
from noisy_clf.errors import UserError
from noisy_clf.execution import exact_float32
from noisy_clf.loaders.timm import weights_digest
from noisy_clf.loaders.timm_weights import TIMM, find_tensors, in_timms_format, names_of
from noisy_clf.networks.encoder_unet import EncoderUNet
from noisy_clf.networks.layers import AttentionPool
from noisy_clf.networks.timm_classifier import TimmClassifier
from noisy_clf.networks.timm_model import TimmConfig, create, pretrained_cfg

DINOV2, DINOV2_SIZE = "vit_large_patch14_dinov2", 224  # of FD-DINOv2 (Stein et al. 2023)
OFFSET = 0.1  # patches, that DINOv2's own program adds to the new side before it divides by the old one


def timm_extractor(name: str, device: torch.device) -> Extractor:
    """Of "dinov2" or "timm:NAME", each with timm's own weights or, with "@FILE" behind it, those of a file.

    The whole image is resized to the network's input, bicubic by Pillow as the program of FD-DINOv2 does it, and scaled by the
    network's own mean and deviation. The features are pooled as the network pools them: DINOv2's are its class token.
    """
    name, _, file = name.partition("@")
    dinov2 = name == "dinov2"
    model = DINOV2 if dinov2 else name.removeprefix("timm:")
    trained = pretrained_cfg(model)
    size = DINOV2_SIZE if dinov2 else trained.input_size[-1]
    network = headless(model, size, file or TIMM, hub_positions=dinov2)
    digest = weights_digest(network)
    network.to(device)
    exact_float32()
    mean, std = (torch.tensor(values, device=device) for values in (trained.mean, trained.std))

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            pixels = torch.from_numpy(pillow_bicubic(in_colour(images), size)).to(device)
            pool = network(((pixels / 255 - mean) / std).permute(0, 3, 1, 2)).flatten(1)
        return {"pool": pool.float().cpu().numpy()}

    return Extractor(name, digest, ("pool",), extract)


def headless(model: str, size: int, source: str, hub_positions: bool = False) -> nn.Module:
    """timm's model for images of size x size pixels, without its last layer, frozen.

    source         of its weights: a file, or "timm"
    hub_positions  its position embedding is resampled to the size as DINOv2's own program does it, not as timm does
    """
    config = TimmConfig(name=model, image_size=size, in_channels=3, num_classes=1, time_conditional=False, batch_norm="frozen")
    network, path = create(config), Path(f"timm's {model}" if source == TIMM else source)
    network.reset_classifier(0)  # type: ignore[operator]
    own, tensors = network.state_dict(), dict(find_tensors(model, source))
    if hub_positions and "pos_embed" in tensors:
        tensors["pos_embed"] = resampled(tensors["pos_embed"], own["pos_embed"].shape[1])
    last = tuple(f"{layer}." for layer in names_of(pretrained_cfg(model).classifier))
    tensors = {name: tensor for name, tensor in in_timms_format(network, config, tensors, path).items()
               if name in own or not name.startswith(last)}
    counts = {name: own[name] for name in own if name.endswith("num_batches_tracked")}  # old files lack it
    refuse_other_tensors(path, counts | tensors, own)
    network.load_state_dict(counts | tensors)
    return network.eval().requires_grad_(False)


def resampled(positions: Tensor, tokens: int) -> Tensor:
    """A position embedding [1,1+M*M,d] for as many tokens as these, equal to the last bit to DINOv2's own program: bicubic, not
    antialiased, by a factor that is a little more than new / old side. The class token's stays."""
    old, new = round((positions.shape[1] - 1) ** 0.5), round((tokens - 1) ** 0.5)
    if old == new:
        return positions
    grid = positions[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(new + OFFSET) / old, mode="bicubic")
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def judge_extractor(name: str, classifier: NoisyClassifier, digest: str, device: torch.device) -> Extractor:
    """What enters the last layer of a classifier that looks at clean images, at t = 0. Images must be of its size.

    name    the judge's; the features are called "judge:NAME"
    digest  SHA-256 of its weights
    """
    network = handing_on(classifier.network).to(device).eval()
    shape = (classifier.image_size, classifier.image_size, classifier.channels)

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        if images.shape[1:] != shape:
            raise UserError(f"the judge {name} looks at images of {shape[0]} x {shape[1]} pixels and {shape[2]} channels, and "
                            f"these have {images.shape[1]} x {images.shape[2]} and {images.shape[3]}; give a judge of such "
                            f"images, or resize the images first.")
        with torch.inference_mode():
            x_0 = to_x_0(torch.tensor(images, device=device)).permute(0, 3, 1, 2).contiguous()
            pool = network(x_0, torch.zeros(len(x_0), dtype=torch.int64, device=device))
        return {"pool": pool.float().cpu().numpy()}

    return Extractor(f"judge:{name}", digest, ("pool",), extract, batch_size=256 if classifier.image_size <= 32 else 64)


def handing_on(network: EncoderUNet | TimmClassifier) -> EncoderUNet | TimmClassifier:
    """A copy of the network whose last layer hands on what enters it."""
    network = deepcopy(network)
    if isinstance(network, TimmClassifier):
        network.backbone.reset_classifier(0)
        return network
    head = network.out[-1]
    if isinstance(head, AttentionPool):  # whose last layer is a weight that is multiplied by, not a module that is called
        width = head.c_proj.in_channels
        head.c_proj = nn.Conv1d(width, width, 1)
        head.c_proj.load_state_dict({"weight": torch.eye(width)[:, :, None], "bias": torch.zeros(width)})
    else:
        network.out[-2 if isinstance(head, nn.Flatten) else -1] = nn.Identity()
    return network
