"""The flags of guided-diffusion's and improved-diffusion's programs as settings. (their script_util.py)"""
from __future__ import annotations

import argparse
import shlex
from typing import Any

from noisy_clf.errors import UserError

BOTH: dict[str, tuple[str, Any]] = {  # flag -> (setting, default, whose type is the flag's)
    "image_size": ("image_size", 64), "noise_schedule": ("schedule", "linear"), "diffusion_steps": ("T", 1000)}
FLAGS: dict[str, dict[str, tuple[str, Any]]] = {
    "denoiser": BOTH | {
        "num_channels": ("channels", 128), "num_res_blocks": ("res_blocks", 2), "channel_mult": ("channel_mult", []),
        "attention_resolutions": ("attention_at", [16, 8]), "use_scale_shift_norm": ("scale_shift", True),
        "resblock_updown": ("resample", False), "use_new_attention_order": ("attention_order", False),
        "num_heads": ("heads", 4), "num_head_channels": ("head_channels", -1), "class_cond": ("class_conditional", False),
        "predict_xstart": ("predicts", False)},
    "classifier": BOTH | {
        "classifier_width": ("channels", 128), "classifier_depth": ("res_blocks", 2),
        "classifier_attention_resolutions": ("attention_at", [32, 16, 8]),
        "classifier_use_scale_shift_norm": ("scale_shift", True), "classifier_resblock_updown": ("resample", True),
        "classifier_pool": ("pool", "attention")}}
WORDS = {"resample": ("conv", "resblock"), "attention_order": ("legacy", "new"), "predicts": ("eps", "x_0")}  # (False, True)
COMBINED = {"learn_sigma": False, "sigma_small": False, "num_heads_upsample": -1, "large_size": 256, "small_size": 64,
            "rescale_timesteps": False}
OF_NO_MATTER_TO_A_TRAINED_MODEL = """
    dropout use_fp16 classifier_use_fp16 use_checkpoint use_kl rescale_learned_sigmas timestep_respacing batch_size
    microbatch lr weight_decay lr_anneal_steps anneal_lr ema_rate log_interval save_interval eval_interval resume_checkpoint
    fp16_scale_growth schedule_sampler data_dir val_data_dir noised iterations num_samples clip_denoised use_ddim model_path
    classifier_path classifier_scale base_samples""".split()
ONLY_GUIDED_DIFFUSION_HAS = {"num_head_channels", "resblock_updown", "channel_mult", "use_new_attention_order"}
CHANNEL_MULT: dict[int, list[Any]] = {
    32: [1, 2, 2, 2], 64: [1, 2, 3, 4], 128: [1, 1, 2, 3, 4], 256: [1, 1, 2, 2, 4, 4], 512: [0.5, 1, 1, 2, 2, 4, 4]}


def settings_from_flags(flags: str, kind: str) -> dict[str, Any]:
    """What a "denoiser" or "classifier" is that was trained with `flags`, "--image_size 64 --num_channels 128 ...".

    A flag that is not there has the default that both programs give it. `rescaled_t`, whose default differs between
    the two, stays open where nothing tells which program it was.
    """
    given = parsed(flags)
    settings = {setting: given.get(flag, default) for flag, (setting, default) in FLAGS[kind].items()}
    settings |= {setting: words[settings[setting]] for setting, words in WORDS.items() if setting in settings}
    by_size = CHANNEL_MULT
    if kind == "classifier":  # of all that their program makes; in training it shows them t as it is, whatever the flag says
        settings |= {"attention_order": "legacy", "head_channels": 64, "rescaled_t": False}
    else:
        if given.get("num_heads_upsample", -1) not in (-1, settings["heads"]):
            raise UserError(f"--num_heads_upsample {given['num_heads_upsample']} differs from --num_heads {settings['heads']}; "
                            f"such models are not supported.")
        settings["variance"] = "learned_range" if given.get("learn_sigma") else \
            "fixed_small" if given.get("sigma_small") else "fixed_large"
        del settings["head_channels" if settings["head_channels"] == -1 else "heads"]
        if given.keys() & {"large_size", "small_size"}:  # an upsampler
            settings |= {"image_size": given.get("large_size", 256), "small_size": given.get("small_size", 64)}
            by_size = CHANNEL_MULT | {512: CHANNEL_MULT[256]}
        if "rescale_timesteps" in given or given.keys() & ONLY_GUIDED_DIFFUSION_HAS:
            settings["rescaled_t"] = given.get("rescale_timesteps", False)
    settings["channel_mult"] = settings.get("channel_mult") or by_size.get(settings["image_size"])
    return {setting: value for setting, value in settings.items() if value is not None}


def parsed(flags: str) -> dict[str, Any]:
    """The flags that are given; unknown ones are refused by name."""
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise UserError(f"the flags {flags!r} cannot be read ({' '.join(message.split())}); paste those of "
                            f"guided-diffusion or improved-diffusion, such as \"--image_size 64 --num_channels 128 "
                            f"--noise_schedule cosine\".")

    parser = Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    defaults = COMBINED | {flag: default for table in FLAGS.values() for flag, (_, default) in table.items()} \
        | dict.fromkeys(OF_NO_MATTER_TO_A_TRAINED_MODEL, "")
    for flag, default in defaults.items():
        parser.add_argument(f"--{flag}", type={bool: truth, list: numbers}.get(type(default), type(default)))
    try:
        return vars(parser.parse_args(shlex.split(flags.replace("\\\n", " "))))
    except ValueError as error:  # a quotation mark that is never closed
        return parser.error(str(error))


def truth(text: str) -> bool:
    if text.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if text.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def numbers(text: str) -> list[int | float]:
    try:
        return [int(part) if part.strip().isdecimal() else float(part) for part in text.split(",") if text]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 32,16,8") from None
