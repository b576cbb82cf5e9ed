"""Every net by name, and the one function that builds a net from its spec."""

from __future__ import annotations

from infer.spec import ModelSpec, SpecError

from . import vgg
from .googlenet import GoogLeNet
from .vgg import VGG

NETS = (*vgg.TABLE, "googlenet")
Net = VGG | GoogLeNet

PARAMETERS = {
    "A": 132_863_336,
    "A-LRN": 132_863_336,
    "B": 133_047_848,
    "C": 133_638_952,
    "D": 138_357_544,
    "E": 143_667_240,
    "googlenet": 6_998_552,
}
"""Weights and biases of each net of the papers, computed from their tables."""


def build_net(spec: ModelSpec, *, auxiliary_heads: bool = False) -> Net:
    """The untrained net of a spec, in train mode. Raises SpecError for a net we do not have."""
    if spec.net in vgg.TABLE:
        return VGG(
            spec.net,
            classes=len(spec.classes),
            width=spec.width,
            fc_width=spec.fc_width,
            crop_px=spec.crop_px,
            ceil_pools=spec.pool_rounding == "ceil",
        )
    if spec.net == "googlenet":
        if spec.pool_rounding != "ceil":
            raise SpecError("googlenet's pools round up: set pool_rounding to 'ceil'")
        return GoogLeNet(
            classes=len(spec.classes),
            width=spec.width,
            fc_width=spec.fc_width,
            crop_px=spec.crop_px,
            auxiliary_heads=auxiliary_heads,
        )
    raise SpecError(f"unknown net {spec.net!r}: expected one of {', '.join(NETS)}")


def is_papers_own(spec: ModelSpec) -> bool:
    """Whether the spec is one of the papers' nets at full size, rather than a slim or foreign one."""
    fc_width = 1024 if spec.net == "googlenet" else 4096
    return (spec.net in NETS) and (spec.width, spec.fc_width, spec.crop_px) == (1.0, fc_width, 224)
