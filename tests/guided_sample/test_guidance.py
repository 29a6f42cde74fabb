import pytest
import torch

from guided_sample.guidance import ClassifierGuidance, NonFiniteGradient, gradient, refuse_mismatch
from noisy_clf.errors import UserError
from noisy_clf.schedule import NoiseSchedule
from tests.conftest import NAMES, SCHEDULE, tiny_classifier, tiny_denoiser
from tests.oracles import Mixture
from tests.reference import relative_error


def test_gradient_of_the_exact_classifier():
    schedule = NoiseSchedule.named("linear", 1000)
    mixture = Mixture(torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) / 3, 0.2, schedule)
    x_t = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    t, y = torch.tensor([0, 10, 200, 500, 900, 999]), torch.tensor([0, 1, 2, 3, 0, 1])
    guide = ClassifierGuidance(mixture.classifier(), y, scale=2.5)(x_t, t)
    assert guide.dtype == torch.float32
    assert relative_error(guide, 2.5 * mixture.grad_log_prob(x_t, t, y)) < 1e-6


def test_each_sample_has_its_own_gradient():
    classifier, y = tiny_classifier(), torch.tensor([0, 1, 2, 0])
    x_t, t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 9, 30, 49])
    together = ClassifierGuidance(classifier, y, 1.0)(x_t, t)
    alone = [ClassifierGuidance(classifier, y[i:i + 1], 1.0)(x_t[i:i + 1], t[i:i + 1]) for i in range(4)]
    assert relative_error(together, torch.cat(alone)) < 1e-5


def test_every_sample_needs_a_class():
    with pytest.raises(ValueError, match="batch_size"):
        ClassifierGuidance(tiny_classifier(), torch.tensor([0, 1]), 1.0)(torch.zeros(3, 1, 8, 8), torch.zeros(3).long())


def test_gradient_leaves_no_trace_in_its_inputs_and_works_where_autograd_is_off():
    x_t = torch.ones(1, 1, 2, 2)
    with torch.no_grad():
        found = gradient(lambda x, t: x.square().flatten(1).sum(dim=1), x_t, torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(found, torch.full((1, 1, 2, 2), 2.0))
    assert not x_t.requires_grad and not found.requires_grad


def test_a_gradient_that_is_not_finite_names_t_and_samples():
    classifier, x_t = tiny_classifier(), torch.zeros(3, 1, 8, 8)
    x_t[1] = float("nan")
    with pytest.raises(NonFiniteGradient, match="not finite at t = 20 for sample 1;") as caught:
        ClassifierGuidance(classifier, torch.tensor([0, 1, 2]), 1.0)(x_t, torch.full((3,), 20))
    assert (caught.value.t, caught.value.samples) == (20, [1])


@pytest.mark.parametrize("classifier, message", [
    (lambda: tiny_classifier(NoiseSchedule.named("linear", 50)), r"another noise schedule \(linear, T = 50.*\(cosine, T = 50"),
    (lambda: tiny_classifier(NoiseSchedule.named("cosine", 100)), r"\(cosine, T = 100, .*\(cosine, T = 50, "),
    (lambda: tiny_classifier(image_size=16), "image size is 16 and the denoiser's 8"),
    (lambda: tiny_classifier(in_channels=3), "number of channels is 3 and the denoiser's 1"),
])
def test_a_classifier_that_does_not_fit_is_refused(classifier, message):
    with pytest.raises(UserError, match=message):
        refuse_mismatch(tiny_denoiser(), classifier())


def test_the_same_schedule_by_its_numbers_is_accepted_whatever_its_name():
    refuse_mismatch(tiny_denoiser(), tiny_classifier(NoiseSchedule.from_alpha_bar(SCHEDULE.alpha_bar)))


def test_other_classes_than_a_class_conditional_denoisers_are_refused():
    refuse_mismatch(tiny_denoiser(class_names=NAMES), tiny_classifier())
    with pytest.raises(UserError, match=r"classifier's 3 classes \(apple, ...\) are not the denoiser's 3 \(plum, ...\)"):
        refuse_mismatch(tiny_denoiser(class_names=NAMES[::-1]), tiny_classifier())
