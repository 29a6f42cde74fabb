"""From a request and its loaded models to what a sampler sees: which wrapper goes around which is the algorithm's order."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from guided_sample.contrast import Projection, beyond_one, classifier_free, contrast
from guided_sample.denoiser import Denoiser
from guided_sample.guides import GuideSpec
from guided_sample.guides.classifier import Classifier, log_prob
from guided_sample.guides.scales import Amount, every, held, scheduled, within
from guided_sample.guides.similarity import FeaturesOf
from guided_sample.guides.through import ascended, draws, pushed, tfg
from guided_sample.model import Guide, Look, Model, Prediction, clip, dynamic, labelled, steered, steered_at_mean, thresholded
from guided_sample.request import Request
from guided_sample.samplers import SAMPLERS
from guided_sample.steps import Step
from guided_sample.targets import Targets
from noisy_clf.class_names import class_index, numbers_of
from noisy_clf.noise import Noise

RATE, ENOUGH = 0.01, -1e-5  # of Adam, and the log p at which it stops: universal guidance's


@dataclass(frozen=True)
class LoadedGuide:
    """A guide as it is asked for, and its log-density for what a batch shall show.

    classifier      whose log p samples.jsonl tells, where it is one
    encoder         by which it compares, where it is of SIMILAR
    finished        of these the log-density at x0_hat
    digest, config  what it depends on, as a manifest keeps them
    parts           of several things the digests of each, by what it is
    """

    spec: GuideSpec
    density: Callable[[Targets, Sequence[Step]], Callable[[Look], Tensor]]
    classifier: Classifier | None = None
    digest: str = ""
    config: Mapping[str, Any] | None = None
    encoder: FeaturesOf | None = None
    finished: Callable[[Targets], Callable[[Look], Tensor]] | None = None
    parts: Mapping[str, str] = field(default_factory=dict)

    def log_prob(self, x_0: Tensor, targets: Targets) -> list[float]:
        """log p(y | x_0) of finished samples, to 4 digits."""
        assert self.classifier is not None
        t = torch.zeros(len(x_0), dtype=torch.int64, device=x_0.device)
        y = asked_of(self.classifier, self.spec, targets)
        return [round(value, 4) for value in log_prob(self.classifier, x_0, t, y).tolist()]

    def log_prob_by_class(self, x_0: Tensor, targets: Targets) -> list[dict[str, float]]:
        """The same of each class that a sample's wish has a weight for, by its number; nothing for one plain class."""
        assert self.classifier is not None
        if all(wish is None or wish.plain for wish in targets.wishes):
            return [{}] * len(x_0)
        t = torch.zeros(len(x_0), dtype=torch.int64, device=x_0.device)
        there = numbers_of(targets.names, self.classifier.class_names) or []
        rows = self.classifier(x_0, t).float().log_softmax(dim=1).tolist()
        return [{} if wish is None or wish.plain else {str(k): round(row[there[k]], 4) for k, _ in wish.weights}
                for wish, row in zip(targets.wishes, rows)]

    def distance(self, x_0: Tensor, step: Step, targets: Targets) -> list[float]:
        """Of finished samples from what is measured, ||y - A(x_0)||, to 4 digits."""
        return [round(-value, 4) for value in self.density(targets, [step])(finished(x_0, step)).tolist()]

    def similarity(self, x_0: Tensor, step: Step, targets: Targets) -> list[float]:
        """What finished samples have reached: the cosine, or minus the distance of maps or Gram matrices, to 4 digits."""
        assert self.finished is not None
        return [float(f"{value:.4g}") for value in self.finished(targets)(finished(x_0, step)).tolist()]

    def wanted(self, targets: Targets) -> list[str]:
        """What each sample is compared with: the words, or the picture's name."""
        return targets.in_turn(self.spec.wanted_names)

    @property
    def sees_x0(self) -> bool:
        return self.spec.settings.get("see") == "x0"

    @property
    def looks_through(self) -> bool:
        """Whether it sees x0_hat as the denoiser has it, before that is clipped. (universal guidance)"""
        return self.spec.settings.get("see") == "through" and not self.spec.moves


def finished(x_0: Tensor, step: Step) -> Look:
    """At samples, as if they were a step's x0_hat."""
    return Look(lambda *_: Prediction(x_0, 0.0), x_0, step)


def titles(guides: Sequence[LoadedGuide]) -> list[str]:
    """What manifests and samples.jsonl call them, no two alike."""
    found: list[str] = []
    for guide in guides:
        own = guide.spec.settings.get("class")
        name = guide.spec.title + (f",class={own}" if own else "")
        while name in found:
            name += "+"
        found.append(name)
    return found


def asked_of(classifier: Classifier, spec: GuideSpec, targets: Targets) -> Tensor:
    """The classes [B], or their weights [B,K], that the classifier is to see: the guide's own, or the samples'. UserError where
    it knows other classes."""
    if "class" not in spec.settings:
        return targets.of(classifier.class_names)
    own = class_index(spec.settings["class"], classifier.class_names)
    return torch.full((len(targets.indices),), own, device=targets.device)


@dataclass(frozen=True)
class Parts:
    """All that a request's model is made of: `weak` for autoguidance, the classifier first among the guides.

    plain  no contrast, whatever the request says: a second stage
    """

    denoiser: Denoiser
    weak: Denoiser | None
    guides: tuple[LoadedGuide, ...]
    steps: list[Step]
    plain: bool = False


def compose(request: Request, parts: Parts, targets: Targets, smoothing: Noise) -> Model:
    """Contrast, guides that look through the raw x0_hat, threshold, guides, and at last those that move x0_hat. For samplers
    with a memory the threshold comes after the guides: what they remember is guided, and in range. (DPM-Solver++)

    smoothing  each sample's noise for TFG's Monte-Carlo smoothing of x0_hat
    """
    sampler, how = SAMPLERS[request.sampler], threshold_of(request)
    sees_x0 = any(loaded.sees_x0 for loaded in parts.guides)
    guides = [(loaded, guide_of(loaded, parts.steps, targets)) for loaded in parts.guides]
    model = unguided(request, parts, targets)
    model = steered(model, *(guide for loaded, guide in guides if loaded.looks_through))
    if how and (sees_x0 or not sampler.memory):
        model = thresholded(model, how)
    model = (steered if request.grad_at == "x_t" else steered_at_mean)(
        model, *(guide for loaded, guide in guides if not loaded.looks_through and not loaded.spec.moves))
    if how and (sampler.memory or sees_x0 and not sampler.has_mean):  # EluCD is DDPM's: eps takes a gradient at x0_hat as many
        model = thresholded(model, how)                               # times over as there is noise
    for loaded, guide in guides:
        settings = loaded.spec.settings
        if loaded.spec.moves:
            model = moving(model, guide, settings, parts.steps, smoothing)
        if "backward" in settings:
            model = ascended(model, guide, settings["backward"], settings.get("rate", RATE), enough=ENOUGH)
    return model


def threshold_of(request: Request) -> Callable[[Tensor], Tensor] | None:
    name, _, quantile = request.threshold.partition(":")
    return clip if name == "static" else dynamic(float(quantile)) if name == "dynamic" else None


def unguided(request: Request, parts: Parts, targets: Targets) -> Model:
    """The denoiser told its classes, or its contrast with the null class or with a weak one."""
    denoiser, weak, settings = parts.denoiser, parts.weak, request.contrasting
    y = targets.y(denoiser.K) if denoiser.class_names else None
    how: dict[str, Any] = {"plus_plus": request.cfg_plus_plus, **contrast_options(settings)}
    if parts.plain:
        return labelled(denoiser, y)
    if request.cfg is not None and y is not None:
        return classifier_free(denoiser, y, excess(targets.amount(request.cfg), settings, parts.steps), **how)
    model = labelled(denoiser, y)
    if weak is not None:
        other = labelled(weak, targets.y(weak.K) if weak.class_names else None)
        return contrast(model, other, excess(targets.amount(request.weak_scale), settings, parts.steps), **how)
    return model


def excess(w: Any, settings: Mapping[str, Any], steps: Sequence[Step]) -> Amount:
    """A contrast's w, which is 1 where nothing is contrasted: in the interval's stead, between the steps."""
    beyond = paced(w - 1, settings, steps)
    return beyond_one(beyond) if callable(beyond) else w


def contrast_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    known = {"apg": "eta", "momentum": "momentum", "norm": "norm"}
    given = {known[key]: settings[key] for key in known if key in settings}
    return {"projected": Projection(**given) if given else None, "rescale": settings.get("rescale", 0.0)}


def guide_of(loaded: LoadedGuide, steps: Sequence[Step], targets: Targets) -> Guide:
    settings = loaded.spec.settings
    density = loaded.density(targets, steps)
    n, is_held = settings.get("every", (1, False))
    if is_held:
        density = held(n, steps, density)
    scale = targets.amount(settings.get("scale", 1.0))
    return Guide(density, scale if loaded.spec.moves else paced(scale, settings, steps), loaded.spec.title)


def paced(scale: Amount, settings: Mapping[str, Any], steps: Sequence[Step]) -> Amount:
    """The scale as its schedule has it, in its interval, at every n-th step, unless its gradient is held in between."""
    n, is_held = settings.get("every", (1, False))
    if "schedule" in settings:
        scale = scheduled(settings["schedule"], steps, scale)
    if n > 1 and not is_held:
        scale = every(n, steps, scale)
    return within(settings["interval"], scale) if "interval" in settings else scale


def moving(model: Model, guide: Guide, settings: Mapping[str, Any], steps: Sequence[Step], smoothing: Noise) -> Model:
    """By the guide's gradients: push (so far x_{t-1} moves, DPS) or rho (TFG) through the denoiser, mu at x0_hat."""
    rho, mu = pushed(settings["push"]) if "push" in settings else settings.get("rho", 0.0), settings.get("mu", 0.0)
    smooth = draws(settings["smooth"], settings.get("draws", 4), smoothing) if "smooth" in settings else None
    return tfg(model, guide, paced(rho, settings, steps), paced(mu, settings, steps), settings.get("iterations", 1), smooth)
