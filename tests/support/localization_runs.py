"""Runs of evaluation.localization in tests: their words, and the files they leave."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from infer.data.annotations import Box
from infer.onnx_engine import OnnxEngine

IMAGES = 24


@functools.cache
def opened(path: Path) -> OnnxEngine:
    return OnnxEngine(path)


def only(out: Path) -> Path:
    """The one table of boxes of a run that ended."""
    assert not (out / "unfinished-boxes").exists()
    (path,) = (out / "boxes").iterdir()
    return path


def report(out: Path) -> Any:
    return json.loads((out / "report.json").read_text())


def given_class(nets: dict[str, Path], data: Path, *more: str) -> list[str]:
    return ["--boxes", str(nets["scr"]), "--data", str(data), "--protocol", "given-class", *more]


def hits(box: Box, truth: Box) -> bool:
    w = min(box.xmax, truth.xmax) - max(box.xmin, truth.xmin) + 1
    h = min(box.ymax, truth.ymax) - max(box.ymin, truth.ymin) + 1
    areas = [(b.xmax - b.xmin + 1) * (b.ymax - b.ymin + 1) for b in (box, truth)]
    return w > 0 and h > 0 and w * h / (sum(areas) - w * h) >= 0.5


BOXES = "ILSVRC2012_bbox_val_v3"
