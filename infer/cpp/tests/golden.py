"""Writes golden.json: what Python gives for taps, plans, rescaled images, regions and objects; C++ must
give the same.

    python infer/cpp/tests/golden.py > infer/cpp/tests/golden.json

Of each case a 64-bit FNV-1a digest of the int32 values, little-endian, in the order that tests.cpp says.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from infer import self_test
from infer.boxes.detecting import Suppression, find_objects
from infer.boxes.multibox import found_boxes, plan_whole
from infer.pixels.regions import inside, make_picture, picture_px, plan_regions
from infer.pixels.render import make_taps, render, resize
from infer.spec import ModelSpec, Preprocessing
from infer.views import PROTOCOLS, default_scales, default_shapes, out_of_range, plan_views

MAGIC, VERSION = "verydeep golden", 1
COMMAND = "python infer/cpp/tests/golden.py > infer/cpp/tests/golden.json"
SIZES = [
    (8, 8),
    (8, 2000),
    (375, 500),
    (500, 375),
    (224, 224),
    (225, 333),
    (31, 77),
    (97, 41),
    (1200, 1600),
    (640, 427),
]
SPECS = {
    "vgg": {"train_short_px": (256, 512)},
    "fixed": {"train_short_px": 384},
    "torchvision": {
        "train_short_px": 256,
        "preprocessing": Preprocessing(
            (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "bilinear", "apply", "floor", "torchvision"
        ),
    },
    "slim": {"train_short_px": (72, 120), "crop_px": 64},
    "odd": {"train_short_px": 229, "crop_px": 225, "stride_px": 1, "fixed_size": True},
    "half": {"train_short_px": 84, "crop_px": 84, "stride_px": 28},  # a picture of 187.5 px
}
REGION_SIZES = [*SIZES, (4000, 8), (1, 1), (1, 300)]
PLACES = [
    (0.0, 0.0, 1.0, 1.0),
    (0.1, 0.2, 0.35, 0.9),
    (-0.5, 0.4, 0.2, 0.6),
    (0.93, 0.93, 1.5, 1.5),
    (0.501, 0.498, 0.5013, 0.4987),
    (0.999, 0.0, 1.0, 0.001),
    (0.25, 0.25, 0.75, 0.75),
    (-9.0, -9.0, 9.0, 9.0),
]
"""Regions as shares of an image's width and height: left, top, right, bottom."""


def digest(values: object) -> str:
    """FNV-1a."""
    found = 0xCBF29CE484222325
    for byte in np.asarray(values).astype("<i4").tobytes():
        found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{found:016x}"


def main() -> None:
    taps = []
    for n_in, n_out in [
        (375, 256),
        (500, 341),
        (500, 683),
        (8, 512),
        (1, 3),
        (2048, 256),
        (33, 34),
        (640, 640),
        (97, 7),
    ]:
        for filter in ("bicubic", "bilinear"):
            axis = make_taps(n_in, n_out, filter)  # type: ignore[arg-type]
            taps.append([n_in, n_out, filter, len(axis.taps), digest(axis.first), digest(axis.taps)])
    resized = []
    for number, size in [(0, (64, 64)), (1, (100, 37)), (2, (256, 301)), (3, (7, 9)), (5, (300, 280))]:
        image = self_test.make_image(number, spec("vgg"))
        for filter in ("bicubic", "bilinear"):
            resized.append([number, *size, filter, digest(resize(image, size, filter))])  # type: ignore[arg-type]
    specs, plans = {name: spec(name).to_json() for name in SPECS}, []
    for name in SPECS:
        own = spec(name)
        shapes = default_shapes(own)
        for protocol in PROTOCOLS:
            scales = default_scales(own, protocol)
            for size in SIZES:
                plan = plan_views(own, protocol, size, scales)
                views = [[v.short_side_px, *v.box, v.resize_px or 0, v.mirrored] for v in plan.views]
                reason = out_of_range(plan, shapes, own)
                weights = [round(1 / v.weight) for v in plan.views]
                plans.append([name, protocol, *size, list(scales), digest(views), digest(weights), reason is None])
    regions, pictures = _regions()
    golden = {
        "magic": MAGIC,
        "version": VERSION,
        "command": COMMAND,
        "taps": taps,
        "resized": resized,
        "specs": specs,
        "plans": plans,
        "regions": regions,
        "pictures": pictures,
        "proposals": _proposals(),
        "objects": _objects(),
    }
    lines = [
        f'"{key}": {_rows(value) if isinstance(value, list) else json.dumps(value)}' for key, value in golden.items()
    ]
    print("{\n" + ",\n".join(lines) + "\n}")


def _boxes(size: tuple[int, int]) -> NDArray[np.float64]:
    """PLACES of an image of (height, width)."""
    return np.array(PLACES) * [size[1], size[0], size[1], size[0]] + [1, 1, 0, 0]


def _regions() -> tuple[list[object], list[object]]:
    """Plans of regions (spec, image, picture, boxes, digest of rectangles), and pixels (spec, image of the self-test,
    boxes, digests of the picture, of the regions, and of the whole warped)."""
    plans: list[object] = []
    pictures: list[object] = []
    for name in SPECS:
        own = spec(name)
        for size in REGION_SIZES:
            boxes = _boxes(size)
            boxes = boxes[inside(boxes, size)]
            views = plan_regions(boxes, size, own).views
            numbers = [[*v.box, *(v.inner or (0, 0, 0, 0)), v.resize_px] for v in views]
            plans.append([name, *size, [*picture_px(size, own)], boxes.tolist(), digest(numbers)])
    for name, number in [("vgg", 1), ("torchvision", 2), ("slim", 0), ("odd", 3), ("half", 5)]:
        own = spec(name)
        image = self_test.make_image(number, own)
        size = (image.shape[0], image.shape[1])
        picture = make_picture(image, own)
        cut = render(picture, plan_regions(_boxes(size), size, own).views, own)
        whole = render(picture, plan_whole(size, own).views, own)
        pictures.append([name, number, _boxes(size).tolist(), digest(picture), digest(cut), digest(whole)])
    return plans, pictures


def _proposals() -> list[object]:
    """Answers of a MultiBox net to an image of 300x200 px, and the boxes that are found."""
    rng = np.random.default_rng(3)
    corners, sides = rng.uniform(-0.2, 0.8, (60, 2)), rng.uniform(-0.02, 0.6, (60, 2))
    answer = np.concatenate([corners, corners + sides, rng.uniform(0, 1, (60, 1)).round(1)], 1).astype(np.float32)
    return [answer.tolist(), found_boxes(answer, (300, 200)).boxes.tolist()]


def _objects() -> list[object]:
    """Posteriors of regions, their boxes, the least that counts, and the objects: class, score, box."""
    rng = np.random.default_rng(4)
    posterior = rng.dirichlet(np.full(4, 0.5), 40).round(2).astype(np.float32)
    corners = rng.integers(1, 60, (40, 2))
    boxes = np.concatenate([corners, corners + rng.integers(-1, 60, (40, 2))], 1).astype(np.float64)
    found = find_objects(posterior, boxes, Suppression(least=0.3))
    objects = zip(found.classes.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return [posterior.tolist(), boxes.tolist(), 0.3, [list(one) for one in objects]]


def _rows(rows: list[object]) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"


def spec(name: str) -> ModelSpec:
    return dataclasses.replace(
        ModelSpec("golden", "D", ("a", "b"), Preprocessing((123.68, 116.779, 103.939)), 256),
        test_short_px=0,
        **SPECS[name],
    )


if __name__ == "__main__":
    main()
