"""The library that builds an engine, the GPUs it builds for, and the options of a build that it has or lacks.

In what the libraries differ says the table infer/tensorrt/library.py. No option is left out without a word: it acts,
is refused, or (a timing cache where no kernel is timed) is said to do nothing. TensorRT has all options; they are
written from its documentation and have not run here.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from infer.cuda.driver import gpu_present
from infer.errors import Refused, UsageError
from infer.tensorrt.library import LIBRARIES, Library

HardwareCompatibility = Literal["ampere+", "same-compute-capability"]
HARDWARE: dict[HardwareCompatibility, str] = {
    "ampere+": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}
"""GPUs that a plan runs on beside the one it was built on, by TensorRT's names."""

LEVELS = range(6)
"""Optimisation levels: how long the builder searches for faster kernels."""

DEFAULT_TARGETS = range(75, 121)
"""Compute capabilities that an engine is built for where there is no GPU, as far as the library knows them."""


class BuildError(Refused):
    """An engine that cannot be built; one line: got, expected, do this."""


class OptionError(UsageError):
    """An option of the command line that this library does not have; one line."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of a build; None and False stand for the library's own default."""

    workspace_mb: int | None = None  # memory that a kernel may need while it runs
    optimization_level: int | None = None  # of LEVELS
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: HardwareCompatibility | None = None

    def as_json(self) -> dict[str, Any]:
        """The entry `options` of a sidecar."""
        values = dataclasses.asdict(self)
        return {**values, "timing_cache": self.timing_cache and str(self.timing_cache)}


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
    """The GPUs to build for: those asked for, or the one present, or (TensorRT-RTX) all of DEFAULT_TARGETS.

    Raises OptionError for a target that is none or that this library cannot build for, BuildError where TensorRT finds
    no GPU or TensorRT-RTX does not know the GPU.
    """
    present = gpu_present()

    # TensorRT builds for the GPU present alone
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

    # TensorRT-RTX builds for every GPU that it knows
    members = importlib.import_module(library.module).ComputeCapability.__members__
    known = sorted((name.lower() for name in members if re.fullmatch(r"SM\d+", name)), key=_capability)
    for target in asked:
        if target not in known:
            raise OptionError(f"--target: {library.name} does not know {target!r}, only {', '.join(known)}")
    if asked:
        return tuple(target for target in known if target in asked)
    if present is None:
        return tuple(target for target in known if _capability(target) in DEFAULT_TARGETS)
    if present not in known:
        raise BuildError(
            f"{library.name} does not run on the {present} GPU here, only on {', '.join(known)}: "
            "use --builder tensorrt, or name other GPUs with --target"
        )
    return (present,)


def check_options(library: Library, options: BuildOptions) -> tuple[BuildOptions, list[str]]:
    """(the options that act, lines about the others). Raises OptionError for one that the library lacks."""
    for name, reason in library.refuses.items():
        if getattr(options, name) is not None and getattr(options, name) is not False:  # level 0 is a level
            raise OptionError(f"{flag(name)}: {library.name} {reason}")

    if options.timing_cache is not None and not library.times_kernels:
        said = f"{flag('timing_cache')} {options.timing_cache}: {library.name} times no kernels, so it is not written"
        return dataclasses.replace(options, timing_cache=None), [said]
    return options, []


def set_options(trt: Any, config: Any, options: BuildOptions) -> Any:
    """Sets the options on a builder's config. Returns the timing cache, to be kept until the build is over, or None.

    Raises BuildError for a timing cache that cannot be used.
    """
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible is not None:
        level = getattr(trt.HardwareCompatibilityLevel, HARDWARE[options.hardware_compatible])
        config.hardware_compatibility_level = level

    path = options.timing_cache
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise BuildError(f"{path}: not a timing cache of this version and this GPU: remove it, or name another file")
    return cache


def flag(name: str) -> str:
    """The option of the command line that sets a field of BuildOptions."""
    return "--" + {"workspace_mb": "workspace"}.get(name, name).replace("_", "-")


def _capability(target: str) -> int:
    return int(target.removeprefix("sm"))
