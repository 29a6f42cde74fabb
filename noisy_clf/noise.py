"""Each sample's own noise. Sample i of a seed always gets the same draws: in any batch, on any device, alone or not."""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

Noise = Callable[[], Tensor]
AHEAD = ThreadPoolExecutor(4, thread_name_prefix="noise")  # starts no thread before it is used


def generator(*key: int) -> np.random.Generator:
    """Draws that belong to this key alone: a seed, an index, the number of a stream.

    numpy reads a number of more than 32 bits as several, so that 2**32, 0 would be 0, 1: such a key's SHA-256 stands for it,
    whose 8 words no other key's are, nor the 2 or 3 words of a short one.
    """
    if max(key) < 2 ** 32:
        return np.random.default_rng(key)
    digest = hashlib.sha256(",".join(map(str, key)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, "<u4"))


class SampleNoise:
    """Standard normal draws, float32 [B,*shape]: the first is x_T, the next ones the steps' noise, from (seed, index) alone.
    For a GPU the next draw is made by threads while the last one is in use: it would wait for numpy. (A CPU's cores are the
    networks'.)

    stream  a word of seeds more, for noise that is independent of the sample's other noise
    chains  so many draws a sample, one after the other [B*chains,*shape]; the first is what it has without others
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: tuple[int, ...], device: torch.device,
                 stream: Sequence[int] = (), chains: int = 1) -> None:
        words = [(), *((3, chain) for chain in range(1, chains))]  # never ending in 0: numpy pads short keys with it
        self.streams = [generator(seed, index, *stream, *chain) for index in indices for chain in words]
        self.shape, self.device = shape, device
        self._next: tuple[Tensor, list[Future[None]]] | None = None

    def __call__(self) -> Tensor:
        if self.device.type == "cpu":
            draws = [stream.standard_normal(self.shape, dtype=np.float32) for stream in self.streams]
            return torch.from_numpy(np.stack(draws))
        draw, parts = self._next or self._begun()
        for part in parts:
            part.result()
        self._next = self._begun()
        return draw.to(self.device, non_blocking=True)

    def _begun(self) -> tuple[Tensor, list[Future[None]]]:
        """(where the next draw goes, what fills it)."""
        draw = torch.empty(len(self.streams), *self.shape, pin_memory=self.device.type == "cuda")
        rows = draw.numpy()
        return draw, [AHEAD.submit(fill, self.streams[i::4], rows[i::4]) for i in range(4)]


def fill(streams: Sequence[np.random.Generator], rows: np.ndarray) -> None:
    for stream, row in zip(streams, rows):
        stream.standard_normal(dtype=np.float32, out=row)


def sample_uniform(seed: int, indices: Sequence[int], device: torch.device, stream: Sequence[int] = ()) -> Callable[[], Tensor]:
    """Draws from [0,1), float64 [B], of each sample's own and independent of its noise: by these particles are resampled."""
    streams = [generator(seed, index, *stream, 4) for index in indices]
    return lambda: torch.tensor([one.random() for one in streams], dtype=torch.float64).to(device, non_blocking=True)


def random_label(seed: int, index: int, K: int) -> int:
    """Sample `index`'s label where labels are drawn uniformly; its noise does not depend on whether it is asked for."""
    return int(generator(seed, index, 1).integers(K))


def fixed_noise(indices: Tensor, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Validation's eps, float32 [B,*shape]: that of image i comes from (seed, i) alone."""
    draws = [generator(seed, int(i)).standard_normal(tuple(shape), dtype=np.float32) for i in indices]
    return torch.from_numpy(np.stack(draws))
