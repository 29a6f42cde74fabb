"""CLIP's dual encoders of images and texts: "clip:ARCH@TAG", "clip:ARCH@FILE", "clip:FOLDER", "clip:digits"."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noisy_clf.checkpoints.tensors import give_tensors, tensors_digest
from noisy_clf.errors import UserError, one_line, out_of_memory
from noisy_clf.loaders.clip_files import find, read_towers
from noisy_clf.networks.open_clip import imported

IDS = "token_embedding.ids"  # of a token table cut to the rows that learned something: which these are


@dataclass(frozen=True)
class Clip:
    """A dual encoder: the image tower's tensors, and texts' embeddings.

    name                       "clip:..." as it was given
    model_cfg                  open_clip's: embed_dim, vision_cfg, text_cfg, quick_gelu; nothing in it asks for a download
    mean, std                  what is taken off pixels in [0,1], and what they are then divided by, for each channel
    image, text                the towers' tensors, float32, by open_clip's names without "visual." and "text."
    image_digest, text_digest  SHA-256 of them
    tokenizer                  by which name open_clip.get_tokenizer gives the one that it learned with
    """

    name: str
    model_cfg: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image: dict[str, Tensor]
    text: dict[str, Tensor]
    image_digest: str
    text_digest: str
    tokenizer: str

    def embeddings(self, texts: Sequence[str]) -> Tensor:
        """N texts -> float32 [N,D], of length 1. UserError where one is empty, too long, or has words never learned."""
        tokens = self.tokens(texts)
        with torch.no_grad():
            return F.normalize(self.text_tower()(tokens).float(), dim=-1)

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """N texts -> int64 [N, context_length]."""
        open_clip = imported(self.name)
        try:
            tokenize = open_clip.get_tokenizer(self.tokenizer)
        except Exception as error:  # whatever the hub, or a lack of its packages, makes open_clip raise
            raise UserError(f"{self.name}: the tokenizer of its text tower is not to be had ({one_line(error)}).") from error
        length = self.model_cfg["text_cfg"].get("context_length") or tokenize.context_length
        for text in texts:
            if not text.strip():
                raise UserError("an empty text says nothing of the images wanted; give words.")
            if not torch.equal(tokenize([text], length), tokenize([text], 2 * length)[:, :length]):  # what is over is cut off
                raise UserError(f"the text {text!r} is too long: {self.name} reads {length} tokens, start and end among "
                                f"them; say it in fewer words.")
            if IDS in self.text:
                self.refuse_unknown_words(text, tokenize)
        return tokenize(list(texts), length)

    def refuse_unknown_words(self, text: str, tokenize: Any) -> None:
        """Of a text, for a token table that is cut."""
        known = set(self.text[IDS].tolist())
        if set(tokenize([text]).flatten().tolist()) <= known:
            return
        unknown = [word for word in text.split() if not set(tokenize([word]).flatten().tolist()) <= known]
        words = [word for word in (tokenize.decode([i]).strip() for i in known - set(tokenize.all_special_ids))
                 if word.isalnum()]
        raise UserError(f"{self.name} has never learned {', '.join(unknown or [text])}, of the text {text!r}; it knows these "
                        f"words: {', '.join(sorted(words))}.")

    def text_tower(self) -> nn.Module:
        """open_clip's, frozen."""
        imported(self.name)
        from open_clip.model import _build_text_tower as build

        try:
            tower = build(self.model_cfg["embed_dim"], self.model_cfg["text_cfg"], self.model_cfg.get("quick_gelu", False))
        except Exception as error:  # whatever the settings, or a lack of the hub's packages, makes open_clip raise
            if out_of_memory(error):
                raise
            raise UserError(f"{self.name}: open_clip cannot make its text tower ({one_line(error)}).") from error
        tensors = dict(self.text)
        if IDS in tensors:
            table, rows = "token_embedding.weight", tensors.pop(IDS)
            tensors[table] = torch.zeros_like(tower.state_dict()[table]).index_copy(0, rows, tensors[table])
        give_tensors(tower, Path(self.name), tensors)
        return tower


def load_clip(name: str) -> Clip:
    """A dual encoder by its name. UserError where there is none, its weights are not to be had, or not such a model's.

    As open_clip does it, position embeddings are resampled to other sizes. Weights that learned with QuickGELU, by what
    open_clip says of its own or because OpenAI's program wrote them, are used with it.
    """
    found = find(name)
    model_cfg, image, text = read_towers(found)
    return Clip(name, model_cfg, found.mean, found.std, image, text, tensors_digest(image), tensors_digest(text),
                found.tokenizer)
