"""Every net by name, and the one function that builds a net from its spec."""

from __future__ import annotations

from infer.spec import ModelSpec, SpecError

from . import vgg
from .googlenet import GoogLeNet
from .googlenet_tv import GoogLeNetTV
from .vgg import VGG

NETS = (*vgg.TABLE, "googlenet", "googlenet-tv")
Net = VGG | GoogLeNet
"""A net of ours; googlenet-tv is a GoogLeNet, too."""


def build_net(spec: ModelSpec, *, auxiliary_heads: bool = False, batch_norms: bool = False) -> Net:
    """The untrained net of a spec, in train mode. Raises SpecError for a net we do not have.

    auxiliary_heads: GoogLeNet's, which only training needs. batch_norms: those of googlenet-tv, beside its
    convolutions instead of folded into them; the other nets have none.
    """
    if spec.net not in NETS:
        raise SpecError(f"unknown net {spec.net!r}: expected one of {', '.join(NETS)}")

    if spec.net in vgg.TABLE and spec.task != "multibox":
        return VGG(spec)
    if spec.task in ("box-scr", "box-pcr"):
        raise SpecError(f"{spec.task}: boxes are of VGG's nets (appendix A), got {spec.net}")
    if spec.task == "multibox" and spec.net != "googlenet":
        raise SpecError(f"multibox: is of googlenet, got {spec.net}")
    if spec.pool_rounding != "ceil":
        raise SpecError(f"{spec.net}'s pools round up: set pool_rounding to 'ceil'")

    if spec.net == "googlenet":
        return GoogLeNet(spec, auxiliary_heads=auxiliary_heads and spec.task == "classify")
    return GoogLeNetTV(spec, batch_norms=batch_norms)
