"""What can be told without torch, whose import takes seconds, is."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIGHT = ["noisy_clf.class_names", "noisy_clf.datasets", "noisy_clf.errors", "noisy_clf.execution", "noisy_clf.files",
         "noisy_clf.imagenet", "noisy_clf.schedule", "noisy_clf.checkpoints.by_name", "noisy_clf.checkpoints.model_folder",
         "noisy_clf.checkpoints.released", "noisy_clf.checkpoints.settings", "noisy_clf.networks.config",
         "noisy_clf.training.config"]
USES = """
from noisy_clf.checkpoints.model_folder import ModelFolder
from noisy_clf.checkpoints.released import DENOISERS
from noisy_clf.class_names import class_index
from noisy_clf.imagenet import class_names
folder = ModelFolder.open("digits", "classifier")
assert (folder.schedule.T, folder.image_size, class_index("seven", folder.class_names)) == (1000, 16, 7)
assert class_index("n02099601", class_names()) == 207 and DENOISERS["imagenet64"].schedule.T == 1000
"""
HEAVY = ("torch", "timm", "torchvision", "diffusers", "sklearn", "scipy", "matplotlib")


COMMANDS = {
    "train-noisy-clf": "noisy_clf.cli.train:train_noisy_clf", "eval-noisy-clf": "noisy_clf.cli.evaluate:eval_noisy_clf",
    "train-noisy-encoder": "noisy_clf.cli.train_encoder:train_noisy_encoder",
    "eval-noisy-encoder": "noisy_clf.cli.evaluate_encoder:eval_noisy_encoder",
    "train-ddpm": "guided_sample.cli.train_ddpm:train_ddpm", "guided-sample": "guided_sample.cli.sample:guided_sample",
    "eval-samples": "guided_sample.cli.eval_samples:eval_samples",
    "make-reference": "guided_sample.cli.make_reference:make_reference",
    "guided-sweep": "guided_sample.cli.sweep:guided_sweep", "eval-ddpm": "guided_sample.cli.eval_ddpm:eval_ddpm",
    "guided_sample.cli": "guided_sample.cli.__main__:commands"}
ANSWERS = [  # a command line, and what is in its answer
    ("train-noisy-clf --help", "train-noisy-clf --dataset digits"),
    ("train-noisy-clf --dataset nosuch", "there is no dataset 'nosuch'; give one of digits"),
    ("train-noisy-clf --data there", "'digits' is in scikit-learn; leave it out"),
    ("train-noisy-clf --grey", "--grey is for images of your own, a folder or a .csv; digits has the channels that it has"),
    ("train-noisy-clf --dataset cifar10 --grey", "cifar10 has the channels that it has: leave it out"),
    ("train-ddpm --grey", "digits has the channels that it has: leave it out"),
    ("train-noisy-clf --dataset imagenet --image-size 100", "no recipe for ImageNet at 100 pixels"),
    ("train-noisy-clf --dataset imagenet64 --image-size 32", "imagenet64 has 64 pixels a side, not 32"),
    ("train-noisy-clf --arch resnet18", "--arch is adm or timm:NAME"),
    ("train-noisy-clf --arch timm:resnet18 --channels 64", "--channels means nothing for --arch timm:resnet18"),
    ("train-noisy-clf --pretrained", "--pretrained means nothing for --arch adm"),
    ("train-noisy-clf --schedule-from digits --noise-schedule linear", "leave out --noise-schedule and --T"),
    ("train-noisy-clf --schedule-from nosuch", "there is no denoiser 'nosuch'"),
    ("train-noisy-clf --noise-schedule linear --T 20", "needs at least 21 timesteps, not 20"),
    ("train-noisy-clf --t-sampling often", "t-sampling cannot be 'often'"),
    ("train-noisy-clf --precision half", "'half' is not one of 'float32'"),
    ("train-noisy-clf --batch-size 0", "batch-size must be at least 1, not 0"),
    ("train-noisy-clf --mixup -1", "mixup must be 0 or more"),
    ("train-noisy-clf --dropout 2", "dropout must be at least 0 and below 1"),
    ("train-noisy-clf --channel-mult 0.5", "cannot be normalised in 32 groups"),
    ("eval-noisy-clf --help", "eval-noisy-clf digits"),
    ("eval-noisy-clf nosuch", "there is no classifier 'nosuch'"),
    ("eval-noisy-clf digits --compare nosuch", "there is no classifier 'nosuch'"),
    ("eval-noisy-clf digits --T 100", "digits has a noise schedule of its own"),
    ("eval-noisy-clf timm:resnet18 --noise-schedule linear --T 20", "needs at least 21 timesteps, not 20"),
    ("eval-noisy-clf digits --levels 2", "noise levels are t/T, from 0 to 1"),
    ("eval-noisy-clf digits --dataset nosuch", "there is no dataset 'nosuch'"),
    ("eval-noisy-clf digits --classifier-config nosuch.toml", "there is no file 'nosuch.toml'"),
    ("train-noisy-encoder --help", "train-noisy-encoder --encoder clip:digits"),
    ("train-noisy-encoder", "Missing option '--encoder'"),
    ("train-noisy-encoder --encoder nosuch", "there is no encoder 'nosuch'"),
    ("train-noisy-encoder --encoder digits --dataset nosuch", "there is no dataset 'nosuch'"),
    ("train-noisy-encoder --encoder digits --negatives 100", "a batch of 128 images does not divide into groups of 100"),
    ("train-noisy-encoder --encoder timm:resnet18 --schedule-from nosuch", "there is no denoiser 'nosuch'"),
    ("eval-noisy-encoder --help", "eval-noisy-encoder digits"),
    ("eval-noisy-encoder nosuch", "there is no encoder 'nosuch'"),
    ("eval-noisy-encoder digits --compare nosuch", "there is no encoder 'nosuch'"),
    ("eval-noisy-encoder digits --T 100", "digits has a noise schedule of its own"),
    ("eval-noisy-encoder digits --levels 2", "noise levels are t/T, from 0 to 1"),
    ("eval-noisy-encoder timm:resnet18 --noise-schedule linear --T 20", "needs at least 21 timesteps, not 20"),
    ("train-ddpm --help", "train-ddpm --dataset digits"),
    ("train-ddpm --dataset imagenet --image-size 100", "no recipe for ImageNet at 100 pixels"),
    ("train-ddpm --drop-labels 0.1", "--class-conditional shows; give both"),
    ("train-ddpm --variance huge", "'huge' is not one of 'learned_range'"),
    ("train-ddpm --lr 0", "lr must be a positive number"),
    ("train-ddpm --head-channels 7", "64 channels do not divide into heads of 7 channels"),
    ("guided-sample --help", "guided-sample --class 207 --scale 10"),
    ("guided-sample --list-models", "imagenet256-uncond"),
    ("guided-sample --model nosuch", "there is no denoiser 'nosuch'"),
    ("guided-sample --class submarin", "no class 'submarin'; did you mean submarine"),
    ("guided-sample --class 1000", "there is no class 1000; the classes are 0 to 999"),
    ("guided-sample --model digits --class ten", "no class 'ten'"),
    ("guided-sample --steps 1001", "steps '1001' cannot be made"),
    ("guided-sample --model digits --steps ddim45 --sampler ddim", "at a whole stride; the nearest that can"),
    ("guided-sample --sampler euler", "'euler' is not one of 'ddpm', 'ddim'"),
    ("guided-sample --eta 0.5", "eta belongs to --sampler ddim"),
    ("guided-sample --sampler ddim --grad-at mean", "grad-at mean belongs to --sampler ddpm"),
    ("guided-sample --scale nan", "nan is not a finite number"),
    ("guided-sample --upsample-config up.toml", "--upsample-config is given and --upsample is not"),
    ("guided-sample --upsample-steps 20", "--upsample-steps is given and --upsample is not"),
    ("guided-sample --upsample", "imagenet256-uncond has no upsampler of its own"),
    ("guided-sample --model imagenet64 --classifier imagenet256", "learned on another noise schedule (linear"),
    ("guided-sample --model imagenet256 --classifier imagenet512", "image size is 512 and the denoiser's 256"),
    ("guided-sample --model digits --upsample imagenet64-256", "enlarges images of 64 pixels, and digits's have 16"),
    ("guided-sample --upsample nosuch", "there is no denoiser 'nosuch'"),
    ("guided-sample --upsample lsun-cat", "lsun-cat, given as --upsample, is no upsampler; try imagenet64-256"),
    ("guided-sample --model imagenet64 --upsample --upsample-steps 2000", "steps '2000' cannot be made"),
    ("guided-sample --model imagenet64-256", "imagenet64-256 is an upsampler, a second stage"),
    ("guided-sample --class none --classifier imagenet256", "--class none asks for no class, and --classifier imagenet256"),
    ("guided-sample --class none --scale 2", "--class none asks for no class, and --scale 2"),
    ("guided-sample --class none --classifier-config x", "settings of a classifier are given, and none is used"),
    ("guided-sample --model imagenet256 --class none", "is class-conditional and cannot be sampled without a class"),
    ("guided-sample --model lsun-cat --class 3", "lsun-cat knows no classes and comes with no classifier"),
    ("guided-sample --model lsun-cat --scale 3", "lsun-cat comes with no classifier"),
    ("guided-sample --guide nosuch.py:f", "there is no such file; give the path of a Python file"),
    ("guided-sample --guide f", "cannot be read; write FILE.py:FUNCTION"),
    ("guided-sample --model digits --cfg 2", "--cfg needs a model that knows the null class, and digits is unconditional"),
    ("guided-sample --model digits --weak imagenet64", "the weak model imagenet64's image size is 64"),
    ("guided-sample --model digits --scale-interval 0.001:0.002", "--scale-interval 0.001:0.002 contains no step"),
    ("guided-sample --model digits --particles 4 --sampler ddim", "ddim is sampled without one; give --sampler ddpm"),
    ("guided-sample --model digits --class 3=1,8", "'8' has no weight"),
    ("guided-sample --request nosuch.toml", "there is no file 'nosuch.toml' with a request"),
    ("guided-sample --class 207 --dry-run", "would be downloaded first"),
    ("guided-sample --model digits --like digits:ten", "there is no picture 'ten' of digits; there are: digits:eight"),
    ("guided-sample --model digits --like nosuch.png", "--like is to be found in nosuch.png, and there is no such file"),
    ("guided-sample --model digits --like-scale 3", "--like-scale is given and --like is not"),
    ("guided-sample --model digits --text dog --encoder timm:resnet18 --see x0", "the encoder timm:resnet18 has no text tower"),
    ("guided-sample --model digits --encoder digits", "is for --like, --style and --text, and none of them is given"),
    ("guided-sample --shard 3/2", "'3/2' is no share; give one as I/N, counted from 1"),
    ("guided-sample --shard slurm", "for the tasks of an array (sbatch --array=0-9), and SLURM_ARRAY_TASK_ID is not set"),
    ("eval-samples --help", "eval-samples samples.npz --reference imagenet256"),
    ("eval-samples there --metrics FIDs", "there is no metric 'FIDs'; there are: FID"),
    ("eval-samples there --features nosuch", "unknown features 'nosuch'; there are: inception"),
    ("eval-samples there --features judge --metrics sFID", "sFID is by Inception's features and no others"),
    ("make-reference --help", "make-reference digits digits.npz"),
    ("make-reference nosuch out.npz", "there is no dataset 'nosuch'"),
    ("make-reference digits out", "does not end in .npz"),
    ("guided-sweep --help", "guided-sweep digits-scale"),
    ("guided-sweep --list", "adm-256-uncond-guided"),
    ("guided-sweep nosuch", "there is no experiment 'nosuch'"),
    ("guided-sweep adm-64 --dry-run", "would be downloaded"),
    ("eval-ddpm --help", "eval-ddpm digits"),
    ("eval-ddpm nosuch", "there is no denoiser 'nosuch'"),
    ("eval-ddpm imagenet64-256", "is an upsampler, whose likelihood is not measured here"),
    ("eval-ddpm lsun-cat", "does not tell what it learned from; give --dataset"),
    ("eval-ddpm digits --steps 2000", "steps '2000' cannot be made"),
    ("eval-ddpm digits --dataset nosuch", "there is no dataset 'nosuch'"),
    ("eval-ddpm digits --data there", "'digits' is in scikit-learn; leave it out"),
    ("guided_sample.cli --help", "Sample images of a class from a diffusion model, guided"),
    ("guided_sample.cli train-ddpm --help", "train-ddpm --dataset digits"),
    ("guided_sample.cli guided-sample --model nosuch", "there is no denoiser 'nosuch'"),
]

ANSWERED = ("--help", "--list", "--list-models", "--dry-run")  # all else is refused

DRIVER = """
import json, sys
from importlib import import_module
from click.testing import CliRunner
answers = {}
for line in json.loads(sys.argv[1]):
    name, *arguments = line.split()
    module, function = COMMANDS[name].split(":")
    result = CliRunner().invoke(getattr(import_module(module), function), arguments)
    answers[line] = [result.exit_code, result.output, [name for name in HEAVY if name in sys.modules]]
print(json.dumps(answers))
"""


def printed(code: str, *arguments: str) -> str:
    """What a new process that runs the code prints."""
    done = subprocess.run([sys.executable, "-c", f"COMMANDS, HEAVY = {COMMANDS}, {HEAVY}\n{code}", *arguments],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", [f"import {', '.join(LIGHT)}", USES], ids=["imports", "uses"])
def test_names_are_known_without_heavy_imports(code: str) -> None:
    assert printed(f"{code}\nimport sys; print([name for name in HEAVY if name in sys.modules])") == "[]\n"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """(exit status, what was told, the heavy modules that were imported by then) of each command line, all by one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        told = json.loads(printed(DRIVER, json.dumps([line for line, _ in ANSWERS])))
        assert list(Path().iterdir()) == []
    return told


@pytest.mark.parametrize("line, answer", ANSWERS, ids=[line for line, _ in ANSWERS])
def test_commands_answer_what_names_tell_without_heavy_imports(answers: dict[str, list[Any]], line: str, answer: str) -> None:
    status, told, heavy = answers[line]
    assert answer in told and heavy == [] and (status == 0) == line.endswith(ANSWERED), told
