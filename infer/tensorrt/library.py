"""TensorRT and TensorRT-RTX, and all in which they differ, in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Library:
    """A library that runs plans. `just_in_time`: it compiles kernels on the GPU, which a runtime cache can keep."""

    module: str
    just_in_time: bool


LIBRARIES = {"tensorrt": Library("tensorrt", False), "tensorrt-rtx": Library("tensorrt_rtx", True)}
"""By the name that export.to_trt writes as the builder. TensorRT from 10.9 on; TensorRT-RTX from 1.7 on."""
