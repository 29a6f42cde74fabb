"""What a comparison comes to, in plain words."""
from __future__ import annotations

from typing import Any

from guided_sample.metrics.words import figure
from guided_sample.report.runs import Compared, Group
from guided_sample.report.words import listed

MARKS = (0.99, 0.95, 0.9)  # of agreement, worth telling from which scale on
NOTABLE = 0.02  # of recall
FEW = 50  # samples, of fewer of which nothing is said


def headline(c: Compared, experiment: dict[str, Any]) -> str:
    """The experiment's title, or whose samples these are."""
    models = sorted({str(run.manifest.request.get("model", "")).rstrip("/").split("/")[-1] for run in c.runs})
    return str(experiment.get("title") or f"Samples of {listed(models)}")


def what_varies(c: Compared) -> str:
    """What varies: "6 scales, 2 samplers and 2 seeds"."""
    counts = [counted(c, key) for key in c.varying if key != "steps" or varies_within_sampler(c)]
    if c.kinds:
        counts = [f"{len(c.kinds)} kinds" + (" of guidance" if c.over_scales else ", over the number of steps")]
    scales = f"{len(c.scales)} scales" if len(c.scales) > 1 else ""
    seeds = f"{c.seeds} seeds" if c.seeds > 1 else ""
    sizes = {run.N for run in c.runs}
    runs = f"{len(c.runs)} run{'s' * (len(c.runs) > 1)}" + (f" of {sizes.pop()} samples" if len(sizes) == 1 else "")
    parts = [part for part in (scales, *counts, seeds) if part]
    return f"{runs}: {listed(parts)}" if parts else runs


def counted(c: Compared, key: str) -> str:
    number = len({repr(run.settings.get(key)) for run in c.runs})
    return f"{number} numbers of steps" if key == "steps" else f"{number} {key}{'es' if key == 'class' else 's'}"


def varies_within_sampler(c: Compared) -> bool:
    pairs = {(run.sampler, run.steps) for run in c.runs}
    return len(pairs) > len({sampler for sampler, _ in pairs})


def findings(c: Compared) -> list[str]:
    """A sentence for each thing that there is to say, the most important first."""
    most = max((run.N for run in c.runs if run.N), default=FEW)
    if most < FEW:
        return [f"{most} samples a run are too few to tell settings apart: the figures below are mostly chance."]
    group = c.best(c.distance) if c.distance else None
    if group is None or c.distance is None:
        return agreement(c, None)
    told = [f"{nearest(c, group, c.distance)}{ending(c, group)}"]
    return [*told, *ties(c, group, c.distance), *agreement(c, group), *recall(c, group), *others(c, group, c.distance)]


def nearest(c: Compared, group: Group, metric: str) -> str:
    value, floors = group.metrics[metric].mean, c.floors(metric)
    seeds = f", mean of {len(group.runs)} seeds" * (len(group.runs) > 1)
    told = f"Best {c.called(metric)} at {group.where}: {figure(metric, value)}{seeds}"
    if len(c.groups) == 1:
        told = f"{c.called(metric)} is {figure(metric, value)}{seeds}"
    if len(floors) == 1 and floors[0][0] > 0:
        N = f" at N = {floors[0][1]}" if floors[0][1] else ""
        told += f", {value / floors[0][0]:.2g} times the floor of {figure(metric, floors[0][0])} (real images{N})"
        if value < floors[0][0]:
            told += "; below it samples vary less than real images, or spread more evenly over the classes"
    return told + "."


def ending(c: Compared, group: Group) -> str:
    """Whether the best may lie beyond what was tried."""
    scales = [one.scale for one in c.of_series(group.series)]
    if len(scales) < 3 or group.scale not in (scales[0], scales[-1]) or group.scale == 0:
        return ""
    return f" It is the {'largest' if group.scale == scales[-1] else 'smallest'} scale tried: the best may lie beyond."


def ties(c: Compared, group: Group, metric: str) -> list[str]:
    """The groups that the spread of the seeds cannot tell from the best one."""
    top = group.metrics[metric]
    if top.n < 2:
        return []
    near = [other.where for other in c.groups if other is not group and (found := other.metrics.get(metric)) and found.n > 1
            and abs(found.mean - top.mean) <= ((found.error or 0) ** 2 + (top.error or 0) ** 2) ** 0.5]
    return [f"The seeds' spread does not tell it from {listed(near)}."] if near else []


def agreement(c: Compared, group: Group | None) -> list[str]:
    """From which scale on samples show what they were asked for; in the best group's series, or the first."""
    groups = [one for one in c.of_series(group.series if group else c.series[0]) if "agreement" in one.metrics]
    if not groups:
        return []
    within = f" ({groups[0].series})" * (len(c.series) > 1)
    shares = [one.metrics["agreement"].mean for one in groups]
    for mark in MARKS:
        if shares[-1] >= mark:
            first = next(i for i in range(len(groups)) if min(shares[i:]) >= mark)
            if len(groups) == 1:
                break
            where = "at every scale" if first == 0 else f"from {groups[first].strength} on"
            return [f"Agreement with the asked class is {mark:.0%} or more {where}{within}.".replace("%", " %")]
    top = max(range(len(groups)), key=shares.__getitem__)
    return [f"Agreement with the asked class is {'highest, ' * (len(groups) > 1)}{figure('agreement', shares[top])}"
            + (f", at {groups[top].strength}" if len(groups) > 1 else "") + f"{within}."]


def recall(c: Compared, group: Group) -> list[str]:
    """The price: how much of the real images' variety is lost over the scales, in the best group's series."""
    metric = c.first_of("recall", "recall[")
    groups = [one for one in c.of_series(group.series) if metric in one.metrics]
    if metric is None or len(groups) < 2:
        return []
    a, b = groups[0].metrics[metric].mean, groups[-1].metrics[metric].mean
    verb = "falls" if a - b > NOTABLE else "rises" if b - a > NOTABLE else "stays"
    within = f" ({group.series})" * (len(c.series) > 1)
    told = f"from {figure(metric, a)} at {groups[0].strength} to {figure(metric, b)} at {groups[-1].strength}"
    return [f"Recall, the variety, {verb} {told}{within}."]


def others(c: Compared, group: Group, metric: str) -> list[str]:
    """How near the other series come, and at which cost."""
    told = []
    for name in c.series:
        other = c.best(metric, lambda one: one.series == name)
        if other and name != group.series and group.runs[0].network_calls:
            ratio = other.runs[0].network_calls / group.runs[0].network_calls
            cost = "as many" if ratio == 1 else f"{ratio:.2g} times the"
            told.append(f"{name}: {figure(metric, other.metrics[metric].mean)}"
                        + (f" at {other.strength}" if len(c.scales) > 1 else "") + f", with {cost} network evaluations")
    return [f"Other series at their best: {'; '.join(told)}."] if 0 < len(told) <= 4 else []
