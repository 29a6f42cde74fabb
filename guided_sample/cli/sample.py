"""guided-sample: flags, or a file, become a Request; a Request becomes a Plan; the Plan is drawn into a folder."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from guided_sample.advice import FAST
from guided_sample.cards import card_of, not_downloaded
from guided_sample.guides import SIMILAR, GuideSpec
from guided_sample.labels import plain, word_of
from guided_sample.manifest import MANIFEST
from guided_sample.released import ADM, table
from guided_sample.request import OF_CLASSIFIER, Request, key_of, read_request, with_flags
from guided_sample.resolve import doubts, resolve_names
from guided_sample.samplers import KNOBS
from guided_sample.shares import Share, share_of
from guided_sample.steering import numbers_in
from noisy_clf.checkpoints.cache import cache_folder, source
from noisy_clf.errors import FriendlyCommand, UserError
from noisy_clf.imports import imported_for_good

LARGEST_PUBLISHED_SCALE = 4


def list_models(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(table())
        click.echo(f"\nScale and steps: the defaults, for --sampler {' | '.join(ADM)}; --fast takes 15. The cache "
                   f"is {cache_folder()}; for another folder, or another source than {source()}, set GUIDED_SAMPLE_CACHE or "
                   f"GUIDED_SAMPLE_MIRROR.")
        ctx.exit()


def option_of(key: str, kind: click.ParamType, help: str, default: Any, **more: Any) -> Any:
    if more.get("multiple"):
        kind = click.STRING
    if default not in (None, (), False):
        help += f" [default: {default}]"
    return click.option(f"--{key.replace('_', '-')}", key, type=kind, default=None, help=help, **more)


def asked_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for each field of a Request, and after the sampler's for each of its knobs. One that is not given is None."""
    made = []
    for field in fields(Request):
        if field.name == "knobs":
            made += [option_of(name, knob.kind, knob.help, knob.default) for name, knob in KNOBS.items()]
        elif field.metadata:
            made.append(option_of(key_of(field.name), field.metadata["kind"], field.metadata["help"], field.default,
                                  **field.metadata["flag"]))
    for option in reversed(made):
        command = option(command)
    return command


def asked_share(ctx: click.Context, param: click.Parameter, asked: str | None) -> Share:
    try:
        return share_of(asked)
    except UserError as error:
        raise click.BadParameter(str(error)) from error


@click.command(cls=FriendlyCommand)
@asked_options
@click.option("--fast", is_flag=True, help="The best known 15 steps for the model: sampler, steps and threshold, each of which "
              "a flag beside it may change; without it, the published ones.")
@click.option("--clip/--no-clip", default=None, hidden=True)  # --threshold's former name
@click.option("--request", type=click.Path(path_type=Path), metavar="FILE", help="All of the above from a TOML or JSON file, "
              "keys as the flags are named, or a run's manifest.json, to draw its images again. Flags beside it come first.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, in which time and space on this device, and exit.")
@click.option("--batch-size", type=click.IntRange(min=1),
              help="Images at a time. For one size they are the same to the bit, whoever draws them and whatever was killed; "
                   "on a CPU for all multiples of 128 at 16 pixels, 8 at 64, 1 at 256, more of which it never draws at once; "
                   "for another, float32 differs by rounding, bf16 by up to two grey levels. [default: 64 up to 64 pixels, "
                   "16 at 128, 4 at 256; what does not fit into memory is halved, and told]")
@click.option("--compile", "compiles", is_flag=True, help="The networks through torch.compile, on a GPU with CUDA graphs: "
              "slower to start, then faster; it says from how many images on. Images differ by rounding.")
@click.option("--shard", "share", metavar="I/N", callback=asked_share,
              help="Draw share I of N, counted from 1; other processes draw the others, into the same folder. slurm: as the "
                   "tasks of an array. [default: as torchrun or srun started several processes, else all]")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the images. [default: samples/ and the settings]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--check/--no-check", default=True, show_default=True,
              help="Try the denoiser on a batch of noised pictures first, and tell if it seems to be mis-configured.")
@click.option("--list-models", is_flag=True, is_eager=True, expose_value=False, callback=list_models,
              help="Show the released models, their settings and results, and exit.")
def guided_sample(fast: bool, clip: bool | None, request: Path | None, dry_run: bool, batch_size: int | None, compiles: bool,
                  share: Share, out: Path | None, device: str, check: bool, **flags: Any) -> None:
    """Sample images of a class from a diffusion model, guided by a noisy classifier.

    Released models are downloaded on first use. The same command again finishes what is missing, on any number of
    processes; a larger --num-samples adds to it.

    \b
    guided-sample --class 207 --scale 10
    guided-sample --class "golden retriever" --model imagenet64 --upsample
    guided-sample --model digits --class three --class 8 --sampler ddim --steps ddim25
    guided-sample --class 207 --fast
    guided-sample --model digits --like three.png
    guided-sample --model digits --text "an eight" --text-scale 60
    guided-sample --model digits --class none --guide my_guides.py:darker,scale=20,interval=0.2:3
    guided-sample --request samples/my-run/manifest.json --seed 1
    guided-sample --model ema_0.9999_500000.pt --model-flags "--image_size 64 --num_channels 128 --num_heads 4 ..."
    torchrun --nproc-per-node 8 -m guided_sample.cli guided-sample --class all --num-samples 50000
    """
    given = {key: value for key, value in flags.items() if value is not None and value != ()}
    if clip is not None and given.setdefault("threshold", "static" if clip else "none") != ("static" if clip else "none"):
        raise click.UsageError("--clip and --threshold say two things; leave out one of them.")
    values, batches = read_request(request) if request else ({}, None)
    if fast:
        values = with_flags(values, FAST | card_of({**values, **given}.get("model", Request.model), "denoiser").advice.fast)
    asked = Request.of(with_flags(values, given))
    named = resolve_names(asked)
    if dry_run and (lacking := not_downloaded(named)):
        tell(doubts(named, card_of(named.model, "denoiser")))
        click.echo(f"{named.to_toml()}\n# {', '.join(lacking)} would be downloaded first; then --dry-run can tell the time.")
        return

    with imported_for_good():  # torch: from here on something is loaded
        from guided_sample.plan import Plan
        from guided_sample.rehearsal import rehearsal
        from guided_sample.run import closing, run

    plan = Plan.of(asked, device, compile=compiles and not dry_run)
    if share.talks:
        tell(plan.notes)
    largest = max(numbers_in(plan.request.scale), default=0)
    if share.talks and plan.denoiser.class_names and largest > LARGEST_PUBLISHED_SCALE:
        click.echo(f"Note: {asked.model} is class-conditional; such models were published with scales of 0.5 to "
                   f"{LARGEST_PUBLISHED_SCALE}, and {largest:g} is more usual for unconditional ones.", err=True)
    out = out or default_out(asked, plan.request, again=request is not None and request.name == MANIFEST)
    if dry_run:
        if share.talks:  # of all shares
            click.echo(rehearsal(plan, out, batch_size or (None if plan.second else batches)) + ", not compiled" * compiles)
        return
    folder = run(plan, out, batch_size or (None if plan.second else batches), lambda text: click.echo(text, err=True), check,
                 share)
    assert plan.request.num_samples is not None
    if share.talks or not folder.missing(plan.request.num_samples):
        click.echo(closing(folder, plan.request.num_samples))


def tell(notes: tuple[str, ...]) -> None:
    for note in notes:
        click.echo(note, err=True)


def default_out(asked: Request, full: Request, again: bool) -> Path:
    """samples/MODEL-class-CLASS-scale-S-SAMPLER-STEPS-seed-N, after what is changed most often; a manifest's images, drawn
    again, go beside."""
    classes = "+".join(map(str, plain(asked.classes or (full.classes if word_of(full.classes) == "none" else ("all",)))))
    steps = full.steps if isinstance(full.steps, str) else f"{len(full.steps or ())}steps"
    usual = (None, card_of(asked.model, "denoiser").advice.classifier)
    by = [] if asked.classifier in usual else ["by", Path(str(asked.classifier)).name]
    by += [] if asked.encoder is None else ["by", Path(asked.encoder).name]
    guides = ["-".join([spec.kind, *(one if spec.kind == "text" else Path(one).stem for one in spec.wanted)])
              for spec in full.similar]
    for spec in map(GuideSpec.parse, full.guide):
        guides.append("-".join([*(Path(one).stem for one in spec.wanted if spec.kind in ("like", "style")), spec.told]))
    words = [Path(full.model).name, "class", classes, *by, *guides, *steering(full), full.sampler, steps, "seed",
             str(full.seed), *["again"] * again]
    return Path("samples") / "-".join("".join(c if c.isalnum() or c in ".+=" else "_" for c in word[:50]) for word in words)


def steering(full: Request) -> Iterator[str]:
    """How it is steered, where that is not as usual; the scale always."""
    scales = [f"{kind}_scale" for kind in SIMILAR if getattr(full, kind)]
    for name in ("scale", "cfg", "weak", "weak_scale", *scales, "like_layers", *OF_CLASSIFIER, "cfg_plus_plus", "contrast",
                 "recur", "particles", "threshold", "fractional_t"):
        value = getattr(full, name)
        if value != Request.__dataclass_fields__[name].default:
            amounts = numbers_in(value) if isinstance(value, float | tuple | Mapping) else []
            told = Path(value).name if name == "weak" else str(value)
            yield from (name, "+".join(f"{one:g}" for one in amounts) or told)


if __name__ == "__main__":
    guided_sample()
