"""Pictures by name: a file's path, or one that comes with a bundled model, "digits:three"."""
from __future__ import annotations

from pathlib import Path

from noisy_clf.checkpoints.model_folder import BUNDLED
from noisy_clf.errors import UserError


def picture_file(name: str) -> Path:
    """Where it is, if it is there. UserError where a bundled model comes with pictures, and not with this one."""
    model, colon, own = name.partition(":")
    folder = BUNDLED / model / "pictures"
    if not colon or not model or not folder.is_dir() or Path(name).is_file():
        return Path(name)
    names = sorted(file.stem for file in folder.glob("*.png"))
    if own not in names:
        raise UserError(f"there is no picture {own!r} of {model}; there are: {', '.join(f'{model}:{one}' for one in names)}.")
    return folder / f"{own}.png"
