"""One guided DDPM step by this checkout beside one by the release 3d14213, in one process, in turn, with the same weights.

    git worktree add ../3d14213 3d14213 && python scripts/beside_release.py --before ../3d14213

The bundled digits, batch 16; ADM's architecture at 64 pixels, width 64, random weights, batch 8, in float32 and bfloat16.
"""
from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

PACKAGES = ("noisy_clf", "guided_sample")
SHAPE: dict[str, Any] = {"image_size": 64, "in_channels": 3, "channels": 64, "channel_mult": (1, 2, 3, 4),
                         "attention_at": (32, 16, 8), "head_channels": 64}


def chain_of(checkout: Path, size: int, dtype: torch.dtype, count: int) -> Callable[[], torch.Tensor]:
    """A chain of so many steps, by the packages of that checkout."""
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]
    sys.path.insert(0, str(checkout))
    try:
        before = not (checkout / "guided_sample" / "model.py").exists()
        torch.manual_seed(0)
        denoiser, classifier = models(size, before)
        if before:
            from noisy_clf.torso import store_torso_as  # type: ignore[import-not-found]
        else:
            from noisy_clf.networks.torso import store_torso_as
            if size >= 64:
                denoiser.network.to(memory_format=torch.channels_last)
        if dtype != torch.float32:
            store_torso_as(dtype, denoiser.network)
            store_torso_as(dtype, classifier.network)
        B = 16 if size == 16 else 8
        y, noise = torch.full((B,), 3), [torch.randn(B, *denoiser.shape) for _ in range(count + 1)]
        return (chain_before if before else chain_now)(denoiser, classifier, y, noise)
    finally:
        sys.path.remove(str(checkout))


def models(size: int, before: bool) -> tuple[Any, Any]:
    from guided_sample.denoiser import unet_denoiser
    from guided_sample.loaders import load_denoiser
    from guided_sample.unet import UNet, UNetConfig
    from noisy_clf.classifier import NoisyClassifier
    from noisy_clf.loaders import load_classifier
    from noisy_clf.schedule import NoiseSchedule
    if size == 16:
        return load_denoiser("digits"), load_classifier("digits")
    if before:
        from noisy_clf.encoder_unet import EncoderUNet, EncoderUNetConfig  # type: ignore[import-not-found]
    else:
        from noisy_clf.networks.encoder_unet import EncoderUNet, EncoderUNetConfig
    networks = UNet(UNetConfig(**SHAPE, out_channels=6)), EncoderUNet(EncoderUNetConfig(**SHAPE, num_classes=10))
    for network in networks:
        network.eval().requires_grad_(False)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    schedule = NoiseSchedule.named("cosine")
    return (unet_denoiser(networks[0], schedule, "learned_range"),
            NoisyClassifier(networks[1], schedule, tuple("0123456789")))


def chain_before(denoiser: Any, classifier: Any, y: torch.Tensor, noise: list[torch.Tensor]) -> Callable[[], torch.Tensor]:
    from guided_sample.guidance import ClassifierGuidance  # type: ignore[import-not-found]
    from guided_sample.posterior import reverse_steps  # type: ignore[attr-defined]
    from guided_sample.samplers import ddpm  # type: ignore[attr-defined]
    from guided_sample.timesteps import kept_timesteps  # type: ignore[import-not-found]
    steps = reverse_steps(denoiser.schedule, kept_timesteps(str(len(noise) - 1), 1000))
    guide = ClassifierGuidance(classifier, y, 5.0)

    def chain() -> torch.Tensor:
        draws = iter(noise)
        *_, moment = ddpm(denoiser, steps, guide, lambda: next(draws))
        return moment.x_t
    return chain


def chain_now(denoiser: Any, classifier: Any, y: torch.Tensor, noise: list[torch.Tensor]) -> Callable[[], torch.Tensor]:
    from guided_sample.finite import Watch
    from guided_sample.guides.classifier import log_prob_of
    from guided_sample.model import Guide, clip, labelled, steered, thresholded
    from guided_sample.samplers.ddpm import ddpm
    from guided_sample.steps import steps
    model = steered(thresholded(labelled(denoiser, None), clip), Guide(log_prob_of(classifier, y), 5.0))
    chain_steps, watched = steps(str(len(noise) - 1), denoiser.schedule), Watch(list(range(len(y))), "it").over(model)

    def chain() -> torch.Tensor:
        draws = iter(noise)
        *_, moment = ddpm(watched, next(draws), chain_steps, lambda: next(draws))
        return moment.x_t
    return chain


@click.command()
@click.option("--before", type=click.Path(exists=True, path_type=Path), required=True, help="A checkout of 3d14213.")
@click.option("--repeats", default=8, show_default=True)
def main(before: Path, repeats: int) -> None:
    checkouts = {"before": before.resolve(), "now": Path(__file__).resolve().parents[1]}
    for what, size, dtype, count in (("digits", 16, torch.float32, 50), ("64 px, float32", 64, torch.float32, 3),
                                     ("64 px, bfloat16", 64, torch.bfloat16, 3)):
        chains = {who: chain_of(checkout, size, dtype, count) for who, checkout in checkouts.items()}
        seconds: dict[str, list[float]] = {who: [] for who in chains}
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            ends = {who: chain() for who, chain in chains.items()}  # warms up
            for i in range(repeats):
                for who in list(chains)[::1 if i % 2 else -1]:
                    started = time.perf_counter()
                    chains[who]()
                    seconds[who].append((time.perf_counter() - started) / count)
        ratios = [a / b for a, b in zip(*seconds.values())]
        print(f"{what}: before {min(seconds['before']):.4f}, now {min(seconds['now']):.4f} s a step; before / now "
              f"{statistics.median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f}); "
              f"largest difference {(ends['before'] - ends['now']).abs().max().item():.1e}", flush=True)


if __name__ == "__main__":
    main()
