"""Runs as a report sees them: what tells them apart, and what was measured of each, over the seeds."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from guided_sample.experiments import STRENGTHS
from guided_sample.guides import MEASUREMENTS
from guided_sample.manifest import ABOUT, MANIFEST, Manifest
from guided_sample.metrics.words import best, is_distance, rank
from guided_sample.report.checks import EVALUATION_KINDS, LARGEST, MANIFEST_KINDS, checked, finite, is_number
from guided_sample.report.words import setting
from guided_sample.request import Request
from guided_sample.samplers import KNOBS
from guided_sample.steps import kept_timesteps
from noisy_clf.errors import UserError
from noisy_clf.files import read_json
from noisy_clf.schedule import NoiseSchedule

EVALUATION = "evaluation.json"
DEFAULTS = Request().to_dict()  # of what an older release knew nothing of
BESIDE = ("num_samples", "scale", "seed")  # of the request: not in a series' name


class Statistic(NamedTuple):
    """Of a metric in a group: its mean over `n` seeds, the least of them, and an error: their standard deviation, or of one
    alone what the evaluation tells of it (None: nothing)."""

    mean: float
    error: float | None
    least: float
    n: int


@dataclass(frozen=True)
class Run:
    """A samples' folder, as its manifest and its evaluation tell of it; `about` is what the manifest tells beside."""

    folder: Path
    manifest: Manifest
    about: dict[str, Any]
    evaluation: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Run:
        file = folder / MANIFEST
        if not file.is_file():
            raise UserError(f"{folder} is no sampling run's folder: it has no {MANIFEST}; give folders that guided-sample or "
                            f"guided-sweep has made.")
        content = read_json(file, "a report needs a run's manifest")
        manifest = Manifest.of(content, file)
        if manifest is None:
            raise UserError(f"{file} is not that of a run of this toolkit; leave out that folder.")
        about = {key: content[key] for key in ABOUT if key in content}
        checked({**vars(manifest), **about}, MANIFEST_KINDS, file, "leave out that folder, or draw it again")
        measured, again = folder / EVALUATION, "run eval-samples on the folder again"
        evaluation = checked(read_json(measured, again), EVALUATION_KINDS, measured, again) if measured.is_file() else {}
        return cls(folder, manifest, about, evaluation)

    @property
    def name(self) -> str:
        return self.folder.parent.name if self.folder.name == "upsampled" else self.folder.resolve().name

    def strength(self, knob: str = "scale") -> float:
        """One of STRENGTHS; of a table of them, the mean."""
        found = self.manifest.request.get(knob) or 0
        several = list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else [found]
        return float(mean(several))

    @property
    def seed(self) -> int:
        return int(self.manifest.request.get("seed") or 0)

    @property
    def sampler(self) -> str:
        return str(self.manifest.request.get("sampler"))

    @property
    def N(self) -> int | None:
        return self.evaluation.get("N")

    @cached_property
    def metrics(self) -> dict[str, float]:
        """What was measured, and is a number."""
        return finite(self.evaluation.get("metrics"))

    @cached_property
    def floor(self) -> dict[str, float]:
        return {metric: value for metric, value in finite(self.evaluation.get("floor")).items() if metric != "N"}

    @property
    def by_class(self) -> dict[str, Any]:
        return self.evaluation.get("by_class") or {}

    @property
    def images_per_second(self) -> float | None:
        speed = (self.about.get("last_run") or {}).get("images_per_second")
        return speed if speed and speed * LARGEST > 1 else None

    @cached_property
    def steps(self) -> int:
        """Of the first stage."""
        return self.stage("steps", "model")

    def counted(self, what: str) -> dict[str, float]:
        """What its manifest counts, in an image: "evaluations" by network, those that are "saved", "ess" of particles."""
        found = self.told_by("evaluations").get(what) if what == "saved" else self.told_by(what)
        return {key: value for key, value in finite(found).items() if value >= 0}

    def told_by(self, key: str) -> dict[str, Any]:
        """What the manifest tells of the run, or of its last part."""
        return self.about.get(key) or (self.about.get("last_run") or {}).get(key) or {}

    @cached_property
    def network_calls(self) -> float:
        """For an image, as counted; or the denoisers', and where a classifier guides, as many of that (forward and
        backward)."""
        networks = {name: count for name, count in self.counted("evaluations").items()
                    if not name.startswith(tuple(f"{kind}:" for kind in MEASUREMENTS))}
        if networks and "upsample" not in self.manifest.digests:  # of the second stage alone
            return sum(networks.values())
        request = self.manifest.request
        guided = self.strength() != 0 and bool(request.get("classifier")) + len(request.get("guide") or [])
        enlarging = self.stage("upsample_steps", "upsample") if "upsample" in self.manifest.digests else 0
        return self.steps * (1 + int(guided)) + enlarging

    def stage(self, key: str, model: str) -> int:
        spec = self.manifest.request.get(key) or ""
        told = (self.manifest.configs.get(model) or {}).get("schedule") or {"name": "linear", "T": 1000}
        try:
            return len(kept_timesteps(spec, NoiseSchedule.from_config(told), bool(self.manifest.request.get("fractional_t"))))
        except (UserError, ValueError, KeyError, TypeError):  # of thousands of digits, forged
            return 0

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that may tell a series of runs from another: the request, whose models these were, what they were measured by."""
        request = {key: value for key, value in (DEFAULTS | self.manifest.request).items()
                   if key not in BESIDE or isinstance(value, list | dict)}
        digests = {f"{key} SHA-256": digest[:8] for key, digest in self.manifest.digests.items()}
        reference = self.evaluation.get("reference") or {}
        features = {f"{key} SHA-256": str(digest)[:8] for key, digest in (self.evaluation.get("features") or {}).items()}
        measured = {"N": self.N, "reference": reference.get("name"), "reference SHA-256": str(reference.get("digest"))[:8]}
        return request | digests | features | measured


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    series  the name of the groups that differ from this one in the scale alone
    where   how the report calls it: "scale 2 (DDPM, 50 steps)"
    knob    which of STRENGTHS the scale is
    kind    of guidance, "" where none are compared
    """

    runs: tuple[Run, ...]
    series: str
    where: str
    knob: str
    kind: str

    @property
    def scale(self) -> float:
        return self.runs[0].strength(self.knob)

    @property
    def strength(self) -> str:
        """The scale in words."""
        return f"{self.knob} {self.scale:g}"

    @cached_property
    def metrics(self) -> dict[str, Statistic]:
        found: dict[str, Statistic] = {}
        for metric in dict.fromkeys(metric for run in self.runs for metric in run.metrics):
            values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
            told = finite(self.runs[0].evaluation.get("errors")).get(metric)
            found[metric] = Statistic(mean(values), stdev(values) if len(values) > 1 else told, min(values), len(values))
        return found

    @property
    def seconds(self) -> float | None:
        """An image."""
        speeds = [run.images_per_second for run in self.runs]
        return mean(1 / speed for speed in speeds if speed) if any(speeds) else None

    def class_agreement(self) -> list[float | None]:
        """By class, over the seeds; None where a class has no sample."""
        rows = [run.by_class.get("agreement") or [] for run in self.runs]
        return [mean(known) if (known := [value for value in column if is_number(value)]) else None
                for column in zip(*(row for row in rows if row))]


class Compared:
    """What a report compares, runs that were measured: in groups, in the order of their series, then of their scales."""

    def __init__(self, runs: Sequence[Run], kinds: Mapping[str, str] = {}) -> None:
        """kinds: of guidance, by the names of runs; a series is of one kind"""
        of_kinds: dict[str, list[Run]] = {kind: [] for kind in kinds.values()}
        for run in runs:
            of_kinds.setdefault(kinds.get(run.name, ""), []).append(run)
        of_kinds = {kind: members for kind, members in of_kinds.items() if members}
        self.runs = tuple(run for members in of_kinds.values() for run in members)
        self.kinds = [kind for kind in of_kinds if kind]
        self.varying = varying(runs)
        self.groups: list[Group] = []
        self.repeated: list[str] = []  # the names of runs that tell nothing new: of another's settings and seed
        knobs = {kind: knob_of(members) for kind, members in of_kinds.items()}
        several_scales = len({run.strength(knobs[kind]) for kind, members in of_kinds.items() for run in members}) > 1
        named = [(kind, name, members) for kind, of_kind in of_kinds.items()
                 for name, members in series(of_kind, knobs[kind], kind).items()]
        self.series = [name for _, name, _ in named]
        for kind, name, members in named:
            knob = knobs[kind]
            for scale in sorted({run.strength(knob) for run in members}):
                seeds: dict[int, Run] = {}
                for run in sorted((run for run in members if run.strength(knob) == scale), key=lambda run: run.seed):
                    if seeds.setdefault(run.seed, run) is not run:
                        self.repeated.append(run.name)
                where = f"{knob} {scale:g}" + f" ({name})" * (len(named) > 1) if several_scales else name
                self.groups.append(Group(tuple(seeds.values()), name, where, knob, kind))

    @property
    def measured_by(self) -> set[str]:
        """The settings that are digests of networks whose features were compared."""
        return {f"{key} SHA-256" for run in self.runs for key in run.evaluation.get("features") or {}}

    def of_series(self, name: str) -> list[Group]:
        return [group for group in self.groups if group.series == name]

    @property
    def by_series(self) -> dict[str, list[Group]]:
        return {name: self.of_series(name) for name in self.series}

    @cached_property
    def metrics(self) -> list[str]:
        return sorted({metric for run in self.runs for metric in run.metrics}, key=rank)

    @property
    def scales(self) -> list[float]:
        return sorted({group.scale for group in self.groups})

    @property
    def over_scales(self) -> bool:
        """Whether a kind, or where there are none anything, was measured at several scales."""
        return any(len({group.scale for group in self.groups if group.kind == kind}) > 1 for kind in self.kinds or [""])

    @property
    def seeds(self) -> int:
        return max(len(group.runs) for group in self.groups)

    def called(self, metric: str) -> str:
        """With the number of samples in it, where that is one."""
        names = {str((run.evaluation.get("names") or {}).get(metric, metric)) for run in self.runs if metric in run.metrics}
        return names.pop() if len(names) == 1 else metric

    def briefly(self, metric: str) -> str:
        """The same without its features, where all are of one network."""
        several = len({name.partition("[")[2] for name in self.metrics if is_distance(name)}) > 1
        return self.called(metric) if several or metric.startswith("similarity") else re.sub(r"\[.*]", "", self.called(metric))

    def best(self, metric: str, among: Callable[[Group], bool] = lambda group: True) -> Group | None:
        """The group with the metric's best mean; None where it was not measured, or it is not known which is best."""
        measured = [group for group in self.groups if metric in group.metrics and among(group)]
        value = best(metric, [group.metrics[metric].mean for group in measured]) if measured else None
        return next((group for group in measured if group.metrics[metric].mean == value), None)

    @cached_property
    def bests(self) -> dict[str, Group]:
        """Of each kind the group that is nearest to real images, or where no distance was measured, most like its class."""
        metric = self.distance or self.likeness or ""
        found = {kind: self.best(metric, lambda group: group.kind == kind) for kind in self.kinds}
        return {kind: group for kind, group in found.items() if group}

    def first_of(self, *metrics: str) -> str | None:
        """The first of these that was measured; a name that ends in "[" stands for any network's features."""
        return next((found for wanted in metrics for found in self.metrics
                     if found == wanted or wanted.endswith("[") and found.startswith(wanted)), None)

    @property
    def distance(self) -> str | None:
        return self.first_of("FID", "FD[", "sFID", "KID", "KD[", "KID[")

    @property
    def likeness(self) -> str | None:
        """What the scale buys."""
        return self.first_of("agreement", "IS", "precision", "precision[")

    def floors(self, metric: str) -> list[tuple[float, int | None]]:
        """(real images' value, how many they were), where there are few."""
        found = sorted({(run.floor[metric], (run.evaluation.get("floor") or {}).get("N")) for run in self.runs
                        if metric in run.floor}, key=str)
        return found if len(found) <= 3 else []


def knob_of(runs: Sequence[Run]) -> str:
    """Which of STRENGTHS varies among them, or where none does, is given."""
    several = [knob for knob in STRENGTHS if len({run.strength(knob) for run in runs}) > 1]
    given = [knob for knob in STRENGTHS if any(run.strength(knob) for run in runs)]
    return [*several, *given, STRENGTHS[0]][0]


def varying(runs: Sequence[Run]) -> list[str]:
    """The settings of which they have several values; not a sampler's own knob that another sampler lacks."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    several = [key for key in keys
               if len({repr(run.settings.get(key)) for run in runs if key not in KNOBS or key in run.settings}) > 1]
    return [key for key in several if not told_by_name(key, runs)]


def told_by_name(key: str, runs: Sequence[Run]) -> bool:
    """Whether a digest varies only as the name of what it is of does."""
    name = key.removesuffix(" SHA-256")
    if name == key:
        return False
    pairs = {(repr(run.settings.get(name)), run.settings.get(key)) for run in runs}
    return len(pairs) == len({name for name, _ in pairs})


def series(runs: Sequence[Run], knob: str, kind: str) -> dict[str, list[Run]]:
    """Runs of a kind that differ in the knob and the seed alone, by names that say the sampler, the steps (DDPM, 50 steps),
    and what else varies; or the kind, and what varies in it."""
    keys = [key for key in varying(runs)
            if key != knob or any(isinstance(run.settings.get(key), list | dict) for run in runs)]
    keys = keys if kind else ["sampler", "steps", *(key for key in keys if key not in ("sampler", "steps"))]
    alike: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        alike.setdefault(tuple(repr(run.settings.get(key)) for key in keys), []).append(run)
    named: dict[str, list[Run]] = {}
    for members in alike.values():
        name = ": ".join(filter(None, (kind, told(members[0].settings, keys))))
        if name in named:  # by other words for as many steps
            name = f"{name} ({members[0].settings.get('steps')})"
        named[name if name not in named else f"{name} #{len(named) + 1}"] = members
    return dict(sorted(named.items(), key=lambda one: (one[1][0].sampler, one[1][0].steps, one[0])))


def told(settings: dict[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(setting(key, settings[key]) for key in keys if settings.get(key) not in (None, []))


def flat(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested objects as ("a.b.c", value)."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, content
