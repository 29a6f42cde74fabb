"""How metrics and their figures are told."""
from __future__ import annotations

import re
from collections.abc import Iterable

DISTANCES, LIKENESSES = r"(s?FID|FD|KID|KD)(\b|_|\[)", r"(IS|precision|recall|agreement|similarity|CAS)\b"
SHARES = ("agreement", "CAS")
ORDER = ("FID", "FD", "FID_infinity", "FD_infinity", "sFID", "KID", "KD", "IS", "precision", "recall", "agreement",
         "similarity", "CAS")


def is_distance(metric: str) -> bool:
    return bool(re.match(DISTANCES, metric))


def better(metric: str) -> str:
    """"lower", "higher", or "" where it is not known."""
    return "lower" if is_distance(metric) else "higher" if re.match(LIKENESSES, metric) else ""


def best(metric: str, values: Iterable[float]) -> float | None:
    """The best of the values; None where it is not known which that is."""
    side = better(metric)
    return (min if side == "lower" else max)(values) if side else None


def rank(metric: str) -> tuple[int, str]:
    """Of a metric among others."""
    name = metric.partition("[")[0]
    return ORDER.index(name) if name in ORDER else len(ORDER), metric


def is_share(metric: str) -> bool:
    """Whether it is told in per cent."""
    return metric.partition("[")[0] in SHARES


def figure(metric: str, value: float) -> str:
    if is_share(metric):
        return f"{value:.1%}".replace("%", "\N{NO-BREAK SPACE}%")
    return f"{value:.3f}" if metric.startswith(("precision", "recall")) else number(value)


def number(value: float) -> str:
    """With four digits, and no exponent where none is needed."""
    return f"{value:.0f}" if 1e3 <= abs(value) < 1e6 else f"{value:.4g}"


def spread(metric: str, error: float) -> str:
    """Of a figure: its deviation, to two digits."""
    return f"{100 * error:.2g}\N{NO-BREAK SPACE}%" if is_share(metric) else f"{error:.2g}"


def thousands(N: int) -> str:
    return f"{N // 1000}k" if N >= 1000 and N % 1000 == 0 else str(N)
