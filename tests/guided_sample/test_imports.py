"""What the first command imports, in a process of its own."""
import gc
import json
import subprocess
import sys

import pytest

from noisy_clf.imports import imported_for_good

NEEDLESS = ("torch._dynamo", "torch._inductor", "sympy", "sklearn", "scipy", "pandas", "matplotlib", "torchvision", "timm",
            "diffusers", "transformers", "guided_sample.training", "guided_sample.metrics")
PROGRAM = f"""
import gc, json, sys
from guided_sample.cli.sample import guided_sample
try:
    guided_sample()
finally:
    print(json.dumps([[name for name in {NEEDLESS} if name in sys.modules], gc.get_freeze_count(), gc.isenabled()]))
"""


@pytest.mark.parametrize("model", ["digits", "digits-cond"])
def test_sampling_imports_nothing_that_it_does_not_use(model):
    found = subprocess.run([sys.executable, "-c", PROGRAM, "--model", model, "--class", "3", "--scale", "1", "--steps", "2",
                            "--num-samples", "1", "--out", "run"], capture_output=True, text=True, check=True)
    needless, frozen, collects = json.loads(found.stdout.splitlines()[-1])
    assert needless == [] and frozen > 100_000 and collects


def test_what_is_imported_when_torch_is_there_already_is_not_kept():
    before = gc.get_freeze_count()
    with imported_for_good():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before and gc.isenabled()
