"""Ways to compute a run (which change it by rounding only), precisions, and what a classifier's loss may be."""
from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

from noisy_clf.classifier import NoisyClassifier
from noisy_clf.cli.train import train_noisy_clf
from noisy_clf.datasets.images import Dataset, to_x_0
from noisy_clf.training.draws import Draws
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier
from noisy_clf.networks.layers import Dropout
from noisy_clf.training.metrics_log import tensorboard_writer
from noisy_clf.training.classifier_task import classifier_task, lost_entropy
from noisy_clf.schedule import NoiseSchedule
from noisy_clf.training.loop import METRICS, train
from noisy_clf.training.config import ClassifierLoss, TrainingConfig
from noisy_clf.training.execution import Execution
from noisy_clf.training.task import Task
from noisy_clf.training.run import Run
from noisy_clf.training.states import states
from tests.commands import invoke
from tests.noisy_clf.conftest import TINY_FLAGS, first_of, tiny_network
from tests.reference import with_drawn_weights

CONFIG = TrainingConfig(iterations=6, batch_size=8, lr=1e-3, ema=0.5, seed=3, validate_every=3, save_every=2)


def task(data: Dataset, loss: ClassifierLoss = ClassifierLoss(), dropout: float = 0.3) -> Task:
    torch.manual_seed(0)
    network = with_drawn_weights(tiny_network(dropout=dropout))
    return classifier_task(NoisyClassifier(network, NoiseSchedule.named("cosine", 50), data.class_names), data, loss)


def trained(data: Dataset, folder: Path, config: TrainingConfig = CONFIG, execution: Execution = Execution(),
            loss: ClassifierLoss = ClassifierLoss()) -> dict[str, Tensor]:
    """The last weights of a whole run."""
    train(task(data, loss), data, config, folder, execution)
    return load_file(folder / "last" / "model.safetensors")


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (folder / METRICS).read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(few_digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "plain"
    trained(few_digits, folder)
    return folder


def gradients(run: Run) -> dict[str, Tensor]:
    """What the run's next step gives to the optimizer."""
    found: dict[str, Tensor] = {}
    run.update = lambda: found.update(  # type: ignore[method-assign]
        {name: p.grad.clone() for name, p in run.network.named_parameters() if p.grad is not None})
    run.train_step(*run.read(run.step))
    return found


@pytest.mark.parametrize("microbatch", [1, 3, 100])
def test_microbatches_change_nothing(few_digits: Dataset, plain: Path, tmp_path: Path, microbatch: int) -> None:
    whole, parts = (gradients(Run(task(few_digits), CONFIG, few_digits, tmp_path, Execution(microbatch=size)))
                    for size in (0, microbatch))
    for name in whole:
        assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-6)
    trained(few_digits, tmp_path, execution=Execution(microbatch=microbatch))
    assert losses(tmp_path) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_threads_that_read_ahead_change_nothing_at_all(few_digits: Dataset, plain: Path, tmp_path: Path, threads: int) -> None:
    weights = trained(few_digits, tmp_path, execution=Execution(threads=threads))
    assert all(torch.equal(weights[name], tensor) for name, tensor in load_file(plain / "last/model.safetensors").items())


class Small(nn.Module):
    """Compiled in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.dropout, self.out = nn.Conv2d(1, 4, 3), Dropout(0.3), nn.Linear(4, 10)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.out(self.dropout(self.conv(x_t).relu()).mean(dim=(2, 3)) * (1 + t[:, None] / 50))


def test_compiled_is_the_same_but_for_rounding(few_digits: Dataset, tmp_path: Path) -> None:
    def gradients_of(execution: Execution) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return gradients(Run(replace(task(few_digits), network=Small()), CONFIG, few_digits, tmp_path, execution))

    plain, compiled = gradients_of(Execution()), gradients_of(Execution(compile=True))
    for name in plain:
        assert_close(compiled[name], plain[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision, tolerance", [("bf16", 0.02), ("fp16", 0.005)])
def test_half_precision_learns_as_float32_does(
        few_digits: Dataset, plain: Path, tmp_path: Path, precision: str, tolerance: float) -> None:
    config = replace(CONFIG, precision=precision)
    weights = trained(few_digits, tmp_path, config)
    assert losses(tmp_path) == pytest.approx(losses(plain), rel=tolerance) and losses(tmp_path) != losses(plain)
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    if precision == "fp16":
        assert torch.load(states(tmp_path)[0], weights_only=True)["scaler"]["scale"] == 2.0 ** 16


class NoFloat64(TorchFunctionMode):
    """A device that has none, as Apple's: putting such a tensor there is an error."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.to and args[0].dtype == torch.float64 and torch.float32 not in args:
            assert not any(isinstance(given, torch.device) for given in args), "float64 does not exist there"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("t_sampling", ["uniform", "importance"])
def test_the_device_needs_no_float64(few_digits: Dataset, tmp_path: Path, t_sampling: str) -> None:
    with NoFloat64():
        run = Run(task(few_digits), replace(CONFIG, t_sampling=t_sampling), few_digits, tmp_path, Execution())
        run.train_step(*run.read(run.step))
    assert run.step == 1


def test_fp16_goes_on_with_its_loss_scale(few_digits: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, precision="fp16")
    whole = trained(few_digits, tmp_path / "whole", config)
    run = Run(task(few_digits), config, few_digits, tmp_path / "stopped", Execution())
    for _ in range(2):
        run.train_step(*run.read(run.step))
    run.save()
    resumed = trained(few_digits, tmp_path / "stopped", config)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_step_of_fp16_that_overflows_is_skipped_and_told(
        few_digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right, config = task(few_digits), replace(CONFIG, precision="fp16", ema=0.0)
    calls = iter(range(100))
    run = Run(replace(right, loss=lambda *given: right.loss(*given) * (1e38 if next(calls) == 1 else 1)), config, few_digits,
              tmp_path, Execution())
    weights = []
    for _ in range(3):
        run.train_step(*run.read(run.step))
        weights.append(torch.nn.utils.parameters_to_vector(run.network.parameters()).detach().clone())
    assert torch.equal(weights[1], weights[0]) and not torch.equal(weights[2], weights[1])
    assert "step 1: the gradients are not finite in fp16; skipped, the loss scale is now 32768" in capsys.readouterr().out


def test_a_run_may_go_on_computed_in_another_way(few_digits: Dataset, plain: Path, tmp_path: Path) -> None:
    run = Run(task(few_digits), CONFIG, few_digits, tmp_path, Execution(microbatch=2, threads=0))
    for _ in range(3):
        run.train_step(*run.read(run.step))
    run.save()
    trained(few_digits, tmp_path, execution=Execution(microbatch=5))
    weights, others = (load_file(folder / "last/model.safetensors") for folder in (tmp_path, plain))
    assert_close(weights["out.2.c_proj.weight"], others["out.2.c_proj.weight"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("changes", [
    {"random_flip": True}, {"random_crop": True}, {"t_sampling": "beta:1,4"}, {"t_sampling": "levels:0,0"},
    {"precision": "bf16"}, {"t_sampling": "importance", "iterations": 300}], ids=str)
def test_each_way_of_training_matters(few_digits: Dataset, plain: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    few = replace(few_digits, validation=first_of(few_digits.validation, 1))
    weights = trained(few, tmp_path / "other", replace(CONFIG, **{"save_every": 300, "validate_every": 300, **changes}))
    if "iterations" in changes:
        others = trained(few, tmp_path / "uniform", replace(CONFIG, save_every=300, validate_every=300, iterations=300))
    else:
        others = load_file(plain / "last/model.safetensors")
    assert not all(torch.equal(weights[name], others[name]) for name in weights)


def loss_of(data: Dataset, loss: ClassifierLoss, t: int = 30) -> tuple[Tensor, Tensor, Tensor, Any]:
    """(the losses [8], x_0, y, the network) of a batch without dropout."""
    made = task(data, loss, dropout=0.0)
    images, y = data.train.batch(torch.arange(8))
    x_0 = to_x_0(images)
    return made.loss(made.network, x_0, y, torch.full((8,), t), Draws(0, range(8), torch.device("cpu"))), x_0, y, made.network


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_on_the_noised_images(few_digits: Dataset, smoothing: float) -> None:
    loss, x_0, y, network = loss_of(few_digits, ClassifierLoss(label_smoothing=smoothing))
    eps = Draws(0, range(8), torch.device("cpu")).noise_like(x_0)
    t = torch.full((8,), 30)
    log_p = network(NoiseSchedule.named("cosine", 50).add_noise(x_0, t, eps), t).log_softmax(dim=1)
    target = (1 - smoothing) * F.one_hot(y, 10) + smoothing / 10
    assert_close(loss, -(target * log_p).sum(dim=1))


def test_mixup_mixes_two_neighbours_and_their_losses(few_digits: Dataset) -> None:
    loss, x_0, y, network = loss_of(few_digits, ClassifierLoss(mixup=0.7))
    draws = Draws(0, range(8), torch.device("cpu"))
    eps, kept, t = draws.noise_like(x_0), draws.beta_of_pairs(0.7), torch.full((8,), 30)
    for i, j in ((0, 1), (1, 0), (6, 7)):
        mixed = kept[i] * x_0[i] + (1 - kept[i]) * x_0[j]
        x_t = NoiseSchedule.named("cosine", 50).add_noise(mixed[None], t[:1], eps[i][None])
        log_p = network(x_t, t[:1]).log_softmax(dim=1)[0]
        assert_close(loss[i], -kept[i] * log_p[y[i]] - (1 - kept[i]) * log_p[y[j]])


@pytest.mark.parametrize("others", [{}, {"label_smoothing": 0.1}, {"mixup": 0.7}], ids=str)
def test_entropy_that_is_lost_is_added_to_any_loss(few_digits: Dataset, others: dict[str, float]) -> None:
    plain, x_0, y, network = loss_of(few_digits, ClassifierLoss(**others))
    weighed, *_ = loss_of(few_digits, ClassifierLoss(**others, entropy_weight=0.3))
    seen: list[Tensor] = []
    network.register_forward_hook(lambda network, inputs, logits: seen.append(logits))
    made, t = task(few_digits, ClassifierLoss(**others), dropout=0.0), torch.full((8,), 30)
    made.loss(network, x_0, y, t, Draws(0, range(8), torch.device("cpu")))
    p = seen[0].double().softmax(dim=1)
    assert_close(weighed - plain, 0.3 * (math.log(10) + (p * p.log()).sum(dim=1)).float(), rtol=1e-4, atol=1e-6)


def test_entropy_is_lost_by_what_is_sure_and_none_by_what_knows_nothing() -> None:
    lost = lost_entropy(torch.tensor([[3.0, 3.0, 3.0], [0.0, 500.0, 0.0]]))
    assert_close(lost, torch.tensor([0.0, math.log(3)]))


def test_a_classifier_trained_for_entropy_is_less_sure(few_digits: Dataset, tmp_path: Path) -> None:
    config = replace(CONFIG, iterations=40, validate_every=40, save_every=40, lr=3e-3)
    images, _ = few_digits.train.batch(torch.arange(30))
    lost = []
    for weight in (0.0, 3.0):
        folder = tmp_path / str(weight)
        trained(few_digits, folder, config, loss=ClassifierLoss(entropy_weight=weight))
        lost.append(lost_entropy(load_classifier(folder / "last")(to_x_0(images), torch.zeros(30).long())).mean())
    assert 0 < lost[1] < lost[0] / 3


def test_the_flag_of_entropy_reaches_the_run(tmp_path: Path) -> None:
    flags = [*TINY_FLAGS, "--iterations=1", "--entropy-weight=0.3", "--mixup=0.2", f"--out={tmp_path / 'run'}"]
    assert invoke(train_noisy_clf, *flags).exit_code == 0
    recorded = json.loads((tmp_path / "run/last/config.json").read_text())["training"]
    assert (recorded["entropy_weight"], recorded["mixup"], recorded["label_smoothing"]) == (0.3, 0.2, 0)


def test_mixup_of_a_batch_that_has_no_pairs_is_refused(few_digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch-size 7 cannot be shared by 1 processes in groups of 2"):
        trained(few_digits, tmp_path, replace(CONFIG, batch_size=7), loss=ClassifierLoss(mixup=0.2))


@pytest.mark.parametrize("changes, sentence", [
    ({"label_smoothing": 1.0}, "label-smoothing must be at least 0 and below 1"),
    ({"label_smoothing": math.nan}, "label-smoothing"),
    ({"mixup": -1.0}, "mixup must be 0 or more"), ({"mixup": math.inf}, "mixup must be"),
    ({"entropy_weight": -0.1}, "entropy-weight must be 0 or more, not -0.1"), ({"entropy_weight": math.nan}, "entropy-weight")])
def test_losses_without_sense_are_refused(changes: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ClassifierLoss(**changes)


def test_the_losss_options_are_part_of_what_a_run_is(few_digits: Dataset, plain: Path) -> None:
    with pytest.raises(UserError, match="training.label_smoothing 0.0 there, 0.1 now"):
        train(task(few_digits, ClassifierLoss(label_smoothing=0.1)), few_digits, CONFIG, plain)
    with pytest.raises(UserError, match="training.entropy_weight 0.0 there, 0.1 now"):
        train(task(few_digits, ClassifierLoss(entropy_weight=0.1)), few_digits, CONFIG, plain)


def test_tensorboard_gets_what_metrics_jsonl_gets(few_digits: Dataset, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained(few_digits, tmp_path, execution=Execution(tensorboard=True))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("train_loss")] == pytest.approx(losses(tmp_path))


def test_tensorboard_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        tensorboard_writer(tmp_path, 0)


def test_in_channels_last_a_run_goes_on_from_states_of_either_layout(few_digits: Dataset, tmp_path: Path) -> None:
    fast = replace(task(few_digits, dropout=0.0), channels_last=True)
    run = Run(fast, CONFIG, few_digits, tmp_path, Execution())
    assert any(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in run.network.parameters())
    run.train_step(*run.read(run.step))
    state = copy.deepcopy(run.state())
    for moments in state["optimizer"]["state"].values():  # as a run in another layout has saved them
        moments.update({name: moment.contiguous() for name, moment in moments.items()})
    run.train_step(*run.read(run.step))
    other = Run(replace(task(few_digits, dropout=0.0), channels_last=True), CONFIG, few_digits, tmp_path, Execution())
    other.take(state)
    other.train_step(*other.read(other.step))
    for one, two in zip(run.network.parameters(), other.network.parameters()):
        assert torch.equal(one, two)
