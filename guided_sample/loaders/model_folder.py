"""Denoisers in this toolkit's own format: config.json and model.safetensors."""
from __future__ import annotations

import torch

from guided_sample.denoiser import Denoiser
from guided_sample.unet import UNet, UNetConfig
from noisy_clf.checkpoint import ModelFolder, config_from
from noisy_clf.errors import UserError


def load_model_folder(folder: ModelFolder) -> Denoiser:
    config = folder.config
    fields = dict(config["network"])
    if fields.pop("type", None) != "UNet" or config.get("predicts") != "eps":
        raise UserError(f"{folder.path}: unknown type of denoiser; there is: a UNet that predicts eps.")
    with torch.device("meta"):
        network = UNet(config_from(UNetConfig, fields, folder.path))
    folder.load_weights(network)
    network.eval().requires_grad_(False)
    K, names = network.config.num_classes or 0, folder.class_names
    if len(names) != K:
        raise UserError(f"{folder.path}: the denoiser has {K} classes but {len(names)} class names.")
    return Denoiser(network, folder.schedule, str(config.get("variance")), names or None)
