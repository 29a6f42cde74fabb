"""The page: sections of what there is to show, in one HTML file that asks nothing of a network."""
from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Any

from guided_sample.report.figures import by_scale, by_steps, by_time, tradeoffs
from guided_sample.report.findings import findings, headline, what_varies
from guided_sample.report.pictures import sheets
from guided_sample.report.runs import Compared, Group
from guided_sample.report.tables import (
    class_strips, class_table, commands, confusion, expected_table, groups_table, kinds_table, runs_table, settings_tables)
from guided_sample.report.words import h, listed


def page(c: Compared, experiment: dict[str, Any], unmeasured: list[str]) -> str:
    """The whole HTML; by its name guided-sweep makes the experiment again."""
    found = [(name, told, body) for name, told, body in sections(c, experiment) if body]
    anchors = [name.lower().replace(" ", "-").replace(",", "") for name, _, _ in found]
    nav = "".join(f'<a href="#{anchor}">{h(name)}</a>' for anchor, (name, _, _) in zip(anchors, found))
    body = "".join(f'<section id="{anchor}"><h2>{h(name)}</h2>{f"<p>{h(told)}</p>" if told else ""}{content}</section>'
                   for anchor, (name, told, content) in zip(anchors, found))
    title, style, script = headline(c, experiment), part("page.css"), part("page.js")
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
            f'content="{policy(style, script)}"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta name="color-scheme" content="light dark"><title>{h(title)}</title><style>{style}</style></head>'
            f"<body><header><h1>{h(title)}</h1>{head(c, experiment)}{warned(c, experiment, unmeasured)}<nav>{nav}</nav>"
            f'</header><main>{body}</main><script>{script}</script></body></html>\n')


def policy(style: str, script: str) -> str:
    """What a browser may load and run: nothing but these two texts, colours' shares and pictures in the page itself."""
    return (f"default-src 'none'; img-src data:; style-src-elem {hash_of(style)}; style-src-attr 'unsafe-inline'; "
            f"script-src {hash_of(script)}")


def hash_of(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def part(name: str) -> str:
    return files("guided_sample.report").joinpath(name).read_text(encoding="utf-8")


def head(c: Compared, experiment: dict[str, Any]) -> str:
    """What was compared, and what was found."""
    lead, *more = findings(c) or [""]
    about = f"<p>{h(experiment['about'])}</p>" if experiment.get("about") else ""
    return (f'<p class="compared">{h(what_varies(c))}</p>{about}<p class="lead">{h(lead)}</p>'
            + (f"<ul>{''.join(f'<li>{h(told)}</li>' for told in more)}</ul>" if more else ""))


def warned(c: Compared, experiment: dict[str, Any], unmeasured: list[str]) -> str:
    """All warnings, each once, with the runs that it is of where it is not of all."""
    found: dict[str, list[str]] = {}
    for run in c.runs:
        for told in dict.fromkeys(map(str, run.evaluation.get("warnings") or [])):
            found.setdefault(told, []).append(run.name)
    lines = [told + (f" ({of_runs(names)})" if len(names) < len(c.runs) else "") for told, names in found.items()]
    unlike = [key for key in c.varying if key == "N" or key.startswith("reference") or key in c.measured_by]
    if unlike:
        lines.append(f"Not all runs were measured alike ({', '.join(unlike)}): compare only within a series.")
    lines += [f"{name} failed, and is left out: {told}" for name, told in (experiment.get("failed") or {}).items()]
    if c.repeated:
        lines.append(f"Of the settings and seed of another run, and so left out: {of_runs(c.repeated)}.")
    if unmeasured:
        lines.append(f"Not measured, and so left out: {of_runs(unmeasured)}; eval-samples measures a run.")
    items = "".join(f"<li>{h(line)}</li>" for line in lines)
    return f'<aside aria-label="Warnings"><strong>Mind</strong><ul>{items}</ul></aside>' if lines else ""


def of_runs(names: list[str]) -> str:
    return listed(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def sections(c: Compared, experiment: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, what it says, its content: "" where nothing was measured)."""
    errors = any(run.evaluation.get("errors") for run in c.runs)
    bars = "Error bars: one standard deviation over the seeds. " if c.seeds > 1 else "Error bars: standard errors. " * errors
    floor = "Dashed: real images against real images. " if any(run.floor for run in c.runs) else ""
    networks = {metric.partition("[")[2].rstrip("]") for metric in c.metrics if "[" in metric
                and not metric.startswith("similarity")}
    bars += f"Features of {networks.pop()}. " if len(networks) == 1 else ""
    labels = f"Labels: the {'scale' if c.over_scales else 'number of steps'}. "
    samples = sheets(c)
    return [
        ("Kinds of guidance" if c.over_scales else "Kinds", f"Each at its setting of the best "
         f"{c.called(c.distance or c.likeness or '')}, and what a sample took there.", kinds_table(c)),
        ("Side by side", "Samples of one index in a column: they began from the same noise, and so differ by the setting "
         "alone." if len(c.groups) > 1 and len({group.runs[0].seed for group in c.groups}) == 1 else "",
         grid(samples, "sheets")),
        ("Trade-off", labels + bars + floor, grid(tradeoffs(c))),
        ("By scale", bars + floor, grid(by_scale(c))),
        ("Steps and time", bars + floor, grid(by_steps(c) + by_time(c))),
        ("By class", "What the judge sees in samples of each class. " * ("agreement" in c.metrics), by_class(c)),
        ("Expected and measured", "Published figures beside those of the runs with the same settings.",
         expected_table(c, experiment.get("expected"))),
        ("All runs", "A click on a column's name sorts by it. Network evaluations are an image's: the denoiser's, and the "
         "guides', forward and backward.", groups_table(c) + runs_table(c)),
        ("Make it again", "Every setting, digest and version that the figures depend on, and the commands.",
         again(c, experiment))]


def grid(parts: list[str], style: str = "plots") -> str:
    return f'<div class="{style}">{"".join(parts)}</div>' if parts else ""


def by_class(c: Compared) -> str:
    """Strips of all groups; the confusion of the group that agrees best, and of the one that is nearest to real images."""
    chosen: list[Group] = [group for metric in ("agreement", c.distance) if metric and (group := c.best(metric))]
    chosen = list({group.where: group for group in chosen or c.groups[:1]}.values())
    parts = class_strips(c) + [found for group in chosen for found in (confusion(group),) if found]
    if found := class_table(chosen[0]):
        parts.append(found)
    return grid(parts, "matrices")


def again(c: Compared, experiment: dict[str, Any]) -> str:
    lines = "\n".join(commands(c, experiment.get("name")))
    told = ""
    if experiment.get("name"):
        content = json.dumps(experiment, indent=1, ensure_ascii=False)
        told = f"<details><summary>The experiment</summary><pre>{h(content)}</pre></details>"
    return (f"<pre>{h(lines)}</pre>{told}<details><summary>Settings, digests and versions</summary>{settings_tables(c)}"
            f"</details>")
