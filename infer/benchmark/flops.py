"""Floating-point operations of our nets' convolutions, two for each multiply-add, for views of any size.

They follow from the spec, which every engine carries: a plan does not show its layers, and reading a graph would take
the onnx library. Pooling, LRN and rescaling are not counted. Tests compare with the exported graphs.
"""

from __future__ import annotations

from ..spec import ModelSpec, Size
from ..views import ViewPlan

VGG_CHANNELS = (64, 128, 256, 512, 512)
VGG_KERNELS: dict[str, tuple[tuple[int, ...], ...]] = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "A-LRN": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
"""Sides of the kernels in each of the five blocks (arXiv 1409.1556, Table 1)."""

GOOGLENET_STEM = (64, 64, 192)  # 7x7/2, 1x1, 3x3
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection (arXiv 1409.4842, Table 1)."""
LARGE_KERNEL = {"googlenet": 5, "googlenet-tv": 3}
"""Side of the 5x5 kernels: torchvision's are 3x3."""


def plan_flops(spec: ModelSpec, plan: ViewPlan) -> int | None:
    """Operations of all views of an image; None for a net that is not ours."""
    if spec.net not in (*VGG_KERNELS, *LARGE_KERNEL):
        return None
    count = _vgg if spec.net in VGG_KERNELS else _googlenet
    return sum(2 * count(spec, view.size_px) for view in plan.views)


def _scaled(channels: int, spec: ModelSpec) -> int:
    return max(1, round(channels * spec.width))


def _vgg(spec: ModelSpec, size_px: Size) -> int:
    """Multiply-adds of one view."""
    (height, width), channels, total = size_px, 3, 0
    for paper, kernels in zip(VGG_CHANNELS, VGG_KERNELS[spec.net], strict=True):
        for kernel in kernels:
            total += height * width * channels * _scaled(paper, spec) * kernel**2
            channels = _scaled(paper, spec)
        up = spec.pool_rounding == "ceil"
        height, width = (height + up) // 2, (width + up) // 2
    kernel, fc = spec.crop_px // 32, spec.fc_width
    positions = (height - kernel + 1) * (width - kernel + 1)
    return total + positions * (channels * fc * kernel**2 + fc * fc + fc * len(spec.classes))


def _googlenet(spec: ModelSpec, size_px: Size) -> int:
    """Multiply-adds of one view. A 3x3 pool at stride 2 that rounds up halves, rounding down."""
    height, width = (size_px[0] + 1) // 2, (size_px[1] + 1) // 2
    conv1, reduce, channels = (_scaled(paper, spec) for paper in GOOGLENET_STEM)
    total = height * width * 3 * conv1 * 7**2

    height, width = height // 2, width // 2
    total += height * width * (conv1 * reduce + reduce * channels * 3**2)

    height, width = height // 2, width // 2
    for name, row in INCEPTION.items():
        if name in ("4a", "5a"):
            up = name == "5a" and spec.net == "googlenet-tv"  # whose last pool is 2x2
            height, width = (height + up) // 2, (width + up) // 2
        one, reduce3, three, reduce5, five, projection = (_scaled(paper, spec) for paper in row)
        total += height * width * channels * (one + reduce3 + reduce5 + projection)
        total += height * width * (reduce3 * three * 3**2 + reduce5 * five * LARGE_KERNEL[spec.net] ** 2)
        channels = one + three + five + projection

    pool = spec.crop_px // 32
    return total + (height - pool + 1) * (width - pool + 1) * channels * len(spec.classes)
