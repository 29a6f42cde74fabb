"""Files of a run: written whole or not at all, and kept apart from another run's."""
from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import MISSING, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from tqdm import tqdm

from noisy_clf.errors import UserError, disk_trouble, one_line
from noisy_clf.renamed import translated

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


DEEPEST = 50  # objects and lists in one another


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary name to write to; it becomes `path` when all went well, and otherwise vanishes."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(disk_trouble(error, path.parent)) from error
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(disk_trouble(error, path)) from error
    except (SafetensorError, RuntimeError) as error:  # how safetensors and torch.save tell of a failing disk
        behind: BaseException | None = error
        while behind is not None and not isinstance(behind, OSError):
            behind = behind.__context__
        if behind is not None:
            raise UserError(disk_trouble(behind, path)) from error
        raise UserError(f"{path} could not be written ({one_line(error)}); what stood there before is untouched.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(lock: Path, what: str) -> Iterator[None]:
    """Within, this process alone of its machine: others wait, and tell for what. A file system without locks keeps none out."""
    file = FileLock(lock)
    with suppress(NotImplementedError):
        try:
            file.acquire(timeout=0)
        except Timeout:
            tqdm.write(f"waiting for another process that {what}", file=sys.stderr)
            file.acquire()
    try:
        yield
    finally:
        file.release()


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Makes the folder, and waits until no other process of this machine is alone in it."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / ".lock", what))
        except OSError as error:
            raise UserError(f"{disk_trouble(error, folder)[:-1]}, and something has to be written there; use a folder of your "
                            f"own, which may hold links to the files.") from error
        yield


def write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path, way_out: str = "") -> dict[str, Any]:
    """The JSON object in a file. UserError where it is none, which ends in the way out."""
    then = f"; {way_out}." if way_out else "."
    try:
        content = from_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({str(error).rstrip('.')}){then}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object{then}")
    return content


def from_json(text: str) -> Any:
    """ValueError where it is no JSON, or nested as deeply as nothing of ours is: what walks through it would stumble."""
    try:
        return not_deep(json.loads(text))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def not_deep(content: Any) -> Any:
    """The content; ValueError where its lists and objects are nested too deeply."""
    level = [content]
    for _ in range(DEEPEST):
        level = [part for one in level if isinstance(one, dict | list)
                 for part in (one.values() if isinstance(one, dict) else one)]
    if level:
        raise ValueError("it is nested too deeply")
    return content


def read_table(path: Path, toml_example: str, json_example: str) -> dict[str, Any]:
    """What a person wrote into a TOML file, or one of JSON (.json); UserError that shows how it is written."""
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write the mark of the encoding
        found = from_json(text) if is_json else not_deep(tomllib.loads(text))
    except (ValueError, OSError, RecursionError) as error:
        language, example = ("JSON", json_example) if is_json else ("TOML", toml_example)
        raise UserError(f"{path} cannot be read as {language} ({str(error).rstrip('.')}); write it like this: {example}, or "
                        f"end its name in {'.toml' if is_json else '.json'} if it is of that kind.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__} where a JSON object with settings by name is wanted.")
    return found


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """What differs between two JSON objects, told one by one: "lr 0.1 there, 0.2 now"."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [found for key in dict.fromkeys([*old, *new])
                for found in differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)]
    return [] if old == new else [f"{name} {shortened(old)} there, {shortened(new)} now"]


def shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def claim_folder(record: Path, options: dict[str, Any], defaults: dict[str, Any] | None = None,
                 renamed: Mapping[str, str] | None = None) -> None:
    """Writes a run's options, and the versions it is made with, into `record`; refuses one that tells of other options.

    defaults  of options, as deeply nested: what counts for those that a record lacks because they are newer than it
    renamed   older names of options (see renamed.py)
    """
    options = json.loads(json.dumps(options))
    if record.exists():
        there = read_json(record, way_out="choose another --out, or remove that folder").get("options")
        if not isinstance(there, dict):
            raise UserError(f"{record} is not that of a run of this toolkit; choose another --out.")
        refuse_other_options(record, filled(translated(there, renamed or {}), options, defaults or {}), options)
    else:
        write_json(record, {"options": options, "versions": versions()})


def refuse_other_options(record: Path, there: dict[str, Any], options: dict[str, Any]) -> None:
    """UserError where the record of a run in its folder tells of other options, or of some that are not known here."""
    different, unknown = differences(there, options), unknown_keys(there, options)
    if any(told.split(" ")[0] not in unknown for told in different):
        raise UserError(f"{record.parent} holds another run's results ({'; '.join(different[:4])}); "
                        f"choose another --out, or give the options it was made with.")
    if unknown:
        raise UserError(made_by_newer(record, unknown))


def filled(old: Any, new: Any, defaults: dict[str, Any]) -> Any:
    """`old`, with the default of each key of `new` that it lacks, as JSON has it."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old
    lacking = {key: json.loads(json.dumps(defaults[key])) for key in new if key not in old and key in defaults}
    return {key: filled(value, new.get(key), defaults.get(key) or {}) for key, value in old.items()} | lacking


def unknown_keys(old: Any, new: Any, name: str = "") -> list[str]:
    """The keys of `old` that `new` lacks, told as `differences` tells them."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return []
    names = {key: f"{name}.{key}" if name else key for key in old}
    return [found for key in old for found in (unknown_keys(old[key], new[key], names[key]) if key in new else [names[key]])]


def made_by_newer(path: Path, unknown: Iterable[str]) -> str:
    return (f"{path} was made by a newer version: it has the setting {', '.join(unknown)}, which this version does not know; "
            f"update this toolkit.")


def defaults_of(settings: type[Any]) -> dict[str, Any]:
    """Those fields of a dataclass that have a default. A new one's must say what was done before there was that field."""
    return {field.name: field.default for field in fields(settings) if field.default is not MISSING}


def versions() -> dict[str, str]:
    """What a result may depend on."""
    return {name: metadata.version(name) for name in ("guided-sample", "torch", "numpy")}
