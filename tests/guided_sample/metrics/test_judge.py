"""Judges: what they see, in whose order of classes, and whom they may not judge."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from guided_sample.manifest import Manifest
from guided_sample.metrics.confusion_picture import confusion_figure, draw_confusion, in_percent
from guided_sample.metrics.judge import Judgement, implied_judge, judged, load_judge, warnings_of
from guided_sample.metrics.pictures import Pictures
from noisy_clf.class_names import nameless
from noisy_clf.datasets import load_dataset
from noisy_clf.datasets.images import to_x_0
from noisy_clf.errors import UserError
from noisy_clf.loaders import load_classifier, load_classifier_whole
from tests.conftest import NAMES, stored, tiny_classifier

CPU = torch.device("cpu")
ORDER = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])


def of(images: np.ndarray, labels: np.ndarray | None, class_names: tuple[str, ...] = ()) -> Pictures:
    """Of uint8 [N,H,W,C]."""
    return Pictures("some", images.shape[1:], labels, class_names, lambda rows: images[rows.start:rows.stop], "digest",
                    Path("cache"), len(images))


def noise(N: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (N, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def real() -> Pictures:
    data = load_dataset("digits")
    images, labels = data.validation.whole()
    return of(images.permute(0, 2, 3, 1).numpy(), labels.numpy(), data.class_names)


def drawn_by(classifier: str, digest: str) -> Manifest:
    return Manifest({"model": "m", "classifier": classifier}, {"model": "0" * 64, "classifier": digest}, {})


def test_counts_and_shares() -> None:
    found = Judgement(("a", "b", "c"), np.array([0, 0, 0, 0, 2]), np.array([0, 0, 0, 1, 0]))
    assert found.agreement == pytest.approx(0.6)
    np.testing.assert_array_equal(found.confusion, [[3, 1, 0], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(found.agreement_by_class, [0.75, np.nan, 0])  # nobody asked for b


def test_it_sees_the_clean_image_at_t_0() -> None:
    images, labels = noise(300), np.arange(300) % 3  # more than a batch
    judge = tiny_classifier().eval()
    found = judged(of(images, labels, NAMES), judge, CPU)
    with torch.no_grad():
        logits = judge(to_x_0(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.zeros(300, dtype=torch.int64))
    np.testing.assert_array_equal(found.seen, logits.argmax(dim=1).numpy())


def test_images_without_a_label_are_left_out() -> None:
    images, labels, judge = noise(30), np.arange(30) % 4 - 1, tiny_classifier().eval()
    found, whole = judged(of(images, labels, NAMES), judge, CPU), judged(of(images, np.zeros(30, np.int64), NAMES), judge, CPU)
    np.testing.assert_array_equal(found.asked, labels[labels >= 0])
    np.testing.assert_array_equal(found.seen, whole.seen[labels >= 0])


def test_the_bundled_judge_knows_real_digits(real: Pictures) -> None:
    assert judged(real, load_classifier("digits-judge"), CPU).agreement >= 0.98


def test_classes_are_told_apart_by_name_in_the_order_of_the_pictures(real: Pictures) -> None:
    judge = load_classifier("digits-judge")
    assert real.labels is not None
    ours = replace(real, class_names=tuple(real.class_names[k] for k in ORDER), labels=ORDER.argsort()[real.labels])
    plain, other = judged(real, judge, CPU), judged(ours, judge, CPU)
    assert other.class_names == ours.class_names
    np.testing.assert_array_equal(other.confusion, plain.confusion[np.ix_(ORDER, ORDER)])


@pytest.mark.parametrize("pictures, judges, told", [
    (NAMES, ("0", "1", "2"), NAMES), (("0", "1", "2"), NAMES, NAMES), ((), NAMES, NAMES)])
def test_numbers_go_with_any_names(pictures: tuple[str, ...], judges: tuple[str, ...], told: tuple[str, ...]) -> None:
    found = judged(of(noise(), np.arange(12) % 3, pictures), tiny_classifier(names=judges).eval(), CPU)
    assert found.class_names == told and not nameless(told)


@pytest.mark.parametrize("changed, message", [
    ({"labels": None}, "some has no labels, .* give samples with a class each"),
    ({"class_names": ("apple", "pear", "quince")}, r"tells 3 classes \(apple, pear, plum, ...\), and some has 3 "),
    ({"class_names": ("apple", "pear")}, "and some has 2 "),
    ({"class_names": (), "labels": np.full(12, 3)}, "the label 3, and there are 3 classes, numbered from 0"),
    ({"shape": (8, 16, 1)}, "sees images of 8 pixels a side and 1 channels, and those of some are 16 x 8 with 1"),
])
def test_what_it_cannot_judge_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        judged(replace(of(noise(), np.arange(12) % 3 % 2, NAMES), **changed), tiny_classifier().eval(), CPU)  # type: ignore


def test_a_damaged_judge_is_refused() -> None:
    judge = tiny_classifier().eval()
    next(judge.parameters()).data.fill_(float("nan"))
    with pytest.raises(UserError, match="not a finite number"):
        judged(of(noise(), np.arange(12) % 3, NAMES), judge, CPU)


def test_the_guide_is_no_judge_whatever_it_is_called(classifier_folder: Path) -> None:
    digest = load_classifier_whole(classifier_folder).digest
    with pytest.raises(UserError, match="guided these samples .* give another --judge"):
        warnings_of(str(classifier_folder), digest, drawn_by("elsewhere", digest))


def test_a_guide_of_the_same_training_run_is_warned_of(tmp_path: Path) -> None:
    training = {"dataset": "fruit", "seed": 0}
    run, other = tmp_path / "run", tmp_path / "other"
    for folder, told in ((run / "best", training), (run / "last", training | {"last": {"step": 9}}),
                         (other / "best", training | {"seed": 1}), (tmp_path / "foreign", None)):
        stored(tiny_classifier(), folder, **({"training": told} if told else {}))

    def warnings(guide: Path | str) -> list[str]:
        return warnings_of(str(run / "last"), "2" * 64, drawn_by(str(guide), "1" * 64))

    assert "of the same training run" in warnings(run)[0] and "of the same training run" in warnings(run / "best")[0]
    assert warnings(other) == warnings(tmp_path / "foreign") == warnings("my.py:Net") == warnings("imagenet64") == []


def test_a_judge_of_other_images_is_refused(classifier_folder: Path) -> None:
    with pytest.raises(UserError, match="8 pixels a side and 1 channels, and these have 16 and 3"):
        load_judge(str(classifier_folder), 16, 3)


def test_the_bundled_models_imply_the_bundled_judge_which_never_guides_them() -> None:
    manifest = drawn_by("digits", load_classifier_whole("digits").digest)
    for model in ("digits", "digits-cond"):
        assert implied_judge(replace(manifest, request={"model": model, "classifier": "digits"})) == "digits-judge"
    assert implied_judge(manifest) is None
    assert warnings_of("digits-judge", load_judge("digits-judge", 16, 1).digest, manifest) == []


def test_the_picture_shows_shares_by_row() -> None:
    figure = confusion_figure(np.array([[999, 1, 0], [0, 0, 0], [5, 0, 5]]), NAMES)
    axes = figure.axes[0]
    shown = np.ma.masked_invalid(np.asarray(axes.images[0].get_array())).tolist()
    assert shown == [[0.999, 0.001, 0], [None] * 3, [0.5, 0, 0.5]]
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}  # (column, row)
    assert cells == {(0, 0): ">99", (1, 0): "<1", (0, 2): "50", (2, 2): "50"}
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    assert "99.4% of 1010" in axes.get_title()


def test_many_classes_have_no_labels(tmp_path: Path) -> None:
    figure = confusion_figure(np.eye(60, dtype=np.int64), tuple(map(str, range(60))))
    assert not len(figure.axes[0].get_xticks()) and not figure.axes[0].texts
    draw_confusion(np.eye(60, dtype=np.int64), tuple(map(str, range(60))), tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_percents() -> None:
    assert [in_percent(share) for share in (0.001, 0.01, 0.5, 0.994, 0.996, 1.0)] == ["<1", "1", "50", "99", ">99", "100"]
