"""How often each network is run for a sample, and how often it would be if intervals and steps between did not spare it."""
from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from guided_sample.composition import excess, guide_of, paced, titles
from guided_sample.guides import SIMILAR, GuideSpec
from guided_sample.model import at, is_everywhere
from guided_sample.plan import Plan
from guided_sample.steps import Step


class Count(NamedTuple):
    """Evaluations for a sample: those that are run, and those that are saved."""

    run: int
    saved: int = 0


def evaluations(plan: Plan) -> dict[str, Count]:
    """By network, as messages call it: "denoiser", "weak model", "the classifier", ... ."""
    request = plan.request
    amounts = (request.scale, request.cfg, request.weak_scale, *(getattr(request, f"{kind}_scale") for kind in SIMILAR))
    of_one = all(isinstance(one, float | None) for one in amounts)
    samples = [0] if of_one else range(request.num_samples or 1)  # a network is run where any of them needs it
    targets = plan.targets(samples, torch.device("cpu"))
    chains, all_steps = plan.chains, sum(map(plan.passes, plan.steps))
    if plan.enlarges:
        return {"denoiser": Count(all_steps)}

    def counted(awake: list[Step], each: int = 1) -> Count:
        run = sum(map(plan.passes, awake))
        return Count(run * each * chains, (all_steps - run) * each * chains)

    found = {"denoiser": Count(all_steps * chains)}
    contrast = request.cfg if request.cfg is not None else request.weak_scale
    if contrast is not None and (plan.weak is not None or plan.labels.any):
        w = excess(targets.amount(contrast), request.contrasting, plan.steps)
        twice = counted([step for step in plan.steps if not is_everywhere(at(w, step), 1)])
        if plan.weak is None:
            found["denoiser"] = Count(found["denoiser"].run + twice.run, twice.saved)
        else:
            found["weak model"] = twice
    for name, loaded in zip(titles(plan.guides), plan.guides):
        settings, guide = loaded.spec.settings, guide_of(loaded, plan.steps, targets)
        n, held = settings.get("every", (1, False))
        if loaded.spec.moves:  # by what is paced beside its scale
            guide = replace(guide, scale=paced(1.0, settings, plan.steps))
        due = plan.steps[::n] if held else plan.steps
        if settings.get("scale", 1.0) != 0:
            awake = [step for step in due if not guide.asleep_at(step)]
            found[name] = counted(awake, evaluations_each(loaded.spec))
    return found


def evaluations_each(spec: GuideSpec) -> int:
    """Of a guide, at a step at which it is run."""
    settings = spec.settings
    if not spec.moves:
        noises_too = spec.kind in ("like", "style") and settings.get("see", "x_t") == "x_t"  # its picture, anew at each step
        return 1 + noises_too + settings.get("backward", 0)
    through = int(settings.get("push", settings.get("rho", 0)) != 0)
    at_x0 = settings.get("iterations", 1) if settings.get("mu") else 0
    return (through + at_x0) * (settings.get("draws", 4) if "smooth" in settings else 1)
