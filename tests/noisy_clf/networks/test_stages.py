from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from noisy_clf.networks.stages import as_map


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_tokens_become_a_map_by_rows_without_those_of_no_place(extra: int) -> None:
    image = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    tokens = torch.cat([-torch.ones(2, extra, 3), image.flatten(2).transpose(1, 2)], dim=1)
    found = as_map(tokens, 2, extra)
    assert found is not None and torch.equal(found, image)
    if extra:
        assert as_map(tokens[:, :-2], 2, extra) is None  # 14 places are no square


def test_tokens_of_places_alone_are_a_map_where_others_come_later() -> None:
    found = as_map(torch.rand(2, 16, 3), 2, extra=1)
    assert found is not None and found.shape == (2, 3, 4, 4)


def test_maps_have_their_channels_first_wherever_they_were() -> None:
    image = torch.rand(2, 3, 4, 4)
    assert as_map(image, 1, 1) is image
    assert_close(as_map(image.permute(0, 2, 3, 1), 3, 1), image)
    assert as_map(torch.rand(2, 3), 1, 0) is None and as_map(torch.rand(2, 2, 3), 2, 2) is None
