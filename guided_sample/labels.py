"""Which class each sample is asked to show."""
from __future__ import annotations

from dataclasses import dataclass

from noisy_clf.class_names import class_index
from noisy_clf.errors import UserError

WORDS = ("all", "random", "none")


@dataclass(frozen=True)
class Labels:
    """`classes` in turn, or at random among `K`, or none; `names` of all classes."""

    classes: tuple[int, ...] = ()
    K: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, wanted: tuple[str | int, ...], names: tuple[str, ...]) -> Labels:
        """What --class asks for: one of WORDS alone, or numbers, names, WordNet ids. UserError for what does not exist."""
        if wanted == ("none",):
            return cls()
        if wanted == ("random",):
            return cls(K=len(names), names=names)
        if wanted == ("all",):
            return cls(tuple(range(len(names))), names=names)
        indices = []
        for text in map(str, wanted):
            whole = text.lower() in (name.lower() for name in names)  # some class names have commas of their own
            for part in [text] if whole else text.split(","):
                if not whole and part.strip() in WORDS:
                    raise UserError(f"--class {part.strip()} goes with no other; give it alone, or only numbers and names.")
                indices.append(class_index(part, names))
        return cls(tuple(indices), names=names)

    @property
    def any(self) -> bool:
        return bool(self.classes or self.K)

    def of_sample(self, index: int, seed: int) -> int | None:
        if self.classes:
            return self.classes[index % len(self.classes)]
        if self.K:
            from noisy_clf.noise import random_label
            return random_label(seed, index, self.K)
        return None
