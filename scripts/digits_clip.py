"""Trains CLIP in small, on the digits and their names: a dual encoder in open_clip's own format, for guiding by words.

    python scripts/digits_clip.py OUT              some 3 minutes of one core; bundled by make_digits.py clip

Image and caption of one class are a pair (CLIP's symmetric cross-entropy, arXiv 2103.00020; with many images of a class in a
batch, all pairs of a class count alike). Of open_clip's 49408 tokens the file keeps those that the captions have.
"""
from __future__ import annotations

import math
import random
from pathlib import Path

import click
import open_clip
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from noisy_clf.datasets.digits import digits
from noisy_clf.datasets.images import LabelledImages
from noisy_clf.files import atomic_write, write_json
from noisy_clf.loaders.clip import IDS, load_clip
from noisy_clf.loaders.clip_files import CONFIG, WEIGHTS

MODEL = {"embed_dim": 64,
         "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 64, "head_width": 32, "layers": 3, "mlp_ratio": 2.0},
         "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2,
                      "mlp_ratio": 2.0}}
MEAN = STD = (0.5, 0.5, 0.5)
NAMED = ("{}", "a {}", "the {}", "the digit {}", "the number {}", "a handwritten {}", "a written {}", "a picture of a {}",
         "an image of a {}", "a photo of a {}", "a drawing of a {}", "a picture of the digit {}", "a picture of the number {}",
         "a handwritten digit {}", "an image of the number {}")  # by its name, or its figure
STEPS, BATCH, RATE, DECAY, WARMUP = 2000, 128, 1e-3, 0.1, 100


def captions(label: int, name: str) -> list[str]:
    """All that are true of a digit, with the right article before eight and 8, and a full stop or none."""
    article = "an" if name == "eight" else "a"
    said = [form.replace("a {}", article + " {}").format(word) for form in NAMED for word in (name, str(label))]
    return [text + stop for text in said for stop in ("", ".")]


def jittered(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Images [N,C,H,W] in [0,1], turned by up to 12 degrees, sheared, scaled by up to 15 % and moved by up to 1.5 pixels."""
    N, _, size, _ = pixels.shape
    angle, shear, scale, x, y = ((2 * torch.rand(N, generator=generator) - 1) * most
                                 for most in (math.radians(12), 0.15, 0.15, 3 / size, 3 / size))
    cos, sin = torch.cos(angle) * (1 + scale), torch.sin(angle) * (1 + scale)
    maps = torch.stack([torch.stack([cos, shear - sin, x], 1), torch.stack([sin, cos, y], 1)], 1)
    return F.grid_sample(pixels, F.affine_grid(maps, list(pixels.shape), align_corners=False), align_corners=False)


def seen(images: LabelledImages) -> tuple[Tensor, Tensor]:
    """All of them in [0,1], and their labels."""
    pixels, labels = images.whole()
    return pixels.float() / 255, labels


def normalised(pixels: Tensor) -> Tensor:
    """As the image tower takes grey ones in [0,1]."""
    return ((pixels - MEAN[0]) / STD[0]).expand(-1, 3, -1, -1)


def train(tokenize: open_clip.SimpleTokenizer) -> open_clip.CLIP:
    data = digits()
    pixels, labels = seen(data.train)
    tokens = [tokenize(captions(label, name)) for label, name in enumerate(data.class_names)]
    torch.manual_seed(0)
    generator, choose = torch.Generator().manual_seed(0), random.Random(0)
    model = open_clip.CLIP(**MODEL)
    optimizer = torch.optim.AdamW([{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": DECAY},
                                   {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0}])
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        chosen = torch.randint(len(labels), (BATCH,), generator=generator)
        y = labels[chosen]
        image = model.encode_image(normalised(jittered(pixels[chosen], generator)), normalize=True)
        text = model.encode_text(torch.stack([choose.choice(tokens[label]) for label in y.tolist()]), normalize=True)
        logits = model.logit_scale.exp() * image @ text.T
        pairs = F.normalize((y[:, None] == y[None]).float(), p=1, dim=1)  # symmetric, as classes are
        loss = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))  # as CLIP's
        if step % 250 == 249:
            click.echo(f"step {step + 1}: loss {loss.item():.3f}, {zero_shot(model, tokenize, '{}'):.1%} right", err=True)
    return model.eval()


@torch.no_grad()
def zero_shot(model: open_clip.CLIP, tokenize: open_clip.SimpleTokenizer, form: str) -> float:
    """How many of the held-out digits are nearest to the caption of their class."""
    data = digits()
    pixels, labels = seen(data.validation)
    model.eval()
    text = model.encode_text(tokenize([form.format(name) for name in data.class_names]), normalize=True)
    right = (model.encode_image(normalised(pixels), normalize=True) @ text.T).argmax(1) == labels
    model.train()
    return right.float().mean().item()


def store(model: open_clip.CLIP, known: Tensor, folder: Path) -> None:
    """In open_clip's format, in half precision, with the token table's rows of the tokens `known` alone."""
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    tensors["token_embedding.weight"] = tensors["token_embedding.weight"][known].contiguous()
    write_json(folder / CONFIG, {"model_cfg": MODEL, "preprocess_cfg": {"mean": MEAN, "std": STD}})
    with atomic_write(folder / WEIGHTS[0]) as temporary:
        temporary.write_bytes(save({**tensors, IDS: known}, metadata={"made_by": "scripts/digits_clip.py"}))


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
def digits_clip(out: Path) -> None:
    tokenize = open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])
    model = train(tokenize)
    said = [text for label, name in enumerate(digits().class_names) for text in captions(label, name)]
    store(model, tokenize(said).unique(), out)
    for form in ("{}", "a {}", "the digit {}", "a handwritten {}"):
        click.echo(f"{out}: {zero_shot(model, tokenize, form):.1%} of the held-out digits are nearest to their {form!r}")
    load_clip(f"clip:{out}").embeddings(said)


if __name__ == "__main__":
    digits_clip()
