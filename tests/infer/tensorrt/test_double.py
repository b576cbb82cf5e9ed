"""The double of TensorRT (fake_tensorrt.py) has no name and no signature that TensorRT lacks."""

from __future__ import annotations

import enum
import inspect
import re
from typing import Any

import fake_tensorrt
import pytest
from engines import TENSORRT_LISTS, frozen_api, frozen_parameters


def classes() -> dict[str, type]:
    """The double's own, but for what is private."""
    own = vars(fake_tensorrt).items()
    return {k: v for k, v in own if isinstance(v, type) and v.__module__ == "fake_tensorrt" and not k.startswith("_")}


def members(owner: type) -> dict[str, Any]:
    """Public methods, properties and values of a class of the double."""
    if issubclass(owner, enum.Enum):
        return dict(owner.__members__)
    kept = {name: value for name, value in vars(owner).items() if not name.startswith("_")}
    attributes = (
        re.findall(r"self\.([a-z]\w*) = ", inspect.getsource(owner.__init__)) if "__init__" in vars(owner) else []
    )
    return kept | {name: None for name in attributes}


RTX_ONLY = {
    *("module.IRuntimeCache", "IRuntimeCache.serialize", "IRuntimeCache.deserialize", "module.CudaGraphStrategy"),
    *("CudaGraphStrategy.DISABLED", "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE", "IRuntimeConfig.cuda_graph_strategy"),
    *(
        f"DynamicShapesKernelSpecializationStrategy.{name}"
        for name in fake_tensorrt.DynamicShapesKernelSpecializationStrategy.__members__
    ),
    *(
        "module.DynamicShapesKernelSpecializationStrategy",
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    ),
    *("IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.set_runtime_cache", "module.IRuntimeConfig"),
    *("IRuntimeConfig.set_execution_context_allocation_strategy", "ICudaEngine.create_runtime_config"),
}
"""What is asked of plans of tensorrt-rtx alone."""


OURS = {"ILogger.started", "IProfiler.started"}


def names() -> set[str]:
    found = {f"module.{name}" for name in (*classes(), "nptype")}
    found |= {f"{name}.{member}" for name, owner in classes().items() for member in members(owner)}
    return found - OURS


@pytest.mark.parametrize("release", TENSORRT_LISTS)
def test_every_name_of_the_double_exists_in_tensorrt(release: str) -> None:
    assert names() - frozen_api(release) <= RTX_ONLY


@pytest.mark.parametrize("release", TENSORRT_LISTS)
def test_every_call_of_the_double_has_the_parameters_of_tensorrt(release: str) -> None:
    """But for those that only TensorRT-RTX has."""
    known, compared = frozen_parameters(release), 0
    for name, owner in classes().items():
        for member, value in members(owner).items():
            if f"{name}.{member}" in known and inspect.isfunction(value):
                overloads = [[word.rstrip("?") for word in one] for one in known[f"{name}.{member}"]]
                assert list(inspect.signature(value).parameters)[1:] in overloads, f"{name}.{member}: {overloads}"
                compared += 1
    assert compared >= 15


def test_every_name_and_signature_of_the_double_is_that_of_tensorrt_rtx() -> None:
    """The real module says its signatures in the first lines of its docstrings."""
    rtx = pytest.importorskip("tensorrt_rtx")
    compared = 0
    for name, owner in classes().items():
        real = getattr(rtx, name)
        for member, value in members(owner).items():
            if f"{name}.{member}" in OURS:
                continue
            assert hasattr(real, member), f"{name}.{member}"
            if not inspect.isfunction(value) or name == "ILogger":
                continue
            said = re.findall(
                rf"^(?:\d+\. )?{member}\(self: [\w.]+(.*)\) -> ", getattr(real, member).__doc__, re.MULTILINE
            )
            parameters = [re.findall(r", (\w+): ", text) for text in said]
            assert list(inspect.signature(value).parameters)[1:] in parameters, f"{name}.{member}: {said}"
            compared += 1
    assert compared >= 17
    assert callable(rtx.nptype) and issubclass(rtx.IRuntimeCache, object)
