"""Training crops: scale jitter, random crop, mirror and colour shift, a pure function of the image and one rng."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from infer.image import Pixels
from infer.render import FILTERS
from infer.spec import Filter
from infer.views import rescaled_px

COLOR_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045]) * 255
COLOR_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
"""Principal components of ImageNet's colours in RGB (fb.resnet.torch, for images in 0..1; here in grey levels)."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    crop_px: int
    short_px: tuple[int, int]
    mirror: bool
    color_sigma: float
    filter: Filter

    def __call__(self, image: Pixels, rng: Generator) -> tuple[Pixels, NDArray[np.float32]]:
        """A u8 crop [crop_px, crop_px, 3] and the colour shift [3] in grey levels that is to be added to it.

        The short side becomes S, uniform in `short_px`; the crop lies anywhere; half are mirrored (VGG section 3.1).
        Only the crop's own pixels are resampled: Pillow's box gives what cropping the whole rescaled image would.
        """
        source_h, source_w = image.shape[:2]
        short = int(rng.integers(self.short_px[0], self.short_px[1] + 1))
        height, width = rescaled_px((source_h, source_w), short, "nearest")
        top = int(rng.integers(0, height - self.crop_px + 1))
        left = int(rng.integers(0, width - self.crop_px + 1))
        scale_y, scale_x = source_h / height, source_w / width
        box = (left * scale_x, top * scale_y, (left + self.crop_px) * scale_x, (top + self.crop_px) * scale_y)
        box = (box[0], box[1], min(box[2], source_w), min(box[3], source_h))  # float dust beyond the border
        crop = np.asarray(Image.fromarray(image).resize((self.crop_px,) * 2, FILTERS[self.filter], box))
        if self.mirror and rng.random() < 0.5:
            crop = crop[:, ::-1]
        shift = COLOR_EIGENVECTORS @ (rng.normal(0, 1, 3) * self.color_sigma * COLOR_EIGENVALUES)
        return crop.copy(), shift.astype(np.float32)
