"""The flags of guided-diffusion's and improved-diffusion's programs, in this toolkit's words. (their script_util.py)"""
from __future__ import annotations

import argparse
import shlex
from typing import Any

from noisy_clf.errors import UserError

SCHEDULE: dict[str, Any] = {"noise_schedule": "linear", "diffusion_steps": 1000, "rescale_timesteps": None}
DENOISER: dict[str, Any] = {
    "image_size": 64, "large_size": 256, "small_size": None, "num_channels": 128, "num_res_blocks": 2, "channel_mult": "",
    "num_heads": 4, "num_heads_upsample": -1, "num_head_channels": -1, "attention_resolutions": "16,8", "class_cond": False,
    "learn_sigma": False, "sigma_small": False, "predict_xstart": False, "use_scale_shift_norm": True,
    "resblock_updown": False, "use_new_attention_order": False}
CLASSIFIER: dict[str, Any] = {
    "classifier_width": 128, "classifier_depth": 2, "classifier_attention_resolutions": "32,16,8",
    "classifier_use_scale_shift_norm": True, "classifier_resblock_updown": True, "classifier_pool": "attention"}
ONLY_GUIDED_DIFFUSION_HAS = ("num_head_channels", "resblock_updown", "channel_mult", "use_new_attention_order")
OF_NO_MATTER_TO_A_TRAINED_MODEL = """
    dropout use_fp16 classifier_use_fp16 use_checkpoint use_kl rescale_learned_sigmas timestep_respacing batch_size
    microbatch lr weight_decay lr_anneal_steps anneal_lr ema_rate log_interval save_interval eval_interval resume_checkpoint
    fp16_scale_growth schedule_sampler data_dir val_data_dir noised iterations num_samples clip_denoised use_ddim model_path
    classifier_path classifier_scale base_samples""".split()
CHANNEL_MULT: dict[int, list[Any]] = {
    32: [1, 2, 2, 2], 64: [1, 2, 3, 4], 128: [1, 1, 2, 3, 4], 256: [1, 1, 2, 2, 4, 4], 512: [0.5, 1, 1, 2, 2, 4, 4]}


def settings_from_flags(flags: str, kind: str) -> dict[str, Any]:
    """What a "denoiser" or "classifier" is that was trained with `flags`, "--image_size 64 --num_channels 128 ...".

    A flag that is not there has the default that both programs give it. `rescaled_t`, whose default differs between
    the two, stays open where nothing tells which program it was.
    """
    given = parsed(flags)
    flag = SCHEDULE | DENOISER | CLASSIFIER | ({"small_size": 64} if "large_size" in given else {}) | given
    settings = classifier_settings(flag) if kind == "classifier" else denoiser_settings(flag)
    if kind == "classifier":
        rescaled: bool | None = False  # their training shows t as it is to classifiers, whatever the flag says
    elif flag["rescale_timesteps"] is None and any(name in given for name in ONLY_GUIDED_DIFFUSION_HAS):
        rescaled = False
    else:
        rescaled = flag["rescale_timesteps"]
    settings |= {"schedule": flag["noise_schedule"], "T": flag["diffusion_steps"]}
    return settings if rescaled is None else settings | {"rescaled_t": rescaled}


def parsed(flags: str) -> dict[str, Any]:
    """The flags that are given; unknown ones are refused by name."""
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise UserError(f"the flags {flags!r} cannot be read ({' '.join(message.split())}); paste those of "
                            f"guided-diffusion or improved-diffusion, such as \"--image_size 64 --num_channels 128 "
                            f"--noise_schedule cosine\".")

    parser = Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name, default in (SCHEDULE | DENOISER | CLASSIFIER).items():
        kind = truth if isinstance(default, bool) or name == "rescale_timesteps" else str if isinstance(default, str) else int
        parser.add_argument(f"--{name}", type=kind)
    for name in OF_NO_MATTER_TO_A_TRAINED_MODEL:
        parser.add_argument(f"--{name}")
    try:
        return vars(parser.parse_args(shlex.split(flags.replace("\\\n", " "))))
    except ValueError as error:  # a quotation mark that is never closed
        return parser.error(str(error))


def denoiser_settings(flag: dict[str, Any]) -> dict[str, Any]:
    if flag["num_heads_upsample"] not in (-1, flag["num_heads"]):
        raise UserError(f"--num_heads_upsample {flag['num_heads_upsample']} differs from --num_heads {flag['num_heads']}; "
                        f"such models are not supported.")
    upsampler = flag["small_size"] is not None
    size = flag["large_size"] if upsampler else flag["image_size"]
    by_size = CHANNEL_MULT | {512: CHANNEL_MULT[256]} if upsampler else CHANNEL_MULT
    head_channels = flag["num_head_channels"]
    return {
        "image_size": size, "channels": flag["num_channels"], "res_blocks": flag["num_res_blocks"],
        **multipliers(numbers(flag["channel_mult"]) if flag["channel_mult"] else by_size.get(size)),
        "attention_at": numbers(flag["attention_resolutions"]), "scale_shift": flag["use_scale_shift_norm"],
        "resample": "resblock" if flag["resblock_updown"] else "conv", "class_conditional": flag["class_cond"],
        "attention_order": "new" if flag["use_new_attention_order"] else "legacy",
        **({"heads": flag["num_heads"]} if head_channels == -1 else {"head_channels": head_channels}),
        "predicts": "x_0" if flag["predict_xstart"] else "eps",
        "variance": "learned_range" if flag["learn_sigma"] else "fixed_small" if flag["sigma_small"] else "fixed_large",
        **({"small_size": flag["small_size"]} if upsampler else {})}


def classifier_settings(flag: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_size": flag["image_size"], "channels": flag["classifier_width"], "res_blocks": flag["classifier_depth"],
        **multipliers(CHANNEL_MULT.get(flag["image_size"])),
        "attention_at": numbers(flag["classifier_attention_resolutions"]),
        "scale_shift": flag["classifier_use_scale_shift_norm"],
        "resample": "resblock" if flag["classifier_resblock_updown"] else "conv", "pool": flag["classifier_pool"],
        "attention_order": "legacy", "head_channels": 64}  # of every classifier that their program makes


def multipliers(channel_mult: list[Any] | None) -> dict[str, Any]:
    return {} if channel_mult is None else {"channel_mult": channel_mult}


def truth(text: str) -> bool:
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def numbers(text: str) -> list[int | float]:
    try:
        return [int(part) if part.strip().isdecimal() else float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r}, among the flags, is not a list of numbers; write them with commas between, such as "
                        f"32,16,8.") from None
