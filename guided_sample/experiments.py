"""Experiments: a request in a TOML file, beside a table [sweep] of lists to go through, or tables [[kind]], each of its own
settings and lists. Each combination is a cell: a run."""
from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from guided_sample.guides import SIMILAR
from guided_sample.labels import word_of
from guided_sample.metrics.measures import Measures
from guided_sample.request import KEYS, Request, converted, key_of, with_flags
from guided_sample.resolve import resolve_names
from guided_sample.samplers import KNOBS, SAMPLERS
from noisy_clf.errors import UserError
from noisy_clf.files import read_json, read_table

RECORD, EVALUATION = "experiment.json", "evaluation.json"  # in a sweep's folder, and in each evaluated cell's
PUBLISHED = Path(__file__).parent / "published"
MEASURES = ("metrics", "reference", "features", "judge")  # handed on to Measures
FIGURES = ("FID", "sFID", "IS", "precision", "recall", "KID", "agreement")  # that may be expected
SIMILAR_SCALES = tuple(f"{kind}_scale" for kind in SIMILAR)
STRENGTHS = ("scale", "cfg", "weak_scale", *SIMILAR_SCALES)  # how strongly a run is guided, by what guides it
SEVERAL = ("class", "guide", *SIMILAR, "steps", "upsample_steps", "scale_schedule", *STRENGTHS)  # whose values may be lists
BARE = ("sampler", "steps")  # first in a cell's name, and without their keys
ALONE = "samples"  # the name of a cell that nothing tells from others
LONGEST, LONGEST_NAME = 50, 150  # letters of a name's word (bytes of a kind's), bytes of a name: file systems take 255
SWEPT = [key for key in KEYS if key != "digests"]  # what may vary
TYPES = {key_of(one.name): one.metadata["kind"] for one in fields(Request) if one.metadata} | {
    name: knob.kind for name, knob in KNOBS.items()}  # what the values of a key are


@dataclass(frozen=True)
class Cell:
    """name: of its folder; settings: its own of the lists; request: its defaults filled in as far as names tell; kind: the name
    of its kind, "" where there are none."""

    name: str
    settings: dict[str, Any]
    request: Request
    kind: str = ""


@dataclass(frozen=True)
class Experiment:
    """What a file says.

    request   values by their keys, for all cells
    sweep     lists of values by their keys
    kinds     what is compared: each its name, and by their keys values and lists in place of those above
    measures  of MEASURES, those that are given
    expected  published figures: rows with some of FIGURES and, where they are of one cell of several, its settings
    """

    name: str
    title: str
    about: str
    request: dict[str, Any]
    sweep: dict[str, list[Any]]
    kinds: list[dict[str, Any]]
    measures: dict[str, Any]
    expected: list[dict[str, Any]]

    @classmethod
    def of(cls, name: str, content: Mapping[str, Any]) -> Experiment:
        """From what a file holds. UserError for an unknown key, an empty list, a value in a list's place."""
        values = {key.replace("-", "_"): value for key, value in content.items()}
        sweep, kinds, expected = values.pop("sweep", {}), values.pop("kind", []), values.pop("expected", [])
        refuse_unknown(values, (*KEYS, *MEASURES, "title", "about", "sweep", "kind", "expected"))
        if not isinstance(sweep, dict):
            raise UserError(f"sweep is {sweep!r} and not a table; write [sweep], and below it scale = [0, 1, 2].")
        sweep = {key.replace("-", "_"): value for key, value in sweep.items()}
        within = {key: sweep.pop(key) for key in MEASURES if key in sweep}
        refuse_unknown(sweep, [*SWEPT, *MEASURES], "in [sweep]")
        if twice := [key for key in (*sweep, *within) if key in values]:
            raise UserError(f"{twice[0]} stands above [sweep] and in it; leave out one of the two.")
        for key, several in sweep.items():
            refuse_no_list(key, several, "[sweep]")
        measures = checked_measures({key: values.pop(key) for key in MEASURES if key in values} | within)
        title, about = (text_of(values, key) for key in ("title", "about"))
        return cls(name, title or name, about, values, sweep, checked_kinds(kinds), measures, checked_rows(expected))

    def to_dict(self) -> dict[str, Any]:
        """As a file holds it."""
        return {"title": self.title, "about": self.about, **self.request, **self.measures, "sweep": self.sweep,
                **({"kind": self.kinds} if self.kinds else {}), "expected": self.expected}

    def cells(self) -> tuple[list[Cell], list[str]]:
        """(the cells, which combinations are left out as they mean nothing, or the same as another, a sentence each).
        UserError for a value that can be no request's."""
        if self.kinds:
            return self.cells_of_kinds()
        found: list[tuple[dict[str, Any], Request]] = []
        left_out = []
        refuse_impossible(self.sweep)
        for values in product(*self.sweep.values()):
            settings = dict(zip(self.sweep, values))
            try:
                request = self.requested(settings)
            except UserError as error:
                self.refuse_but_idle(settings, error)
                left_out.append(f"{told(settings)} is left out: {str(error).split(';')[0].rstrip('.')}.")
                continue
            if same := next((other for other, theirs in found if theirs == request), None):
                left_out.append(f"{told(settings)} is left out: it is the same as {told(same)}.")
            else:
                found.append((settings, request))
        if not found:
            raise UserError(f"no cell is left to draw: {left_out[0]}")
        return named(found), left_out

    def cells_of_kinds(self) -> tuple[list[Cell], list[str]]:
        """Those of each kind, be they another's too."""
        cells, left_out = [], []
        for kind in self.kinds:
            name = kind["name"]
            try:
                own, idle = self.narrowed(kind).cells()
            except UserError as error:
                raise UserError(f"the kind {name}: {error}") from error
            cells += [replace(cell, name=name_within(name, cell), kind=name) for cell in own]
            left_out += [f"{name}: {sentence}" for sentence in idle]
        return cells, left_out

    def narrowed(self, kind: dict[str, Any]) -> Experiment:
        """To a kind: its values stand above the experiment's, and its lists are gone through beside those of [sweep]."""
        own = {key: value for key, value in kind.items() if key != "name" and not isinstance(value, list)}
        refuse_impossible({key: [value] for key, value in own.items()})
        swept = {key: several for key, several in self.sweep.items() if key not in own}
        lists = {key: several for key, several in kind.items() if isinstance(several, list)}
        return replace(self, request=with_flags(self.request, own), sweep=swept | lists, kinds=[])

    def requested(self, settings: dict[str, Any]) -> Request:
        return resolve_names(Request.of(with_flags(self.request, settings)))

    def refuse_but_idle(self, settings: dict[str, Any], error: UserError) -> None:
        """UserError, unless it is for their combination alone that these settings cannot be had."""
        idle = self.idle_in(settings)
        try:
            if not idle:
                raise error
            self.requested({key: value for key, value in settings.items() if key not in idle})
        except UserError as why:
            raise UserError(f"{told(settings)}: {why}" if settings else str(why)) from why

    def idle_in(self, settings: dict[str, Any]) -> set[str]:
        """Those of them that serve another sampler, or to ask for a class where none is asked for."""
        values = self.request | settings
        sampler = SAMPLERS.get(str(values.get("sampler", Request.sampler)))
        if sampler is None:
            return set()
        others = set(KNOBS) - set(sampler.knobs) | (set() if sampler.has_mean else {"grad_at"})
        classless = word_of(values.get("class")) == "none"
        return set(settings) & (others | ({"scale", "classifier"} if classless else set()))


def published() -> list[str]:
    return sorted(path.stem for path in PUBLISHED.glob("*.toml"))


def read_experiment(name_or_path: str) -> Experiment:
    """A published one by name, or one from a TOML or JSON file, or from the record in a sweep's folder."""
    path = PUBLISHED / f"{name_or_path}.toml" if name_or_path in published() else Path(name_or_path)
    if not path.is_file():
        near = difflib.get_close_matches(name_or_path, published(), n=1)
        raise UserError(f"there is no experiment {name_or_path!r}; " + (f"did you mean {near[0]}?" if near else
                        f"the names are: {', '.join(published())}; a path to a TOML file works too."))
    content, name = read_table(path, "[sweep] and below it scale = [0, 1, 2]", '{"sweep": {"scale": [0, 1, 2]}}'), path.stem
    if is_record(content):
        content, name = content["experiment"], content["name"]
        if not is_folder_name(name):
            raise UserError(f"{path} calls its experiment {name!r}, and a name that a folder can have is wanted; correct it.")
    try:
        return Experiment.of(name, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def is_record(content: Mapping[str, Any]) -> bool:
    """Whether it is what a sweep keeps in its folder."""
    return isinstance(content.get("experiment"), dict) and isinstance(content.get("name"), str)


def is_folder_name(name: str) -> bool:
    """Whether it is of a folder in the folder where it is looked for, and never elsewhere."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def runs_in(folders: Iterable[Path]) -> tuple[list[Path], dict[str, Any] | None]:
    """(the evaluated runs that these folders are, or as sweeps have, what a report is told of the experiment: of other
    than one sweep, the kinds alone). UserError for a folder that is neither."""
    runs, records = [], []
    for folder in folders:
        if (folder / RECORD).is_file():
            record = read_json(folder / RECORD)
            if not is_record(record):
                raise UserError(f"{folder / RECORD} is not that of a sweep of this toolkit; give a sweep's folder or a run's.")
            name, kinds = called(record["name"], record["experiment"], folder), kinds_in(record)
            records.append(record["experiment"] | {"name": name} | ({"kinds": kinds} if kinds else {}))
            found = sorted(file.parent for pattern in ("*", "*/upsampled") for file in folder.glob(f"{pattern}/{EVALUATION}"))
            if not found:
                raise UserError(f"{folder} has no cell that is evaluated; guided-sweep {record['name']} goes on with it.")
            runs += found
        elif (folder / EVALUATION).is_file():
            runs.append(folder)
        else:
            raise UserError(f"{folder} has no {EVALUATION}; give the folder of a sweep, or of a run that eval-samples has "
                            f"measured.")
    runs = list(dict.fromkeys(runs))
    if len(records) == len(set(folders)) == 1:
        return runs, records[0]
    homes = dict.fromkeys((run.parent if run.name == "upsampled" else run).resolve().parent for run in runs)
    there = [read_json(home / RECORD) for home in homes if (home / RECORD).is_file()]
    kinds = {name: kind for record in there for name, kind in kinds_in(record).items()}
    return runs, {"kinds": kinds} if kinds else None


def kinds_in(record: Mapping[str, Any]) -> dict[str, str]:
    """The kinds of a record's cells, by their names, where they have any."""
    cells = record.get("cells")
    return {name: cell["kind"] for name, cell in (cells if isinstance(cells, dict) else {}).items()
            if isinstance(cell, dict) and isinstance(cell.get("kind"), str)}


def called(name: str, content: dict[str, Any], folder: Path) -> str:
    """What to call guided-sweep with, to make it again: a published experiment's name, or else the record in its folder."""
    return name if name in published() and read_experiment(name).to_dict() == content else str(folder / RECORD)


def refuse_unknown(values: Iterable[str], known: Iterable[str], where: str = "") -> None:
    known = list(known)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UserError(f"unknown key {key!r}{where and ' '}{where}; "
                            + (f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}."))


def refuse_impossible(sweep: dict[str, list[Any]]) -> None:
    """UserError for a value that no request can have, whatever it is combined with."""
    for key, several in sweep.items():
        for value in several:
            try:
                if value is not None:
                    converted(TYPES[key], value, key)
            except UserError as error:
                raise UserError(f"{told({key: value})}: {error}") from error


def refuse_no_list(key: str, several: Any, where: str) -> None:
    """UserError for what cannot be gone through, value by value."""
    if not isinstance(several, list) or not several:
        raise UserError(f"{key} in {where} is {several!r}, and a list to go through is wanted there; give it values, such as "
                        f"[{'0, 1, 2' if key == 'scale' else '...'}], or one value above [sweep].")
    if key not in SEVERAL and any(isinstance(one, list | dict) for one in several):
        raise UserError(f"{key} in {where} holds a list within the list, and one of its values is one setting.")


def checked_kinds(kinds: Any) -> list[dict[str, Any]]:
    """Those of [[kind]]. UserError for one without a name, or whose folders would be another's."""
    if not isinstance(kinds, list) or not all(isinstance(kind, dict) for kind in kinds):
        raise UserError(f"kind is {kinds!r} and not a list of tables; write [[kind]], and below it name = \"CFG\" and its "
                        f"settings.")
    found: dict[str, dict[str, Any]] = {}
    for kind in ({key.replace("-", "_"): value for key, value in kind.items()} for kind in kinds):
        name = text_of(dict(kind), "name")
        where = f"[[kind]] {name}"
        if not name:
            raise UserError(f"a [[kind]] of {told(kind) or 'no settings'} has no name; give it one, such as name = \"CFG\".")
        if (folder := folder_of(name).casefold()) in found:
            raise UserError(f"{where} would have the folders of [[kind]] {found[folder]['name']}; call it otherwise.")
        refuse_unknown([key for key in kind if key != "name"], SWEPT, f"in {where}")
        for key, several in kind.items():
            if isinstance(several, list):
                refuse_no_list(key, several, where)
        found[folder] = kind | {"name": name}
    return list(found.values())


def text_of(values: dict[str, Any], key: str) -> str:
    text = values.pop(key, "")
    if not isinstance(text, str):
        raise UserError(f"{key} is {text!r}, and text in quotes is wanted.")
    return text.strip()


def checked_measures(measures: dict[str, Any]) -> dict[str, Any]:
    metrics = measures.get("metrics", ["FID"])
    if not isinstance(metrics, list) or not metrics or not all(isinstance(one, str) for one in metrics):
        raise UserError(f"metrics is {metrics!r}, and a list of names is wanted, such as [\"FID\", \"recall\"]; leave it out "
                        f"for all.")
    for key in set(measures) - {"metrics"}:
        text_of(dict(measures), key)
    measures_of(measures)
    return measures


def measures_of(asked: dict[str, Any]) -> Measures:
    return Measures(**asked | {"metrics": tuple(asked.get("metrics", ()))})


def checked_rows(expected: Any) -> list[dict[str, Any]]:
    """Those of [expected] or of several [[expected]]."""
    rows = [expected] if isinstance(expected, dict) else expected
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"expected is {expected!r} and not a table; write [expected], and below it FID = 4.59.")
    for row in rows:
        refuse_unknown(row, (*FIGURES, *KEYS), "in [expected]")
        for key, value in figures_of(row).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
                raise UserError(f"{key} in [expected] is {value!r}, and a number is wanted.")
    return rows


def figures_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a row of [expected] the figures; what else is there are settings. (A precision in letters is the networks')"""
    return {key: row[key] for key in FIGURES if key in row and not (key in KEYS and isinstance(row[key], str))}


def named(found: list[tuple[dict[str, Any], Request]]) -> list[Cell]:
    """Cells called by what varies among them, the sampler and its steps first; readable, and no two alike."""
    keys = [key for key in dict.fromkeys([*BARE, *(key for settings, _ in found for key in settings)])
            if len({json.dumps(value_of(key, *one)) for one in found} - {"null"}) > 1]
    cells: dict[str, Cell] = {}
    for settings, request in found:
        words = [word(key, value) for key in keys if (value := value_of(key, settings, request)) is not None]
        if len(words) > 1 and words[1].startswith(words[0]):
            del words[0]  # ddim25 tells of ddim
        name = "-".join(words).encode()[:LONGEST_NAME].decode(errors="ignore") or ALONE
        while name in cells:
            name += "+"
        cells[name] = Cell(name, settings, request)
    return list(cells.values())


def folder_of(kind: str) -> str:
    """What the names of a kind's folders begin with; without a dot, it is no file's of a sweep."""
    return re.sub(r"[^\w+]+", "_", kind).encode()[:LONGEST].decode(errors="ignore")


def name_within(kind: str, cell: Cell) -> str:
    """A cell's among those of all kinds: no kind's own part has a hyphen."""
    return folder_of(kind) if cell.name == ALONE else f"{folder_of(kind)}-{cell.name}"


def value_of(key: str, settings: dict[str, Any], request: Request) -> Any:
    """As it was written, or what it has come to; None of another sampler's setting."""
    if key in KNOBS and key not in request.knobs:
        return None
    return settings[key] if key in settings and key not in BARE else request.to_dict().get(key)


def word(key: str, value: Any) -> str:
    several = value if isinstance(value, list | tuple) else [value]
    text = f"{len(several)}steps" if key == "steps" and value is several else "+".join(
        f"{one:g}" if isinstance(one, float) else str(one) for one in several)
    text = "".join(c if c.isalnum() or c in ".+" else "_" for c in text[-LONGEST:])
    return text if key in BARE else f"{key}-{text}"


def told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def table() -> str:
    """What --list prints."""
    lines = []
    for name in published():
        one = read_experiment(name)
        cells = one.cells()[0]
        several = f" in each of {len(cells)} cells" * (len(cells) > 1)
        lines.append(f"{name:28}{one.title}; {cells[0].request.num_samples:,} samples{several}")
        lines += [f"{'':28}expected: {told(row)}" for row in one.expected]
    return "\n".join(lines)
