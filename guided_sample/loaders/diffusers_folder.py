"""Denoisers of diffusers: a folder with a UNet2DModel and the scheduler that it was trained with.

Diffusers builds the network; all that it is built from is read here, so that nothing is fetched, no code in a file is run, and
what would change the numbers without our knowing is refused by name.
"""
from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from guided_sample.denoiser import Denoiser
from guided_sample.loaders.loaded import LoadedModel
from noisy_clf.checkpoints.model_folder import file_digest
from noisy_clf.errors import UserError, one_line, out_of_memory
from noisy_clf.files import read_json
from noisy_clf.checkpoints.diffusers_scheduler import (
    CONFIG, INDEX, PREDICTS, find_scheduler, find_weights, read_schedule, read_scheduler, refuse_unknown, refuse_unless,
    refuse_unless_whole, unet_folder)
from noisy_clf.checkpoints.tensors import give_tensors
from noisy_clf.checkpoints.torch_file import read_tensors
from noisy_clf.checkpoints.typed import refuse_other_types
from noisy_clf.networks.config import LARGEST

OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # attention, before diffusers 0.13

# `fixed_large_log` of diffusers is the root of a logarithm, which is NaN: here it is what its name says
VARIANCES = {"fixed_small": "fixed_small", "fixed_small_log": "fixed_small", "fixed_large": "fixed_large",
             "fixed_large_log": "fixed_large", "learned": "learned", "learned_range": "learned_range"}

UNET_CHOICES: dict[str, tuple[Any, ...]] = {  # diffusers takes other values of some of them in silence
    "time_embedding_type": ("positional", "learned"),  # fourier: of continuous noise levels, not finite at t = 0
    "class_embed_type": (None,), "mid_block_type": ("UNetMidBlock2D", None), "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"), "resnet_time_scale_shift": ("default", "scale_shift")}
BLOCKS = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
          "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")}

SIZES = {"in_channels": "in_channels", "out_channels": "out_channels", "block_out_channels": "channels",
         "layers_per_block": "res_blocks", "num_class_embeds": "num_classes"}  # and what we call them

NULL_CLASS = "null_class"  # true: the last of num_class_embeds is "of no class"; diffusers has no word for it, this is ours


class DiffusersUNet(nn.Module):
    """(x_t, t, y) -> what a Denoiser's network gives: of a `learned` variance its logarithm, where theirs gives itself."""

    def __init__(self, unet: nn.Module, variance: str) -> None:
        super().__init__()
        self.unet, self.takes_log = unet, variance == "learned"

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        output = self.unet(x_t, t, class_labels=y, return_dict=False)[0]
        if self.takes_log:
            predicted, variance = output.float().chunk(2, dim=1)
            output = torch.cat([predicted, variance.log()], dim=1)
        return output


def load_diffusers_folder(path: Path) -> LoadedModel:
    """A pipeline's folder (unet/, scheduler/), or a UNet2DModel's own with scheduler_config.json beside its config.json."""
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise UserError(f"a model of diffusers needs that package, which cannot be imported ({one_line(error)}); "
                        f"run: pip install 'guided-sample[diffusers]'.") from error
    folder, scheduler_file = find_parts(path)
    facts = read_scheduler(scheduler_file)
    schedule = read_schedule(facts, scheduler_file)
    fields = read_unet_fields(folder / CONFIG, UNet2DModel, schedule.T)
    null_class = fields.pop(NULL_CLASS)
    C, variance = fields["in_channels"], read_variance(facts["variance_type"], fields, scheduler_file)

    weights = find_weights(folder)
    try:
        with torch.device("meta"):
            unet: Any = UNet2DModel(**fields)
    except Exception as error:  # whatever a configuration that contradicts itself may meet there
        if out_of_memory(error):
            raise
        raise UserError(f"{folder / CONFIG}: diffusers cannot build it ({one_line(error).split('. ')[0]}).") from error
    give_tensors(unet, weights, with_new_names(read_tensors(weights)))

    size, K = fields["sample_size"], (fields["num_class_embeds"] or 0) - null_class
    denoiser = Denoiser(DiffusersUNet(unet, variance).eval(), schedule, (C, size, size), variance,
                        PREDICTS[facts["prediction_type"]], tuple(map(str, range(K))) or None, null_class)  # it keeps no names
    config = denoiser.config() | {"network": {"type": "UNet2DModel", **fields}}
    return LoadedModel(denoiser, file_digest(weights), json.loads(json.dumps(config)))


def find_parts(path: Path) -> tuple[Path, Path]:
    """The UNet's folder and the scheduler's file. Pipelines on the hub may be flat too."""
    if (path / INDEX).is_file():
        index = read_json(path / INDEX)
        refuse_unless(path / INDEX, "_class_name", index.get("_class_name"), ("DDPMPipeline", "DDIMPipeline"))
        others = [name for name in index if not name.startswith("_") and name not in ("unet", "scheduler")]
        if others:  # a vae or a vqvae, say: the UNet's images are not pixels
            raise UserError(f"{path / INDEX} has more parts than a unet and a scheduler ({', '.join(others)}), so that its "
                            f"images are not its UNet's; give a DDPMPipeline or DDIMPipeline of pixels.")
    folder = unet_folder(path)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder / CONFIG} is missing; give a folder that diffusers' save_pretrained wrote.")
    return folder, find_scheduler(path)


def read_unet_fields(file: Path, UNet2DModel: Any, T: int) -> dict[str, Any]:
    """Every argument of the UNet2DModel, diffusers' defaults filled in, and our NULL_CLASS; sample_size as one number."""
    config = read_json(file)
    refuse_unless(file, "_class_name", config.get("_class_name"), ("UNet2DModel",))
    known = {name: parameter.default for name, parameter in inspect.signature(UNet2DModel.__init__).parameters.items()
             if name != "self"} | {NULL_CLASS: False}
    refuse_unknown(file, config, known)
    fields = {name: config.get(name, default) for name, default in known.items()}
    for name, possible in UNET_CHOICES.items():
        refuse_unless(file, name, fields[name], possible)
    for name, possible in BLOCKS.items():
        lists = fields[name], fields["block_out_channels"]
        if not all(isinstance(entries, list | tuple) for entries in lists) or len(lists[0]) != len(lists[1]):
            raise UserError(f"{file}: \"{name}\" and \"block_out_channels\" must be lists of one entry for each level.")
        for block in fields[name]:
            refuse_unless(file, name, str(block).removeprefix("UNetRes"), possible)  # a prefix that diffusers drops as well
    size = fields["sample_size"]
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    stride = 2 ** (len(fields["block_out_channels"]) - 1)
    if type(size) is not int or not 1 <= size <= LARGEST["image_size"] or size % stride:
        raise UserError(f"{file}: \"sample_size\" must be one number of pixels for both sides, a multiple of {stride} up to "
                        f"{LARGEST['image_size']}, not {json.dumps(size)}.")
    for name, ours in SIZES.items():
        for value in fields[name] if name == "block_out_channels" else [fields[name]]:
            if value is not None or name != "num_class_embeds":
                refuse_unless_whole(file, name, value, LARGEST[ours])
    refuse_other_types(fields, get_type_hints(UNet2DModel.__init__) | {NULL_CLASS: bool}, file)
    if fields[NULL_CLASS] and (fields["num_class_embeds"] or 0) < 2:
        raise UserError(f"{file}: \"{NULL_CLASS}\" is the last of at least two \"num_class_embeds\", and there are "
                        f"{fields['num_class_embeds'] or 'none'}; take it out.")
    if fields["time_embedding_type"] == "learned":
        refuse_unless(file, "num_train_timesteps", fields["num_train_timesteps"], (T,))  # as many as its scheduler has
    return fields | {"sample_size": size}


def read_variance(kind: str | None, fields: dict[str, Any], scheduler_file: Path) -> str:
    """Ours for diffusers' variance_type: fixed_small where none is told, as by a DDIMScheduler not made from another."""
    C, outputs = fields["in_channels"], fields["out_channels"]
    if kind is None and outputs == 2 * C:
        raise UserError(f"{scheduler_file} does not say what the second half of the network's {outputs} output channels is; "
                        f"write \"variance_type\" there: learned_range or learned.")
    variance = VARIANCES[refuse_unless(scheduler_file, "variance_type", kind or "fixed_small", VARIANCES)]
    wanted = 2 * C if variance.startswith("learned") else C
    if outputs != wanted:
        raise UserError(f"{scheduler_file}: images of {C} channels with a {variance} variance need {wanted} output channels, "
                        f"and the network has {outputs}; one of the two files belongs to another model.")
    return variance


def with_new_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Attention's tensors of old files (google/ddpm-*) under today's names."""
    renamed = {}
    for name, tensor in tensors.items():
        new = re.sub(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.", lambda m: f"{m[1]}{OLD_NAMES[m[2]]}.", name)
        renamed[name if new in tensors else new] = tensor  # with both in the file, the old one is left to be refused
    return renamed
