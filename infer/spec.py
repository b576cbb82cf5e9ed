"""The frozen values that describe a model for life: in the checkpoint, the ONNX metadata and the engine's sidecar.

Nothing here computes; a value checks itself when it is made and goes to JSON and back without loss.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

PoolRounding = Literal["ceil", "floor"]
Filter = Literal["bicubic", "bilinear"]
Interface = Literal["views", "images", "nchw"]
Precision = Literal["fp32", "fp16"]
Task = Literal["classify", "box-scr", "box-pcr"]
"""What the last layer says at each position: scores of the classes, one box, or a box of each class (VGG's appendix A:
single-class and per-class regression)."""

MAX_ASPECT = (8, 3)
"""Widest dense view an engine takes by default, as long : short side."""
MIN_SOURCE_PX = 8
"""Shortest side of a decoded image that is accepted: below it there is no picture to enlarge."""
MAX_SOURCE_PX = 2048
"""Longest side of an image, uploaded or rescaled, that an engine takes by default.

A larger one is rescaled on the host. An engine's memory grows with the square: 400 MB at 4096, 100 MB here.
"""
MAX_TAPS = 41
"""Filter taps an axis: bicubic shrinking by up to 10."""


class SpecError(ValueError):
    """A description of a model that cannot be true; the message says what was got and what was expected."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SpecError(message)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How the decoded image becomes the network's input. RGB everywhere; mean and std in grey levels 0-255."""

    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float] = (1.0, 1.0, 1.0)
    filter: Filter = "bicubic"
    exif: Literal["ignore", "apply"] = "ignore"
    long_side_rounding: Literal["nearest", "floor"] = "nearest"
    center_rounding: Literal["floor", "torchvision"] = "floor"

    def __post_init__(self) -> None:
        _require(len(self.mean_rgb) == 3 and len(self.std_rgb) == 3, "mean_rgb and std_rgb need three values each")
        _require(all(s > 0 for s in self.std_rgb), f"std_rgb must be positive, got {self.std_rgb}")
        _one_of("filter", self.filter, get_args(Filter))
        _one_of("exif", self.exif, ("ignore", "apply"))
        _one_of("long_side_rounding", self.long_side_rounding, ("nearest", "floor"))
        _one_of("center_rounding", self.center_rounding, ("floor", "torchvision"))


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One trained network, whatever file it lies in.

    `classes` are WNIDs or names, in the order of the network's outputs; `class_names` optionally says them in words.
    `width` scales the convolutions' channels and `fc_width` is that of the fully connected layers: 1.0 and the
    paper's own make the paper's net. Source of the defaults: VGG sections 2 and 3.

    A net of another's making (export.from_onnx) is called "foreign". Its stride is unknown: stride_px is 1, so that
    any crop_px will do. Some take nothing but crops (`fixed_size`), or few views in a call (`max_views`).
    """

    name: str
    net: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    train_short_px: int | tuple[int, int]
    test_short_px: int = 0  # 0: S, or the mean of the range
    crop_px: int = 224
    stride_px: int = 32
    fixed_size: bool = False  # only views of crop_px x crop_px
    max_views: int = 0  # in one call; 0: any number
    width: float = 1.0
    fc_width: int = 4096
    pool_rounding: PoolRounding = "ceil"
    task: Task = "classify"
    interface: Interface = "views"
    precision: Precision = "fp32"
    outputs: tuple[str, ...] = ("posterior", "posterior_positions", "pixel_sums")
    class_names: tuple[str, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(bool(self.name) and "/" not in self.name, f"a model's name must be a plain word, got {self.name!r}")
        _require(len(self.classes) >= 2, f"a classifier needs two classes at least, got {len(self.classes)}")
        _require(len(set(self.classes)) == len(self.classes), "classes must differ from each other")
        _require(
            len(self.class_names) in (0, len(self.classes)),
            f"{len(self.class_names)} class_names for {len(self.classes)} classes",
        )
        _one_of("pool_rounding", self.pool_rounding, get_args(PoolRounding))
        _one_of("task", self.task, get_args(Task))
        _one_of("interface", self.interface, get_args(Interface))
        _one_of("precision", self.precision, get_args(Precision))
        _require(self.stride_px > 0, f"stride_px must be positive, got {self.stride_px}")
        _require(
            self.crop_px >= self.stride_px and self.crop_px % self.stride_px == 0,
            f"crop_px must be a multiple of stride_px = {self.stride_px}, got {self.crop_px}",
        )
        _require(self.max_views >= 0, f"max_views must not be negative, got {self.max_views}")
        _require(self.width > 0 and self.fc_width > 0, "width and fc_width must be positive")
        low, high = self.train_range_px
        _require(
            self.crop_px <= low <= high,
            f"train_short_px must be at least crop_px = {self.crop_px} and in order, got {self.train_short_px}",
        )
        if self.test_short_px == 0:
            object.__setattr__(self, "test_short_px", (low + high) // 2)
        _require(
            self.test_short_px >= self.crop_px, f"test_short_px {self.test_short_px} is below crop_px {self.crop_px}"
        )

    @property
    def train_range_px(self) -> tuple[int, int]:
        """S as a range: (S, S) where it was fixed."""
        s = self.train_short_px
        return (s, s) if isinstance(s, int) else s

    @property
    def channels(self) -> int:
        """Of the last layer."""
        return {"classify": len(self.classes), "box-scr": 4, "box-pcr": 4 * len(self.classes)}[self.task]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """The spec that `to_json` wrote. Raises SpecError naming what is missing, unknown or untrue."""
        try:
            values = json.loads(text)
            values["preprocessing"] = Preprocessing(**_checked(Preprocessing, values["preprocessing"]))
            return cls(**_checked(cls, values))
        except SpecError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"not a model spec: {error!r}") from error


def placeholder_classes(count: int) -> tuple[str, ...]:
    """Classes of a model whose file names none: `class_0000` ..., taken to be in the order of sorted WNIDs."""
    return tuple(f"class_{number:04d}" for number in range(count))


@dataclass(frozen=True, slots=True)
class Extent:
    """What one dynamic dimension may be: from `min` to `max`, tuned at `opt`."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        _require(0 < self.min <= self.opt <= self.max, f"expected 0 < min <= opt <= max, got {self}")

    def __contains__(self, value: int) -> bool:
        return self.min <= value <= self.max


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """What an engine accepts in one optimisation profile; every dynamic dimension of the graph follows from it.

    Number and size of the views, sides of the rescaled image (or atlas) they are cut from, sides of the image that
    is uploaded, and filter taps a side. A larger source is rescaled on the host and uploaded with identity taps.
    """

    name: str
    views: Extent
    height_px: Extent
    width_px: Extent
    rescaled_px: Extent
    source_px: Extent
    taps: Extent

    def __post_init__(self) -> None:
        for side in (self.height_px, self.width_px):
            _require(
                side.max <= self.rescaled_px.max <= self.source_px.max and self.rescaled_px.min <= side.min,
                f"profile {self.name} contradicts itself: views of up to {side.max} px cannot be cut from images of "
                f"{self.rescaled_px.min} to {self.rescaled_px.max} px, uploaded with up to {self.source_px.max} px",
            )

    def admits(self, view_px: tuple[int, int], rescaled_px: tuple[int, int]) -> bool:
        """Whether a view (height, width) of a rescaled image (height, width) fits."""
        in_view = view_px[0] in self.height_px and view_px[1] in self.width_px
        return in_view and all(side in self.rescaled_px for side in rescaled_px)

    def explain(self) -> str:
        h, w = self.height_px, self.width_px
        return f"{self.name}: views of {h.min}x{w.min} to {h.max}x{w.max} px"


def default_shapes(spec: ModelSpec, largest_short_px: int = 0) -> tuple[ShapeRange, ...]:
    """Ranges for every protocol: crops, and dense views of landscape and portrait images up to MAX_ASPECT.

    A net of fixed size has crops alone. The short side goes up to the largest of the model's own Q sets, or
    `largest_short_px` where that is more.
    """
    if spec.fixed_size:
        return (crops_shape(spec),)
    low, high = spec.train_range_px
    widened = high + (32 * spec.crop_px // 224 if low == high else 0)
    largest = max(512 * spec.crop_px // 224, widened, spec.test_short_px, largest_short_px)
    long = largest * MAX_ASPECT[0] // MAX_ASPECT[1]
    opt = max(spec.test_short_px, spec.crop_px)
    return (
        crops_shape(spec),
        *dense_shapes(spec, Extent(spec.crop_px, opt, largest), Extent(spec.crop_px, min(opt * 4 // 3, long), long)),
    )


def crops_shape(spec: ModelSpec, views: int = 50) -> ShapeRange:
    """The profile of crops: up to `views` of crop_px x crop_px, or as many as the net takes."""
    views = min(views, spec.max_views or views)
    square = Extent(spec.crop_px, spec.crop_px, spec.crop_px)
    return ShapeRange("crops", Extent(1, views, views), square, square, *_image_extents(spec, spec.test_short_px))


def dense_shapes(spec: ModelSpec, short_px: Extent, long_px: Extent) -> tuple[ShapeRange, ShapeRange]:
    """The profiles of a dense view and its mirror, landscape and portrait: far less memory than one square box."""
    views = min(2, spec.max_views or 2)
    pair = Extent(1, views, views)
    image = _image_extents(spec, long_px.opt, long_px.max)
    return (
        ShapeRange("dense landscape", pair, short_px, long_px, *image),
        ShapeRange("dense portrait", pair, long_px, short_px, *image),
    )


def _image_extents(spec: ModelSpec, opt: int, largest: int = 0) -> tuple[Extent, Extent, Extent]:
    """(rescaled_px, source_px, taps) of a profile."""
    side = max(MAX_SOURCE_PX, largest)
    return Extent(spec.crop_px, opt, side), Extent(MIN_SOURCE_PX, 500, side), Extent(1, 7, MAX_TAPS)


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    _require(value in choices, f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def _checked(cls: type[Any], values: Any) -> dict[str, Any]:
    """Keyword arguments for `cls` from parsed JSON: known names only, the required ones present, lists as tuples."""
    _require(isinstance(values, dict), f"{cls.__name__} must be a JSON object, got {type(values).__name__}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    _require(not unknown, f"{cls.__name__} has unknown fields {unknown}: written by a newer version?")
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    missing = sorted(required - set(values))
    _require(not missing, f"{cls.__name__} lacks {missing}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
