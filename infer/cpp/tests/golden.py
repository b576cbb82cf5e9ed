"""Writes golden.json: what Python gives for taps, plans, rescaled images and index tables; C++ must give the same.

    python infer/cpp/tests/golden.py > infer/cpp/tests/golden.json

Of each case a 64-bit FNV-1a digest of the int32 values, little-endian, in the order that tests.cpp says.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from infer import self_test
from infer.pixels.render import make_taps, resize
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
}


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
    golden = {
        "magic": MAGIC,
        "version": VERSION,
        "command": COMMAND,
        "taps": taps,
        "resized": resized,
        "specs": specs,
        "plans": plans,
    }
    lines = [
        f'"{key}": {_rows(value) if isinstance(value, list) else json.dumps(value)}' for key, value in golden.items()
    ]
    print("{\n" + ",\n".join(lines) + "\n}")


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
