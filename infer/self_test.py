"""The self-test that travels with a model: right answers for sixteen seeded images, on whatever device it is opened.

The images come from integer arithmetic alone, so any language can make them. For one view of each the model carries
the pixel sums, which must match exactly, and the FP32 log-posterior of the net it was exported from; an INT8 net, which
may differ from that on noise, carries its own. A box net carries the mean of its boxes over positions, a MultiBox net
all numbers of its boxes.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np

from .engine import Engine, EngineError
from .pixels.decode import Pixels
from .spec import ModelSpec, Size
from .views import View, ViewPlan, plan_views

IMAGES = 16
SUMS = "pixel_sums"
TOLERANCE = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.02}
"""Largest difference that passes, by precision of the graph: of a posterior, or of a box in units of crop_px or of a
MultiBox net's view, relative to what is larger than one."""


class Expectations(msgspec.Struct, frozen=True):
    """The right answers of a model: sums of pixels [images, 6], and one of the others [images, classes].

    A model whose engine had no pixel sums when they were recorded has none here.
    """

    pixel_sums: list[list[int]] = []
    log_posterior: list[list[float]] = []
    mean_box: list[list[float]] = []


def make_image(number: int, spec: ModelSpec) -> Pixels:
    """Image `number` u8 RGB [h, w, 3]: blocks of 7 px, each channel of each a hash of its place.

    Every other pair of images is portrait.
    """
    height = spec.crop_px + (37 * number) % 64
    width = height + 20 + (53 * number) % 60
    if number % 4 >= 2:
        height, width = width, height

    y, x, c = np.meshgrid(*(np.arange(n, dtype=np.uint64) for n in (height, width, 3)), indexing="ij")
    mixed = (y // 7 * 73_856_093) ^ (x // 7 * 19_349_663) ^ (c * 83_492_791) ^ np.uint64(number * 40_503 + 1)
    pixels: Pixels = ((mixed * 2_654_435_761 >> 16) & 255).astype(np.uint8)
    return pixels


def make_plan(number: int, image_px: Size, spec: ModelSpec) -> ViewPlan:
    """One view: in turn the centre crop, the whole image, and the whole image mirrored, at scales that vary.

    A net that takes crops alone gets the centre crop.
    """
    scale = spec.crop_px + (11 * number) % 32
    kind = 0 if spec.fixed_size else number % 3
    views = plan_views(spec, "center" if kind == 0 else "dense", image_px, [scale]).views
    view = views[0] if kind < 2 else views[1]
    return ViewPlan("self-test", image_px, (View(view.short_side_px, view.box, mirrored=view.mirrored),))


def record(engine: Engine) -> str:
    """The right answers as JSON, from a trusted engine: of FP32, or for an INT8 net of its own check graph."""
    sums, values = _run(engine)
    content: dict[str, Any] = {"images": IMAGES}
    if sums is not None:
        content["pixel_sums"] = sums.tolist()
    if engine.spec.task == "classify":
        content["log_posterior"] = np.log(np.maximum(values, 1e-30)).round(5).tolist()
    else:
        content["mean_box"] = values.astype(np.float64).round(6).tolist()
    return json.dumps(content)


def check(engine: Engine, expected: Any) -> float:
    """Runs the self-test; returns the largest difference (see TOLERANCE). Raises EngineError where it is too large."""
    if not expected:
        raise EngineError(f"{engine.spec.name} carries no self-test: export it again with this version")
    right_sums, known = _expectations(engine.spec, expected)
    sums, values = _run(engine)

    wrong = np.flatnonzero((sums != right_sums).any(1)) if sums is not None else np.array([])
    if wrong.size:
        raise EngineError(
            f"self-test of {engine.spec.name} on {engine.runtime}: image {wrong[0]} gave pixel sums "
            f"{sums[wrong[0]].tolist()}, expected {right_sums[wrong[0]].tolist()}: this runtime sees other pixels"
        )

    what = "posterior" if engine.spec.task == "classify" else "box"
    difference = float((np.abs(values - known) / np.maximum(1, np.abs(known))).max())
    tolerance = TOLERANCE[engine.spec.precision]
    if not difference <= tolerance:
        raise EngineError(
            f"self-test of {engine.spec.name} on {engine.runtime}: a {what} differs by {difference:.2g} from "
            f"{_right(engine.spec)}, expected at most {tolerance}: do not use it on this device"
        )
    return difference


def _right(spec: ModelSpec) -> str:
    """What a self-test compares with."""
    return "what this INT8 net answered when it was exported" if spec.precision == "int8" else "the FP32 net"


def _expectations(spec: ModelSpec, expected: Any) -> tuple[Any, Any]:
    """Pixel sums i64 [images, 6] and posteriors or boxes f64 [images, channels] that are right. Raises EngineError.

    The sums count only where the engine has some.
    """
    try:
        content = msgspec.convert(expected, Expectations)
        is_classifier = spec.task == "classify"
        given = content.log_posterior if is_classifier else content.mean_box
        sums, values = np.array(content.pixel_sums), np.array(given, np.float64)
        if (SUMS in spec.outputs and sums.shape != (IMAGES, 6)) or values.shape != (IMAGES, spec.channels):
            raise ValueError(f"answers {list(values.shape)}, expected {[IMAGES, spec.channels]}")
        if is_classifier and (values > 1).any():
            raise ValueError("a probability above 1")
        return sums, np.exp(values) if is_classifier else values
    except (msgspec.ValidationError, ValueError, OverflowError, RecursionError) as error:
        raise EngineError(f"self-test of {spec.name}: damaged ({error}): export it again") from None


def _run(engine: Engine) -> tuple[Any, Any]:
    """Pixel sums [images, 6] and posteriors [images, classes], or mean boxes [images, channels], of the images.

    An engine for apps has no pixel sums: None.
    """
    images = [make_image(number, engine.spec) for number in range(IMAGES)]
    plans = [make_plan(n, (picture.shape[0], picture.shape[1]), engine.spec) for n, picture in enumerate(images)]
    if engine.spec.task == "classify":
        outputs = [name for name in ("posterior", SUMS) if name in engine.spec.outputs]
        results = engine.run(engine.load(images), plans, outputs)
        return results.get(SUMS), results["posterior"]

    if engine.spec.task == "multibox":
        results = engine.run(engine.load(images), plans, ("boxes", SUMS))
        return results[SUMS], results["boxes"].reshape(IMAGES, -1)

    sums, boxes = [], []
    for picture, plan in zip(images, plans, strict=True):  # maps of different sizes are different outputs
        results = engine.run(engine.load([picture]), [plan], ("box_map", SUMS))
        sums.append(results[SUMS])
        boxes.append(results["box_map"].mean((2, 3)))
    return np.concatenate(sums), np.concatenate(boxes)
