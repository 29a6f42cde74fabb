"""What a command imports, it keeps."""
from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imported_for_good() -> Iterator[None]:
    """Within, torch is imported, and the garbage collector looks at none of it, then or ever: a third of the time that
    importing torch and leaving it again takes."""
    if "torch" in sys.modules or not gc.isenabled():  # what is garbage by now would be kept, too
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
