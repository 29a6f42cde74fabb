"""Space: what a denoiser and all that steers it must share."""
from __future__ import annotations

from dataclasses import dataclass

from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule


@dataclass(frozen=True)
class Space:
    """Square images of one size and number of channels, noised by one schedule."""

    schedule: NoiseSchedule
    image_size: int
    channels: int

    def refuse_other(self, other: Space, what: str, training: str = "train-noisy-clf") -> None:
        """UserError where `what`, of the other space, cannot steer a denoiser of this one; `training` makes such that can."""
        if not other.schedule.same_as(self.schedule):
            raise UserError(f"the {what} learned on another noise schedule ({other.schedule}) than the denoiser's "
                            f"({self.schedule}); train one on the denoiser's: {training} --schedule-from DENOISER.")
        for name, theirs, ours in (("image size", other.image_size, self.image_size),
                                   ("number of channels", other.channels, self.channels)):
            if theirs != ours:
                raise UserError(f"the {what}'s {name} is {theirs} and the denoiser's {ours}; they must be the same.")
