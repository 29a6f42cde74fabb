"""What is asked of scales, contrasts, guides and particles beyond a plain classifier's guidance: nonsense is refused, by names
and cards alone."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from guided_sample.cards import Card
from guided_sample.guides import MEASUREMENTS, PACE, SIMILAR, GuideSpec
from guided_sample.labels import Labels, word_of
from guided_sample.request import OF_CLASSIFIER, Request
from guided_sample.samplers import SAMPLERS
from guided_sample.steps import kept_timesteps
from noisy_clf.class_names import class_index, same_classes
from noisy_clf.errors import UserError


def by_itself(asked: Request, class_conditional: bool) -> bool:
    """Whether a contrast guides, or a picture or words, and the model's own classifier is left out."""
    contrasted = asked.cfg is not None or asked.weak is not None and class_conditional
    if classless(asked) or similar_in(asked) and class_conditional and asked.classifier is None and asked.scale == 0:
        return True
    return contrasted and asked.classifier is None and not asked.scale  # 0 in a manifest, where none was asked for


def classless(asked: Request) -> bool:
    """Whether pictures or words say all that is wanted: then nothing is said of classes."""
    return bool(similar_in(asked)) and not asked.classes and asked.classifier is None and asked.scale is None


def similar_in(asked: Request) -> list[GuideSpec]:
    """The guides of SIMILAR, by flags or --guide."""
    return [spec for spec in asked.guides(None) if spec.kind in SIMILAR]


def refuse_steering(asked: Request, model: Card, classifier: str | None, steps: Any) -> None:
    """UserError for what cannot be had of this model, or means nothing; `steps` are the kept ones, None where not known."""
    refuse_idle_settings(asked, classifier)
    if asked.backward is not None and asked.see != "through":
        raise UserError("--backward climbs x0_hat as the denoiser foresees it; give --see through with it, or leave it out.")
    guides = asked.guides(classifier)
    for spec in guides:
        refuse_moves(spec)
    refuse_mean(asked, guides)
    refuse_folded(asked, guides)
    if SAMPLERS[asked.sampler].memory:
        refuse_repeats(asked, guides)
    if asked.particles > 1:
        refuse_particles(asked, guides)
    if steps is not None and model.space is not None:
        schedule = model.space.schedule
        alpha_bar = schedule.alpha_bar_at(kept_timesteps(steps, schedule, asked.fractional_t))
        sigmas = [math.sqrt(1 / one - 1) for one in alpha_bar]
        for what, (low, high), n in intervals(asked):
            if not any(low < sigma <= high for sigma in sigmas[::-1][::n]):
                which = f"{what} {low:g}:{high:g} contains no step" + f" of those that are run, each {n}th" * (n > 1)
                raise UserError(f"{which}; the steps' sigmas go from {max(sigmas):.3g} down to {min(sigmas):.3g}.")


def refuse_order(asked: Request, count: int) -> None:
    """UserError for a solver of a higher order than there are steps."""
    order = asked.knobs.get("order", 1)
    if order > count:
        there = f"there are {count}; take more, or --order 2" if count > 1 else "there is 1; take more"
        raise UserError(f"{asked.sampler} of order {order} needs {order} steps, and of --steps {there}.")


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
    for given, what in ((set(PACE) & set(asked.contrasting), "an interval, a schedule or steps between"),
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
            if (name != "see" or not asked.similar) and getattr(asked, name) != Request.__dataclass_fields__[name].default:
                raise UserError(f"--{name.replace('_', '-')} is for a classifier, and none is used; leave it out, or give "
                                f"--classifier.")


def refuse_moves(spec: GuideSpec) -> None:
    """UserError for a guide that moves x0_hat and does not see it, or by what it has not; and for settings without effect."""
    given, moving = set(spec.settings), spec.moves or "backward" in spec.settings
    if moving and spec.kind in ("classifier", *SIMILAR) and not spec.flagged and spec.settings.get("see") != "through":
        raise UserError(f"the guide {spec.title} moves x0_hat, and must see it; write {spec.title},see=through,...")
    if moving and spec.settings.get("every", (1, False))[1]:
        raise UserError(f"the guide {spec.title} moves x0_hat, and no gradient of it can be held; leave out :held.")
    if {"push", "rho"} <= given:
        raise UserError(f"the guide {spec.title} has push and rho, which are one thing in two units; leave out one of them.")
    for key, needed in (("iterations", ("mu",)), ("smooth", ("push", "rho", "mu")), ("draws", ("smooth",)),
                        ("rate", ("backward",))):
        if key in given and not given & set(needed):
            raise UserError(f"the guide {spec.title} has {key}, which does nothing without {' or '.join(needed)}; give that, "
                            f"or leave it out.")


def refuse_mean(asked: Request, guides: list[GuideSpec]) -> None:
    """UserError where the gradient at the mean is asked for, and is not, or cannot be, taken there."""
    if asked.grad_at != "mean":
        return
    for spec in guides:
        if spec.settings.get("see", "x_t") != "x_t":
            raise UserError(f"--grad-at mean looks at x_t alone, and {spec.title} is to see {spec.settings['see']}; leave out "
                            f"one of the two.")
    if (asked.similar or asked.guide or asked.cfg is not None or asked.weak is not None) and all(spec.moves for spec in guides):
        raise UserError("--grad-at mean is for guides that add to the score, and there are none; leave it out.")


def refuse_folded(asked: Request, guides: list[GuideSpec]) -> None:
    """UserError where one guide would look through an x0_hat that is clipped with another's guidance in it."""
    sampler = SAMPLERS[asked.sampler]

    def folds(spec: GuideSpec) -> bool:
        see = spec.settings.get("see")
        return not spec.moves and (see == "through" or see == "x0" and not sampler.has_mean)

    def looks_through(spec: GuideSpec) -> bool:
        return bool({"push", "rho"} & set(spec.settings)) or spec.kind in MEASUREMENTS and not spec.moves

    in_one = sampler.memory and not any(spec.settings.get("see") == "x0" for spec in guides)  # no threshold lies between them
    for one in filter(folds, [] if asked.threshold == "none" or in_one else guides):
        for other in filter(looks_through, guides):
            raise UserError(f"{one.title}, by see={one.settings['see']}, is in the x0_hat that is clipped, through which "
                            f"{other.title} would look; leave out one of them, or give --threshold none.")


def refuse_repeats(asked: Request, guides: list[GuideSpec]) -> None:
    """UserError for what takes a step again, or puts back another noise than x0_hat's, where steps before are remembered."""
    found = [("--recur", asked.recurring[0] > 1), ("--cfg-plus-plus", asked.cfg_plus_plus)]
    found += [(f"{spec.title}, by {' and '.join(key for key in ('push', 'rho', 'mu') if key in spec.settings) or 'push'},",
               spec.moves) for spec in guides]
    for what, given in found:
        if given:
            raise UserError(f"{what} changes what {asked.sampler} remembers of the steps before; give --sampler ddim or ddpm"
                            + ("" if what.startswith("--") else ", or scale= in its stead") + ".")


def refuse_particles(asked: Request, guides: list[GuideSpec]) -> None:
    if not SAMPLERS[asked.sampler].has_mean:
        raise UserError(f"--particles weigh chains by the variance of a step, and {asked.sampler} is sampled without one; give "
                        f"--sampler ddpm.")
    if not guides:
        raise UserError("--particles weigh by what guides tell, and there are none (a contrast tells nothing); give "
                        "--classifier, --like or --guide, or leave it out.")
    if len(guides) > 1 and any({"interval", "every"} & set(spec.settings) for spec in guides):
        raise UserError("--particles weigh by the sum of the guides, which has no gaps; leave out their intervals and steps "
                        "between, or all guides but one.")
    found = [("--grad-at mean", asked.grad_at == "mean"), ("--cfg-plus-plus", asked.cfg_plus_plus),
             ("--recur", asked.recurring[0] > 1), ("momentum in --contrast", "momentum" in asked.contrasting)]
    for spec in guides:
        see = spec.settings.get("see")
        found += [(as_written(spec, key), key in spec.settings) for key in ("backward", "adapt", "push", "rho", "mu")]
        found += [(as_written(spec, "schedule"), spec.settings.get("schedule", "constant") != "constant"),
                  (as_written(spec, "every") + ":held", spec.settings.get("every", (1, False))[1]),
                  (as_written(spec, "see") + f" {see}", see == "x0" or see == "through" and asked.threshold != "none")]
    for what, given in found:
        if given:
            raise UserError(f"--particles draw from p(x) p(y|x)^scale, and steps guided with {what} have no density to weigh "
                            f"for that; leave out one of the two.")


def as_written(spec: GuideSpec, key: str) -> str:
    """What somebody has given a guide its setting by: a flag, or a key."""
    if not spec.flagged:
        return f"{spec.title},{key}"
    return "--" + next((name for name, of in OF_CLASSIFIER.items() if of == key), key).replace("_", "-")


def intervals(asked: Request) -> Iterator[tuple[str, tuple[float, float], int]]:
    """(what calls it, the interval, of each how many steps it takes one) of all that a request gives."""
    found: list[tuple[str, Mapping[str, Any]]] = [
        ("--scale-interval", asked.own_guide.settings), ("the contrast's interval", asked.contrasting)]
    found += [(f"the interval of {spec.title}", spec.settings) for spec in map(GuideSpec.parse, asked.guide)]
    for what, settings in found:
        n, held = settings.get("every", (1, False))
        if "interval" in settings:
            yield what, settings["interval"], 1 if held else n
    if recurring := asked.recurring[1]:
        yield "the interval of --recur", recurring, 1


def numbers_in(amount: Any) -> list[float]:
    """Of a scale: one, or those of its list or table."""
    if isinstance(amount, Mapping):
        return list(amount.values())
    return list(amount) if isinstance(amount, tuple) else [] if amount is None else [amount]


def refuse_wishes(asked: Request, labels: Labels, model: Card) -> None:
    """UserError for weights that nobody reads, wishes that a class-conditional model cannot be told, scales of others."""
    classifiers = [spec for spec in map(GuideSpec.parse, asked.guide) if spec.kind == "classifier"]
    own = [asked.own_guide] if asked.classifier is not None else []
    readers = own + [spec for spec in classifiers if "class" not in spec.settings]
    if labels.has_weights and not readers:
        raise UserError("weights of classes are for a classifier, and none is used (a contrast is told one class); leave them "
                        "out, or give --classifier.")
    if labels.has_weights and any("adapt" in spec.settings for spec in readers):
        raise UserError("the entropy of p(y|x_t) falls as one class is reached, and weights ask for several; leave out the "
                        "weights, or --adapt.")
    if model.class_names and not model.null_class and any(wish.label is None for wish in labels.wishes):
        raise UserError(f"{asked.model} is class-conditional and must be told one class of each sample; give one of them "
                        f"more weight than the others.")
    if asked.classes and word_of(asked.classes) == "none":
        if lost := [spec.name for spec in classifiers if "class" not in spec.settings]:
            raise UserError(f"the guide {lost[0]} is told no class by --class none; give it one: {lost[0]},class=CLASS.")
    assert asked.num_samples is not None
    for key in ("scale", "cfg", "weak_scale", *(f"{kind}_scale" for kind in SIMILAR)):
        refuse_amount(getattr(asked, key), key, labels, asked.num_samples)


def refuse_amount(value: Any, key: str, labels: Labels, num_samples: int) -> None:
    """UserError where a list of scales has not one for each sample, or a table not one for each class that is asked for."""
    if isinstance(value, tuple) and len(value) != num_samples:
        raise UserError(f"{key} is a list of {len(value)} for {num_samples} samples; give one for each, or one for all.")
    if isinstance(value, Mapping):
        if not labels.any:
            raise UserError(f"{key} is a table of classes, and none is asked for; give one number.")
        there = {class_index(name, labels.names) for name in value}
        asked = {wish.label for wish in labels.wishes}
        if None in asked or asked - there:
            lacking = next((labels.names[label] for label in asked if label is not None and label not in there), None)
            raise UserError(f"{key} is a table of classes, and " + (
                f"{lacking}, which is asked for, is not in it; give each class a number." if lacking is not None else
                "wishes for several classes alike are asked for; give a list, one for each sample, or one number."))
