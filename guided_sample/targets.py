"""What each sample of a batch is asked to show, as the networks are told it; and scales that differ by sample or class."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guided_sample.labels import Labels, Wish
from noisy_clf.class_names import class_index, numbers_of
from noisy_clf.errors import UserError


class Targets:
    """Of the samples of these indices (one of which may stand there several times, for its several chains)."""

    def __init__(self, labels: Labels, seed: int, indices: Sequence[int], device: torch.device) -> None:
        self.names, self.seed, self.indices, self.device = labels.names, seed, indices, device
        self.wishes: list[Wish | None] = [labels.wish_of(index, seed) for index in indices]

    def in_turn(self, several: Sequence[Any]) -> list[Any]:
        """Each sample's own of several things that they have in turn."""
        return [several[index % len(several)] for index in self.indices]

    @property
    def any(self) -> bool:
        return self.wishes[0] is not None

    def lines(self) -> list[dict[str, Any]]:
        """What samples.jsonl tells of them."""
        return [told(wish, self.names) for wish in self.wishes]

    def y(self, null: int) -> Tensor | None:
        """Of a class-conditional denoiser, int64 [B]: each sample's class, `null` where its wish is for several alike; None
        where no class is asked for."""
        if not self.any:
            return None
        labels = [wish.label if wish else None for wish in self.wishes]
        return torch.tensor([null if label is None else label for label in labels], device=self.device)

    def of(self, class_names: tuple[str, ...]) -> Tensor:
        """Of a classifier: int64 [B], or where a wish has weights, float32 [B,K]. Its classes may have another order."""
        there = numbers_of(self.names, class_names)
        if there is None:
            raise UserError(f"the classifier's {len(class_names)} classes ({class_names[0]}, ...) are not those that are asked "
                            f"for ({self.names[0]}, ...); give it one of its own: classifier:...,class=CLASS.")
        wishes = [wish for wish in self.wishes if wish is not None]
        if all(wish.plain for wish in wishes):
            return torch.tensor([there[wish.weights[0][0]] for wish in wishes], device=self.device)
        weights = torch.zeros(len(wishes), len(class_names))
        for row, wish in zip(weights, wishes):
            for label, weight in wish.weights:
                row[there[label]] = weight
        return weights.to(self.device)

    def amount(self, value: Any) -> float | Tensor:
        """A request's scale: a number, or of a list or table of classes each sample's own, float32 [B]."""
        if isinstance(value, Mapping):
            by_class = {class_index(name, self.names): one for name, one in value.items()}
            return torch.tensor([by_class[self._label(wish)] for wish in self.wishes], device=self.device)
        if isinstance(value, tuple):
            return torch.tensor([value[index] for index in self.indices], device=self.device)
        return value

    def _label(self, wish: Wish | None) -> int:
        assert wish is not None and wish.label is not None
        return wish.label


def told(wish: Wish | None, names: tuple[str, ...]) -> dict[str, Any]:
    if wish is None:
        return {"class": None, "class_name": None}
    name = wish.text(names) if names else None
    return {"class": wish.label, "class_name": name} | ({} if wish.plain else {"wish": wish.told})
