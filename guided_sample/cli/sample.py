"""guided-sample."""
from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from guided_sample.denoiser import Denoiser
from guided_sample.guidance import refuse_mismatch
from guided_sample.loaders import LoadedModel, load_model
from guided_sample.loaders.released import MODELS, table
from guided_sample.folder import OutputFolder
from guided_sample.posterior import reverse_steps
from guided_sample.run import DTYPES, Experiment, Labels, default_out, sample_run
from guided_sample.sanity import misconfigured
from guided_sample.steps import kept_timesteps
from guided_sample.upsample import refuse_misfit
from noisy_clf.space import Space
from noisy_clf.classifier import class_index, nameless
from noisy_clf.execution import exact_float32, pick_device
from noisy_clf.errors import FriendlyCommand, UserError
from noisy_clf.checkpoints.download import cache_folder, source
from noisy_clf.checkpoints.settings import read_settings
from noisy_clf.loaders import load_classifier_whole
from noisy_clf.networks.torso import store_torso_as

LARGEST_PUBLISHED_SCALE = 4


def finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number; try 1 or 0.")
    return value


def list_models(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(table())
        click.echo(f"\nScale and steps: the defaults, for --sampler ddpm | ddim. The cache is {cache_folder()}; for another "
                   f"folder, or another source than {source()}, set GUIDED_SAMPLE_CACHE or GUIDED_SAMPLE_MIRROR.")
        ctx.exit()


@click.command(cls=FriendlyCommand)
@click.option("--model", default="imagenet256-uncond", show_default=True,
              help="The denoiser: a released or bundled model's name, or a path (a run, a diffusers folder, a .pt file).")
@click.option("--model-config", metavar="FILE", help="For a .pt file: what its tensors do not tell, as TOML or JSON (heads, "
              "attention_order, schedule, T, ...), or the released model whose settings it has.")
@click.option("--model-flags", metavar="FLAGS", help="The same, as the flags that guided-diffusion trained it with, quoted.")
@click.option("--classifier", help="The noisy classifier: a name or a path. [default: the one that goes with the model]")
@click.option("--classifier-config", metavar="FILE", help="As --model-config, for the classifier.")
@click.option("--classifier-flags", metavar="FLAGS", help="As --model-flags, for the classifier.")
@click.option("--class", "classes", multiple=True, metavar="CLASS",
              help="A number, a name, a WordNet id, several (3,7 or given again), all in turn, random, or none. "
                   "[default: all, or none where there are none]")
@click.option("--scale", type=float, callback=finite, help="Guidance scale; 0: no guidance. [default: the model's]")
@click.option("--sampler", type=click.Choice(["ddpm", "ddim"]), default="ddpm", show_default=True)
@click.option("--steps", help="Timesteps to keep: 250, or ddim25 (a whole number apart), or 90,60,60,20,20 (so many in "
              "each section). [default: the model's]")
@click.option("--eta", type=click.FloatRange(0, 1), callback=finite, default=0.0, show_default=True,
              help="DDIM's noise: 0 none, 1 as DDPM.")
@click.option("--grad-at", type=click.Choice(["x_t", "mean"]), default="x_t", show_default=True,
              help="Where DDPM's gradient is taken: as ADM's program does it, or as its paper writes it.")
@click.option("--clip/--no-clip", default=True, show_default=True, help="Clip x0_hat to [-1,1].")
@click.option("--num-samples", type=click.IntRange(min=1), help="[default: 16, or two of each of several classes]")
@click.option("--batch-size", type=click.IntRange(min=1),
              help="Images at a time; they come out the same for any. [default: 64 up to 64 pixels, 16 at 128, 4 at 256]")
@click.option("--upsample", is_flag=False, flag_value="", metavar="[MODEL]",
              help="Then enlarge the samples with the model's upsampler, or with this one, into OUT/upsampled.")
@click.option("--upsample-config", metavar="FILE", help="As --model-config, for the upsampler.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the images. [default: samples/ and the settings]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), default="float32", show_default=True)
@click.option("--check/--no-check", default=True, show_default=True,
              help="Try the denoiser on a batch of noised pictures first, and tell if it seems to be mis-configured.")
@click.option("--list-models", is_flag=True, is_eager=True, expose_value=False, callback=list_models,
              help="Show the released models, their settings and results, and exit.")
def guided_sample(model: str, model_config: str | None, model_flags: str | None, classifier: str | None,
                  classifier_config: str | None, classifier_flags: str | None, classes: tuple[str, ...], scale: float | None,
                  sampler: str, steps: str | None, eta: float, grad_at: str, clip: bool, num_samples: int | None,
                  batch_size: int | None, upsample: str | None, upsample_config: str | None, seed: int, out: Path | None,
                  device: str, precision: str, check: bool) -> None:
    """Sample images of a class from a diffusion model, guided by a noisy classifier.

    Released models are downloaded on first use. The same command again finishes what is missing; a larger --num-samples
    adds to it.

    \b
    guided-sample --class 207 --scale 10
    guided-sample --class "golden retriever" --model imagenet64 --upsample
    guided-sample --model digits --class three --class 8 --sampler ddim --steps ddim25
    guided-sample --model runs/my-ddpm --classifier runs/my-classifier --class all --seed 1
    guided-sample --model ema_0.9999_500000.pt --model-flags "--image_size 64 --num_channels 128 --num_heads 4 ..."
    """
    if sampler == "ddpm" and eta:
        raise click.BadParameter("eta belongs to --sampler ddim.", param_hint="--eta")
    if sampler == "ddim" and grad_at == "mean":
        raise click.BadParameter("DDIM shifts eps at x_t; mean belongs to --sampler ddpm.", param_hint="--grad-at")
    where = pick_device(device)
    exact_float32()
    classifier_settings = read_settings(classifier_config, classifier_flags, "classifier")
    loaded = load_model(model, read_settings(model_config, model_flags, "denoiser"))
    denoiser, advice = loaded.denoiser, loaded.advice
    if denoiser.small_size is not None:
        raise UserError(f"{model} is an upsampler, a second stage; give it as --upsample {model}, after a --model of "
                        f"{denoiser.small_size} pixels.")
    classifier = advice.classifier if classifier is None else classifier
    wanted = [text.strip() for text in classes] or ["none" if classifier is None and not denoiser.class_names else "all"]
    guide = None
    if wanted != ["none"] and classifier is not None:
        seen = Space(denoiser.schedule, denoiser.image_size, denoiser.channels)
        guide = load_classifier_whole(classifier, classifier_settings, seen)
        refuse_mismatch(denoiser, guide.classifier)
    elif classifier_settings is not None:
        raise UserError("settings of a classifier are given, and none is used; leave them out, or give --classifier.")
    class_names = denoiser.class_names
    if guide and (class_names is None or nameless(class_names)):
        class_names = guide.classifier.class_names
    labels = parse_labels(wanted, class_names, denoiser, model)
    scale_given = bool(scale)
    scale = 0.0 if wanted == ["none"] else advice.scale_for(sampler) if scale is None else scale
    if guide is None and (scale or scale_given and not classes):
        raise UserError(f"{model} comes with no classifier; give --classifier, or --scale 0 to sample without guidance.")
    if denoiser.class_names and scale > LARGEST_PUBLISHED_SCALE:
        click.echo(f"Note: {model} is class-conditional; such models were published with scales of 0.5 to "
                   f"{LARGEST_PUBLISHED_SCALE}, and {scale:g} is more usual for unconditional ones.", err=True)
    second = None
    if upsample is not None:
        second = load_upsampler(upsample, upsample_config, model, denoiser, class_names if labels.any else None)
        second_timesteps = timesteps_for(second, sampler, steps)
    elif upsample_config is not None:
        raise UserError("--upsample-config is given and --upsample is not; give both, or leave it out.")
    spec = advice.steps_for(sampler, denoiser.schedule.T) if steps is None else steps
    timesteps = timesteps_for(loaded, sampler, steps)
    num_samples = num_samples or (2 * len(labels.classes) if 2 <= len(labels.classes) <= 16 else 16)
    out = out or default_out(model, wanted, sampler, spec, scale, seed)
    options = {
        "model_digest": loaded.digest, "model_config": without_names(loaded.config),
        "classifier_digest": guide.digest if guide else None,
        "classifier_config": without_names(guide.config) if guide else None,
        "class": labels.classes or wanted, "scale": scale, "sampler": sampler, "timesteps": timesteps, "eta": eta,
        "grad_at": grad_at, "clip": clip, "seed": seed, "precision": precision}
    output = OutputFolder(out, denoiser.shape, options,
                          about={"model": model, "classifier": classifier if guide else None})
    prepare(loaded, where, precision, check and bool(output.missing(num_samples)), model)
    if guide:
        guide.classifier.to(where)
        quicken(guide.classifier.network, denoiser.image_size, precision)
    experiment = Experiment(denoiser, guide.classifier if guide else None, labels, sampler,
                            reverse_steps(denoiser.schedule, timesteps), scale, seed, where, eta, grad_at, clip, precision)
    sample_run(experiment, num_samples, batch_size or default_batch(denoiser), output)
    if second:
        denoiser.network.to("cpu")
        output = enlarge(experiment, output, options, second, upsample or str(MODELS[model].upsampler), second_timesteps,
                         num_samples, batch_size, check)
    click.echo(f"{num_samples} images in {output.path}: look at {output.path / 'grid.png'}")


def enlarge(first: Experiment, small: OutputFolder, options: dict[str, Any], second: LoadedModel, name: str,
            timesteps: list[int], num_samples: int, batch_size: int | None, check: bool) -> OutputFolder:
    """The second stage: the first one's finished samples, enlarged without guidance."""
    upsampler = second.denoiser
    output = OutputFolder(small.path / "upsampled", upsampler.shape, options | {
        "timesteps": timesteps, "upsampler_digest": second.digest, "upsampler_config": without_names(second.config)},
        about={"upsampler": name})
    prepare(second, first.device, first.precision, check and bool(output.missing(num_samples)), name)
    experiment = replace(first, denoiser=upsampler, classifier=None, steps=reverse_steps(upsampler.schedule, timesteps),
                         scale=0.0, small=small.images)
    sample_run(experiment, num_samples, batch_size or default_batch(upsampler), output)
    return output


def default_batch(denoiser: Denoiser) -> int:
    """As many pixels as 64 images of 64 pixels have."""
    return max(1, min(64, 64 * 64 ** 2 // denoiser.image_size ** 2))


def timesteps_for(loaded: LoadedModel, sampler: str, steps: str | None) -> list[int]:
    T = loaded.denoiser.schedule.T
    return kept_timesteps(loaded.advice.steps_for(sampler, T) if steps is None else steps, T)


def load_upsampler(name: str, config: str | None, model: str, denoiser: Denoiser,
                   class_names: tuple[str, ...] | None) -> LoadedModel:
    if not name:
        name = (MODELS[model].upsampler if model in MODELS else None) or ""
        if not name:
            raise UserError(f"{model} has no upsampler of its own; name one: --upsample imagenet64-256.")
    loaded = load_model(name, read_settings(config, None, "denoiser"))
    refuse_misfit(loaded.denoiser, denoiser, class_names)
    return loaded


def prepare(loaded: LoadedModel, where: torch.device, precision: str, check: bool, name: str) -> None:
    """Takes the denoiser to the device, tries it there, and brings it to the precision."""
    denoiser = loaded.denoiser
    denoiser.network.to(where)
    if check and where.type == "cpu" and denoiser.image_size >= 128:
        click.echo(f"Trying {name} on two noised pictures (--no-check: without) ...", err=True)  # half a minute at 256 pixels
    if check and (doubt := misconfigured(denoiser, where, loaded.settings_given)):
        click.echo(f"Warning: {name} {doubt}", err=True)
    quicken(denoiser.network, denoiser.image_size, precision)


def quicken(network: torch.nn.Module, image_size: int, precision: str) -> None:
    if image_size >= 128:  # on a CPU 1.1 times as fast at 256 pixels, as fast at 64, and 0.8 times at 16
        network.to(memory_format=torch.channels_last)
    if precision != "float32":
        store_torso_as(DTYPES[precision], network)


def without_names(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "class_names"}


def parse_labels(wanted: list[str], class_names: tuple[str, ...] | None, denoiser: Denoiser, model: str) -> Labels:
    """The labels that --class asks for."""
    if wanted == ["none"]:
        if denoiser.class_names:
            raise UserError(f"{model} is class-conditional and cannot be sampled without a class; try --class random.")
        return Labels()
    if class_names is None:
        raise UserError(f"{model} knows no classes and comes with no classifier; give --classifier, or --class none.")
    if wanted == ["random"]:
        return Labels(K=len(class_names), names=class_names)
    if wanted == ["all"]:
        return Labels(tuple(range(len(class_names))), names=class_names)
    indices = []
    for text in wanted:
        whole = text.lower() in (name.lower() for name in class_names)  # some class names have commas of their own
        for part in [text] if whole else text.split(","):
            if not whole and part.strip() in ("all", "random", "none"):
                raise UserError(f"--class {part.strip()} goes with no other; give it alone, or only numbers and names.")
            indices.append(class_index(part, class_names))
    return Labels(tuple(indices), names=class_names)
