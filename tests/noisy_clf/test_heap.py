"""Memory that tensors leave is kept where they are large."""
from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import guided_sample.plan
from guided_sample.denoiser import unet_denoiser
from guided_sample.plan import Plan
from guided_sample.request import Request
from guided_sample.unet import UNet
from tests.conftest import SCHEDULE, UNET, stored

AFTERWARDS = """
import torch
from noisy_clf.heap import keep_what_is_freed

def there_afterwards():
    address = torch.empty(64 << 20, dtype=torch.uint8).data_ptr()
    with open("/proc/self/maps") as file:
        spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in file]
    return any(low <= address < high for low, high in spans)

print(there_afterwards(), keep_what_is_freed(), there_afterwards())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's")
def test_memory_of_large_results_is_kept_when_they_are_gone():
    """In a process of its own: the setting is for good."""
    done = subprocess.run([sys.executable, "-c", AFTERWARDS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


@pytest.mark.parametrize("size, kept", [(8, 0), (128, 1)])
def test_plans_of_large_images_ask_for_it(size: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[bool] = []
    monkeypatch.setattr(guided_sample.plan, "keep_what_is_freed", lambda: asked.append(True))
    denoiser = unet_denoiser(UNet(replace(UNET, image_size=size, attention_at=())), SCHEDULE, "learned_range")
    Plan.of(Request(model=str(stored(denoiser, tmp_path / "model")), classes=("none",)), "cpu")
    assert len(asked) == kept
