"""From a name or a path to a NoisyEncoder: one of ours, a classifier's torso, a clean one of timm's or CLIP's."""
from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from noisy_clf.checkpoints.by_name import CLEAN, CLIP, encoder_folder
from noisy_clf.checkpoints.tensors import give_tensors
from noisy_clf.encoder import NETWORKS, NoisyEncoder
from noisy_clf.errors import UserError
from noisy_clf.loaders.clip import load_clip
from noisy_clf.loaders.model_folder import network_in
from noisy_clf.loaders.timm import load_clean_backbone, needed, weights_digest
from noisy_clf.networks.clip_image import ClipImageConfig, ClipImageTower
from noisy_clf.networks.encoder_unet import EncoderUNet
from noisy_clf.space import Space
from noisy_clf.training.config import saw_no_noise


@dataclass(frozen=True)
class LoadedEncoder:
    """A frozen encoder, in evaluation mode, on the CPU.

    digest  SHA-256 of its weights' file, or of its weights as one
    config  all else that its features depend on, as JSON has it
    clean   whether it never saw noise, and so is at home at x0_hat alone; None: nothing tells
    """

    encoder: NoisyEncoder
    digest: str
    config: dict[str, Any]
    clean: bool | None = None


def load_encoder(name_or_path: str | Path, space: Space | None = None) -> LoadedEncoder:
    """An encoder by name or from its folder, what a classifier of ours sees before it names the class, or one that learned
    on clean images: timm's ("timm:NAME", "timm:NAME@FILE"), or CLIP's with its text tower (loaders/clip.py).

    space  what clean ones are to look at; all others know their own
    """
    name = str(name_or_path)
    if name.startswith(CLEAN):
        space = needed(space, name)
        network = load_clean_backbone(name, space)
        return as_loaded(NoisyEncoder(network, space.schedule), weights_digest(network), clean=True)
    if name.startswith(CLIP):
        return clip_tower(name, needed(space, name))
    folder = encoder_folder(name)
    assert folder is not None
    network = network_in(folder, NETWORKS)
    if folder.config["kind"] == "encoder":
        text = folder.config.get("text")
        if text is not None and set(text) != {"tower", "digest"}:
            raise UserError(f"{folder.path}: text must tell a text tower by \"tower\", its name, and \"digest\", not {text}.")
        return as_loaded(NoisyEncoder(network, folder.schedule, text), folder.digest, clean=False)
    clean = saw_no_noise(folder.config.get("training"))
    if not clean or space is None:
        return as_loaded(NoisyEncoder(network, folder.schedule), folder.digest, clean)
    if space.channels not in (1, folder.channels):
        raise UserError(f"{name} sees images of {folder.channels} channels, and here are images of {space.channels}; only grey "
                        f"ones can be shown to an encoder of others: take one that learned on {space.channels} channels.")
    return as_loaded(NoisyEncoder(network, space.schedule, shown=(space.image_size, space.channels)), folder.digest, clean)


def as_loaded(encoder: NoisyEncoder, digest: str, clean: bool | None) -> LoadedEncoder:
    encoder.eval().requires_grad_(False)
    return LoadedEncoder(encoder, digest, encoder.config(), clean)


def clip_tower(name: str, space: Space) -> LoadedEncoder:
    """The image tower of a dual encoder, as it learned on clean images."""
    clip = load_clip(name)
    network = ClipImageTower(ClipImageConfig(
        image_size=space.image_size, in_channels=space.channels, embed_dim=clip.model_cfg["embed_dim"],
        vision=clip.model_cfg["vision_cfg"], quick_gelu=clip.model_cfg.get("quick_gelu", False), mean=clip.mean, std=clip.std,
        time_conditional=False))
    give_tensors(network.backbone, Path(name), clip.image)
    text = {"tower": name, "digest": clip.text_digest}
    return as_loaded(NoisyEncoder(network, space.schedule, text), clip.image_digest, clean=True)


def learning(encoder: NoisyEncoder) -> NoisyEncoder:
    """A copy for images of its network's own kind, all of which learns. It is told the time, whether the encoder is or not, and
    at the start has the encoder's features, at every t those of that t."""
    network = encoder.network
    if isinstance(network, EncoderUNet) or network.config.time_conditional:
        pupil = copy.deepcopy(network)
    else:
        config: Any = replace(network.config, time_conditional=True)
        pupil = type(network)(config)
        pupil.backbone.load_state_dict(network.backbone.state_dict())
    pupil.to(next(network.parameters()).device)
    return NoisyEncoder(pupil.requires_grad_(True), encoder.schedule, encoder.text).train()


def text_embeddings(encoder: NoisyEncoder, texts: Sequence[str], name: str = "this encoder") -> Tensor:
    """N texts -> float32 [N,D] of length 1, in the same space as the encoder's. UserError where no text tower goes with it, it
    is not to be had, or it is another by now.

    name  what messages call the encoder
    """
    if encoder.text is None:
        raise UserError(f"{name} has no text tower, and cannot be told in words what to see; give pictures, or an encoder of "
                        f"CLIP's: clip:NAME@WEIGHTS, or one tuned from it.")
    tower = encoder.text["tower"]
    try:
        clip = load_clip(tower)
    except UserError as error:
        if tower == name:
            raise
        raise UserError(f"{name} goes with the text tower of {tower}, by its config.json: {str(error).rstrip('.')}; put it "
                        f"there, or write into that file where it lies.") from error
    if clip.text_digest != encoder.text["digest"]:
        raise UserError(f"the text tower of {tower} is not the one that {name} goes with: its weights are others "
                        f"({clip.text_digest[:8]}, not {encoder.text['digest'][:8]}); give the same weights by that name.")
    return clip.embeddings(texts)
