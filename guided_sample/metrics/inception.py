"""The Inception network of 2015, by whose features FID, sFID and the Inception Score are defined: torchvision's blocks, pooled
as TensorFlow's graph pools them."""
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import inception as blocks

from guided_sample.metrics.extractor import Extractor
from guided_sample.metrics.resize import in_colour, tensorflow_bilinear
from noisy_clf.checkpoints.cache import cache_folder, cached, source
from noisy_clf.checkpoints.tensors import give_tensors
from noisy_clf.checkpoints.torch_file import read_tensors
from noisy_clf.download import digest_of, download
from noisy_clf.errors import UserError, disk_trouble
from noisy_clf.execution import exact_float32

FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
DIGEST = "6726825d"  # how its SHA-256 begins
SIZE = 299  # pixels a side
SPATIAL = 7  # channels of Mixed_6d's 1x1 branch, the first of its output, that sFID compares


def mean_pool(x: Tensor) -> Tensor:
    """Of 3x3 pixels; at the border, of those that there are."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class InceptionA(blocks.InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)),
                self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))), self.branch_pool(mean_pool(x))]


class InceptionC(blocks.InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return [self.branch1x1(x), self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
                self.branch7x7dbl_5(self.branch7x7dbl_4(double)), self.branch_pool(mean_pool(x))]


class InceptionE(blocks.InceptionE):
    def _forward(self, x: Tensor) -> list[Tensor]:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single),
                self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(self.pool(x))]

    def pool(self, x: Tensor) -> Tensor:
        return mean_pool(x)


class LastInceptionE(InceptionE):
    def pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=1, padding=1)


class Inception(blocks.Inception3):
    """float32 [B,3,299,299] in [-1,1] -> pool [B,2048], and spatial [B,2023]: 17x17 pixels of 7 channels, in NHWC order."""

    def __init__(self) -> None:
        super().__init__(num_classes=1008, aux_logits=False, init_weights=False, inception_blocks=[
            blocks.BasicConv2d, InceptionA, blocks.InceptionB, InceptionC, blocks.InceptionD, InceptionE, blocks.InceptionAux])
        self.Mixed_7c = LastInceptionE(2048)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        for name, block in self.named_children():  # they stand in the order in which they run
            if name == "fc":
                break
            x = block(x)
            if name == "Mixed_6d":
                spatial = x[:, :SPATIAL].permute(0, 2, 3, 1).flatten(1)
        return x.flatten(1), spatial

    def quicken(self) -> None:
        """Each convolution takes up the normalisation behind it; channels-last, which is faster everywhere."""
        for module in list(self.modules()):
            if isinstance(module, blocks.BasicConv2d):
                module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()  # type: ignore[assignment]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def inception_extractor(device: torch.device, weights: Path | None = None) -> Extractor:
    """Pool and spatial features, with the published weights: of a file, or else of the cache, downloaded where need be."""
    path = weights or obtain_weights()
    digest = refuse_other_weights(path)
    network = load(path)
    softmax = network.fc.weight.T.numpy().copy()
    network.quicken()
    network.to(device)
    exact_float32()

    def extract(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            pixels = tensorflow_bilinear(torch.tensor(in_colour(images), device=device), SIZE)
            pool, spatial = network(pixels.sub_(128).div_(128).permute(0, 3, 1, 2))  # in channels-last order
        return {"pool": pool.cpu().numpy(), "spatial": spatial.cpu().numpy()}

    return Extractor("inception", digest, ("pool", "spatial"), extract, softmax)


def load(path: Path) -> Inception:
    with torch.device("meta"):
        network = Inception()
    counts = {name: torch.tensor(0) for name in network.state_dict() if name.endswith("num_batches_tracked")}
    give_tensors(network, path, counts | read_tensors(path))  # counts, which a file may lack, matter in training alone
    return network


def obtain_weights() -> Path:
    """The published weights' file in the cache, downloaded where it is not there: from the mirror, if one is set, or GitHub."""
    if found := cached(FILE):
        return found
    path = cache_folder() / FILE
    urls = [f"{source()}/{FILE}"] * bool(os.environ.get("GUIDED_SAMPLE_MIRROR")) + [URL]
    try:
        download(urls, path, hint=", or give it by --weights FILE")
    except OSError as error:
        raise UserError(f"{disk_trouble(error)[:-1]}; what is downloaded stays, and GUIDED_SAMPLE_CACHE may name another "
                        f"folder.") from error
    return path


def refuse_other_weights(path: Path) -> str:
    """The file's SHA-256; UserError where it is not the published weights'."""
    try:
        found = digest_of(path, "sha256").removeprefix("sha256:")
    except OSError as error:
        raise UserError(disk_trouble(error, path)) from error
    if not found.startswith(DIGEST):
        raise UserError(f"{path} has the SHA-256 {found[:12]}..., but FID is defined by {FILE}, whose begins with {DIGEST}; "
                        f"get that file from {URL}.")
    return found
