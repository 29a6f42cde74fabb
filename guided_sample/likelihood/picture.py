"""A denoiser's bits and errors drawn against t."""
from __future__ import annotations

from pathlib import Path

from guided_sample.likelihood.likelihood import Likelihood
from noisy_clf.files import atomic_write

LEAST = 1e-5  # eps error that is drawn: cosine schedules end where nothing is left of x_0


def draw(found: Likelihood, path: Path) -> None:
    """The bound's terms and the eps error by t, beside the best guess of each pixel alone, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(found.t + 1, found.bits, "o-", markersize=2.5, linewidth=1)
    left.set(xscale="log", yscale="log", xlabel="t + 1")
    left.set_title(f"bits per dimension of each step\nin all {found.total:.3f}, {found.prior:.2g} the prior's", fontsize=10)
    right.plot(found.t / found.T, found.eps_error, color="tab:blue", label=found.name)
    right.plot(found.t / found.T, found.pixelwise, color="grey", linestyle=":", label="each pixel alone")
    for first, last in found.spans:
        right.axvspan((first - 0.5) / found.T, (last + 0.5) / found.T, color="tab:red", alpha=0.15, linewidth=0)
    lowest = min(found.eps_error.min(), found.pixelwise.min())
    right.set(yscale="log", xlabel="noise level t/T", xlim=(-0.02, 1.02), ylim=(max(lowest / 2, LEAST), None))
    right.set_title("eps error (mean square)" + ("\nred: above that of each pixel alone" if found.spans else ""), fontsize=10)
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
