"""A Request is all that an image depends on beside its index, as plain data: flags, a file and a run's manifest are one.

Each field is a flag and a file's key (`classes` is --class and "class"); a sampler's own settings are its knobs. None stands
for the model's own setting, or ADM's; `resolve.py` fills it in.
"""
from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click

from guided_sample.guides import (
    COMMON, CONTRAST, KINDS, OWN, PACE, SEES, SIMILAR, GuideSpec, read, settings_of, usual, whole)
from guided_sample.kinds import Amount, Plain, Steps, Text, Threshold, Whole, Words
from guided_sample.labels import spelled_out, word_of
from guided_sample.manifest import Manifest
from guided_sample.samplers import KNOBS, SAMPLERS
from noisy_clf.errors import UserError
from noisy_clf.files import read_table

OF_CLASSIFIER = {"scale_interval": "interval", "scale_every": "every", "scale_schedule": "schedule", "adapt": "adapt",
                 "see": "see", "backward": "backward"}  # fields that a guide of any kind has as settings, by their keys


def asked(default: Any, kind: click.ParamType, help: str, **flag: Any) -> Any:
    """A field: its default, what it may be, what --help says, and how else its flag differs from others."""
    return field(default=default, metadata={"kind": kind, "help": help, "flag": flag})


@dataclass(frozen=True)
class Request:
    model: str = asked("imagenet256-uncond", Text(), "The denoiser: a released or bundled model's name, or a path (a run, a "
                       "diffusers folder, a .pt file).")
    model_config: str | None = asked(None, Text(), "For a .pt file: what its tensors do not tell, as TOML or JSON (heads, "
                                     "attention_order, schedule, T, ...), or the released model whose settings it has.",
                                     metavar="FILE")
    model_flags: str | None = asked(None, Text(), "The same, as the flags that guided-diffusion trained it with, quoted.",
                                    metavar="FLAGS")
    classifier: str | None = asked(None, Text(), "The noisy classifier: a name, a path, or FILE.py:NAME, a module of your own. "
                                   "[default: the one that goes with the model]")
    classifier_config: str | None = asked(None, Text(), "As --model-config, for the classifier.", metavar="FILE")
    classifier_flags: str | None = asked(None, Text(), "As --model-flags, for the classifier.", metavar="FLAGS")
    classes: tuple[str | int, ...] = asked((), Words(numbers=True), "A number, a name, a WordNet id, several (3,7 or given "
                                           "again), 3=1,8=-0.5 (both at once, by weight), all in turn, "
                                           "random, or none; where that may be two things, index:3, name:3 or word:all. "
                                           "[default: all, or none where there are none]",
                                           multiple=True, metavar="CLASS")
    scale: Any = asked(None, Amount(), "Guidance scale of the classifier; 0: no guidance. In a request file also a list, one "
                       "for each sample, or a table, one for each class. [default: the model's]", metavar="FLOAT")
    scale_interval: str | None = asked(None, Plain(), "The classifier is run where LOW < sigma <= HIGH alone, with sigma = "
                                       "sqrt(1/alpha_bar - 1): 0.2:3.", metavar="LOW:HIGH")
    scale_every: str | None = asked(None, Plain(), "The classifier is run at each N-th step alone; N:held: and its gradient is "
                                    "held in between.", metavar="N")
    scale_schedule: Any = asked(None, Plain(), "How the scale goes along the steps, of mean 1: constant, linear, cosine, sine, "
                                "alpha, beta (TFG's); or a table of factors, 0:1:2.", metavar="NAME")
    adapt: str | None = asked(None, Plain(), "entropy: each sample's scale times log K / the entropy of p(y|x_t), to at most "
                              "20 times, or entropy:CAP. (ED-DPM)", metavar="entropy")
    see: str = asked("x_t", click.Choice(SEES), "What the classifier, and the encoder of --like, --style and --text, is shown: "
                     "x_t; x0: x0_hat as a constant, for networks that never saw noise (EluCD); through: x0_hat through the "
                     "denoiser (universal guidance).")
    backward: int | None = asked(None, Whole(min=1), "With --see through: so many steps of Adam, too, by which x0_hat climbs "
                                 "the classifier's log p. (universal guidance)")
    like: tuple[str, ...] = asked((), Words(), "Show what this picture shows, as an encoder sees it; given several times, in "
                                  "turn. Beside it no class is asked for, unless --class, --classifier or --scale is given; "
                                  "so with --style and --text. (SDG)", multiple=True, metavar="PICTURE")
    like_scale: Any = asked(None, Amount(), "Of the cosine of what the encoder sees in both; in a request file also a list, "
                            "one for each sample. [default: 100]", metavar="FLOAT")
    like_layers: Any = asked(None, Plain(), "In the cosine's stead compare these maps of the encoder, place by place: 1:2; 1 "
                             "is the finest. Their distance's scale is 300, unless told.", metavar="LAYERS")
    style: tuple[str, ...] = asked((), Words(), "Have this picture's colours and textures, wherever they are: Gram matrices of "
                                   "the encoder's maps.", multiple=True, metavar="PICTURE")
    style_scale: Any = asked(None, Amount(), "Of minus the matrices' distance; what is strong depends on the encoder, and the "
                             "default is cautious. Where larger ones diverge: --see x0, or --guide "
                             "style:PICTURE,scale=1e7,interval=0:3. [default: 3e5]", metavar="FLOAT")
    text: tuple[str, ...] = asked((), Words(), "Show what these words say, by an encoder that has a text tower (CLIP).",
                                  multiple=True, metavar="WORDS")
    text_scale: Any = asked(None, Amount(), "Of the cosine of the words' and the sample's embeddings. [default: 30]",
                            metavar="FLOAT")
    encoder: str | None = asked(None, Text(), "What --like, --style and --text compare by: an encoder's name, folder or run, "
                                "tuned on noise (train-noisy-encoder); or with --see x0 a clean one, timm:NAME or clip:NAME. "
                                "[default: the model's; where --text is given the model's of CLIP's, for --like and "
                                "--style beside it, too]")
    guide: tuple[str, ...] = asked((), Words(), "A guide beside the classifier or (--class none) instead of it: "
                                   "FILE.py:FUNCTION, of your own, which takes a look (look.x_t, look.t, look.x0_hat) and "
                                   "returns a log-density for each sample; classifier:MODEL[,class=CLASS,see=x0,...]; "
                                   "like:PICTURE, style:PICTURE or text:WORDS[,encoder=NAME,see=x0,layers=1:2,...]; or a "
                                   "measurement: inpaint:PICTURE,mask=FILE (white is kept, black drawn), blur:PICTURE,sigma=2, "
                                   "downsample:PICTURE,factor=4, colour:#ff8800. Then any of interval=, every=, schedule=, and "
                                   "how it acts: scale=20, on the score; push=0.5, so far x_(t-1) moves (DPS; what "
                                   "measurements do, for which a scale is easily too strong); mu=1, at x0_hat (MPGD); rho=, "
                                   "mu=, iterations=, smooth=, draws= (TFG); with see=through backward=, rate=.",
                                   multiple=True, metavar="GUIDE")
    cfg: Any = asked(None, Amount(), "Classifier-free guidance, for models that know the null class: unconditional + W "
                     "(conditional - unconditional), so that 1 is the conditional model; Ho & Salimans' w is this W - 1. "
                     "Without a classifier, unless --classifier or --scale is given.", metavar="W")
    cfg_plus_plus: bool = asked(False, click.BOOL, "CFG++: the unconditional noise is put back; W from 0 to 1.", is_flag=True)
    weak: str | None = asked(None, Text(), "Autoguidance: away from this weaker model of the same kind, such as an earlier "
                             "state of its run, RUN@step-500.", metavar="MODEL")
    weak_scale: Any = asked(None, Amount(), "weak + W (model - weak); 1.7 to 2.9 are usual. [default: 2]", metavar="W")
    contrast: str | None = asked(None, Text(), "More on --cfg or --weak, by commas: apg=0 (adaptive projected guidance; the "
                                 "share of the parallel part), momentum=-0.5, norm=2.5, rescale=0.7, interval=0.28:2.9, "
                                 "every=2, schedule=cosine.", metavar="SETTINGS")
    recur: str = asked("1", Plain(), "Passes through each step, x_t made anew from x_(t-1) in between: K, or K,interval=0.5:5.",
                       metavar="K")
    particles: int = asked(1, Whole(min=1), "Chains a sample, weighed and drawn among: at any scale from p(x) p(y|x)^scale, "
                           "exactly for many (TDS); so many times the work.")
    sampler: str = asked("ddpm", click.Choice(list(SAMPLERS)), "How to go from noise to an image: as ADM did, or in 8 to 20 "
                         "evaluations by DPM-Solver++(2M), its SDE form or UniPC.")
    steps: str | tuple[int, ...] | None = asked(None, Steps(), "Timesteps to keep: 250, or ddim25 (a whole number apart), or "
                                                "90,60,60,20,20 (so many in each section), or a grid: logsnr15, uniform15, "
                                                "quadratic15 (even in log SNR, in t, in its root). [default: the model's]")
    knobs: Mapping[str, Any] = field(default_factory=dict)
    grad_at: str = asked("x_t", click.Choice(["x_t", "mean"]), "Where DDPM's gradient is taken: as ADM's program does it, or "
                         "as its paper writes it.")
    fractional_t: bool = asked(False, click.BOOL, "Steps of a grid exactly where it has them, for networks that take t between "
                               "whole numbers; else at the nearest whole t.", is_flag=True)
    threshold: str = asked("static", Threshold(), "static: x0_hat is clipped to [-1,1]; dynamic, or dynamic:0.995: to that "
                           "quantile of each sample's |x0_hat|, and divided by it; none: it is not. DDPM and DDIM add the "
                           "guidance after that, the other samplers before.", metavar="HOW")
    num_samples: int | None = asked(None, Whole(min=1), "[default: 16, or two of each of several classes]")
    upsample: str | None = asked(None, Text(), "Then enlarge the samples with the model's upsampler, or with this one, into "
                                 "OUT/upsampled.", is_flag=False, flag_value="", metavar="[MODEL]")
    upsample_config: str | None = asked(None, Text(), "As --model-config, for the upsampler.", metavar="FILE")
    upsample_steps: str | tuple[int, ...] | None = asked(None, Steps(), "The upsampler's timesteps. [default: as --steps, or "
                                                         "the upsampler's own]", metavar="STEPS")
    seed: int = asked(0, Whole(min=0), "Of all noise, and of random classes.")
    precision: str = asked("float32", click.Choice(["float32", "bf16", "fp16"]), "Of the networks; fp16 on GPUs alone.")
    digests: Mapping[str, str] = field(default_factory=dict)  # SHA-256 that model, classifier, upsample, guides must have

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None and one.metadata:
                value = one.default
            if one.metadata and value is not None:
                object.__setattr__(self, one.name, converted(one.metadata["kind"], value, key_of(one.name)))
        if not isinstance(self.digests, Mapping) or not all(isinstance(digest, str) for digest in self.digests.values()):
            raise UserError(f"digests: {self.digests!r} is no table of SHA-256 by what they are of.")
        own = SAMPLERS[self.sampler].knobs
        for name, value in self.knobs.items():
            if name not in KNOBS:
                raise UserError(f"no sampler has a setting {name!r}; there are: {', '.join(KNOBS)}.")
            if name not in own and value != KNOBS[name].default:
                owners = [sampler for sampler, entry in SAMPLERS.items() if name in entry.knobs]
                raise UserError(f"{name} belongs to --sampler {' or '.join(owners)}, not to {self.sampler}; leave it out.")
        object.__setattr__(self, "knobs", {name: converted(knob.kind, self.knobs.get(name, knob.default), name)
                                           for name, knob in own.items()})
        self.own_guide, self.similar, self.contrasting, self.recurring  # refuse what cannot be read
        if self.grad_at == "mean" and not SAMPLERS[self.sampler].has_mean:
            ancestral = " or ".join(sampler for sampler, entry in SAMPLERS.items() if entry.has_mean)
            raise UserError(f"grad-at mean belongs to --sampler {ancestral}; {self.sampler} shifts eps at x_t.")

    @property
    def own_guide(self) -> GuideSpec:
        """The classifier, in the grammar of guides."""
        settings = {}
        for name, key in OF_CLASSIFIER.items():
            if (value := getattr(self, name)) is not None:
                settings[key] = read(key, value, COMMON | KINDS["classifier"], f"--{name.replace('_', '-')}")
        if self.scale is not None:
            settings["scale"] = self.scale
        return GuideSpec("classifier", self.classifier or "", OWN, settings)

    @property
    def similar(self) -> list[GuideSpec]:
        """--like, --style and --text, in the grammar of guides."""
        found = []
        for kind in SIMILAR:
            settings = {"see": self.see, "scale": getattr(self, f"{kind}_scale"), "encoder": self.encoder}
            settings = {key: value for key, value in settings.items() if value is not None}
            if kind == "like" and self.like_layers is not None:
                settings["layers"] = read("layers", self.like_layers, KINDS["like"], "--like-layers")
            if wanted := getattr(self, kind):
                found.append(GuideSpec(kind, wanted[0], kind, usual(kind, settings) | settings, wanted))
        return found

    def guides(self, classifier: str | None) -> list[GuideSpec]:
        """All that is asked for; `classifier` is the one that --classifier names or stands for, None where none is used."""
        own = [self.own_guide] if classifier is not None else []
        return [*own, *self.similar, *map(GuideSpec.parse, self.guide)]

    @property
    def contrasting(self) -> dict[str, Any]:
        """The settings of --contrast, by their keys."""
        return settings_of(self.contrast.split(",") if self.contrast else [], CONTRAST, "--contrast")

    @property
    def recurring(self) -> tuple[int, tuple[float, float] | None]:
        """(passes through each step, the interval of sigma in which they are so many)."""
        times, *options = str(self.recur).split(",")
        try:
            passes = whole(times)
        except ValueError as error:
            raise UserError(f"recur is {self.recur!r}, and a whole number is wanted, as in 2 or 10,interval=0.5:5.") from error
        return passes, settings_of(options, {"interval": PACE["interval"]}, "--recur").get("interval")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Request:
        """From values by their keys; UserError for an unknown one, with the nearest, or one that is of another kind."""
        refuse_unknown(values)
        known = {field_of(key): value for key, value in values.items() if key not in KNOBS and value is not None}
        return cls(**known, knobs={key: value for key, value in values.items() if key in KNOBS and value is not None})

    def to_dict(self) -> dict[str, Any]:
        """By the flags' names, as JSON has it; without what is not given, and without the digests."""
        plain = {key_of(one.name): getattr(self, one.name) for one in fields(self) if one.metadata}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in (plain | dict(self.knobs)).items()
                if value is not None}

    def to_toml(self) -> str:
        """The same, as a file for --request."""
        return "\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in self.to_dict().items())


KEYS = [{"classes": "class"}.get(one.name, one.name) for one in fields(Request) if one.name != "knobs"] + list(KNOBS)


def key_of(name: str) -> str:
    return "class" if name == "classes" else name


def field_of(key: str) -> str:
    return "classes" if key == "class" else key


def converted(kind: click.ParamType, value: Any, key: str) -> Any:
    try:
        return kind.convert(value, None, None)
    except click.UsageError as error:
        raise UserError(f"{key}: {error.format_message().removeprefix('Invalid value: ').rstrip('.')}.") from error


def refuse_unknown(values: Mapping[str, Any]) -> None:
    for key in values:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            raise UserError(f"unknown key {key!r}; " + (f"did you mean {near[0]}?" if near else
                            f"this version knows: {', '.join(KEYS)}."))


def read_request(path: Path) -> tuple[dict[str, Any], int | None]:
    """(the values of a request by their keys, the batch size) from TOML, JSON or a manifest.json, which alone tells of batches:
    to the last bit, images depend on them. UserError where the file is none of these."""
    if not path.is_file():
        raise UserError(f"there is no file {str(path)!r} with a request; give a TOML or JSON file, or a run's manifest.json.")
    content = read_table(path, 'model = "digits"', '{"model": "digits", "class": 3}')
    manifest = Manifest.of(content, path)
    if manifest is None:
        values = {key.replace("-", "_"): value for key, value in content.items()}
    elif "model" not in manifest.request and "upsample" not in manifest.digests:
        raise UserError(f"{path} is of a run that has not ended, of a release that told the model only then; run its command "
                        f"to the end first.")
    elif "upsample" in manifest.digests and "upsample" not in manifest.request:  # of an old release, which told but one stage
        raise UserError(f"{path} is the manifest of enlarged images; give the one of the images that they were made from, "
                        f"{path.parent.parent / path.name}, with --upsample.")
    else:
        values = manifest.request | {"digests": manifest.digests}
    try:
        classes = Request.of(values).classes
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if manifest and classes:
        values["class"] = spelled_out(classes)
    size = content.get("batch_size") if manifest and "upsample" not in manifest.digests else None  # of the other stage
    return values, size if type(size) is int and size > 0 else None


def with_flags(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A file's values but for those given as flags, and for those that these make meaningless."""
    forgotten: set[str] = set()
    if "class" in given:
        if word_of(given["class"]) == "none":
            forgotten |= {"scale", "classifier", "classifier_config", "classifier_flags", "cfg", "cfg_plus_plus"}
            similar = any(values.get(kind) or given.get(kind) for kind in SIMILAR)
            forgotten |= set(OF_CLASSIFIER) - ({"see"} if similar else set())
            forgotten |= set() if values.get("weak") or given.get("weak") else {"contrast"}
        elif word_of(values.get("class")) == "none":
            forgotten.add("scale")  # 0, for want of a class
    sampler = SAMPLERS.get(given.get("sampler", ""))
    if sampler:
        forgotten |= set(KNOBS) - set(sampler.knobs) | (set() if sampler.has_mean else {"grad_at"})
    new = {key: value for key, value in values.items() if key not in forgotten} | dict(given)
    digests = {key: digest for key, digest in (values.get("digests") or {}).items()
               if not asked_for_by(key) & set(given) and (":" in key or new.get(key.split(".")[0]) is not None)}
    return new | {"digests": digests}


def asked_for_by(digest: str) -> set[str]:
    """The keys by which is asked for what a manifest keeps that digest of."""
    if ":" in digest:
        return {"guide"}
    kind, _, part = digest.partition(".")
    return {kind, "encoder"} if part in ("encoder", "tower") else {kind}
