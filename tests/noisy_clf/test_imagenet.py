from __future__ import annotations

from timm.data import ImageNetInfo

from noisy_clf import imagenet


def test_the_classes_are_those_of_timm() -> None:
    info = ImageNetInfo("imagenet-1k")
    expected = [(id, info.label_name_to_description(id)) for id in sorted(info.label_names())]
    assert [(id, ", ".join(words)) for id, words in imagenet.synsets()] == expected and len(expected) == 1000
