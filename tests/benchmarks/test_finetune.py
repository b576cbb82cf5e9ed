"""benchmarks/finetune.py: what its sets of images are made of, and what its table says. Its runs take too long."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from conftest import VAL_DIGITS
from helpers import make_scores
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks import finetune
from benchmarks.finetune import ARMS, SUBJECTS, Outcome, digits_by_name, results
from trainer import miniature


def ink(image: Path, boxes: Path) -> np.ndarray:
    """The digit that an image shows, as far as its box: 16x16, of mean 0 and length 1."""
    found = ElementTree.parse(boxes).find("object/bndbox")
    assert found is not None
    left, top, right, bottom = (int(found.findtext(name) or 0) for name in ("xmin", "ymin", "xmax", "ymax"))
    grey = np.asarray(Image.open(image).convert("L"), np.float32)[top - 1 : bottom, left - 1 : right]
    return unit(cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA))


def unit(pixels: np.ndarray) -> np.ndarray:
    return (pixels - pixels.mean()) / np.linalg.norm(pixels - pixels.mean())


def drawn(digit: np.ndarray) -> np.ndarray:
    """The ink of a digit of scikit-learn's, cut as the miniature cuts it."""
    large = cv2.resize((digit / 16).astype(np.float32), (96, 96), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    ys, xs = np.nonzero(large > 0.3)
    return unit(cv2.resize(large[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1], (16, 16)))


def test_an_image_shows_the_digit_that_it_is_said_to(miniature_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the digits of its class it looks most like that one."""
    monkeypatch.setattr(miniature, "VAL_DIGITS", VAL_DIGITS)
    said, bunch = digits_by_name(), load_digits()
    digests = [finetune.digest_of(image) for image in bunch.images]
    assert len(set(digests)) == len(digests)
    inks = np.stack([drawn(image) for image in bunch.images])

    right = seen = 0
    for path in sorted((miniature_dir / "ILSVRC2012_img_train").rglob("*.JPEG")):
        wnid = path.parent.name
        seen_ink = ink(path, miniature_dir / "ILSVRC2012_bbox_train_v2" / wnid / f"{path.stem}.xml")
        own = np.flatnonzero(bunch.target == miniature.WNIDS.index(wnid))
        best = own[np.argmax([(inks[place] * seen_ink).sum() for place in own])]
        right += digests[best] == said[path.name]
        seen += 1
    assert seen == 64 and right >= 56  # chance: one of 180 each


def test_the_difference_is_of_the_same_images_and_seeds() -> None:
    """Of 40 images fine-tuned nets err on 4, others on 12, in each seed; so do both on none that the other does."""
    masks = {ARMS[0]: range(4), ARMS[1]: range(4, 16)}
    arms = {
        arm: [make_scores([[0.1, 0.9] if place in wrong else [0.9, 0.1] for place in range(40)], [0] * 40)] * 3
        for arm, wrong in masks.items()
    }
    found = {(subject, arm): Outcome([], [], arms[arm]) for subject in SUBJECTS for arm in ARMS}
    row = results(found).splitlines()[2]
    assert "**10.0**" in row and "**30.0**" in row and "**-20.0** [" in row
    assert row.count("4, 12 (p 0.077)") == 3
