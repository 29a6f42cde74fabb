"""Files of a run: written whole or not at all, and kept apart from another run's."""
from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from tqdm import tqdm

from noisy_clf.errors import UserError, disk_trouble


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
        raise UserError(f"{path} could not be written ({error}); what stood there before is untouched.") from error
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


def write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object.")
    return content


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """What differs between two JSON objects, told one by one: "lr 0.1 there, 0.2 now"."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [found for key in dict.fromkeys([*old, *new])
                for found in differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)]
    return [] if old == new else [f"{name} {shortened(old)} there, {shortened(new)} now"]


def shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def claim_folder(record: Path, options: dict[str, Any]) -> None:
    """Writes a run's options, and the versions it is made with, into `record`; refuses one that tells of other options."""
    options = json.loads(json.dumps(options))
    if record.exists():
        there = read_json(record).get("options")
        if not isinstance(there, dict):
            raise UserError(f"{record} is not that of a run of this toolkit; choose another --out.")
        different = differences(there, options)
        if different:
            raise UserError(f"{record.parent} holds another run's results ({'; '.join(different[:4])}); "
                            f"choose another --out, or give the options it was made with.")
    else:
        write_json(record, {"options": options, "versions": versions()})


def versions() -> dict[str, str]:
    """What a result may depend on."""
    return {name: metadata.version(name) for name in ("guided-sample", "torch", "numpy")}
