"""TensorRT and TensorRT-RTX, and all in which they differ, in one table: for those who build plans and who run them.

TensorRT from 10.9 to 11 and TensorRT-RTX from 1.7 have the same Python module but for what the table says; that the
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
    """

    name: LibraryName
    module: str
    oldest: tuple[int, int]
    install: str
    tool: str  # runs a plan; comes with the SDK, not with the wheel
    builds_for_other_gpus: bool  # config.set_compute_capability; otherwise the plan is for the GPU present
    times_kernels: bool  # on the GPU, so that a timing cache holds something
    just_in_time: bool  # compiles kernels on the GPU when a plan runs, which a runtime cache can keep
    refuses: Mapping[str, str]  # options of a build (export.tensorrt.library.BuildOptions): why, what to do instead


LIBRARIES: dict[str, Library] = {
    "tensorrt": Library(
        name="tensorrt",
        module="tensorrt",
        oldest=(10, 9),
        install="pip install tensorrt",
        tool="trtexec",
        builds_for_other_gpus=False,
        times_kernels=True,
        just_in_time=False,
        refuses={},
    ),
    "tensorrt-rtx": Library(
        name="tensorrt-rtx",
        module="tensorrt_rtx",
        oldest=(1, 7),
        install="pip install tensorrt-rtx",
        tool="tensorrt_rtx",
        builds_for_other_gpus=True,
        times_kernels=False,
        just_in_time=True,
        refuses={  # measured with 1.7.1: docs/engines.md
            "optimization_level": "makes the same plan at every level: leave it out",
            "version_compatible": "comes without the lean runtime that such a plan carries: build again for each "
            "version, or use --builder tensorrt",
            "hardware_compatible": "takes GPUs by name instead: use --target sm80 sm86 sm89 sm120",
        },
    ),
}
"""By the name that a sidecar gives as the builder, in the order of preference of `--builder auto`."""
