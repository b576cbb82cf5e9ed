"""The frozen values that describe a model for life: in the checkpoint, the ONNX metadata and the engine's sidecar.

Nothing here computes; a value checks itself when it is made and goes to JSON and back without loss.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .errors import Refused

PoolRounding = Literal["ceil", "floor"]
Filter = Literal["bicubic", "bilinear"]
Interface = Literal["views", "images", "nchw"]
Precision = Literal["fp32", "fp16"]
Task = Literal["classify", "box-scr", "box-pcr"]
"""What the last layer says at each position: scores of the classes, one box, or a box of each class (VGG's appendix A:
single-class and per-class regression)."""


class SpecError(Refused):
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


Size = tuple[int, int]
"""(height, width) in pixels."""
