"""What is asked of scales, contrasts, guides and particles beyond a plain classifier's guidance: nonsense is refused, by names
and cards alone."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from guided_sample.cards import Card
from guided_sample.guides import GuideSpec
from guided_sample.labels import Labels, word_of
from guided_sample.request import OF_CLASSIFIER, Request
from guided_sample.samplers import SAMPLERS
from guided_sample.steps import kept_timesteps
from noisy_clf.class_names import class_index, same_classes
from noisy_clf.errors import UserError


def by_itself(asked: Request, class_conditional: bool) -> bool:
    """Whether a contrast guides, and the model's own classifier is left out."""
    contrasted = asked.cfg is not None or asked.weak is not None and class_conditional
    return contrasted and asked.classifier is None and asked.scale is None


def refuse_steering(asked: Request, model: Card, classifier: str | None, steps: Any) -> None:
    """UserError for what cannot be had of this model, or means nothing; `steps` are the kept ones, None where not known."""
    refuse_idle_settings(asked, classifier)
    if asked.backward is not None and asked.see != "through":
        raise UserError("--backward climbs x0_hat as the denoiser foresees it; give --see through with it, or leave it out.")
    for spec in (asked.own_guide, *map(GuideSpec.parse, asked.guide)):
        refuse_moves(spec)
        if asked.grad_at == "mean" and spec.settings.get("see", "x_t") != "x_t":
            raise UserError(f"--grad-at mean looks at x_t alone, and {spec.name} is to see {spec.settings['see']}; leave out "
                            f"one of the two.")
    if asked.particles > 1:
        refuse_particles(asked, classifier)
    if steps is not None and model.space is not None:
        alpha_bar = model.space.schedule.alpha_bar[kept_timesteps(steps, model.space.schedule.T)]
        sigmas = [math.sqrt(1 / one - 1) for one in alpha_bar]
        for what, (low, high) in intervals(asked):
            if not any(low < sigma <= high for sigma in sigmas):
                raise UserError(f"{what} {low:g}:{high:g} contains no step; the steps' sigmas go from {max(sigmas):.3g} down "
                                f"to {min(sigmas):.3g}.")


def refuse_contrast(asked: Request, model: Card) -> None:
    if asked.cfg is not None and asked.weak is not None:
        raise UserError("--cfg and --weak are two contrasts; give one of them.")
    if asked.cfg is not None:
        if word_of(asked.classes) == "none":
            raise UserError("--cfg contrasts a class with none, and --class none asks for none; leave out one of the two.")
        if model.class_names is not None and not model.null_class:
            what = "is class-conditional without one" if model.class_names else "is unconditional"
            raise UserError(f"--cfg needs a model that knows the null class, and {asked.model} {what}; train one with: "
                            f"train-ddpm --class-conditional --drop-labels 0.1.")
    for flag, given, needs in (("cfg-plus-plus", asked.cfg_plus_plus, "cfg"), ("weak-scale", asked.weak_scale, "weak")):
        if given not in (None, False) and getattr(asked, needs) is None:
            raise UserError(f"--{flag} is given and --{needs} is not; give both, or leave it out.")
    if asked.contrast is not None and asked.cfg is None and asked.weak is None:
        raise UserError("--contrast is given and there is none; give --cfg or --weak with it, or leave it out.")
    if asked.cfg_plus_plus and not all(0 <= one <= 1 for one in numbers_in(asked.cfg)):
        raise UserError(f"--cfg-plus-plus takes a --cfg from 0 to 1, not {asked.cfg}; 0.6 is usual.")
    for given, what in (({"interval", "every"} & set(asked.contrasting), "an interval or steps between"),
                        (asked.grad_at == "mean", "--grad-at mean")):
        if asked.cfg_plus_plus and given:
            raise UserError(f"--cfg-plus-plus puts back another noise at every step, and goes without {what}; leave out one.")
    if asked.contrasting.get("every", (1, False))[1]:
        raise UserError("--contrast cannot be held between its steps; write every=2.")


def refuse_weak(asked: Request, model: Card, weak: Card) -> None:
    """UserError where the weaker model is of another space, or of other classes."""
    if model.space and weak.space:
        model.space.refuse_other(weak.space, f"weak model {asked.weak}")
    if weak.small_size is not None:
        raise UserError(f"{asked.weak}, given as --weak, is an upsampler; give a weaker state of {asked.model}.")
    if model.class_names is not None and weak.class_names and not same_classes(model.class_names, weak.class_names):
        raise UserError(f"the weak model {asked.weak} knows other classes than {asked.model}; give a weaker state of the same.")


def refuse_idle_settings(asked: Request, classifier: str | None) -> None:
    """UserError for settings of a classifier where none guides."""
    if classifier is None:
        for name in OF_CLASSIFIER:
            if getattr(asked, name) != Request.__dataclass_fields__[name].default:
                raise UserError(f"--{name.replace('_', '-')} is for a classifier, and none is used; leave it out, or give "
                                f"--classifier.")


def refuse_moves(spec: GuideSpec) -> None:
    """UserError for a guide that moves x0_hat and does not see it, or by what it has not."""
    moving = spec.moves or "backward" in spec.settings
    if moving and spec.kind == "classifier" and spec.name != "the classifier" and spec.settings.get("see") != "through":
        raise UserError(f"the guide {spec.name} moves x0_hat, and must see it; write {spec.name},see=through,...")
    if moving and spec.settings.get("every", (1, False))[1]:
        raise UserError(f"the guide {spec.name} moves x0_hat, and no gradient of it can be held; leave out :held.")


def refuse_particles(asked: Request, classifier: str | None) -> None:
    sampler = SAMPLERS[asked.sampler]
    if not sampler.has_mean:
        raise UserError(f"--particles weigh chains by the variance of a step, and {asked.sampler} is sampled without one; give "
                        f"--sampler ddpm.")
    guides = [*([asked.own_guide] if classifier is not None else []), *map(GuideSpec.parse, asked.guide)]
    if not guides:
        raise UserError("--particles weigh by what guides tell, and there are none; give --classifier or --guide, or leave it "
                        "out.")
    if len(guides) > 1 and any({"interval", "every"} & set(spec.settings) for spec in guides):
        raise UserError("--particles weigh by the sum of the guides, which has no gaps; leave out their intervals and steps "
                        "between, or all guides but one.")
    for flag, given in (("grad-at mean", asked.grad_at == "mean"), ("cfg-plus-plus", asked.cfg_plus_plus),
                        ("recur", asked.recurring[0] > 1), ("backward", asked.backward is not None),
                        ("contrast momentum", "momentum" in asked.contrasting),
                        *((f"guide {spec.name}, which moves x0_hat", spec.moves) for spec in guides),
                        *((f"guide {spec.name}, adapted", "adapt" in spec.settings) for spec in guides),
                        *((f"guide {spec.name}, held", spec.settings.get("every", (1, False))[1]) for spec in guides),
                        *((f"guide {spec.name}, which sees x0", spec.settings.get("see") == "x0") for spec in guides),
                        *((f"guide {spec.name}, which sees through, before --threshold static",
                           spec.settings.get("see") == "through" and asked.threshold == "static") for spec in guides)):
        if given:
            raise UserError(f"--particles draw from p(x) p(y|x)^scale by the density of guided steps, and those of --{flag} "
                            f"have no such one; leave out one of the two.")


def intervals(asked: Request) -> Iterator[tuple[str, tuple[float, float]]]:
    """All that a request gives, and what calls them."""
    found: list[tuple[str, Mapping[str, Any]]] = [
        ("--scale-interval", asked.own_guide.settings), ("the contrast's interval", asked.contrasting)]
    found += [(f"the interval of {spec.name}", spec.settings) for spec in map(GuideSpec.parse, asked.guide)]
    for what, settings in found:
        if "interval" in settings:
            yield what, settings["interval"]
    if recurring := asked.recurring[1]:
        yield "the interval of --recur", recurring


def numbers_in(amount: Any) -> list[float]:
    """Of a scale: one, or those of its list or table."""
    if isinstance(amount, Mapping):
        return list(amount.values())
    return list(amount) if isinstance(amount, tuple) else [] if amount is None else [amount]


def refuse_wishes(asked: Request, labels: Labels, model: Card) -> None:
    """UserError for weights that nobody reads, wishes that a class-conditional model cannot be told, scales of others."""
    classifiers = [spec for spec in map(GuideSpec.parse, asked.guide) if spec.kind == "classifier"]
    if labels.has_weights and asked.classifier is None and not classifiers:
        raise UserError("weights of classes are for a classifier, and none is used; leave them out, or give --classifier.")
    if model.class_names and not model.null_class and any(wish.label is None for wish in labels.wishes):
        raise UserError(f"{asked.model} is class-conditional and must be told one class of each sample; give one of them "
                        f"more weight than the others.")
    if asked.classes and word_of(asked.classes) == "none":
        if lost := [spec.name for spec in classifiers if "class" not in spec.settings]:
            raise UserError(f"the guide {lost[0]} is told no class by --class none; give it one: {lost[0]},class=CLASS.")
    assert asked.num_samples is not None
    for key in ("scale", "cfg", "weak_scale"):
        refuse_amount(getattr(asked, key), key, labels, asked.num_samples)


def refuse_amount(value: Any, key: str, labels: Labels, num_samples: int) -> None:
    """UserError where a list of scales has not one for each sample, or a table not one for each class that is asked for."""
    if isinstance(value, tuple) and len(value) != num_samples:
        raise UserError(f"{key} is a list of {len(value)} for {num_samples} samples; give one for each, or one for all.")
    if isinstance(value, Mapping):
        there = {class_index(name, labels.names) for name in value}
        asked = {wish.label for wish in labels.wishes}
        if None in asked or asked - there:
            lacking = next((labels.names[label] for label in asked if label is not None and label not in there), None)
            raise UserError(f"{key} is a table of classes, and " + (
                f"{lacking}, which is asked for, is not in it; give each class a number." if lacking is not None else
                "wishes for several classes alike are asked for; give a list, one for each sample, or one number."))
