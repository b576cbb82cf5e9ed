"""Dense profiles from the images that an engine is for: `--profile auto --data DIR`.

Only headers are read. What comes out is an ordinary `dense` option, which is printed, so that it can be typed, changed
and given to an engine for another data set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from infer.data.dataset import open_dataset
from infer.pixels.decode import ImageError, image_size
from infer.shapes import MAX_ASPECT, MIN_SOURCE_PX
from infer.spec import ModelSpec, Size
from infer.views import default_scales, plan_views

from .profiles import ProfileError, ProfileOption

NAMED = 3
"""Images that are left out and printed by name."""


@dataclass(frozen=True, slots=True)
class DataSizes:
    """Sizes (height, width) in pixels of the images of a data set, and an example of each."""

    dataset_id: str
    counts: Counter[Size]
    examples: Mapping[Size, str]
    unreadable: tuple[str, ...]  # one line each, image and reason


class DenseRange(NamedTuple):
    """The dense profile of a data set, and the lines that say where it comes from."""

    option: ProfileOption
    lines: tuple[str, ...]


def read_sizes(root: Path) -> DataSizes:
    """Sizes of the validation images of a data set. Raises DatasetError."""
    dataset = open_dataset(root)
    counts: Counter[Size] = Counter()
    examples: dict[Size, str] = {}
    unreadable = []

    for item in tqdm(dataset.items, desc="sizes", unit="img", disable=None):
        try:
            size = image_size(item.file, name=item.name)
        except ImageError as error:
            unreadable.append(str(error))
            continue
        counts[size] += 1
        examples.setdefault(size, item.name)
    return DataSizes(dataset.listing_digest, counts, examples, tuple(unreadable))


def dense_range(spec: ModelSpec, sizes: DataSizes, image_px: int = 0) -> DenseRange:
    """The dense profile for the images of up to MAX_ASPECT, at the model's own scales.

    It is tuned for the most common size at the scale in the middle. `image_px`: the option's `image`. Raises
    ProfileError where there is no such image.
    """
    scales = default_scales(spec, "dense")
    common, rescaled, beyond = None, [], []

    # images beyond the range are left out, and named
    for size, count in sizes.counts.most_common():
        short, long = sorted(size)
        if short < MIN_SOURCE_PX or long * MAX_ASPECT[1] > short * MAX_ASPECT[0]:
            beyond.append((size, count))
            continue
        common = common or size
        rescaled += [_rescaled(spec, size, scale) for scale in scales]
    left_out = sum(count for _, count in beyond)
    images = sizes.counts.total() - left_out
    if common is None:
        raise ProfileError(
            f"profile auto: no image of {sizes.dataset_id} has sides of {MIN_SOURCE_PX} px or more and an aspect of up "
            f"to {MAX_ASPECT[0]}:{MAX_ASPECT[1]} ({left_out} beyond, {len(sizes.unreadable)} unreadable): say "
            "--profile dense:min=...,opt=...,max=..."
        )

    # one range around all others
    shorts, longs = zip(*rescaled, strict=True)
    option = ProfileOption(
        "dense",
        {"image": image_px} if image_px else {},
        {
            "min": (min(shorts), min(longs)),
            "opt": _rescaled(spec, common, scales[len(scales) // 2]),
            "max": (max(shorts), max(longs)),
        },
    )

    lines = [
        f"profile auto: {images} images of {sizes.dataset_id} at {', '.join(map(str, scales))}, most often "
        f"{common[1]}x{common[0]} px: --profile {_typed(option)}"
    ]
    if beyond:
        names = ", ".join(f"{sizes.examples[size]} ({size[1]}x{size[0]} px)" for size, _ in beyond[:NAMED])
        lines.append(
            f"profile auto: {left_out} images beyond an aspect of {MAX_ASPECT[0]}:{MAX_ASPECT[1]} or below "
            f"{MIN_SOURCE_PX} px left out, such as {names}"
        )
    if sizes.unreadable:
        lines.append(f"profile auto: {len(sizes.unreadable)} images unreadable, first {sizes.unreadable[0]}")
    return DenseRange(option, tuple(lines))


def _rescaled(spec: ModelSpec, size: Size, scale: int) -> Size:
    """(short, long) side of an image at a scale, as the evaluation plans it."""
    (_, _, height, width) = plan_views(spec, "dense", size, [scale]).views[0].cut
    return min(height, width), max(height, width)


def _typed(option: ProfileOption) -> str:
    """The option as it would be typed."""
    items = [f"{key}={short}x{long}" for key, (short, long) in option.sizes.items()]
    return f"{option.name}:{','.join([*items, *(f'{key}={value}' for key, value in option.numbers.items())])}"
