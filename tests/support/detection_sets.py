"""Small data sets of detection with proposals that need no search: objects moved a little, and boxes anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infer.boxes.proposed import OK, SCHEMA
from infer.data import own_parquet
from infer.data.annotations import Box
from infer.data.detection import boxes_in, open_detection
from infer.pixels.decode import decode
from trainer.miniature import detection


def make_scenes(folder: Path, train: int = 24, val: int = 6) -> Path:
    """The miniature of detection with so many scenes."""
    detection.make(folder, train_scenes=train, val_scenes=val)
    return folder


def write_proposals(data: Path, split: Any, path: Path, *, near: int = 4, anywhere: int = 8) -> Path:
    """A table of proposals: of each object `near` boxes a few pixels off, and boxes anywhere in the image."""
    found = open_detection(data, split)
    rows = []
    for number, item in enumerate(found.items):
        rng = np.random.default_rng((7, number))
        height, width = decode(item.read_bytes(), name=item.name).shape[:2]
        boxes = []
        for one in boxes_in(found.objects[number], found.sizes_px[number], (height, width)):
            boxes += [np.array(one.box) + rng.uniform(-3, 3, 4) for _ in range(near)]
        for _ in range(anywhere):
            across, down = np.sort(rng.uniform(1, width, 2)), np.sort(rng.uniform(1, height, 2))
            boxes.append(np.array([across[0], down[0], across[1], down[1]]))
        rows.append(row(item.name, (height, width), np.array(boxes)))
    own_parquet.write([pa.Table.from_pylist(rows, SCHEMA)], path, 10)
    return path


def row(image: str, size_px: tuple[int, int], boxes: Any, status: str = OK) -> dict[str, Any]:
    """A row of a table of proposals."""
    found = [
        {**dict(zip(Box._fields, map(float, box), strict=True)), "score": -float(place), "method": "given"}
        for place, box in enumerate(np.reshape(boxes, (-1, 4)))
    ]
    return {"image": image, "status": status, "height": size_px[0], "width": size_px[1], "boxes": found}
