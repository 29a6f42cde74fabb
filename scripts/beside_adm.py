"""One guided step of imagenet256-uncond, ours beside openai/guided-diffusion's in one process, with the same random weights.

    git clone https://github.com/openai/guided-diffusion && python scripts/beside_adm.py --peer guided-diffusion

Prints the seconds and the memory that loading takes, how far the two programs' steps agree, and the ratio of their times,
in float32 and bfloat16. Needs 12 GB of memory and 3 GB of disk, no download.
"""
from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from guided_sample.guides.classifier import log_prob_of
from guided_sample.loaders.guided_diffusion import denoiser_from_file
from guided_sample.model import Guide, clip, labelled, steered, thresholded
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from guided_sample.unet import UNet, UNetConfig
from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
from noisy_clf.loaders.guided_diffusion import classifier_from_file
from noisy_clf.checkpoints.released import CLASSIFIERS, DENOISERS
from noisy_clf.networks.torso import store_torso_as

FILES = DENOISERS["imagenet256-uncond"].file, CLASSIFIERS["imagenet256"].file
SHARED: dict[str, Any] = {"image_size": 256, "in_channels": 3, "channel_mult": (1, 1, 2, 2, 4, 4), "attention_at": (32, 16, 8),
                          "head_channels": 64}
STEP = 124  # of 250, at t = 497


def write_random(folder: Path) -> None:
    """The two files with the released names and shapes, each tensor drawn from its name alone."""
    with torch.device("meta"):
        networks = (UNet(UNetConfig(**SHARED, channels=256, out_channels=6)),
                    EncoderUNet(EncoderUNetConfig(**SHARED, channels=128, num_classes=1000)))
    for file, network in zip(FILES, networks):
        torch.save({name: drawn(name, tensor.shape) for name, tensor in network.state_dict().items()}, folder / file)


def drawn(name: str, shape: torch.Size) -> Tensor:
    r = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) > 1:
        return r / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * r if name.endswith("weight") else 0.1 * r


def measure_loading(folder: Path) -> str:
    """In a process of its own: seconds, and growth of the resident memory's peak over the size of the files."""
    before, started = peak_memory(), time.perf_counter()
    denoiser, classifier = denoiser_from_file(folder / FILES[0], None), classifier_from_file(folder / FILES[1], None)
    loaded, seconds = peak_memory(), time.perf_counter() - started
    for parameter in [*denoiser.network.parameters(), *classifier.parameters()]:
        parameter.sum()  # reads every page
    size = sum((folder / file).stat().st_size for file in FILES)
    return (f"loading both, {size / 1e9:.2f} GB: {seconds:.2f} s; growth of the memory's peak: {(loaded - before) / size:.2f} "
            f"times the weights, {(peak_memory() - before) / size:.2f} times once every weight was read")


def peak_memory() -> int:
    """Of this process, in bytes: VmHWM. (Linux; getrusage's maximum is inherited from the parent process)"""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def theirs(folder: Path, dtype: torch.dtype) -> Any:
    """x_t, y, noise -> their next x and their x0_hat; the classifier in float32, as they run it."""
    from guided_diffusion import gaussian_diffusion, script_util

    model, diffusion = script_util.create_model_and_diffusion(**script_util.model_and_diffusion_defaults() | dict(
        image_size=256, num_channels=256, num_res_blocks=2, attention_resolutions="32,16,8", num_head_channels=64,
        learn_sigma=True, resblock_updown=True, timestep_respacing="250"))
    classifier = script_util.create_classifier(**script_util.classifier_defaults() | {"image_size": 256})
    for network, file in zip((model, classifier), FILES):
        network.load_state_dict(torch.load(folder / file, map_location="cpu", weights_only=True))
        network.eval()
    if dtype != torch.float32:  # their convert_to_fp16, with the dtype that CPUs are fast at
        model.dtype = dtype
        for blocks in (model.input_blocks, model.middle_block, model.output_blocks):
            for module in blocks.modules():
                if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d):
                    module.to(dtype)

    def cond_fn(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            x_in = x.detach().requires_grad_(True)
            log_probs = torch.nn.functional.log_softmax(classifier(x_in, t), dim=-1)
            return torch.autograd.grad(log_probs[range(len(y)), y.view(-1)].sum(), x_in)[0] * 10.0

    def step(x_t: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        gaussian_diffusion.th.randn_like, kept = (lambda _: noise), gaussian_diffusion.th.randn_like
        try:
            with torch.no_grad():
                out = diffusion.p_sample(lambda x, t, y: model(x, t), x_t, torch.tensor([STEP] * len(x_t)),
                                         cond_fn=cond_fn, model_kwargs={"y": y})
        finally:
            gaussian_diffusion.th.randn_like = kept
        return out["sample"], out["pred_xstart"]
    return step


def ours(folder: Path, dtype: torch.dtype) -> Any:
    denoiser, classifier = denoiser_from_file(folder / FILES[0], None), classifier_from_file(folder / FILES[1], None)
    for network in (denoiser.network, classifier.network):
        network.to(memory_format=torch.channels_last)
        store_torso_as(dtype, network)
    one = steps("250", denoiser.schedule)[249 - STEP]

    def step(x_t: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        model = steered(thresholded(labelled(denoiser, None), clip), Guide(log_prob_of(classifier, y), 10.0))
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            moment = next(ddpm(model, x_t, [one], lambda: noise))
        return moment.x_t, moment.x0_hat
    return step


@click.command()
@click.option("--peer", type=click.Path(exists=True, file_okay=False), required=True, help="A checkout of guided-diffusion.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--batch", default=1, show_default=True)
@click.option("--only-load", type=click.Path(path_type=Path), hidden=True)
def main(peer: str, repeats: int, batch: int, only_load: Path | None) -> None:
    if only_load:
        print(measure_loading(only_load))
        return
    sys.path.insert(0, peer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_random(folder)
        subprocess.run([sys.executable, __file__, "--peer", peer, "--only-load", name], check=True)
        generator = torch.Generator().manual_seed(0)
        x_t, noise = torch.randn(2, batch, 3, 256, 256, generator=generator)
        y = torch.arange(batch) * 7 + 207
        exact = None
        for dtype in (torch.float32, torch.bfloat16):
            steps = {"theirs": theirs(folder, dtype), "ours": ours(folder, dtype)}
            seconds: dict[str, list[float]] = {who: [] for who in steps}
            results = {}
            for _ in range(repeats + 1):  # the first one warms up
                for who, step in steps.items():
                    started = time.perf_counter()
                    results[who] = step(x_t, y, noise)
                    seconds[who].append(time.perf_counter() - started)
            exact = exact or results["theirs"]
            best = {who: min(times[1:]) for who, times in seconds.items()}
            ratios = ", ".join(f"{a / b:.2f}" for a, b in zip(seconds["theirs"][1:], seconds["ours"][1:]))
            print(f"{str(dtype)[6:]}: theirs {best['theirs']:.2f} s, ours {best['ours']:.2f} s a step; theirs / ours {ratios}")
            for who, result in results.items():
                errors = ", ".join(f"{what} {relative_error(a, b):.1e}" for what, a, b in zip(("x", "x0_hat"), result, exact))
                print(f"  {who} against theirs in float32, largest relative error: {errors}")


def relative_error(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


if __name__ == "__main__":
    main()
