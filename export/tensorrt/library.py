"""The libraries that build engines, and all in which they differ, in one table: installs, targets, options.

TensorRT from 10.9 to 11 and TensorRT-RTX have the same Python module but for what the table says; that the names we use
are in each is tested (tests/export/tensorrt/test_library.py). TensorRT itself cannot be installed where this was
written: what the table says of it comes from its documentation and its bindings, and has not run.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from infer.cuda.driver import gpu_present
from infer.errors import Refused, UsageError

BuilderName = Literal["tensorrt", "tensorrt-rtx"]


class BuildError(Refused):
    """An engine that cannot be built; one line: got, expected, do this."""


class OptionError(UsageError):
    """An option of the command line that this library does not have; one line."""


@dataclass(frozen=True, slots=True)
class Library:
    """All in which they differ. Every one gets the strongly typed flag: TensorRT 10 needs it, 11 and RTX take it."""

    name: BuilderName
    module: str
    oldest: tuple[int, int]
    install: str
    tool: str  # runs a plan; comes with the SDK, not with the wheel
    builds_for_other_gpus: bool  # config.set_compute_capability; otherwise the plan is for the GPU present
    times_kernels: bool  # on the GPU, so that a timing cache holds something
    refuses: Mapping[str, str]  # fields of trt_options.BuildOptions that it lacks: why, and what to do instead


LIBRARIES: dict[BuilderName, Library] = {
    "tensorrt": Library(
        name="tensorrt",
        module="tensorrt",
        oldest=(10, 9),
        install="pip install tensorrt",
        tool="trtexec",
        builds_for_other_gpus=False,
        times_kernels=True,
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
        refuses={  # measured with 1.7.1: docs/engines.md
            "optimization_level": "makes the same plan at every level: leave it out",
            "version_compatible": "comes without the lean runtime that such a plan carries: build again for each "
            "version, or use --builder tensorrt",
            "hardware_compatible": "takes GPUs by name instead: use --target sm80 sm86 sm89 sm120",
        },
    ),
}
"""In the order of preference of `auto`."""

DEFAULT_TARGETS = range(75, 121)
"""Compute capabilities that an engine is built for where there is no GPU, as far as the library knows them."""


def choose_library(choice: Literal["auto", "tensorrt", "tensorrt-rtx"]) -> Library:
    """The library asked for, or the first that is installed. Raises BuildError naming the installs."""
    candidates = [library for name, library in LIBRARIES.items() if choice in ("auto", name)]
    for library in candidates:
        try:
            version = str(importlib.import_module(library.module).__version__)
        except ImportError:
            continue
        if tuple(int(part) for part in version.split(".")[:2]) < library.oldest:
            oldest = ".".join(map(str, library.oldest))
            raise BuildError(f"{library.name} {version} is too old, expected {oldest} or newer: {library.install} -U")
        return library
    installs = "  or  ".join(library.install for library in candidates)
    raise BuildError(f"{' and '.join(library.name for library in candidates)} cannot be imported: {installs}")


def choose_targets(library: Library, asked: Sequence[str]) -> tuple[str, ...]:
    """What to build for: the targets asked for, or the GPU present, or (TensorRT-RTX) all of DEFAULT_TARGETS.

    Raises OptionError for a target that is none or that this library cannot build for, BuildError where TensorRT finds
    no GPU or TensorRT-RTX does not know the GPU.
    """
    present = gpu_present()
    if not library.builds_for_other_gpus and asked:
        raise OptionError(
            f"--target: {library.name} tunes kernels on the GPU it builds for and cannot build for another: "
            "leave it out, or use --builder tensorrt-rtx"
        )
    if not library.builds_for_other_gpus:
        if present is None:
            raise BuildError(
                f"{library.name} builds on the GPU that the engine is for, and there is none here: run it there, or "
                "use --builder tensorrt-rtx --target ..."
            )
        return (present,)
    members = importlib.import_module(library.module).ComputeCapability.__members__
    known = sorted((name.lower() for name in members if re.fullmatch(r"SM\d+", name)), key=_capability)
    for target in asked:
        if target not in known:
            raise OptionError(f"--target: {library.name} does not know {target!r}, only {', '.join(known)}")
    if asked or present is None:
        return tuple(t for t in known if (t in asked if asked else _capability(t) in DEFAULT_TARGETS))
    if present not in known:
        raise BuildError(
            f"{library.name} does not run on the {present} GPU here, only on {', '.join(known)}: "
            "use --builder tensorrt, or name other GPUs with --target"
        )
    return (present,)


def _capability(target: str) -> int:
    return int(target.removeprefix("sm"))
