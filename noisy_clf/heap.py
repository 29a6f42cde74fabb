"""Memory that tensors leave, on a CPU."""
from __future__ import annotations

import ctypes
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # M_... of glibc's malloc.h; older ones take at most 32 MB for the first


def keep_what_is_freed() -> bool:
    """Has glibc keep the memory that tensors leave for the next ones, for this process, and tells whether it does. By itself it
    hands what is large back, and each result starts with a page fault for every 4 KB: at 256 px a fifth of a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # glibc's own
    if mallopt is None:
        return False
    return all([mallopt(TRIM_THRESHOLD, 2 ** 31 - 1), mallopt(MMAP_THRESHOLD, 2 ** 30) or mallopt(MMAP_THRESHOLD, 2 ** 25)])
