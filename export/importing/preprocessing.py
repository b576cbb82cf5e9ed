"""The preprocessing of an imported model: what its source or the command line says, and a line that tells which.

A weights file does not say how its images were prepared, and a wrong mean gives wrong answers without an error. So each
value has its origin, and is printed with it.

People write a mean of grey levels from 0 to 255 (Caffe's 123.68) or of pixels from 0 to 1 (torchvision's 0.485). Both
are understood by their size; where mean and std contradict each other, or fit both, --scale is asked for.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from infer.command import rgb_argument
from infer.errors import Refused, UsageError
from infer.spec import CenterRounding, Exif, Filter, LongSideRounding, ModelSpec, Preprocessing, Rgb

Channels = Literal["rgb", "bgr"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""torchvision's, of pixels in 0..1."""
UNIT_SCALE = 1 / 255
WIDEST = 300.0
"""The widest range of a net's input that is believed; Caffe's nets have 255, torchvision's 4.5."""
NARROWEST = 0.05


class PreprocessingError(Refused):
    """A preprocessing that can be read in two ways, or that no net is trained with; one line."""


@dataclass(frozen=True, slots=True)
class Known:
    """The preprocessing that a model's source is known for, as it says it itself: `scale` brings grey levels to its
    pixels, of which the mean is subtracted and which are divided by std; `is_grey`: the mean is of grey levels, as
    Caffe's, which scales afterwards. None: it says nothing, so the command line has to."""

    origin: str
    channels: Channels = "rgb"
    filter: Filter = "bilinear"
    mean: Rgb | None = None
    std: Rgb | None = None
    scale: float | None = None
    is_grey: bool = False
    long_side_rounding: LongSideRounding = "floor"
    center_rounding: CenterRounding = "torchvision"
    origins: dict[str, str] = field(default_factory=dict)  # of single values that are from elsewhere


@dataclass(frozen=True, slots=True)
class Chosen:
    """A model's preprocessing, the channel order of its weights, and where each value is from."""

    preprocessing: Preprocessing
    channels: Channels
    origins: dict[str, str]

    def line(self, spec: ModelSpec) -> str:
        """Says all of it in one line, for the user to compare with what the model was trained with."""
        p, origins = self.preprocessing, self.origins
        parts = [
            f"mean {_numbers(p.mean_rgb)} ({origins['mean']}) and std {_numbers(p.std_rgb)} ({origins['std']})",
            f"channels {self.channels} ({origins['channels']})",
            f"crop {spec.crop_px} px of {spec.test_short_px} ({origins['crop']})",
            f"filter {p.filter} ({origins['filter']})",
            f"EXIF rotation: {p.exif} ({origins['exif']})",
        ]
        return f"preprocessing: R,G,B of grey levels 0-255, {', '.join(parts)}"


def add_preprocessing_options(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Adds the options that say a model's preprocessing; `default` is what they are without."""
    add = parser.add_argument
    levels = "of grey levels 0-255 or of pixels 0-1, or imagenet"
    add("--mean", type=levels_argument, metavar="R,G,B", help=f"subtracted; {levels} ({default})")
    add("--std", type=levels_argument, metavar="R,G,B", help=f"what the rest is divided by; {levels} ({default})")
    add("--scale", type=scale_argument, metavar="K", help="grey levels times K are the pixels of mean and std")
    add("--channels", choices=get_args(Channels), help=f"order that the net takes ({default})")
    add("--filter", choices=get_args(Filter), help=f"of rescaling ({default})")
    add("--crop", type=int, default=0, metavar="PX", help=f"side of a crop ({default})")
    add("--exif", choices=get_args(Exif), help="rotation that a camera noted (default: ignore)")


def levels_argument(text: str) -> Rgb | str:
    """`0.485,0.456,0.406`, or `imagenet`, for argparse."""
    return text if text == "imagenet" else rgb_argument(text)


def scale_argument(text: str) -> float:
    """`1/255` or `0.0039`, for argparse."""
    try:
        above, _, below = text.partition("/")
        value = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError, OverflowError):
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0 like 1 or 1/255, got {text!r}")
    return value


def choose(args: argparse.Namespace, known: Known) -> Chosen:
    """Takes what the command line says, or else the model's source. Raises PreprocessingError, UsageError."""
    if args.crop < 0:
        raise UsageError(f"--crop {args.crop}: expected pixels")
    mean = IMAGENET_MEAN if args.mean == "imagenet" else args.mean
    preset = args.mean == "imagenet" and args.std is None and args.scale is None  # both belong together
    std = IMAGENET_STD if preset or args.std == "imagenet" else args.std
    mean_rgb, std_rgb, reading = _grey_levels(mean, std, args.scale, known)

    origins = {name: known.origins.get(name, known.origin) for name in ("mean", "std", "channels", "crop", "filter")}
    origins["exif"] = "default"
    for name in origins:
        if getattr(args, name) not in (None, 0):
            origins[name] = f"--{name}"
    if preset:
        origins["std"] = "--mean imagenet"
    if args.scale is not None and std is None:
        origins["std"] = "--scale"
    for name in ("mean", "std"):
        if origins[name] == f"--{name}" and reading:
            origins[name] += f", {reading}"

    preprocessing = Preprocessing(
        mean_rgb,
        std_rgb,
        args.filter or known.filter,
        args.exif or "ignore",
        known.long_side_rounding,
        known.center_rounding,
    )
    return Chosen(preprocessing, args.channels or known.channels, origins)


def _grey_levels(mean: Rgb | None, std: Rgb | None, scale: float | None, known: Known) -> tuple[Rgb, Rgb, str]:
    """(mean, std, how they were read), of grey levels from 0 to 255."""
    given = mean is not None or std is not None
    is_grey = known.is_grey and mean is None
    full_mean, full_std = mean or known.mean, std or known.std
    missing = [f"--{name}" for name, value in (("mean", full_mean), ("std", full_std)) if value is None]
    if full_mean is None or full_std is None:
        raise UsageError(f"the following arguments are required: {', '.join(missing)}")

    # what its pixels are
    if min(full_std) <= 0:
        return full_mean, full_std, ""  # which no Preprocessing takes
    if scale is None and given:
        scale = _scale_of(full_mean, full_std, std is not None, known)
    scale = known.scale if scale is None else scale
    assert scale is not None
    unit = not is_grey and max(map(abs, full_mean)) <= 255 * scale * (1 + 1e-9)
    mean_rgb = _divided(full_mean, scale) if unit else full_mean
    std_rgb = _divided(full_std, scale)

    # what no net is trained with
    smallest, largest = min(std_rgb), max(std_rgb)
    if smallest > 0 and not (255 / smallest <= WIDEST and 255 / largest >= NARROWEST):
        raise PreprocessingError(
            f"mean {_numbers(full_mean)}, std {_numbers(full_std)} and scale {scale:.6g} would spread grey levels of "
            f"0-255 over {255 / smallest:.4g}, expected {NARROWEST:g} to {WIDEST:g}: say mean and std of the same "
            "pixels (--scale 1: of 0-255, --scale 1/255: of 0-1)"
        )
    return mean_rgb, std_rgb, f"read as of 0-{255 * scale:.4g}" if given else ""


def _scale_of(mean: Rgb, std: Rgb, std_given: bool, known: Known) -> float:
    """The scale of the pixels that these values fit. Raises PreprocessingError where they contradict, or fit both."""
    kinds = {_kind(mean), "either" if set(std) == {1} else _kind(std)} - {"either"}
    if kinds == {"0-255"}:
        return 1.0 if std_given or known.scale is None else known.scale
    if kinds == {"0-1"} and _kind(std) == "0-1" and set(std) != {1}:
        return UNIT_SCALE
    if not kinds and known.is_grey and known.scale is not None:  # Caffe's pixels are grey levels
        return 1.0 if std_given else known.scale

    got = f"mean {_numbers(mean)} and std {_numbers(std)}"
    reason = "one is of pixels 0-255, the other of 0-1" if len(kinds) > 1 else "of pixels 0-255 or of 0-1"
    raise PreprocessingError(
        f"{got} are ambiguous ({reason}): give --mean and --std of the same pixels, and --scale 1 where they are of "
        "0-255, or --scale 1/255 where they are of 0-1"
    )


def _kind(values: Rgb) -> str:
    largest = max(map(abs, values))
    return "either" if largest == 0 else "0-1" if largest <= 1 else "0-255"


def _divided(values: Rgb, scale: float) -> Rgb:
    factor = 255 if math.isclose(scale, UNIT_SCALE) else 1 / scale  # as torchvision's presets are written
    if factor == 1:
        return values
    r, g, b = (factor * value for value in values)
    return r, g, b


def _numbers(values: Rgb) -> str:
    return ",".join(f"{value:.6g}" for value in values)
