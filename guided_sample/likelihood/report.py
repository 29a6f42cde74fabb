"""A denoiser's likelihood in words, as a table and as JSON."""
from __future__ import annotations

from typing import Any

import numpy as np

from guided_sample.likelihood.likelihood import Likelihood

PARTS = 10  # of the timesteps, a line each
NOTABLE = 0.01  # of the bound
RAW = 8.0  # bits of a dimension that nothing is known of


def verdict(found: Likelihood) -> list[str]:
    """How good is it, and where is it weak? A sentence for each thing that there is to say."""
    return [in_bits(found), *against_pixels(found), *of_variance(found), *of_prior(found)]


def in_bits(found: Likelihood) -> str:
    told = f"It codes these images in at most {found.total:.3f} bits per dimension, with a standard error of {found.error:.3f}"
    told += f": no better than raw pixels, of {RAW:g} bits." if found.total >= RAW else "."
    if len(found.chain) == 1:
        return told
    return (f"{told} {found.bits[0]:.3f} of them go to whole grey levels at t = {found.t[0]}, half of the steps' to "
            f"t <= {found.below(0.5)}, nine tenths to t <= {found.below(0.9)}.")


def against_pixels(found: Likelihood) -> list[str]:
    """Beside the best guess of each pixel from itself."""
    ratio = found.eps_error / np.maximum(found.pixelwise, 1e-30)
    if not found.weak.any():
        closest = ratio.argmax()
        return [f"Its eps error is nowhere above the best guess of each pixel from that pixel alone: it is "
                f"{np.median(ratio):.2g} of that at the median t, and most, {ratio[closest]:.2g}, at t = {found.t[closest]}."]
    worst = np.where(found.weak, ratio, 0).argmax()
    spans = ", ".join(f"{first}-{last}" if first < last else f"{first}" for first, last in found.spans)
    told = [f"It is weak at t = {spans}: its eps error there is above the best guess of each pixel from that pixel alone, by "
            f"{ratio[worst]:.3g} times at t = {found.t[worst]}. {found.bits[found.weak].sum() / found.total:.1%} of the bound "
            f"lie there."]
    if found.weak.mean() > 0.5:
        told.append("So behaves a denoiser that is not trained, or is told another schedule, another t or another kind of "
                    "prediction than it learned with; or these images are not of the kind that it learned from.")
    return told


def of_variance(found: Likelihood) -> list[str]:
    """What its variances cost or save, where that is notable, beside the best single one at each step."""
    gain = found.bits[1:].sum() - found.one_variance
    if abs(gain) < NOTABLE * found.total:
        return []
    kind = "learned" if found.learned_variance else "fixed"
    if gain < 0:
        return [f"Its {kind} variance saves {-gain:.3f} bits per dimension beside the best single variance at each step."]
    return [f"Its {kind} variance costs {gain:.3f} bits per dimension: with its own errors, the best single variance at each "
            f"step would do without them."]


def of_prior(found: Likelihood) -> list[str]:
    if found.prior < NOTABLE * found.total:
        return []
    return [f"At t = {found.t[-1]}, where this chain starts, x_t still tells {found.prior:.3f} bits per dimension of the "
            f"image; sampling starts from pure noise instead."]


def table(found: Likelihood) -> str:
    """A line for the last step, for each tenth of the others and for the prior; bits are summed, errors are means."""
    lines = [f"{'t':>9}{'bits/dim':>12}{'eps error':>12}{'pixel alone':>13}{'x_0 error':>12}"]
    part = np.where(np.arange(len(found.t)) == 0, -1, found.t * PARTS // found.T)
    for one in np.unique(part):
        here = part == one
        first, last = found.t[here][[0, -1]]
        lines.append(f"{f'{first}-{last}' if first < last else first:>9}{found.bits[here].sum():>12.4f}"
                     + "".join(f"{values[here].mean():>{width}.4g}" for values, width in (
                         (found.eps_error, 12), (found.pixelwise, 13), (found.x0_error, 12))))
    return "\n".join([*lines, f"{'prior':>9}{found.prior:>12.4f}", f"{'all':>9}{found.total:>12.4f}"])


def as_json(found: Likelihood) -> dict[str, Any]:
    return {"bits_per_dim": {"total": found.total, "error": found.error, "prior": found.prior, "L_0": found.bits[0],
                             "steps": found.bits[1:].sum(), "steps_with_one_variance": found.one_variance},
            "verdict": verdict(found), "weak": found.spans,
            "by_t": {"t": found.t.tolist(), "bits_per_dim": found.bits.tolist(), "eps_error": found.eps_error.tolist(),
                     "eps_error_deviation": found.eps_deviation.tolist(), "pixelwise_eps_error": found.pixelwise.tolist(),
                     "x_0_error": found.x0_error.tolist()}}
