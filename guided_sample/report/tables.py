"""A report's tables: all runs, by class, confusion, expected against measured, settings."""
from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from guided_sample.experiments import figures_of
from guided_sample.manifest import MANIFEST
from guided_sample.metrics.words import best, figure, is_distance, number, spread, thousands
from guided_sample.report.checks import is_number
from guided_sample.report.runs import Compared, Group, Run, flat
from guided_sample.report.words import h

TALL = 60  # rows
PARTICLES = {"mean": "", "particles": " of ", "smallest": ", least "}  # how many of them count, as it is told
FEW = 20  # classes: up to so many are shown in colours, more as a list


class Entry(NamedTuple):
    """A table's cell: its text; the number to sort by (None: the text); its CSS classes; how full its colour is, 0..1."""

    text: str
    value: float | None = None
    style: str = ""
    share: float | None = None

    def html(self) -> str:
        value = f' data-v="{h(repr(self.value))}"' if self.value is not None else ""
        style = f' class="{self.style}"' if self.style else ""
        share = f' style="--v:{self.share:.3f}"' if self.share is not None else ""
        return f"<td{style}{value}{share}>{h(self.text)}</td>"


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[Entry]]], style: str = "sortable", caption: str = "",
          foot: str = "") -> str:
    """In a box of its own, which scrolls (many rows up and down, too). The first column heads the rows.

    foot  rows of HTML that stay below
    """
    told = f"<caption>{h(caption)}</caption>" if caption else ""
    columns = "".join(f'<th scope="col">{breakable(name)}</th>' for name in head)
    body = "".join(f'<tr><th scope="row">{h(name)}</th>{"".join(entry.html() for entry in entries)}</tr>'
                   for name, entries in rows)
    tall = " tall" * (len(rows) > TALL)
    return (f'<div class="scroll{tall}" tabindex="0" role="region" aria-label="{h(caption or head[0])}">'
            f'<table class="{style}">{told}'
            f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody><tfoot>{foot}</tfoot></table></div>")


def breakable(name: str) -> str:
    """A column's name, which may be broken before its features."""
    return h(name).replace("[", "<wbr>[").replace(":", ":<wbr>")


def groups_table(c: Compared) -> str:
    """Over the seeds: mean and deviation, of distances the least one too; nothing where no group has several."""
    if c.seeds < 2:
        return ""
    rows = []
    for group in c.groups:
        entries = [Entry(str(len(group.runs)), len(group.runs), "n")]
        for metric in c.metrics:
            found = group.metrics.get(metric)
            if found is None:
                entries.append(Entry(""))
                continue
            text = figure(metric, found.mean) + (f" ± {spread(metric, found.error)}" if found.error is not None else "")
            least = f" (min {figure(metric, found.least)})" * (is_distance(metric) and found.n > 1)
            entries.append(Entry(text + least, found.mean, "n"))
        rows.append((group.where, entries))
    return table(["setting", "seeds", *map(c.called, c.metrics)], rows,
                 caption="Over the seeds: mean ± standard deviation, of distances the least too")


def kinds_table(c: Compared) -> str:
    """Each kind of guidance at its best setting: means over the seeds, the best of a column bold."""
    groups = list(c.bests.values())
    bests = {metric: best(metric, [group.metrics[metric].mean for group in groups if metric in group.metrics] or [0])
             for metric in c.metrics}
    floors = [value for value, _ in c.floors(c.distance) if value > 0] if c.distance else []
    rows = []
    for kind, group in c.bests.items():
        values = {metric: found.mean for metric, found in group.metrics.items()}
        over = values[c.distance] / floors[0] if c.distance and len(floors) == 1 else None
        within = group.series.removeprefix(kind).removeprefix(": ")
        rows.append((kind, [Entry(", ".join(filter(None, (group.strength, within)))),
                            *([Entry(number(over), over, "n")] if over is not None else []),
                            *(measured(values, metric, bests[metric]) for metric in c.metrics), *cost(c, group.runs[0])]))
    head = ["kind", "best setting", *["times the floor"] * (len(floors) == 1), *map(c.called, c.metrics), *cost_head(c)]
    return table(head, rows, caption="Each kind at its best setting; the best figures in bold") if rows else ""


def runs_table(c: Compared) -> str:
    """Every run, with its figures, speed and network evaluations. The best of a column is bold."""
    bests = {metric: best(metric, [run.metrics[metric] for run in c.runs if metric in run.metrics]) for metric in c.metrics}
    several_N, named = len({run.N for run in c.runs}) > 1, len(c.series) > 1 or bool(c.kinds)
    knobs = sorted({group.knob for group in c.groups})
    head = ["run", *["kind" if c.kinds else "series"] * named, knobs[0] if len(knobs) == 1 else "scale", "seed",
            *["N"] * several_N, *map(c.called, c.metrics), *cost_head(c)]
    rows = []
    for group in c.groups:
        star = " ★" * any(group is one for one in c.bests.values())
        for run in group.runs:
            scale = f"{group.scale:g}" if group.knob == head[1 + named] else group.strength
            entries = [Entry(group.series)] * named
            entries += [Entry(scale + star, group.scale, "n"), Entry(str(run.seed), run.seed, "n")]
            entries += [Entry(str(run.N or ""), run.N, "n")] * several_N
            entries += [measured(run.metrics, metric, bests[metric]) for metric in c.metrics]
            rows.append((run.name, [*entries, *cost(c, run)]))
    stars = "; ★: the best setting of its kind" * bool(c.bests)
    return table(head, rows, caption=f"All runs; the best figures in bold{stars}", foot=floor_row(c, named + 2 + several_N))


def cost_head(c: Compared) -> list[str]:
    """What a sample took, of what the manifests tell."""
    return ["network evaluations", *["evaluations saved"] * any(run.counted("saved") for run in c.runs),
            *["effective particles"] * any(run.counted("ess") for run in c.runs), "images a second"]


def cost(c: Compared, run: Run) -> list[Entry]:
    """What stands below cost_head."""
    saved, ess, speed = sum(run.counted("saved").values()), run.counted("ess"), run.images_per_second
    particles = "".join(f"{word}{number(ess[key])}" for key, word in PARTICLES.items() if key in ess)
    entries = {"network evaluations": Entry(f"{run.network_calls:.6g}", run.network_calls, "n"),
               "evaluations saved": Entry(f"{saved:.6g}" if saved else "", saved, "n"),
               "effective particles": Entry(particles, ess.get("mean"), "n"),
               "images a second": Entry(number(speed) if speed else "", speed, "n")}
    return [entries[name] for name in cost_head(c)]


def measured(values: dict[str, float], metric: str, top: float | None) -> Entry:
    value = values.get(metric)
    if value is None:
        return Entry("")
    return Entry(figure(metric, value), value, "n best" if value == top else "n")


def floor_row(c: Compared, before: int) -> str:
    """Real images against real ones, as many as they were: the table's foot, which is not sorted. before: so many columns"""
    sizes = sorted({N for metric in c.metrics for _, N in c.floors(metric) if N})
    if not any(c.floors(metric) for metric in c.metrics):
        return ""
    figures = "".join(Entry(", ".join(figure(metric, value) for value, _ in c.floors(metric)), None, "n").html()
                      for metric in c.metrics)
    told = f"real images{', N = ' if sizes else ''}{', '.join(map(thousands, sizes))}"
    return f'<tr><th scope="row">{h(told)}</th>{"<td></td>" * before}{figures}{"<td></td>" * len(cost_head(c))}</tr>'


def class_strips(c: Compared) -> list[str]:
    """Agreement by class, a row a group, of few classes."""
    names = class_names(c.groups)
    if not 0 < len(names) <= FEW:
        return []
    if c.bests:
        found = [strip(list(c.bests.values()), ["kind", *names], "", lambda group: group.kind)]
    elif len(c.scales) == 1:
        found = [strip(c.groups, ["setting", *names], "", lambda group: group.series)]
    else:
        found = [strip(groups, [groups[0].knob, *names], series, lambda group: f"{group.scale:g}")
                 for series, groups in c.by_series.items()]
    return [one for one in found if one]


def strip(groups: Sequence[Group], head: Sequence[str], series: str, name: Callable[[Group], str]) -> str:
    """Per cent in colours, a row a group; nothing where no group was measured by class."""
    rows = [(name(group), [Entry("" if share is None else f"{100 * share:.0f}", share, "heat", share) for share in shares])
            for group in groups if (shares := group.class_agreement())]
    title = "Agreement by class, per cent" + f": {series}" * bool(series)
    return table(head, rows, "matrix", title) if rows else ""


def class_names(groups: Sequence[Group]) -> list[str]:
    lists = (run.by_class.get("class_names") for group in groups for run in group.runs)
    return list(map(str, next(filter(None, lists), [])))


def class_table(group: Group) -> str:
    """What was measured by class, of one group's first run."""
    found = group.runs[0].by_class
    names = list(map(str, found.get("class_names") or []))
    kinds = [kind for kind, values in found.items() if isinstance(values, list) and len(values) == len(names)
             and any(map(is_number, values))]
    if not names or not kinds:
        return ""
    rows = [(name, [Entry(figure(kind, found[kind][k]) if is_number(found[kind][k]) else "",
                          found[kind][k] if is_number(found[kind][k]) else None, "n") for kind in kinds])
            for k, name in enumerate(names)]
    return table(["class", *kinds], rows, caption=f"By class: {group.where}, seed {group.runs[0].seed}")


def confusion(group: Group) -> str:
    """Which class was asked for, and which the judge saw: all pairs, or of many classes the most frequent confusions."""
    run = group.runs[0]
    counts, names = run.by_class.get("confusion") or [], list(map(str, run.by_class.get("class_names") or []))
    if not names or len(counts) != len(names) or any(len(row) != len(names) for row in counts):
        return ""
    title = f"{group.where}, seed {run.seed}"
    if len(names) > FEW:
        pairs = sorted(((count, i, k) for i, row in enumerate(counts) for k, count in enumerate(row) if count and i != k),
                       reverse=True)[:15]
        rows = [(names[i], [Entry(names[k]), Entry(str(count), count, "n"), Entry(f"{count / sum(counts[i]):.0%}", None, "n")])
                for count, i, k in pairs]
        return table(["asked", "seen", "samples", "of the class"], rows, caption=f"Taken for another most often: {title}")
    rows = [(name, [Entry(str(count) if count else "", count, "heat own" if i == k else "heat", count / max(sum(row), 1))
                    for k, count in enumerate(row)]) for i, (name, row) in enumerate(zip(names, counts))]
    return table(["asked \\ seen", *names], rows, "matrix", f"Confusion: {title}")


def expected_table(c: Compared, expected: Any) -> str:
    """Published figures beside those measured with the same settings; nothing where no run has them."""
    wanted = [row for row in (expected if isinstance(expected, list) else [expected]) if isinstance(row, dict)]
    rows = []
    for row in wanted:
        figures = {metric: value for metric, value in figures_of(row).items() if is_number(value)}
        given = {key: value for key, value in row.items() if key not in (*figures, "num_samples")}
        for group in c.groups:
            if all(same(group.runs[0].manifest.request.get(key), value) for key, value in given.items()):
                rows += [(group.where, expected_row(c, metric, value, group)) for metric, value in figures.items()
                         if metric in group.metrics]
    if not rows:
        return ""
    return table(["setting", "metric", "expected", "measured", "measured - expected", "in per cent"], rows)


def expected_row(c: Compared, metric: str, value: float, group: Group) -> list[Entry]:
    found = group.metrics[metric]
    off = found.mean - value
    share = off / value if value else None
    return [Entry(c.called(metric)), Entry(figure(metric, value), value, "n"),
            Entry(figure(metric, found.mean) + (f" ± {spread(metric, found.error)}" if found.error else ""), found.mean, "n"),
            Entry(f"{off:+.3g}", off, "n"), Entry("" if share is None else f"{share:+.1%}", share, "n")]


def same(there: Any, wanted: Any) -> bool:
    """Whether a request's value is the one that an experiment names, however it is written (25 and "25", [3] and 3)."""
    if is_number(there) and is_number(wanted):
        return float(there) == float(wanted)
    one, other = ([*map(str, value)] if isinstance(value, list) else [str(value)] for value in (there, wanted))
    return one == other


def settings_tables(c: Compared) -> str:
    """All that the figures depend on: what is the same in all runs, and what is not, by run."""
    whole = [dict(told_of(run)) for run in c.runs]
    keys = dict.fromkeys(key for one in whole for key in one)
    common = [key for key in keys if len({repr(one.get(key)) for one in whole}) == 1]
    varied = [key for key in keys if key not in common]
    found = table(["setting", "value"], [(key, [Entry(plain_text(whole[0].get(key)), None, "code")]) for key in common],
                  "plain", "The same in all runs")
    if varied:
        found += table(["run", *varied], [
            (run.name, [Entry(plain_text(one.get(key)), one[key] if is_number(one.get(key)) else None, "code")
                        for key in varied]) for run, one in zip(c.runs, whole)], "sortable", "What is not")
    return found


def told_of(run: Run) -> list[tuple[str, Any]]:
    """Settings, digests, versions and device, by their names in manifest.json and evaluation.json."""
    manifest: dict[str, Any] = {
        "request": run.manifest.request, "digests": run.manifest.digests, "configs": run.manifest.configs,
        **{key: run.about[key] for key in ("versions", "device", "batch_size") if key in run.about},
        **{key: run.told_by(key) for key in ("evaluations", "ess")}}
    left_out = ("metrics", "errors", "floor", "by_class", "names", "warnings", "samples")
    return [*flat(manifest), *flat({key: value for key, value in run.evaluation.items() if key not in left_out}, "evaluation")]


def plain_text(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return text if len(text) <= 400 else text[:397] + "..."


def commands(c: Compared, experiment: str | None) -> list[str]:
    """That make it again: all of it where it is an experiment's (its name, or its file), each run, and this page."""
    folders = [run.folder for run in c.runs]
    made = [f"guided-sweep {shlex.quote(experiment)} --out again"] if experiment else []
    made += [f"guided-sample --request {quoted(folder / MANIFEST)}" for folder in folders]
    return [*made, f"guided-sweep --report {' '.join(map(quoted, folders))}"]


def quoted(path: Path) -> str:
    return shlex.quote(str(path))
