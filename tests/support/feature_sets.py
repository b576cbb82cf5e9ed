"""Small data sets in VOC's and Caltech's formats, whose classes can be told by their colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers import encode
from numpy.typing import NDArray

CLASSES = ("bus", "cat")
OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def tinted(number: int, colour: int) -> NDArray[np.uint8]:
    """u8 [80, 100, 3]: noise that has more of one colour."""
    pixels = np.random.default_rng(number).integers(0, 100, (80, 100, 3), np.uint8)
    pixels[..., colour] += 120
    return pixels


def voc(root: Path, *, server: bool = False, images: int = 36) -> Path:
    """`images` images, every third for training, validation and test; odd ones are a bus, even ones a cat, and in every
    twelfth there is a bus that is difficult. For actions, each image has two people and a horse between them."""
    for folder in ("ImageSets/Main", "ImageSets/Action", "JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True)
    names = [f"{i:06d}" for i in range(1, images + 1)]
    sets = {"train": names[0::3], "val": names[1::3], "test": names[2::3]}
    sets["trainval"] = sorted(sets["train"] + sets["val"])
    for name, own in sets.items():
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{one}\n" for one in own))
        people = "".join(f"{one} {person}\n" for one in own for person in (1, 3))
        (root / "ImageSets" / "Action" / f"{name}.txt").write_text(people)
        for number, of_class in enumerate(CLASSES):
            if name == "test" and server:
                continue
            labels = {one: 1 if int(one) % 2 != number else -1 for one in own}
            lines = "".join(f"{one} {person} {label}\n" for one, label in labels.items() for person in (1, 3))
            (root / "ImageSets" / "Action" / f"{of_class}_{name}.txt").write_text(lines)
            labels |= {one: 0 for one in own if of_class == "bus" and int(one) % 12 == 0}
            lines = "".join(f"{one} {label:2d}\n" for one, label in labels.items())
            (root / "ImageSets" / "Main" / f"{of_class}_{name}.txt").write_text(lines)
    for one in names:
        (root / "JPEGImages" / f"{one}.jpg").write_bytes(encode(tinted(int(one), int(one) % 2), "JPEG"))
        objects = [("person", 5, 11, 44, 70), ("horse", 1, 1, 9, 9), ("person", 61, 31, 90, 70)]
        xml = "".join(OBJECT.format(*found) for found in objects)
        (root / "Annotations" / f"{one}.xml").write_text(f"<annotation>{xml}</annotation>")
    return root


def caltech(root: Path, name: str, images: int) -> Path:
    """Three classes of `images` each, the last of them clutter, stored in several kinds."""
    classes = (
        ("001.ak47", "002.bear", "257.clutter") if name.startswith("256") else ("ant", "bass", "BACKGROUND_Google")
    )
    for number, of_class in enumerate(classes):
        folder = root / name / of_class
        folder.mkdir(parents=True)
        for i in range(images):
            pixels = tinted(100 * number + i, number)
            kind = ("JPEG", "PNG", "GIF")[i % 3]
            (folder / f"image_{i:04d}.{kind.lower().replace('jpeg', 'jpg')}").write_bytes(encode(pixels, kind))
    return root / name
