"""How settings are told in a report, and text in HTML."""
from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from guided_sample.labels import plain
from guided_sample.steps import GRIDS


def setting(key: str, value: Any) -> str:
    """A setting's value in a word or two: "classifier best", "eta 0.5", "80 px". Paths by their end."""
    if key == "sampler":
        return str(value).upper()
    if key == "class":
        return f"class {shortened(', '.join(map(str, plain(tuple(value)))))}" if isinstance(value, list) else f"class {value}"
    if key == "steps":
        return steps_told(value)
    if isinstance(value, list):
        return f"{key} {shortened(', '.join(map(str, value))) or 'none'}"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{key} {shortened('/'.join(Path(text).parts[-2:]) if '/' in text else text)}"


def steps_told(spec: Any) -> str:
    """"50" and "ddim50" as "50 steps", "logsnr50" as "50 steps (logsnr)"; others as they are."""
    if isinstance(spec, list):
        return f"{len(spec)} steps one by one"
    text = str(spec)
    if grid := re.fullmatch(rf"({'|'.join(GRIDS)})([0-9]+)", text):
        return f"{grid[2]} steps ({grid[1]})"
    return f"{text.removeprefix('ddim')} steps"


def shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def listed(words: Sequence[str]) -> str:
    """"a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def h(text: object) -> str:
    """For HTML, in text and in quoted attributes alike."""
    return escape(str(text), quote=True)
