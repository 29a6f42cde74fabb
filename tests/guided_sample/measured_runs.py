"""Folders of runs as guided-sample and eval-samples leave them, without drawing or measuring anything."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("apple", "pear", "plum")
JUDGE = "[judge:fruit-judge]"
CONFIG = {"kind": "denoiser", "schedule": {"name": "cosine", "T": 1000}}


def manifest_of(sampler: str = "ddpm", steps: str = "50", scale: float = 1.0, seed: int = 0, **request: Any) -> dict[str, Any]:
    knobs = {"eta": 0.0} if sampler == "ddim" else {}
    speed = 100 / int(steps.removeprefix("ddim").split(",")[0])
    return {
        "request": {"model": "fruit", "classifier": "fruit", "class": [0, 1, 2], "scale": scale, "guide": [],
                    "sampler": sampler, "steps": steps, **knobs, "threshold": "static", "num_samples": 6,
                    "seed": seed, "precision": "float32"}
        | request,
        "digests": {"model": "a" * 64, "classifier": "b" * 64}, "configs": {"model": CONFIG, "classifier": CONFIG},
        "versions": {"torch": "2.4"}, "device": "cpu (1 threads)", "batch_size": 64, "num_samples": 6,
        "last_run": {"images": 6, "seconds": 3.0, "images_per_second": speed}}


def evaluation_of(**metrics: float) -> dict[str, Any]:
    """Metrics by their names, "FD" and "recall" as the judge's."""
    named = {f"{name}{JUDGE}" if name in ("FD", "KD", "precision", "recall") else name: value
             for name, value in metrics.items()}
    return {"samples": "x", "N": 6, "metrics": named, "floor": {f"FD{JUDGE}": 2.0, "agreement": 0.98, "N": 5},
            "names": {f"FD{JUDGE}": f"FD{JUDGE}-6"}, "features": {"judge:fruit-judge": "c" * 64},
            "reference": {"name": "orchard", "digest": "d" * 64, "N": 99}, "digests": {"judge": "e" * 64},
            "by_class": {"class_names": list(NAMES), "agreement": [1.0, 0.5, None],
                         "confusion": [[2, 0, 0], [1, 1, 0], [0, 0, 0]]},
            "warnings": ["6 samples are few."]}


def stored_run(folder: Path, manifest: dict[str, Any], evaluation: dict[str, Any] | None, pictures: int = 6) -> Path:
    """A run's folder; the sample of index i is grey by 10 i + scale."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if evaluation is not None:
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
    lines = []
    for index in range(pictures):
        grey = np.full((8, 8), 10 * index + int(manifest["request"]["scale"]), np.uint8)
        Image.fromarray(grey).save(folder / f"{index:06d}.png")
        lines.append({"index": index, "class": index % 3, "class_name": NAMES[index % 3], "seed": 0, "log_prob": -0.1})
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def sweep(folder: Path) -> list[Path]:
    """Two samplers, three scales, two seeds: best at scale 1 of DDPM, where agreement is 99 %."""
    found = []
    for sampler, steps, more in (("ddpm", "50", 0.0), ("ddim", "ddim25", 1.0)):
        for scale, distance, agreement, recall in ((0.0, 8.0, 0.3, 0.9), (1.0, 3.0, 0.99, 0.7), (10.0, 5.0, 1.0, 0.4)):
            for seed in (0, 1):
                measured = evaluation_of(FD=distance + more + 0.2 * seed, agreement=agreement, precision=1 - recall / 2,
                                         recall=recall)
                found.append(stored_run(folder / f"{sampler}-scale-{scale:g}-seed-{seed}",
                                        manifest_of(sampler, steps, scale, seed), measured))
    return found
