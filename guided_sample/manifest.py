"""A run's manifest.json, of this release or an older one: the request, and what it was drawn by."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisy_clf.errors import UserError
from noisy_clf.files import made_by_newer
from noisy_clf.renamed import translated

MANIFEST = "manifest.json"
ABOUT = (  # what it tells beside, on which no image depends
    "versions", "num_samples", "device", "batch_size", "last_run", "evaluations", "ess")

RENAMED = {  # what release 3d14213 called it -> what it is called now; "a.b" is the key b of the object a
    "options.model_digest": "digests.model", "options.model_config": "configs.model",
    "options.classifier_digest": "digests.classifier", "options.classifier_config": "configs.classifier",
    "options.upsampler_digest": "digests.upsample", "options.upsampler_config": "configs.upsample",
    "options.class": "request.class", "options.scale": "request.scale", "options.sampler": "request.sampler",
    "options.timesteps": "request.steps", "options.eta": "request.eta", "options.grad_at": "request.grad_at",
    "options.clip": "request.threshold", "options.seed": "request.seed", "options.precision": "request.precision",
    "model": "request.model", "classifier": "request.classifier"}
VALUES = {"threshold": {True: "static", False: "none"}}  # and values that were told otherwise


@dataclass(frozen=True)
class Manifest:
    """What a run's images came from.

    request  by its keys, every default filled in
    digests  SHA-256 of what it was drawn by: "model", "classifier", "upsample", and guides by name
    configs  all else that the models' predictions depend on: "model", "classifier", "upsample"
    """

    request: dict[str, Any]
    digests: dict[str, str]
    configs: dict[str, Any]

    @classmethod
    def of(cls, content: Mapping[str, Any], path: Path) -> Manifest | None:
        """From what the file at `path` holds; None where that is no manifest. UserError where a newer version wrote it."""
        if isinstance(content.get("options"), dict) and "model_digest" in content["options"]:
            content = of_3d14213(content)
        if not all(isinstance(content.get(key), dict) for key in ("request", "digests", "configs")):
            return None
        if unknown := [key for key in content if key not in ("request", "digests", "configs", *ABOUT)]:
            raise UserError(made_by_newer(path, unknown))
        return cls(content["request"], content["digests"], content["configs"])


def of_3d14213(content: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest in today's words."""
    new = translated({"request": {}, "digests": {}, "configs": {}, **content}, RENAMED)
    for key, values in VALUES.items():
        if new["request"].get(key) in values:
            new["request"][key] = values[new["request"][key]]
    for part in ("request", "digests", "configs"):
        new[part] = {key: value for key, value in new[part].items() if value is not None}
    if "upsample" in new["digests"]:  # it told of the second stage's steps alone
        new["request"]["upsample_steps"] = new["request"].pop("steps")
    new["request"] |= {key: new[key] for key in ("num_samples",) if key in new}
    return {key: value for key, value in new.items() if key not in ("options", "upsampler")}
