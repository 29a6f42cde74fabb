from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from guided_sample.guides.classifier import log_prob
from noisy_clf.classifier import NoisyClassifier
from noisy_clf.errors import UserError
from tests.noisy_clf.conftest import tiny_network


def test_log_prob_is_the_log_softmax_at_y(classifier: NoisyClassifier, x_t: torch.Tensor) -> None:
    t, y = torch.tensor([0, 10, 50, 98, 99]), torch.tensor([3, 1, 4, 1, 5])
    logits = classifier(x_t, t)
    assert logits.dtype == torch.float32
    expected = torch.stack([row[label] - row.exp().sum().log() for row, label in zip(logits, y)])
    assert_close(log_prob(classifier, x_t, t, y), expected)
    probabilities = sum(log_prob(classifier, x_t, t, torch.full((5,), k)).exp() for k in range(10))
    assert_close(probabilities, torch.ones(5))


def test_class_names_must_be_as_many_as_classes(classifier: NoisyClassifier) -> None:
    with pytest.raises(UserError, match="has 10 classes but 3 class names"):
        NoisyClassifier(tiny_network(), classifier.schedule, ("a", "b", "c"))
