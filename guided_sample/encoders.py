"""Which encoder pictures and words are compared by: the one that is asked for, or that goes with the model; by names alone."""
from __future__ import annotations

from dataclasses import replace

from guided_sample.cards import Card, card_of_encoder
from guided_sample.guides import GuideSpec
from guided_sample.request import Request
from guided_sample.steering import similar_in
from noisy_clf.errors import UserError
from noisy_clf.space import Space

TUNING = "train-noisy-encoder"


def encoders_filled_in(asked: Request, model: Card) -> Request:
    """The request, each of its guides spelled out, with the encoder's name where that is left open."""
    guides = []
    for text in asked.guide:
        spec = GuideSpec.parse(text)
        guides.append(spec.spelled_out(text, asked.encoder or advised(spec.kind == "text", model)))
    encoder = asked.encoder
    if encoder is None and asked.similar:
        encoder = advised(bool(asked.text), model)
    return replace(asked, guide=tuple(guides), encoder=encoder)


def advised(words: bool, model: Card) -> str | None:
    """The model's own; where there are words among what is compared, the one that goes with these."""
    first, second = model.advice.encoder, model.advice.text_encoder
    return second or first if words else first or second


def refuse_encoders(asked: Request, model: Card) -> None:
    """UserError for an encoder that is not there, or not the denoiser's, or for words to one that knows none."""
    for spec in similar_in(asked):
        name, see = spec.settings.get("encoder"), spec.settings.get("see", "x_t")
        if name is None:
            if model.space is not None:
                raise UserError(f"no encoder goes with {asked.model}; give --encoder, or tune one on its noise: {TUNING} "
                                f"--encoder NAME --dataset DATASET --schedule-from {asked.model}.")
            continue
        card = card_of_encoder(name)
        if spec.kind == "text" and card.has_text is False:
            raise no_text_tower(name)
        if card.space is not None and model.space is not None:
            refuse_misfit(model.space, card.space, name, see)


def no_text_tower(name: str) -> UserError:
    return UserError(f"the encoder {name} has no text tower, and words are to be compared with what it sees; give --encoder "
                     f"one of CLIP's, clip:NAME, or one that was tuned from it.")


def refuse_misfit(denoiser: Space, encoder: Space, name: str, see: str) -> None:
    """UserError where the encoder's images are others than the denoiser's. At x0_hat, where t is 0, no schedule counts."""
    if see != "x_t":
        encoder = replace(encoder, schedule=denoiser.schedule)
    denoiser.refuse_other(encoder, f"encoder {name}", TUNING)
