"""NoisyClassifier: a time-conditioned network with all that using it takes: its noise schedule and its class names."""
from __future__ import annotations

import difflib
import re
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf import imagenet
from noisy_clf.networks.timm_classifier import TimmClassifier, TimmConfig
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule

NETWORKS: dict[str, tuple[Any, Any]] = {  # config.json's type of network -> (its config, the network)
    "EncoderUNet": (EncoderUNetConfig, EncoderUNet),
    "timm": (TimmConfig, TimmClassifier),
}


class NoisyClassifier(nn.Module):
    """p(y | x_t) for images of one size, one noise schedule and K named classes."""

    def __init__(self, network: EncoderUNet | TimmClassifier, schedule: NoiseSchedule, class_names: tuple[str, ...]) -> None:
        super().__init__()
        if len(class_names) != network.config.num_classes:
            raise UserError(f"the classifier has {network.config.num_classes} classes but {len(class_names)} class names.")
        self.network, self.schedule, self.class_names = network, schedule, tuple(class_names)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t [B,C,H,W], t [B] -> logits float32 [B,K]."""
        return self.network(x_t, t).float()

    def log_prob(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """log p(y | x_t) in nats, float32 [B]."""
        return -F.cross_entropy(self(x_t, t), y, reduction="none")

    @property
    def image_size(self) -> int:
        return self.network.config.image_size

    @property
    def channels(self) -> int:
        return self.network.config.in_channels

    def config(self) -> dict[str, Any]:
        """What config.json says of this classifier."""
        kind = next(kind for kind, (config, _) in NETWORKS.items() if type(self.network.config) is config)
        return {"kind": "classifier", "network": {"type": kind, **asdict(self.network.config)},
                "schedule": self.schedule.to_config(), "class_names": list(self.class_names)}


def nameless(class_names: tuple[str, ...]) -> bool:
    """Whether these are only the classes' numbers, as of a foreign file that tells no names."""
    return class_names == tuple(map(str, range(len(class_names))))


def class_index(text: str, class_names: tuple[str, ...]) -> int:
    """A class's number from its number or its name; what does not exist is answered with what does."""
    K = len(class_names)
    if text.strip().removeprefix("-").isdecimal():
        if 0 <= int(text) < K:
            return int(text)
        raise UserError(f"there is no class {text}; the classes are 0 to {K - 1}"
                        + (f" ({', '.join(class_names)})." if K <= 20 else "."))
    text, lower = text.strip(), [name.lower() for name in class_names]
    if text.lower() in lower:
        return lower.index(text.lower())
    words: dict[str, int | list[int]] = dict(zip(lower, range(K)))
    if K > 20 or any(re.fullmatch(r"n\d{8}", name) for name in class_names):  # not for ten digits: it takes a second
        words |= imagenet_words(class_names)
    meant = words.get(text.lower())
    if isinstance(meant, int):
        return meant
    if meant:
        raise UserError(f"{text!r} is the name of {len(meant)} classes: "
                        f"{' and '.join(f'{i} {class_names[i]}' for i in meant)}; give the number.")
    near = difflib.get_close_matches(text.lower(), words, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(class_names[lower.index(word)] if word in lower else word for word in near)}?" \
        if near else f"the classes are {', '.join(class_names)}, or 0 to {K - 1}." if K <= 20 else \
        f"the classes are 0 to {K - 1}, {class_names[0]} to {class_names[-1]}."
    raise UserError(f"there is no class {text!r}; {hint}")


def imagenet_words(class_names: tuple[str, ...]) -> dict[str, int | list[int]]:
    """WordNet ids and words (lower case) for those of the classes that are ImageNet's: a class, or several."""
    position = {name: i for i, name in enumerate(class_names)}
    names, ids = imagenet.class_names(), [id for id, _ in imagenet.synsets()]
    found: dict[str, int | list[int]] = {}
    for word, classes in imagenet.meanings().items():
        here = [position[name] for i in classes for name in (names[i], ids[i]) if name in position]
        if here:
            found[word] = here[0] if len(here) == 1 else here
    return found
