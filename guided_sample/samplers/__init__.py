"""One sampler a file. Each is a generator of `Moment`s, the last of which holds the sample."""
from guided_sample.samplers.ddim import ddim
from guided_sample.samplers.ddpm import ddpm
from guided_sample.samplers.moment import Moment

__all__ = ["Moment", "ddim", "ddpm"]
