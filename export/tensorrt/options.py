"""Options of a build that a library may have or lack: what they are called, which library refuses which, what they set.

TensorRT has them all (written from its documentation, not run here); trt_library.LIBRARIES says what TensorRT-RTX
refuses. Nothing is left out without a word: an option acts, is refused, or (a timing cache where no kernel is timed) is
said to do nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .library import BuildError, Library, OptionError

HardwareCompatibility = Literal["ampere+", "same-compute-capability"]
HARDWARE: dict[HardwareCompatibility, str] = {
    "ampere+": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}
"""GPUs that a plan runs on beside the one it was built on, by TensorRT's names."""

LEVELS = range(6)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """None and False stand for the library's own default."""

    workspace_mb: int | None = None  # memory that a kernel may need while it runs
    optimization_level: int | None = None  # of LEVELS: how long the builder searches for faster kernels
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: HardwareCompatibility | None = None

    def as_json(self) -> dict[str, Any]:
        """What the sidecar says."""
        values = dataclasses.asdict(self)
        return {**values, "timing_cache": self.timing_cache and str(self.timing_cache)}


def flag(name: str) -> str:
    """The option of the command line that sets a field of BuildOptions."""
    return "--" + {"workspace_mb": "workspace"}.get(name, name).replace("_", "-")


def check_options(library: Library, options: BuildOptions) -> tuple[BuildOptions, list[str]]:
    """(the options that act, what to say of the others). Raises OptionError for one that the library lacks."""
    for name, reason in library.refuses.items():
        if getattr(options, name) is not None and getattr(options, name) is not False:  # level 0 is a level
            raise OptionError(f"{flag(name)}: {library.name} {reason}")
    if options.timing_cache is not None and not library.times_kernels:
        said = f"{flag('timing_cache')} {options.timing_cache}: {library.name} times no kernels, so it is not written"
        return dataclasses.replace(options, timing_cache=None), [said]
    return options, []


def apply(trt: Any, config: Any, options: BuildOptions) -> Any:
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
    if options.timing_cache is None:
        return None
    path = options.timing_cache
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise BuildError(f"{path}: not a timing cache of this version and this GPU: remove it, or name another file")
    return cache
