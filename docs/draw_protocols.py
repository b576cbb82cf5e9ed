"""Draws what each protocol looks at, from the real view plans: docs/pictures/PROTOCOL.png.

    python docs/draw_protocols.py [FOLDER]

Every panel is the photograph rescaled to one Q (scikit-image's `coffee`, 400x600 px, CC0), all at one common scale.
The lighter, the more views look there. Yellow: crops, one of them thick, and a dot in the middle of each; blue: dense
views and resized squares. Mirrored views lie on the plain ones. The plan that was drawn is written into the picture,
where a test finds it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin
from skimage import data

from infer.pixels.render import rescale
from infer.spec import ModelSpec, Preprocessing
from infer.views import PROTOCOLS, View, plan_views

DRAWN = 0.5  # pixels in the picture for one of the rescaled image
GAP = 12
CROP, WHOLE = (255, 205, 60), (90, 200, 255)


def spec_of(protocol: str) -> ModelSpec:
    """VGG-D trained at S in [256, 512]; GoogLeNet for its own protocol."""
    net, train = ("googlenet", 256) if protocol == "googlenet-144" else ("D", (256, 512))
    classes = tuple(f"class_{number:04d}" for number in range(1000))
    return ModelSpec(net.lower(), net, classes, Preprocessing((123.68, 116.779, 103.939)), train)


def draw(protocol: str, photograph: NDArray[np.uint8]) -> tuple[Image.Image, list[View]]:
    """The panels of one protocol, side by side, and the views they show."""
    spec = spec_of(protocol)
    views = list(plan_views(spec, protocol, (photograph.shape[0], photograph.shape[1])).views)
    scales = sorted({view.short_side_px for view in views})
    panels = [panel(rescale(photograph, q, spec), [view for view in views if view.short_side_px == q]) for q in scales]
    width = sum(each.width + GAP for each in panels) - GAP
    picture = Image.new("RGB", (width, max(each.height for each in panels)), "white")
    left = 0
    for each in panels:
        picture.paste(each, (left, picture.height - each.height))
        left += each.width + GAP
    return picture.quantize(128, dither=Image.Dither.NONE), views


def panel(image: NDArray[np.uint8], views: list[View]) -> Image.Image:
    """The image, darker where fewer views look, with the outlines and middles of the views."""
    seen = np.zeros(image.shape[:2])
    for view in views:
        top, left, height, width = view.box
        seen[top : top + height, left : left + width] += 1
    light = np.where(seen > 0, 0.45 + 0.55 * seen / seen.max(), 0.12)
    shaded = Image.fromarray((image * light[..., None]).astype(np.uint8))
    size = (round(shaded.width * DRAWN), round(shaded.height * DRAWN))
    drawn = shaded.resize(size, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(drawn, "RGBA")
    boxes = {}  # of each kind, in the order of the plan
    for view in views:
        whole = view.resize_px is not None or view.box[2:] == image.shape[:2]
        boxes.setdefault(WHOLE if whole else CROP, {})[tuple(round(value * DRAWN) for value in view.box)] = None
    for colour, own in boxes.items():
        for number, (top, left, height, width) in enumerate(own):
            first = number == 0  # thick, so that the size of one is seen
            outline = (left, top, left + width - 1, top + height - 1)
            pen.rectangle(outline, outline=(*colour, 255 if first else 90), width=3 if first else 1)
            middle = (left + width // 2, top + height // 2)
            pen.ellipse((middle[0] - 2, middle[1] - 2, middle[0] + 2, middle[1] + 2), fill=colour)
    return drawn


def plan_text(views: list[View]) -> str:
    """Every view and how often it is drawn, as JSON."""
    counted = Counter((view.short_side_px, view.box, view.resize_px or 0, view.mirrored) for view in views)
    return json.dumps(sorted([*key, count] for key, count in counted.items()))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for protocol in PROTOCOLS:
        picture, views = draw(protocol, data.coffee())
        text = PngImagePlugin.PngInfo()
        text.add_text("views", plan_text(views), zip=True)
        picture.save(folder / f"{protocol}.png", optimize=True, pnginfo=text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "pictures")
