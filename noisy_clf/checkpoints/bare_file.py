"""Checkpoints that carry no configuration: the released ones by name, and any .pt file by its path."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from noisy_clf.checkpoints.cache import checked_digest, obtain
from noisy_clf.checkpoints.model_folder import CONFIG, WEIGHTS, Kind, bundled_models, file_digest
from noisy_clf.checkpoints.released import RELEASED
from noisy_clf.checkpoints.run_folder import KEPT, STATES
from noisy_clf.checkpoints.settings import Settings
from noisy_clf.errors import UserError


@dataclass(frozen=True)
class BareFile:
    """A checkpoint that carries no configuration, and the settings that make up for it."""

    path: Path
    settings: Settings | None
    in_cache: bool

    def digest(self) -> str:
        return checked_digest(self.path) if self.in_cache else file_digest(self.path)


def released_or_bare_file(name_or_path: str | Path, settings: Settings | None, kind: Kind) -> BareFile | None:
    """The released file of that name, downloaded where it is not in the cache yet, or the file at that path; None for
    all else, which brings settings of its own."""
    name, path = str(name_or_path), Path(name_or_path)
    released = RELEASED[kind].get(name)  # a folder of that name is ./NAME
    if released is None and path.is_file():
        if path.name in (CONFIG, WEIGHTS) and (path.parent / CONFIG).is_file():
            raise UserError(f"{path} is part of a model that is a folder; give the folder, {path.parent}.")
        states = path.absolute().parent
        if settings is None and states.name in (STATES, KEPT) and (states.parent / "last" / CONFIG).is_file():
            raise UserError(f"{path} is a training state, which does not tell what its network is; give the run's folder, "
                            f"{states.parent}, for its best model, {states.parent / 'last'} for the last, or "
                            f"{states.parent}@step-N for one of those that it keeps.")
        return BareFile(path, settings, in_cache=False)
    if settings is not None and (released or path.exists() or name in bundled_models(kind)):
        raise UserError(f"{name} brings settings of its own; settings are for bare .pt files: leave them out.")
    return BareFile(obtain(released.file), dict(released.settings), in_cache=True) if released else None
