"""Model files. A model is a folder: config.json tells what it is, model.safetensors holds the weights to use.

A name ("digits") stands for a model bundled with the package; a training run's folder stands for its best model, and with
@step-N for the moving average of an earlier step (run_folder.py).
No file that could carry code is ever opened as such, and every write is to a temporary name, then renamed.
"""
from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from noisy_clf import renamed
from noisy_clf.checkpoints.released import RELEASED
from noisy_clf.checkpoints.run_folder import of_a_run
from noisy_clf.checkpoints.typed import refuse_other_types
from noisy_clf.errors import UserError
from noisy_clf.files import atomic_write, made_by_newer, read_json, write_json
from noisy_clf.networks.config import refuse_no_size
from noisy_clf.renamed import translated

if TYPE_CHECKING:
    from torch import nn

    from noisy_clf.schedule import NoiseSchedule

Kind = Literal["classifier", "denoiser", "encoder"]
BUNDLED = Path(__file__).parents[1] / "bundled"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
DEFAULTS: dict[str, Any] = {  # what is lacking
    "predicts": "eps", "rescaled_t": False, "class_names": None, "null_class": False, "sampling": None}
KNOWN: dict[str, Any] = {  # and their types
    "kind": Any, "network": Any, "schedule": Any, "variance": str | None, "predicts": str, "rescaled_t": bool,
    "class_names": list[str] | None, "null_class": bool, "sampling": dict[str, Any] | None, "text": dict[str, str] | None,
    "versions": Any, "training": Any, "made_by": Any, "weights": Any}
KNOWN_OF_SCHEDULE: dict[str, Any] = {"name": str, "T": int, "alpha_bar": list[float]}


def save_model(folder: Path, config: dict[str, Any], network: nn.Module, about: dict[str, Any]) -> None:
    """Writes the network's weights, and config.json where it differs; `about` (step, metrics) goes beside the weights."""
    if not (folder / CONFIG).exists() or read_json(folder / CONFIG) != json.loads(json.dumps(config)):
        write_json(folder / CONFIG, config)
    save_weights(folder / WEIGHTS, network, about)


def save_weights(path: Path, network: nn.Module, about: dict[str, Any]) -> None:
    from safetensors.torch import save

    with atomic_write(path) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        temporary.write_bytes(save(tensors, metadata={"about": json.dumps(about)}))  # save_file makes it its owner's alone


def a(kind: object) -> str:
    return f"an {kind}" if kind == "encoder" else f"a {kind}"


def bundled_models(kind: Kind) -> list[str]:
    return sorted(folder.parent.name for folder in BUNDLED.glob(f"*/{kind}"))


def find_model(name_or_path: str | Path, kind: Kind) -> Path:
    """The folder of a bundled model, of a model, or of a training run (its best model)."""
    if str(name_or_path) in bundled_models(kind):
        return BUNDLED / str(name_or_path) / kind
    path = Path(name_or_path)
    for folder in (path, path / "best") if str(name_or_path) else ():
        if (folder / CONFIG).is_file():
            return folder
    names = ", ".join([*bundled_models(kind), *RELEASED[kind]])
    if path.is_dir() and str(name_or_path):
        raise UserError(f"{path} is a folder without a {CONFIG}: neither a model nor a training run "
                        f"that has validated once; give {a(kind)}'s folder, or one of the names: {names}.")
    raise UserError(f"there is no {kind} {str(name_or_path)!r}; the names are: {names}; "
                    f"a path to {a(kind)}'s folder works too, and RUN@step-N, a training run's state of step N.")


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder, its configuration read and its kind checked. All but `load_weights` is told without torch.

    state  the file that holds its weights, where it is a training run's model of an earlier step
    """

    path: Path
    config: dict[str, Any]
    state: Path | None = None

    @classmethod
    def open(cls, name_or_path: str | Path, kind: Kind) -> ModelFolder:
        model, state = of_a_run(name_or_path)
        path = find_model(model, kind)
        config = translated(read_json(path / CONFIG), renamed.CONFIG)
        found = config.get("kind")
        if found not in get_args(Kind):
            raise UserError(f"{path / CONFIG} does not describe a model of this toolkit (it has no \"kind\" of "
                            f"{' or '.join(map(json.dumps, get_args(Kind)))}).")
        if found != kind:
            raise UserError(f"{path} holds {a(found)}, and {a(kind)} is wanted here.")
        for field in ("network", "schedule"):
            if not isinstance(config.get(field), dict):
                raise UserError(f"{path / CONFIG} has no \"{field}\".")
        unknown = [*(name for name in config if name not in KNOWN),
                   *(f"schedule.{name}" for name in config["schedule"] if name not in KNOWN_OF_SCHEDULE)]
        if unknown:
            raise UserError(made_by_newer(path / CONFIG, unknown))
        refuse_other_types(config, KNOWN, path / CONFIG)
        refuse_other_types(config["schedule"], KNOWN_OF_SCHEDULE, path / CONFIG, within="schedule.")
        return cls(path, DEFAULTS | config, state)

    @property
    def schedule(self) -> NoiseSchedule:
        from noisy_clf.schedule import NoiseSchedule

        try:
            return NoiseSchedule.from_config(self.config["schedule"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.path / CONFIG}: the schedule cannot be read ({error!r}).") from error
        except UserError as error:
            raise UserError(f"{self.path / CONFIG}: {error}") from error

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return self.size_of("image_size")

    @property
    def channels(self) -> int:
        """Of its images."""
        return self.size_of("in_channels")

    def size_of(self, name: str) -> int:
        """A size among the network's settings."""
        size = self.config["network"].get(name)
        try:
            refuse_no_size(name, size)
        except UserError as error:
            raise UserError(f"{self.path / CONFIG}: {error}") from error
        return size

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of their numbers; none where the model knows no classes."""
        return tuple(self.config.get("class_names") or ())

    @property
    def weights(self) -> Path:
        """Their file. UserError where it is missing."""
        path = self.state or self.path / WEIGHTS
        if not path.is_file():
            raise UserError(f"{path} is missing.")
        return path

    @property
    def digest(self) -> str:
        """SHA-256 of the weights' file."""
        return file_digest(self.weights)

    def load_weights(self, network: nn.Module) -> None:
        """Gives the network its weights; a missing, extra or differently shaped tensor is refused by name."""
        from noisy_clf.checkpoints.tensors import refuse_other_tensors
        from noisy_clf.checkpoints.torch_file import in_float32, read_safetensors, read_tensors

        path = self.weights
        tensors = read_tensors(path) if path.suffix == ".pt" else in_float32(  # files may be half-sized
            path, read_safetensors(path, again="copy or train it again"))
        refuse_other_tensors(path, tensors, network.state_dict())
        network.load_state_dict(tensors, assign=True)


def file_digest(path: Path) -> str:
    """SHA-256, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def config_from(kind: type[Any], fields: dict[str, Any], source: object) -> Any:
    """A config dataclass from a dictionary; what it does not know, lacks, or has of another type is refused by name."""
    known = kind.__dataclass_fields__
    refuse_other_types(fields, get_type_hints(kind), source)
    try:
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise UserError(f"unknown setting {', '.join(unknown)}; there are: {', '.join(known)}.")
        return kind(**fields)
    except (TypeError, UserError) as error:
        raise UserError(f"{source}: {str(error).rstrip('.')}.") from error
