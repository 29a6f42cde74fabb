"""Nothing that a step does waits for the device; what the watch found there is read once a batch."""
from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from guided_sample.finite import NotFinite, Watch
from guided_sample.loaders.classifier import Own
from guided_sample.model import Prediction
from guided_sample.samplers.ddim import ddim
from guided_sample.samplers.ddpm import ddpm
from guided_sample.steps import steps
from noisy_clf.noise import SampleNoise
from tests.conftest import NAMES, tiny_classifier, tiny_denoiser
from tests.seam import adm, classified

META = torch.device("meta")  # has no numbers: whatever would wait for one fails there


@pytest.mark.parametrize("wrapped", [False, True], ids=["a classifier", "one of one's own"])
@pytest.mark.parametrize("sampler, knobs", [(ddpm, {}), (ddim, {"eta": 1.0})])
def test_no_step_of_a_guided_batch_waits_for_the_device(
        sampler: Any, knobs: dict[str, float], wrapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *given, **more: nullcontext())  # which that device does not know
    denoiser, classifier = tiny_denoiser(class_names=NAMES), tiny_classifier()
    denoiser.network.to(META)
    guiding = Own(classifier, "own.py:Mine", "own.py").to(META) if wrapped else classifier.to(META)
    y, noise = torch.zeros(3, dtype=torch.int64, device=META), SampleNoise(0, range(3), (1, 8, 8), META)
    watch, chain = Watch([0, 1, 2], "the classifier"), steps("5", denoiser.schedule)
    moments = list(sampler(watch.over(adm(denoiser, classified(guiding, y), y=y)), noise(), chain, noise, **knobs))
    assert moments[-1].x_t.device == META and [t for t, _ in watch.found] == [step.t for step in chain]
    with pytest.raises((RuntimeError, NotImplementedError)):
        watch.read()


@pytest.mark.parametrize("broken, told", [({}, None), ({3: [1], 6: [0, 2]}, "not finite at t = 3 for sample 8; try a smaller"),
                                          ({6: [0, 2]}, "not finite at t = 6 for sample 7, 9; try a smaller")])
def test_what_was_found_on_a_device_is_read_once_a_batch(
        broken: dict[int, list[int]], told: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [step for step in steps("10", tiny_denoiser().schedule)]
    waits: list[Tensor] = []
    real = Tensor.__bool__
    monkeypatch.setattr(Tensor, "__bool__", lambda tensor: waits.append(tensor) or real(tensor))
    numbers = {chain[place].t: samples for place, samples in broken.items()}

    def model(x_t: Tensor, step: Any) -> Prediction:
        density, gradient = torch.zeros(3), torch.zeros(3, 1, 8, 8)
        gradient[numbers.get(step.t, []), 0, 2, 3] = math.nan
        return Prediction(gradient, 0.0, gradient, density)

    watch = Watch([7, 8, 9], "it")
    for step in chain:
        watch.over(model)(torch.empty(3, 1, 8, 8, device=META), step)
    assert waits == []
    if told is None:
        watch.read()
        assert len(waits) == 1
    else:
        place = int(told.split("t = ")[1].split(" ")[0])
        with pytest.raises(NotFinite, match=told.replace(f"t = {place} ", f"t = {chain[place].t} ")):
            watch.read()
    watch.read()  # all is told
