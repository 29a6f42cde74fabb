"""How many samples of a batch are drawn at once: on a CPU some, on a GPU all that fit, else halves."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from guided_sample.plan import Batch, Plan
from noisy_clf.errors import out_of_memory


def at_once(plan: Plan, batch: int) -> int:
    """Of a batch: on a CPU no more than keep its cores busy, as many pixels as 8 images of 64 have. Others would only take
    memory; and for whole multiples of these, images are the same to the bit whatever the batch."""
    busy = max(1, 8 * 64 ** 2 // plan.denoiser.image_size ** 2 // plan.chains)
    return min(batch, busy) if plan.device.type == "cpu" else batch


class Halving:
    """Draws batches, and what of them does not fit in halves, or in halves of these."""

    def __init__(self, plan: Plan, small: Callable[[Sequence[int]], Tensor] | None, tell: Callable[[str], object]) -> None:
        self.plan, self.small, self.tell = plan, small, tell
        self.most: float = math.inf  # that may fit, since some did not

    def drawn(self, batch: range, wanted: Sequence[int], bar: Any) -> Iterator[Batch]:
        """All parts of the batch in which some samples are wanted. One sample that does not fit raises what told so."""
        parts = [batch]
        while parts:
            part, *parts = parts
            here = sum(index in part for index in wanted)
            if not here:
                continue
            most = int(min(self.most, at_once(self.plan, len(part))))
            if len(part) > most:
                parts = [part[:most], part[most:], *parts]
            elif (drawn := self.tried(part, here, bar)) is None:
                parts = [part, *parts]
            else:
                yield drawn

    def tried(self, part: range, wanted: int, bar: Any) -> Batch | None:
        """None where it does not fit; what it took of memory is given back then, and told."""
        before = bar.n
        try:
            return self.plan.draw_stage(part, lambda: bar.update(wanted), self.small and self.small(part))
        except Exception as error:
            if not out_of_memory(error) or len(part) == 1:
                raise
        bar.update(before - bar.n)
        self.most = math.ceil(len(part) / 2)
        self.plan.compile_anew()
        if self.plan.device.type == "cuda":
            torch.cuda.empty_cache()
        self.tell(f"A batch of {len(part)} does not fit into the memory of {self.plan.device}: going on with {self.most}.")
        return None
