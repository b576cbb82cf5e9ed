"""Training crops: a region of the image, perhaps mirrored, its colours distorted; a function of the image and one rng.

VGG (section 3.1) takes a crop anywhere in the image rescaled to S, and AlexNet's shift of the colours; GoogLeNet
(section 6) a region of 8 to 100 % of the area, Howard's photometric distortions and a random interpolation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from infer.pixels.decode import Pixels
from infer.pixels.render import FILTERS
from infer.spec import Filter, ModelSpec, Size, SpecError
from infer.views import rescaled_px

from ..recipe import Crop, Interpolation, Phase, Recipe

Triple = tuple[float, float, float]
Matrix = tuple[Triple, ...]
TRIES = 10
"""Draws of a region of random area and shape until one fits into the image; then it is the largest centred one of an
allowed shape."""
RANDOM_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BOX, Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
"""Bilinear, area, nearest and cubic, each as likely (GoogLeNet section 6)."""
DISTORTIONS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
STRENGTH = (0.5, 1.5)
"""Howard's factors of brightness, contrast and saturation, in random order (arXiv 1312.5402, section 2)."""


@dataclass(frozen=True, slots=True)
class ColorAxes:
    """Principal components of the training set's colours, RGB in 0..1: eigenvectors are the columns of a matrix."""

    eigenvalues: tuple[float, float, float]
    eigenvectors: Matrix


IMAGENET_COLORS = ColorAxes(
    (0.2175, 0.0188, 0.0045),
    ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)),
)
"""As published with fb.resnet.torch."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The region that a crop shows of an image of `image_px` (height, width), in its pixels and parts of them."""

    image_px: Size
    left: float
    top: float
    right: float
    bottom: float
    filter: Image.Resampling
    mirrored: bool


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The settings of a Recipe that make crops, by their names there. `filter`: for a fixed interpolation."""

    crop_px: int
    short_px: tuple[int, int]
    mirror: bool
    color_sigma: float
    filter: Filter
    colors: ColorAxes = IMAGENET_COLORS
    crop: Crop = "scale"
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Interpolation = "fixed"
    photometric: bool = False

    def place(self, image_px: Size, rng: Generator) -> Placement:
        """A place for the crop of an image of (height, width); half are mirrored."""
        edges = self._draw_at_scale(image_px, rng) if self.crop == "scale" else self._draw_by_area(image_px, rng)
        filter = FILTERS[self.filter] if self.interpolation == "fixed" else RANDOM_FILTERS[rng.integers(4)]
        return Placement(image_px, *edges, filter=filter, mirrored=self.mirror and rng.random() < 0.5)

    def cut(self, image: Pixels, at: Placement, rng: Generator) -> tuple[Pixels, NDArray[np.float32]]:
        """A u8 crop [crop_px, crop_px, 3] and the colour shift [3] in grey levels that is to be added to it.

        Only the crop's own pixels are resampled: Pillow's box gives what cropping the whole rescaled image would.
        """
        # Rounding may put an edge a hair beyond the image, which Pillow refuses.
        box = (at.left, at.top, min(at.right, at.image_px[1]), min(at.bottom, at.image_px[0]))
        crop = Image.fromarray(image).resize((self.crop_px,) * 2, at.filter, box)
        return self.colour(np.asarray(crop), rng, mirrored=at.mirrored)

    def colour(self, pixels: Pixels, rng: Generator, *, mirrored: bool) -> tuple[Pixels, NDArray[np.float32]]:
        """A crop u8 [crop_px, crop_px, 3] with its colours distorted, perhaps mirrored, and its colour shift [3]."""
        if self.photometric:
            crop = Image.fromarray(pixels)
            for number in rng.permutation(len(DISTORTIONS)):
                crop = DISTORTIONS[number](crop).enhance(rng.uniform(*STRENGTH))
            pixels = np.asarray(crop)
        if mirrored:
            pixels = pixels[:, ::-1]

        # AlexNet section 4.1: a random share of each principal component, times its eigenvalue.
        amounts = rng.normal(0, 1, 3) * self.color_sigma * (np.array(self.colors.eigenvalues) * 255)
        shift = np.array(self.colors.eigenvectors) @ amounts
        return pixels.copy(), shift.astype(np.float32)

    def __call__(self, image: Pixels, rng: Generator) -> tuple[Pixels, NDArray[np.float32]]:
        """A crop and its colour shift, at a random place."""
        return self.cut(image, self.place((image.shape[0], image.shape[1]), rng), rng)

    def _draw_at_scale(self, image_px: Size, rng: Generator) -> tuple[float, float, float, float]:
        """The edges of a crop anywhere in the image rescaled to S, uniform in `short_px` (VGG section 3.1)."""
        short = int(rng.integers(self.short_px[0], self.short_px[1] + 1))
        height, width = rescaled_px(image_px, short, "nearest")
        top = int(rng.integers(0, height - self.crop_px + 1))
        left = int(rng.integers(0, width - self.crop_px + 1))
        scale_y, scale_x = image_px[0] / height, image_px[1] / width
        return left * scale_x, top * scale_y, (left + self.crop_px) * scale_x, (top + self.crop_px) * scale_y

    def _draw_by_area(self, image_px: Size, rng: Generator) -> tuple[float, float, float, float]:
        """The edges of a region with a share of the area uniform in `area` and a shape log-uniform in `aspect`.

        A shape and its transpose are as likely (GoogLeNet section 6).
        """
        height, width = image_px
        low, high = self.aspect
        for _ in range(TRIES):
            region = rng.uniform(*self.area) * height * width
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            across, down = round(math.sqrt(region * ratio)), round(math.sqrt(region / ratio))
            if 0 < across <= width and 0 < down <= height:
                left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
                return left, top, left + across, top + down

        across, down = min(width, max(1, round(height * high))), min(height, max(1, round(width / low)))
        return (width - across) / 2, (height - down) / 2, (width + across) / 2, (height + down) / 2


class _Measured(msgspec.Struct):
    """What is needed of the colours that a spec's training set has (colours.Statistics)."""

    eigenvalues: Triple
    eigenvectors: tuple[Triple, Triple, Triple]


def augmentation_from_recipe(recipe: Recipe, phase: Phase, spec: ModelSpec) -> Augmentation:
    """The crops of a recipe's phase; their colours shift as the spec's training set was measured, if it was.

    Raises SpecError where what the spec says of that cannot be read.
    """
    colors = IMAGENET_COLORS
    try:
        measured = msgspec.json.decode(spec.source.get("colors", "null"), type=_Measured | None)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise SpecError(f"{spec.name}: source.colors are no statistics ({error})") from None
    if measured is not None:
        colors = ColorAxes(measured.eigenvalues, measured.eigenvectors)

    return Augmentation(
        crop_px=recipe.crop_px,
        short_px=phase.short_px,
        mirror=recipe.mirror,
        color_sigma=recipe.color_sigma,
        filter=spec.preprocessing.filter,
        colors=colors,
        crop=recipe.crop,
        area=recipe.area,
        aspect=recipe.aspect,
        interpolation=recipe.interpolation,
        photometric=recipe.photometric,
    )
