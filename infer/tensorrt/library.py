"""TensorRT and TensorRT-RTX, and all in which they differ, in one table: for those who build plans and who run them.

TensorRT from 10.3 to 11 and TensorRT-RTX from 1.7 have the same Python module but for what the table says; that the
names which our builder uses are in each is tested (tests/export/tensorrt/test_library.py). TensorRT itself cannot be
installed where this was written: what the table says of it comes from its documentation and its bindings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LibraryName = Literal["tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True, slots=True)
class Library:
    """A library that builds and runs plans.

    Every one gets the strongly typed flag: TensorRT 10 needs it, 11 and TensorRT-RTX take it.

    just_in_time: kernels are compiled on the GPU when a plan runs, and a runtime cache can keep them. So a plan is for
    any GPUs, set by config.set_compute_capability, and there are no times of kernels that a timing cache could hold;
    without it the builder times kernels on the GPU present, and the plan is for that one.

    log_is_known: the form of the builder's log has been seen here, so that a kernel of another precision than the
    graph's is believed. The network, which is strongly typed, is the proof with either.
    """

    name: LibraryName
    module: str
    oldest: tuple[int, int]
    tool: str  # runs a plan; comes with the SDK, not with the wheel
    just_in_time: bool
    log_is_known: bool
    refuses: Mapping[str, str]  # options of a build (export.tensorrt.build.BuildOptions): why, what to do instead


LIBRARIES: dict[str, Library] = {
    "tensorrt": Library(
        name="tensorrt",
        module="tensorrt",
        oldest=(10, 3),
        tool="trtexec",
        just_in_time=False,
        log_is_known=False,
        refuses={},
    ),
    "tensorrt-rtx": Library(
        name="tensorrt-rtx",
        module="tensorrt_rtx",
        oldest=(1, 7),
        tool="tensorrt_rtx",
        just_in_time=True,
        log_is_known=True,
        refuses={  # measured with 1.7.1: docs/engines.md
            "optimization_level": "makes the same plan at every level: leave it out",
            "version_compatible": "comes without the lean runtime that such a plan carries: build again for each "
            "version, or use --builder tensorrt",
            "hardware_compatible": "takes GPUs by name instead: use --target sm80 sm86 sm89 sm120",
        },
    ),
}
"""By the name that a sidecar gives as the builder, in the order of preference of `--builder auto`."""
