"""Optimisation profiles: which shapes an engine accepts, from --profile to the builder's entries.

Every entry of a profile follows from one ShapeRange, so entries cannot contradict each other; ranges that cannot work
are refused here, since the builder accepts some of them. Knows nothing of TensorRT.

`--profile auto --data DIR` is a dense profile from the images that an engine is for, of which only headers are read. It
becomes an ordinary `dense` option, which is printed, so that it can be typed, changed and given to an engine for
another data set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from infer.command import print_notes
from infer.data.dataset import open_dataset
from infer.errors import Refused
from infer.pixels.decode import ImageError, image_size
from infer.spec import Interface, ModelSpec, Size
from infer.views import (
    DENSE_VIEWS,
    FEW_CROPS,
    MAX_ASPECT,
    MAX_ELEMENTS,
    MIN_SOURCE_PX,
    Extent,
    ShapeRange,
    crops_shape,
    default_scales,
    default_shapes,
    dense_shapes,
    few_crops_shape,
    plan_views,
)


class ProfileError(Refused):
    """A profile that cannot be read or cannot work; one line: got, expected, do this."""


class ProfileOption(NamedTuple):
    """One --profile as it was typed: `numbers` are plain values, `sizes` (short, long) sides in pixels."""

    name: str
    numbers: dict[str, int]
    sizes: dict[str, Size]


@dataclass(frozen=True, slots=True)
class _Keys:
    numbers: tuple[str, ...]
    sizes: tuple[str, ...]
    example: str


PROFILES = {
    "crops": _Keys(("views", "image"), (), "crops:views=50"),
    "batch": _Keys(("image",), (), "batch:image=2048"),
    "few": _Keys(("views", "image"), (), "few:views=8"),
    "dense": _Keys(("views", "image"), ("min", "opt", "max"), "dense:min=224x224,opt=256x341,max=512x1365"),
    "auto": _Keys(("image",), (), "auto:image=2048"),
}
"""Keys of each profile. `views` is how many share a call at most. `image` is the longest side of an image, uploaded or
rescaled: memory grows with its square.

`batch` is `crops` for all grid crops of an image at once, 50 at each scale; `few` is of crops too, tuned for few in a
call, and there by default unless `crops` or `batch` says which crops there are; `auto` is `dense` for the images of a
data set (`dense_range` makes one of the other).
"""
EXCLUSIVE = (("crops", "batch"), ("dense", "auto"))
"""Two names for one profile: only one may be given."""
GRID_CROPS = 50
"""Views of `multicrop` at one scale (VGG section 3.2)."""


def parse_profile(text: str) -> ProfileOption:
    """`crops:views=50` or `dense:min=224x224,opt=256x341,max=512x1365`; every key is optional.

    Raises ProfileError for a name, key or value that is none.
    """
    name, _, rest = text.partition(":")
    if name not in PROFILES:
        raise ProfileError(f"unknown profile {name!r}, expected one of {', '.join(PROFILES)}")

    keys = PROFILES[name]
    option = ProfileOption(name, {}, {})
    for item in rest.split(",") if rest else []:
        key, _, value = item.partition("=")
        if key in option.numbers or key in option.sizes:
            raise ProfileError(f"profile {name} names {key} twice")
        if key in keys.numbers:
            option.numbers[key] = _number(value, f"{name}:{item}", keys)
        elif key in keys.sizes:
            short, _, long = value.partition("x")
            option.sizes[key] = (_number(short, f"{name}:{item}", keys), _number(long, f"{name}:{item}", keys))
        else:
            known = ", ".join((*keys.numbers, *keys.sizes))
            raise ProfileError(f"profile {name} has no key {key!r}, only {known}: write it like {keys.example}")
    return option


def shapes_from_options(spec: ModelSpec, options: Mapping[str, ProfileOption] | None = None) -> tuple[ShapeRange, ...]:
    """The profiles of an engine, by default or as `options` (by name, without `auto`) say: crops, dense landscape,
    dense portrait and few crops, or crops alone for a net of fixed size.

    Raises ProfileError for ranges that contradict themselves, each other or the net.
    """
    given = dict(options or {})
    if "batch" in given:
        views = GRID_CROPS * len(default_scales(spec, "multicrop"))
        given["crops"] = ProfileOption("crops", {"views": views, **given["batch"].numbers}, {})

    crops, *dense = default_shapes(spec)
    if dense:
        dense = list(dense_shapes(spec, dense[0].height_px, dense[0].width_px, DENSE_VIEWS))
    if "crops" in given:
        views = given["crops"].numbers.get("views", crops.views.max)
        if 0 < spec.max_views < views:
            raise ProfileError(
                f"profile crops: {views} views in a call, but {spec.name} takes {spec.max_views}: use "
                f"crops:views={spec.max_views}"
            )
        crops = _with_image(crops_shape(spec, views), given["crops"], spec.interface)

    if "dense" in given:
        if not dense:
            raise ProfileError(
                f"profile dense: {spec.name} takes nothing but {spec.crop_px}x{spec.crop_px} px crops: leave it out"
            )
        short, long = _dense_extents(dense[0], given["dense"], spec)
        views = _dense_views(given["dense"], spec)
        dense = [_with_image(shape, given["dense"], spec.interface) for shape in dense_shapes(spec, short, long, views)]

    shapes = (crops, *dense, *_few_crops(spec, given, crops))
    for shape in shapes:
        _check(shape, spec)
    return shapes


def _few_crops(spec: ModelSpec, given: Mapping[str, ProfileOption], crops: ShapeRange) -> list[ShapeRange]:
    """The profile of few crops, where there is one beside `crops`. Raises ProfileError for one that is not of fewer."""
    if "few" not in given:
        return [few_crops_shape(spec)] if "crops" not in given and crops.views.max > FEW_CROPS else []
    views = given["few"].numbers.get("views", FEW_CROPS)
    if views >= crops.views.max:
        raise ProfileError(
            f"profile few: {views} views in a call are no fewer than the {crops.views.max} of profile crops: use "
            "fewer, or leave it out"
        )
    return [_with_image(few_crops_shape(spec, views), given["few"], spec.interface)]


def _dense_views(option: ProfileOption, spec: ModelSpec) -> int:
    """Dense views that share a call at most. Raises ProfileError for more than the net takes."""
    views = option.numbers.get("views", DENSE_VIEWS)
    if "views" in option.numbers and 0 < spec.max_views < views:
        raise ProfileError(
            f"profile dense: {views} views in a call, but {spec.name} takes {spec.max_views}: use "
            f"dense:views={spec.max_views}"
        )
    return views


def _number(text: str, item: str, keys: _Keys) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) == 0:
        raise ProfileError(f"cannot read {item!r}: expected whole numbers above 0, like {keys.example}")
    return int(text)


def _dense_extents(default: ShapeRange, option: ProfileOption, spec: ModelSpec) -> tuple[Extent, Extent]:
    """(short side, long side) of the dense views; what is not given is the default, moved into what is."""
    for key, (short, long) in option.sizes.items():
        if short > long:
            raise ProfileError(
                f"profile dense:{key}={short}x{long} names the long side first: write dense:{key}={long}x{short} "
                "(short x long; landscape and portrait are both built)"
            )

    smallest = option.sizes.get("min", (spec.crop_px, spec.crop_px))
    if min(smallest) < spec.crop_px:
        raise ProfileError(
            f"profile dense: a view of {smallest[0]}x{smallest[1]} px is below the {spec.crop_px} px that {spec.name} "
            "needs (its pools shrink it to nothing, and the builder would not mind): use "
            f"dense:min={spec.crop_px}x{spec.crop_px}"
        )

    sides = []
    for place, extent in enumerate((default.height_px, default.width_px)):
        given = {key: size[place] for key, size in option.sizes.items()}
        low = given.get("min", extent.min)
        high = given.get("max", max(extent.max, given.get("opt", low), low))
        opt = given.get("opt", min(max(extent.opt, low), high))
        if not low <= opt <= high:
            raise ProfileError(
                f"profile dense: a {('short', 'long')[place]} side of {low} (min), {opt} (opt), {high} (max) px is out "
                f"of order: expected min <= opt <= max, as in {PROFILES['dense'].example}"
            )
        sides.append(Extent(low, opt, high))
    return sides[0], sides[1]


def _with_image(shape: ShapeRange, option: ProfileOption, interface: Interface) -> ShapeRange:
    """`shape` for images of up to `image` px a side. Raises ProfileError where views do not fit into them."""
    if "image" not in option.numbers:
        return shape
    if interface != "views":
        raise ProfileError(
            f"profile {option.name}: image= bounds the image that views are cut from, which the {interface} interface "
            "does not have: leave it out"
        )

    largest = option.numbers["image"]
    if largest < max(shape.height_px.max, shape.width_px.max):
        raise ProfileError(
            f"profile {shape.name}: views of up to {shape.height_px.max}x{shape.width_px.max} px cannot be cut from "
            f"images of up to {largest} px: use image={max(shape.height_px.max, shape.width_px.max)} or more, "
            "or smaller views"
        )
    return replace(shape, rescaled_px=_below(shape.rescaled_px, largest), source_px=_below(shape.source_px, largest))


def _below(extent: Extent, largest: int) -> Extent:
    return Extent(extent.min, min(extent.opt, largest), largest)


def _check(shape: ShapeRange, spec: ModelSpec) -> None:
    """Raises ProfileError for images whose rescaling the builder would accept without being able to count."""
    gathered = 3 * shape.taps.max * shape.source_px.max * shape.rescaled_px.max
    if spec.interface == "views" and gathered > MAX_ELEMENTS:
        side = int((MAX_ELEMENTS / (3 * shape.taps.max)) ** 0.5)
        raise ProfileError(
            f"profile {shape.name}: rescaling images of up to {shape.source_px.max} px a side gathers {gathered} "
            f"elements, TensorRT's tensors hold {MAX_ELEMENTS}: use sides of at most {side} px"
        )


NAMED = 3
"""Images that are left out and printed by name."""


@dataclass(frozen=True, slots=True)
class DataSizes:
    """Sizes (height, width) in pixels of the images of a data set, and an example of each."""

    dataset_id: str
    counts: Counter[Size]
    examples: Mapping[Size, str]
    unreadable: tuple[str, ...]  # one line each, image and reason


def read_sizes(root: Path) -> DataSizes:
    """Sizes of the validation images of a data set. Raises DatasetError, and OSError for images that are gone."""
    dataset = open_dataset(root)
    print_notes(dataset.notes)
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


def dense_range(spec: ModelSpec, sizes: DataSizes, image_px: int = 0) -> tuple[ProfileOption, tuple[str, ...]]:
    """The dense profile for the images of up to MAX_ASPECT, at the model's own scales, and lines that say where from.

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
    return option, tuple(lines)


def _rescaled(spec: ModelSpec, size: Size, scale: int) -> Size:
    """(short, long) side of an image at a scale, as the evaluation plans it."""
    (_, _, height, width) = plan_views(spec, "dense", size, [scale]).views[0].cut
    return min(height, width), max(height, width)


def _typed(option: ProfileOption) -> str:
    """The option as it would be typed."""
    items = [f"{key}={short}x{long}" for key, (short, long) in option.sizes.items()]
    return f"{option.name}:{','.join([*items, *(f'{key}={value}' for key, value in option.numbers.items())])}"
