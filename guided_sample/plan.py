"""A Plan is a request, loaded and checked; it draws samples in memory. Every refusal lies behind `Plan.of`."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, is_dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from guided_sample.beside import unguided
from guided_sample.cards import Card
from guided_sample.composition import LoadedGuide, Parts, compose, titles
from guided_sample.denoiser import Denoiser
from guided_sample.finite import Watch
from guided_sample.guides import MEASUREMENTS, OWN, SIMILAR, GuideSpec
from guided_sample.guides.classifier import Classifier
from guided_sample.guides.similarity import FeaturesOf
from guided_sample.labels import Labels, plain
from guided_sample.loaders import load_model
from guided_sample.loading import Shelf, card_of_loaded, load, named, without_names
from guided_sample.model import Model, Prediction
from guided_sample.manifest import Manifest
from guided_sample.particles import Twisted
from guided_sample.recurrence import recurrent
from guided_sample.request import Request
from guided_sample.resolve import doubts, resolve
from guided_sample.samplers import SAMPLERS
from guided_sample.samplers.moment import Moment
from guided_sample.steps import Step, kept_timesteps, steps
from guided_sample.targets import Targets
from guided_sample.upsample import enlarging, refuse_misfit
from noisy_clf.checkpoints.model_folder import DEFAULTS
from noisy_clf.checkpoints.settings import read_settings
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.errors import UserError
from noisy_clf.execution import (
    compile_network, dtype_of, exact_float32, pick_device, quicken, refuse_precision, refuse_uncompilable)
from noisy_clf.files import defaults_of
from noisy_clf.heap import keep_what_is_freed
from noisy_clf.noise import SampleNoise, sample_uniform

DRAWING: tuple[int, ...] = ()  # the noise's streams; (1,) is that of random labels
UPSAMPLING: tuple[int, ...] = (2,)
SMOOTHING: tuple[int, ...] = (5,)


class Batch(NamedTuple):
    """Samples: x_0 float32 [B,C,H,W] in [-1,1], the images uint8 [B,H,W,C], and a line of samples.jsonl for each."""

    x_0: Tensor
    images: np.ndarray
    lines: list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What `Plan.of` made of a request.

    request     with every default filled in
    labels      which class each sample is asked to show
    denoiser    the model, frozen
    weak        a weaker one, for autoguidance
    guides      the classifier first, unless no class is asked for, or of a class-conditional model alone
    steps       in the sampler's order
    digests, configs  what the images depend on beside the request, as the manifest keeps it
    stream      of the samples' noise
    settings_given  by somebody, for a denoiser in a bare file
    second      the plan that enlarges this one's samples, where that is asked for
    compile     the networks through torch.compile, for batches of the size of the first one
    notes       what to tell before it is drawn, a sentence each
    """

    request: Request
    labels: Labels
    denoiser: Denoiser
    weak: Denoiser | None
    guides: tuple[LoadedGuide, ...]
    steps: list[Step]
    device: torch.device
    digests: dict[str, str]
    configs: dict[str, Any]
    stream: tuple[int, ...] = DRAWING
    settings_given: bool = False
    second: Plan | None = None
    compile: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: Request, device: str | torch.device = "auto", classifier: Classifier | None = None,
           shelf: Shelf | None = None, compile: bool = False) -> Plan:
        """UserError for all that cannot be done. What names alone tell is told before anything is downloaded or loaded.

        classifier  a module to guide with in place of the named one (guides/classifier.py says what it must offer), frozen here
        shelf       of models that other plans have loaded; no two of its plans are drawn at one time
        """
        shelf = shelf or Shelf()
        where = device if isinstance(device, torch.device) else pick_device(device)
        refuse_precision(request.precision, where)
        if compile:
            refuse_uncompilable(where)
        named = request.classifier is not None or classifier is not None
        request, models = load(request, classifier, shelf)
        exact_float32()
        loaded, guiding = models.denoiser, models.classifier
        if where.type == "cpu" and loaded.denoiser.image_size >= 128:
            keep_what_is_freed()
        asked, labels = resolve(request, card_of_loaded(request.model, loaded),
                                lambda name: Card(class_names=guiding.class_names if guiding else None))
        assert labels is not None and asked.steps is not None
        guides = tuple(replace(guide, spec=replace(asked.own_guide, source=guide.spec.source)) if guide.spec.name == OWN
                       else guide for guide in models.guides)  # by its scale, now known
        chain = steps(asked.steps, loaded.denoiser.schedule, asked.fractional_t)
        plan = cls(replace(asked, upsample=None, upsample_config=None, upsample_steps=None), labels, loaded.denoiser,
                   models.weak.denoiser if models.weak else None, guides, chain, where, models.digests, models.configs,
                   settings_given=loaded.settings_given, compile=compile)
        for guide in plan.guides:
            guide.density(plan.targets([0]), plan.steps)  # refuses other classes
        if asked.upsample is not None:
            plan = replace(plan, second=enlarger(asked, plan, request.steps, shelf))
        refuse_other_digests(request, plan.second or plan)
        beside = not named and request.classifier is not None and loaded.advice.classifier is None
        found = [f"Guided by {request.classifier}, the only classifier beside {request.model} that fits it; for another: "
                 f"--classifier, for none: {unguided(card_of_loaded(request.model, loaded))}."] * beside
        return replace(plan, notes=(*found, *models.notes, *(note for stage in (plan, plan.second) if stage for note in doubts(
            stage.request, Card(stage.denoiser.space, small_size=stage.denoiser.small_size)))))

    def model(self, indices: Sequence[int], small: Tensor | None = None) -> Model:
        """What the sampler sees for the samples of these indices (of one several times, where it has several chains).

        small  for a second stage: the images to enlarge [B,C,h,w] in [-1,1]
        """
        self.started
        denoiser = self.denoiser if small is None else enlarging(self.denoiser, small.to(self.device))
        parts = Parts(denoiser, self.weak, self.guides, self.steps, plain=self.enlarges)
        model = compose(self.request, parts, self.targets(indices), self.noise(indices, SMOOTHING))
        return marked(model) if self.compile else model

    def targets(self, indices: Sequence[int], device: torch.device | None = None) -> Targets:
        return Targets(self.labels, self.request.seed, indices, device or self.device)

    def noise(self, indices: Sequence[int], stream: tuple[int, ...], chains: int = 1) -> SampleNoise:
        return SampleNoise(self.request.seed, indices, self.denoiser.shape, self.device, stream, chains)

    def draw(self, indices: Sequence[int]) -> Batch:
        """The samples of these indices, each depending on the request and its index alone; enlarged where there is a second
        stage. No disk is needed."""
        batch = self.draw_stage(indices)
        return batch if self.second is None else self.second.draw_stage(indices, small=from_pixels(batch.images))

    def draw_stage(self, indices: Sequence[int], after_step: Callable[[], object] = lambda: None,
                   small: Tensor | None = None) -> Batch:
        """The same, of this stage alone."""
        chains = [index for index in indices for _ in range(self.chains)]
        watch = Watch(chains, " and ".join(guide.spec.title for guide in self.guides))
        noise, sampler = self.noise(indices, self.stream, self.chains), self.sampler(indices)
        with self.precision(), self.eagerly(len(chains)):
            x_T = noise()
            for moment in sampler(watch.over(self.model(chains, small)), x_T, self.steps, noise, **self.request.knobs):
                after_step()
            watch.read()
            x_0 = moment.x_t.clamp(-1, 1)
            lost = (~x_0.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
            if lost:
                raise UserError(f"sample {', '.join(str(indices[i]) for i in lost)} came out as NaN: the model is damaged, or "
                                f"it diverged; try a smaller --scale, or --precision float32.")
            with self.eager():  # once a batch, of classifiers and encoders alone: compiling that would not pay
                lines = self.lines(indices, x_0)
            if isinstance(sampler, Twisted):
                lines = [line | {"ess": round(ess, 3)} for line, ess in zip(lines, sampler.ess.tolist())]
            return Batch(x_0, to_pixels(x_0), lines)

    def sampler(self, indices: Sequence[int]) -> Callable[..., Iterator[Moment]]:
        """The one that is asked for, with its steps repeated or its chains weighed."""
        sampler = SAMPLERS[self.request.sampler].load()
        if self.chains > 1:
            return Twisted(self.chains, sample_uniform(self.request.seed, indices, self.device))
        return sampler if self.enlarges or self.request.recurring[0] == 1 else recurrent(sampler, self.passes)

    @property
    def chains(self) -> int:
        """Of each sample."""
        return 1 if self.enlarges else self.request.particles

    def passes(self, step: Step) -> int:
        """Through the step."""
        passes, interval = self.request.recurring
        within = interval is None or interval[0] < step.sigma <= interval[1]
        return passes if within and not self.enlarges else 1

    def lines(self, indices: Sequence[int], x_0: Tensor) -> list[dict[str, Any]]:
        """samples.jsonl's: what each sample was asked to show, classifiers' log p(y | x_0), measurements' distances, how near
        it came to its picture or its words."""
        targets = self.targets(indices)
        lines = [{"index": index, **told, "seed": self.request.seed, "log_prob": None}
                 for index, told in zip(indices, targets.lines())]
        for spec in self.request.similar if self.enlarges else ():
            for line, wanted in zip(lines, targets.in_turn(spec.wanted_names)):
                line.setdefault("wanted", {})[spec.title] = wanted
        with torch.no_grad():
            for name, guide in zip(titles(self.guides), self.guides):
                if guide.spec.name == OWN:
                    told, by_class = guide.log_prob(x_0, targets), guide.log_prob_by_class(x_0, targets)
                    for line, log_prob, several in zip(lines, told, by_class):
                        line |= {"log_prob": log_prob} | ({"log_prob_by_class": several} if several else {})
                elif guide.classifier is not None:
                    for line, log_prob in zip(lines, guide.log_prob(x_0, targets)):
                        line.setdefault("log_probs", {})[name] = log_prob
                elif guide.spec.kind in SIMILAR:
                    reached = guide.similarity(x_0, self.steps[-1], targets)
                    for line, value, wanted in zip(lines, reached, guide.wanted(targets)):
                        line.setdefault("similarities", {})[name] = value
                        line.setdefault("wanted", {})[name] = wanted
                elif guide.spec.kind in MEASUREMENTS:
                    for line, distance in zip(lines, guide.distance(x_0, self.steps[-1], targets)):
                        line.setdefault("distances", {})[name] = distance
        return lines

    def labels_of(self, indices: Sequence[int]) -> list[int | dict[str, float] | None]:
        """What each sample is asked to show, as its line tells it."""
        return [None if wish is None else wish.told for wish in self.targets(indices).wishes]

    @property
    def enlarges(self) -> bool:
        """Whether it is a second stage."""
        return self.stream == UPSAMPLING

    @cached_property
    def started(self) -> bool:
        """The networks are on the device, in their precision and the fastest memory layout; taken there at first use. (On two
        AVX-512 cores U-Nets gain by channels-last from 64 pixels on, classifiers from 128; below they lose)"""
        size, precision = self.denoiser.image_size, self.request.precision
        for denoiser in self.denoisers:
            quicken(denoiser.network.to(self.device), precision, channels_last=size >= 64)
        for classifier in self.classifiers:
            classifier.to(self.device)
            for network in self.within(classifier):
                quicken(network, precision, channels_last=size >= 128)
        for seeing in self.encoders:
            quicken(seeing.to(self.device).encoder.network, precision, channels_last=size >= 128)
        if self.compile:
            networks = [denoiser.network for denoiser in self.denoisers]
            for network in sum(map(self.within, self.classifiers), [*networks, *self.encoders]):
                compile_network(network, self.device)
        return True

    def within(self, classifier: nn.Module) -> list[nn.Module]:
        """The networks of which it is made."""
        return [module.network for module in classifier.modules() if isinstance(module, NoisyClassifier)]

    @property
    def denoisers(self) -> list[Denoiser]:
        return [denoiser for denoiser in (self.denoiser, self.weak) if denoiser is not None]

    @property
    def classifier(self) -> Classifier | None:
        """The one that --classifier names."""
        return next((guide.classifier for guide in self.guides if guide.spec.name == OWN), None)

    @property
    def classifiers(self) -> list[nn.Module]:
        found: list[Any] = [guide.classifier for guide in self.guides]
        return [network for network in found if isinstance(network, nn.Module)]

    @property
    def encoders(self) -> list[FeaturesOf]:
        """Each once, of which several guides may make use."""
        return list({id(guide.encoder): guide.encoder for guide in self.guides if guide.encoder is not None}.values())

    def eagerly(self, B: int) -> AbstractContextManager[Any]:
        """For batches of another size than the first, the last one's say: compiling for it would take longer."""
        return nullcontext() if self.__dict__.setdefault("compiled_for", B) == B else self.eager()

    def eager(self) -> AbstractContextManager[Any]:
        return torch.compiler.set_stance("force_eager") if self.compile else nullcontext()

    def compile_anew(self) -> None:
        """For batches of the next one's size."""
        self.__dict__.pop("compiled_for", None)

    def leave(self) -> None:
        """Takes the networks off the device, until they are used again."""
        for network in (*(denoiser.network for denoiser in self.denoisers), *self.classifiers, *self.encoders):
            network.to("cpu")
        self.__dict__.pop("started", None)

    def precision(self) -> AbstractContextManager[Any]:
        precision = self.request.precision
        return torch.autocast(self.device.type, dtype_of(precision), enabled=precision != "float32")

    @property
    def manifest(self) -> Manifest:
        return Manifest(self.request.to_dict(), self.digests, self.configs)

    @property
    def defaults(self) -> dict[str, Any]:
        """What counts, in `identity`, for a setting of a network that a manifest lacks because it is newer than that."""
        configs: dict[str, Any] = {}
        guiding: list[tuple[str, Any]] = [(name, guide.encoder.encoder if guide.encoder else guide.classifier)
                                          for name, guide in named(self.guides)]
        for what, network in (("upsample" if self.request.upsample else "model", self.denoiser.network),
                              ("weak", self.weak and self.weak.network), ("classifier", None),
                              *((name, getattr(one, "network", None)) for name, one in guiding)):
            config = getattr(network, "config", None)
            configs[what] = DEFAULTS | ({"network": defaults_of(type(config))} if is_dataclass(config) else {})
        return {"configs": configs}

    def identity(self, manifest: Manifest) -> dict[str, Any]:
        """All that a manifest's images depend on, whatever its models are called and wherever they lie."""
        request = Request.of(manifest.request)
        values = {key: value for key, value in request.to_dict().items() if key not in NAMES}
        spec = values.pop("upsample_steps", None) or values.get("steps", "")
        with suppress(UserError):  # of a model with another T: what differs is the model
            values["steps"] = kept_timesteps(spec, self.denoiser.schedule, request.fractional_t)
        values |= {"class": plain(request.classes), "guide": [GuideSpec.parse(text).told for text in request.guide]}
        values |= {kind: len(values[kind]) for kind in ("like", "style") if kind in values}  # which they are, digests tell
        return json.loads(json.dumps(values | {"digests": manifest.digests, "configs": manifest.configs}))


def marked(model: Model) -> Model:
    """The model, of which CUDA graphs are told when a pass begins: then they may overwrite what the pass before has left."""
    def marking(x_t: Tensor, step: Step) -> Prediction:
        torch.compiler.cudagraph_mark_step_begin()
        return model(x_t, step)
    return marking


NAMES = ("model", "model_config", "model_flags", "weak", "classifier", "classifier_config", "classifier_flags", "encoder",
         "upsample", "upsample_config", "num_samples")


def enlarger(asked: Request, first: Plan, spec: str | tuple[int, ...] | None, shelf: Shelf) -> Plan:
    """The plan that enlarges the first one's samples: no guidance, noise of its own. `spec` is what --steps said."""
    name = asked.upsample
    assert name is not None
    loaded = shelf.kept((asked.precision, name, asked.upsample_config, None),
                        lambda: load_model(name, read_settings(asked.upsample_config, None, "denoiser")))
    refuse_misfit(loaded.denoiser, first.denoiser, first.labels.names if first.labels.any else None)
    schedule = loaded.denoiser.schedule
    spec = asked.upsample_steps or spec or loaded.advice.steps_for(asked.sampler, schedule)
    return replace(
        first, request=replace(asked, upsample_steps=spec), denoiser=loaded.denoiser, weak=None, guides=(),
        steps=steps(spec, schedule, asked.fractional_t), digests=first.digests | {"upsample": loaded.digest},
        configs=first.configs | {"upsample": without_names(loaded.config)}, stream=UPSAMPLING,
        settings_given=loaded.settings_given)


def refuse_other_digests(request: Request, plan: Plan) -> None:
    """UserError where the request comes from a run that other weights, or another guide's file, have drawn."""
    for what, digest in request.digests.items():
        found = plan.digests.get(what)
        if found != digest:
            raise UserError(f"the request is of a run whose {what} had the SHA-256 {digest[:12]}..., and now it has "
                            f"{f'{found[:12]}...' if found else 'none'}; give the one that it was drawn with, or another by "
                            f"its flag.")


def to_pixels(x_0: Tensor) -> np.ndarray:
    """[B,C,H,W] in [-1,1] -> uint8 [B,H,W,C], fractions of a grey level cut off as in ADM's program."""
    return ((x_0 + 1) * 127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def from_pixels(images: np.ndarray) -> Tensor:
    """uint8 [B,H,W,C] -> [B,C,H,W] in [-1,1], as a second stage sees them. (ADM's program, when it upsamples)"""
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
