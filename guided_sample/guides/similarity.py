"""Like a picture, in its style, as words say: how near what an encoder sees in a sample is to what it sees in these.

Log-densities of semantic diffusion guidance (SDG, arXiv 2112.05744). An encoder is here (images [B,C,H,W], t [B]) -> Features.
Pictures are clean ones, float32 [B,C,H,W] in [-1,1], one for each sample.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guided_sample.model import Look
from noisy_clf.encoder import NoisyEncoder
from noisy_clf.networks.features import Features
from noisy_clf.noise import Noise

Encoder = Callable[[Tensor, Tensor], Features]
Layers = Sequence[int]  # of an encoder's maps, counted from 1, the finest


class FeaturesOf(nn.Module):
    """An encoder that is called for its features, and so can be compiled; of one as it was loaded, whose maps it counts."""

    def __init__(self, encoder: NoisyEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        with torch.no_grad():
            image = torch.zeros(1, encoder.channels, encoder.image_size, encoder.image_size)
            self.count = len(encoder.features(image, torch.zeros(1, dtype=torch.int64)).maps)

    def forward(self, x: Tensor, t: Tensor) -> Features:
        return self.encoder.features(x, t)


def like(encoder: Encoder, pictures: Tensor, noise: Noise | None = None, see: str = "x_t",
         layers: Layers | None = None) -> Callable[[Look], Tensor]:
    """Shows what the picture shows: the cosine of their embeddings (SDG's program); or where layers are given, its structure:
    minus the distance of their maps (SDG's paper)."""
    if layers is None:
        return beside(encoder, pictures, noise, see, lambda seen, wanted: cosine(seen.embedding, wanted.embedding))
    return beside(encoder, pictures, noise, see, lambda seen, wanted: structure(of(seen, layers), of(wanted, layers)))


def style_of(encoder: Encoder, pictures: Tensor, noise: Noise | None = None, see: str = "x_t",
             layers: Layers | None = None) -> Callable[[Look], Tensor]:
    """Has the picture's colours and textures, wherever they are: minus the distance of the Gram matrices of the maps."""
    return beside(encoder, pictures, noise, see, lambda seen, wanted: style(of(seen, layers), of(wanted, layers)))


def worded(encoder: Encoder, embeddings: Tensor, see: str = "x_t") -> Callable[[Look], Tensor]:
    """Shows what the words say, whose embeddings are float32 [B,D]: the cosine."""
    return lambda look: cosine(encoder(*shown(look, see)).embedding, embeddings)


def beside(encoder: Encoder, pictures: Tensor, noise: Noise | None, see: str,
           compare: Callable[[Features, Features], Tensor]) -> Callable[[Look], Tensor]:
    """The sample compared with its picture, both as the encoder sees them at one noise level.

    noise  each sample's own, [B,C,H,W]. At x_t it is drawn anew at each look, and the picture is noised by it to the look's t;
           else the picture stays as it is, and is seen once
    """
    clean: list[Features] = []

    def log_density(look: Look) -> Tensor:
        x, t = shown(look, see)
        with torch.no_grad():
            if see == "x_t":
                assert noise is not None
                # q(x_t | x_0) of the picture
                wanted = encoder(look.alpha_bar ** 0.5 * pictures + (1 - look.alpha_bar) ** 0.5 * noise(), t)
            else:
                if not clean:  # cloned: a CUDA graph overwrites its own
                    found = encoder(pictures, t)
                    clean.append(Features([one.clone() for one in found.maps], found.embedding.clone()))
                wanted = clean[0]
        return compare(encoder(x, t), wanted)
    return log_density


def shown(look: Look, see: str) -> tuple[Tensor, Tensor]:
    """(the images, the t that is told) of "x_t"; or of x0_hat, told t = 0: "x0" takes it for a constant plus x_t's share of 1,
    "through" runs back through the denoiser."""
    if see == "x_t":
        return look.x_t, look.t
    x_0 = look.x0_hat if see == "through" else look.estimate + (look.x_t - look.x_t.detach())
    return x_0, torch.zeros_like(look.t)


def of(features: Features, layers: Layers | None) -> list[Tensor]:
    return features.maps if layers is None else [features.maps[layer - 1] for layer in layers]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of embeddings [B,D], float32 [B]."""
    return F.cosine_similarity(a.float(), b.float(), dim=1)


def structure(maps: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Minus the mean over maps [B,C,H,W] of their mean squared difference, float32 [B]."""
    return -mean_of([squared(one.float() - other.float()) for one, other in zip(maps, wanted, strict=True)])


def style(maps: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Minus the mean over maps [B,C,H,W] of their Gram matrices' mean squared difference, float32 [B]. (SDG's program has 1e10
    times as much)"""
    return -mean_of([squared(gram(one) - gram(other)) for one, other in zip(maps, wanted, strict=True)])


def gram(one: Tensor) -> Tensor:
    """How a map's channels go together in each image: [B,C,H,W] -> float32 [B,C,C], divided by C*H*W. (SDG's program takes the
    batch's channels together, and so mixes its images)"""
    with torch.autocast(one.device.type, enabled=False):  # products of halves would overflow, or lose what they differ by
        rows = one.float().flatten(2)
        return rows @ rows.mT / rows[0].numel()


def squared(difference: Tensor) -> Tensor:
    """The mean of each image's squares, [B]."""
    return difference.square().flatten(1).mean(dim=1)


def mean_of(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(dim=0)
