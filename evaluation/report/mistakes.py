"""OUT/mistakes read back, ready to be drawn: thumbnails as data, views as boxes on them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ReportError
from .results import not_readable

INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class ShownView:
    """A view; its box in percent of the image's width and height."""

    short_side_px: int
    left_percent: float
    top_percent: float
    width_percent: float
    height_percent: float
    size_px: tuple[int, int]  # (height, width) of what was cut
    mirrored: bool
    whole: bool  # a dense view
    answer_probability: float
    label_probability: float


@dataclass(frozen=True, slots=True)
class ShownMistake:
    """A wrong answer; the surest view first."""

    runtime: str
    views_of: tuple[str, str, tuple[int, ...], str]  # model, protocol, scales, pooling
    image: str
    label: str
    answer: str
    probability: float
    label_probability: float
    size_px: tuple[int, int]  # (height, width)
    views_total: int
    views_agreeing: int
    views: tuple[ShownView, ...]
    thumbnail: str | None  # a data: URI; None: the image was gone


def read_mistakes(out: Path) -> list[ShownMistake]:
    """None without OUT/mistakes. Raises ReportError."""
    path = out / "mistakes" / INDEX
    try:
        return [_mistake(path.parent, entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError as error:
        if Path(error.filename) == path:
            return []
        raise ReportError(f"{error.filename}: no such file, but {path} names it: run the evaluation again") from None
    except OSError as error:
        raise ReportError(f"{error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, ZeroDivisionError) as error:
        raise not_readable(path, error) from None


def _mistake(folder: Path, entry: Mapping[str, Any]) -> ShownMistake:
    scales = tuple(int(q) for q in entry["scales"])
    return ShownMistake(
        str(entry["runtime"]),
        (str(entry["model"]), str(entry["protocol"]), scales, str(entry["pooling"])),
        str(entry["image"]),
        str(entry["label"]),
        str(entry["answer"]),
        float(entry["probability"]),
        float(entry["label_probability"]),
        (int(entry["size"][0]), int(entry["size"][1])),
        int(entry["views_total"]),
        int(entry["views_agreeing"]),
        tuple(map(_view, entry["views"])),
        None if entry["thumbnail"] is None else _data_uri(folder, str(entry["thumbnail"])),
    )


def _view(view: Mapping[str, Any]) -> ShownView:
    height, width = (int(side) for side in view["rescaled_px"])
    box_top, box_left, box_height, box_width = (int(side) for side in view["box"])
    return ShownView(
        int(view["short_side_px"]),
        100 * box_left / width,
        100 * box_top / height,
        100 * box_width / width,
        100 * box_height / height,
        (box_height, box_width),
        bool(view["mirrored"]),
        (box_height, box_width) == (height, width),
        float(view["answer_probability"]),
        float(view["label_probability"]),
    )


def _data_uri(folder: Path, name: str) -> str:
    if Path(name).name != name:
        raise ValueError(f"thumbnail {name!r} is not a file beside it")
    return f"data:image/jpeg;base64,{base64.b64encode((folder / name).read_bytes()).decode()}"
