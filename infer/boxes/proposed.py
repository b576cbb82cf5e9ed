"""Tables of proposals as Parquet: for each image the boxes that may hold an object, in the image's own pixels.

`python -m evaluation.proposals` writes them. A net of regions learns from them, and looks at them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..data import own_parquet as parquet
from ..data.annotations import Box
from ..data.folder import printable
from ..errors import Refused
from ..spec import Size

OK = "ok"
PROPOSAL = pa.struct(
    [*((edge, pa.float32()) for edge in Box._fields), ("score", pa.float32()), ("method", pa.string())]
)
SCHEMA = pa.schema(
    {
        "image": pa.string(),
        "status": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "boxes": pa.list_(PROPOSAL),
    }
)
ROWS = 100
"""Images that are read at once."""


class ProposalsError(Refused):
    """A table of proposals that cannot be used; one line."""


@dataclass(frozen=True, slots=True)
class ProposedImage:
    """The proposals of an image of `size_px` (height, width): boxes f32 [n, 4] as annotations.Box, scores f32 [n] and
    methods [n], the best of each method first. status: "ok", or why there are none."""

    image: str
    status: str
    size_px: Size
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    methods: list[str]


def exif_of_proposals(path: Path) -> str | None:
    """What was done with the rotation that a camera noted ("ignore" or "apply"), None where the table does not say it.

    Raises ProposalsError.
    """
    with parquet.opened(path, "a table of proposals", "evaluation.proposals", ProposalsError) as table:
        return table.metadata.get("exif")


def read_proposals(path: Path) -> Iterator[ProposedImage]:
    """Reads a table, in its order.

    Raises ProposalsError, also for an image that is there twice; of damage at the end.
    """
    seen: set[str] = set()
    with parquet.opened(path, "a table of proposals", "evaluation.proposals", ProposalsError) as table:
        if not table.schema.equals(SCHEMA):
            raise ValueError("other columns")
        for batch in table.parts(ROWS):
            lists = batch.column("boxes")
            if lists.null_count or any(
                batch.column(name).null_count for name in ("image", "status", "height", "width")
            ):
                raise ValueError("empty cells")
            offsets, values = lists.offsets.to_numpy(), lists.values
            columns = [values.field(edge).to_numpy(zero_copy_only=False) for edge in Box._fields]
            boxes, scores = np.stack(columns, 1), values.field("score").to_numpy(zero_copy_only=False)
            methods = values.field("method").to_pylist()
            known = zip(
                *(batch.column(name).to_pylist() for name in ("image", "status", "height", "width")), strict=True
            )
            for number, (image, status, height, width) in enumerate(known):
                if image in seen:
                    raise ProposalsError(f"{path}: has {printable(image)[:80]} twice, expected each image once")
                seen.add(image)
                own = slice(int(offsets[number]), int(offsets[number + 1]))
                yield ProposedImage(image, status, (height, width), boxes[own], scores[own], methods[own])
