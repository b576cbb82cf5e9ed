"""The frozen values that describe a model for life: in the checkpoint, the ONNX metadata and the engine's sidecar.

Nothing here computes; a value checks itself when it is made and goes to JSON and back without loss.
"""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from .errors import Refused

Size = tuple[int, int]
"""(height, width) in pixels."""

Rgb = tuple[int | float, int | float, int | float]
"""A value for red, green and blue. An integer stays one in JSON, so that a spec is written as it was read."""

PoolRounding = Literal["ceil", "floor"]
Filter = Literal["bicubic", "bilinear"]
Exif = Literal["ignore", "apply"]
LongSideRounding = Literal["nearest", "floor"]
CenterRounding = Literal["floor", "torchvision"]
Interface = Literal["views", "images", "nchw"]
Precision = Literal["fp32", "fp16", "int8"]
"""Precision of a graph's layers; int8: quantised by others, as QDQ or in integer operators."""
Task = Literal["classify", "box-scr", "box-pcr", "multibox"]
"""The last layer's answer at each position: scores of the classes, one box, or a box of each class (VGG's appendix A:
single-class and per-class regression); or, at the one position of a crop, boxes with a confidence each (MultiBox)."""


MOST_BYTES, MOST_CLASSES, MOST_LETTERS, NAME_BYTES = 1 << 24, 1_000_000, 10_000, 200
"""The longest JSON of a spec; classes; letters of a class; bytes of a name, which becomes part of a file's name."""
LARGEST_PX, LARGEST_TEST_PX = 1 << 16, 2048
"""Of any length in a spec, so that nothing computed from it overflows; of the scale that every engine is tuned for."""
MOST = {
    **dict.fromkeys(("crop_px", "stride_px", "max_views"), LARGEST_PX),
    **{"test_short_px": LARGEST_TEST_PX, "width": 1000, "fc_width": 1 << 20, "boxes": 10_000},
}
"""The bound of each number. infer/cpp/src/spec.cpp has the same bounds, so that both accept the same specs."""
LARGEST_LEVEL, SMALLEST_STD = 1e6, 1e-6
"""Bounds of a mean, and of what the input is divided by, in grey levels."""
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters but white space, which classes in words may have, and surrogates, which are no text."""


class SpecError(Refused):
    """A description of a model that cannot be true; the message says what was got and what was expected."""


def require(condition: bool, message: str) -> None:
    """Raises SpecError with the message unless the condition holds."""
    if not condition:
        raise SpecError(message)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The way from the decoded image to the network's input. RGB everywhere; mean and std in grey levels 0-255."""

    mean_rgb: Rgb
    std_rgb: Rgb = (1.0, 1.0, 1.0)
    filter: Filter = "bicubic"
    exif: Exif = "ignore"
    long_side_rounding: LongSideRounding = "nearest"
    center_rounding: CenterRounding = "floor"

    def __post_init__(self) -> None:
        for name in ("filter", "exif", "long_side_rounding", "center_rounding"):
            _check_choice(name, getattr(self, name))
        require(len(self.mean_rgb) == 3 and len(self.std_rgb) == 3, "mean_rgb and std_rgb need three values each")
        require(all(s > 0 for s in self.std_rgb), f"std_rgb must be positive, got {self.std_rgb}")
        for name, least in (("mean_rgb", -LARGEST_LEVEL), ("std_rgb", SMALLEST_STD)):
            level = getattr(self, name)
            bounded = all(least <= value <= LARGEST_LEVEL for value in level)
            require(bounded, f"{name} must be between {least:g} and {LARGEST_LEVEL:g} grey levels, got {level}")


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
    width: int | float = 1.0
    fc_width: int = 4096
    pool_rounding: PoolRounding = "ceil"
    task: Task = "classify"
    boxes: int = 0  # that a MultiBox net answers with
    interface: Interface = "views"
    precision: Precision = "fp32"
    outputs: tuple[str, ...] = ("posterior", "posterior_positions", "pixel_sums")
    class_names: tuple[str, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("pool_rounding", "task", "interface", "precision"):
            _check_choice(name, getattr(self, name))
        plain = bool(self.name) and not set("/\t\n\v\f\r") & set(self.name)
        require(plain, f"a model's name must be a plain word, got {reprlib.repr(self.name)}")
        _check_texts("name", (self.name,))
        size = len(self.name.encode())
        require(size <= NAME_BYTES, f"name must have at most {NAME_BYTES} bytes, got {size}")

        count = len(self.classes)
        require(count >= 2, f"a classifier needs two classes at least, got {count}")
        require(count <= MOST_CLASSES, f"classes must be at most {MOST_CLASSES}, got {count}")
        _check_texts("net", (self.net,))
        for name in ("classes", "class_names", "outputs"):
            _check_texts(name, getattr(self, name))
        require(len(set(self.classes)) == count, "classes must differ from each other")
        require(len(self.class_names) in (0, count), f"{len(self.class_names)} class_names for {count} classes")

        require(self.stride_px > 0, f"stride_px must be positive, got {self.stride_px}")
        require(
            self.crop_px >= self.stride_px and self.crop_px % self.stride_px == 0,
            f"crop_px must be a multiple of stride_px = {self.stride_px}, got {self.crop_px}",
        )
        is_multibox = self.task == "multibox"
        expected = "above 0 for multibox" if is_multibox else f"0 for {self.task}"
        require((self.boxes > 0) == is_multibox and self.boxes >= 0, f"boxes must be {expected}, got {self.boxes}")
        require(self.fixed_size or not is_multibox, "fixed_size must be true for multibox, got false")
        require(self.max_views >= 0, f"max_views must not be negative, got {self.max_views}")
        require(self.width > 0 and self.fc_width > 0, "width and fc_width must be positive")

        low, high = self.train_range_px
        require(
            self.crop_px <= low <= high <= LARGEST_PX,
            f"train_short_px must be at least crop_px = {self.crop_px} and in order, got {self.train_short_px}"
            + (f", at most {LARGEST_PX}" if high > LARGEST_PX else ""),
        )
        if self.test_short_px == 0:
            object.__setattr__(self, "test_short_px", (low + high) // 2)  # the one way into a frozen value
        require(
            self.test_short_px >= self.crop_px, f"test_short_px {self.test_short_px} is below crop_px {self.crop_px}"
        )
        for name, most in MOST.items():
            require(getattr(self, name) <= most, f"{name} must be at most {most}, got {getattr(self, name)}")

    @property
    def train_range_px(self) -> tuple[int, int]:
        """S as a range: (S, S) where it was fixed."""
        s = self.train_short_px
        return (s, s) if isinstance(s, int) else s

    @property
    def channels(self) -> int:
        """Channels of the last layer."""
        of_task = {"classify": len(self.classes), "box-scr": 4, "box-pcr": 4 * len(self.classes)}
        return of_task.get(self.task, 5 * self.boxes)

    def with_exif(self, exif: Exif | None) -> ModelSpec:
        """The same network, for images that are turned as their camera noted, or are not; None: as it is."""
        changed = self.preprocessing if exif is None else replace(self.preprocessing, exif=exif)
        return replace(self, preprocessing=changed)

    def to_json(self) -> str:
        values = dataclasses.asdict(self)
        if not self.boxes:  # as specs were before there was such a net
            del values["boxes"]
        return json.dumps(values, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> ModelSpec:
        """The spec that `to_json` wrote. Raises SpecError naming what is missing, unknown, untrue or beyond bounds."""
        try:
            require(len(text) <= MOST_BYTES, f"not a model spec: {len(text)} letters, expected at most {MOST_BYTES}")
            values = msgspec.json.decode(text, type=dict[str, Any])
            _check_fields(cls, values)
            _check_fields(Preprocessing, values.get("preprocessing"))
            return msgspec.convert(values, cls)
        except (msgspec.MsgspecError, TypeError, UnicodeEncodeError, RecursionError) as error:
            raise SpecError(f"not a model spec: {error}") from None


def placeholder_classes(count: int) -> tuple[str, ...]:
    """Classes of a model whose file names none: `class_0000` ..., taken to be in the order of sorted WNIDs."""
    return tuple(f"class_{number:04d}" for number in range(count))


CHOICES = {
    name: get_args(kind)
    for cls in (Preprocessing, ModelSpec)
    for name, kind in get_type_hints(cls).items()
    if get_origin(kind) is Literal
}
"""Fields of one of a few words."""


def _check_choice(name: str, value: object) -> None:
    known = isinstance(value, str) and value in CHOICES[name]
    require(known, f"{name} must be one of {', '.join(CHOICES[name])}, got {reprlib.repr(value)}")


def _check_texts(name: str, texts: Sequence[str]) -> None:
    """Refuses a text of a field that is too long, or that holds what no name does."""
    if not CONTROL.search("".join(texts)) and max(map(len, texts), default=0) <= MOST_LETTERS:
        return
    for place, text in enumerate(texts):
        field_name = name if name in ("name", "net") else f"{name}[{place}]"
        require(len(text) <= MOST_LETTERS, f"{field_name} has {len(text)} letters, expected at most {MOST_LETTERS}")
        plain = CONTROL.search(text) is None
        require(plain, f"{field_name} is {reprlib.repr(text)}, expected text without control characters")


def _check_fields(cls: type[Any], values: Any) -> None:
    """Refuses what msgspec lets pass, unknown fields, and what it refuses without naming the choices."""
    if not isinstance(values, dict):
        return
    unknown = sorted(values.keys() - {field.name for field in dataclasses.fields(cls)})
    said = reprlib.repr(unknown)
    require(not unknown, f"{cls.__name__} has unknown fields {said}: written by a newer version?")
    for name in CHOICES.keys() & values.keys():
        _check_choice(name, values[name])
