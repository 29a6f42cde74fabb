"""open_clip, which is an extra."""
from __future__ import annotations

from types import ModuleType

from noisy_clf.errors import UserError, one_line


def imported(what: str) -> ModuleType:
    """The package, which `what` takes. UserError where it is not installed."""
    try:
        import open_clip
    except ImportError as error:
        raise UserError(f"{what} takes the package open_clip_torch, which cannot be imported ({one_line(error)}); run: "
                        f"pip install open_clip_torch, or install this with its extra: pip install '.[clip]'.") from error
    return open_clip
