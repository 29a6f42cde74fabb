"""What keys of files that older releases wrote are called today, a table for each file: "a.b" is the key b of the object a."""
from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

CONFIG: dict[str, str] = {}  # a model's config.json
OPTIONS: dict[str, str] = {f"model.{old}": f"model.{new}" for old, new in CONFIG.items()}  # the "options" of options.json


def translated(content: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """The content with today's keys."""
    content = copy.deepcopy(content)
    for old, new in renamed.items():
        (place, key), (new_place, new_key) = parent(content, old), parent(content, new)
        if place is not None and new_place is not None and key in place:
            new_place[new_key] = place.pop(key)
    return content


def parent(content: dict[str, Any], name: str) -> tuple[dict[str, Any] | None, str]:
    """(the object that has, or would have, the key of that name, the last part of the name)."""
    *path, key = name.split(".")
    place: Any = content
    for part in path:
        place = place.get(part) if isinstance(place, dict) else None
    return place if isinstance(place, dict) else None, key
