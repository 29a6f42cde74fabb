"""From what was asked to what it means for these models: defaults filled in, nonsense refused.

Done twice: with what names alone tell, before anything is downloaded or loaded, and with what the loaded models tell. What a
card does not know stays open.
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from guided_sample.beside import classifier_beside
from guided_sample.cards import Card, card_of
from guided_sample.encoders import encoders_filled_in, refuse_encoders
from guided_sample.guides import SIMILAR, GuideSpec
from guided_sample.labels import Labels, alone, refuse_two_meanings, word_of
from guided_sample.request import Request
from guided_sample.samplers import SAMPLERS
from guided_sample.steering import (
    by_itself, classless, refuse_contrast, refuse_order, refuse_steering, refuse_weak, refuse_wishes, similar_in)
from guided_sample.steps import kept_timesteps, nearest_steps, unreached_noise, useless_noise
from noisy_clf.class_names import nameless
from noisy_clf.errors import UserError

WEAK_SCALE = 2.0
NONE, ALL = ("none",), ("word:all",)  # what is asked for where nothing is


def resolve(asked: Request, model: Card, card_of_classifier: Callable[[str], Card]) -> tuple[Request, Labels | None]:
    """(the request with every default filled in that the cards tell, the classes it asks for where they tell them)."""
    classifier = asked.classifier
    if classifier is None and not by_itself(asked, bool(model.class_names)):
        classifier = model.advice.classifier
    none, card = word_of(asked.classes) == "none", None
    with suppress(*[UserError] * none):  # for no class no classifier is needed, nor need it be there
        card = None if classifier is None else card_of_classifier(classifier)
    names, labels = names_of(model, card), None
    if none:
        refuse_two_meanings(str(asked.classes[0]), names or ())
        classifier = None
    refuse_idle(asked)
    unasked = classless(asked) and asked.cfg is None and (model.null_class or model.class_names == ())
    asked = encoders_filled_in(asked, model)
    refuse_contrast(asked, model)
    if model.small_size is not None:
        raise UserError(f"{asked.model} is an upsampler, a second stage; give it as --upsample {asked.model}, after a --model "
                        f"of {model.small_size} pixels.")
    if classifier is None and (asked.classifier_config is not None or asked.classifier_flags is not None):
        raise UserError("settings of a classifier are given, and none is used; leave them out, or give --classifier.")
    if classifier is not None and card and card.space and model.space and asked.see == "x_t":
        model.space.refuse_other(card.space, "classifier")
    for spec in map(GuideSpec.parse, asked.guide):
        other = card_of(spec.source, "classifier").space if spec.kind == "classifier" else None
        if other and model.space and spec.settings.get("see", "x_t") == "x_t":
            model.space.refuse_other(other, f"classifier {spec.source}")
    refuse_encoders(asked, model)
    if asked.weak is not None:
        refuse_weak(asked, model, card_of(asked.weak, "denoiser"))
    unasked = unasked or card is None and names == ()
    wanted = asked.classes or (NONE if unasked else () if card is None and names is None else ALL)
    if word_of(wanted) == "none":
        labels = Labels()
        if model.class_names and not model.null_class:
            raise UserError(f"{asked.model} is class-conditional and cannot be sampled without a class; try --class random.")
    elif names == ():
        raise UserError(f"{asked.model} knows no classes and comes with no classifier; give --classifier, or --class none; "
                        f"{how_to_train(asked.model)}")
    elif names is not None and wanted:
        labels = Labels.of(wanted, names)
    steps = asked.steps
    if model.space is not None:
        schedule = model.space.schedule
        steps = model.advice.steps_for(asked.sampler, schedule) if steps is None else steps
        refuse_order(asked, len(kept_timesteps(steps, schedule, asked.fractional_t)))
    refuse_steering(asked, model, classifier, steps)
    upsample = asked.upsample
    if upsample == "":
        upsample = model.upsampler
        if upsample is None:
            raise UserError(f"{asked.model} has no upsampler of its own; name one: --upsample imagenet64-256.")
    found = replace(
        asked, classifier=classifier, scale=scale_of(asked, model, classifier, wanted), steps=steps, upsample=upsample,
        **{f"{spec.kind}_scale": spec.settings["scale"] for spec in asked.similar},
        weak_scale=WEAK_SCALE if asked.weak is not None and asked.weak_scale is None else asked.weak_scale,
        classes=wanted if labels is None else labels.asked(wanted, names),
        num_samples=asked.num_samples or (None if labels is None else default_number(labels, asked)))
    if labels is not None:
        refuse_wishes(found, labels, model)
    return found, labels


def names_of(model: Card, classifier: Card | None) -> tuple[str, ...] | None:
    """Of the classes that can be asked for; () where there are none."""
    numbers = not model.class_names or nameless(model.class_names)
    return classifier.class_names if classifier and numbers else model.class_names


def resolve_names(asked: Request, class_names: tuple[str, ...] | None = None) -> Request:
    """The same by names alone, before anything is downloaded or loaded; class_names are of a classifier in memory."""
    model = card_of(asked.model, "denoiser")
    if wants_classifier(asked, model):
        asked = replace(asked, classifier=classifier_beside(asked.model, model))
    named, _ = resolve(asked, model, lambda name: Card(
        class_names=class_names) if class_names else card_of(name, "classifier"))
    if named.upsample is not None:
        card = card_of(named.upsample, "denoiser")
        if card.T is not None and card.small_size is None:
            raise UserError(f"{named.upsample}, given as --upsample, is no upsampler; try imagenet64-256 or imagenet128-512.")
        if card.small_size and model.space and model.space.image_size != card.small_size:
            raise UserError(f"{named.upsample} enlarges images of {card.small_size} pixels, and {asked.model}'s have "
                            f"{model.space.image_size}; name another --upsample, or leave it out.")
        if card.space is not None and named.upsample_steps is not None:
            kept_timesteps(named.upsample_steps, card.space.schedule, named.fractional_t)
    return named


def wants_classifier(asked: Request, model: Card) -> bool:
    """Whether one has to be looked for: guidance is not ruled out, and neither the request nor the model names a classifier."""
    own_guides = (asked.similar or asked.guide) and not asked.classes and asked.scale is None
    unguided = own_guides or asked.scale == 0 or word_of(asked.classes) == "none"
    unguided = unguided or by_itself(asked, bool(model.class_names))
    named = any(one is not None for one in (asked.classifier, asked.classifier_config, asked.classifier_flags,
                                            model.advice.classifier, model.small_size))
    return not unguided and not named


def doubts(request: Request, model: Card) -> tuple[str, ...]:
    """What may be wrong with what is asked of the model of that card, a sentence each, though it can be done."""
    spec, flag = (request.upsample_steps, "--upsample-steps") if model.small_size else (request.steps, "--steps")
    if spec is None or model.space is None:
        return ()
    sampler, schedule = SAMPLERS[request.sampler], model.space.schedule
    why = unreached_noise(spec, schedule, request.fractional_t)
    if why is None and sampler.like == "ddim" and not request.knobs.get("eta"):
        why = useless_noise(spec, schedule, request.fractional_t)
    if why is None:
        return ()
    told = spec if isinstance(spec, str) else f"of {len(spec)} timesteps"
    return f"Warning: {flag} {told} {why}; try {flag} {nearest_steps(sampler.steps, schedule)}.",


def scale_of(asked: Request, model: Card, classifier: str | None, wanted: tuple[Any, ...]) -> Any:
    if word_of(wanted) == "none" and not asked.scale:
        return 0.0
    if classifier is not None:
        return model.advice.scale_for(asked.sampler) if asked.scale is None else asked.scale
    alone = asked.similar or asked.guide or by_itself(asked, bool(model.class_names))
    if asked.scale or asked.scale is None and not alone and model.class_names and model.advice.scale_for(asked.sampler):
        raise UserError(f"{asked.model} comes with no classifier; give --classifier, or --scale 0 to sample without guidance; "
                        f"{how_to_train(asked.model)}")
    return 0.0


def how_to_train(model: str) -> str:
    return f"train one with: train-noisy-clf --dataset DATASET --schedule-from {model}."


def default_number(labels: Labels, asked: Request) -> int:
    in_turn = max(len(labels.classes), *(len(getattr(asked, kind)) for kind in SIMILAR))
    return 2 * in_turn if 2 <= in_turn <= 16 else 16


def refuse_idle(asked: Request) -> None:
    """Refuses what nothing would use, and guides that are not there."""
    if asked.upsample is None:
        for flag in ("upsample_config", "upsample_steps"):
            if getattr(asked, flag) is not None:
                raise UserError(f"--{flag.replace('_', '-')} is given and --upsample is not; give both, or leave it out.")
    if word_of(asked.classes) == "none":
        for flag, given in (("classifier", asked.classifier), ("scale", asked.scale or None)):
            if given is not None:
                raise UserError(f"--class none asks for no class, and --{flag} {given} serves to ask for one; leave out one of "
                                f"the two.")
    if len(asked.classes) > 1 and (word := next((one for one in asked.classes if word_of(one)), None)):
        raise alone(str(word))
    for flag in (*(f"{kind}_scale" for kind in SIMILAR), "like_layers"):
        kind = flag.split("_")[0]
        if getattr(asked, flag) is not None and not getattr(asked, kind):
            raise UserError(f"--{flag.replace('_', '-')} is given and --{kind} is not; give both, or leave it out.")
    if asked.encoder is not None and not similar_in(asked):
        raise UserError(f"--encoder {asked.encoder} is for --like, --style and --text, and none of them is given; leave it "
                        f"out, or give one.")
    for spec in asked.guides(None):
        spec.refuse_missing()
