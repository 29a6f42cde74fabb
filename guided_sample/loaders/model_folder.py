"""Denoisers in this toolkit's own format: config.json and model.safetensors."""
from __future__ import annotations

import torch

from guided_sample.advice import advice_of
from guided_sample.denoiser import unet_denoiser
from guided_sample.loaders.loaded import LoadedModel
from guided_sample.unet import UNet, UNetConfig
from noisy_clf.checkpoints.model_folder import ModelFolder, config_from
from noisy_clf.errors import UserError


def load_model_folder(folder: ModelFolder) -> LoadedModel:
    config = folder.config
    advice = advice_of(folder)
    fields = dict(config["network"])
    if fields.pop("type", None) != "UNet":
        raise UserError(f"{folder.path}: unknown type of denoiser; there is: UNet.")
    with torch.device("meta"):
        network = UNet(config_from(UNetConfig, fields, folder.path))
    folder.load_weights(network)
    network.eval().requires_grad_(False)
    K, names, null_class = network.config.num_classes or 0, folder.class_names, config["null_class"]
    if len(names) + null_class != K:
        raise UserError(f"{folder.path}: the denoiser has {K} classes{', the null class among them,' * null_class} but "
                        f"{len(names)} class names.")
    denoiser = unet_denoiser(network, folder.schedule, str(config.get("variance")), predicts=config["predicts"],
                             class_names=names or None, null_class=null_class, rescaled_t=config["rescaled_t"])
    return LoadedModel(denoiser, folder.digest, denoiser.config(), advice)
